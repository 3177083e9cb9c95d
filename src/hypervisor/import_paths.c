/* SPDX-License-Identifier: MIT */
/* import_paths: files that are at other paths here than those that a saved state names. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/import.h"
#include "hypervisor/saved_path.h"
#include "util/cleanup.h"

static int take_path(const struct import_path *path, struct machine *machine, struct error *err)
{
    bool found = false;
    struct stat st;
    const char *why = saved_path_refuse(path->saved);
    if (why)
        return error_set(err, EINVAL, "--path %.200s=…: nothing can be put there, for it %s",
                         path->saved, why);
    if (stat(path->here, &st) < 0 || !S_ISREG(st.st_mode))
        return error_set(err, EINVAL, "--path %s=%s: that is not a regular file", path->saved,
                         path->here);
    for (size_t i = 0; i < machine->disk_count; i++) {
        struct machine_disk *disk = &machine->disks[i];
        if (disk->saved_path || strcmp(disk->path, path->saved) != 0)
            continue;
        disk->saved_path = disk->path;
        disk->path = strdup(path->here);
        if (!disk->path)
            return error_set(err, ENOMEM, "out of memory");
        found = true;
    }
    if (found)
        return 0;
    if (machine->vsock && strcmp(machine->vsock, path->saved) == 0)
        return error_set(err, EINVAL,
                         "--path %.200s=…: that is the vsock's socket, which needs none: each "
                         "clone makes it in its own folder",
                         path->saved);
    return error_set(err, EINVAL,
                     "--path %.200s=…: the configuration names no drive or pmem device by that "
                     "path",
                     path->saved);
}

/* A file is no directory of another's. */
static int check_apart(const struct import_files *files, const struct import_path *path,
                       struct error *err)
{
    const size_t length = strlen(path->saved);
    for (size_t i = 0; i < files->path_count; i++)
        if (strncmp(files->paths[i].saved, path->saved, length) == 0 &&
            files->paths[i].saved[length] == '/')
            return error_set(err, EINVAL, "--path %.200s=…: %.200s is a file, by another --path",
                             files->paths[i].saved, path->saved);
    return 0;
}

/* Where it was meant from is not known: a Firecracker that loads it works in another directory. */
static int check_absolute(const struct machine_disk *disk, struct error *err)
{
    if (!saved_path_is_relative(disk->path))
        return 0;
    return error_set(
        err, EINVAL,
        "the path %.200s of the %s %.64s is relative, and Firecracker opens it from "
        "another directory at every load: say which file it is, with --path %.200s=NEW",
        disk->path, disk->pmem ? "pmem device" : "drive", disk->id ? disk->id : "", disk->path);
}

/* Of those with a copy, too: nothing need be where the state names them then. */
int import_take_paths(const struct import_files *files, bool binds_paths, struct machine *machine,
                      struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < files->path_count && r == 0; i++)
        r = check_apart(files, &files->paths[i], err);
    for (size_t i = 0; i < files->path_count && r == 0; i++)
        r = take_path(&files->paths[i], machine, err);
    for (size_t i = 0; binds_paths && i < machine->disk_count && r == 0; i++) {
        struct machine_disk *disk = &machine->disks[i];
        r = check_absolute(disk, err);
        if (r < 0 || disk->readonly || disk->saved_path)
            continue;
        disk->saved_path = strdup(disk->path);
        r = disk->saved_path ? 0 : error_set(err, ENOMEM, "out of memory");
    }
    return r;
}
