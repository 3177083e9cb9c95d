/* SPDX-License-Identifier: MIT */
/* How many VMMs start or load at the same time, with one turn and VMMs that start when the test
 * lets them. They are the fake Firecracker's. */
#include "fixture.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake.h"

static char *draft(struct harness *h, const char *fork, const char *file)
{
    return harness_path(h, "snapshots/base/forks/%s/%s", fork, file);
}

/* What the guests do; their VMMs start when the test lets them. */
static void tell(struct harness *h, const char *guest)
{
    fake_tell(h, harness_format(h, "FAKE_VMM_GUEST=%s\nread go < '%s/gate'", guest, h->programs));
}

static int setup(void **state)
{
    int r = harness_setup(state);
    if (r == 0) {
        struct harness *h = *state;
        fake_mount_with(h, "--max-loads", "1");
        fake_publish(h, "mailboxes=m,a", "");
        assert_works(mkfifo(harness_format(h, "%s/gate", h->programs), 0600));
        assert_works(chmod(harness_format(h, "%s/gate", h->programs), 0644));
        tell(h, "ack");
    }
    return r;
}

/* The VMM that waits at the gate starts. */
static void let_one_start(struct harness *h)
{
    harness_put(harness_format(h, "%s/gate", h->programs), "go\n");
}

/* A VM has its directory in the store: one of a fork has no name yet. */
static bool one_is_made(void *store)
{
    DIR *directory = opendir(store);
    assert_non_null(directory);
    bool found = false;
    for (const struct dirent *entry; (entry = readdir(directory)) != NULL;)
        found |= strncmp(entry->d_name, ".new-", 5) == 0;
    closedir(directory);
    return found;
}

/* The commit of a draft of that name is under way; "committing" is that of the one that has the
 * turn. */
static struct harness_child commit_within(struct harness *h, const char *id, const char *status,
                                          int ack_ms)
{
    assert_works(mkdir(draft(h, id, ""), 0755));
    harness_put(draft(h, id, "mailboxes/m"),
                harness_format(h,
                               "{\"payload\":{\"n\":1},\"wait_for_ack\":true,\"ack\":\"memory\","
                               "\"ack_timeout_ms\":%d}",
                               ack_ms));
    struct harness_child child = harness_start_shell(
        h, "bash", harness_format(h, "exec echo 1 > snapshots/base/forks/%s/commit", id));
    harness_await(h, draft(h, id, "status"), status);
    /* Before its turn it is "committing", too: it looks at the snapshot. */
    if (strcmp(status, "committing") == 0)
        harness_await_that(one_is_made, harness_format(h, "%s/instances", h->store),
                           "a VM is made");
    return child;
}

static struct harness_child commit(struct harness *h, const char *id, const char *status)
{
    return commit_within(h, id, status, 5000);
}

static void commits_over_the_limit_wait_for_their_turn_in_order(void **state)
{
    struct harness *h = *state;
    static const char *const ids[] = {"f1", "f2", "f3"};
    struct harness_child children[3];
    for (int i = 0; i < 3; i++)
        children[i] = commit(h, ids[i], i == 0 ? "committing" : "queued");
    for (int i = 0; i < 3; i++) {
        harness_await(h, draft(h, ids[i], "status"), "committing");
        for (int k = i + 1; k < 3; k++)
            assert_string_equal(harness_get(h, draft(h, ids[k], "status")), "queued\n");
        let_one_start(h);
        assert_int_equal(harness_finish(h, &children[i]).status, 0);
        const char *result = harness_get(h, draft(h, ids[i], "result"));
        assert_string_equal(harness_json(h, result, "mailboxes.0.acked"), "true");
        bool waited = atof(harness_json(h, result, "timings_ms.queued")) > 1;
        assert_int_equal(waited, i > 0);
    }
    for (int i = 0; i < 3; i++)
        fake_drop(h, ids[i]);
}

/* Its hook sleeps, say. */
static void turn_passes_on_when_a_guest_does_not_ack(void **state)
{
    struct harness *h = *state;
    tell(h, "absent");
    struct harness_child first = commit_within(h, "f1", "committing", 300000);
    struct harness_child second = commit(h, "f2", "queued");
    let_one_start(h);
    harness_await(h, draft(h, "f2", "status"), "committing");
    assert_string_equal(harness_get(h, draft(h, "f1", "status")), "waiting\n");
    assert_works(kill(first.pid, SIGKILL));
    assert_works(kill(second.pid, SIGKILL));
}

/* A second one would make it wait longer still. */
static void turn_is_kept_while_a_guest_waits_for_a_processor(void **state)
{
    struct harness *h = *state;
    enum { ACK_MS = 4000 };
    tell(h, "busy");
    struct harness_child first = commit_within(h, "f1", "committing", ACK_MS);
    struct harness_child second = commit_within(h, "f2", "queued", 1);
    let_one_start(h);
    assert_contains(harness_finish(h, &first).err, "timed out");
    assert_file_contains(draft(h, "f1", "error"), "; its VM had a processor for ");
    assert_null(strstr(harness_get(h, draft(h, "f1", "error")), "waited for one for 0 ms"));
    let_one_start(h);
    assert_contains(harness_finish(h, &second).err, "timed out");
    const char *result = harness_get(h, draft(h, "f2", "result"));
    assert_true(atof(harness_json(h, result, "timings_ms.queued")) >= ACK_MS);
}

