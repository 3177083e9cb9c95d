/* SPDX-License-Identifier: MIT */
#include "cli/process_setup.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <pwd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include "util/cleanup.h"
#include "util/limit.h"
#include "util/process.h"

enum {
    STACK_BYTES = 8 * 1024 * 1024,
    CPU_MARGIN_S = 5, /* of processor time, to end in order in */
    CHECK_MS = 10000,
    END_MS = 5000
};

/* ---- signals ---- */

/* Every signal that is in no list is ignored: SIGXFSZ and SIGPIPE are errors of write(2) then, and
 * no terminal stops the daemon. */
static const int ending_signals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGXCPU};
/* Of a fault of ours a sanitizer may have taken charge. */
static const int default_signals[] = {SIGILL,  SIGTRAP, SIGABRT, SIGBUS, SIGFPE,
                                      SIGSEGV, SIGSYS,  SIGCHLD, SIGCONT};

static bool is_among(int number, const int *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (list[i] == number)
            return true;
    return false;
}

static void set_signals(sigset_t *ret_ending)
{
    sigemptyset(ret_ending);
    for (size_t i = 0; i < array_length(ending_signals); i++)
        sigaddset(ret_ending, ending_signals[i]);
    pthread_sigmask(SIG_SETMASK, ret_ending, NULL);
    for (int number = 1; number <= SIGRTMAX; number++) {
        struct sigaction now;
        if (sigaction(number, NULL, &now) < 0) /* one of the C library's own */
            continue;
        bool taken = is_among(number, default_signals, array_length(default_signals)) ||
                     is_among(number, ending_signals, array_length(ending_signals));
        if (!taken)
            signal(number, SIG_IGN);
        else if (now.sa_handler == SIG_IGN)
            signal(number, SIG_DFL);
    }
}

/* An alarm outlives exec. */
static void stop_timers(void)
{
    static const int timers[] = {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF};
    for (size_t i = 0; i < array_length(timers); i++)
        setitimer((__itimer_which_t)timers[i], &(struct itimerval){0}, NULL);
}

/* ---- limits ---- */

/* How far below the limit that only root can lift ours is to be. */
static rlim_t limit_of(int resource, rlim_t hard)
{
    switch (resource) {
    case RLIMIT_CORE: /* a core dump would hold guests' memory. With 0 the kernel would still give it
                         to a program, where core_pattern names one; 1 is too little for a file */
        return hard > 0 ? 1 : 0;
    case RLIMIT_STACK:
        return hard == RLIM_INFINITY || hard > STACK_BYTES ? STACK_BYTES : hard;
    case RLIMIT_CPU:
        return hard == RLIM_INFINITY || hard <= CPU_MARGIN_S ? hard : hard - CPU_MARGIN_S;
    default:
        return hard;
    }
}

/* VMMs inherit them. Each instance takes a descriptor, a running one three: as many as we may
 * have. */
static void set_limits(void)
{
    for (int resource = 0; resource < (int)RLIM_NLIMITS; resource++) {
        struct rlimit limit;
        if (getrlimit((__rlimit_resource_t)resource, &limit) < 0)
            continue;
        limit.rlim_cur = limit_of(resource, limit.rlim_max);
        if (resource == RLIMIT_CORE)
            limit.rlim_max = limit.rlim_cur;
        setrlimit((__rlimit_resource_t)resource, &limit);
    }
}

/* The C library has taken the size of threads' stacks from the limit that we were started with. */
static int set_stacks(struct error *err)
{
    pthread_attr_t attributes;
    int code = pthread_attr_init(&attributes);
    if (code == 0)
        code = pthread_attr_setstacksize(&attributes, STACK_BYTES);
    if (code == 0)
        code = pthread_setattr_default_np(&attributes);
    pthread_attr_destroy(&attributes);
    return code == 0 ? 0 : error_errno(err, code, "cannot set the size of threads' stacks");
}

void process_setup_warn_of_limits(void (*warn)(void *context, const char *text), void *context)
{
    struct rlimit cpu;
    char text[300];
    if (getrlimit(RLIMIT_CPU, &cpu) < 0 || cpu.rlim_max == RLIM_INFINITY)
        return;
    snprintf(
        text, sizeof text,
        "processor time is limited to %ju s (RLIMIT_CPU; ulimit -t, LimitCPU=): the daemon ends "
        "in order after %ju s of it, and the kernel kills each VM that has used it up",
        (uintmax_t)cpu.rlim_max, (uintmax_t)cpu.rlim_cur);
    warn(context, text);
}

/* ---- environment ---- */

