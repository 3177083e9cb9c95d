/* SPDX-License-Identifier: MIT */
/* text_file: small files, read and written as a whole. No state; any thread. */
#ifndef HYPEFS_UTIL_TEXT_FILE_H
#define HYPEFS_UTIL_TEXT_FILE_H

#include <stddef.h>

/* The bytes of the file (owned), with a NUL behind them. Returns 0 or -errno; EINVAL: it is not a
 * regular file, EFBIG: it has more than `max` bytes, EIO: it became shorter meanwhile. */
int text_file_read(int fd, size_t max, char **ret, size_t *ret_size);

/* Writes all of it where the file's offset is. Returns 0 or -errno. */
int text_file_write(int fd, const char *text, size_t size);

#endif
