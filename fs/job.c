/* SPDX-License-Identifier: MIT */
/*
 * job: commands that take long, the requests that wait for them, and signals.
 *
 * A waiting write can be interrupted. The kernel says so once, and not with which signal; so a
 * thread looks at the writer's pending signals, at once and again every 100 ms for as long as they
 * are only such that end no system call's purpose (SIGCHLD of a background job, say). Any other:
 * the write gets EINTR and the job goes on.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <utlist.h>

#include <stdio.h>
#include <stdlib.h>
#include "fs/internal.h"
#include "util/cleanup.h"
#include "util/stack.h"
#include "util/thread.h"

enum { LOOK_AGAIN_MS = 100 };

struct job *job_create(struct fs *fs, struct object *object)
{
    struct job *job = calloc(1, sizeof *job);
    if (job) {
        job->fs = fs;
        job->references = 1;
        job->object = object_ref(object);
    }
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
    fork_request_finish(&job->request);
    free(job->document);
    cJSON_Delete(job->outcome.result);
    object_unref(job->object);
    free(job);
}

/* With the lock held: it gets its answer when the lock is let go. */
static void answer(struct fs *fs, struct waiter *waiter, int result)
{
    DL_DELETE(fs->waiters, waiter);
    waiter->result = result;
    DL_APPEND(fs->answers, waiter);
}

void waiters_answer(struct fs *fs, const struct job *job, int result)
{
    struct waiter *waiter, *next;
    DL_FOREACH_SAFE (fs->waiters, waiter, next)
        if (waiter->job == job && (job || !waiter->handle)) {
            if (job)
                command_ended(waiter->handle, result);
            answer(fs, waiter, result);
        }
}

void readers_answer(struct fs *fs)
{
    struct waiter *waiter, *next;
    DL_FOREACH_SAFE (fs->waiters, waiter, next)
        if (!waiter->job && waiter->handle)
            answer(fs, waiter, 0);
}

static void *job_thread(void *argument)
{
    struct job *job = argument;
    struct fs *fs = job->fs;
    int result = job->run(job);
    stack_wipe(); /* threads' stacks are kept for the next ones */

    fs_lock(fs);
    job->result = result;
    job->done = true;
    job->finish(job);
    waiters_answer(fs, job, job->result);
    fs->commits -= job->limited;
    job_unref(job);
    fs_unlock(fs);

    fs_lock(fs);
    if (--fs->jobs == 0)
        pthread_cond_broadcast(&fs->no_jobs);
    fs_unlock(fs);
    return NULL;
}

int job_start(struct job *job, struct error *err)
{
    struct fs *fs = job->fs;
    int r = 0;
    if (fs->stopping)
        r = error_set(err, ESHUTDOWN, "the daemon is stopping");
    else if (job->limited && fs->commits >= FS_COMMITS_MAX)
        r = error_set(err, EAGAIN, "%d commits are under way: try again later", FS_COMMITS_MAX);
    else
        r = thread_detach(job_thread, job, err);
    if (r < 0) {
        job_unref(job);
        return r;
    }
    fs->jobs++;
    fs->commits += job->limited;
    return 0;
}

static void wait_for(struct fs *fs, struct waiter *waiter)
{
    waiter->interrupted = waiter->interrupted_already(waiter);
    DL_APPEND(fs->waiters, waiter);
    if (waiter->interrupted)
        pthread_cond_signal(&fs->interrupts);
}

void job_wait(struct fs *fs, struct job *job, struct handle *handle, struct waiter *waiter)
{
    waiter->job = job;
    waiter->handle = handle;
    wait_for(fs, waiter);
}

void scan_wait(struct fs *fs, struct waiter *waiter)
{
    waiter->job = NULL;
    waiter->handle = NULL;
    wait_for(fs, waiter);
}

void stream_wait(struct fs *fs, struct handle *handle, struct waiter *waiter)
{
    waiter->job = NULL;
    waiter->handle = handle;
    wait_for(fs, waiter);
}

void fs_interrupt(struct fs *fs, const void *key)
{
    struct waiter *waiter;
    fs_lock(fs);
    DL_FOREACH (fs->waiters, waiter)
        if (waiter->key == key) {
            waiter->interrupted = true;
            pthread_cond_signal(&fs->interrupts);
        }
    fs_unlock(fs);
}