/* A name, or with "*" at its end the beginning of names. */
static const char *const kept_variables[] = {
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_*", "TZ", "TMPDIR", "XDG_*", "LD_*", "HYPEFS*",
    /* Of builds that are tested. */
    "FAKE_*", "ASAN_OPTIONS", "LSAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "GCOV_*"};

static bool is_kept(const char *variable)
{
    size_t size = strcspn(variable, "=");
    for (size_t i = 0; i < array_length(kept_variables); i++) {
        const char *kept = kept_variables[i];
        size_t length = strlen(kept);
        if (kept[length - 1] == '*' ? size >= length - 1 && strncmp(variable, kept, length - 1) == 0
                                    : size == length && strncmp(variable, kept, length) == 0)
            return true;
    }
    return false;
}

/* Who started us may have secrets in it, which VMMs would inherit; and libraries read from it. */
static void set_environment(void)
{
    size_t kept = 0;
    for (size_t i = 0; environ && environ[i]; i++)
        if (is_kept(environ[i]))
            environ[kept++] = environ[i];
    if (environ)
        environ[kept] = NULL;
}

/* ---- descriptors ---- */

/* What is not ours would be held open for as long as the daemon lives. The standard ones must be
 * there, or what is opened next gets their numbers. */
static int set_descriptors(struct error *err)
{
    close_range(STDERR_FILENO + 1, ~0U, 0);
    auto_close int null = open("/dev/null", O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (null < 0)
        return error_errno(err, errno, "/dev/null cannot be opened");
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if ((fd == STDIN_FILENO || fcntl(fd, F_GETFD) < 0 || fd == null) &&
            (fd == null ? fcntl(fd, F_SETFD, 0) : dup2(null, fd)) < 0)
            return error_errno(err, errno, "/dev/null cannot be put into place");
    if (null <= STDERR_FILENO)
        steal_fd(&null);
    return 0;
}

/* Payloads and guests' memory are in ours: another process of the same user is not to read it. */
static int set_protection(struct error *err)
{
#ifdef HYPEFS_TESTS
    if (getenv("HYPEFS_TEST_DUMPABLE")) /* tests look what is in there */
        return 0;
#endif
    return prctl(PR_SET_DUMPABLE, 0) == 0
               ? 0
               : error_errno(err, errno, "cannot keep the memory from other processes");
}

int process_setup(sigset_t *ret_ending, struct error *err)
{
    set_signals(ret_ending);
    stop_timers();
    set_limits();
    set_environment();
    umask(077);
    int r = set_descriptors(err);
    if (r == 0)
        r = set_protection(err);
    return r == 0 ? set_stacks(err) : r;
}

/* That the user could not use. */
static const char *const roots_places[] = {"TMPDIR", "XDG_DATA_HOME", "XDG_RUNTIME_DIR",
                                           "XDG_CACHE_HOME"};

int process_setup_become(const char *name, struct error *err)
{
    const struct passwd *user = getpwnam(name);
    if (!user || user->pw_uid == 0)
        return error_set(err, EINVAL,
                         user ? "--user: %s is root" : "--user: this host knows no user %s", name);
    if (initgroups(name, user->pw_gid) < 0 || setgid(user->pw_gid) < 0 || setuid(user->pw_uid) < 0)
        return error_errno(err, errno, "--user: cannot become the user %s", name);
    if (setenv("HOME", user->pw_dir, 1) < 0 || setenv("USER", name, 1) < 0 ||
        setenv("LOGNAME", name, 1) < 0)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < array_length(roots_places); i++)
        unsetenv(roots_places[i]);
    return set_protection(err); /* a change of user may set it otherwise */
}

/* ---- background ---- */

/* In a process of its own: what does not answer would hang the one that the shell waits for. */
static bool check_within(bool (*check)(void *argument), void *argument)
{
    siginfo_t info = {0};
    pid_t pid = fork();
    if (pid == 0)
        _exit(check(argument) ? CLI_DONE : CLI_FAILED);
    auto_close int pidfd = pid > 0 ? pidfd_open(pid, 0) : -1;
    if (pidfd < 0 || process_poll(&pidfd, 1, process_now_ms() + CHECK_MS) <= 0) {
        char limit[LIMIT_TEXT_SIZE];
        limit_explain(EAGAIN, limit);
        fprintf(stderr, "hypefs mount: the mount does not answer (this may be the reason: %s)\n",
                limit);
        return false;
    }
    return waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED) == 0 && info.si_code == CLD_EXITED &&
           info.si_status == CLI_DONE;
}

/* Of the process that was started. The daemon has said why if it ended by itself. */
__attribute__((noreturn)) static void wait_for_daemon(int fd, bool (*check)(void *argument),
                                                      void *argument)
{
    pid_t daemon;
    sigset_t none;
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, NULL); /* a terminal's keys end it */
    if (read(fd, &daemon, sizeof daemon) != (ssize_t)sizeof daemon)
        _exit(CLI_FAILED);
    if (check_within(check, argument))
        _exit(CLI_DONE);
    auto_close int pidfd = pidfd_open(daemon, 0);
    if (pidfd >= 0 && pidfd_send_signal(pidfd, SIGTERM, NULL, 0) == 0 &&
        process_poll(&pidfd, 1, process_now_ms() + END_MS) == 0)
        pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
    _exit(CLI_FAILED);
}

int process_setup_background(bool (*check)(void *argument), void *argument, struct error *err)
{
    int pipe_fds[2];
    if (pipe2(pipe_fds, O_CLOEXEC) < 0)
        return error_errno(err, errno, "cannot make a pipe");
    auto_close int in = pipe_fds[0], out = pipe_fds[1];
    pid_t child = fork();
    if (child < 0)
        return error_errno(err, errno, "cannot fork");
    if (child > 0) {
        close(steal_fd(&out));
        wait_for_daemon(in, check, argument);
    }
    setsid();
    /* No leader of a session: opening a terminal does not make it ours. */
    child = fork();
    if (child < 0)
        return error_errno(err, errno, "cannot fork");
    if (child > 0)
        _exit(CLI_DONE);
    return steal_fd(&out);
}

void process_setup_ready(int fd)
{
    const pid_t self = getpid();
    for (int standard = STDOUT_FILENO; standard <= STDERR_FILENO; standard++)
        dup2(STDIN_FILENO, standard); /* that is /dev/null */
    if (write(fd, &self, sizeof self) != (ssize_t)sizeof self)
        kill(self, SIGTERM); /* who started us is gone, and nobody knows of the mount */
    close(fd);
}
