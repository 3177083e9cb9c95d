/* SPDX-License-Identifier: MIT */
/* Signals to those who wait for a commit. */
#include "fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tiny_guest.h"
#include "util/cleanup.h"

enum { LONG_MS = 30000 };

static char *fork_path(struct harness *h, const char *fork, const char *file)
{
    return harness_path(h, "snapshots/base/forks/%s/%s", fork, file);
}

static void assert_forks(struct harness *h, const char *names)
{
    assert_string_equal(assert_shell("bash", "ls instances | tr '\\n' ' '", 0).out, names);
}

/* A command that commits `new` is started, and waits: the guest has got its mailbox and is expected
 * to ack. Returns the ack's port. */
static int await_commit(struct harness *h, const struct harness_child *commit)
{
    int port = tiny_guest_port(h, "m");
    harness_await_blocked(h, commit->pid);
    return port;
}

static void ack(int port)
{
    tiny_guest_send(port, "stage=applied mailbox=m");
}

/* The foreground process group gets SIGINT, as from the terminal. */
static void interrupt_of_a_shell_ends_it_and_not_the_commit(void **state)
{
    struct harness *h = *state;
    tiny_guest_stage(h, "new", "m", "{}", LONG_MS);
    struct harness_child commit = tiny_guest_commit(h, "new", "f1");
    int port = await_commit(h, &commit);
    assert_works(kill(-commit.pid, SIGINT));
    assert_int_equal(harness_finish(h, &commit).status, 128 + SIGINT);
    assert_string_equal(harness_get(h, fork_path(h, "new", "status")), "committing\n");
    ack(port);
    harness_await(h, fork_path(h, "new", "status"), "empty");
    assert_string_equal(harness_get(h, fork_path(h, "f1", "status")), "committed\n");
}

static void writer_that_is_killed_ends_at_once(void **state)
{
    struct harness *h = *state;
    tiny_guest_stage(h, "new", "m", "{}", LONG_MS);
    struct harness_child commit = tiny_guest_commit(h, "new", "f1");
    int port = await_commit(h, &commit);
    assert_works(kill(commit.pid, SIGKILL));
    assert_int_equal(harness_finish(h, &commit).status, 128 + SIGKILL);
    ack(port);
    harness_await(h, fork_path(h, "new", "status"), "empty");
    assert_forks(h, "f1 ");
}

/* Of /proc/PID/FILE, the number in base `base` behind `field`; 0 if there is none. */
static uint64_t number_of(pid_t pid, const char *file, const char *field, int base)
{
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, file);
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
    text[size > 0 ? size : 0] = 0;
    const char *at = strstr(text, field);
    return at ? strtoull(at + strlen(field), NULL, base) : 0;
}

struct expected {
    pid_t pid;
    int signal;
    uint64_t count;
};

static bool is_pending(void *argument)
{
    const struct expected *expected = argument;
    uint64_t pending = number_of(expected->pid, "status", "\nSigPnd:", 16) |
                       number_of(expected->pid, "status", "\nShdPnd:", 16);
    return pending & UINT64_C(1) << (expected->signal - 1);
}

/* How often the daemon's threads have gone to sleep. */
static uint64_t naps(pid_t daemon)
{
    char path[64], file[300];
    uint64_t sum = 0;
    snprintf(path, sizeof path, "/proc/%d/task", (int)daemon);
    auto_closedir DIR *tasks = opendir(path);
    for (struct dirent *task; tasks && (task = readdir(tasks));) {
        snprintf(file, sizeof file, "task/%s/status", task->d_name);
        if (task->d_name[0] != '.')
            sum += number_of(daemon, file, "\nvoluntary_ctxt_switches:", 10);
    }
    return sum;
}

static bool has_napped(void *argument)
{
    const struct expected *expected = argument;
    return naps(expected->pid) >= expected->count;
}

/* The signal has come, it ends nothing, and the daemon has looked at it again: nothing else wakes
 * the daemon while all wait for an ack. */
