/* SPDX-License-Identifier: MIT */
#include "util/directory.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

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
