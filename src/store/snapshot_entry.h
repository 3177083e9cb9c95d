/* SPDX-License-Identifier: MIT */
/* snapshot_entry: the directory of one snapshot while it is made, before anybody sees it; and
 * snapshots made in a store without a daemon's table of them. No state; any thread. */
#ifndef HYPEFS_STORE_SNAPSHOT_ENTRY_H
#define HYPEFS_STORE_SNAPSHOT_ENTRY_H

#include "store/image.h"
#include "store/store.h"

/* Puts "memory" and "state" (fsynced) into the entry's directory. */
typedef int snapshot_fill(void *context, const struct store_entry *entry, struct error *err);

/* Makes the entry and has it filled. To be discarded, after a failure too. */
int snapshot_entry_begin(const struct store *store, snapshot_fill *fill, void *context,
                         struct store_entry *ret, struct error *err);

/* Writes snapshot.json: `json`, completed by version, uuid, created_at, undelivered. */
int snapshot_entry_describe(const struct store_entry *entry, const cJSON *json,
                            const struct scan *scan, struct error *err);

/* Is snapshot.json of a hypefs that is known? As format_check_version(). */
int snapshot_check_version(const cJSON *json, struct error *err);

/* Whether the store has something under that id. */
bool snapshot_exists(const struct store *store, const char *id);

/* What is to be a snapshot, made by whoever has no daemon's table. */
struct snapshot_import {
    const char *id;
    const cJSON *json; /* of snapshot.json, but for what is completed here */
    snapshot_fill *fill;
    scan_progress *progress; /* of the scan */
    void *context;           /* of these two */
};

/* Makes it, scans its image and publishes it; a daemon that runs sees it at the next look. EEXIST:
 * the id is taken; EINVAL: it is none; ECANCELED: `progress` said so. A failure leaves nothing.
 * `ret_frames`: how many frames the image has. */
int snapshot_import(const struct store *store, const struct snapshot_import *import,
                    size_t *ret_frames, struct error *err);

/* Who forks it will get EBUSY for these, and may wonder why. */
void snapshot_entry_tell_undelivered(const char *id, const cJSON *json,
                                     void (*warn)(void *context, const char *text), void *context);

#endif
