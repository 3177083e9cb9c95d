/* SPDX-License-Identifier: MIT */
/* warm_internal: what warm.c uses of the filler's file, and nobody else may. */
#ifndef HYPEFS_FORK_WARM_INTERNAL_H
#define HYPEFS_FORK_WARM_INTERNAL_H

#include "fork/warm.h"
#include "util/cleanup.h"
#include "util/thread.h"

struct warm_vm {
    struct store_entry entry;
    struct vmm *vmm;
    char image[IMAGE_KEY_SIZE]; /* the memory that it was loaded from */
    struct warm_vm *next;
};

struct warm_source {
    struct snapshot *snapshot; /* a reference */
    unsigned wanted, count;
    struct warm_vm *ready; /* the oldest first */
    unsigned leaving;      /* that are not in `ready` any more, and neither ended nor taken yet */
    bool removing;         /* a thread takes it out of the pool: nothing is begun with it */
    double retry_at_ms;
    int retry_ms; /* 0: nothing went wrong */
    struct warm_source *next;
};

/* warm_filler.c: */
/* Without the lock. */
void warm_tell(const struct warm_pool *pool, const struct snapshot *snapshot);

/* Without the lock. */
void warm_discard(struct warm_vm *vm);
/* With the lock held, which is let go of meanwhile: ends those that warm_drop() put into `list`.
 * Until it returns they count as ready, and the source stays. */
void warm_end_dropped(struct warm_pool *pool, struct warm_source *source, struct warm_vm *list);

bool warm_is_alive(const struct warm_vm *vm);
int warm_image(const struct snapshot *snapshot, char ret[IMAGE_KEY_SIZE], struct error *err);

/* With the lock held. NULL: none are wanted of that snapshot. */
struct warm_source *warm_find(const struct warm_pool *pool, const struct snapshot *snapshot);
/* With the lock held: it is not ready any more, but to be taken or ended. */
void warm_leave(struct warm_source *source, struct warm_vm *vm);
/* With the lock held: all but `keep` go to `list`, for warm_end_dropped(). */
void warm_drop(struct warm_source *source, unsigned keep, struct warm_vm **list);

/* With the lock held, which is let go of meanwhile: returns when nothing of the source is left. */
void warm_remove_source(struct warm_pool *pool, struct warm_source *source);

/* The thread, of the pool. */
void *warm_fill(void *pool);

/* warm.c: how many there are to be of it, as the store says; 0 where it does not. EINVAL, EIO. */
int warm_read_wanted(const struct snapshot *snapshot, unsigned *ret, struct error *err);

#endif
