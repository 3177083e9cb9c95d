/* SPDX-License-Identifier: MIT */
/*
 * state: what a mounted tree has, floor by floor. Each file uses of it what is its own and what is
 * below it; object, document, handle, waiter, job, stream and draft know nothing of it.
 *
 * Lock: objects.lock guards all but `setup`, `root_entry` and `stop_fd`, which are constant.
 */
#ifndef HYPEFS_FS_STATE_H
#define HYPEFS_FS_STATE_H

#include "fs/entry.h"
#include "fs/fs.h"
#include "fs/job.h"
#include "fs/refusals.h"
#include "fs/stream.h"

struct fs {
    struct fs_setup setup;
    int stop_fd; /* eventfd: readable when the daemon stops */
    struct objects objects;
    struct waiters waiters;
    struct jobs jobs;
    struct stream stream; /* `events` */
    struct object root;
    const struct entry *root_entry;
    struct forkable *snapshots, *instances; /* forkable.c: by serial */
    struct refusals refusals;
    struct node *nodes, *places; /* node.c: by id, and by place; not those of command files */
    uint64_t last_node;
    unsigned changes; /* of the snapshots' table, that the tree knows of */
    unsigned notes;    /* how often the store's notes had changed at the last refresh */
};

static inline struct fs *fs_of(const struct place *place)
{
    return place->object->objects->fs;
}

#endif
