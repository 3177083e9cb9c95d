/* SPDX-License-Identifier: MIT */
#include "util/trust.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LINKS_MAX = 40 }; /* as the kernel has it */

/* How far the path was followed, and what is left of it. */
struct walk {
    char seen[PATH_MAX], rest[PATH_MAX];
    unsigned links;
};

static bool trusted(uid_t uid)
{
    return uid == 0 || uid == geteuid();
}

/* The link at `seen` is replaced by what it says. False if that is too long. */
static bool follow(struct walk *walk)
{
    char target[PATH_MAX], rest[PATH_MAX];
    ssize_t size = readlink(walk->seen, target, sizeof target - 1);
    if (size <= 0 || ++walk->links > LINKS_MAX)
        return false;
    target[size] = 0;
    *strrchr(walk->seen, '/') = 0;
    if (target[0] == '/')
        walk->seen[0] = 0;
    size = snprintf(rest, sizeof rest, "%s/%s", target, walk->rest);
    if (size < 0 || (size_t)size >= sizeof rest)
        return false;
    memcpy(walk->rest, rest, (size_t)size + 1);
    return true;
}

/* Moves the first component from `rest` to `seen`. False at the end, or where that is too long. */
static bool step(struct walk *walk)
{
    const char *rest = walk->rest + strspn(walk->rest, "/");
    size_t size = strcspn(rest, "/"), used = strlen(walk->seen);
    if (size == 0 || used + 1 + size >= sizeof walk->seen)
        return false;
    walk->seen[used] = '/';
    memcpy(walk->seen + used + 1, rest, size);
    walk->seen[used + 1 + size] = 0;
    memmove(walk->rest, rest + size, strlen(rest + size) + 1);
    return true;
}

/* Without asking a file system that is mounted there: it may hang. */
static bool look_at(const char *path, struct statx *ret)
{
    return statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_UID,
                 ret) == 0;
}

int trust_path(const char *path, struct error *err)
{
    struct walk walk = {0};
    struct statx st;
    if (path[0] != '/' && !getcwd(walk.seen, sizeof walk.seen))
        return error_errno(err, errno, "cannot find out where %s is", path);
    if (strlen(path) >= sizeof walk.rest)
        return error_set(err, ENAMETOOLONG, "%.80s…: the path is too long", path);
    memcpy(walk.rest, path, strlen(path) + 1);
    while (step(&walk) && look_at(walk.seen, &st)) {
        if (!S_ISLNK(st.stx_mode))
            continue;
        if (!trusted(st.stx_uid))
            return error_set(err, EPERM,
                             "%s is a symbolic link of another user (uid %u), who may let it point "
                             "elsewhere: give the path that it points to",
                             walk.seen, (unsigned)st.stx_uid);
        if (!follow(&walk))
            break;
    }
    return 0;
}

int trust_directory(int parent_fd, const char *name, const char *path, struct error *err)
{
    struct stat st;
    if (fstatat(parent_fd, name, &st, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) < 0)
        return error_errno(err, errno, "cannot look at %s", path);
    if (S_ISLNK(st.st_mode))
        return error_set(err, EPERM, "%s is a symbolic link", path);
    if (!S_ISDIR(st.st_mode))
        return 0;
    if (!trusted(st.st_uid))
        return error_set(err, EPERM, "%s belongs to another user (uid %u)", path,
                         (unsigned)st.st_uid);
    if (st.st_mode & (S_IWGRP | S_IWOTH))
        return error_set(err, EPERM, "others may write to %s (mode %03o)", path,
                         (unsigned)st.st_mode & 0777);
    return 0;
}
