/* SPDX-License-Identifier: MIT */
#include "store/strays.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "util/cleanup.h"
#include "util/directory.h"
#include "util/file_key.h"
#include "util/process.h"

enum { END_MS = 5000, EXEC_MS = 200, LOOK_MS = 5 };

struct stray {
    pid_t pid;
    struct file_id directory;
};

/* Without asking the file system. */
static int directory_of(int parent_fd, const char *path, struct file_id *ret)
{
    struct statx st;
    int flags = AT_STATX_DONT_SYNC | (path[0] ? 0 : AT_EMPTY_PATH);
    if (statx(parent_fd, path, flags, STATX_INO, &st) < 0)
        return -errno;
    *ret = (struct file_id){makedev(st.stx_dev_major, st.stx_dev_minor), st.stx_ino};
    return 0;
}

/* A VMM that is shut in can overwrite its environment; but it is in another pid namespace, and
 * cannot leave its directory. */
static int is_ours(pid_t thread)
{
    int r = process_has_mark(thread);
    return r == 0 && process_has_namespace(thread, "pid") ? 1 : r;
}

/* 1; 0: it is none of ours, or has ended; -errno: it may not be looked at. */
static int find_thread(pid_t thread, struct file_id *ret)
{
    char path[48];
    snprintf(path, sizeof path, "/proc/%d/cwd", (int)thread);
    int r = is_ours(thread);
    if (r > 0 && (r = directory_of(AT_FDCWD, path, ret)) == 0)
        return 1;
    return r == -ENOENT || r == -ESRCH ? 0 : r;
}

/* A directory_visit of a process's threads. */
static int look_at_thread(void *context, int task_fd, const char *name, struct error *err)
{
    struct stray *found = context;
    pid_t thread = (pid_t)strtol(name, NULL, 10);
    (void)task_fd;
    (void)err;
    if (found->pid == 0 && thread > 0 && find_thread(thread, &found->directory) > 0)
        found->pid = thread;
    return 0;
}

/* The same of a process. Where it was killed and the kernel holds another of its threads, the first
 * one has ended, and has neither directory nor environment any more. */
static int look_once(pid_t pid, struct file_id *ret)
{
    struct stray found = {0};
    char path[48];
    int r = find_thread(pid, ret);
    if (r != 0 || !process_has_ended(pid))
        return r;
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    (void)!directory_walk(AT_FDCWD, path, look_at_thread, &found, NULL);
    *ret = found.directory;
    return found.pid > 0;
}

/* In the middle of its exec it has no environment for a moment, which is long on a busy host; other
 * processes never have one: so that not each of them is waited for, there is one deadline for all
 * of a search (0 at first). */
static int is_stray(pid_t pid, double *deadline_ms, struct file_id *ret)
{
    int r;
    while ((r = look_once(pid, ret)) == -ENODATA) {
        if (*deadline_ms == 0)
            *deadline_ms = process_now_ms() + EXEC_MS;
        else if (process_now_ms() > *deadline_ms)
            return 0;
        poll(NULL, 0, LOOK_MS);
    }
    return r;
}

int strays_is_in(pid_t pid, int directory_fd)
{
    double deadline_ms = 0;
    struct file_id directory = {0}, place = {0};
    int r = directory_of(directory_fd, "", &directory);
    if (r == 0)
        r = is_stray(pid, &deadline_ms, &place);
    return r > 0 ? file_id_equal(place, directory) : r;
}

struct search {
    struct strays *found;
    double deadline_ms;
};

/* A directory_visit of /proc. */
static int look_at(void *context, int proc_fd, const char *name, struct error *err)
{
    struct search *search = context;
    struct strays *strays = search->found;
    struct stray stray = {.pid = (pid_t)strtol(name, NULL, 10)};
    (void)proc_fd;
    if (stray.pid <= 0 || stray.pid == getpid() ||
        is_stray(stray.pid, &search->deadline_ms, &stray.directory) <= 0)
        return 0;
    struct stray *longer = reallocarray(strays->items, strays->count + 1, sizeof *longer);
    if (!longer)
        return error_set(err, ENOMEM, "out of memory");
    strays->items = longer;
    strays->items[strays->count++] = stray;
    return 0;
}

int strays_find(struct strays *ret, struct error *err)
{
    *ret = (struct strays){0};
    struct search search = {.found = ret};
    int r = directory_walk(AT_FDCWD, "/proc", look_at, &search, err);
    return r < 0 ? error_prefix(err, r, "cannot look for VMMs that an earlier daemon left") : 0;
}

void strays_finish(struct strays *strays)
{
    free(strays->items);
    *strays = (struct strays){0};
}

/* The pid may be another process's by now: so it is looked at again. */
static int end(const struct stray *stray, struct error *err)
{
    struct file_id place;
    double deadline_ms = 0;
    auto_close int pidfd = pidfd_open(stray->pid, 0);
    if (pidfd < 0 && (errno == ESRCH || errno == EINVAL || errno == ENOENT))
        return 0;
    if (pidfd < 0)
        return error_errno(err, errno, "the process %d, left by an earlier daemon, cannot be ended",
                           (int)stray->pid);
    if (is_stray(stray->pid, &deadline_ms, &place) <= 0 || !file_id_equal(place, stray->directory))
        return 0;
    pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
    if (process_poll(&pidfd, 1, process_now_ms() + END_MS) > 0)
        return 0;
    return error_set(err, EIO, "the process %d, left by an earlier daemon, " PROCESS_STUCK,
                     (int)stray->pid);
}

int strays_end(const struct strays *strays, int directory_fd, pid_t keep, struct error *err)
{
    struct file_id place;
    int r = directory_of(directory_fd, "", &place);
    if (r < 0)
        return error_errno(err, -r,
                           "cannot find out which processes are in a directory of the store");
    for (size_t i = 0; i < strays->count && r == 0; i++) {
        const struct stray *stray = &strays->items[i];
        if (file_id_equal(stray->directory, place) && stray->pid != keep)
            r = end(stray, err);
    }
    return r;
}
