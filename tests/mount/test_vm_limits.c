/* SPDX-License-Identifier: MIT */
/* How many VMs there may be, how much memory they have to leave, and whose turn it is. The VMMs are
 * those of fake.h; less memory than is to stay free there is where that is more than a host has. */
#include "fixture.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake.h"
#include "group.h"

static const char commit_new[] = "snapshots/base/forks/new/commit";
static const char all_memory[] = "4000T";

/* Mounts anew, with the VMs that there are. */
static void mount_with(struct harness *h, const char *option, const char *value)
{
    if (h->daemon)
        assert_int_equal(harness_unmount(h), 0);
    fake_mount_with(h, option, value);
}

static int setup_with(void **state, const char *option, const char *value)
{
    int r = harness_setup(state);
    if (r == 0) {
        fake_mount_with(*state, option, value);
        fake_publish(*state, "mailboxes=m", "");
    }
    return r;
}

static int setup_two(void **state)
{
    return setup_with(state, "--max-vms", "2");
}

static int setup_any(void **state)
{
    return setup_with(state, "--min-free-memory", "0");
}

static int setup_one_turn(void **state)
{
    return setup_with(state, "--max-loads", "1");
}

static int set_state(struct harness *h, const char *id, const char *word)
{
    return harness_write(fake_instance(h, id, "state"), word);
}

static int commit(struct harness *h, const char *id)
{
    return group_write_ids(h, commit_new, id);
}

static void assert_refused_at_validate(struct harness *h, const char *code, const char *words)
{
    assert_string_equal(group_get(h, "new", "result", "error.code"), code);
    assert_string_equal(group_get(h, "new", "result", "error.phase"), "validate");
    assert_file_contains(group_draft(h, "new", "error"), words);
    assert_string_equal(assert_shell("bash", "ls -A $S/instances | grep -c ^.new- || true", 0).out,
                        "0\n");
}

static void commit_over_max_vms_is_refused_until_one_ends(void **state)
{
    struct harness *h = *state;
    assert_errno(commit(h, "a"), 0);
    assert_errno(commit(h, "b"), 0);
    assert_errno(commit(h, "c"), EAGAIN);
    assert_refused_at_validate(h, "EAGAIN", "2 VMs run or start, and --max-vms allows 2: stop one");
    harness_put(group_draft(h, "new", "options"), "{\"target_state\":\"standby\"}");
    assert_errno(commit(h, "c"), 0); /* is no VM */
    assert_errno(set_state(h, "a", "stopped"), 0);
    assert_errno(commit(h, "d"), 0);
    assert_errno(commit(h, "e"), EAGAIN);
    assert_errno(set_state(h, "b", "standby"), 0);
    assert_errno(commit(h, "e"), 0);
    group_assert_forks(h, "a b c d e");
}

static void vm_that_would_be_one_more_is_not_started(void **state)
{
    struct harness *h = *state;
    fake_make(h, "i", "mailboxes=m", "");
    assert_errno(commit(h, "a"), 0);
    assert_errno(commit(h, "b"), 0);
    assert_errno(set_state(h, "i", "running"), EAGAIN);
    assert_file_contains(fake_instance(h, "i", "error"), "--max-vms allows 2");
    assert_errno(set_state(h, "a", "paused"), 0);
    assert_errno(set_state(h, "a", "running"), 0); /* it is there */
    assert_errno(set_state(h, "a", "standby"), 0);
    assert_errno(set_state(h, "i", "running"), 0);
    assert_errno(set_state(h, "a", "running"), EAGAIN);
    assert_string_equal(harness_get(h, fake_instance(h, "a", "state")), "standby\n");
    assert_errno(set_state(h, "i", "stopped"), 0);
    assert_errno(set_state(h, "a", "running"), 0);
}

/* What failed gives its place back. */
static void commits_that_fail_do_not_count(void **state)
{
    struct harness *h = *state;
    group_stage_within(h, "new", 1);
    fake_tell(h, "FAKE_VMM_GUEST=absent");
    assert_errno(group_write_ids(h, commit_new, "a b"), ETIMEDOUT);
    fake_tell(h, "FAKE_VMM_GUEST=ack");
    assert_errno(group_write_ids(h, commit_new, "a b c"), EAGAIN);
    assert_string_equal(group_get(h, "new", "result", "forks.1.status"), "committed");
    assert_string_equal(group_get(h, "new", "result", "forks.2.error.phase"), "validate");
    group_assert_forks(h, "a b");
}

/* Those that a VMM's end, and another daemon, have to know of. */
static void vms_that_run_already_are_counted_and_left_alone(void **state)
{
    struct harness *h = *state;
    assert_errno(group_write_ids(h, commit_new, "a b"), 0);
    mount_with(h, "--max-vms", "1");
    assert_vmm_is(h, "a", "running");
    assert_vmm_is(h, "b", "running");
    assert_errno(commit(h, "c"), EAGAIN);
    assert_errno(set_state(h, "a", "stopped"), 0);
    assert_errno(commit(h, "c"), EAGAIN);
    assert_shell("bash", "kill -9 $(jq .pid instances/b/info)", 0);
    harness_await(h, fake_instance(h, "b", "state"), "stopped");
    assert_errno(commit(h, "c"), 0);
}

