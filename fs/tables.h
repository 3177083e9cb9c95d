/* SPDX-License-Identifier: MIT */
/*
 * tables: what the tables in *_files.c name of each other, each what stands above it here. A table
 * says what lies in a directory; the functions behind its entries stand beside it.
 */
#ifndef HYPEFS_FS_TABLES_H
#define HYPEFS_FS_TABLES_H

#include "fs/entry.h"

/* draft_files.c */
extern const struct directory forks_directory;

/* image_files.c: of what has a memory image, mailboxes/ and the file `network`. */
extern const struct directory mailboxes_directory;
int network_find(const struct place *directory, const char *name, struct waiter *waiter,
                 struct place *ret);
int network_list(const struct place *directory, struct waiter *waiter, struct handle *handle);
/* 0, or FS_LATER while a kept list is read. */
int image_ready(const struct place *place, struct waiter *waiter);
/* What was accepted last. */
char *accept_text(const struct place *place);

/* snapshot_files.c, instance_files.c */
extern const struct directory snapshots_directory, instances_directory;
struct forkable;
struct instance;
/* By one of instance_remove…(), and its record with it. The caller has a reference. Releases the
 * lock meanwhile. */
int instance_files_remove(struct forkable *instance,
                          int (*remove)(struct instance *instance, struct error *err),
                          struct error *err);

/* root_files.c */
extern const struct entry root_entry;

#endif
