/* SPDX-License-Identifier: MIT */
/* plain_file: the one way to open a file by its name in a directory where a stranger may have put
 * something else under that name: a VMM that was taken over, or whoever made a store. No link is
 * followed on the way, nothing is waited for, and what is no regular file is refused. No state; any
 * thread. */
#ifndef HYPEFS_UTIL_PLAIN_FILE_H
#define HYPEFS_UTIL_PLAIN_FILE_H

#include "util/error.h"

/* `flags`: O_RDONLY, or O_RDWR. EIO, or the errno of a limit: `what`, in words, cannot be opened or
 * is not a regular file. The descriptor is CLOEXEC. */
int plain_file_open(int directory_fd, const char *path, int flags, const char *what, int *ret,
                    struct error *err);

#endif
