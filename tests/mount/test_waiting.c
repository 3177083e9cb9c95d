/* SPDX-License-Identifier: MIT */
/* While a commit is under way: other writers, signals, and what else is asked of its draft. */
#include "fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
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

/* The draft exists, has a mailbox whose ack is waited for, and commits. Returns the ack's port. */
static int begin(struct harness *h, const char *draft, const char *text,
                 struct harness_child *ret_commit)
{
    tiny_guest_stage(h, draft, "m", "{\"n\":1}", LONG_MS);
    *ret_commit = tiny_guest_commit(h, draft, text);
    return tiny_guest_port(h, "m");
}

static void ack(int port)
{
    tiny_guest_send(port, "stage=applied mailbox=m");
}

static void second_write_waits_for_the_same_commit(void **state)
{
    struct harness *h = *state;
    struct harness_child first, others[3];
    static const char *const texts[] = {"f1", "1", ""};
    int port = begin(h, "new", "f1", &first);
    for (size_t i = 0; i < array_length(others); i++)
        others[i] = tiny_guest_commit(h, "new", texts[i]);
    assert_errno(harness_write(fork_path(h, "new", "commit"), "f2"), EBUSY);
    for (size_t i = 0; i < array_length(others); i++)
        assert_false(poll(&(struct pollfd){.fd = others[i].pidfd, .events = POLLIN}, 1, 50));
    ack(port);
    assert_int_equal(harness_finish(h, &first).status, 0);
    for (size_t i = 0; i < array_length(others); i++)
        assert_int_equal(harness_finish(h, &others[i]).status, 0);
    assert_forks(h, "f1 ");
}

static void second_write_gets_the_same_failure(void **state)
{
    struct harness *h = *state;
    struct harness_child first, second;
    assert_works(mkdir(fork_path(h, "d", ""), 0755));
    int port = begin(h, "d", "1", &first);
    second = tiny_guest_commit(h, "d", "d");
    assert_errno(harness_write(fork_path(h, "d", "commit"), "e"), EINVAL);
    assert_false(poll(&(struct pollfd){.fd = second.pidfd, .events = POLLIN}, 1, 50));
    tiny_guest_send(port, "stage=failed mailbox=m reason=no");
    assert_contains(harness_finish(h, &first).err, "Remote I/O error");
    assert_contains(harness_finish(h, &second).err, "Remote I/O error");
    assert_forks(h, "");
}

/* Both are started at one moment, often enough that they meet in the daemon. */
static void writes_at_the_same_moment_make_one_fork(void **state)
{
    struct harness *h = *state;
    for (int i = 0; i < 10; i++) {
        const char *id = harness_format(h, "f%d", i);
        assert_works(mkdir(fork_path(h, id, ""), 0755));
        harness_put(fork_path(h, id, "mailboxes/m"), "{}");
        struct harness_child first = tiny_guest_commit(h, id, "1");
        struct harness_child second = tiny_guest_commit(h, id, id);
        assert_int_equal(harness_finish(h, &first).status, 0);
        assert_int_equal(harness_finish(h, &second).status, 0);
        harness_put(harness_path(h, "instances/%s/state", id), "stopped");
    }
    assert_forks(h, "f0 f1 f2 f3 f4 f5 f6 f7 f8 f9 ");
}

static void drafts_when_committed_at_once_become_a_fork_each(void **state)
{
    struct harness *h = *state;
    enum { COUNT = 6 };
    struct harness_child commits[COUNT];
    for (int i = 0; i < COUNT; i++) {
        const char *id = harness_format(h, "f%d", i);
        assert_works(mkdir(fork_path(h, id, ""), 0755));
        harness_put(fork_path(h, id, "mailboxes/m"), harness_format(h, "{\"i\":%d}", i));
        commits[i] = tiny_guest_commit(h, id, id);
    }
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(harness_finish(h, &commits[i]).status, 0);
        harness_await(h, harness_path(h, "instances/f%d/console", i),
                      harness_format(h, "m {\"i\":%d}\n", i));
    }
}

