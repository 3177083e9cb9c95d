/* SPDX-License-Identifier: MIT */
/* Several drafts by one write to forks/commit, of a snapshot and of an instance. */
#include "fixture.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake.h"
#include "group.h"

static const char commit_drafts[] = "snapshots/base/forks/commit";

static int setup(void **state)
{
    return group_setup_with(state, "8");
}

static int setup_with_one_turn(void **state)
{
    return group_setup_with(state, "1");
}

static void assert_status(struct harness *h, const char *id, const char *status)
{
    assert_string_equal(harness_get(h, group_draft(h, id, "status")),
                        harness_format(h, "%s\n", status));
}

/* Each has what is its own: the mount has one line for each in `events`, as for commits alone. */
static void each_draft_becomes_the_record_of_its_fork(void **state)
{
    struct harness *h = *state;
    struct group_lines *lines = group_open_events(h);
    group_make_draft(h, "a");
    group_make_draft(h, "b");
    harness_put(group_draft(h, "b", "mailboxes/a"), "{\"only\":\"b\"}");
    assert_shell("bash", "echo b a > snapshots/base/forks/commit", 0);
    group_assert_forks(h, "a b");
    assert_status(h, "a", "committed");
    assert_string_equal(group_get(h, "a", "result", "mailboxes.1.name"), "(none)");
    assert_string_equal(group_get(h, "b", "result", "mailboxes.1.name"), "a");
    harness_await(h, fake_instance(h, "b", "console"), "only");
    group_await_line(lines, "\"committed\",\"instance\":\"a\"");
    group_await_line(lines, "\"committed\",\"instance\":\"b\"");
    assert_true(strstr(lines->text, "commit-begun\",\"instance\":\"b\"") <
                strstr(lines->text, "commit-begun\",\"instance\":\"a\""));
    close(lines->fd);
}

/* Those that failed stay as they were staged, and what is there is not forked again. */
static void draft_that_fails_is_committed_by_the_same_write_later(void **state)
{
    struct harness *h = *state;
    group_make_draft(h, "a");
    group_make_draft(h, "b");
    assert_works(mkdir(fake_instance(h, "b", ""), 0755));
    assert_errno(group_write_ids(h, commit_drafts, "a b"), EEXIST);
    assert_status(h, "a", "committed");
    assert_status(h, "b", "failed");
    assert_file_contains(group_draft(h, "b", "error"), "there is an instance b already");
    assert_file_contains(group_draft(h, "b", "mailboxes/m"), "hello");
    assert_file_contains(harness_path(h, "error"),
                         "write snapshots/base/forks/commit: EEXIST: 1 of 2 forks failed; the "
                         "first, b: ");
    assert_works(rmdir(fake_instance(h, "b", "")));
    assert_errno(group_write_ids(h, commit_drafts, "a b"), 0);
    group_assert_forks(h, "a b");
}

static void text_that_is_wrong_begins_nothing(void **state)
{
    struct harness *h = *state;
    const struct {
        const char *ids;
        int code;
        const char *reason;
    } wrong[] = {
        {"a b", ENOENT, "there is no draft forks/b"},
        {"a a", EINVAL, "a was written to commit twice"},
        {"a new", EINVAL, "\"new\" is not an id"},
        {"a ../b", EINVAL, "\"../b\" is not an id"},
        {"", EINVAL, "write the ids of the drafts"},
    };
    group_make_draft(h, "a");
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_errno(group_write_ids(h, commit_drafts, wrong[i].ids), wrong[i].code);
        assert_file_contains(harness_path(h, "error"), wrong[i].reason);
        assert_status(h, "a", "staged");
    }
    assert_string_equal(assert_shell("bash", "ls instances", 0).out, "");
}

/* The write that commits the drafts a, b and c, whose VMMs the test starts. */
static struct harness_child start_three(struct harness *h)
{
    group_make_draft(h, "a");
    group_make_draft(h, "b");
    group_make_draft(h, "c");
    group_make_gate(h);
    return group_start_write(h, commit_drafts, "a b c");
}

/* All are committing from the write on, also those that have to wait: what they deliver is what was
 * staged then. */
