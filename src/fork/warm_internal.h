/* SPDX-License-Identifier: MIT */
/* warm_internal: what the files of the pool share, floor by floor, and nobody else may use. */
#ifndef HYPEFS_FORK_WARM_INTERNAL_H
#define HYPEFS_FORK_WARM_INTERNAL_H

#include "fork/demand.h"
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
    struct warm_wish wish;
    struct demand demand;    /* of one that is automatic */
    unsigned wanted;         /* which follows from these */
    unsigned count, loading; /* that are ready; that will be, if all goes well */
    unsigned threads;        /* that load, or have just loaded */
    struct warm_vm *ready;   /* the oldest first */
    unsigned leaving;        /* that are not in `ready` any more, and neither ended nor taken yet */
    bool removing;           /* a thread takes it out of the pool: nothing is begun with it */
    double retry_at_ms;
    int retry_ms; /* 0: nothing went wrong */
    struct warm_source *next;
};

/* ---- warm_load.c: one VM, without the lock ---- */

void warm_tell(const struct warm_pool *pool, const struct snapshot *snapshot);
void warm_discard(struct warm_vm *vm);
bool warm_is_alive(const struct warm_vm *vm);
int warm_image(const struct snapshot *snapshot, char ret[IMAGE_KEY_SIZE], struct error *err);

/* ---- and how it gets into the pool, with the lock held ---- */

/* The filler looks around. */
void warm_wake(struct warm_pool *pool);
/* Nothing more is tried with the source for a while; or at once, after a commit or a write. */
void warm_put_off(struct warm_source *source);
void warm_retry(struct warm_source *source);
/* Has a thread load one more of it. The caller's turn becomes that thread's. */
void warm_begin_load(struct warm_pool *pool, struct warm_source *source);
/* Of those of the source (NULL: of all) that are under way, only so many go on. */
void warm_cancel_loads(struct warm_pool *pool, const struct warm_source *source, unsigned keep);

/* ---- warm_filler.c ---- */

/* With the lock held, which is let go of meanwhile: ends those that warm_drop() put into `list`.
 * Until it returns they count as ready, and the source stays. */
void warm_end_dropped(struct warm_pool *pool, struct warm_source *source, struct warm_vm *list);

/* With the lock held. NULL: none are wanted of that snapshot. */
struct warm_source *warm_find(const struct warm_pool *pool, const struct snapshot *snapshot);
/* With the lock held: how many there are to be now. True: another number than before. */
bool warm_follow(struct warm_source *source);
/* With the lock held: it is not ready any more, but to be taken or ended. */
void warm_leave(struct warm_source *source, struct warm_vm *vm);
/* With the lock held: those that are too many are not loaded any more, or go to `list`, for
 * warm_end_dropped(). */
void warm_shrink(struct warm_pool *pool, struct warm_source *source, struct warm_vm **list);

/* With the lock held, which is let go of meanwhile: returns when nothing of the source is left. */
void warm_remove_source(struct warm_pool *pool, struct warm_source *source);

/* The thread, of the pool. */
void *warm_fill(void *pool);

/* ---- warm.c: what there is to be of it, as the store says; 0 where it does not. EINVAL, EIO ----
 */

int warm_read_wish(const struct snapshot *snapshot, struct warm_wish *ret, struct error *err);

#endif