static uint64_t mask_of(const char *status, const char *field)
{
    const char *at = strstr(status, field);
    return at ? strtoull(at + strlen(field), NULL, 16) : 0;
}

/* Is a signal pending that ends what the thread is doing? A thread that is gone waits no more. */
static bool must_return(pid_t tid)
{
    const uint64_t harmless = UINT64_C(1) << (SIGCHLD - 1) | UINT64_C(1) << (SIGCONT - 1) |
                              UINT64_C(1) << (SIGURG - 1) | UINT64_C(1) << (SIGWINCH - 1);
    char path[48], status[4096];
    snprintf(path, sizeof path, "/proc/%d/status", (int)tid);
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd >= 0 ? read(fd, status, sizeof status - 1) : -1;
    if (size <= 0)
        return true;
    status[size] = 0;
    uint64_t pending = mask_of(status, "\nSigPnd:") | mask_of(status, "\nShdPnd:");
    return (pending & ~mask_of(status, "\nSigBlk:") & ~harmless) != 0;
}

bool job_is_awaited(const struct fs *fs, const struct job *job)
{
    const struct waiter *waiter;
    DL_FOREACH (fs->waiters, waiter)
        if (waiter->job == job)
            return true;
    return false;
}

/* The write gets EINTR; a write of the same text through the same open file gets the outcome. What
 * nobody waits for any more, and has not begun to load, is not begun. */
static void give_up(struct fs *fs, struct waiter *waiter)
{
    struct job *job = waiter->job;
    if (job && waiter->handle) {
        job_unref(waiter->handle->retry);
        waiter->handle->retry = job_ref(job);
    }
    answer(fs, waiter, -EINTR);
    if (job && job->queued && !job_is_awaited(fs, job)) {
        atomic_store(&job->abandoned, true);
        loads_wake(fs->setup.instances->setup.loads);
    }
}

/* Returns whether some are still to be looked at again. */
static bool judge(struct fs *fs)
{
    struct waiter *waiter, *next;
    bool again = false;
    DL_FOREACH_SAFE (fs->waiters, waiter, next) {
        if (!waiter->interrupted)
            continue;
        if (must_return(waiter->tid))
            give_up(fs, waiter);
        else
            again = true;
    }
    return again;
}

static void *watch_interrupts(void *argument)
{
    struct fs *fs = argument;
    fs_lock(fs);
    while (!fs->stopped) {
        bool again = judge(fs);
        if (fs->answers) { /* given by the unlocking; what was interrupted meanwhile is looked at */
            fs_unlock(fs);
            fs_lock(fs);
            continue;
        }
        if (!again) {
            pthread_cond_wait(&fs->interrupts, &fs->lock);
            continue;
        }
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += LOOK_AGAIN_MS * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
        pthread_cond_timedwait(&fs->interrupts, &fs->lock, &until);
    }
    fs_unlock(fs);
    return NULL;
}

int jobs_open(struct fs *fs, struct error *err)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&fs->interrupts, &attributes);
    pthread_cond_init(&fs->no_jobs, NULL);
    pthread_condattr_destroy(&attributes);
    return thread_start(watch_interrupts, fs, &fs->interrupt_thread, err);
}

void fs_stop(struct fs *fs)
{
    fs_lock(fs);
    fs->stopping = true;
    eventfd_write(fs->stop_fd, 1);
    fs_unlock(fs);
    instances_stop(fs->setup.instances);
    snapshots_stop(fs->setup.snapshots);
    fs_lock(fs);
    while (fs->jobs > 0)
        pthread_cond_wait(&fs->no_jobs, &fs->lock);
    waiters_answer(fs, NULL, -ESHUTDOWN);
    stream_end(fs);
    fs_unlock(fs);
}

void jobs_close(struct fs *fs)
{
    fs_lock(fs);
    fs->stopped = true;
    pthread_cond_signal(&fs->interrupts);
    fs_unlock(fs);
    pthread_join(fs->interrupt_thread, NULL);
    pthread_cond_destroy(&fs->interrupts);
    pthread_cond_destroy(&fs->no_jobs);
}