static void draft_that_commits_is_busy(void **state)
{
    struct harness *h = *state;
    struct harness_child commit;
    assert_works(mkdir(fork_path(h, "d", ""), 0755));
    harness_put(fork_path(h, "d", "mailboxes/m"), "{}");
    auto_close int early = open(fork_path(h, "d", "mailboxes/m"), O_RDWR | O_CLOEXEC);
    auto_close int options = open(fork_path(h, "d", "options"), O_RDWR | O_CLOEXEC);
    int port = begin(h, "d", "1", &commit);
    assert_errno(harness_write(fork_path(h, "d", "mailboxes/m"), "{}"), EBUSY);
    assert_errno(harness_write(fork_path(h, "d", "mailboxes/a"), "{}"), EBUSY);
    assert_errno(harness_write(fork_path(h, "d", "options"), "{}"), EBUSY);
    assert_errno(harness_write(fork_path(h, "d", "network"), "{}"), EBUSY);
    assert_fails(write(early, "{}", 2), EBUSY);
    assert_fails(write(options, "{}", 2), EBUSY);
    assert_fails(ftruncate(options, 0), EBUSY);
    assert_fails(truncate(fork_path(h, "d", "mailboxes/m"), 0), EBUSY);
    assert_fails(unlink(fork_path(h, "d", "mailboxes/m")), EBUSY);
    assert_fails(rename(fork_path(h, "d", "mailboxes/m"), fork_path(h, "d", "mailboxes/a")), EBUSY);
    assert_fails(rmdir(fork_path(h, "d", "")), EBUSY);
    assert_fails(rmdir(harness_path(h, "snapshots/base")), EBUSY);
    assert_fails(mkdir(harness_path(h, "instances/d"), 0755), EEXIST); /* the id is reserved */
    assert_fails(access(harness_path(h, "instances/d"), F_OK), ENOENT);
    assert_string_equal(harness_get(h, fork_path(h, "d", "status")), "committing\n");
    assert_string_equal(harness_get(h, fork_path(h, "d", "result")), "");
    assert_string_equal(harness_get(h, fork_path(h, "d", "error")), "");
    assert_file_contains(fork_path(h, "d", "mailboxes/m"), "{\"n\":1}");
    ack(port);
    assert_int_equal(harness_finish(h, &commit).status, 0);
    assert_fails(write(early, "{}", 2), EPERM);
}

static void other_drafts_while_one_commits_are_free(void **state)
{
    struct harness *h = *state;
    struct harness_child commit;
    assert_works(mkdir(fork_path(h, "d", ""), 0755));
    int port = begin(h, "d", "1", &commit);
    harness_put(fork_path(h, "new", "mailboxes/a"), "{\"n\":2}");
    harness_put(fork_path(h, "new", "commit"), "f1");
    assert_works(mkdir(fork_path(h, "e", ""), 0755));
    assert_works(rmdir(fork_path(h, "e", "")));
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
    ack(port);
    assert_int_equal(harness_finish(h, &commit).status, 0);
    assert_forks(h, "d f1 x ");
}

static void status_when_polled_tells_of_each_change(void **state)
{
    struct harness *h = *state;
    struct harness_child commit;
    char word[32];
    auto_close int fd = open(fork_path(h, "new", "status"), O_RDONLY | O_CLOEXEC);
    struct pollfd look = {.fd = fd, .events = POLLPRI};
    assert_int_equal(poll(&look, 1, 0), 1); /* never read */
    assert_int_equal(pread(fd, word, sizeof word, 0), 6);
    assert_memory_equal(word, "empty\n", 6);
    assert_int_equal(poll(&look, 1, 0), 0);
    int port = begin(h, "new", "f1", &commit);
    assert_int_equal(poll(&look, 1, HARNESS_DEADLINE_MS), 1);
    assert_true(look.revents & POLLPRI);
    assert_int_equal(pread(fd, word, sizeof word, 0), 11);
    assert_memory_equal(word, "committing\n", 11);
    assert_int_equal(poll(&look, 1, 0), 0);
    ack(port);
    assert_int_equal(poll(&look, 1, HARNESS_DEADLINE_MS), 1);
    assert_int_equal(pread(fd, word, sizeof word, 0), 6);
    assert_int_equal(harness_finish(h, &commit).status, 0);
}

/* The foreground process group gets SIGINT, as from the terminal. */
static void interrupt_of_a_shell_ends_it_and_not_the_commit(void **state)
{
    struct harness *h = *state;
    struct harness_child commit;
    int port = begin(h, "new", "f1", &commit);
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
    struct harness_child commit;
    int port = begin(h, "new", "f1", &commit);
    assert_works(kill(commit.pid, SIGKILL));
    assert_int_equal(harness_finish(h, &commit).status, 128 + SIGKILL);
    ack(port);
    harness_await(h, fork_path(h, "new", "status"), "empty");
    assert_forks(h, "f1 ");
}

/* A zombie counts: its parent, which is in the middle of a write, reaps it later. */
static bool has_ended(void *argument)
{
    auto_fclose FILE *file = fopen(argument, "re");
    char state = 'X';
    return !file || fscanf(file, "%*d (%*[^)]) %c", &state) != 1 || state == 'Z';
}

