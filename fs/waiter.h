/* SPDX-License-Identifier: MIT */
/*
 * waiter: a request of the kernel that is answered later: when a job has ended, the index of an
 * image is known or `events` has a line; and what is known of the thread that made it.
 *
 * Lock: objects.lock guards the list and all of a waiter that its caller does not fill in.
 */
#ifndef HYPEFS_FS_WAITER_H
#define HYPEFS_FS_WAITER_H

#include <sys/types.h>

#include "fs/object.h"

enum {
    FS_LATER = 1, /* the answer will come through the waiter */
    FS_MUST_WAIT, /* it could not be had at once, and there is no waiter */
};

struct handle;

/* The caller fills in the group of `done` and owns the memory until `done`. */
struct waiter {
    struct deferred deferred; /* its answer */

    void (*done)(struct waiter *waiter, int result); /* once, without any lock */
    const void *key;                                 /* tells it apart, for fs_interrupt() */
    pid_t tid; /* the thread that waits, whose signals count */
    uid_t uid; /* and its user */
    bool (*interrupted_already)(const struct waiter *waiter);
    bool nonblocking; /* EAGAIN rather than wait for a line of `events`, or for the end of another
                         delivery to the same mailbox */

    bool interrupted;
    int result;
    const void *what;      /* it waits for: a job, the stream, or NULL: an index */
    struct handle *handle; /* that the job was written to; NULL: it waits for no job */
    struct waiter *prev, *next;
};

struct waiters {
    struct objects *objects;
    struct waiter *first;
    pthread_cond_t interrupted; /* one of them is; or whoever waits for that is to end */
};

/* Lets it wait for the end of a job that was written to the handle; without a handle for a line of
 * the stream, or with NULL for the index of some image. */
void waiter_begin(struct waiters *waiters, const void *what, struct handle *handle,
                  struct waiter *waiter);
/* It gets its answer when the lock is released. */
void waiter_answer(struct waiters *waiters, struct waiter *waiter, int result);
/* The same for all that wait for that. */
void waiters_answer(struct waiters *waiters, const void *what, int result);
bool waiters_have(const struct waiters *waiters, const void *what);
/* The kernel says that the thread of that key got a signal. */
void waiters_interrupt(struct waiters *waiters, const void *key);

/* The process of a thread; 0 if that cannot be known. */
pid_t waiter_process(pid_t tid);
/* Did a signal end the thread, which closes what it had open? */
bool waiter_was_killed(pid_t tid);
/* Is a signal pending that ends what the thread is doing? A thread that is gone waits no more. */
bool waiter_must_return(pid_t tid);

#endif
