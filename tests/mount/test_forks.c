/* SPDX-License-Identifier: MIT */
/* Forks of instances, as the tree shows them. */
#include "fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tiny_guest.h"
#include "util/cleanup.h"

/* snapshots/base → f1, running → f2, in standby → f3, running */
static void make_three_levels(struct harness *h)
{
    static const char *const steps[] = {
        "echo f1 > snapshots/base/forks/new/commit",
        "echo '{\"from_running\":true}' > instances/f1/forks/new/options",
        "echo f2 > instances/f1/forks/new/commit",
        "echo standby > instances/f2/state",
        "mkdir instances/f2/forks/f3",
        "echo '{\"n\":3}' > instances/f2/forks/f3/mailboxes/m",
        "echo 1 > instances/f2/forks/f3/commit",
    };
    for (size_t i = 0; i < array_length(steps); i++)
        assert_shell("bash", steps[i], 0);
    harness_await(h, harness_path(h, "instances/f3/console"), "m {\"n\":3}\n");
}

static const char *walk(struct harness *h)
{
    return assert_shell("bash", "find . -printf '%P %M %l\\n' | sort", 0).out;
}

static void forks_of_forks_when_walked_are_consistent(void **state)
{
    struct harness *h = *state;
    make_three_levels(h);
    assert_string_equal(
        assert_shell("bash", "cat instances/f3/fork/../../fork/../../fork/result | jq -r .source",
                     0)
            .out,
        "snapshots/base\n");
    assert_string_equal(
        assert_shell("bash", "for i in f1 f2 f3; do jq -r .source instances/$i/fork/result; done",
                     0)
            .out,
        "snapshots/base\ninstances/f1\ninstances/f2\n");
    assert_shell("bash", "[ -z \"$(find . -xtype l)\" ]", 0); /* no link leads nowhere */
    assert_string_equal(assert_shell("bash", "find . -printf '%i\\n' | sort | uniq -d", 0).out, "");
    assert_shell("bash", "ls -lR . > /dev/null && du -a . > /dev/null", 0);
    assert_string_equal(
        assert_shell("bash", "grep -rl --exclude=events '\"n\":3' . 2> $T/err | sort", 0).out,
        "./instances/f3/console\n");
    assert_shell("bash", "! grep -v denied $T/err", 0);
    assert_shell("bash", "find -L . -name events -prune -o -print > /dev/null 2> $T/err", 1);
    assert_shell("bash", "! grep -v 'File system loop' $T/err", 0); /* and it ends */
}

static void forks_of_forks_when_the_daemon_starts_again_are_the_same(void **state)
{
    struct harness *h = *state;
    make_three_levels(h);
    const char *before = walk(h);
    const char *results =
        assert_shell("bash", "cat instances/*/fork/{result,options,status}", 0).out;
    assert_int_equal(harness_unmount(h), 0);
    harness_mount(h, NULL);
    assert_string_equal(walk(h), before);
    assert_string_equal(assert_shell("bash", "cat instances/*/fork/{result,options,status}", 0).out,
                        results);
    assert_fails(rmdir(harness_path(h, "instances/f1/forks/f2")), EBUSY);
    assert_shell("bash", "echo stopped > instances/f3/state; rmdir instances/f3", 0);
    assert_fails(access(harness_path(h, "instances/f2/forks/f3"), F_OK), ENOENT);
    assert_shell("bash", "echo f4 > instances/f2/forks/new/commit", 0);
    assert_string_equal(assert_shell("bash", "ls instances/f2/forks", 0).out, "commit\nf4\nnew\n");
}

static void instance_when_removed_takes_its_drafts_along(void **state)
{
    struct harness *h = *state;
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
    assert_works(mkdir(harness_path(h, "instances/x/forks/d"), 0755));
    harness_put(harness_path(h, "instances/x/forks/d/mailboxes/m"), "{}");
    harness_put(harness_path(h, "instances/x/forks/new/mailboxes/m"), "{}");
    auto_close int staged =
        open(harness_path(h, "instances/x/forks/d/mailboxes/m"), O_RDWR | O_CLOEXEC);
    auto_close int commit =
        open(harness_path(h, "instances/x/forks/new/commit"), O_WRONLY | O_CLOEXEC);
    assert_fails(write(commit, "f1", 2), EOPNOTSUPP);
    assert_works(rmdir(harness_path(h, "instances/x")));
    assert_fails(write(staged, "{}", 2), ENODEV);
    assert_fails(write(commit, "f1", 2), ENODEV);
    assert_fails(access(harness_path(h, "instances/x"), F_OK), ENOENT);
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
    assert_string_equal(assert_shell("bash", "ls instances/x/forks", 0).out, "commit\nnew\n");
    assert_string_equal(harness_get(h, harness_path(h, "instances/x/forks/new/status")), "empty\n");
}

