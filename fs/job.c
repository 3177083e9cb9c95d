/* SPDX-License-Identifier: MIT */
#include "fs/job.h"

#include <errno.h>
#include <stdlib.h>
#include <utlist.h>

#include "fs/handle.h"
#include "util/process.h"
#include "util/thread.h"

enum { CHECK_AGAIN_MS = 100 };

void *job_create(struct jobs *jobs, const struct job_type *type, size_t size,
                 const struct place *place)
{
    struct job *job = calloc(1, size);
    if (!job)
        return NULL;
    *job = (struct job){.type = type, .jobs = jobs, .references = 1, .place = *place};
    object_ref(place->object);
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
    object_unref(job->place.object);
    free(job);
}

void job_end(struct job *job, int result)
{
    job->result = result;
    job->done = true;
    job->type->finish(job);
    waiters_answer(job->jobs->waiters, job, job->result);
}

static void *job_thread(void *argument)
{
    struct job *job = argument;
    struct jobs *jobs = job->jobs;
    struct objects *objects = jobs->waiters->objects;
    int result = job->type->run(job);
    thread_wipe_stack(); /* threads' stacks are kept for the next ones */

    objects_lock(objects);
    job_end(job, result);
    jobs->commits -= job->type->commits;
    job_unref(job);
    objects_unlock(objects);

    objects_lock(objects);
    if (--jobs->count == 0)
        pthread_cond_broadcast(&jobs->idle);
    objects_unlock(objects);
    return NULL;
}

int job_start(struct job *job, struct error *err)
{
    struct jobs *jobs = job->jobs;
    int r = 0;
    if (jobs->stopping)
        r = error_set(err, ESHUTDOWN, "the daemon is stopping");
    else if (job->type->commits && jobs->commits >= JOB_COMMITS_MAX)
        r = error_set(err, EAGAIN, "%d commits and deliveries are under way: try again later",
                      JOB_COMMITS_MAX);
    else
        r = thread_detach(job_thread, job, err);
    if (r < 0) {
        job_unref(job);
        return r;
    }
    job_ref(job); /* with the lock held, which the thread needs for its end */
    jobs->count++;
    jobs->commits += job->type->commits;
    return 0;
}

/* A write of the same command through the same open file gets the outcome. */
static void end_wait(struct waiters *waiters, struct waiter *waiter)
{
    struct job *job = waiter->handle ? (struct job *)waiter->what : NULL;
    if (job && waiter->handle->place.entry->file->command) {
        job_unref(waiter->handle->retry);
        waiter->handle->retry = job_ref(job);
    }
    waiter_answer(waiters, waiter, -EINTR);
    if (job && job->type->abandon && !waiters_have(waiters, job))
        job->type->abandon(job);
}

/* Of all that were interrupted. Are some to be checked again later? */
static bool check_signals(struct waiters *waiters)
{
    struct waiter *waiter, *next;
    bool again = false;
    DL_FOREACH_SAFE (waiters->first, waiter, next) {
        if (!waiter->interrupted)
            continue;
        if (waiter_must_return(waiter->tid))
            end_wait(waiters, waiter);
        else
            again = true;
    }
    return again;
}

static void *watch_interrupts(void *argument)
{
    struct jobs *jobs = argument;
    struct waiters *waiters = jobs->waiters;
    struct objects *objects = waiters->objects;
    objects_lock(objects);
    while (!jobs->closing) {
        bool again = check_signals(waiters);
        if (objects->deferred) { /* the answers; what is interrupted meanwhile is checked */
            objects_unlock(objects);
            objects_lock(objects);
            continue;
        }
        if (!again) {
            pthread_cond_wait(&waiters->interrupted, &objects->lock);
            continue;
        }
        thread_wait_until(&waiters->interrupted, &objects->lock, process_now_ms() + CHECK_AGAIN_MS);
    }
    objects_unlock(objects);
    return NULL;
}

int jobs_open(struct jobs *jobs, struct waiters *waiters, struct error *err)
{
    pthread_cond_init(&jobs->idle, NULL);
    jobs->waiters = waiters;
    return thread_start(watch_interrupts, jobs, &jobs->thread, err);
}

void jobs_close(struct jobs *jobs)
{
    objects_lock(jobs->waiters->objects);
    jobs->closing = true;
    pthread_cond_signal(&jobs->waiters->interrupted);
    objects_unlock(jobs->waiters->objects);
    pthread_join(jobs->thread, NULL);
    pthread_cond_destroy(&jobs->idle);
}
