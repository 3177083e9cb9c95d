/* SPDX-License-Identifier: MIT */
#include "store/strays.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>

#include "util/cleanup.h"
#include "util/process.h"

enum { END_MS = 5000 };

struct stray {
    pid_t pid;
    dev_t device;
    ino_t inode;
};

static int directory_of(pid_t pid, struct stat *ret)
{
    char path[48];
    snprintf(path, sizeof path, "/proc/%d/cwd", (int)pid);
    return stat(path, ret);
}

void strays_find(struct strays *ret)
{
    struct stat cwd;
    auto_closedir DIR *proc = opendir("/proc");
    *ret = (struct strays){0};
    for (struct dirent *entry; proc && (entry = readdir(proc));) {
        pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
        if (pid <= 0 || pid == getpid() || directory_of(pid, &cwd) < 0)
            continue;
        struct stray *longer = reallocarray(ret->items, ret->count + 1, sizeof *longer);
        if (!longer)
            return;
        ret->items = longer;
        ret->items[ret->count++] =
            (struct stray){.pid = pid, .device = cwd.st_dev, .inode = cwd.st_ino};
    }
}

void strays_finish(struct strays *strays)
{
    free(strays->items);
    *strays = (struct strays){0};
}

/* The pid may be another process's by now: so its directory is looked at again. */
static void end(const struct stray *stray)
{
    struct stat cwd;
    auto_close int pidfd = pidfd_open(stray->pid, 0);
    if (pidfd < 0 || directory_of(stray->pid, &cwd) < 0 || cwd.st_dev != stray->device ||
        cwd.st_ino != stray->inode || !process_has_mark(stray->pid))
        return;
    if (pidfd_send_signal(pidfd, SIGKILL, NULL, 0) == 0)
        poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, END_MS);
}

void strays_end(const struct strays *strays, int directory_fd, pid_t keep)
{
    struct stat directory;
    if (fstat(directory_fd, &directory) < 0)
        return;
    for (size_t i = 0; i < strays->count; i++) {
        const struct stray *stray = &strays->items[i];
        if (stray->device == directory.st_dev && stray->inode == directory.st_ino &&
            stray->pid != keep)
            end(stray);
    }
}
