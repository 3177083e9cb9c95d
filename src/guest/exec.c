/* SPDX-License-Identifier: MIT */
#include "guest/exec.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/exec_output.h"
#include "guest/exec_request.h"
#include "guest/internal.h"
#include "guest/user.h"

extern char **environ;

enum {
    TERM_MS = 2000, /* from SIGTERM to SIGKILL */
    NOT_FOUND = 127,
    NOT_RUN = 126,
    READ_SIZE = 4096,
    FIXED_SIZE = 160, /* of a reply: all but what was printed */
};

enum stream { OUTPUT, ERRORS, STREAMS };

struct command {
    const struct exec_request *request;
    struct user user;
    pid_t pid;
    int input_fd, fds[STREAMS], failure_fd; /* ours; -1: closed */
    size_t fed;                             /* bytes of the input */
    struct exec_output outputs[STREAMS];
    int64_t deadline_ms; /* 0: none. Of the next signal */
    int next_signal;
    bool timed_out;
    int status; /* of waitpid() */
};

/* ---- starting it ---- */

static int open_pipe(int *ret_ours, int *ret_its, bool we_write)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    *ret_ours = ends[we_write];
    *ret_its = ends[!we_write];
    return fcntl(*ret_ours, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* What the command has besides the agent's environment: that user's, and what is asked for. */
static int set_environment(const struct command *command)
{
    const struct exec_request *request = command->request;
    int r = request->user ? user_set_environment(&command->user) : 0;
    for (char **pair = request->env; *pair && r == 0; pair++)
        r = putenv(*pair) < 0 ? -errno : 0;
    return r;
}

/* What a command could not have, in the words of its reply. */
enum lack { PROGRAM, USER, FOLDER };
struct failure {
    enum lack lack;
    int r; /* -errno */
};

/* In the child. */
static struct failure try_to_run(const struct command *command)
{
    const struct exec_request *request = command->request;
    sigset_t none;
    int r = request->user ? user_become(&command->user) : 0;
    if (r < 0)
        return (struct failure){USER, r};
    if (request->cwd && chdir(request->cwd) < 0)
        return (struct failure){FOLDER, -errno};
    sigemptyset(&none);
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execvp(request->argv[0], request->argv);
    return (struct failure){PROGRAM, -errno};
}

/* In the child. Does not return. */
static void become(const struct command *command, const int its[3], int failure_fd)
{
    setsid();
    for (int i = 0; i < 3; i++)
        dup2(its[i], i);
    struct failure failure = {PROGRAM, set_environment(command)};
    if (failure.r == 0)
        failure = try_to_run(command);
    (void)!write(failure_fd, &failure, sizeof failure);
    _exit(NOT_RUN);
}

static int fork_it(struct command *command)
{
    int its[3] = {-1, -1, -1}, failure_fd = -1;
    int r = open_pipe(&command->input_fd, &its[0], true);
    for (int i = 0; i < STREAMS && r == 0; i++)
        r = open_pipe(&command->fds[i], &its[1 + i], false);
    if (r == 0)
        r = open_pipe(&command->failure_fd, &failure_fd, false);
    if (r == 0) {
        command->pid = fork();
        r = command->pid < 0 ? -errno : 0;
    }
    if (r == 0 && command->pid == 0)
        become(command, its, failure_fd);
    for (int i = 0; i < 3; i++)
        close_fd(&its[i]);
    close_fd(&failure_fd);
    return r;
}

/* ---- while it runs ---- */

static void feed(struct command *command)
{
    const struct exec_request *request = command->request;
    while (command->fed < request->input_size) {
        ssize_t n = write(command->input_fd, request->input + command->fed,
                          request->input_size - command->fed);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n < 0)
            break; /* it wants no more */
        command->fed += (size_t)n;
    }
    close_fd(&command->input_fd);
}

static void read_output(struct command *command, enum stream stream)
{
    char bytes[READ_SIZE];
    ssize_t n;
    while ((n = read(command->fds[stream], bytes, sizeof bytes)) > 0)
        exec_output_add(&command->outputs[stream], bytes, (size_t)n);
    explicit_bzero(bytes, sizeof bytes);
    if (n == 0 || (errno != EAGAIN && errno != EINTR))
        close_fd(&command->fds[stream]);
}

/* A SIGKILL follows if it does not end. */
static void end_by(struct command *command, int number)
{
    if (kill(-command->pid, number) < 0) /* it has no group of its own yet */
        kill(command->pid, number);
    command->deadline_ms = number == SIGKILL ? 0 : guest_now_ms() + TERM_MS;
    command->next_signal = SIGKILL;
}

static void look_at_time(struct command *command)
{
    if (!command->deadline_ms || guest_now_ms() < command->deadline_ms)
        return;
    command->timed_out = command->timed_out || command->next_signal == SIGTERM;
    end_by(command, command->next_signal);
}