static void instance_while_it_is_forked_is_not_removed(void **state)
{
    struct harness *h = *state;
    assert_shell("bash",
                 "echo f1 > snapshots/base/forks/new/commit; echo standby > instances/f1/state", 0);
    harness_put(harness_path(h, "instances/f1/forks/new/mailboxes/m"),
                "{\"payload\":{},\"wait_for_ack\":true,\"ack\":\"udp\",\"ack_timeout_ms\":30000}");
    struct harness_child commit =
        harness_start_shell(h, "bash", "echo f2 > instances/f1/forks/new/commit");
    int port = tiny_guest_port(h, "m");
    assert_fails(rmdir(harness_path(h, "instances/f1")), EBUSY);
    assert_file_contains(harness_path(h, "instances/f1/error"), "while it is forked");
    tiny_guest_send(port, "stage=applied mailbox=m");
    assert_int_equal(harness_finish(h, &commit).status, 0);
    assert_fails(rmdir(harness_path(h, "instances/f1")), EBUSY);
    assert_file_contains(harness_path(h, "instances/f1/error"), "in use by its fork f2");
    assert_shell("bash", "echo standby > instances/f2/state; rmdir instances/f1", 0);
    /* Its record is gone with its source, and it lives on. */
    assert_fails(access(harness_path(h, "instances/f2/fork"), F_OK), ENOENT);
    assert_string_equal(assert_shell("bash", "jq -r .source.instance instances/f2/info", 0).out,
                        "f1\n");
    assert_shell("bash", "echo running > instances/f2/state", 0);
    assert_shell("bash", "mkdir instances/f1; ls instances/f1/forks | grep -qx new", 0);
    assert_fails(access(harness_path(h, "instances/f2/fork"), F_OK), ENOENT);
    assert_shell("bash", "echo stopped > instances/f2/state; rmdir instances/f2", 0);
}

static struct timespec changed(struct harness *h, const char *path)
{
    struct stat st;
    assert_works(stat(harness_path(h, "%s", path), &st));
    return st.st_mtim;
}

static void assert_moves(struct harness *h, const char *path, const char *script)
{
    struct timespec before = changed(h, path);
    assert_shell("bash", script, 0);
    struct timespec after = changed(h, path);
    if (after.tv_sec < before.tv_sec ||
        (after.tv_sec == before.tv_sec && after.tv_nsec <= before.tv_nsec))
        fail_msg("%s: the mtime of %s stays", script, path);
}

static void mtime_of_forks_when_names_come_and_go_moves_on(void **state)
{
    static const char *const steps[] = {
        "mkdir instances/f1/forks/f2",
        "echo 1 > instances/f1/forks/f2/commit",
        "echo stopped > instances/f2/state; rmdir instances/f2",
        "mkdir instances/f1/forks/d",
        "rmdir instances/f1/forks/d",
    };
    struct harness *h = *state;
    assert_shell("bash",
                 "echo f1 > snapshots/base/forks/new/commit; echo standby > instances/f1/state", 0);
    for (size_t i = 0; i < array_length(steps); i++)
        assert_moves(h, "instances/f1/forks", steps[i]);
    assert_moves(h, "snapshots/base/forks",
                 "echo stopped > instances/f1/state; rmdir instances/f1");
    assert_moves(h, "instances", "mkdir instances/y");
    assert_moves(h, "instances", "rmdir instances/y");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        guest_test(forks_of_forks_when_walked_are_consistent),
        guest_test(forks_of_forks_when_the_daemon_starts_again_are_the_same),
        guest_test(instance_when_removed_takes_its_drafts_along),
        guest_test(instance_while_it_is_forked_is_not_removed),
        guest_test(mtime_of_forks_when_names_come_and_go_moves_on),
    };
    harness_enter();
    if (!tiny_guest_possible())
        return HARNESS_SKIPPED;
    return cmocka_run_group_tests_name("forks", tests, NULL, NULL);
}
