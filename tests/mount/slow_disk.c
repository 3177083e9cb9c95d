/* SPDX-License-Identifier: MIT, and no
 * directory with a saved device state is synced.
 */
/*
 * slow_disk: laid over the daemon with LD_PRELOAD, for tests to look at what happens meanwhile. As
 * long as there is a file that the variable names:
 *
 *   HYPEFS_TEST_GATE      reading a memory image waits
 *   HYPEFS_TEST_HELD      a VMM gets no signal, as if the kernel held it for a disk
 *   HYPEFS_TEST_UNERASED  nothing of what was removed from the store is erased
 *   HYPEFS_TEST_UNSYNCED  no instance's directory is synced that has a saved device state
 */
#undef _FILE_OFFSET_BITS
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { LOOK_AGAIN_MS = 5 };

static void read_path(int fd, char *ret, size_t size)
{
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, ret, size - 1);
    ret[length > 0 ? length : 0] = 0;
}

static bool is_image(int fd)
{
    char path[4096];
    read_path(fd, path, sizeof path);
    const char *name = strrchr(path, '/');
    return name && (strcmp(name, "/memory") == 0 || strcmp(name, "/memory (deleted)") == 0 ||
                    strcmp(name, "/base") == 0);
}

static bool is_there(const char *variable)
{
    const char *path = getenv(variable);
    return path && access(path, F_OK) == 0;
}

static ssize_t slow_read(int fd, void *bytes, size_t size, off64_t at)
{
    while (is_image(fd) && is_there("HYPEFS_TEST_GATE"))
        poll(NULL, 0, LOOK_AGAIN_MS);
    return syscall(SYS_pread64, fd, bytes, size, at);
}

__attribute__((visibility("default"))) ssize_t pread(int fd, void *bytes, size_t size, off_t at)
{
    return slow_read(fd, bytes, size, at);
}

__attribute__((visibility("default"))) ssize_t pread64(int fd, void *bytes, size_t size, off64_t at)
{
    return slow_read(fd, bytes, size, at);
}

__attribute__((visibility("default"))) int pidfd_send_signal(int fd, int number, siginfo_t *info,
                                                             unsigned flags)
{
    return number != 0 && is_there("HYPEFS_TEST_HELD")
               ? 0
               : (int)syscall(SYS_pidfd_send_signal, fd, number, info, flags);
}

__attribute__((visibility("default"))) int fsync(int fd)
{
    if (is_there("HYPEFS_TEST_UNSYNCED") && faccessat(fd, "run/state", F_OK, 0) == 0) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

__attribute__((visibility("default"))) int unlinkat(int fd, const char *name, int flags)
{
    char path[4096];
    read_path(fd, path, sizeof path);
    while (strstr(path, "/.gone-") && is_there("HYPEFS_TEST_UNERASED"))
        poll(NULL, 0, LOOK_AGAIN_MS);
    return (int)syscall(SYS_unlinkat, fd, name, flags);
}
