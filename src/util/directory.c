/* SPDX-License-Identifier: MIT */
#include "util/directory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"

int directory_walk(int parent_fd, const char *path, directory_visit *visit, void *context,
                   struct error *err)
{
    auto_close int fd = openat(parent_fd, path, O_DIRECTORY | O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    auto_closedir DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir)
        return error_errno(err, errno, "the directory %s cannot be opened", path);
    fd = -1; /* the DIR's now */
    for (int r = 0;;) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (!entry && errno)
            return error_errno(err, errno, "the directory %s cannot be read", path);
        if (!entry)
            return 0;
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            r = visit(context, dirfd(dir), entry->d_name, err);
        if (r != 0)
            return r;
    }
}

int directory_open_own(int parent_fd, const char *name)
{
    char path[32];
    auto_close int place = openat(parent_fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (place < 0)
        return -1;
    snprintf(path, sizeof path, "/proc/self/fd/%d", place);
    if (chmod(path, 0700) < 0)
        return -1;
    return openat(parent_fd, name, O_DIRECTORY | O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
}

/* What is removed, and how deep in it the walk is. */
struct removal {
    int top_fd;
    dev_t device;
    unsigned depth, moved;
};

/* What is mounted there is not what is to be removed. */
static int check_device(dev_t device, int directory_fd, const char *name, struct error *err)
{
    struct stat st;
    if (fstatat(directory_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return error_errno(err, errno, "%s cannot be removed", name);
    return st.st_dev == device
               ? 0
               : error_set(err, EBUSY, "another file system is mounted at %s: unmount that", name);
}

/* Each level has a descriptor open, and a place on the stack: what lies deeper is moved to the top,
 * where its turn comes. */
static int move_up(struct removal *removal, int directory_fd, const char *name, struct error *err)
{
    enum { TRIES = 1000 };
    char up[32];
    for (unsigned i = 0; i < TRIES; i++) {
        snprintf(up, sizeof up, "deep-%u", removal->moved++);
        if (renameat2(directory_fd, name, removal->top_fd, up, RENAME_NOREPLACE) == 0)
            return 0;
        if (errno != EEXIST)
            break;
    }
    return error_errno(err, errno, "%s cannot be removed", name);
}

static int remove_one(void *context, int directory_fd, const char *name, struct error *err)
{
    enum { DEPTH_MAX = 16 };
    struct removal *removal = context;
    if (unlinkat(directory_fd, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR)
        return error_errno(err, errno, "%s cannot be removed", name);
    int r = check_device(removal->device, directory_fd, name, err);
    if (r < 0 || removal->depth == DEPTH_MAX)
        return r < 0 ? r : move_up(removal, directory_fd, name, err);
    auto_close int fd = directory_open_own(directory_fd, name);
    if (fd < 0)
        return error_errno(err, errno, "%s cannot be opened", name);
    removal->depth++;
    r = directory_walk(fd, ".", remove_one, removal, err);
    removal->depth--;
    if (r < 0)
        return error_prefix(err, r, "%s", name);
    return unlinkat(directory_fd, name, AT_REMOVEDIR) == 0 || errno == ENOENT
               ? 0
               : error_errno(err, errno, "%s cannot be removed", name);
}

int directory_empty(int directory_fd, struct error *err)
{
    struct removal removal = {.top_fd = directory_fd};
    struct stat st;
    unsigned moved;
    int r;
    if (fstat(directory_fd, &st) < 0)
        return error_errno(err, errno, "a directory cannot be checked");
    removal.device = st.st_dev;
    do {
        moved = removal.moved;
        r = directory_walk(directory_fd, ".", remove_one, &removal, err);
    } while (r == 0 && removal.moved != moved);
    return r;
}

int directory_remove(int parent_fd, const char *name, struct error *err)
{
    if (unlinkat(parent_fd, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR)
        return error_errno(err, errno, "%s cannot be removed", name);
    struct stat parent;
    int r = fstat(parent_fd, &parent) < 0 ? error_errno(err, errno, "%s cannot be removed", name)
                                          : check_device(parent.st_dev, parent_fd, name, err);
    if (r < 0)
        return r;
    auto_close int fd = directory_open_own(parent_fd, name);
    r = fd < 0 ? error_errno(err, errno, "%s cannot be opened", name) : directory_empty(fd, err);
    if (r < 0)
        return error_prefix(err, r, "%s cannot be removed", name);
    return unlinkat(parent_fd, name, AT_REMOVEDIR) == 0
               ? 0
               : error_errno(err, errno, "%s cannot be removed", name);
}
