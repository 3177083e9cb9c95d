/* SPDX-License-Identifier: MIT */
#include "cli/stale.h"

#include <errno.h>
#include <mntent.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/process.h"

enum { UNMOUNT_TIMEOUT_MS = 10000, OUTPUT_MAX = 512 };

/* The path as the kernel names it, the last component's own state left alone. */
static char *canonical(const char *path)
{
    auto_free char *copy = strdup(path);
    if (!copy)
        return NULL;
    size_t size = strlen(copy);
    while (size > 1 && copy[size - 1] == '/')
        copy[--size] = 0;
    char *slash = strrchr(copy, '/'), *ret = NULL;
    *slash = 0;
    auto_free char *parent = realpath(copy[0] ? copy : "/", NULL);
    if (parent && asprintf(&ret, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, slash + 1) < 0)
        ret = NULL;
    return ret;
}

/* Is the last thing mounted there a hypefs? */
static bool is_ours(const char *path)
{
    char buffer[8192];
    struct mntent entry;
    bool ours = false;
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    while (mounts && getmntent_r(mounts, &entry, buffer, sizeof buffer))
        if (strcmp(entry.mnt_dir, path) == 0)
            ours = strcmp(entry.mnt_type, "fuse.hypefs") == 0;
    if (mounts)
        endmntent(mounts);
    return ours;
}

int stale_clear(const char *mountpoint, struct error *err)
{
    struct stat st;
    auto_free char *path = canonical(mountpoint);
    if (!path || !is_ours(path))
        return 0;
    if (stat(path, &st) == 0)
        return error_set(err, EBUSY, "a hypefs is mounted at %s already", mountpoint);
    if (errno != ENOTCONN && errno != ECONNABORTED)
        return 0;
    if (umount2(path, MNT_DETACH) == 0)
        return 0;
    auto_free char *output = NULL;
    char *argv[] = {(char[]){"fusermount3"}, (char[]){"-u"}, (char[]){"-z"},
                    (char[]){"--"},          path,           NULL};
    int r = process_output("fusermount3", argv, OUTPUT_MAX, UNMOUNT_TIMEOUT_MS, &output, err);
    return r < 0 ? error_prefix(err, r, "cannot clear the stale mount at %s", mountpoint) : 0;
}