static void wait_for(struct command *command, struct signals *signals)
{
    bool stops = false;
    while (!signals_reap(command->pid, &command->status)) {
        struct pollfd fds[] = {{signals->fd, POLLIN, 0},
                               {command->fds[OUTPUT], POLLIN, 0},
                               {command->fds[ERRORS], POLLIN, 0},
                               {command->input_fd, POLLOUT, 0}};
        const int64_t left = command->deadline_ms ? command->deadline_ms - guest_now_ms() : -1;
        poll(fds, 4, !command->deadline_ms ? -1 : left < 0 ? 0 : (int)left);
        signals_read(signals);
        for (enum stream stream = OUTPUT; stream < STREAMS; stream++)
            if (fds[1 + stream].revents)
                read_output(command, stream);
        if (fds[3].revents)
            feed(command);
        look_at_time(command);
        if (signals->stop && !stops) {
            stops = true;
            end_by(command, SIGTERM);
        }
    }
    for (enum stream stream = OUTPUT; stream < STREAMS; stream++)
        if (command->fds[stream] >= 0)
            read_output(command, stream);
}

/* ---- the reply ---- */

/* In the words of a shell. */
static void say_not_run(struct command *command, struct failure failure)
{
    const struct exec_request *request = command->request;
    const struct {
        const char *deed, *name;
    } lacks[] = {[PROGRAM] = {"run", request->argv[0]},
                 [USER] = {"become the user", request->user},
                 [FOLDER] = {"go to the folder", request->cwd}};
    const bool is_missing = failure.lack == PROGRAM && failure.r == -ENOENT;
    char text[512];
    const int size =
        snprintf(text, sizeof text, "hypefs-guest: cannot %s %.200s: %s\n",
                 lacks[failure.lack].deed, lacks[failure.lack].name,
                 failure.r == -ESRCH ? "there is none of that name" : strerror(-failure.r));
    exec_output_add(&command->outputs[ERRORS], text, (size_t)size);
    command->status = W_EXITCODE(is_missing ? NOT_FOUND : NOT_RUN, 0);
}

static int print_status(const struct command *command, char *ret)
{
    const int status = command->status;
    int size = 0;
    if (WIFEXITED(status))
        size = sprintf(ret, "{\"exit\":%d", WEXITSTATUS(status));
    else if (sigabbrev_np(WTERMSIG(status)))
        size = sprintf(ret, "{\"signal\":\"SIG%s\"", sigabbrev_np(WTERMSIG(status)));
    else
        size = sprintf(ret, "{\"signal\":\"SIG%d\"", WTERMSIG(status));
    return size + sprintf(ret + size, "%s,", command->timed_out ? ",\"timed_out\":true" : "");
}

/* Each gets what it needs, or what the other leaves of the room, at least half of it. */
static size_t share(size_t own, size_t other, size_t room)
{
    const size_t half = room / 2;
    return own <= half ? own : other <= half ? room - other : half;
}

static char *print_reply(struct command *command, size_t max)
{
    static const char *const names[] = {[OUTPUT] = "stdout", [ERRORS] = "stderr"};
    const size_t room = max - FIXED_SIZE;
    size_t lengths[STREAMS];
    uint64_t dropped = 0;
    char *ret = malloc(max + 1);
    if (!ret)
        return NULL;
    for (enum stream stream = OUTPUT; stream < STREAMS; stream++)
        lengths[stream] = exec_output_length(&command->outputs[stream]);
    char *to = ret + print_status(command, ret);
    for (enum stream stream = OUTPUT; stream < STREAMS; stream++) {
        const size_t most = share(lengths[stream], lengths[!stream], room);
        to += exec_output_print(&command->outputs[stream], names[stream], most, to, &dropped);
        *to++ = stream == OUTPUT ? ',' : '}';
    }
    *to = '\0';
    if (dropped > 0)
        sprintf(to - 1, ",\"dropped\":%" PRIu64 "}", dropped);
    return ret;
}

static char *run(struct command *command, size_t max, struct signals *signals)
{
    const struct exec_request *request = command->request;
    struct failure failure = {USER, request->user ? user_find(request->user, &command->user) : 0};
    if (failure.r == 0)
        failure = (struct failure){PROGRAM, fork_it(command)};
    if (failure.r == 0) {
        if (request->timeout_ms > 0)
            command->deadline_ms = guest_now_ms() + request->timeout_ms;
        wait_for(command, signals);
        if (read(command->failure_fd, &failure, sizeof failure) != (ssize_t)sizeof failure)
            failure.r = 0; /* it was run */
    }
    if (failure.r < 0)
        say_not_run(command, failure);
    return print_reply(command, max);
}

char *exec_run(const char *payload, size_t size, size_t max, struct signals *signals,
               char reason[EXEC_REASON_SIZE])
{
    struct exec_request request;
    struct command command = {.request = &request,
                              .input_fd = -1,
                              .fds = {-1, -1},
                              .failure_fd = -1,
                              .next_signal = SIGTERM};
    char *ret = NULL;
    if (exec_request_parse(payload, size, &request, reason, EXEC_REASON_SIZE)) {
        if (exec_output_init(&command.outputs[OUTPUT], max) &&
            exec_output_init(&command.outputs[ERRORS], max))
            ret = run(&command, max, signals);
        if (!ret)
            snprintf(reason, EXEC_REASON_SIZE, "out of memory");
    }
    for (enum stream stream = OUTPUT; stream < STREAMS; stream++) {
        exec_output_finish(&command.outputs[stream]);
        close_fd(&command.fds[stream]);
    }
    close_fd(&command.input_fd);
    close_fd(&command.failure_fd);
    exec_request_finish(&request);
    return ret;
}
