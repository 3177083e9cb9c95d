/* SPDX-License-Identifier: MIT */
/*
 * snapshot: VMs at rest, published in the store and never changed again.
 *
 * snapshot.json (all but the first group may be missing in one that another tool wrote by hand):
 *     version 1, uuid, kind "standby", hypervisor "qemu", hypervisor_version, memory_bytes,
 *     created_at, machine { … }               what a restore must repeat, for the VMM's backend
 *     source_instance, undelivered [ … ], pause_ms
 *     linked "size=… inode=… mtime=…"         the memory image is a hard link (snapshot_entry.h)
 *
 * Others may add snapshots to the store (hypefs import) or take some away: finding and listing look
 * at the store's directory first, and load what is new when it has changed.
 *
 * Locks: snapshots.lock guards the table, references, `removed` and `users`; all else is constant
 * after loading. It may be taken with any lock of instance/ and fs/ held; nothing is called with it
 * held but image's lock. snapshots.looking comes before it, and is held while small files of the
 * store are read; `complain` is called with it, and takes no lock.
 */
#ifndef HYPEFS_STORE_SNAPSHOT_H
#define HYPEFS_STORE_SNAPSHOT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <uthash.h>

#include "store/image.h"
#include "store/snapshot_entry.h"
#include "store/store.h"

struct snapshots;

struct snapshot {
    struct snapshots *table;
    unsigned references;
    uint64_t serial; /* unique in this process, never reused */
    char id[STORE_ID_MAX + 1];
    char uuid[33]; /* tells it from a later one of the same id */
    cJSON *json;   /* snapshot.json */

    /* Borrowed from `json`. */
    const char *kind, *hypervisor, *version, *created_at;
    const cJSON *machine;
    uint64_t memory_bytes;

    struct image *image; /* owned; constant */
    dev_t device;        /* of its directory: another one under the same id is another snapshot */
    ino_t inode;
    bool removed;
    unsigned users;    /* VMMs that map the memory, commits under way */
    UT_hash_handle hh; /* in the table, by id */
};

struct snapshots_complaint {
    struct snapshots_complaint *next;
    char *text; /* owned */
};

struct snapshots {
    pthread_mutex_t lock;
    const struct store *store;
    struct snapshot *by_id;
    uint64_t last_serial;

    pthread_mutex_t looking; /* at the store; of what follows, and of adding to the table */
    struct timespec changed; /* the directory's ctime at the last look, */
    bool reliable;           /* and whether every later change shows in it */
    struct snapshots_complaint *complaints; /* that were told */
    bool open;                              /* what turns up is new */

    struct image_scans scans; /* of instances' images too */
    void (*complain)(void *context, const char *text);
    void *context; /* of complain() */
    /* One has come or gone: called with the lock held, at that moment; takes no other. NULL, or set
     * after opening: nobody is told. */
    void (*happened)(void *listener, const char *id, bool removed);
    void *listener;
};

/* Loads all. One that cannot be read is left out and named by `complain`, with the reason, now or
 * when it turns up later; so is a list that cannot be kept. `scanned` is called when what is known
 * of some image has changed. */
int snapshots_open(const struct store *store, void (*scanned)(void *context),
                   void (*complain)(void *context, const char *text), void *context,
                   struct snapshots *ret, struct error *err);
/* Scans under way end with ESHUTDOWN. */
void snapshots_stop(struct snapshots *snapshots);
/* Waits until they have ended. */
void snapshots_close(struct snapshots *snapshots);

/* Returns a reference, or NULL. Waits for the reading of small files at most. */
struct snapshot *snapshots_find(struct snapshots *snapshots, const char *id);
struct snapshot *snapshot_ref(struct snapshot *snapshot);
void snapshot_unref(struct snapshot *snapshot);

/* The ids, each with its serial, after a look at the store. Returns owned (free), with *ret_count.
 */
struct snapshot_name {
    char id[STORE_ID_MAX + 1];
    uint64_t serial;
};
struct snapshot_name *snapshots_list(struct snapshots *snapshots, size_t *ret_count);

/*
 * Publishes a new snapshot. `fill` puts "memory" and "state" (fsynced) into the directory; the
 * image is scanned, unless it puts a "mailboxes.json" there that fits; snapshot.json is written
 * from *json, which `fill` may make or change (completed here: version, uuid, created_at,
 * undelivered). EEXIST for a taken id, EINVAL for a bad one.
 */
int snapshots_publish(struct snapshots *snapshots, const char *id, cJSON *const *json,
                      snapshot_fill *fill, void *context, struct error *err);

/* The same, but it is nobody's: it has no id, and goes with the entry, which the caller discards
 * when it has let go of it. Its `id` is the entry's name. */
int snapshots_make_private(struct snapshots *snapshots, cJSON *const *json, snapshot_fill *fill,
                           void *context, struct store_entry *ret_entry, struct snapshot **ret,
                           struct error *err);

/* EBUSY while it is used; ENODEV if it is removed already. */
int snapshot_remove(struct snapshot *snapshot, struct error *err);

bool snapshot_is_removed(struct snapshot *snapshot);

/* Counts a user of the memory: ENODEV if it is removed. Each snapshot_use needs a snapshot_leave.
 */
int snapshot_use(struct snapshot *snapshot, struct error *err);
void snapshot_leave(struct snapshot *snapshot);

/* What its `info` tells. Returns owned. */
cJSON *snapshot_info(struct snapshot *snapshot);

/* { "name": …, … } arrays and flags of an image for `info`: adds mailboxes, network_mailbox,
 * truncated. `index` NULL: not known yet, mailboxes is null. */
void snapshot_describe_image(cJSON *info, const struct image_index *index);

#endif
