/* SPDX-License-Identifier: MIT */
#include "hypervisor/vmm_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"

enum { PATH_SIZE = 64 };

/* 1 or 0; -errno. A descriptor that is closed meanwhile writes nothing. */
static int is_writable(pid_t pid, const char *descriptor)
{
    char path[PATH_SIZE], line[PATH_SIZE];
    unsigned flags = 0;
    snprintf(path, sizeof path, "/proc/%d/fdinfo/%.16s", (int)pid, descriptor);
    auto_fclose FILE *file = fopen(path, "re");
    if (!file)
        return errno == ENOENT ? 0 : -errno;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "flags: %o", &flags) == 1)
            return (flags & O_ACCMODE) != O_RDONLY && !(flags & O_PATH);
    return -EIO;
}

static int cannot_tell(pid_t pid, int code, struct error *err)
{
    if (code == ESRCH || code == ENOENT)
        return error_set(err, ESRCH, "process %d has ended", (int)pid);
    return error_set(err, EIO, "it cannot be told what process %d has open: %s", (int)pid,
                     strerrordesc_np(code));
}

int vmm_files_check_readonly(pid_t pid, const struct stat *file, const char *what,
                             struct error *err)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    auto_closedir DIR *directory = opendir(path);
    if (!directory)
        return cannot_tell(pid, errno, err);
    for (struct dirent *entry; errno = 0, (entry = readdir(directory));) {
        struct stat st;
        if (entry->d_name[0] == '.' || fstatat(dirfd(directory), entry->d_name, &st, 0) < 0 ||
            st.st_ino != file->st_ino || st.st_dev != file->st_dev)
            continue;
        int r = is_writable(pid, entry->d_name);
        if (r < 0)
            return cannot_tell(pid, -r, err);
        if (r > 0)
            return error_set(err, EIO,
                             "the VMM (process %d) has opened %s for writing, and its guest could "
                             "change what others share",
                             (int)pid, what);
    }
    return errno ? cannot_tell(pid, errno, err) : 0;
}
