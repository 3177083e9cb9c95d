/* SPDX-License-Identifier: MIT */
#include "util/process.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/directory.h"
#include "util/timing.h"

enum { LONGER_MAX_MS = 600000 }; /* threads that only wait could put it off for ever */
enum { POLL_MAX = 16, POLL_SLICE_MS = 60 * 60 * 1000 };

static const char mark[] = "HYPEFS_CHILD=1";

double process_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

/* A directory_visit of a process's threads. */
static int add_times(void *context, int task_fd, const char *name, struct error *err)
{
    struct process_times *times = context;
    unsigned long long ran_ns, waited_ns;
    char path[sizeof "/schedstat" + NAME_MAX];
    (void)err;
    snprintf(path, sizeof path, "%s/schedstat", name);
    auto_close int fd = openat(task_fd, path, O_RDONLY | O_CLOEXEC);
    auto_fclose FILE *file = fd >= 0 ? fdopen(fd, "r") : NULL;
    if (!file)
        return 0;
    steal_fd(&fd);
    if (fscanf(file, "%llu %llu", &ran_ns, &waited_ns) == 2) {
        double waited_ms = (double)waited_ns / 1e6;
        times->ran_ms += (double)ran_ns / 1e6;
        times->waited_ms = waited_ms > times->waited_ms ? waited_ms : times->waited_ms;
    }
    return 0;
}

struct process_times process_times(pid_t pid)
{
    struct process_times times = {0};
    char path[48];
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    (void)!directory_walk(AT_FDCWD, path, add_times, &times, NULL);
    return times;
}

