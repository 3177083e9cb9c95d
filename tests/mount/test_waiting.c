/* SPDX-License-Identifier: MIT */
/* While a commit is under way: other writers, and what else is asked of its draft. */
#include "fixture.h"

#include <fcntl.h>
#include <poll.h>
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
        harness_await_blocked(h, others[i].pid);
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
    harness_await_blocked(h, second.pid);
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
    assert_string_equal(harness_get(h, fork_path(h, "d", "error")),
                        "forks/d is committing: wait until that has ended\n");
    assert_file_contains(fork_path(h, "d", "mailboxes/m"), "{\"n\":1}");
    ack(port);
    assert_int_equal(harness_finish(h, &commit).status, 0);
    assert_string_equal(harness_get(h, fork_path(h, "d", "error")), "");
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
    };
    harness_enter();
    if (!tiny_guest_possible())
        return HARNESS_SKIPPED;
    return cmocka_run_group_tests_name("waiting", tests, NULL, NULL);
}
