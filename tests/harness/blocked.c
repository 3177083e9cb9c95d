/* SPDX-License-Identifier: MIT */
/*
 * blocked: does a process wait for the daemon's answer? It sleeps in a system call that is about a
 * file of the mount, and goes on sleeping there though all threads of the daemon have come to rest:
 * so the daemon has read the request and has put off its answer. Also: stopping a process for good.
 */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness/internal.h"
#include "util/cleanup.h"

enum { TEXT_SIZE = 4096 };

/* "" where it cannot be read: the process is gone, say. */
static void read_text(const char *path, char ret[static TEXT_SIZE])
{
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd >= 0 ? read(fd, ret, TEXT_SIZE - 1) : -1;
    ret[size > 0 ? size : 0] = 0;
}

/* "running", or the number and arguments of the system call that the process sleeps in. */
static void system_call(pid_t pid, char ret[static TEXT_SIZE])
{
    char path[48];
    snprintf(path, sizeof path, "/proc/%d/syscall", (int)pid);
    read_text(path, ret);
}

/* The commands' working directory is the mount: a path in it is a relative one. */
static bool is_path_of_mount(pid_t pid, unsigned long address)
{
    char path[48], start[2] = "";
    snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd >= 0 && pread(fd, start, 1, (off_t)address) == 1 && start[0] && start[0] != '/';
}

static bool is_file_of_mount(const struct harness *h, pid_t pid, unsigned long fd)
{
    char path[64], target[TEXT_SIZE];
    size_t length = strlen(h->mount);
    snprintf(path, sizeof path, "/proc/%d/fd/%lu", (int)pid, fd);
    ssize_t size = readlink(path, target, sizeof target - 1);
    target[size > 0 ? size : 0] = 0;
    return strncmp(target, h->mount, length) == 0 && target[length] == '/';
}

static bool is_of_mount(const struct harness *h, pid_t pid, const char *call)
{
    long number;
    unsigned long first, second;
    if (sscanf(call, "%ld %lx %lx", &number, &first, &second) != 3)
        return false;
    switch (number) {
    case SYS_write:
    case SYS_read:
    case SYS_pread64:
    case SYS_getdents64:
        return is_file_of_mount(h, pid, first);
    case SYS_newfstatat: /* fstat() is that one without a path */
    case SYS_statx:
        return is_path_of_mount(pid, second) || is_file_of_mount(h, pid, first);
    case SYS_openat:
    case SYS_mkdirat:
        return is_path_of_mount(pid, second);
    case SYS_mkdir:
        return is_path_of_mount(pid, first);
    default:
        return false;
    }
}

/* S: it sleeps; T: it is stopped. */
static bool is_in_state(const char *stat, char state)
{
    const char *name_end = strrchr(stat, ')');
    return name_end && name_end[1] == ' ' && name_end[2] == state;
}

static bool all_threads_are(pid_t pid, char state)
{
    char path[300], stat[TEXT_SIZE];
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    auto_closedir DIR *tasks = pid > 0 ? opendir(path) : NULL;
    for (struct dirent *task; tasks && (task = readdir(tasks));) {
        if (task->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/stat", (int)pid, task->d_name);
        read_text(path, stat);
        if (stat[0] && !is_in_state(stat, state))
            return false;
    }
    return tasks != NULL;
}

struct watched {
    const struct harness *h;
    pid_t pid;
};

static bool is_blocked(void *argument)
{
    const struct watched *watched = argument;
    char before[TEXT_SIZE], after[TEXT_SIZE];
    system_call(watched->pid, before);
    if (!is_of_mount(watched->h, watched->pid, before) || !all_threads_are(watched->h->daemon, 'S'))
        return false;
    system_call(watched->pid, after);
    return strcmp(before, after) == 0;
}

void harness_await_blocked(struct harness *h, pid_t pid)
{
    struct watched watched = {.h = h, .pid = pid};
    harness_await_that(is_blocked, &watched, "the process waits for the daemon");
}

static bool is_stopped(void *pid)
{
    return all_threads_are(*(pid_t *)pid, 'T');
}

void harness_stop_process(pid_t pid)
{
    if (kill(pid, SIGSTOP) < 0)
        give_up("cannot stop the process %d", (int)pid);
    harness_await_that(is_stopped, &pid, "the process stands still");
}
