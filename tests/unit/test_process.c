/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"
#include "util/cleanup.h"
#include "util/process.h"

/* Signals do not arrive; see the build file. */
static bool unkillable;

int __real_kill(pid_t pid, int number);
int __wrap_kill(pid_t pid, int number);

int __wrap_kill(pid_t pid, int number)
{
    return unkillable ? 0 : __real_kill(pid, number);
}

enum { FAR_MS = 20000, FAR_FD = 100, OUTPUT_MAX = 65536 };

/* Signals 1 to 31: the next ones are the C library's own, and nobody can set them. */
static const uint64_t ORDINARY_SIGNALS = UINT64_C(0x7fffffff);

static char shell[] = "/bin/sh";

/* What a shell's command prints, which also proves what the shell was started with. */
static char *output_of(const char *command, size_t max)
{
    const char *const argv[] = {shell, "-c", command, NULL};
    char *text = NULL;
    struct error err = {0};
    int r = process_output(-1, argv, max, FAR_MS, -1, &text, &err);
    if (r < 0)
        fail_msg("%s: %s", command, err.text);
    return text;
}

static int status_of(int pidfd)
{
    siginfo_t info;
    assert_int_equal(waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED), 0);
    return info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
}

/* On one processor with many others: each has a session, between which Linux may share it. */
static void program_that_gets_no_processor_has_longer(void **state)
{
    static const char slow[] = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; echo done";
    const char *const argv[] = {shell, "-c", slow, NULL};
    enum { SHORT_MS = 600, HOGS = 40 };
    pid_t hogs[HOGS];
    cpu_set_t before, one;
    auto_free char *text = NULL;
    (void)state;
    if (access("/proc/self/schedstat", R_OK) < 0)
        skip(); /* a kernel that does not count */
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    CPU_ZERO(&one);
    for (size_t i = 0; CPU_COUNT(&one) == 0; i++)
        if (CPU_ISSET(i, &before))
            CPU_SET(i, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    for (size_t i = 0; i < HOGS; i++) {
        hogs[i] = fork();
        for (volatile bool works = hogs[i] == 0 && setsid() > 0; works;)
            continue;
    }
    int r = process_output(-1, argv, OUTPUT_MAX, SHORT_MS, -1, &text, NULL);
    for (size_t i = 0; i < HOGS; i++) {
        kill(hogs[i], SIGKILL);
        waitpid(hogs[i], NULL, 0);
    }
    sched_setaffinity(0, sizeof before, &before);
    assert_int_equal(r, 0);
    assert_string_equal(text, "done\n");
}

static void output_when_a_program_prints_returns_both_streams(void **state)
{
    (void)state;
    auto_free char *text = output_of("echo out; echo err >&2", OUTPUT_MAX);
    assert_string_equal(text, "out\nerr\n");
}

static void output_when_longer_than_allowed_is_cut_and_the_program_ends(void **state)
{
    (void)state;
    auto_free char *text = output_of("i=0; while [ $i -lt 20000 ]; do echo 12345678; "
                                     "i=$((i+1)); done",
                                     10);
    assert_string_equal(text, "12345678\n1");
}

static void output_when_the_program_fails_is_eio_with_its_words(void **state)
{
    const char *const argv[] = {shell, "-c", "echo no luck; exit 3", NULL};
    char *text = NULL;
    struct error err = {0};

    (void)state;
    assert_int_equal(process_output(-1, argv, OUTPUT_MAX, FAR_MS, -1, &text, &err), -EIO);
    assert_int_equal(err.code, EIO);
    assert_non_null(strstr(err.text, "status 3"));
    assert_non_null(strstr(err.text, "no luck"));
    assert_null(strchr(err.text, '\\')); /* of the end of the line */
    assert_null(text);
}

static void output_when_the_program_names_a_limit_is_its_errno_with_the_remedy(void **state)
{
    const char *const argv[] = {shell, "-c", "echo 'x: No space left on device' >&2; exit 1", NULL};
    char *text = NULL;
    struct error err = {0};

    (void)state;
    assert_int_equal(process_output(-1, argv, OUTPUT_MAX, FAR_MS, -1, &text, &err), -ENOSPC);
    assert_int_equal(err.code, ENOSPC);
    assert_non_null(strstr(err.text, "status 1: x: No space left on device (its file system"));
}

static void output_when_the_program_does_not_end_kills_it(void **state)
{
    const char *const argv[] = {"sleep", "1000", NULL};
    char *text = NULL;
    struct error err = {0};

    (void)state;
    double start_ms = process_now_ms();
    assert_int_equal(process_output(-1, argv, OUTPUT_MAX, 50, -1, &text, &err), -EIO);
    assert_true(process_now_ms() - start_ms < FAR_MS);
    assert_non_null(strstr(err.text, "50 ms"));
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* nobody is left to reap */
    assert_int_equal(errno, ECHILD);
}

static void output_when_it_is_cancelled_kills_the_program(void **state)
{
    const char *const argv[] = {shell, "-c", "echo; exec sleep 1000", NULL};
    char *text = NULL;
    struct error err = {0};
    int ends[2];

    (void)state;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    assert_int_equal(write(ends[1], "x", 1), 1);
    int r = process_output(-1, argv, OUTPUT_MAX, 1000 * FAR_MS, ends[0], &text, &err);
    close(ends[0]);
    close(ends[1]);
    assert_int_equal(r, -ECANCELED);
    assert_null(text);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
}

static void output_when_a_grandchild_keeps_the_pipe_does_not_wait_for_it(void **state)
{
    (void)state;
    double start_ms = process_now_ms();
    auto_free char *text = output_of("sleep 60 & echo $!", OUTPUT_MAX);
    assert_true(process_now_ms() - start_ms < FAR_MS);
    int pid = atoi(text);
    assert_true(pid > 1);
    kill(pid, SIGKILL);
}

static void output_when_there_is_no_program_is_enoent(void **state)
{
    const char *const argv[] = {"/no/such/program", NULL};
    char *text = NULL;
    struct error err = {0};

    (void)state;
    assert_int_equal(process_output(-1, argv, 1, FAR_MS, -1, &text, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/no/such/program"));
}

static void spawn_gives_the_child_a_session_and_no_signal_blocked_or_ignored(void **state)
{
    sigset_t set, before;
    struct sigaction ignored = {.sa_handler = SIG_IGN}, old;

    (void)state;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, &before);
    sigaction(SIGPIPE, &ignored, &old);
    auto_free char *text = output_of("grep -E '^Sig(Blk|Ign)' /proc/self/status; "
                                     "read -r a b c d e sid rest </proc/$$/stat; echo $((sid-$$))",
                                     OUTPUT_MAX);
    sigaction(SIGPIPE, &old, NULL);
    sigprocmask(SIG_SETMASK, &before, NULL);
    uint64_t blocked_set, ignored_set;
    int session;
    assert_int_equal(sscanf(text, "SigBlk: %" SCNx64 " SigIgn: %" SCNx64 " %d", &blocked_set,
                            &ignored_set, &session),
                     3);
    assert_true(blocked_set == 0);
    assert_true((ignored_set & ORDINARY_SIGNALS) == 0);
    assert_int_equal(session, 0);
}

static void spawn_passes_on_only_the_descriptors_named(void **state)
{
    int kept[2], other[2], out[2];
    char command[128], seen[256] = "";

    (void)state;
    assert_int_equal(pipe2(kept, O_CLOEXEC), 0);
    assert_int_equal(pipe2(other, 0), 0); /* one before, and one behind */
    assert_int_equal(dup3(kept[0], FAR_FD, O_CLOEXEC), FAR_FD);
    close(kept[0]);
    kept[0] = FAR_FD;
    assert_int_equal(dup2(other[0], FAR_FD + 1), FAR_FD + 1);
    close(other[0]);
    other[0] = FAR_FD + 1;
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    snprintf(
        command, sizeof command,
        "for f in %d %d %d %d; do [ -e /proc/$$/fd/$f ] && echo $f; done; readlink /proc/$$/fd/0",
        kept[0], kept[1], other[0], other[1]);
    char *argv[] = {shell, (char[]){"-c"}, command, NULL};
    struct process_spec spec = {.path = shell,
                                .argv = argv,
                                .directory_fd = -1,
                                .output_fd = out[1],
                                .error_fd = -1,
                                .inherit_fds = &kept[0],
                                .inherit_count = 1};
    pid_t pid;
    auto_close int pidfd = -1;
    assert_int_equal(process_spawn(&spec, &pid, &pidfd, NULL), 0);
    assert_int_equal(fcntl(pidfd, F_GETFD), FD_CLOEXEC);
    assert_int_equal(fcntl(kept[0], F_GETFD), FD_CLOEXEC);
    assert_int_equal(process_poll(&pidfd, 1, process_now_ms() + FAR_MS), 1);
    assert_int_equal(status_of(pidfd), 0);
    assert_true(read(out[0], seen, sizeof seen - 1) > 0);
    char wanted[256];
    snprintf(wanted, sizeof wanted, "%d\n/dev/null\n", kept[0]);
    assert_string_equal(seen, wanted);
    for (int i = 0; i < 2; i++) {
        close(kept[i]);
        close(other[i]);
        close(out[i]);
    }
}

static void spawn_starts_the_child_in_its_directory(void **state)
{
    int out[2];
    char seen[PATH_MAX] = "", *argv[] = {shell, (char[]){"-c"}, (char[]){"pwd -P"}, NULL};

    (void)state;
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    auto_close int directory = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct process_spec spec = {
        .path = "sh", .argv = argv, .directory_fd = directory, .output_fd = out[1], .error_fd = -1};
    pid_t pid;
    auto_close int pidfd = -1;
    assert_int_equal(process_spawn(&spec, &pid, &pidfd, NULL), 0);
    assert_int_equal(status_of(pidfd), 0);
    assert_true(read(out[0], seen, sizeof seen - 1) > 0);
    assert_string_equal(seen, "/proc\n");
    close(out[0]);
    close(out[1]);
}

static void spawn_keeps_stderr_apart_where_it_has_a_descriptor(void **state)
{
    int out[2], errors[2];
    char seen[16] = "", *argv[] = {shell, (char[]){"-c"}, (char[]){"echo o; echo e >&2"}, NULL};

    (void)state;
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    assert_int_equal(pipe2(errors, O_CLOEXEC), 0);
    struct process_spec spec = {.path = shell,
                                .argv = argv,
                                .directory_fd = -1,
                                .output_fd = out[1],
                                .error_fd = errors[1]};
    pid_t pid;
    auto_close int pidfd = -1;
    assert_int_equal(process_spawn(&spec, &pid, &pidfd, NULL), 0);
    assert_int_equal(status_of(pidfd), 0);
    assert_int_equal(read(out[0], seen, sizeof seen - 1), 2);
    assert_string_equal(seen, "o\n");
    assert_int_equal(read(errors[0], seen, sizeof seen - 1), 2);
    assert_string_equal(seen, "e\n");
    for (int i = 0; i < 2; i++) {
        close(out[i]);
        close(errors[i]);
    }
}

static void children_and_theirs_are_known_and_others_are_not(void **state)
{
    /* It says who it is when it has been executed: before, its environment may not be there yet. */
    char *argv[] = {shell, (char[]){"-c"}, (char[]){"sh -c 'echo $$; sleep 1000; :' & wait"}, NULL};
    char text[32] = "";
    int out[2];
    pid_t pid;
    auto_close int pidfd = -1;

    (void)state;
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    struct process_spec spec = {
        .path = shell, .argv = argv, .directory_fd = -1, .output_fd = out[1], .error_fd = -1};
    assert_int_equal(process_spawn(&spec, &pid, &pidfd, NULL), 0);
    assert_true(read(out[0], text, sizeof text - 1) > 0);
    bool own = process_has_mark(pid) > 0, grandchild = process_has_mark(atoi(text)) > 0;
    process_kill(pid, pidfd, FAR_MS, NULL);
    close(out[0]);
    close(out[1]);
    assert_true(own);
    assert_true(grandchild);
    assert_int_equal(process_has_mark(pid), 0); /* any more */
    assert_int_equal(process_has_mark(getpid()), 0);
}

static void times_of_a_process_grow_while_it_runs_and_are_none_when_it_has_ended(void **state)
{
    char *argv[] = {shell, (char[]){"-c"}, (char[]){"while :; do :; done & while :; do :; done"},
                    NULL};
    struct process_spec spec = {
        .path = shell, .argv = argv, .directory_fd = -1, .output_fd = -1, .error_fd = -1};
    double deadline_ms = process_now_ms() + FAR_MS;
    auto_close int pidfd = -1;
    pid_t pid;
    cpu_set_t all, one;

    (void)state;
    /* Two that compute on one processor: each waits for it. */
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    CPU_ZERO(&one);
    CPU_SET((size_t)sched_getcpu(), &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    int r = process_spawn(&spec, &pid, &pidfd, NULL);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
    assert_int_equal(r, 0);
    struct process_times times = {0};
    while ((times.ran_ms < 20 || times.waited_ms <= 0) &&
           process_poll(&pidfd, 1, process_now_ms() + 1) == 0 && process_now_ms() < deadline_ms)
        times = process_times(pid);
    process_kill(pid, pidfd, FAR_MS, NULL);
    assert_true(times.ran_ms >= 20);
    assert_true(times.waited_ms > 0);
    times = process_times(pid);
    assert_true(times.ran_ms == 0);
}

static void kill_ends_and_reaps_a_child(void **state)
{
    char *argv[] = {(char[]){"sleep"}, (char[]){"1000"}, NULL};
    struct process_spec spec = {
        .path = "sleep", .argv = argv, .directory_fd = -1, .output_fd = -1, .error_fd = -1};
    pid_t pid;
    auto_close int pidfd = -1;

    (void)state;
    assert_int_equal(process_spawn(&spec, &pid, &pidfd, NULL), 0);
    assert_int_equal(process_poll(&pidfd, 1, process_now_ms()), 0);
    process_kill(pid, pidfd, FAR_MS, NULL);
    assert_int_equal(kill(pid, 0), -1);
    assert_int_equal(errno, ESRCH);
}

/* As one in uninterruptible sleep. */
static void kill_when_the_child_does_not_end_gives_up_and_says_so(void **state)
{
    char *argv[] = {(char[]){"sleep"}, (char[]){"1000"}, NULL}, want[256];
    struct process_spec spec = {
        .path = "sleep", .argv = argv, .directory_fd = -1, .output_fd = -1, .error_fd = -1};
    struct error err = {0};
    pid_t pid;
    auto_close int pidfd = -1;

    (void)state;
    assert_int_equal(process_spawn(&spec, &pid, &pidfd, NULL), 0);
    error_set(&err, EIO, "it does not answer");
    unkillable = true;
    int r = process_kill(pid, pidfd, 1, &err);
    unkillable = false;
    assert_int_equal(process_kill(pid, pidfd, FAR_MS, NULL), 0);
    snprintf(want, sizeof want, "it does not answer; its process %d " PROCESS_STUCK, (int)pid);
    assert_int_equal(r, -ETIMEDOUT);
    assert_int_equal(err.code, EIO);
    assert_string_equal(err.text, want);
    assert_int_equal(kill(pid, 0), -1);
}

static void poll_when_one_is_readable_names_it(void **state)
{
    int a[2], b[2];

    (void)state;
    assert_int_equal(pipe2(a, O_CLOEXEC), 0);
    assert_int_equal(pipe2(b, O_CLOEXEC), 0);
    int fds[] = {a[0], -1, b[0]};
    assert_int_equal(process_poll(fds, 3, process_now_ms() - 1), 0);
    assert_int_equal(write(b[1], "x", 1), 1);
    assert_int_equal(process_poll(fds, 3, process_now_ms() + FAR_MS), 4);
    close(a[1]);
    assert_int_equal(process_poll(fds, 3, process_now_ms() + FAR_MS), 5);
    close(a[0]);
    close(b[0]);
    close(b[1]);
}

static void poll_when_nothing_comes_ends_at_the_deadline(void **state)
{
    int ends[2];

    (void)state;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    double start_ms = process_now_ms();
    assert_int_equal(process_poll(&ends[0], 1, start_ms + 30), 0);
    assert_true(process_now_ms() - start_ms >= 30);
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(program_that_gets_no_processor_has_longer),
        cmocka_unit_test(output_when_a_program_prints_returns_both_streams),
        cmocka_unit_test(output_when_longer_than_allowed_is_cut_and_the_program_ends),
        cmocka_unit_test(output_when_the_program_fails_is_eio_with_its_words),
        cmocka_unit_test(output_when_the_program_names_a_limit_is_its_errno_with_the_remedy),
        cmocka_unit_test(output_when_the_program_does_not_end_kills_it),
        cmocka_unit_test(output_when_it_is_cancelled_kills_the_program),
        cmocka_unit_test(output_when_a_grandchild_keeps_the_pipe_does_not_wait_for_it),
        cmocka_unit_test(output_when_there_is_no_program_is_enoent),
        cmocka_unit_test(spawn_gives_the_child_a_session_and_no_signal_blocked_or_ignored),
        cmocka_unit_test(spawn_passes_on_only_the_descriptors_named),
        cmocka_unit_test(spawn_starts_the_child_in_its_directory),
        cmocka_unit_test(spawn_keeps_stderr_apart_where_it_has_a_descriptor),
        cmocka_unit_test(children_and_theirs_are_known_and_others_are_not),
        cmocka_unit_test(times_of_a_process_grow_while_it_runs_and_are_none_when_it_has_ended),
        cmocka_unit_test(kill_ends_and_reaps_a_child),
        cmocka_unit_test(kill_when_the_child_does_not_end_gives_up_and_says_so),
        cmocka_unit_test(poll_when_one_is_readable_names_it),
        cmocka_unit_test(poll_when_nothing_comes_ends_at_the_deadline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