static void shell_whose_background_job_ends_is_not_interrupted(void **state)
{
    struct harness *h = *state;
    tiny_guest_stage(h, "new", "m", "{}", LONG_MS);
    struct harness_child commit = harness_start_shell(
        h, "bash",
        "tail -f /dev/null & echo $! > $T/job; echo f1 > snapshots/base/forks/new/commit && "
        "echo done");
    int port = tiny_guest_port(h, "m");
    pid_t job = atoi(harness_get(h, harness_format(h, "%s/job", h->directory)));
    assert_works(kill(job, SIGTERM));
    harness_await_that(has_ended, harness_format(h, "/proc/%d/stat", (int)job), "the job ends");
    /* The daemon looks at the writer's signals at once, and again every 100 ms. */
    assert_false(poll(&(struct pollfd){.fd = commit.pidfd, .events = POLLIN}, 1, 250));
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
    int port = tiny_guest_port(h, "m");
    assert_works(kill(commit.pid, SIGWINCH));
    assert_false(poll(&(struct pollfd){.fd = commit.pidfd, .events = POLLIN}, 1, 250));
    assert_works(kill(commit.pid, SIGTERM));
    assert_int_equal(harness_finish(h, &commit).status, 128 + SIGTERM);
    ack(port);
    harness_await(h, fork_path(h, "new", "status"), "empty");
    assert_forks(h, "f1 ");
}

static void dash_that_writes_again_after_a_signal_makes_one_fork(void **state)
{
    struct harness *h = *state;
    tiny_guest_stage(h, "new", "m", "{}", LONG_MS);
    struct harness_child commit = harness_start_shell(
        h, "dash", "trap : USR1; echo f1 > snapshots/base/forks/new/commit; echo $?");
    int port = tiny_guest_port(h, "m");
    for (int i = 0; i < 3; i++)
        assert_works(kill(commit.pid, SIGUSR1));
    assert_false(poll(&(struct pollfd){.fd = commit.pidfd, .events = POLLIN}, 1, 50));
    ack(port);
    struct harness_result result = harness_finish(h, &commit);
    assert_string_equal(result.out, "0\n");
    assert_string_equal(result.err, "");
    assert_forks(h, "f1 ");
}

static void python_that_writes_again_after_a_signal_makes_one_fork(void **state)
{
    struct harness *h = *state;
    tiny_guest_stage(h, "new", "m", "{}", LONG_MS);
    struct harness_child commit = harness_start(
        h, (const char *const[]){
               "python3", "-c",
               "import os, signal\n"
               "signal.signal(signal.SIGUSR1, lambda n, f: print('signal', flush=True))\n"
               "fd = os.open('snapshots/base/forks/new/commit', os.O_WRONLY)\n"
               "print(os.write(fd, b'f1'))\n",
               NULL});
    int port = tiny_guest_port(h, "m");
    assert_works(kill(commit.pid, SIGUSR1));
    assert_false(poll(&(struct pollfd){.fd = commit.pidfd, .events = POLLIN}, 1, 50));
    ack(port);
    assert_string_equal(harness_finish(h, &commit).out, "signal\n2\n");
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

static void write_again_after_eintr_returns_the_outcome_once(void **state)
{
    struct harness *h = *state;
    struct writer writer = {.text = "f1"};
    tiny_guest_stage(h, "new", "m", "{}", LONG_MS);
    pthread_t thread = start_writer(h, &writer);
    int port = tiny_guest_port(h, "m");
    pthread_kill(thread, SIGUSR1);
    pthread_join(thread, NULL);
    assert_errno(writer.code, EINTR);
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
    tiny_guest_stage(h, "new", "m", "{}", LONG_MS);
    pthread_t thread = start_writer(h, &writer);
    int port = tiny_guest_port(h, "m");
    pthread_kill(thread, SIGUSR1);
    pthread_join(thread, NULL);
    assert_errno(writer.code, EINTR);
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
    tiny_guest_stage(h, "new", "m", "{}", LONG_MS);
    pthread_t thread = start_writer(h, &writer);
    int port = tiny_guest_port(h, "m");
    pthread_kill(thread, SIGUSR1);
    pthread_join(thread, NULL);
    assert_errno(writer.code, EINTR);
    tiny_guest_send(port, "stage=failed mailbox=m reason=no");
    harness_await(h, fork_path(h, "new", "status"), "failed");
    assert_fails(write(writer.fd, "f1", 2), EREMOTEIO);
    assert_forks(h, "");
    close(writer.fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        guest_test(second_write_waits_for_the_same_commit),
        guest_test(second_write_gets_the_same_failure),
        guest_test(writes_at_the_same_moment_make_one_fork),
        guest_test(drafts_when_committed_at_once_become_a_fork_each),
        guest_test(draft_that_commits_is_busy),
        guest_test(other_drafts_while_one_commits_are_free),
        guest_test(status_when_polled_tells_of_each_change),
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
    return cmocka_run_group_tests_name("waiting", tests, NULL, NULL);
}
