/* SPDX-License-Identifier: MIT */
/* hook: runs the agent's hook for one payload, and reaps children. Part of the agent program. */
#ifndef HYPEFS_GUEST_HOOK_H
#define HYPEFS_GUEST_HOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "guest/hypefs-guest.h"

/* The agent's signals: SIGCHLD, SIGTERM and SIGINT are blocked and come through a signalfd. */
struct signals {
    int fd;
    bool stop; /* SIGTERM or SIGINT has come */
};

int signals_open(struct signals *ret);

/* Reads all signals that are there. */
void signals_read(struct signals *signals);

/* Reaps all children that have ended. True if `child` was among them. */
bool signals_reap(pid_t child, int *ret_status);

/* Both. */
void signals_handle(struct signals *signals);

struct hook_result {
    bool applied;
    size_t reply_size;
    char reply[HYPEFS_MAILBOX_REPLY_MAX + 1]; /* what it printed on stdout (output.h) */
    /* Or, if it was not: its last line on stderr, or on stdout if it said nothing there, and what
     * became of it. */
    char reason[HYPEFS_MAILBOX_REASON_MAX + 1];
};

/* Can it be run, as hook_run() looks for it? 0 or -errno. */
int hook_check(const char *program);

/* Runs `program` (looked for in PATH if it has no slash) with the payload on stdin and
 * HYPEFS_MAILBOX=mailbox, and waits until it ends. Its stdout and stderr go to our stdout as they
 * come. A process that it leaves in the background is not waited for. */
void hook_run(const char *program, const char *mailbox, const char *payload, size_t size,
              struct signals *signals, struct hook_result *ret);

#endif
