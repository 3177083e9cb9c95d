/* SPDX-License-Identifier: MIT */
#include "fs/place.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "fs/forkable.h"
#include "util/cleanup.h"

enum { NAME_BLOCK = 512 };

static const char *log_name(const struct place *place)
{
    return place->entry->file ? place->entry->file->log : NULL;
}

static int stat_log(const struct place *place, struct stat *ret)
{
    struct stat st;
    const struct instance *instance = forkable_at(place)->of.instance;
    struct error err;
    auto_close int fd = instance_open_entry(instance, &err);
    if (fd < 0)
        return fd;
    if (fstatat(fd, log_name(place), &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    ret->st_size = st.st_size;
    ret->st_mtim = st.st_mtim;
    return 0;
}

int place_stat(const struct place *place, struct stat *ret)
{
    const struct entry *entry = place->entry;
    char target[256];
    int r = 0;
    *ret =
        (struct stat){.st_ino = entry_ino(place->object, entry, place->mailbox),
                      .st_mode = entry->mode,
                      .st_nlink = 1,
                      .st_uid = geteuid(),
                      .st_gid = getegid(),
                      .st_blksize = 4096,
                      .st_mtim = entry->directory ? place->object->listed : place->object->changed};
    if (entry->link) {
        entry->link(place, target);
        ret->st_size = (off_t)strlen(target);
    } else if (log_name(place)) {
        r = stat_log(place, ret);
    } else if (entry->file && entry->file->text) {
        size_t size = 0;
        char *text = place_text(place, &size);
        r = text ? 0 : -ENOMEM;
        free_wiped(text, size);
        ret->st_size = (off_t)size;
    }
    ret->st_atim = ret->st_ctim = ret->st_mtim;
    ret->st_blocks = (ret->st_size + NAME_BLOCK - 1) / NAME_BLOCK;
    return r;
}
