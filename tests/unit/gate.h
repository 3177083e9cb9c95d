/* SPDX-License-Identifier: MIT */
/* gate: a semaphore that many threads may wait for, with a deadline. Header only. */
#ifndef HYPEFS_TESTS_UNIT_GATE_H
#define HYPEFS_TESTS_UNIT_GATE_H

#include <pthread.h>
#include <stdbool.h>
#include <time.h>

struct gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned count;
};

static inline void gate_init(struct gate *gate)
{
    pthread_condattr_t attributes;
    *gate = (struct gate){0};
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&gate->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&gate->lock, NULL);
}

static inline void gate_finish(struct gate *gate)
{
    pthread_cond_destroy(&gate->changed);
    pthread_mutex_destroy(&gate->lock);
}

static inline void gate_post(struct gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    gate->count++;
    pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->lock);
}

/* False when it was not posted within that time. */
static inline bool gate_wait(struct gate *gate, int timeout_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += timeout_ms % 1000 * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&gate->lock);
    int r = 0;
    while (gate->count == 0 && r == 0)
        r = pthread_cond_timedwait(&gate->changed, &gate->lock, &until);
    bool posted = gate->count > 0;
    if (posted)
        gate->count--;
    pthread_mutex_unlock(&gate->lock);
    return posted;
}

#endif
