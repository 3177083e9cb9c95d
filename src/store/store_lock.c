/* SPDX-License-Identifier: MIT */
#include "store/store_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/file.h>
#include <sys/pidfd.h>

#include "util/cleanup.h"
#include "util/limit.h"
#include "util/process.h"
#include "util/timing.h"

enum { LOCK_LOOK_MS = 20, OWNER_SIZE = 24 };

/* Returns when that one has ended, or soon if it is not known or has ended and another is next. */
static void wait_for_end(pid_t pid, int timeout_ms)
{
    auto_close int pidfd = pid > 0 ? pidfd_open(pid, 0) : -1;
    struct pollfd end = {.fd = pidfd, .events = POLLIN};
    if (pidfd < 0 || poll(&end, 1, 0) > 0)
        poll(NULL, 0, LOCK_LOOK_MS);
    else
        poll(&end, 1, timeout_ms);
}

/* -EWOULDBLOCK: another has it, whose pid is in `owner` if that is known. */
static int try_lock(int fd, char owner[OWNER_SIZE])
{
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    if (errno != EWOULDBLOCK)
        return -errno;
    ssize_t size = pread(fd, owner, OWNER_SIZE - 1, 0);
    owner[size > 0 ? strcspn(owner, "\n") : 0] = 0;
    return -EWOULDBLOCK;
}

/* A daemon that was told to end may not be gone yet. */
static int lock_patiently(int fd, char owner[OWNER_SIZE])
{
    double left_ms = timing_ms(TIMING_LOCK), deadline_ms = process_now_ms() + left_ms;
    int r;
    while ((r = try_lock(fd, owner)) == -EWOULDBLOCK && left_ms > 0) {
        wait_for_end((pid_t)strtol(owner, NULL, 10), (int)left_ms + 1);
        left_ms = deadline_ms - process_now_ms();
    }
    return r;
}

int store_lock_take(int store_fd, const char *path, struct error *err)
{
    char owner[OWNER_SIZE] = "";
    auto_close int fd = openat(store_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return error_errno(err, errno, "cannot open the store's lock %s/lock", path);
    int r = lock_patiently(fd, owner);
    if (r < 0 && r != -EWOULDBLOCK)
        return error_errno(err, -r, "cannot lock the store, by flock() of %s/lock", path);
    if (r < 0)
        return error_set(err, EBUSY,
                         "the store %s is in use by another hypefs (pid %s): unmount that one, or "
                         "end it by kill, and wait until it has ended; or give this one another "
                         "--store",
                         path, owner[0] ? owner : "unknown");
    snprintf(owner, sizeof owner, "%d\n", (int)getpid());
    /* Without room for its pid the daemon is unknown, but alone. */
    if (ftruncate(fd, 0) < 0 || (pwrite(fd, owner, strlen(owner), 0) < 0 && !limit_is_room(errno)))
        return error_errno(err, errno, "cannot write the store's lock %s/lock", path);
    return steal_fd(&fd);
}

pid_t store_lock_owner(int store_fd)
{
    char owner[OWNER_SIZE] = "";
    auto_close int fd = openat(store_fd, "lock", O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    return fd >= 0 && try_lock(fd, owner) == -EWOULDBLOCK ? (pid_t)strtol(owner, NULL, 10) : 0;
}

void store_lock_give(int fd)
{
    /* Should it fail, the pid stays, as that of a daemon that was killed does. */
    (void)!ftruncate(fd, 0);
    close(fd);
}