int process_poll(const int *fds, size_t count, double deadline_ms)
{
    assert(count <= POLL_MAX);
    struct pollfd polled[POLL_MAX];
    for (size_t i = 0; i < count; i++)
        polled[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
    for (;;) {
        double left = deadline_ms - process_now_ms();
        int wait_ms = left <= 0 ? 0 : left > POLL_SLICE_MS ? POLL_SLICE_MS : (int)left + 1;
        int ready = poll(polled, count, wait_ms);
        if (ready < 0 && errno != EINTR)
            return -errno;
        int mask = 0;
        for (size_t i = 0; ready > 0 && i < count; i++)
            mask |= polled[i].revents ? 1 << i : 0;
        if (mask || left <= 0)
            return mask;
    }
}

/* It is asked once the deadline has come only, as it takes a look at each thread. */
double process_deadline(const struct process_limits *limits)
{
    if (limits->started == 0 || process_now_ms() < limits->deadline_ms)
        return limits->deadline_ms;
    const double more_ms = process_times(limits->started).waited_ms;
    return limits->deadline_ms + (more_ms < LONGER_MAX_MS ? more_ms : LONGER_MAX_MS);
}

int process_await(const int *fds, size_t count, const struct process_limits *limits)
{
    for (;;) {
        int ready = process_poll(fds, count, process_deadline(limits));
        if (ready != 0 || process_now_ms() >= process_deadline(limits))
            return ready;
    }
}

static bool is_named(const struct process_spec *spec, int fd)
{
    for (size_t i = 0; i < spec->inherit_count; i++)
        if (spec->inherit_fds[i] == fd)
            return true;
    return false;
}

/* Libraries have descriptors that are not CLOEXEC: libcurl's, for one. Some are not open at all. */
static int close_others(posix_spawn_file_actions_t *actions, const struct process_spec *spec)
{
    int last = STDERR_FILENO, r = 0;
    for (size_t i = 0; i < spec->inherit_count; i++)
        last = spec->inherit_fds[i] > last ? spec->inherit_fds[i] : last;
    for (int fd = STDERR_FILENO + 1; fd < last && !r && !spec->closes; fd++)
        if (!is_named(spec, fd))
            r = posix_spawn_file_actions_addclose(actions, fd);
    if (!r)
        r = posix_spawn_file_actions_addclosefrom_np(actions, last + 1);
    return r == EBADF ? EMFILE : r; /* the last that the limit allows */
}

/* What the child does between fork and exec. */
static int add_actions(posix_spawn_file_actions_t *actions, const struct process_spec *spec)
{
    int r = 0;
    if (spec->directory_fd >= 0)
        r = posix_spawn_file_actions_addfchdir_np(actions, spec->directory_fd);
    if (!r && spec->output_fd >= 0)
        r = posix_spawn_file_actions_adddup2(actions, spec->output_fd, STDOUT_FILENO);
    else if (!r)
        r = posix_spawn_file_actions_addopen(actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    if (!r)
        r = posix_spawn_file_actions_adddup2(
            actions, spec->error_fd >= 0 ? spec->error_fd : STDOUT_FILENO, STDERR_FILENO);
    if (!r)
        r = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    for (size_t i = 0; !r && i < spec->inherit_count; i++) {
        assert(spec->inherit_fds[i] > STDERR_FILENO);
        /* Onto itself: glibc then clears CLOEXEC in the child alone. */
        r = posix_spawn_file_actions_adddup2(actions, spec->inherit_fds[i], spec->inherit_fds[i]);
    }
    return r ? r : close_others(actions, spec);
}

static int set_attributes(posix_spawnattr_t *attributes)
{
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    sigdelset(&all, SIGXFSZ); /* ignored: a write beyond the limit fails, and nothing is killed */
    int r = posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK |
                                                     POSIX_SPAWN_SETSIGDEF);
    if (!r)
        r = posix_spawnattr_setsigmask(attributes, &none);
    if (!r)
        r = posix_spawnattr_setsigdefault(attributes, &all);
    return r;
}

static bool is_given(const char *const *given, const char *entry)
{
    size_t length = strcspn(entry, "=");
    for (size_t i = 0; given && given[i]; i++)
        if (strncmp(given[i], entry, length + 1) == 0)
            return true;
    return false;
}

static bool is_harmless(const char *entry)
{
    return strncmp(entry, "PATH=", 5) == 0 || strncmp(entry, "TZ=", 3) == 0;
}

/* The mark, what is given, and ours. Returns owned; the strings are borrowed. */
static char **make_environment(const char *const *given, bool closed)
{
    size_t ours = 0, givens = 0, count = 0;
    while (environ[ours])
        ours++;
    while (given && given[givens])
        givens++;
    char **ret = calloc(ours + givens + 2, sizeof *ret);
    if (!ret)
        return NULL;
    ret[count++] = (char *)(uintptr_t)mark;
    for (size_t i = 0; i < givens; i++)
        ret[count++] = (char *)(uintptr_t)given[i];
    for (size_t i = 0; i < ours; i++)
        if (!is_given(given, environ[i]) && (!closed || is_harmless(environ[i])))
            ret[count++] = environ[i];
    return ret;
}

static int spawn(const struct process_spec *spec, pid_t *ret)
{
    auto_free char **environment = make_environment(spec->environment, spec->closed);
    if (!environment)
        return ENOMEM;
    posix_spawn_file_actions_t actions;
    int r = posix_spawn_file_actions_init(&actions);
    if (r)
        return r;
    posix_spawnattr_t attributes;
    r = posix_spawnattr_init(&attributes);
    if (!r) {
        r = add_actions(&actions, spec);
        if (!r)
            r = set_attributes(&attributes);
        if (!r)
            r = posix_spawnp(ret, spec->path, &actions, &attributes, spec->argv, environment);
        posix_spawnattr_destroy(&attributes);
    }
    posix_spawn_file_actions_destroy(&actions);
    return r;
}

/* Without a descriptor of it: looked for now and then. */
static void reap_within(pid_t pid, int timeout_ms)
{
    enum { LOOK_MS = 10 };
    double deadline_ms = process_now_ms() + timeout_ms;
    while (waitpid(pid, NULL, WNOHANG) == 0 && process_now_ms() < deadline_ms)
        poll(NULL, 0, LOOK_MS);
}

int process_spawn(const struct process_spec *spec, pid_t *ret_pid, int *ret_pidfd,
                  struct error *err)
{
    pid_t pid;
    int r = spawn(spec, &pid);
    if (r)
        return error_errno(err, r, "%s cannot be started", spec->path);
    int pidfd = pidfd_open(pid, 0);
    if (pidfd < 0) {
        error_errno(err, r = errno, "no descriptor for the process of %s", spec->path);
        kill(-pid, SIGKILL);
        reap_within(pid, timing_ms(TIMING_KILL));
        return -r;
    }
    *ret_pid = pid;
    *ret_pidfd = pidfd;
    return 0;
}

/* Neither the kernel's own threads nor what has ended has one. */
static bool has_program(pid_t pid)
{
    char path[48], program;
    snprintf(path, sizeof path, "/proc/%d/exe", (int)pid);
    return readlink(path, &program, 1) > 0;
}

int process_has_mark(pid_t pid)
{
    char path[48];
    snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    auto_fclose FILE *file = fopen(path, "re");
    auto_free char *entry = NULL;
    size_t size = 0;
    if (!file)
        return errno == ENOENT || errno == ESRCH ? 0 : -errno;
    bool empty = true;
    for (; getdelim(&entry, &size, 0, file) > 0; empty = false)
        if (strcmp(entry, mark) == 0)
            return 1;
    if (ferror(file) && errno != ESRCH)
        return -errno;
    return empty && has_program(pid) ? -ENODATA : 0;
}

bool process_has_namespace(pid_t pid, const char *kind)
{
    char own[48], its[48];
    struct stat ours, theirs;
    snprintf(own, sizeof own, "/proc/self/ns/%s", kind);
    snprintf(its, sizeof its, "/proc/%d/ns/%s", (int)pid, kind);
    return stat(own, &ours) == 0 && stat(its, &theirs) == 0 && ours.st_ino != theirs.st_ino;
}

/* One of those letters is its state. */
static bool is_in_state(pid_t pid, const char *letters)
{
    char path[48], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    auto_fclose FILE *file = fopen(path, "re");
    size_t size = file ? fread(text, 1, sizeof text - 1, file) : 0;
    text[size] = 0;
    const char *name_end = strrchr(text, ')'); /* of field 2, of any bytes */
    return name_end && name_end[1] == ' ' && name_end[2] && strchr(letters, name_end[2]);
}

bool process_is_stopped(pid_t pid)
{
    return is_in_state(pid, "Tt");
}

bool process_has_ended(pid_t pid)
{
    return is_in_state(pid, "ZX");
}

int process_kill(pid_t pid, int pidfd, int timeout_ms, struct error *err)
{
    /* Until it is reaped the number is its own, and that of its process group, if it has made one
     * yet. */
    kill(-pid, SIGKILL);
    kill(pid, SIGKILL);
    if (process_poll(&pidfd, 1, process_now_ms() + timeout_ms) <= 0) {
        error_append(err, "; its process %d " PROCESS_STUCK, (int)pid);
        return -ETIMEDOUT;
    }
    siginfo_t info;
    waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG);
    return 0;
}

