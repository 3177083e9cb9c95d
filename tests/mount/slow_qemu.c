/* SPDX-License-Identifier: MIT */
/*
 * slow_qemu: laid over QEMU with LD_PRELOAD. It opens the FIFO HYPEFS_TEST_MARK, which wakes up who
 * reads that, and stays in one call for good, to be ended there: with HYPEFS_TEST_STAY=accept it
 * has just taken its control connection, with =state it is about to read the device state that it
 * was told to load.
 */
#undef _FILE_OFFSET_BITS
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static void stay(const char *where)
{
    const char *wanted = getenv("HYPEFS_TEST_STAY"), *mark = getenv("HYPEFS_TEST_MARK");
    if (!wanted || !mark || strcmp(wanted, where) != 0)
        return;
    close(open(mark, O_WRONLY | O_CLOEXEC));
    for (;;)
        poll(NULL, 0, -1);
}

static bool is_state(int fd)
{
    static const char name[] = "/state";
    char link[40], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    path[size > 0 ? size : 0] = 0;
    return size >= (ssize_t)sizeof name && strcmp(path + size - (sizeof name - 1), name) == 0;
}

/* As <sys/socket.h> has it, where the address is a union of glibc's. */
int accept4(int fd, void *address, unsigned *size, int flags);

__attribute__((visibility("default"))) int accept4(int fd, void *address, unsigned *size, int flags)
{
    int connection = (int)syscall(SYS_accept4, fd, address, size, flags);
    if (connection >= 0)
        stay("accept");
    return connection;
}

__attribute__((visibility("default"))) ssize_t readv(int fd, const struct iovec *parts, int count)
{
    if (is_state(fd))
        stay("state");
    return syscall(SYS_readv, fd, parts, count);
}
