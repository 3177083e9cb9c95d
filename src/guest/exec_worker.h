/* SPDX-License-Identifier: MIT */
/* exec_worker: the agent's processes that run commands (exec.h), one for each of the mailboxes
 * hypefs.exec, hypefs.exec.2 and so on, so that as many commands can run at the same time. Part of
 * the agent program. */
#ifndef HYPEFS_GUEST_EXEC_WORKER_H
#define HYPEFS_GUEST_EXEC_WORKER_H

#include <stdbool.h>
#include <sys/types.h>

#include "guest/generation.h"

enum { EXEC_WORKERS = 4, EXEC_TOKEN_SIZE = 2 * 16 + 1 };

struct exec_workers {
    const struct generation *generation;
    const char *ack_address; /* NULL: the default gateway */
    pid_t pids[EXEC_WORKERS];
    /* The same for all that arm one mailbox: the page of one that was killed may stay in memory. */
    char tokens[EXEC_WORKERS][EXEC_TOKEN_SIZE];
    bool failed; /* said so: it is tried again, without a word */
};

/* Starts those that do not run, and returns when their mailboxes are armed. Each is named on stdout
 * (a failure, on stderr). 0 or -errno of the first that could not be; the others run. */
int exec_workers_start(struct exec_workers *workers);

/* Ends them, and what they run. */
void exec_workers_stop(struct exec_workers *workers);

/* The names of their mailboxes, "hypefs.exec" first. */
#define EXEC_NAME_SIZE 32
void exec_worker_name(unsigned index, char ret[EXEC_NAME_SIZE]);

#endif