static void drafts_of_a_group_cannot_be_changed(void **state)
{
    struct harness *h = *state;
    struct group_lines *lines = group_open_events(h);
    struct harness_child write = start_three(h);
    group_await_step(h, lines, "a", "load");
    assert_status(h, "a", "committing");
    assert_status(h, "c", "queued");
    assert_errno(harness_write(group_draft(h, "c", "mailboxes/m"), "{}"), EBUSY);
    assert_fails(rmdir(group_draft(h, "c", "")), EBUSY);
    assert_fails(rmdir(harness_path(h, "snapshots/base")), EBUSY);
    assert_errno(group_write_ids(h, commit_drafts, "c"), EBUSY);
    struct harness_child joined =
        group_start_write(h, "snapshots/base/forks/b/commit", "1"); /* waits for b alone */
    harness_await_blocked(h, joined.pid);
    group_start_one(h, lines, "a", "ack");
    group_start_one(h, lines, "b", "ack");
    assert_int_equal(harness_finish(h, &joined).status, 0);
    group_start_one(h, lines, "c", "ack");
    assert_int_equal(harness_finish(h, &write).status, 0);
    group_assert_forks(h, "a b c");
    close(lines->fd);
}

static void interrupted_write_leaves_drafts_as_they_were_staged(void **state)
{
    struct harness *h = *state;
    struct group_lines *lines = group_open_events(h);
    struct harness_child write = start_three(h);
    group_start_one(h, lines, "a", "ack");
    group_start_one(h, lines, "b", "absent");
    group_await_step(h, lines, "b", "ack");
    assert_works(kill(write.pid, SIGTERM));
    assert_int_equal(harness_finish(h, &write).status, 128 + SIGTERM);
    for (const char *id = "b"; *id; id = *id == 'b' ? "c" : "") {
        harness_await(h, group_draft(h, id, "status"), "failed");
        assert_file_contains(group_draft(h, id, "error"), "interrupted");
        assert_file_contains(group_draft(h, id, "mailboxes/m"), "hello");
    }
    assert_string_equal(assert_shell("bash", "ls -A $S/instances", 0).out, "a\n");
    close(lines->fd);
}

static void daemon_that_stops_ends_a_group(void **state)
{
    struct harness *h = *state;
    struct group_lines *lines = group_open_events(h);
    group_make_draft(h, "a");
    group_make_draft(h, "b");
    group_make_gate(h);
    struct harness_child write = group_start_write(h, commit_drafts, "a b");
    group_await_step(h, lines, "a", "load");
    close(lines->fd);
    assert_int_equal(harness_unmount(h), 0);
    assert_contains(harness_finish(h, &write).err, "shut");
    assert_string_equal(assert_shell("bash", "ls -A $S/instances", 0).out, "");
}

/* Its own `error` has the reason, too. */
static void drafts_of_an_instance_are_committed_together(void **state)
{
    struct harness *h = *state;
    fake_make(h, "src", "mailboxes=m", "");
    harness_put(fake_instance(h, "src", "state"), "running");
    harness_await(h, fake_instance(h, "src", "console"), "ready");
    assert_shell("bash",
                 "cd instances/src/forks && mkdir a b && for id in a b; do "
                 "echo '{\"from_running\":true}' > $id/options; done; echo a b > commit",
                 0);
    assert_string_equal(assert_shell("bash", "echo $(ls instances)", 0).out, "a b src\n");
    assert_errno(group_write_ids(h, "instances/src/forks/commit", "c"), ENOENT);
    assert_file_contains(fake_instance(h, "src", "error"), "there is no draft forks/c");
    assert_file_contains(harness_path(h, "error"), "write instances/src/forks/commit: ENOENT");
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)
#define test_in_order(name)                                                                        \
    cmocka_unit_test_setup_teardown(name, setup_with_one_turn, harness_teardown)

int main(void)
{
    harness_enter();
    const struct CMUnitTest tests[] = {
        test(each_draft_becomes_the_record_of_its_fork),
        test(draft_that_fails_is_committed_by_the_same_write_later),
        test(text_that_is_wrong_begins_nothing),
        test_in_order(drafts_of_a_group_cannot_be_changed),
        test_in_order(interrupted_write_leaves_drafts_as_they_were_staged),
        test_in_order(daemon_that_stops_ends_a_group),
        test(drafts_of_an_instance_are_committed_together),
    };
    return cmocka_run_group_tests_name("group_drafts", tests, NULL, NULL);
}