static void await_that_it_goes_on(struct harness *h, const struct harness_child *commit, int signal)
{
    enum { LOOKS = 3 };
    struct expected expected = {.pid = commit->pid, .signal = signal};
    harness_await_that(is_pending, &expected, "the writer has the signal");
    harness_await_blocked(h, commit->pid);
    struct expected again = {.pid = h->daemon, .count = naps(h->daemon) + LOOKS};
    harness_await_that(has_napped, &again, "the daemon looks at the writer again");
    harness_await_blocked(h, commit->pid);
}

static void shell_whose_background_job_ends_is_not_interrupted(void **state)
{
    struct harness *h = *state;
    tiny_guest_stage(h, "new", "m", "{}", LONG_MS);
    struct harness_child commit = harness_start_shell(
        h, "bash",
        "tail -f /dev/null & echo $! > $T/job; echo f1 > snapshots/base/forks/new/commit && "
        "echo done");
    int port = await_commit(h, &commit);
    assert_works(kill(atoi(harness_get(h, harness_format(h, "%s/job", h->directory))), SIGTERM));
    await_that_it_goes_on(h, &commit, SIGCHLD);
    ack(port);
    struct harness_result result = harness_finish(h, &commit);
    assert_string_equal(result.err, "");
    assert_int_equal(result.status, 0);
    assert_string_equal(result.out, "done\n");
}

/* A harmless signal first, then one that counts: the kernel tells of the first alone. */
static void writer_with_a_harmless_signal_is_interrupted_by_a_later_one(void **state)
{
    struct harness *h = *state;
    tiny_guest_stage(h, "new", "m", "{}", LONG_MS);
    struct harness_child commit =
        harness_start_shell(h, "bash", "trap : WINCH; echo f1 > snapshots/base/forks/new/commit");
    int port = await_commit(h, &commit);
    assert_works(kill(commit.pid, SIGWINCH));
    await_that_it_goes_on(h, &commit, SIGWINCH);
    assert_works(kill(commit.pid, SIGTERM));
    assert_int_equal(harness_finish(h, &commit).status, 128 + SIGTERM);
    ack(port);
    harness_await(h, fork_path(h, "new", "status"), "empty");
    assert_forks(h, "f1 ");
}

static bool has_written(void *argument)
{
    const struct expected *expected = argument;
    return number_of(expected->pid, "io", "syscw:", 10) >= expected->count;
}

/* Each signal ends a write(2), and dash makes another one. */
static void dash_that_writes_again_after_a_signal_makes_one_fork(void **state)
{
    struct harness *h = *state;
    tiny_guest_stage(h, "new", "m", "{}", LONG_MS);
    struct harness_child commit = harness_start_shell(
        h, "dash", "trap : USR1; echo f1 > snapshots/base/forks/new/commit; echo $?");
    int port = await_commit(h, &commit);
    for (unsigned i = 1; i <= 3; i++) {
        struct expected expected = {.pid = commit.pid, .count = i};
        assert_works(kill(commit.pid, SIGUSR1));
        harness_await_that(has_written, &expected, "dash's write returns");
        harness_await_blocked(h, commit.pid);
    }
    ack(port);
    struct harness_result result = harness_finish(h, &commit);
    assert_string_equal(result.out, "0\n");
    assert_string_equal(result.err, "");
    assert_forks(h, "f1 ");
}

static bool is_there(void *argument)
{
    return access(argument, F_OK) == 0;
}

/* Python runs a handler when the write has returned, and before it makes another one. */
static void python_that_writes_again_after_a_signal_makes_one_fork(void **state)
{
    struct harness *h = *state;
    tiny_guest_stage(h, "new", "m", "{}", LONG_MS);
    struct harness_child commit = harness_start(
        h,
        (const char *const[]){
            "python3", "-c",
            "import os, signal\n"
            "signal.signal(signal.SIGUSR1, lambda n, f: os.mkdir(os.environ['T'] + '/handled'))\n"
            "fd = os.open('snapshots/base/forks/new/commit', os.O_WRONLY)\n"
            "print(os.write(fd, b'f1'))\n",
            NULL});
    int port = await_commit(h, &commit);
    assert_works(kill(commit.pid, SIGUSR1));
    harness_await_that(is_there, harness_format(h, "%s/handled", h->directory),
                       "Python's handler runs");
    harness_await_blocked(h, commit.pid);
    ack(port);
    assert_string_equal(harness_finish(h, &commit).out, "2\n");
    assert_forks(h, "f1 ");
}

