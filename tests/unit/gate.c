/* SPDX-License-Identifier: MIT */
#include "gate.h"

void gate_init(struct gate *gate)
{
    pthread_condattr_t attributes;
    *gate = (struct gate){0};
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&gate->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&gate->lock, NULL);
}

void gate_finish(struct gate *gate)
{
    pthread_cond_destroy(&gate->changed);
    pthread_mutex_destroy(&gate->lock);
}

void gate_post(struct gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    gate->count++;
    pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->lock);
}

bool gate_wait(struct gate *gate, int timeout_ms)
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
