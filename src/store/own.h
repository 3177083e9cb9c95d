/* SPDX-License-Identifier: MIT */
/* own: is a file hypefs's own? A VM with it as a disk would destroy what is saved. Any thread. */
#ifndef HYPEFS_STORE_OWN_H
#define HYPEFS_STORE_OWN_H

#include <sys/stat.h>

#include "store/store.h"

/* EINVAL if the disk at `path`, of which `file` is what stat() tells, is one of the store's files,
 * by whatever name (a hard link, a mount of a part of the store), or lies in a mount of hypefs.
 * Reads the directories of the store; another errno is that of one that cannot be read. */
int store_check_disk(const struct store *store, const char *path, const struct stat *file,
                     struct error *err) __attribute__((warn_unused_result));

#endif
