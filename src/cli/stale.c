/* SPDX-License-Identifier: MIT */
#include "cli/stale.h"

#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/process.h"
#include "util/timing.h"

enum { UNMOUNT_TIMEOUT_MS = 10000, OUTPUT_MAX = 512 };

/* What look() finds, if it does not fail. */
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

int stale_is_mounted(const char *path, const char *type, struct error *err)
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

static int is_ours(const char *path, struct error *err)
{
    return stale_is_mounted(path, "fuse.hypefs", err);
}

/*
 * stat(), in a process of its own: a daemon that is stopped or hangs does not answer, and who has
 * asked it may not be killed then. 0, or what stat() failed with; ETIMEDOUT at the deadline;
 * -errno: it could not be asked.
 */
static int ask(const char *path, double deadline_ms, struct error *err)
{
    struct stat st;
    siginfo_t info = {0};
    auto_close int pidfd = -1;
    /* As fork(), but there is no child without a descriptor of it. */
    pid_t pid = (pid_t)syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, NULL, &pidfd, NULL, NULL);
    if (pid == 0) {
        setsid();
        _exit(stat(path, &st) == 0 ? 0 : errno);
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
static int look(const char *path, double deadline_ms, struct error *err)
{
    int r = is_ours(path, err);
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
    return r == 0 || is_ours(path, NULL) == 0 ? NONE : r;
}

int stale_clear(const char *mountpoint, struct error *err)
{
    auto_free char *path = canonical(mountpoint);
    auto_close int mounts = open("/proc/self/mounts", O_RDONLY | O_CLOEXEC);
    double deadline_ms = process_now_ms() + timing_ms(TIMING_UNMOUNT), left_ms;
    int r = path ? look(path, deadline_ms, err) : NONE;
    /* A daemon that was told to end unmounts in a moment. One that has answered is never called
     * silent, although the deadline leaves a later look no time. */
    while (r == ANSWERS && (left_ms = deadline_ms - process_now_ms()) > 0) {
        poll(&(struct pollfd){.fd = mounts, .events = POLLPRI}, 1, (int)left_ms + 1);
        int again = look(path, deadline_ms, err);
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
