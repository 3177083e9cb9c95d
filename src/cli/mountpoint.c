/* SPDX-License-Identifier: MIT */
#include "cli/mountpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mntent.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/directory.h"
#include "util/process.h"
#include "util/timing.h"
#include "util/trust.h"

/* ---- what is mounted there ---- */

enum { UNMOUNT_TIMEOUT_MS = 10000, LAST_LOOK_MS = 1000, OUTPUT_MAX = 512 };

static const char ours[] = "fuse.hypefs"; /* the type of our mounts */

/* What check() finds, if it does not fail. */
enum { ANSWERS, SILENT, NONE };

/* The path as the kernel names it, the last component's own state left alone. */
static char *canonical(const char *path)
{
    auto_free char *copy = strdup(path);
    if (!copy)
        return NULL;
    size_t size = strlen(copy);
    while (size > 1 && (copy[size - 1] == '/' || (copy[size - 1] == '.' && copy[size - 2] == '/')))
        copy[--size] = 0;
    char *slash = strrchr(copy, '/'), *ret = NULL;
    *slash = 0;
    auto_free char *parent = realpath(copy[0] ? copy : "/", NULL);
    if (parent && asprintf(&ret, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, slash + 1) < 0)
        ret = NULL;
    return ret;
}

int mountpoint_has(const char *path, const char *type, struct error *err)
{
    char buffer[8192];
    struct mntent entry;
    bool found = false;
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    if (!mounts)
        return error_errno(err, errno, "cannot read /proc/self/mounts");
    while (getmntent_r(mounts, &entry, buffer, sizeof buffer))
        if (strcmp(entry.mnt_dir, path) == 0)
            found = strncmp(entry.mnt_type, type, strlen(type)) == 0;
    endmntent(mounts);
    return found;
}

/*
 * statx(), in a process of its own: a daemon that is stopped or hangs does not answer, and who has
 * asked it may not be killed then. What the kernel keeps is no answer. 0, or what it failed with;
 * ETIMEDOUT at the deadline; -errno: it could not be asked.
 */
static int ask(const char *path, double deadline_ms, struct error *err)
{
    struct statx st;
    siginfo_t info = {0};
    auto_close int pidfd = -1;
    /* As fork(), but there is no child without a descriptor of it. */
    pid_t pid = (pid_t)syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, NULL, &pidfd, NULL, NULL);
    if (pid == 0) {
        setsid();
        _exit(statx(AT_FDCWD, path, AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &st) == 0 ? 0 : errno);
    }
    if (pid < 0)
        return error_errno(err, errno, "cannot ask the hypefs that is mounted there");
    if (process_poll(&pidfd, 1, deadline_ms) <= 0) {
        process_kill(pid, pidfd, 0, NULL);
        return ETIMEDOUT;
    }
    if (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED) < 0 || info.si_code != CLD_EXITED)
        return error_set(err, EIO,
                         "the process that asked the hypefs that is mounted there was killed");
    return info.si_status;
}

/* -errno: one cannot be cleared, or it is not known what is there. */
static int check(const char *path, double deadline_ms, struct error *err)
{
    int r = mountpoint_has(path, ours, err);
    if (r <= 0)
        return r < 0 ? r : NONE;
    int code = ask(path, deadline_ms, err);
    if (code < 0)
        return code;
    if (code == 0)
        return ANSWERS;
    if (code == ETIMEDOUT)
        return SILENT;
    if ((code != ENOTCONN && code != ECONNABORTED) || umount2(path, MNT_DETACH) == 0)
        return NONE;
    auto_free char *output = NULL;
    const char *const argv[] = {"fusermount3", "-u", "-z", "--", path, NULL};
    r = process_output(-1, argv, OUTPUT_MAX, UNMOUNT_TIMEOUT_MS, -1, &output, err);
    return r == 0 || mountpoint_has(path, ours, NULL) == 0 ? NONE : r;
}

int mountpoint_clear(const char *mountpoint, struct error *err)
{
    auto_free char *path = canonical(mountpoint);
    auto_close int mounts = open("/proc/self/mounts", O_RDONLY | O_CLOEXEC);
    /* That of one that was killed is ECONNABORTED, once its last thread has ended. */
    int r = path ? check(path, process_now_ms() + timing_ms(TIMING_SILENT), err) : NONE;
    double deadline_ms = process_now_ms() + timing_ms(TIMING_UNMOUNT), left_ms;
    /* A daemon that was told to end unmounts in a moment. One that has answered is never called
     * silent, and the last look at it has time, too: a process that asked and was given up would
     * keep the mount from being unmounted. */
    while (r == ANSWERS && (left_ms = deadline_ms - process_now_ms()) > 0) {
        poll(&(struct pollfd){.fd = mounts, .events = POLLPRI}, 1, (int)left_ms + 1);
        int again = check(path, deadline_ms + LAST_LOOK_MS, err);
        r = again == SILENT ? r : again;
    }
    if (r < 0)
        return error_prefix(err, r, "cannot clear the stale mount at %s", mountpoint);
    if (r == SILENT)
        return error_set(err, EBUSY,
                         "a hypefs is mounted at %s already, and its daemon does not answer: if "
                         "it is stopped, let it go on (SIGCONT); if it hangs, kill it, and mount "
                         "again",
                         mountpoint);
    return r == NONE ? 0 : error_set(err, EBUSY, "a hypefs is mounted at %s already", mountpoint);
}

/* ---- before anything is mounted ---- */

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
    int r = mountpoint_clear(mountpoint, err);
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
    r = mountpoint_clear(path, err);
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
