/* SPDX-License-Identifier: MIT */
/* What surrounds the daemon when it is started, and what it and its VMMs are like then: always the
 * same. */
#include "fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/process.h"

enum { EXTRA_MIN = 3, EXTRA_MAX = 40, CPU_S = 1000, STACK_MIN = 256 * 1024 };

/* ---- how it is started ---- */

/* Only soft limits: others cannot be lifted, and what they do has its own tests. */
static const struct {
    __rlimit_resource_t resource;
    rlim_t soft;
} limits[] = {
    {RLIMIT_NOFILE, 64},     {RLIMIT_FSIZE, 512}, {RLIMIT_STACK, STACK_MIN}, {RLIMIT_CORE, 1 << 20},
    {RLIMIT_NPROC, 1 << 14}, {RLIMIT_MEMLOCK, 0}, {RLIMIT_CPU, CPU_S},       {RLIMIT_SIGPENDING, 1},
};

static void make_odd(const char *pipe_path)
{
    sigset_t all;
    for (int number = 1; number <= SIGRTMAX; number++)
        signal(number, SIG_IGN);
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    for (size_t i = 0; i < array_length(limits); i++) {
        struct rlimit limit;
        getrlimit(limits[i].resource, &limit);
        if (limit.rlim_max == RLIM_INFINITY || limit.rlim_max > limits[i].soft)
            limit.rlim_cur = limits[i].soft;
        setrlimit(limits[i].resource, &limit);
    }
    setenv("SECRET_OF_THE_STARTER", "x", 1);
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    setenv("FUSE_THREAD_STACK", "1", 1);
    umask(0);
    for (int fd = 0; fd <= EXTRA_MAX; fd++)
        close(fd);
    int fd = open(pipe_path, O_RDWR); /* not O_CLOEXEC */
    for (int extra = EXTRA_MIN; extra <= EXTRA_MAX; extra++)
        dup2(fd, extra);
    close(fd);
    setitimer(ITIMER_REAL, &(struct itimerval){.it_value = {.tv_usec = 200000}}, NULL);
}

struct start {
    const char *name;
    bool foreground;
};

