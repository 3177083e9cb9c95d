/* SPDX-License-Identifier: MIT */
#include "cli/stale.h"

#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/process.h"

enum { UNMOUNT_TIMEOUT_MS = 10000, END_WAIT_MS = 2000, OUTPUT_MAX = 512 };

/* The path as the kernel names it, the last component's own state left alone. */
static char *canonical(const char *path)
{
    auto_free char *copy = strdup(path);
    if (!copy)
        return NULL;
    size_t size = strlen(copy);
    while (size > 1 && (copy[size - 1] == '/' || (copy[size - 1] == '.' && copy[size - 2] == '/')))
        copy[--size] = 0;
    char *slash = strrchr(copy, '/'), *ret = NULL;
    *slash = 0;
    auto_free char *parent = realpath(copy[0] ? copy : "/", NULL);
    if (parent && asprintf(&ret, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, slash + 1) < 0)
        ret = NULL;
    return ret;
}

bool stale_is_mounted(const char *path, const char *type)
{
    char buffer[8192];
    struct mntent entry;
    bool found = false;
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    while (mounts && getmntent_r(mounts, &entry, buffer, sizeof buffer))
        if (strcmp(entry.mnt_dir, path) == 0)
            found = strncmp(entry.mnt_type, type, strlen(type)) == 0;
    if (mounts)
        endmntent(mounts);
    return found;
}

static bool is_ours(const char *path)
{
    return stale_is_mounted(path, "fuse.hypefs");
}

/* 1: there is none (any more); 0: one that answers; -errno. */
static int look(const char *path, struct error *err)
{
    struct stat st;
    if (!is_ours(path))
        return 1;
    if (stat(path, &st) == 0)
        return 0;
    if ((errno != ENOTCONN && errno != ECONNABORTED) || umount2(path, MNT_DETACH) == 0)
        return 1;
    auto_free char *output = NULL;
    char *argv[] = {(char[]){"fusermount3"}, (char[]){"-u"}, (char[]){"-z"},
                    (char[]){"--"},          (char *)path,   NULL};
    int r = process_output("fusermount3", argv, OUTPUT_MAX, UNMOUNT_TIMEOUT_MS, -1, &output, err);
    return r == 0 || !is_ours(path) ? 1 : r;
}

int stale_clear(const char *mountpoint, struct error *err)
{
    auto_free char *path = canonical(mountpoint);
    auto_close int mounts = open("/proc/self/mounts", O_RDONLY | O_CLOEXEC);
    double deadline_ms = process_now_ms() + END_WAIT_MS, left_ms;
    int r = path ? 0 : 1;
    /* A daemon that was told to end unmounts in a moment. */
    while (r == 0 && (r = look(path, err)) == 0 && (left_ms = deadline_ms - process_now_ms()) > 0)
        poll(&(struct pollfd){.fd = mounts, .events = POLLPRI}, 1, (int)left_ms + 1);
    if (r < 0)
        return error_prefix(err, r, "cannot clear the stale mount at %s", mountpoint);
    return r > 0 ? 0 : error_set(err, EBUSY, "a hypefs is mounted at %s already", mountpoint);
}
