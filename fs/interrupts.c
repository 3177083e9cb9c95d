/* SPDX-License-Identifier: MIT */
#include "fs/interrupts.h"

#include <errno.h>
#include <utlist.h>

#include "fs/handle.h"
#include "util/thread.h"

enum { LOOK_AGAIN_MS = 100 };

/* A write of the same command through the same open file gets the outcome. */
static void end_wait(struct waiters *waiters, struct waiter *waiter)
{
    struct job *job = waiter->job;
    if (job && waiter->handle->place.entry->file->command) {
        job_unref(waiter->handle->retry);
        waiter->handle->retry = job_ref(job);
    }
    waiter_answer(waiters, waiter, -EINTR);
    if (job && job->type->abandon && !waiters_have(waiters, job))
        job->type->abandon(job);
}

/* Returns whether some are still to be looked at again. */
static bool look(struct waiters *waiters)
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
    struct interrupts *interrupts = argument;
    struct waiters *waiters = interrupts->waiters;
    struct objects *objects = waiters->objects;
    objects_lock(objects);
    while (!interrupts->closing) {
        bool again = look(waiters);
        if (objects->deferred) { /* the answers; what is interrupted meanwhile is looked at */
            objects_unlock(objects);
            objects_lock(objects);
            continue;
        }
        if (!again) {
            pthread_cond_wait(&waiters->interrupted, &objects->lock);
            continue;
        }
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += LOOK_AGAIN_MS * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
        pthread_cond_timedwait(&waiters->interrupted, &objects->lock, &until);
    }
    objects_unlock(objects);
    return NULL;
}

int interrupts_open(struct interrupts *interrupts, struct waiters *waiters, struct error *err)
{
    interrupts->waiters = waiters;
    return thread_start(watch_interrupts, interrupts, &interrupts->thread, err);
}

void interrupts_close(struct interrupts *interrupts)
{
    objects_lock(interrupts->waiters->objects);
    interrupts->closing = true;
    pthread_cond_signal(&interrupts->waiters->interrupted);
    objects_unlock(interrupts->waiters->objects);
    pthread_join(interrupts->thread, NULL);
}
