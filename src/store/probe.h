/* SPDX-License-Identifier: MIT */
/* probe: can a directory be a store? Asked when a daemon starts, not in the middle of its work. */
#ifndef HYPEFS_STORE_PROBE_H
#define HYPEFS_STORE_PROBE_H

#include <sys/types.h>

#include "store/store.h"

/* Tries, in a hidden entry of `kind_fd`, all that a store's file system must be able to do.
 * EOPNOTSUPP, with what it cannot; the errno of a limit, such as EROFS. `path` is for texts. */
int probe_file_system(int kind_fd, const char *path, struct error *err);

/* EPERM if one of the store's directories, as far as they are there, is another user's, or writable
 * to one, or a link. */
int probe_trust(int store_fd, const char *path, struct error *err);

/* Of the file system with that device, as /proc/self/mountinfo has it; "unknown" where that has
 * none, or could not be read: then the text of `err` says why, and -errno is returned. */
enum { PROBE_TYPE_SIZE = 64 };
int probe_type(dev_t device, char ret[static PROBE_TYPE_SIZE], struct error *err);

#endif
