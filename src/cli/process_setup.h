/* SPDX-License-Identifier: MIT */
/* process_setup: what the daemon's process is like, before it does anything. */
#ifndef HYPEFS_CLI_PROCESS_SETUP_H
#define HYPEFS_CLI_PROCESS_SETUP_H

#include "util/error.h"

/* What VMMs inherit: no core dumps of guests' memory, files for us alone, none of the descriptors
 * that we were started with. SIGPIPE is an error of write(2) here; children are waited for; the
 * other signals are taken by a thread. */
void process_setup(void);

/* Returns in the child, with the pipe's end; the parent exits with the child's word. */
int process_setup_background(struct error *err);

#endif
