/* SPDX-License-Identifier: MIT */
/* gate: a semaphore that many threads may wait for, with a deadline. */
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
void gate_init(struct gate *gate);
void gate_finish(struct gate *gate);
void gate_post(struct gate *gate);
/* False when it was not posted within that time. */
bool gate_wait(struct gate *gate, int timeout_ms);

#endif
