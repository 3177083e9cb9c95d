/* SPDX-License-Identifier: MIT */
/*
 * node: the kernel's view of the tree, and what is done to directories: of fs.h, all between
 * fs_lookup() and fs_create_node(). A node is a place that the kernel knows by number; the same
 * place gives the same node while the kernel remembers it, but for command files, which get a new
 * one at every lookup, so that two writers share no kernel lock.
 *
 * The kernel keeps names, but those of command files, and the attributes of directories that it got
 * by fs_getattr(). Whoever uses a name asks for at least one thing behind it, so a name that is
 * kept too long is found out: what is not there any more is ESTALE. (open() with O_PATH asks for
 * nothing; so names that can appear without a request for them are kept for a second only.) The
 * attributes of a directory count until it changes, when the kernel is told so before who has
 * changed it gets an answer.
 *
 * Lock: objects.lock guards the nodes.
 */
#ifndef HYPEFS_FS_NODE_H
#define HYPEFS_FS_NODE_H

#include "fs/entry.h"

/* Locks; -ESTALE if the node's object is removed: then the kernel looks the name up anew. Counts a
 * reference; place_release() undoes both, if there is a place. */
int place_acquire(struct fs *fs, uint64_t node, struct place *ret);
/* The same for who opens it by its name: -ESTALE, too, if it is not there at the moment. FS_LATER
 * with the waiter queued, or FS_MUST_WAIT without one. */
int place_acquire_named(struct fs *fs, uint64_t node, struct waiter *waiter, struct place *ret);
void place_release(struct place *place);
#define auto_place __attribute__((cleanup(place_release)))

/* For fs_create(): makes the file if it is not there (with O_EXCL it must not be). */
int fs_create_node(struct fs *fs, uint64_t parent, const char *name, int flags, pid_t tid,
                   uint64_t *ret_node, struct stat *ret);
/* With the lock held: of struct objects. */
void object_end_nodes(struct object *object);
void object_expire_nodes(struct object *object);
/* With the lock held: the kernel remembers none any more. */
void nodes_discard(struct fs *fs);

#endif
