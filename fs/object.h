/* SPDX-License-Identifier: MIT */
/*
 * object: what a directory of the tree stands for: counted, and marked when it is removed; and the
 * one lock over all of them, with what has to wait for its release. Not: what lies in a directory
 * (entry.h) and what the objects are made of (draft.h, forkable.h).
 *
 * Locks: objects.lock guards everything in fs/ but event_ring.c, which has its own. Nothing blocks
 * while it is held: no VMM, no scan, no answer to the kernel. Order: objects.lock, instances.lock,
 * snapshots.lock, image.lock.
 */
#ifndef HYPEFS_FS_OBJECT_H
#define HYPEFS_FS_OBJECT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>
#include <uthash.h>

#include "mailbox/frame.h"

/* What is done when the lock is released, and without it. A part of what it is about. */
struct deferred {
    void (*run)(struct deferred *deferred);
    struct deferred *prev, *next;
};

struct object;

/* What all objects of a tree share. */
struct objects {
    struct fs *fs; /* whose they are; opaque here */
    pthread_mutex_t lock;
    struct deferred *deferred;
    bool names_only;          /* see objects_names_only() */
    struct handle *handles;   /* all that are open (handle.h) */
    void (*wake)(void *poll); /* takes what was given to a poller */
    /* Ends the nodes of an object that is removed: the kernel may remember them for long. */
    void (*end_nodes)(struct object *object);
    /* What the kernel keeps of the object's directories counts no more. */
    void (*expire_nodes)(struct object *object);
    uint64_t last_serial; /* of drafts and staged files */
};

void objects_lock(struct objects *objects);
/* Wipes the stack, on which texts may have been, and runs what was deferred, in that order. */
void objects_unlock(struct objects *objects);
/* With the lock held: no text was read or written with it, only names. The next unlock leaves the
 * stack alone, which a lookup of a path does at each of its directories. */
void objects_names_only(struct objects *objects);
/* With the lock held. */
void objects_defer(struct objects *objects, struct deferred *deferred);
/* The same, before all that are not deferred so: no answer may come before it. */
void objects_defer_first(struct objects *objects, struct deferred *deferred);

/* Each kind but the root and `events` is a struct that begins with a struct object. */
enum object_kind {
    OBJECT_ROOT = 1,
    OBJECT_SNAPSHOT,
    OBJECT_INSTANCE,
    OBJECT_DRAFT,
    OBJECT_STAGED,
    OBJECT_EVENTS
};

struct object {
    struct objects *objects;
    enum object_kind kind;
    unsigned references;
    uint64_t serial;                 /* unique among its kind, never reused */
    bool removed;                    /* its names are ESTALE, and what is open of it is ENODEV */
    struct timespec changed, listed; /* mtime of its files and links, and of its directories */
    void (*destroy)(struct object *object); /* NULL: it is a part of something else */
    struct mailbox_file *mailboxes; /* of snapshots and instances: by name, those that were used */
    struct poller *pollers;
    struct node *nodes; /* those that the kernel knows of it (node.c) */
};

/* A mailbox in a memory image, for as long as its object lives. When the image is another one, or
 * scanned anew, the same name is the same file. */
struct mailbox_file {
    unsigned number; /* unique in its object; part of st_ino */
    char name[FRAME_NAME_MAX + 1];
    UT_hash_handle hh;
};

/* Who may want to know that an object changes; a part of an open file. */
struct poller {
    void *poll; /* NULL: does not, at the moment */
    struct poller *prev, *next;
};

void object_init(struct object *object, struct objects *objects, enum object_kind kind,
                 uint64_t serial, void (*destroy)(struct object *object));
struct object *object_ref(struct object *object);
void object_unref(struct object *object);
/* Marks it, tells its pollers, and ends its nodes; the caller has a reference. */
void object_remove(struct object *object);
/* Something else can be read in its files: their mtime is now, and its pollers are woken. */
void object_touched(struct object *object);
/* The same, and names have come or gone in its directories, or may have: the kernel asks again for
 * what it has kept of those. */
void object_changed(struct object *object);
/* The file of the mailbox of that name, which is made if it is not known yet. NULL without memory.
 */
const struct mailbox_file *object_mailbox_file(struct object *object, const char *name);

#endif