/* The process that was started: in the foreground that is the daemon. */
static pid_t start(struct harness *h, bool foreground, const char *qemu)
{
    const char *argv[] = {getenv("HYPEFS"),
                          "mount",
                          "--confine",
                          "off",
                          "--qemu",
                          qemu,
                          "--store",
                          h->store,
                          h->mount,
                          foreground ? "-f" : NULL,
                          NULL};
    const char *pipe_path = harness_format(h, "%s/pipe", h->directory);
    fflush(NULL);
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (chdir(h->directory) < 0)
        _exit(126);
    make_odd(pipe_path);
    execv(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

static bool answers(void *argument)
{
    return access(harness_path(argument, "README"), F_OK) == 0 &&
           atoi(harness_get(argument, harness_store_path(argument, "lock"))) > 0;
}

/* ---- what it is like ---- */

/* A member of /proc/PID/status, a mask in hex. */
static uint64_t mask(const char *status, const char *name)
{
    const char *at = strstr(status, name);
    assert_non_null(at);
    return strtoull(at + strlen(name), NULL, 16);
}

static uint64_t bit(int number)
{
    return UINT64_C(1) << (number - 1);
}

static void check_signals(const char *status)
{
    const uint64_t ending = bit(SIGTERM) | bit(SIGINT) | bit(SIGHUP) | bit(SIGQUIT) | bit(SIGXCPU);
    static const int ignored[] = {SIGPIPE, SIGXFSZ, SIGTSTP,   SIGTTIN, SIGTTOU, SIGALRM,
                                  SIGUSR2, SIGPROF, SIGVTALRM, SIGIO,   SIGPWR,  SIGSTKFLT};
    static const int not_ignored[] = {SIGSEGV, SIGBUS,  SIGFPE,  SIGILL,  SIGABRT, SIGTRAP,
                                      SIGSYS,  SIGCHLD, SIGCONT, SIGTERM, SIGUSR1};
    uint64_t now = mask(status, "\nSigIgn:");
    assert_int_equal(mask(status, "\nSigBlk:"), ending);
    for (size_t i = 0; i < array_length(ignored); i++)
        if (!(now & bit(ignored[i])))
            fail_msg("%s is not ignored", strsignal(ignored[i]));
    for (size_t i = 0; i < array_length(not_ignored); i++)
        if (now & bit(not_ignored[i]))
            fail_msg("%s is ignored", strsignal(not_ignored[i]));
    assert_non_null(strstr(status, "\nUmask:\t0077\n"));
}

/* The soft limit is the hard one, but for those that have a value of their own. */
static void check_limits(pid_t pid)
{
    for (int resource = 0; resource < (int)RLIM_NLIMITS; resource++) {
        struct rlimit limit;
        assert_works(prlimit(pid, (__rlimit_resource_t)resource, NULL, &limit));
        if (resource == RLIMIT_CORE) {
            assert_true(limit.rlim_cur == 1 && limit.rlim_max == 1);
        } else if (resource == RLIMIT_STACK) {
            assert_true(limit.rlim_cur == 8 * 1024 * 1024 || limit.rlim_cur == limit.rlim_max);
        } else if (limit.rlim_cur != limit.rlim_max) {
            fail_msg("limit %d is %ju, and could be %ju", resource, (uintmax_t)limit.rlim_cur,
                     (uintmax_t)limit.rlim_max);
        }
    }
}

/* Nothing of the pipe that it was started with; the standard ones are there. */
static void check_descriptors(struct harness *h, pid_t pid)
{
    char link[64];
    struct harness_result result = harness_shell(
        h, "bash",
        harness_format(h, "ls -l /proc/%d/fd | grep -F pipe; readlink /proc/%d/fd/[012]", (int)pid,
                       (int)pid));
    assert_string_equal(result.out, "/dev/null\n/dev/null\n/dev/null\n");
    snprintf(link, sizeof link, "/proc/%d/cwd", (int)pid);
    char cwd[8] = "";
    assert_true(readlink(link, cwd, sizeof cwd - 1) > 0);
    assert_string_equal(cwd, "/");
}

/* Session and terminal. */
static void check_session(struct harness *h, pid_t pid, bool foreground)
{
    int group, session, terminal;
    const char *stat = harness_get(h, harness_format(h, "/proc/%d/stat", (int)pid));
    assert_int_equal(sscanf(strrchr(stat, ')'), ") %*c %*d %d %d %d", &group, &session, &terminal),
                     3);
    if (foreground) {
        assert_int_equal(session, getsid(0)); /* the keys of the terminal reach it */
    } else {
        assert_int_not_equal(session, getsid(0));
        assert_int_not_equal(session, pid); /* no terminal becomes its own */
        assert_int_equal(terminal, 0);
    }
}

/* It says what it is like, and ends: no VM. */
static const char qemu_text[] =
    "#!/bin/sh\n"
    "case \"$*\" in *version*) echo 'QEMU emulator version 7.2.0'; exit;; esac\n"
    "{ env; cat /proc/self/status; ls -l /proc/$$/fd; ulimit -c; ulimit -n; ulimit -Hn; } "
    "> $HYPEFS_TEST_MARK.new\n"
    "mv $HYPEFS_TEST_MARK.new $HYPEFS_TEST_MARK\n"
    "exit 3\n";

static void check_vmm(struct harness *h)
{
    const char *mark = getenv("HYPEFS_TEST_MARK");
    const char *kernel = harness_format(h, "%s/kernel", h->directory);
    harness_put(kernel, "\x7f"
                        "ELF");
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
    harness_put(harness_path(h, "instances/x/config"),
                harness_format(h, "{\"kernel\":\"%s\"}", kernel));
    assert_errno(harness_write(harness_path(h, "instances/x/state"), "running"), EIO);
    const char *said = harness_get(h, mark);
    static const char *const absent[] = {"SECRET_OF_THE_STARTER", "http_proxy", "FUSE_THREAD_STACK",
                                         "pipe"};
    for (size_t i = 0; i < array_length(absent); i++)
        if (strstr(said, absent[i]))
            fail_msg("%s is there: %s", absent[i], said);
    assert_contains(said, "HYPEFS_CHILD=1\n");
    assert_contains(said, "PATH=");
    assert_int_equal(mask(said, "\nSigBlk:"), 0);
    /* 32 and 33 are the C library's own. */
    assert_int_equal(mask(said, "\nSigIgn:") & ~(bit(32) | bit(33)), bit(SIGXFSZ));
    assert_contains(said, "\nUmask:\t0077\n");
    char limits_text[64];
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    snprintf(limits_text, sizeof limits_text, "\n0\n%ju\n%ju\n", (uintmax_t)files.rlim_max,
             (uintmax_t)files.rlim_max);
    assert_contains(said, limits_text);
    assert_works(rmdir(harness_path(h, "instances/x")));
    assert_works(unlink(mark));
}

static void end(struct harness *h, pid_t started, pid_t daemon, bool foreground)
{
    auto_close int pidfd = pidfd_open(daemon, 0);
    int status = 0;
    assert_works(kill(daemon, SIGTERM));
    assert_int_equal(process_poll(&pidfd, 1, process_now_ms() + HARNESS_DEADLINE_MS), 1);
    if (foreground) {
        assert_int_equal(waitpid(started, &status, 0), started);
        assert_int_equal(status, 0);
    }
    assert_string_equal(harness_get(h, harness_store_path(h, "lock")), "");
}

static void check_start(struct harness *h, bool foreground)
{
    const char *qemu = fixture_script(h, "qemu", qemu_text);
    setenv("HYPEFS_TEST_MARK", harness_format(h, "%s/mark", h->directory), 1);
    pid_t started = start(h, foreground, qemu);
    if (!foreground) {
        int status;
        assert_int_equal(waitpid(started, &status, 0), started);
        assert_int_equal(status, 0);
    }
    harness_await_that(answers, h, "the mount answers");
    pid_t daemon = atoi(harness_get(h, harness_store_path(h, "lock")));
    if (foreground)
        assert_int_equal(daemon, started);
    check_signals(harness_get(h, harness_format(h, "/proc/%d/status", (int)daemon)));
    check_limits(daemon);
    check_descriptors(h, daemon);
    check_session(h, daemon, foreground);
    check_vmm(h);
    end(h, started, daemon, foreground);
}

static void daemon_whatever_it_was_started_by_has_known_surroundings(void **state)
{
    struct harness *h = *state;
    assert_works(mkfifo(harness_format(h, "%s/pipe", h->directory), 0600));
    check_start(h, false);
    check_start(h, true);
}

/* An ignored signal ends nothing; the keys of a terminal do. */
static void daemon_when_signals_come_ends_in_order_or_goes_on(void **state)
{
    struct harness *h = *state;
    static const int harmless[] = {SIGUSR1, SIGUSR2, SIGALRM, SIGXFSZ, SIGPIPE, SIGTSTP,
                                   SIGTTOU, SIGPROF, SIGIO,   SIGPWR,  SIGCHLD, SIGCONT};
    static const int ending[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGXCPU};
    for (size_t i = 0; i < array_length(ending); i++) {
        harness_mount(h, NULL);
        for (size_t j = 0; j < array_length(harmless); j++)
            assert_works(kill(h->daemon, harmless[j]));
        assert_works(access(harness_path(h, "README"), F_OK));
        assert_works(kill(h->daemon, ending[i]));
        assert_int_equal(harness_await_end(h), 0);
        assert_string_equal(harness_get(h, harness_store_path(h, "lock")), "");
    }
    assert_file_contains(h->log, "RLIMIT_CPU");
}

/* df: of the store's file system; the blocks that are free change meanwhile. */
static void df_of_the_mount_is_that_of_the_store(void **state)
{
    struct harness *h = *state;
    harness_mount(h, NULL);
    assert_shell("bash",
                 "format='%s %S %b %c'; [ \"$(stat -f -c \"$format\" $M)\" = \"$(stat -f -c "
                 "\"$format\" $S)\" ] && df $M && df -i $M",
                 0);
}

static int lock_of_another(const char *path, int flags)
{
    auto_close int fd = open(path, flags | O_CLOEXEC);
    assert_works(fd);
    return flock(fd, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
}

static void files_when_locked_by_one_user_are_locked_to_others(void **state)
{
    struct harness *h = *state;
    static const char *const names[] = {"README", "instances/x/config", "instances/x/info",
                                        "instances/x", "instances"};
    harness_mount(h, NULL);
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
    for (size_t i = 0; i < array_length(names); i++) {
        const char *path = harness_path(h, "%s", names[i]);
        auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_works(flock(fd, LOCK_EX));
        assert_errno(lock_of_another(path, O_RDONLY), EWOULDBLOCK);
        assert_works(flock(fd, LOCK_UN));
        assert_errno(lock_of_another(path, O_RDONLY), 0);
    }
    struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    const char *config = harness_path(h, "instances/x/config");
    auto_close int one = open(config, O_RDWR | O_CLOEXEC);
    auto_close int other = open(config, O_RDWR | O_CLOEXEC);
    assert_works(fcntl(one, F_OFD_SETLK, &all));
    assert_fails(fcntl(other, F_OFD_SETLK, &all), EAGAIN);
    assert_shell("bash", "flock -n instances/x true", 0);
}

/* What it finds is the host's; what it is told is not. */
static void doctor_tells_of_what_is_missing(void **state)
{
    static const struct {
        const char *command;
        int status;
        const char *line;
    } hosts[] = {
        {"$HYPEFS doctor --store $S", 0, "ok       mount: can be mounted\n"},
        {"$HYPEFS doctor --store $S", 0, "ok       qemu: QEMU emulator version "},
        {"PATH=/none $HYPEFS doctor --store $S", 1, "warning  qemu: qemu-system-x86_64 is not in "},
        {"PATH=/none $HYPEFS doctor --store $S", 1, "failed   VMMs: there is none"},
        {"PATH=$T $HYPEFS doctor --store $S", 1, "warning  firecracker: firecracker ended with "},
    };
    struct harness *h = *state;
    fixture_script(h, "firecracker", "#!/bin/sh\nexit 3\n");
    harness_shell(h, "bash", "cp $T/programs/firecracker $T");
    for (size_t i = 0; i < array_length(hosts); i++) {
        struct harness_result result = harness_shell(h, "bash", hosts[i].command);
        assert_int_equal(result.status, hosts[i].status);
        assert_contains(result.out, hosts[i].line);
        assert_string_equal(result.err, "");
    }
    assert_int_equal(access(h->store, F_OK), -1);
    assert_int_equal(harness_shell(h, "bash", "$HYPEFS doctor x").status, 2);
}

static void doctor_of_a_store_that_is_there_tells_who_uses_it_and_who_could_change_it(void **state)
{
    struct harness *h = *state;
    harness_mount(h, NULL);
    struct harness_result result = harness_shell(h, "bash", "$HYPEFS doctor --store $S");
    assert_int_equal(result.status, 0);
    assert_contains(result.out, harness_format(h, ", in use by process %d); ", (int)h->daemon));
    harness_unmount(h);
    assert_works(chmod(h->store, 0777));
    result = harness_shell(h, "bash", "$HYPEFS doctor --store $S");
    if (geteuid() == 0) {
        assert_int_equal(result.status, 1);
        assert_contains(result.out, "failed   store: ");
        assert_contains(result.out, h->store);
    }
    assert_null(strstr(result.out, "in use"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        bare_test(doctor_of_a_store_that_is_there_tells_who_uses_it_and_who_could_change_it),
        bare_test(daemon_whatever_it_was_started_by_has_known_surroundings),
        bare_test(doctor_tells_of_what_is_missing),
        bare_test(df_of_the_mount_is_that_of_the_store),
        bare_test(files_when_locked_by_one_user_are_locked_to_others),
        bare_test(daemon_when_signals_come_ends_in_order_or_goes_on),
    };
    harness_enter();
    return cmocka_run_group_tests_name("surroundings", tests, NULL, NULL);
}
