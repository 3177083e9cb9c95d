/* SPDX-License-Identifier: MIT */
#include "guest/hook.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { READ_SIZE = 1024 };

/* The last line with something in it, of a text that comes in pieces. */
struct last_line {
    char text[HYPEFS_MAILBOX_REASON_MAX + 1];
    size_t size;
    bool ended; /* the next character begins a new line */
};

static void block(sigset_t *ret)
{
    sigemptyset(ret);
    sigaddset(ret, SIGCHLD);
    sigaddset(ret, SIGTERM);
    sigaddset(ret, SIGINT);
}

int signals_open(struct signals *ret)
{
    sigset_t set;
    block(&set);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return -errno;
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        return -errno;
    *ret = (struct signals){.fd = fd};
    return 0;
}

/* True if `child` was among those that ended. */
static bool reap(pid_t child, int *ret_status)
{
    bool found = false;
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        if (pid == child) {
            *ret_status = status;
            found = true;
        }
    return found;
}

static void read_signals(struct signals *signals)
{
    struct signalfd_siginfo info;
    while (read(signals->fd, &info, sizeof info) == (ssize_t)sizeof info)
        if (info.ssi_signo != SIGCHLD)
            signals->stop = true;
}

void signals_handle(struct signals *signals)
{
    int status;
    read_signals(signals);
    reap(-1, &status);
}

static void collect(struct last_line *line, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (text[i] == '\n' || text[i] == '\r') {
            line->ended = true;
            continue;
        }
        if (line->ended && text[i] != ' ' && text[i] != '\t') {
            line->size = 0;
            line->ended = false;
        }
        if (!line->ended && line->size < sizeof line->text - 1)
            line->text[line->size++] = text[i];
    }
}

static void pass_on(const char *text, size_t size)
{
    while (size > 0) {
        ssize_t n = write(STDOUT_FILENO, text, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return; /* a console that is gone is no reason to fail a hook */
        text += n;
        size -= (size_t)n;
    }
}

/* False at the end of the output. */
static bool read_output(int fd, struct last_line *line)
{
    char text[READ_SIZE];
    ssize_t n;
    while ((n = read(fd, text, sizeof text)) > 0) {
        collect(line, text, (size_t)n);
        pass_on(text, (size_t)n);
    }
    return n < 0 && (errno == EAGAIN || errno == EINTR);
}

static int spawn(const char *program, int input, int output, pid_t *ret)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, defaults;
    char *argv[] = {(char *)program, NULL};

    sigemptyset(&none);
    block(&defaults);
    sigaddset(&defaults, SIGPIPE);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    int r = posix_spawnp(ret, program, &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return -r;
}

static int check_file(const char *path)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EACCES;
    return access(path, X_OK) < 0 ? -errno : 0;
}

int hook_check(const char *program)
{
    const char *folders = getenv("PATH");
    if (strchr(program, '/'))
        return check_file(program);
    int r = -ENOENT;
    for (const char *at = folders ? folders : "/bin:/usr/bin"; r < 0; at++) {
        char path[PATH_MAX];
        const size_t size = strcspn(at, ":");
        snprintf(path, sizeof path, "%.*s%s%s", (int)size, at, size > 0 ? "/" : "", program);
        int found = check_file(path);
        r = found == -ENOENT || found == -ENOTDIR ? r : found;
        at += size;
        if (!*at)
            break;
    }
    return r;
}

/* A pipe that holds the whole payload: it is smaller than any pipe, so nobody has to feed it. */
static int payload_pipe(const char *payload, size_t size)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    ssize_t n = write(ends[1], payload, size);
    int r = n < 0 ? -errno : n == (ssize_t)size ? 0 : -EIO;
    close(ends[1]);
    if (r < 0)
        close(ends[0]);
    return r < 0 ? r : ends[0];
}

/* Starts the hook. Returns the descriptor that its output is read from, or -errno. */
static int start(const char *program, const char *mailbox, const char *payload, size_t size,
                 pid_t *ret)
{
    int ends[2];

    if (setenv("HYPEFS_MAILBOX", mailbox, 1) < 0)
        return -errno;
    int input = payload_pipe(payload, size);
    if (input < 0)
        return input;
    int r = pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0 ? -errno : 0;
    if (r == 0) {
        /* Only our end must not block: the hook writes like any program. */
        fcntl(ends[1], F_SETFL, 0);
        r = spawn(program, input, ends[1], ret);
        close(ends[1]);
        if (r < 0)
            close(ends[0]);
    }
    close(input);
    return r < 0 ? r : ends[0];
}

static int wait_for(pid_t pid, int output, struct signals *signals, struct last_line *line)
{
    struct pollfd fds[] = {{.fd = signals->fd, .events = POLLIN}, {.fd = output, .events = POLLIN}};
    int status = 0;

    while (!reap(pid, &status)) {
        poll(fds, 2, -1);
        read_signals(signals);
        if (fds[1].revents && !read_output(output, line))
            fds[1].fd = -1;
    }
    read_output(output, line);
    return status;
}

void hook_run(const char *program, const char *mailbox, const char *payload, size_t size,
              struct signals *signals, struct hook_result *ret)
{
    struct last_line line = {0};
    pid_t pid;

    *ret = (struct hook_result){.applied = false};
    int output = start(program, mailbox, payload, size, &pid);
    if (output < 0) {
        snprintf(ret->reason, sizeof ret->reason, "cannot run %s: %s", program, strerror(-output));
        return;
    }
    int status = wait_for(pid, output, signals, &line);
    close(output);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        ret->applied = true;
    else if (line.size > 0)
        memcpy(ret->reason, line.text, line.size);
    else if (WIFSIGNALED(status))
        snprintf(ret->reason, sizeof ret->reason, "hook killed by signal %d", WTERMSIG(status));
    else
        snprintf(ret->reason, sizeof ret->reason, "hook exit status %d", WEXITSTATUS(status));
}
