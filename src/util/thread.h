/* SPDX-License-Identifier: MIT */
/* thread: the daemon's threads. ENOMEM if the address space does not suffice; EAGAIN and others. */
#ifndef HYPEFS_UTIL_THREAD_H
#define HYPEFS_UTIL_THREAD_H

#include <pthread.h>

#include "util/error.h"

/* Runs run(argument) in a thread that the caller joins. */
int thread_start(void *(*run)(void *argument), void *argument, pthread_t *ret, struct error *err);

/* In one that nobody joins: who starts it counts it, and waits for the count before the end. */
int thread_detach(void *(*run)(void *argument), void *argument, struct error *err);

/* As pthread_cond_wait(), but ETIMEDOUT at the deadline (process_now_ms()). */
int thread_wait_until(pthread_cond_t *changed, pthread_mutex_t *lock, double deadline_ms);

/* Zeroes the part of this thread's stack that is free now, as deep as our calls go. After work on a
 * secret: locals are zeroed by who has them, but the compiler, the dynamic linker and signals also
 * save registers there, and a copy of 64 bytes goes through two of them. */
void thread_wipe_stack(void);

/* Locks the mutex until the block ends. */
#define auto_lock(mutex) AUTO_LOCK(mutex, __COUNTER__)
#define AUTO_LOCK(mutex, number) AUTO_LOCK_AS(mutex, number)
#define AUTO_LOCK_AS(mutex, number)                                                                \
    __attribute__((cleanup(thread_unlock), unused)) pthread_mutex_t *locked_##number =             \
        thread_lock(mutex)

static inline pthread_mutex_t *thread_lock(pthread_mutex_t *mutex)
{
    pthread_mutex_lock(mutex);
    return mutex;
}

static inline void thread_unlock(pthread_mutex_t **mutex)
{
    pthread_mutex_unlock(*mutex);
}

#endif
