/* SPDX-License-Identifier: MIT */
#include "util/directory.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
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

static int remove_file(void *context, int directory_fd, const char *name, struct error *err)
{
    (void)context;
    return unlinkat(directory_fd, name, 0) == 0 || errno == ENOENT
               ? 0
               : error_errno(err, errno, "%s cannot be removed", name);
}

int directory_empty(int directory_fd, struct error *err)
{
    return directory_walk(directory_fd, ".", remove_file, NULL, err);
}

int directory_remove(int parent_fd, const char *name, struct error *err)
{
    if (unlinkat(parent_fd, name, 0) == 0 || errno == ENOENT)
        return 0;
    int r = errno == EISDIR ? directory_walk(parent_fd, name, remove_file, NULL, err) : 0;
    if (r < 0)
        return error_prefix(err, r, "%s cannot be removed", name);
    if (unlinkat(parent_fd, name, AT_REMOVEDIR) == 0)
        return 0;
    return error_errno(err, errno, "%s cannot be removed", name);
}
