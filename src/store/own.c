/* SPDX-License-Identifier: MIT */
#include "store/own.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "store/probe.h"
#include "util/cleanup.h"
#include "util/directory.h"

enum { FOUND = 1 }; /* what ends a walk */

/* A directory_visit, in an entry: the file is known by its inode, for its names tell nothing. */
static int find_file(void *context, int directory_fd, const char *name, struct error *err)
{
    const struct file_id *wanted = context;
    struct stat st;
    (void)err;
    return fstatat(directory_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
                   file_id_equal(file_id_of(&st), *wanted)
               ? FOUND
               : 0;
}

/* A directory_visit, in snapshots/ or instances/. Entries that are hidden count too. */
static int find_in_entry(void *context, int kind_fd, const char *name, struct error *err)
{
    int r = find_file(context, kind_fd, name, err);
    if (r == 0)
        r = directory_walk(kind_fd, name, find_file, context, err);
    /* It is removed meanwhile, or is no directory, or is not ours (lost+found). */
    return r == -ENOENT || r == -ENOTDIR || r == -ELOOP || r == -EACCES ? 0 : r;
}

static int find(const struct store *store, struct file_id wanted, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < array_length(store->root_files); i++)
        if (file_id_equal(store->root_files[i], wanted))
            return FOUND;
    for (int kind = 0; kind < STORE_KINDS && r == 0; kind++)
        r = directory_walk(store->kind_fd[kind], ".", find_in_entry, &wanted, err);
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
