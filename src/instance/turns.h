/* SPDX-License-Identifier: MIT */
/*
 * turns: how many VMMs may start or load at the same time. Each takes a turn before and gives it
 * back when it has started; who finds none free waits. So what many have begun at once takes no
 * longer altogether, and each has a processor while it is its turn.
 *
 * The users that wait are served one after the other, and of each user the sources of what is to be
 * loaded, and of each source the first that came: who asks for a thousand turns at once makes
 * another user wait for one.
 *
 * Any thread. Its lock is taken last. NULL for a `struct turns *`: there is no limit.
 */
#ifndef HYPEFS_INSTANCE_TURNS_H
#define HYPEFS_INSTANCE_TURNS_H

#include <stdbool.h>
#include <sys/types.h>

#include "util/error.h"

enum { TURNS_MAX = 4096 }; /* the most that may be asked for */

struct turns;

/* Twice the processors that this process may run on. */
unsigned turns_default(void);

int turns_create(unsigned max, struct turns **ret, struct error *err);
void turns_destroy(struct turns *turns); /* nobody waits, and no turn is taken */

struct turns_caller {
    /* Is the turn not wanted any more? Asked at once, and after each turns_wake(); with the lock
     * of `turns` held: it must take no other. NULL: it always is. */
    bool (*is_over)(void *context);
    /* Called without any lock if there is none now and the caller is going to wait. May be NULL. */
    void (*queued)(void *context);
    void *context;
    /* For whom, and of what (a uuid): kept while it waits. */
    uid_t user;
    const char *source;
};

/* 0: the caller has a turn; -ECANCELED: it was not wanted any more. */
int turns_acquire(struct turns *turns, const struct turns_caller *caller);
/* A turn, if one is free and nobody waits for it. */
bool turns_try(struct turns *turns);
/* The same for who does not matter as much: of several turns, one stays free for who comes next. */
bool turns_try_spare(struct turns *turns);
void turns_release(struct turns *turns);

/* What some is_over() looks at has changed. */
void turns_wake(struct turns *turns);

#endif
