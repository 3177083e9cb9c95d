/* SPDX-License-Identifier: MIT */
/* run: command lines, and what they say. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "harness/internal.h"
#include "util/cleanup.h"

static void become_command(const struct harness *h, int out, int err, const char *const *argv)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGINT, SIG_DFL); /* who was started in the background ignores these */
    signal(SIGQUIT, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    setpgid(0, 0);
    if (null < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
        _exit(126);
    if (h->daemon == 0 || chdir(h->mount) < 0)
        if (chdir(h->directory) < 0)
            _exit(126);
    execvp(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

struct harness_child harness_start(struct harness *h, const char *const *argv)
{
    struct harness_child child = {.out = memfd_create("out", MFD_CLOEXEC),
                                  .err = memfd_create("err", MFD_CLOEXEC)};
    setenv("M", h->mount, 1);
    setenv("S", h->store, 1);
    setenv("T", h->directory, 1);
    setenv("HOME", h->directory, 1);
    setenv("LC_ALL", "C.UTF-8", 1);
    fflush(NULL);
    child.pid = fork();
    if (child.pid == 0)
        become_command(h, child.out, child.err, argv);
    setpgid(child.pid, child.pid); /* whoever is first: the group is there for a signal */
    child.pidfd = pidfd_open(child.pid, 0);
    if (child.pid < 0 || child.pidfd < 0)
        give_up("cannot start %s", argv[0]);
    return child;
}

static char *take_output(struct harness *h, int fd)
{
    off_t size = lseek(fd, 0, SEEK_END);
    char *text = harness_alloc(h, (size_t)size + 1);
    if (pread(fd, text, (size_t)size, 0) != size)
        give_up("cannot read a command's output");
    close(fd);
    return text;
}

struct harness_result harness_finish(struct harness *h, struct harness_child *child)
{
    bool ended = harness_await_pidfd(child->pidfd, HARNESS_DEADLINE_MS);
    if (!ended)
        kill(-child->pid, SIGKILL);
    struct harness_result result = {.status = harness_reap(child->pid)};
    close(child->pidfd);
    result.out = take_output(h, child->out);
    result.err = take_output(h, child->err);
    if (!ended)
        give_up("a command does not end; it said: %s%s", result.out, result.err);
    return result;
}

struct harness_result harness_run(struct harness *h, const char *const *argv)
{
    struct harness_child child = harness_start(h, argv);
    return harness_finish(h, &child);
}

struct harness_child harness_start_shell(struct harness *h, const char *shell, const char *script)
{
    return harness_start(h, (const char *const[]){shell, "-c", script, NULL});
}

struct harness_result harness_shell(struct harness *h, const char *shell, const char *script)
{
    return harness_run(h, (const char *const[]){shell, "-c", script, NULL});
}

bool harness_has(const char *program)
{
    const char *path = getenv("PATH");
    for (const char *part = path ? path : ""; *part;) {
        char full[4096];
        size_t length = strcspn(part, ":");
        snprintf(full, sizeof full, "%.*s/%s", (int)length, part, program);
        if (access(full, X_OK) == 0)
            return true;
        part += length + (part[length] == ':');
    }
    return false;
}

static bool is_gone(void *pid)
{
    return kill(*(pid_t *)pid, 0) < 0 && errno == ESRCH;
}

void harness_await_gone(pid_t pid)
{
    harness_await_that(is_gone, &pid, "the process is gone");
}
