/* SPDX-License-Identifier: MIT */
/*
 * job: a command that takes long, in a thread of its own; the writes that began it or joined it
 * wait (waiter.h). Not what it does: who starts one has a struct that begins with a struct job, and
 * a job_type (commit.c, file_write.c, instance_files.c, snapshot_files.c).
 *
 * Who waits can be interrupted. The kernel says so once, and not with which signal; so a thread
 * checks the pending signals of who waits, at once and again every 100 ms for as long as they are
 * only such that end no system call's purpose (SIGCHLD of a background job, say). Any other: the
 * request gets EINTR, and its job goes on.
 *
 * Lock: objects.lock guards all jobs, but for `error`, which is its thread's until `finish`.
 */
#ifndef HYPEFS_FS_JOB_H
#define HYPEFS_FS_JOB_H

#include "fs/entry.h"
#include "fs/waiter.h"
#include "util/error.h"

enum { JOB_COMMITS_MAX = 1024 };

struct job;

struct job_type {
    int (*run)(struct job *job);      /* without the lock; returns what the writes get */
    void (*finish)(struct job *job);  /* with the lock, before they get it */
    void (*abandon)(struct job *job); /* with the lock: nobody waits for it any more; or NULL */
    void (*destroy)(struct job *job); /* what the rest of its struct owns; or NULL */
    bool commits;                     /* or delivers: it counts for JOB_COMMITS_MAX */
};

/* Those under way. */
struct jobs {
    struct waiters *waiters;
    unsigned count, commits;
    pthread_cond_t idle; /* `count` has become 0 */
    bool stopping;       /* new ones are refused */
    bool closing;
    pthread_t thread; /* for interrupts */
};

struct job {
    const struct job_type *type;
    struct jobs *jobs;
    unsigned references;
    struct place place; /* the file that was written; counts a reference of its object */
    uid_t user;         /* who wrote it, where that counts */
    struct error error;
    bool done;
    int result;
};

int jobs_open(struct jobs *jobs, struct waiters *waiters, struct error *err);
/* When none is under way. */
void jobs_close(struct jobs *jobs);

/* Of a struct of that size, which is zeroed behind the job. NULL without memory. */
void *job_create(struct jobs *jobs, const struct job_type *type, size_t size,
                 const struct place *place);
struct job *job_ref(struct job *job);
void job_unref(struct job *job);
/* Runs it in a thread. EAGAIN, ESHUTDOWN, ENOMEM: and the caller's reference is released. */
int job_start(struct job *job, struct error *err);
/* One that was not started has ended: with the lock held. */
void job_end(struct job *job, int result);

#endif
