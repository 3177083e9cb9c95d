/* SPDX-License-Identifier: MIT */
/*
 * snapshot: VMs at rest, published in the store and never changed again.
 *
 * snapshot.json (all but the first group may be missing in one that another tool wrote by hand):
 *     version 1, uuid, kind "standby", hypervisor "qemu", hypervisor_version, memory_bytes,
 *     created_at, machine { … }               what a restore must repeat, for the VMM's backend
 *     source_instance, undelivered [ … ], pause_ms, switched
 *
 * Others may add snapshots to the store (hypefs import) or take some away: snapshots_refresh()
 * reads the store's directory, if it has changed. Finding and listing do not.
 *
 * Locks: snapshots.lock guards the table, references, `removed`, `users` and `json`; all else is
 * constant after loading. It may be taken with any lock of instance/ and fs/ held; only image's
 * lock is taken with it. snapshots.refreshing comes before it, and is held while small files of the
 * store are read; `warn` is called with it, and takes no lock.
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
    cJSON *json;   /* snapshot.json: snapshot_json() */
    cJSON *former; /* an array of what `json` was before, which may be in use still; NULL: none */
    uint64_t memory_bytes;

    struct image *image;      /* owned; constant */
    struct file_id directory; /* another one under the same id is another snapshot */
    bool removed;
    unsigned users;    /* VMMs that map the memory, commits under way */
    UT_hash_handle hh; /* in the table, by id */
};

struct snapshots {
    pthread_mutex_t lock;
    const struct store *store;
    struct snapshot *by_id;
    uint64_t last_serial;

    pthread_mutex_t refreshing; /* from the store; of what follows, and of adding to the table */
    struct store_seen seen;     /* at the last refresh */
    struct snapshot_unread *unread; /* entries that could not be read then */
    bool open;                      /* what turns up is new */
    atomic_uint changes; /* how many have come to the table or were taken out of the store so far */

    struct image_scans scans; /* of instances' images too */
    void (*warn)(void *context, const char *text);
    void *context; /* of warn() */
    /* Called when one has come or gone, with the lock held, and takes no other. May be NULL. */
    void (*happened)(void *listener, const char *id, bool removed);
    void *listener;
};

/* Loads all. `warn` and the store's notes name those that cannot be read, now or later, and
 * lists that cannot be kept. `scanned` is called when what is known of some image has changed. */
int snapshots_open(const struct store *store, void (*scanned)(void *context),
                   void (*warn)(void *context, const char *text), void *context,
                   struct snapshots *ret, struct error *err);
/* Scans under way end with ESHUTDOWN. */
void snapshots_stop(struct snapshots *snapshots);
/* Waits until they have ended. */
void snapshots_close(struct snapshots *snapshots);

/* Brings the table up to date with the store. Reads files: not with a lock of fs/ or instance/. */
void snapshots_refresh(struct snapshots *snapshots);

/* Returns a reference, or NULL. */
struct snapshot *snapshots_find(struct snapshots *snapshots, const char *id);
struct snapshot *snapshot_ref(struct snapshot *snapshot);
void snapshot_unref(struct snapshot *snapshot);

/* The ids, each with its serial. Returns owned (free), with *ret_count. */
struct snapshot_name {
    char id[STORE_ID_MAX + 1];
    uint64_t serial;
};
struct snapshot_name *snapshots_list(struct snapshots *snapshots, size_t *ret_count);

/* Publishes a new snapshot. `fill` puts "memory" and "state" (fsynced) into the directory; the
 * image is scanned, unless it puts a "mailboxes.json" there that fits; snapshot.json is written
 * from *json, which `fill` may make or change (completed here: version, uuid, created_at,
 * undelivered). EEXIST for a taken id, EINVAL for a bad one. */
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

/* snapshot.json, and its member "machine" (NULL: it has none). Borrowed, and valid and constant as
 * long as the snapshot is; but another one may take its place. */
const cJSON *snapshot_json(const struct snapshot *snapshot);
const cJSON *snapshot_machine(const struct snapshot *snapshot);
/* Writes snapshot.json with that machine in it, which takes the place of the one before. */
int snapshot_set_machine(struct snapshot *snapshot, const cJSON *machine, struct error *err);

/* Counts a user of the memory, until snapshot_leave(). ENODEV if it is removed. */
int snapshot_use(struct snapshot *snapshot, struct error *err);
void snapshot_leave(struct snapshot *snapshot);

/* snapshot_info.c: what its `info` tells. Returns owned. */
cJSON *snapshot_info(struct snapshot *snapshot);

/* Why the image is not to be had, and when somebody has vouched for it, for `info`, which everybody
 * may read: adds `changed` and `accepted`, each null if there is none. `index` may be NULL. */
void snapshot_describe_trust(cJSON *info, const struct image_index *index, const struct error *why);

#endif
