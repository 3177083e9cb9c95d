/* SPDX-License-Identifier: MIT */
/*
 * loads: how many VMMs may start or load at the same time. Each takes a turn before and gives it
 * back when it has started; who finds none free waits, and is served in the order of arrival. So
 * what many have begun at once takes no longer altogether, and each has a processor while it is its
 * turn.
 *
 * Any thread. Its lock is taken last. NULL for a `struct loads *`: there is no limit.
 */
#ifndef HYPEFS_INSTANCE_LOADS_H
#define HYPEFS_INSTANCE_LOADS_H

#include <stdbool.h>

#include "util/error.h"

enum { LOADS_MAX = 4096 }; /* the most that may be asked for */

struct loads;

/* Twice the processors that this process may run on. */
unsigned loads_default(void);

int loads_create(unsigned max, struct loads **ret, struct error *err);
void loads_destroy(struct loads *loads); /* nobody waits, and no turn is taken */

struct loads_caller {
    /* Is the turn not wanted any more? Asked at once, and after each loads_wake(); with the lock
     * of `loads` held: it must take no other. NULL: it always is. */
    bool (*is_over)(void *context);
    /* Called without any lock if there is none now and the caller is going to wait. May be NULL. */
    void (*queued)(void *context);
    void *context;
};

/* 0: the caller has a turn; -ECANCELED: it was not wanted any more. */
int loads_take(struct loads *loads, const struct loads_caller *caller);
/* A turn, if one is free and nobody waits for it. */
bool loads_try(struct loads *loads);
void loads_give(struct loads *loads);

/* What some is_over() looks at has changed. */
void loads_wake(struct loads *loads);

#endif
