/* SPDX-License-Identifier: MIT */
#include "store/own.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "store/probe.h"
#include "util/cleanup.h"
#include "util/directory.h"

enum { FOUND = 1 }; /* what ends a walk */

struct search {
    struct file_id wanted;
    unsigned depth;
};

/* A directory_visit, of snapshots/ or instances/, of their entries and of those' directories: the
 * file is known by its inode, for its names tell nothing. Entries that are hidden count too. */
static int find_file(void *context, int directory_fd, const char *name, struct error *err)
{
    enum { DEPTH_MAX = 2 };
    struct search *search = context;
    struct stat st;
    if (fstatat(directory_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    if (file_id_equal(file_id_of(&st), search->wanted))
        return FOUND;
    if (!S_ISDIR(st.st_mode) || search->depth == DEPTH_MAX)
        return 0;
    search->depth++;
    int r = directory_walk(directory_fd, name, find_file, search, err);
    search->depth--;
    /* It is removed meanwhile, or is not ours (lost+found). */
    return r == -ENOENT || r == -ENOTDIR || r == -ELOOP || r == -EACCES ? 0 : r;
}

static int find(const struct store *store, struct file_id wanted, struct error *err)
{
    struct search search = {.wanted = wanted};
    int r = 0;
    for (size_t i = 0; i < array_length(store->root_files); i++)
        if (file_id_equal(store->root_files[i], wanted))
            return FOUND;
    for (int kind = 0; kind < STORE_KINDS && r == 0; kind++)
        r = directory_walk(store->kind_fd[kind], ".", find_file, &search, err);
    return r;
}

int store_check_disk(const struct store *store, const char *path, const struct stat *file,
                     struct error *err)
{
    char type[PROBE_TYPE_SIZE];
    int r = probe_type(file->st_dev, type, err);
    if (r == 0)
        r = strcmp(type, "fuse.hypefs") == 0 ? FOUND : find(store, file_id_of(file), err);
    return r == FOUND ? error_set(err, EINVAL,
                                  "the disk %s belongs to hypefs's own store, or lies in a mount "
                                  "of hypefs, and a guest could destroy what is saved there: copy "
                                  "it elsewhere with cp --sparse=always, and use the copy",
                                  path)
                      : r;
}
