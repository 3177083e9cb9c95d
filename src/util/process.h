/* SPDX-License-Identifier: MIT */
/*
 * process: starting a program and knowing when it ends. Never a shell, never a bare pid.
 *
 * The daemon has set umask 077 and RLIMIT_CORE 1 and blocked its signals; a child starts in a
 * session of its own with no signal blocked, none ignored (but SIGXFSZ, where we ignore it), and
 * only the descriptors named. Each has a mark in its environment, and so has what it starts, by
 * which a later daemon can tell them from everything else.
 */
#ifndef HYPEFS_UTIL_PROCESS_H
#define HYPEFS_UTIL_PROCESS_H

#include <stdbool.h>
#include <sys/types.h>

#include "util/error.h"

struct process_spec {
    const char *path;       /* of the program; without a slash it is looked for in PATH */
    char *const *argv;      /* ends with NULL */
    int directory_fd;       /* working directory; -1: ours */
    int output_fd;          /* stdout; -1: /dev/null. stdin is /dev/null */
    int error_fd;           /* stderr; -1: where stdout goes */
    const int *inherit_fds; /* stay open in the child under their own numbers */
    size_t inherit_count;
    const char *const *environment; /* "NAME=value" in place of ours; ends with NULL; or NULL */
    bool closed;                    /* of ours it gets only PATH and TZ */
    bool closes; /* it closes by itself what it has of our descriptors below the highest of
                    inherit_fds, but for those: here that takes a call for each */
};

/* ENOENT and others of exec. `ret_pidfd` is CLOEXEC. */
int process_spawn(const struct process_spec *spec, pid_t *ret_pid, int *ret_pidfd,
                  struct error *err);

/* Was it started by process_spawn() of this daemon or another, or by such a process? 1; 0: no, or
 * there is no such process; -errno: it may not be looked at, say. ENODATA: it has no environment:
 * it was given none, or is in the middle of an exec. */
int process_has_mark(pid_t pid);

/* Is it in another namespace than we? `kind` is a name in /proc/PID/ns: "pid", "mnt", say. False,
 * too, if it may not be looked at. */
bool process_has_namespace(pid_t pid, const char *kind);

/* Is it stopped, by a signal or a debugger, so that it answers nobody? */
bool process_is_stopped(pid_t pid);

/* Has its first thread ended, though it is not reaped? Others of its threads may be left. */
bool process_has_ended(pid_t pid);

/* What a text says of a process that has not ended by then. */
#define PROCESS_STUCK                                                                              \
    "was killed and does not end: the kernel holds it until a disk or file system that it uses "   \
    "answers, so look after that"

/* Kills our child, which is not reaped yet, with what it started in its session, and reaps it. A
 * process that sleeps uninterruptibly (on a network mount that hangs, say) does not end: then this
 * puts so behind the text of `err` (the failure for which the child is killed), and returns
 * -ETIMEDOUT. It ends when the kernel lets it, and is reaped when the daemon ends. */
int process_kill(pid_t pid, int pidfd, int timeout_ms, struct error *err);

/* Waits until a descriptor is readable (or the pidfd's process ended), until the deadline.
 * `fds` with -1 are left out. Returns a bit mask by position, 0 at the deadline, or -errno. */
int process_poll(const int *fds, size_t count, double deadline_ms);

/* CLOCK_MONOTONIC, in ms. */
double process_now_ms(void);

/* What may end a wait for the answer of another process. */
struct process_limits {
    int pidfd;          /* readable: it has ended, EIO */
    int cancel_fd;      /* readable: ECANCELED; -1: never */
    double deadline_ms; /* of process_now_ms(): EIO; later by what process_deadline() says */
    pid_t started;      /* of a process that has just been started: its pid; else 0 */
};

/* The deadline by now. For who has just started, the time in which it could run and had no
 * processor does not count, up to 10 minutes: a host with too much to do does not end what would
 * answer. */
double process_deadline(const struct process_limits *limits);
/* process_poll() until then. */
int process_await(const int *fds, size_t count, const struct process_limits *limits);

/* Since the start of each thread of a process, in ms. */
struct process_times {
    double ran_ms;    /* a processor worked for it: all threads together */
    double waited_ms; /* it could run and had no processor: the thread that waited longest */
};
/* Zeros if it has ended, or if the kernel does not count (CONFIG_SCHED_INFO). */
struct process_times process_times(pid_t pid);

/* Runs argv[0] to its end, in that directory (-1: ours), and returns what it wrote to stdout and
 * stderr (at most `max` bytes, owned, with a NUL). EIO if its status is not 0 or it takes over
 * timeout_ms, ECANCELED if cancel_fd (-1: none) becomes readable: it is killed then. */
int process_output(int directory_fd, const char *const *argv, size_t max, int timeout_ms,
                   int cancel_fd, char **ret, struct error *err);

#endif