static void queued_commit_whose_writer_is_interrupted_is_not_begun(void **state)
{
    struct harness *h = *state;
    struct harness_child first = commit(h, "f1", "committing");
    struct harness_child second = commit(h, "f2", "queued");
    assert_works(kill(second.pid, SIGKILL));
    assert_int_equal(harness_finish(h, &second).status, 128 + SIGKILL);
    harness_await(h, draft(h, "f2", "status"), "failed");
    assert_file_contains(draft(h, "f2", "error"), "interrupted while the commit waited");
    const char *result = harness_get(h, draft(h, "f2", "result"));
    assert_string_equal(harness_json(h, result, "error.code"), "ECANCELED");
    assert_string_equal(harness_json(h, result, "error.phase"), "queued");
    let_one_start(h);
    assert_int_equal(harness_finish(h, &first).status, 0);
    assert_shell("bash", "[ \"$(ls instances)\" = f1 ] && [ \"$(ls -A $S/instances)\" = f1 ]", 0);
    fake_drop(h, "f1");
}

/* Of two that wait for one commit, the one that is left still wants it. */
static void queued_commit_that_somebody_else_waits_for_goes_on(void **state)
{
    struct harness *h = *state;
    struct harness_child first = commit(h, "f1", "committing");
    struct harness_child second = commit(h, "f2", "queued");
    struct harness_child joined =
        harness_start_shell(h, "bash", "exec echo 1 > snapshots/base/forks/f2/commit");
    harness_await_blocked(h, joined.pid);
    assert_works(kill(second.pid, SIGKILL));
    assert_int_equal(harness_finish(h, &second).status, 128 + SIGKILL);
    assert_string_equal(harness_get(h, draft(h, "f2", "status")), "queued\n");
    let_one_start(h);
    assert_int_equal(harness_finish(h, &first).status, 0);
    let_one_start(h);
    assert_int_equal(harness_finish(h, &joined).status, 0);
    fake_drop(h, "f1");
    fake_drop(h, "f2");
}

static void queued_commit_that_is_interrupted_and_written_again_fails_once(void **state)
{
    struct harness *h = *state;
    struct harness_child first = commit(h, "f1", "committing");
    assert_works(mkdir(draft(h, "f2", ""), 0755));
    struct harness_child second = harness_start(
        h, (const char *const[]){"python3", "-c",
                                 "import os, signal\n"
                                 "signal.signal(signal.SIGUSR1, lambda n, f: None)\n"
                                 "fd = os.open('snapshots/base/forks/f2/commit', os.O_WRONLY)\n"
                                 "try: os.write(fd, b'1')\n"
                                 "except OSError as e: print(e.errno)\n",
                                 NULL});
    harness_await(h, draft(h, "f2", "status"), "queued");
    assert_works(kill(second.pid, SIGUSR1));
    assert_string_equal(harness_finish(h, &second).out, harness_format(h, "%d\n", ECANCELED));
    let_one_start(h);
    assert_int_equal(harness_finish(h, &first).status, 0);
    fake_drop(h, "f1");
}

static void daemon_that_stops_ends_what_is_queued(void **state)
{
    struct harness *h = *state;
    struct harness_child first = commit(h, "f1", "committing");
    struct harness_child second = commit(h, "f2", "queued");
    assert_int_equal(harness_unmount(h), 0);
    assert_contains(harness_finish(h, &first).err, "shut");
    assert_contains(harness_finish(h, &second).err, "shut");
    assert_shell("bash", "[ -z \"$(ls -A $S/instances)\" ]", 0);
}

/* Boots take turns with commits, and a write of stopped ends one that waits. */
static void boot_over_the_limit_waits_until_stopped_is_written(void **state)
{
    struct harness *h = *state;
    fake_make(h, "i1", "", "");
    struct harness_child first = commit(h, "f1", "committing");
    struct harness_child boot =
        harness_start_shell(h, "bash", "exec echo running > instances/i1/state");
    harness_await_blocked(h, boot.pid);
    harness_put(fake_instance(h, "i1", "state"), "stopped");
    assert_contains(harness_finish(h, &boot).err, "canceled");
    let_one_start(h);
    assert_int_equal(harness_finish(h, &first).status, 0);
    assert_shell("bash", "[ \"$(cat instances/i1/state)\" = stopped ]", 0);
    fake_drop(h, "f1");
}

static void max_loads_that_is_no_number_is_refused(void **state)
{
    struct harness *h = *state;
    static const char *const values[] = {"0", "", "4097", "-1", "2x"};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        struct harness_result result = harness_shell(
            h, "bash", harness_format(h, "$HYPEFS mount --max-loads '%s' $T/m", values[i]));
        assert_int_equal(result.status, 2);
        assert_contains(result.err, "--max-loads must be a number from 1 to 4096");
    }
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    harness_enter();
    const struct CMUnitTest tests[] = {
        test(commits_over_the_limit_wait_for_their_turn_in_order),
        test(turn_passes_on_when_a_guest_does_not_ack),
        test(turn_is_kept_while_a_guest_waits_for_a_processor),
        test(queued_commit_whose_writer_is_interrupted_is_not_begun),
        test(queued_commit_that_somebody_else_waits_for_goes_on),
        test(queued_commit_that_is_interrupted_and_written_again_fails_once),
        test(daemon_that_stops_ends_what_is_queued),
        test(boot_over_the_limit_waits_until_stopped_is_written),
        bare_test(max_loads_that_is_no_number_is_refused),
    };
    return cmocka_run_group_tests_name("queue", tests, NULL, NULL);
}
