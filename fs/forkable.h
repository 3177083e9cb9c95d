/* SPDX-License-Identifier: MIT */
/*
 * forkable: what can be forked, and so has the directory forks/: a snapshot or an instance, as an
 * object of the tree. It is made when somebody uses it for the first time, and is the same for
 * as long as what it stands for is in the store. Not: the files in its directory (snapshot_files.c,
 * instance_files.c).
 *
 * Lock: objects.lock guards the tables and all of a forkable; what it stands for has locks of its
 * own.
 */
#ifndef HYPEFS_FS_FORKABLE_H
#define HYPEFS_FS_FORKABLE_H

#include "fork/engine.h"
#include "fs/draft.h"
#include "fs/entry.h"

struct forkable {
    struct object object; /* OBJECT_SNAPSHOT or OBJECT_INSTANCE */
    struct drafts drafts;
    struct fork_source of; /* counts a reference */
    UT_hash_handle hh;     /* by serial, in the table of its kind */

    /* Of an instance: */
    struct document config;  /* being written, or refused; else without a text */
    char *error;             /* owned: why the last write to config, state or snapshot failed */
    uint64_t writes, failed; /* how many there were of these, and which of them `error` is of */
    struct job *job;         /* the transition under way; not counted */
    struct job *search;      /* of its memory, for frames; the same */
};

/* Of that kind and id; borrowed. ENOENT: there is none; ENOMEM. */
int forkable_find(struct fs *fs, enum object_kind kind, const char *id, struct forkable **ret);
static inline struct forkable *forkable_at(const struct place *place)
{
    return (struct forkable *)place->object;
}
/* As the tree names it: "snapshots/base". */
void forkable_path(const struct forkable *forkable, char ret[INSTANCE_SOURCE_PATH_SIZE]);

/* A reference to what is known of its image now, as by image_index(); of an instance whose VM runs
 * or is paused, of its memory: IMAGE_SCANNING, if that was not searched yet. One that is created or
 * stopped has none (ENOENT), whatever lies there. */
int forkable_index(const struct forkable *forkable, struct image_index **ret);
/* Is there a marker of that name, or with "" one of resume-network? */
bool forkable_index_has(const struct image_index *index, const char *name);
/* Is it known by now to have that mailbox? */
bool forkable_has_mailbox(const struct forkable *forkable, const char *name);

/* It is removed, and its drafts with it: what is open of them gives ENODEV. Does nothing the second
 * time. */
void forkable_remove(struct forkable *forkable);
/* The same of the instance with that serial, if anybody has seen it. */
void forkable_remove_instance(struct fs *fs, uint64_t serial);

/* Without the lock: snapshots that are not in the store any more are removed, whoever took them
 * out; so is what was staged. */
void forkables_refresh(struct fs *fs);

/* What the `error` of an instance says from now on; NULL: nothing. No time changes by that: an
 * editor that may not make its swap file would take the file that it edits for changed. */
void forkable_note(struct forkable *instance, const char *text);
/* The outcome of the write of that number: of one that is answered after a later one, nothing. */
void forkable_note_outcome(struct forkable *instance, uint64_t number, const char *text);

#endif
