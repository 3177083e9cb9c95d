/* SPDX-License-Identifier: MIT */
#include "util/unix_socket.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "util/cleanup.h"

enum { BACKLOG = 8 };

static struct sockaddr_un address_of(int directory_fd, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int length = snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s",
                          directory_fd, name);
    assert(length > 0 && (size_t)length < sizeof address.sun_path);
    return address;
}

int unix_socket_listen(int directory_fd, const char *name, int *ret, struct error *err)
{
    auto_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_errno(err, errno, "no socket for %s", name);
    if (unlinkat(directory_fd, name, 0) < 0 && errno != ENOENT)
        return error_errno(err, errno, "the old %s cannot be removed", name);
    struct sockaddr_un address = address_of(directory_fd, name);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        return error_errno(err, errno, "the socket %s cannot be made", name);
    if (listen(fd, BACKLOG) < 0) {
        int r = error_errno(err, errno, "no listening on %s", name);
        unlinkat(directory_fd, name, 0);
        return r;
    }
    *ret = steal_fd(&fd);
    return 0;
}

int unix_socket_connect(int directory_fd, const char *name, int *ret, struct error *err)
{
    auto_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_errno(err, errno, "no socket for %s", name);
    struct sockaddr_un address = address_of(directory_fd, name);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) {
        *ret = steal_fd(&fd);
        return 0;
    }
    if (errno == EAGAIN) /* here it is of no limit of the host's, as which it would be told */
        return error_set(err, EIO,
                         "nobody takes connections at the socket %s: its process is stopped, or "
                         "hangs",
                         name);
    return error_errno(err, errno, "nobody answers at the socket %s", name);
}
