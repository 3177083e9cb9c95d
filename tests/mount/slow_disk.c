/* SPDX-License-Identifier: MIT */
/*
 * slow_disk: laid over the daemon with LD_PRELOAD. Reading a memory image waits for as long as
 * there is a file that HYPEFS_TEST_GATE names: so a test can look at what happens during a scan.
 * And as long as there is a file that HYPEFS_TEST_HELD names, a VMM gets no signal, as if the
 * kernel held it for a disk that does not answer.
 */
#undef _FILE_OFFSET_BITS
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool is_image(int fd)
{
    char link[40], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    path[size > 0 ? size : 0] = 0;
    const char *name = strrchr(path, '/');
    return name && (strcmp(name, "/memory") == 0 || strcmp(name, "/memory (deleted)") == 0);
}

static ssize_t slow_read(int fd, void *bytes, size_t size, off64_t at)
{
    enum { LOOK_AGAIN_MS = 5 };
    const char *gate = getenv("HYPEFS_TEST_GATE");
    while (gate && is_image(fd) && access(gate, F_OK) == 0)
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
    const char *held = getenv("HYPEFS_TEST_HELD");
    if (number != 0 && held && access(held, F_OK) == 0)
        return 0;
    return (int)syscall(SYS_pidfd_send_signal, fd, number, info, flags);
}
