/* SPDX-License-Identifier: MIT */
#include "cli/mountpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/stale.h"
#include "util/cleanup.h"
#include "util/directory.h"
#include "util/process.h"
#include "util/timing.h"
#include "util/trust.h"

enum { LOOK_MS = 10 };

/* Adds what is not there yet to a real path: such directories are made, so there are no links. */
static bool append(char *real, const char *rest)
{
    size_t used = strlen(real);
    for (size_t size; *rest; rest += size) {
        rest += strspn(rest, "/");
        size = strcspn(rest, "/");
        if (size == 2 && rest[0] == '.' && rest[1] == '.') {
            char *slash = strrchr(real, '/');
            used = slash == real ? 1 : (size_t)(slash - real);
        } else if (size > 0 && !(size == 1 && rest[0] == '.')) {
            if (used + 1 + size >= PATH_MAX)
                return false;
            if (used > 1)
                real[used++] = '/';
            memcpy(real + used, rest, size);
            used += size;
        }
        real[used] = 0;
    }
    return true;
}

/* Without links; the last parts need not be there. False: nothing can be told, nor made there. */
static bool resolve(const char *path, char ret[static PATH_MAX])
{
    auto_free char *start = strdup(path);
    size_t size = start ? strlen(start) : 0;
    while (size > 0 && !realpath(start, ret)) {
        while (size > 0 && start[size - 1] == '/')
            start[--size] = 0;
        while (size > 0 && start[size - 1] != '/')
            start[--size] = 0;
    }
    return size > 0 && append(ret, path + size);
}

/* Is it the folder or something in it? */
static bool is_within(const char *path, const char *folder)
{
    size_t size = strcmp(folder, "/") == 0 ? 0 : strlen(folder);
    return strncmp(path, folder, size) == 0 && (path[size] == '/' || path[size] == 0);
}

/* The tree would cover the store, or the store would be written through its own tree. */
static int check_store(const char *mountpoint, const char *store, struct error *err)
{
    char real[PATH_MAX];
    if (!resolve(store, real))
        return 0;
    bool in_store = is_within(mountpoint, real), around_store = is_within(real, mountpoint);
    if (!in_store && !around_store)
        return 0;
    return error_set(err, EINVAL,
                     "cannot mount at %s: it %s the store %s: give another directory, or another "
                     "--store",
                     mountpoint,
                     !around_store ? "lies in"
                     : in_store    ? "is"
                                   : "contains",
                     real);
}

/* A directory_visit: there is something. */
static int refuse(void *context, int directory_fd, const char *name, struct error *err)
{
    (void)context;
    (void)directory_fd;
    (void)name;
    return error_set(
        err, ENOTEMPTY,
        "it is not empty, and the mount would hide what is in it: give an empty directory");
}

static int check_empty(const char *mountpoint, struct error *err)
{
    int r = directory_walk(AT_FDCWD, mountpoint, refuse, NULL, err);
    return r < 0 ? error_prefix(err, r, "cannot mount at %s", mountpoint) : 0;
}

/* Who has the lock is the only one that mounts there. Another who was faster has mounted by then.
 * But anybody who can open the directory can lock it: so nobody waits for long. */
static int lock_place(const char *mountpoint, int *ret, struct error *err)
{
    auto_close int fd = open(mountpoint, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    double deadline_ms = process_now_ms() + timing_ms(TIMING_LOCK);
    bool locked;
    if (fd < 0)
        return error_errno(err, errno, "cannot mount at %s", mountpoint);
    while (!(locked = flock(fd, LOCK_EX | LOCK_NB) == 0) && errno == EWOULDBLOCK &&
           process_now_ms() < deadline_ms)
        poll(NULL, 0, LOOK_MS);
    int r = stale_clear(mountpoint, err);
    if (r == 0)
        *ret = locked ? steal_fd(&fd) : -1;
    return r;
}

void mountpoint_unlock(int lock)
{
    if (lock < 0)
        return;
    flock(lock, LOCK_UN);
    close(lock);
}

int mountpoint_prepare(const char *path, const char *store, char **ret, int *ret_lock,
                       struct error *err)
{
    auto_close int lock = -1;
    struct stat st;
    /* Before anything of it is touched. */
    int r = geteuid() == 0 ? trust_path(path, err) : 0;
    if (r < 0)
        return error_prefix(err, r, "cannot mount at %s", path);
    r = stale_clear(path, err);
    if (r < 0)
        return r;
    if (stat(path, &st) < 0)
        return error_errno(err, errno, "cannot mount at %s", path);
    if (!S_ISDIR(st.st_mode))
        return error_set(err, ENOTDIR, "cannot mount at %s: it is not a directory", path);
    /* libfuse would look at a "." at the end when the mount is there and not served yet. */
    auto_free char *real = realpath(path, NULL);
    if (!real)
        return error_errno(err, errno, "cannot mount at %s", path);
    r = check_store(real, store, err);
    if (r == 0)
        r = lock_place(real, &lock, err);
    if (r == 0)
        r = check_empty(real, err);
    if (r < 0)
        return r;
    *ret = steal_pointer(real);
    *ret_lock = steal_fd(&lock);
    return 0;
}
