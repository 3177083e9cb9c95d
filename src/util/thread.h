/* SPDX-License-Identifier: MIT */
/* thread: how each thread of the daemon is started. ENOMEM where it is the address space that does
 * not suffice; EAGAIN and others of pthread_create. */
#ifndef HYPEFS_UTIL_THREAD_H
#define HYPEFS_UTIL_THREAD_H

#include <pthread.h>

#include "util/error.h"

/* Runs run(argument) in a thread that the caller joins. */
int thread_start(void *(*run)(void *argument), void *argument, pthread_t *ret, struct error *err);

/* In one that nobody joins: who starts it counts it, and waits for the count before the end. */
int thread_detach(void *(*run)(void *argument), void *argument, struct error *err);

#endif
