/* SPDX-License-Identifier: MIT */
#include "util/plain_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util/cleanup.h"

int plain_file_open(int directory_fd, const char *path, int flags, const char *what, int *ret,
                    struct error *err)
{
    struct open_how how = {.flags =
                               (unsigned)flags | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
                           .resolve = RESOLVE_NO_SYMLINKS};
    struct stat st;
    auto_close int fd = (int)syscall(SYS_openat2, directory_fd, path, &how, sizeof how);
    if (fd >= 0 && fstat(fd, &st) < 0)
        return error_io(err, errno, "%s cannot be opened", what);
    /* A link; a FIFO or a socket that is opened to write; a directory likewise. */
    if (fd >= 0 ? !S_ISREG(st.st_mode) : errno == ELOOP || errno == ENXIO || errno == EISDIR)
        return error_set(err, EIO, "%s is not a regular file", what);
    if (fd < 0)
        return error_io(err, errno, "%s cannot be opened", what);
    *ret = steal_fd(&fd);
    return 0;
}
