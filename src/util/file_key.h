/* SPDX-License-Identifier: MIT */
/* file_key: a text that tells whether a file is still the one that was looked at. Pure. */
#ifndef HYPEFS_UTIL_FILE_KEY_H
#define HYPEFS_UTIL_FILE_KEY_H

#include <sys/stat.h>

enum { FILE_KEY_SIZE = 128 };

/* Size, inode and mtime. A text, for numbers of 64 bits do not fit into JSON's doubles. */
void file_key(const struct stat *st, char ret[FILE_KEY_SIZE]);

#endif