static void without_memory_that_is_to_stay_free_nothing_starts(void **state)
{
    struct harness *h = *state;
    fake_make(h, "i", "mailboxes=m", "");
    assert_errno(commit(h, "a"), 0);
    assert_errno(commit(h, "b"), 0);
    assert_errno(set_state(h, "b", "standby"), 0);
    mount_with(h, "--min-free-memory", all_memory);
    assert_vmm_is(h, "a", "running");
    assert_errno(commit(h, "c"), ENOMEM);
    assert_refused_at_validate(h, "ENOMEM", " MiB of memory available, of ");
    assert_file_contains(group_draft(h, "new", "error"), "--min-free-memory (0 turns this off)");
    assert_errno(set_state(h, "i", "running"), ENOMEM);
    assert_file_contains(fake_instance(h, "i", "error"), "are to stay free: stop VMs");
    assert_errno(set_state(h, "b", "running"), ENOMEM);
    assert_errno(set_state(h, "a", "paused"), 0);
    assert_errno(set_state(h, "a", "running"), 0);
    harness_put(group_draft(h, "new", "options"), "{\"target_state\":\"standby\"}");
    assert_errno(commit(h, "c"), 0);
    mount_with(h, "--min-free-memory", "1K");
    assert_errno(set_state(h, "b", "running"), 0);
}

static bool has_warned(void *log)
{
    return strstr(harness_get(((struct harness *)log), ((struct harness *)log)->log),
                  "no VM is loaded ahead: ");
}

static void no_vm_is_loaded_ahead_without_room_for_it(void **state)
{
    struct harness *h = *state;
    const char *info = harness_path(h, "snapshots/base/info");
    assert_errno(commit(h, "a"), 0);
    harness_put(harness_path(h, "snapshots/base/warm"), "5");
    harness_await(h, info, "\"ready\": 1"); /* beside a, of two */
    assert_errno(commit(h, "b"), 0);
    assert_string_equal(group_get(h, "b", "result", "warm"), "true");
    harness_await(h, info, "\"ready\": 0");
    assert_errno(set_state(h, "a", "stopped"), 0);
    harness_await(h, info, "\"ready\": 1");
    mount_with(h, "--min-free-memory", all_memory);
    harness_await_that(has_warned, h, "the log says why none is loaded");
    assert_file_contains(info, "\"ready\": 0");
    mount_with(h, NULL, NULL);
    harness_await(h, info, "\"ready\": 5");
}

/* Of two snapshots: who queues many forks of one makes a fork of the other wait for one of them. */
static void sources_take_turns(void **state)
{
    struct harness *h = *state;
    assert_errno(commit(h, "x"), 0);
    harness_put(fake_instance(h, "x", "snapshot"), "other");
    struct group_lines *lines = group_open_events(h);
    group_make_gate(h);
    struct harness_child many = group_start_write(h, commit_new, "a b c d");
    group_await_step(h, lines, "d", "queued");
    struct harness_child one = group_start_write(h, "snapshots/other/forks/new/commit", "o");
    group_await_line(lines,
                     "\"instance\":\"o\",\"source\":\"snapshots/other\",\"phase\":\"queued\"");
    group_start_one(h, lines, "a", "ack");
    group_start_one(h, lines, "b", "ack");
    group_await_line(lines, "\"instance\":\"o\",\"source\":\"snapshots/other\",\"phase\":\"load\"");
    assert_null(strstr(lines->text, "\"instance\":\"c\",\"source\":\"snapshots/base\",\"phase\":"
                                    "\"load\""));
    harness_put(harness_format(h, "%s/gate", h->programs), "ack\n");
    assert_int_equal(harness_finish(h, &one).status, 0);
    group_start_one(h, lines, "c", "ack");
    group_start_one(h, lines, "d", "ack");
    assert_int_equal(harness_finish(h, &many).status, 0);
    close(lines->fd);
}

static void options_that_are_no_limit_are_refused(void **state)
{
    struct harness *h = *state;
    static const char *const wrong[][3] = {
        {"--max-vms", "0", "--max-vms must be a number from 1 to 1000000"},
        {"--max-vms", "many", "--max-vms must be a number"},
        {"--min-free-memory", "", "--min-free-memory is a number of bytes"},
        {"--min-free-memory", "5%", "--min-free-memory is a number of bytes"},
        {"--min-free-memory", "1GB", "--min-free-memory is a number of bytes"},
        {"--min-free-memory", "99999999999999T", "--min-free-memory is a number of bytes"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct harness_result result = harness_shell(
            h, "bash", harness_format(h, "$HYPEFS mount %s '%s' $T/m", wrong[i][0], wrong[i][1]));
        assert_int_equal(result.status, 2);
        assert_contains(result.err, wrong[i][2]);
    }
}

#define test(name, setup) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    harness_enter();
    const struct CMUnitTest tests[] = {
        test(commit_over_max_vms_is_refused_until_one_ends, setup_two),
        test(vm_that_would_be_one_more_is_not_started, setup_two),
        test(commits_that_fail_do_not_count, setup_two),
        test(vms_that_run_already_are_counted_and_left_alone, setup_two),
        test(without_memory_that_is_to_stay_free_nothing_starts, setup_any),
        test(no_vm_is_loaded_ahead_without_room_for_it, setup_two),
        test(sources_take_turns, setup_one_turn),
        bare_test(options_that_are_no_limit_are_refused),
    };
    return cmocka_run_group_tests_name("vm_limits", tests, NULL, NULL);
}
