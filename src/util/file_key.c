/* SPDX-License-Identifier: MIT */
#include "util/file_key.h"

#include <stdint.h>
#include <stdio.h>

void file_key(const struct stat *st, char ret[FILE_KEY_SIZE])
{
    snprintf(ret, FILE_KEY_SIZE, "size=%ju inode=%ju mtime=%jd.%09ld", (uintmax_t)st->st_size,
             (uintmax_t)st->st_ino, (intmax_t)st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
}

struct file_id file_id_of(const struct stat *st)
{
    return (struct file_id){.device = st->st_dev, .inode = st->st_ino};
}

bool file_id_equal(struct file_id a, struct file_id b)
{
    return a.device == b.device && a.inode == b.inode;
}