/* A thread that writes to a commit file, for signals of the test's own. */
struct writer {
    const char *text;
    int fd, code; /* errno of the write */
};

static void on_signal(int number)
{
    (void)number;
}

static void *write_text(void *argument)
{
    struct writer *writer = argument;
    writer->code = write(writer->fd, writer->text, strlen(writer->text)) < 0 ? errno : 0;
    return NULL;
}

static pthread_t start_writer(struct harness *h, struct writer *writer)
{
    pthread_t thread;
    const struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART */
    sigaction(SIGUSR1, &action, NULL);
    writer->fd = open(fork_path(h, "new", "commit"), O_WRONLY | O_CLOEXEC);
    assert_works(writer->fd);
    assert_int_equal(pthread_create(&thread, NULL, write_text, writer), 0);
    return thread;
}

/* A commit whose write a signal ends while it waits for its ack. Returns the port of that. */
static int interrupt_commit(struct harness *h, struct writer *writer)
{
    tiny_guest_stage(h, "new", "m", "{}", LONG_MS);
    pthread_t thread = start_writer(h, writer);
    int port = tiny_guest_port(h, "m");
    pthread_kill(thread, SIGUSR1);
    pthread_join(thread, NULL);
    assert_errno(writer->code, EINTR);
    return port;
}

static void write_again_after_eintr_returns_the_outcome_once(void **state)
{
    struct harness *h = *state;
    struct writer writer = {.text = "f1"};
    int port = interrupt_commit(h, &writer);
    assert_string_equal(harness_get(h, fork_path(h, "new", "status")), "committing\n");
    ack(port);
    harness_await(h, fork_path(h, "new", "status"), "empty"); /* it has ended */
    assert_int_equal(write(writer.fd, "f1\n", 3), 3);
    assert_forks(h, "f1 ");
    assert_fails(write(writer.fd, "f1\n", 3), EEXIST);
    close(writer.fd);
}

static void write_of_another_text_after_eintr_is_a_command_of_its_own(void **state)
{
    struct harness *h = *state;
    struct writer writer = {.text = "f1"};
    int port = interrupt_commit(h, &writer);
    assert_fails(write(writer.fd, "f2", 2), EBUSY);
    ack(port);
    harness_await(h, fork_path(h, "new", "status"), "empty");
    assert_int_equal(write(writer.fd, "f2", 2), 2);
    assert_forks(h, "f1 f2 ");
    close(writer.fd);
}

static void write_of_a_failed_commit_after_eintr_returns_its_failure(void **state)
{
    struct harness *h = *state;
    struct writer writer = {.text = "f1"};
    int port = interrupt_commit(h, &writer);
    tiny_guest_send(port, "stage=failed mailbox=m reason=no");
    harness_await(h, fork_path(h, "new", "status"), "failed");
    assert_fails(write(writer.fd, "f1", 2), EREMOTEIO);
    assert_forks(h, "");
    close(writer.fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        guest_test(interrupt_of_a_shell_ends_it_and_not_the_commit),
        guest_test(writer_that_is_killed_ends_at_once),
        guest_test(shell_whose_background_job_ends_is_not_interrupted),
        guest_test(writer_with_a_harmless_signal_is_interrupted_by_a_later_one),
        guest_test(dash_that_writes_again_after_a_signal_makes_one_fork),
        guest_test(python_that_writes_again_after_a_signal_makes_one_fork),
        guest_test(write_again_after_eintr_returns_the_outcome_once),
        guest_test(write_of_another_text_after_eintr_is_a_command_of_its_own),
        guest_test(write_of_a_failed_commit_after_eintr_returns_its_failure),
    };
    harness_enter();
    if (!tiny_guest_possible())
        return HARNESS_SKIPPED;
    return cmocka_run_group_tests_name("interrupts", tests, NULL, NULL);
}
