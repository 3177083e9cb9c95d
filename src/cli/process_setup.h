/* SPDX-License-Identifier: MIT */
/*
 * process_setup: what the daemon's process is like, whatever it was started by. Nothing of it is
 * inherited but what docs/operations.md ("What the daemon inherits") says.
 */
#ifndef HYPEFS_CLI_PROCESS_SETUP_H
#define HYPEFS_CLI_PROCESS_SETUP_H

#include <signal.h>
#include <stdbool.h>

#include "util/error.h"

/*
 * Signals, timers, limits, umask, environment and descriptors get their known values. To be called
 * before any other thread, and any descriptor that is to stay, is there. `ret_ending` are the
 * signals that end the daemon in order: they are blocked, and one thread waits for them.
 */
int process_setup(sigset_t *ret_ending, struct error *err);

/* Becomes that user, with its groups and none of root's rights. EINVAL: nobody has that name. */
int process_setup_become(const char *name, struct error *err);

/* Warns of a limit that this process cannot lift and that will end it or its VMs. */
void process_setup_warn_of_limits(void (*warn)(void *context, const char *text), void *context);

/*
 * Goes on in the background. Returns in the daemon, which has no terminal, with a descriptor: the
 * daemon says there, by process_setup_ready(), that it serves. The process that was started, which
 * the shell waits for, then calls check(argument), and exits with CLI_DONE if that returns true,
 * else (after ending the daemon) with CLI_FAILED.
 */
int process_setup_background(bool (*check)(void *argument), void *argument, struct error *err);

/* Lets go of the terminal, and of the process that waits; `fd` is closed. */
void process_setup_ready(int fd);

#endif
