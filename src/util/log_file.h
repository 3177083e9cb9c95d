/* SPDX-License-Identifier: MIT */
/* log_file: keeps a file short that other processes append to (O_APPEND) at the same time, and
 * never stops them: each of their writes goes behind what there is by then. */
#ifndef HYPEFS_UTIL_LOG_FILE_H
#define HYPEFS_UTIL_LOG_FILE_H

#include <stdint.h>
#include <sys/types.h>

#include "util/error.h"

enum { LOG_FILE_MAX_LEAST = 65536 }; /* bytes; the least `max` there is */

/* If the file (open for reading and writing, not O_APPEND) has more than `max` bytes, its newest
 * half of them stays, behind a line that says how much went, this time and before. *ret_gone is the
 * number of bytes that went this time; 0 if the file is short enough. Nothing that is written
 * meanwhile is lost if the file system can collapse a range (ext4, XFS). Elsewhere the rest is
 * copied to the front, and what is written in the moment before the file is cut is lost. */
int log_file_shorten(int fd, off_t max, off_t *ret_gone, struct error *err);

#endif
