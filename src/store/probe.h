/* SPDX-License-Identifier: MIT */
/* probe: can a directory be a store? Asked when a daemon starts, not in the middle of its work. */
#ifndef HYPEFS_STORE_PROBE_H
#define HYPEFS_STORE_PROBE_H

#include "store/store.h"

/* Tries, in a hidden entry of `kind_fd`, all that a store's file system must be able to do.
 * EOPNOTSUPP, with what it cannot; the errno of a limit, such as EROFS. `path` is how to call the
 * store. */
int probe_file_system(int kind_fd, const char *path, struct error *err);

/* EPERM if another user owns one of the store's directories or may write to it, or if one of them
 * is a symbolic link. */
int probe_trust(int store_fd, const char *path, struct error *err);

#endif
