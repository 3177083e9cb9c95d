/* SPDX-License-Identifier: MIT */
#include "instance/turns.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

/* Who waits, on its own stack. */
struct turn {
    pthread_cond_t changed; /* `granted`, or what is_over() looks at */
    bool granted;
    const struct turns_caller *caller;
    /* When its user, and that user's source, had a turn last: which of those that were granted. Who
     * comes and is not among those that wait may just have had one: it comes after one turn of each
     * that waits. */
    uint64_t user_had, source_had;
    struct turn *prev, *next;
};

struct turns {
    pthread_mutex_t lock;
    unsigned max, taken;
    uint64_t granted;   /* turns, to those that waited */
    struct turn *queue; /* the first that came is the first */
};

unsigned turns_default(void)
{
    cpu_set_t usable;
    int count = sched_getaffinity(0, sizeof usable, &usable) == 0 ? CPU_COUNT(&usable) : 1;
    return 2 * (unsigned)(count > 0 ? count : 1);
}

int turns_create(unsigned max, struct turns **ret, struct error *err)
{
    struct turns *turns = calloc(1, sizeof *turns);
    if (!turns)
        return error_set(err, ENOMEM, "out of memory");
    pthread_mutex_init(&turns->lock, NULL);
    turns->max = max;
    *ret = turns;
    return 0;
}

void turns_destroy(struct turns *turns)
{
    if (!turns)
        return;
    pthread_mutex_destroy(&turns->lock);
    free(turns);
}

/* The rest with the lock held. */

/* `spare` of them stay free. */
static bool take_free(struct turns *turns, unsigned spare)
{
    bool is_free = turns->taken + spare < turns->max && !turns->queue;
    turns->taken += is_free;
    return is_free;
}

static bool has_same_user(const struct turn *turn, const struct turn *other)
{
    return turn->caller->user == other->caller->user;
}

static bool has_same_source(const struct turn *turn, const struct turn *other)
{
    const char *a = turn->caller->source, *b = other->caller->source;
    return has_same_user(turn, other) && (a == b || (a && b && strcmp(a, b) == 0));
}

static void enqueue(struct turns *turns, struct turn *turn)
{
    const struct turn *other, *mine = NULL, *like = NULL;
    DL_FOREACH (turns->queue, other) {
        if (has_same_user(turn, other))
            mine = other;
        if (has_same_source(turn, other))
            like = other;
    }
    turn->user_had = mine ? mine->user_had : turns->granted;
    turn->source_had = like ? like->source_had : turns->granted;
    DL_APPEND(turns->queue, turn);
}

/* Whose turn it is: the one that came first of the source, of the user, that have waited for
 * longest. */
static struct turn *choose(const struct turns *turns)
{
    struct turn *turn, *ret = turns->queue;
    DL_FOREACH (turns->queue, turn)
        if (turn->user_had < ret->user_had ||
            (has_same_user(turn, ret) && turn->source_had < ret->source_had))
            ret = turn;
    return ret;
}

static void grant(struct turns *turns, struct turn *turn)
{
    struct turn *other;
    turns->granted++;
    DL_FOREACH (turns->queue, other) {
        if (has_same_user(turn, other))
            other->user_had = turns->granted;
        if (has_same_source(turn, other))
            other->source_had = turns->granted;
    }
    turn->granted = true;
}

static void dequeue(struct turns *turns, struct turn *turn)
{
    DL_DELETE(turns->queue, turn);
    pthread_cond_signal(&turn->changed);
}

static bool is_over(const struct turns_caller *caller)
{
    return caller->is_over && caller->is_over(caller->context);
}

/* A turn that was granted in the same moment counts: whoever has it notices what is over. */
static int await(struct turns *turns, struct turn *turn, const struct turns_caller *caller)
{
    while (!turn->granted && !is_over(caller))
        pthread_cond_wait(&turn->changed, &turns->lock);
    if (turn->granted)
        return 0;
    dequeue(turns, turn);
    return -ECANCELED;
}

int turns_acquire(struct turns *turns, const struct turns_caller *caller)
{
    struct turn turn = {.changed = PTHREAD_COND_INITIALIZER, .caller = caller};
    if (!turns)
        return 0;
    pthread_mutex_lock(&turns->lock);
    bool taken = take_free(turns, 0);
    if (!taken)
        enqueue(turns, &turn);
    pthread_mutex_unlock(&turns->lock);
    if (taken)
        return 0;
    if (caller->queued)
        caller->queued(caller->context);
    pthread_mutex_lock(&turns->lock);
    int r = await(turns, &turn, caller);
    pthread_mutex_unlock(&turns->lock);
    pthread_cond_destroy(&turn.changed);
    return r;
}

static bool try(struct turns *turns, unsigned spare)
{
    pthread_mutex_lock(&turns->lock);
    bool taken = take_free(turns, spare);
    pthread_mutex_unlock(&turns->lock);
    return taken;
}

bool turns_try(struct turns *turns)
{
    return !turns || try(turns, 0);
}

bool turns_try_spare(struct turns *turns)
{
    return !turns || try(turns, turns->max > 1);
}

/* It passes from hand to hand: nobody who comes now gets it before those that wait. */
void turns_release(struct turns *turns)
{
    if (!turns)
        return;
    pthread_mutex_lock(&turns->lock);
    if (turns->queue) {
        struct turn *next = choose(turns);
        grant(turns, next);
        dequeue(turns, next);
    } else {
        turns->taken--;
    }
    pthread_mutex_unlock(&turns->lock);
}

void turns_wake(struct turns *turns)
{
    struct turn *turn;
    if (!turns)
        return;
    pthread_mutex_lock(&turns->lock);
    DL_FOREACH (turns->queue, turn)
        pthread_cond_signal(&turn->changed);
    pthread_mutex_unlock(&turns->lock);
}
