/* SPDX-License-Identifier: MIT */
/* file_key: what tells whether a file is still the one that was looked at. Pure. */
#ifndef HYPEFS_UTIL_FILE_KEY_H
#define HYPEFS_UTIL_FILE_KEY_H

#include <stdbool.h>
#include <sys/stat.h>

enum { FILE_KEY_SIZE = 128, FILE_KEY_CHANGE_SIZE = 256 };

/* One of the files that there are now, whatever its name is; of a block device, whatever its node. */
struct file_id {
    dev_t device;
    ino_t inode; /* 0: of no file */
};

struct file_id file_id_of(const struct stat *st);
bool file_id_equal(struct file_id a, struct file_id b);

/* Size, inode and mtime. A text, for numbers of 64 bits do not fit into JSON's doubles. */
void file_key(const struct stat *st, char ret[FILE_KEY_SIZE]);

/* In words, what of a file is another than when `key` was taken: "size was 4096, is 8192; mtime was
 * 2026-01-02T03:04:05.000000000Z, is …". Empty if nothing is. `key` may be any text. */
void file_key_tell(const char *key, const struct stat *st, char ret[FILE_KEY_CHANGE_SIZE]);

#endif
