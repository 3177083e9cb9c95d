/* SPDX-License-Identifier: MIT */
/* thread: work that nobody joins. Who starts it counts it, and waits for the count before the end.
 */
#ifndef HYPEFS_UTIL_THREAD_H
#define HYPEFS_UTIL_THREAD_H

#include "util/error.h"

/* Runs run(argument) in a detached thread. EAGAIN and others of pthread_create. */
int thread_detach(void *(*run)(void *argument), void *argument, struct error *err);

#endif
