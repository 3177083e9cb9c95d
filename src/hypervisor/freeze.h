/* SPDX-License-Identifier: MIT */
/*
 * freeze: keeps a process from running for a moment, without asking it. All its threads are stopped
 * by ptrace(2): no disk is flushed and no clock of a guest stands still, as they do when a VMM
 * pauses its VM; and a system call that a thread is in is begun again, or gets EINTR, which VMMs
 * know from their own signals. Should the daemon die, the kernel lets the threads go.
 *
 * Nothing is kept from one call to the next; any thread, and one at a time for a process.
 */
#ifndef HYPEFS_HYPERVISOR_FREEZE_H
#define HYPEFS_HYPERVISOR_FREEZE_H

#include <sys/types.h>

#include "util/error.h"

enum { FREEZE_THREADS_MAX = 1024 };

/* Calls `work` while the process stands still, by a thread of its own: that is the tracer, and what
 * it traces is let go when it ends, whatever happens. Returns what `work` does; *ret_ms (may be
 * NULL) is for how long threads stood still.
 *
 * Else nothing was done. EAGAIN: they cannot be stopped by then, because one is in the middle of
 * what the kernel does not interrupt; EACCES: the process is another tracer's, or hypefs may not
 * trace it here; ESRCH: it has ended. */
int freeze_run(pid_t pid, double deadline_ms, int (*work)(void *context, struct error *err),
               void *context, double *ret_ms, struct error *err);

#endif
