/* SPDX-License-Identifier: MIT */
#include "util/unix_socket.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "util/cleanup.h"

enum { BACKLOG = 8 };

/* `name` "": of the socket that the descriptor is. */
static struct sockaddr_un address_of(int fd, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int length = snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d%s%s", fd,
                          name[0] ? "/" : "", name);
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

int unix_socket_find(int directory_fd, const char *name, int *ret, struct error *err)
{
    auto_close int fd = openat(directory_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return error_errno(err, errno, "nobody answers at the socket %s", name);
    if (!S_ISSOCK(st.st_mode))
        return error_set(err, EIO, "%s is not a socket", name);
    *ret = steal_fd(&fd);
    return 0;
}

int unix_socket_connect(int directory_fd, const char *name, int *ret, struct error *err)
{
    auto_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_errno(err, errno, "no socket for %s", name);
    auto_close int place = -1;
    int r = unix_socket_find(directory_fd, name, &place, err);
    if (r < 0)
        return r;
    struct sockaddr_un address = address_of(place, "");
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
