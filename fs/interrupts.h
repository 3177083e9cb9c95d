/* SPDX-License-Identifier: MIT */
/*
 * interrupts: a request that waits can be interrupted. The kernel says so once, and not with which
 * signal; so a thread looks at the pending signals of who waits, at once and again every 100 ms for
 * as long as they are only such that end no system call's purpose (SIGCHLD of a background job,
 * say). Any other: the request gets EINTR, and its job goes on.
 *
 * Lock: objects.lock.
 */
#ifndef HYPEFS_FS_INTERRUPTS_H
#define HYPEFS_FS_INTERRUPTS_H

#include "fs/job.h"

struct interrupts {
    struct waiters *waiters;
    pthread_t thread;
    bool closing;
};

int interrupts_open(struct interrupts *interrupts, struct waiters *waiters, struct error *err);
void interrupts_close(struct interrupts *interrupts);

#endif
