/* SPDX-License-Identifier: MIT */
/* unix_socket: stream sockets by a name in an open directory, which is reached through its
 * descriptor in /proc: a store's path may be longer than the 107 bytes of an address. Names have no
 * slash and are short. Any thread. */
#ifndef HYPEFS_UTIL_UNIX_SOCKET_H
#define HYPEFS_UTIL_UNIX_SOCKET_H

#include "util/error.h"

/* A listening socket under `name`, which replaces an older one. The descriptor is CLOEXEC. */
int unix_socket_listen(int directory_fd, const char *name, int *ret, struct error *err);

/* The socket itself, for "/proc/self/fd/N", rather than the one that a link under that name leads to:
 * EIO if it is no socket. A CLOEXEC descriptor that is only a place (O_PATH). */
int unix_socket_find(int directory_fd, const char *name, int *ret, struct error *err);

/* Connects to it: CLOEXEC, non-blocking. Does not wait for accept: EIO if too many wait already, or if
 * under that name is a link or anything else but a socket. */
int unix_socket_connect(int directory_fd, const char *name, int *ret, struct error *err);

#endif
