/* SPDX-License-Identifier: MIT */
#include "instance/loads.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <utlist.h>

/* Who waits, on its own stack. */
struct turn {
    pthread_cond_t changed; /* `granted`, or what is_over() looks at */
    bool granted;
    struct turn *prev, *next;
};

struct loads {
    pthread_mutex_t lock;
    unsigned max, taken;
    struct turn *queue; /* the first that came is the first */
};

unsigned loads_default(void)
{
    cpu_set_t usable;
    int count = sched_getaffinity(0, sizeof usable, &usable) == 0 ? CPU_COUNT(&usable) : 1;
    return 2 * (unsigned)(count > 0 ? count : 1);
}

int loads_create(unsigned max, struct loads **ret, struct error *err)
{
    struct loads *loads = calloc(1, sizeof *loads);
    if (!loads)
        return error_set(err, ENOMEM, "out of memory");
    pthread_mutex_init(&loads->lock, NULL);
    loads->max = max;
    *ret = loads;
    return 0;
}

void loads_destroy(struct loads *loads)
{
    if (!loads)
        return;
    pthread_mutex_destroy(&loads->lock);
    free(loads);
}

/* The rest with the lock held. */

static bool take_free(struct loads *loads)
{
    bool is_free = loads->taken < loads->max && !loads->queue;
    loads->taken += is_free;
    return is_free;
}

static void leave(struct loads *loads, struct turn *turn)
{
    DL_DELETE(loads->queue, turn);
    pthread_cond_signal(&turn->changed);
}

static bool is_over(const struct loads_caller *caller)
{
    return caller->is_over && caller->is_over(caller->context);
}

/* A turn that was granted in the same moment counts: whoever has it notices what is over. */
static int await(struct loads *loads, struct turn *turn, const struct loads_caller *caller)
{
    while (!turn->granted && !is_over(caller))
        pthread_cond_wait(&turn->changed, &loads->lock);
    if (turn->granted)
        return 0;
    leave(loads, turn);
    return -ECANCELED;
}

int loads_take(struct loads *loads, const struct loads_caller *caller)
{
    struct turn turn = {.changed = PTHREAD_COND_INITIALIZER};
    if (!loads)
        return 0;
    pthread_mutex_lock(&loads->lock);
    bool taken = take_free(loads);
    if (!taken)
        DL_APPEND(loads->queue, &turn);
    pthread_mutex_unlock(&loads->lock);
    if (taken)
        return 0;
    if (caller->queued)
        caller->queued(caller->context);
    pthread_mutex_lock(&loads->lock);
    int r = await(loads, &turn, caller);
    pthread_mutex_unlock(&loads->lock);
    pthread_cond_destroy(&turn.changed);
    return r;
}

bool loads_try(struct loads *loads)
{
    if (!loads)
        return true;
    pthread_mutex_lock(&loads->lock);
    bool taken = take_free(loads);
    pthread_mutex_unlock(&loads->lock);
    return taken;
}

/* It passes from hand to hand: nobody who comes now gets it before those that wait. */
void loads_give(struct loads *loads)
{
    if (!loads)
        return;
    pthread_mutex_lock(&loads->lock);
    if (loads->queue) {
        struct turn *next = loads->queue;
        next->granted = true;
        leave(loads, next);
    } else {
        loads->taken--;
    }
    pthread_mutex_unlock(&loads->lock);
}

void loads_wake(struct loads *loads)
{
    struct turn *turn;
    if (!loads)
        return;
    pthread_mutex_lock(&loads->lock);
    DL_FOREACH (loads->queue, turn)
        pthread_cond_signal(&turn->changed);
    pthread_mutex_unlock(&loads->lock);
}