/* Takes what is in the pipe: at most `max` bytes are kept, the rest is thrown away. 1 at the end of
 * the pipe, 0 when it is empty for now, or -errno. */
static int drain(int fd, char *text, size_t max, size_t *used)
{
    for (;;) {
        char excess[4096];
        bool full = *used == max;
        ssize_t got = full ? read(fd, excess, sizeof excess) : read(fd, text + *used, max - *used);
        if (got == 0)
            return 1;
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return errno == EAGAIN ? 0 : -errno;
        *used += full ? 0 : (size_t)got;
    }
}

/* Reads until the process has ended; what it wrote before is in the pipe by then. */
static int collect(int fd, const struct process_limits *limits, char *text, size_t max)
{
    size_t used = 0;
    bool open = true;
    for (;;) {
        int fds[] = {limits->pidfd, open ? fd : -1, limits->cancel_fd};
        int ready = process_await(fds, array_length(fds), limits);
        if (ready <= 0)
            return ready ? ready : -ETIMEDOUT;
        if (ready & 4)
            return -ECANCELED;
        int r = open ? drain(fd, text, max, &used) : 0;
        if (r < 0)
            return r;
        text[used] = '\0';
        open = open && r == 0;
        if (ready & 1)
            return 0;
    }
}

/* Of collect(): the process is gone. */
static int no_output(const char *path, int timeout_ms, int r, struct error *err)
{
    if (r == -ETIMEDOUT)
        return error_set(err, EIO, "%s was not done within %d ms", path, timeout_ms);
    if (r == -ECANCELED)
        return error_set(err, ECANCELED, "given up while waiting for %s", path);
    return error_errno(err, -r, "the output of %s cannot be read", path);
}

int process_output(int directory_fd, const char *const *argv, size_t max, int timeout_ms,
                   int cancel_fd, char **ret, struct error *err)
{
    const char *path = argv[0];
    auto_free char *text = calloc(1, max + 1);
    if (!text)
        return error_set(err, ENOMEM, "no memory for the output of %s", path);
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return error_errno(err, errno, "no pipe for the output of %s", path);
    auto_close int in = ends[0], out = ends[1];
    if (fcntl(in, F_SETFL, O_NONBLOCK) < 0)
        return error_errno(err, errno, "no pipe for the output of %s", path);

    struct process_spec spec = {.path = path,
                                .argv = (char *const *)(uintptr_t)argv,
                                .directory_fd = directory_fd,
                                .output_fd = out,
                                .error_fd = -1};
    pid_t pid;
    auto_close int pidfd = -1;
    int r = process_spawn(&spec, &pid, &pidfd, err);
    if (r < 0)
        return r;
    close(steal_fd(&out));
    const struct process_limits limits = {pidfd, cancel_fd, process_now_ms() + timeout_ms, pid};
    r = collect(in, &limits, text, max);
    if (r < 0) {
        r = no_output(path, timeout_ms, r, err);
        process_kill(pid, pidfd, timing_ms(TIMING_KILL), err);
        return r;
    }
    siginfo_t info;
    if (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED) < 0)
        return error_errno(err, errno, "waiting for %s", path);
    if (info.si_code != CLD_EXITED || info.si_status != 0)
        return error_words(err, text, "%s ended with %s %d", path,
                           info.si_code == CLD_EXITED ? "status" : "signal", info.si_status);
    *ret = steal_pointer(text);
    return 0;
}
