/* SPDX-License-Identifier: MIT */
/*
 * warm: VMs that are loaded and paused ahead of the commits that take them.
 *
 * How many there are to be of a snapshot is kept beside its snapshot.json (warm.json), as a number
 * or as what follows from how many commits take (demand.h). One thread, the filler, has them
 * loaded, each by a thread with a turn (turns.h), of which one stays free. It begins none while a
 * commit is between its begin and its resume: whom it starts is to run later at the full priority,
 * and an ordinary user cannot raise what once was lowered, so it is by order, and not by nice(2),
 * that commits come first. None of them waits for it: who finds nothing ready loads as ever.
 *
 * A ready VM is an entry of the store that was not published, and nobody's instance. If the daemon
 * is killed, the next one takes it for what it is then, unfinished work. It holds links to what it
 * needs of the snapshot and is no user of it: it goes when the snapshot goes.
 *
 * Locks: warm_pool.writing (how many there are to be, in the store and here), then warm_pool.lock,
 * then snapshots.lock. No VMM is waited for with warm_pool.lock held. `on_change` is called without
 * any; the instances' `warn` perhaps with warm_pool.lock.
 */
#ifndef HYPEFS_FORK_WARM_H
#define HYPEFS_FORK_WARM_H

#include <pthread.h>

#include "instance/instance.h"

enum { WARM_MAX = 64, WARM_AUTO_MAX = 8 }; /* of one snapshot; without a number of its own */

/* How many there are to be. */
struct warm_wish {
    bool automatic;  /* as many as the demand says, */
    unsigned number; /* but so many at most (0: WARM_AUTO_MAX); else so many */
};

/* Borrowed. */
struct warm_setup {
    struct instances *instances;
    const char *meminfo; /* the file that tells how much memory is left: /proc/meminfo */
    /* How many are ready of that snapshot has changed. NULL: nobody is told. */
    void (*on_change)(void *context, const char *id);
    void *context;
};

struct warm_source;
struct warm_load;
struct warm_vm;

struct warm_pool {
    struct warm_setup setup;
    pthread_mutex_t writing, lock;
    pthread_cond_t wake; /* the filler has something to look at */
    pthread_cond_t idle; /* a source has less to wait for or is gone */
    struct warm_source *sources;
    struct warm_load *loads; /* that are under way */
    unsigned commits;        /* between begin and resume */
    bool stopping, open;
    bool stirred;                      /* since the filler looked around last */
    bool memory_short, memory_unknown; /* the filler's own; the next too */
    unsigned room;                     /* for so many VMs: what --max-vms leaves */
    pthread_t filler;
};

/* Begins to load what the snapshots in the store are to have. */
int warm_open(const struct warm_setup *setup, struct warm_pool *ret, struct error *err);
/* Ends all that are ready. A pool that was not opened is left alone. */
void warm_close(struct warm_pool *pool);

/* Those that are too many have ended when it returns. EOPNOTSUPP: the snapshot cannot be forked, or
 * its VMs would be on a tap; ENODEV: it is removed. */
int warm_set(struct warm_pool *pool, struct snapshot *snapshot, const struct warm_wish *wish,
             struct error *err);

struct warm_count {
    struct warm_wish wish;
    unsigned wanted; /* now */
    unsigned ready;  /* with those that end: their memory and their directories are there yet */
};
struct warm_count warm_count(struct warm_pool *pool, const struct snapshot *snapshot);

/* The snapshot is removed: its VMs end soon. */
void warm_forget(struct warm_pool *pool, const struct snapshot *snapshot);

/* A commit begins; and it has resumed its VM, or has none. NULL: there is no pool. */
void warm_begin(struct warm_pool *pool);
void warm_end(struct warm_pool *pool);

/* A VM of the snapshot, as it would be loaded now; the caller uses that (snapshot_use). False:
 * there is none. The entry and the VM are the caller's then. */
bool warm_acquire(struct warm_pool *pool, const struct snapshot *snapshot,
                  const struct machine *machine, struct store_entry *ret_entry,
                  struct vmm **ret_vmm);

#endif
