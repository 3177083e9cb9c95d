/* SPDX-License-Identifier: MIT */
#include "fs/job.h"

#include <errno.h>
#include <stdlib.h>

#include "util/stack.h"
#include "util/thread.h"

void jobs_init(struct jobs *jobs, struct waiters *waiters)
{
    pthread_cond_init(&jobs->none, NULL);
    jobs->waiters = waiters;
}

void jobs_finish(struct jobs *jobs)
{
    pthread_cond_destroy(&jobs->none);
}

void jobs_wait(struct jobs *jobs)
{
    while (jobs->count > 0)
        pthread_cond_wait(&jobs->none, &jobs->waiters->objects->lock);
}

void *job_create(struct jobs *jobs, const struct job_type *type, size_t size, struct object *object)
{
    struct job *job = calloc(1, size);
    if (job)
        *job =
            (struct job){.type = type, .jobs = jobs, .references = 1, .object = object_ref(object)};
    return job;
}

struct job *job_ref(struct job *job)
{
    job->references++;
    return job;
}

void job_unref(struct job *job)
{
    if (!job || --job->references > 0)
        return;
    if (job->type->destroy)
        job->type->destroy(job);
    object_unref(job->object);
    free(job);
}

static void *job_thread(void *argument)
{
    struct job *job = argument;
    struct jobs *jobs = job->jobs;
    struct objects *objects = jobs->waiters->objects;
    int result = job->type->run(job);
    stack_wipe(); /* threads' stacks are kept for the next ones */

    objects_lock(objects);
    job->result = result;
    job->done = true;
    job->type->finish(job);
    waiters_answer_job(jobs->waiters, job, job->result);
    jobs->commits -= job->type->commits;
    job_unref(job);
    objects_unlock(objects);

    objects_lock(objects);
    if (--jobs->count == 0)
        pthread_cond_broadcast(&jobs->none);
    objects_unlock(objects);
    return NULL;
}

int job_start(struct job *job, struct error *err)
{
    struct jobs *jobs = job->jobs;
    if (jobs->stopping)
        return error_set(err, ESHUTDOWN, "the daemon is stopping");
    if (job->type->commits && jobs->commits >= JOB_COMMITS_MAX)
        return error_set(err, EAGAIN, "%d commits are under way: try again later", JOB_COMMITS_MAX);
    int r = thread_detach(job_thread, job, err);
    if (r < 0)
        return r;
    job_ref(job); /* with the lock held, which the thread needs for its end */
    jobs->count++;
    jobs->commits += job->type->commits;
    return 0;
}
