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

#include "guest/output.h"

extern char **environ;

enum { READ_SIZE = 1024 };

enum stream { STREAM_OUTPUT, STREAM_ERRORS, STREAMS };

/* The last line with something in it, of a text that comes in pieces. */
struct last_line {
    char text[HYPEFS_MAILBOX_REASON_MAX + 1];
    size_t size;
    bool ended; /* the next character begins a new line */
};

/* What a hook has said, and the descriptors from which it is read; -1: at its end. */
struct said {
    int fds[STREAMS];
    struct last_line lines[STREAMS];
    struct output output;
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

bool signals_reap(pid_t child, int *ret_status)
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

void signals_read(struct signals *signals)
{
    struct signalfd_siginfo info;
    while (read(signals->fd, &info, sizeof info) == (ssize_t)sizeof info)
        if (info.ssi_signo != SIGCHLD)
            signals->stop = true;
}

void signals_handle(struct signals *signals)
{
    int status;
    signals_read(signals);
    signals_reap(-1, &status);
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

static void read_stream(struct said *said, enum stream stream)
{
    char text[READ_SIZE];
    ssize_t n;
    if (said->fds[stream] < 0)
        return;
    while ((n = read(said->fds[stream], text, sizeof text)) > 0) {
        collect(&said->lines[stream], text, (size_t)n);
        if (stream == STREAM_OUTPUT)
            output_add(&said->output, text, (size_t)n);
        pass_on(text, (size_t)n);
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    close(said->fds[stream]);
    said->fds[stream] = -1;
}

static int spawn(const char *program, int input, int output, int errors, pid_t *ret)
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
    posix_spawn_file_actions_adddup2(&actions, errors, STDERR_FILENO);
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

/* Only our end must not block: the hook writes like any program. */
static int output_pipe(int ends[2])
{
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
        return -errno;
    fcntl(ends[1], F_SETFL, 0);
    return 0;
}

static void close_ends(int ends[2])
{
    close(ends[0]);
    close(ends[1]);
}

/* Starts the hook, whose payload comes from `input`. */
static int start(const char *program, int input, struct said *said, pid_t *ret)
{
    int output[2], errors[2];
    int r = output_pipe(output);
    if (r < 0)
        return r;
    r = output_pipe(errors);
    if (r < 0) {
        close_ends(output);
        return r;
    }
    r = spawn(program, input, output[1], errors[1], ret);
    if (r < 0) {
        close_ends(output);
        close_ends(errors);
        return r;
    }
    close(output[1]);
    close(errors[1]);
    said->fds[STREAM_OUTPUT] = output[0];
    said->fds[STREAM_ERRORS] = errors[0];
    return 0;
}

static int wait_for(pid_t pid, struct signals *signals, struct said *said)
{
    int status = 0;

    while (!signals_reap(pid, &status)) {
        struct pollfd fds[] = {{.fd = signals->fd, .events = POLLIN},
                               {.fd = said->fds[STREAM_OUTPUT], .events = POLLIN},
                               {.fd = said->fds[STREAM_ERRORS], .events = POLLIN}};
        poll(fds, 1 + STREAMS, -1);
        signals_read(signals);
        for (enum stream stream = 0; stream < STREAMS; stream++)
            if (fds[1 + stream].revents)
                read_stream(said, stream);
    }
    for (enum stream stream = 0; stream < STREAMS; stream++)
        read_stream(said, stream);
    return status;
}

/* Its last line, cut so that there is room for what became of it. */
static void explain(const struct said *said, int status, char ret[HYPEFS_MAILBOX_REASON_MAX + 1])
{
    char fate[64];
    const struct last_line *line = &said->lines[STREAM_ERRORS];
    if (line->size == 0)
        line = &said->lines[STREAM_OUTPUT];
    int size = WIFSIGNALED(status)
                   ? snprintf(fate, sizeof fate, "hook killed by signal %d", WTERMSIG(status))
                   : snprintf(fate, sizeof fate, "hook exit status %d", WEXITSTATUS(status));
    size_t room = HYPEFS_MAILBOX_REASON_MAX - (size_t)size - strlen(" ()");
    if (line->size == 0)
        snprintf(ret, HYPEFS_MAILBOX_REASON_MAX + 1, "%s", fate);
    else
        snprintf(ret, HYPEFS_MAILBOX_REASON_MAX + 1, "%.*s (%s)",
                 (int)(line->size < room ? line->size : room), line->text, fate);
}

void hook_run(const char *program, const char *mailbox, const char *payload, size_t size,
              struct signals *signals, struct hook_result *ret)
{
    struct said said = {.fds = {-1, -1}};
    pid_t pid;

    *ret = (struct hook_result){.applied = false};
    int r = setenv("HYPEFS_MAILBOX", mailbox, 1) < 0 ? -errno : 0;
    int input = r == 0 ? payload_pipe(payload, size) : r;
    r = input < 0 ? input : start(program, input, &said, &pid);
    if (input >= 0)
        close(input);
    if (r < 0) {
        snprintf(ret->reason, sizeof ret->reason, "cannot run %s: %s", program, strerror(-r));
        return;
    }
    int status = wait_for(pid, signals, &said);
    for (enum stream stream = 0; stream < STREAMS; stream++)
        if (said.fds[stream] >= 0)
            close(said.fds[stream]);
    ret->applied = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (ret->applied)
        ret->reply_size = output_reply(&said.output, ret->reply, HYPEFS_MAILBOX_REPLY_MAX);
    else
        explain(&said, status, ret->reason);
    explicit_bzero(&said, sizeof said);
}
