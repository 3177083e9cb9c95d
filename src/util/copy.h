/* SPDX-License-Identifier: MIT */
/*
 * copy: a file's content into a new file, sharing its blocks where the filesystem can (a reflink),
 * and otherwise leaving out its holes. Any thread.
 */
#ifndef HYPEFS_UTIL_COPY_H
#define HYPEFS_UTIL_COPY_H

#include "util/error.h"

/* `to_fd` is empty and open for writing. ECANCELED when `cancel_fd` (-1: never) becomes readable;
 * errno of what failed. What was written by then stays. */
int copy_file(int from_fd, int to_fd, int cancel_fd, struct error *err);

#endif
