/* SPDX-License-Identifier: MIT */
/* directory: the names in a directory, all of them or a failure. readdir() returns the same for the
 * end and for a failure; only here is that told apart, so nothing else calls it. Any thread. */
#ifndef HYPEFS_UTIL_DIRECTORY_H
#define HYPEFS_UTIL_DIRECTORY_H

#include "util/error.h"

/* Called for a name in the directory, which it may remove. Anything but 0 ends the walk. */
typedef int directory_visit(void *context, int directory_fd, const char *name, struct error *err);

/* Visits each name in the directory `path` (no symbolic link) below `parent_fd` but "." and "..",
 * in no order. Returns what the last visit returned, or the directory's own failure. */
int directory_walk(int parent_fd, const char *path, directory_visit *visit, void *context,
                   struct error *err) __attribute__((warn_unused_result));

/* Opens a directory of our own, whose mode somebody may have changed: then it is 0700 again. -1 and
 * errno. */
int directory_open_own(int parent_fd, const char *name);

/* Removes all that is in a directory, however deep. Whoever writes there meanwhile may leave more.
 * EBUSY: something is mounted in it. */
int directory_empty(int directory_fd, struct error *err);

/* Removes the name: a file, or a directory with all that is in it. 0 if it is not there. */
int directory_remove(int parent_fd, const char *name, struct error *err);

#endif
