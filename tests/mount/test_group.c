/* SPDX-License-Identifier: MIT */
/* Several forks by one write: to the `commit` of forks/new, and to forks/commit. Their VMMs are the
 * fake Firecracker's; with one turn they start in the order of the ids. */
#include "fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake.h"
#include "group.h"
#include "util/cleanup.h"

static const char commit_new[] = "snapshots/base/forks/new/commit";

static int setup(void **state)
{
    return group_setup_with(state, "8");
}

static int setup_with_one_turn(void **state)
{
    return group_setup_with(state, "1");
}

static void each_id_gets_a_fork_of_what_is_staged(void **state)
{
    struct harness *h = *state;
    group_stage(h, "new");
    harness_put(group_draft(h, "new", "options"), "{\"identity\":true}");
    assert_shell("bash", "echo web-1 web-2 web-3 > snapshots/base/forks/new/commit", 0);
    group_assert_forks(h, "web-1 web-2 web-3");
    for (int i = 1; i <= 3; i++) {
        const char *id = harness_format(h, "web-%d", i);
        assert_string_equal(group_get(h, id, "result", "status"), "committed");
        assert_string_equal(group_get(h, id, "result", "instance"), id);
        assert_string_equal(group_get(h, id, "result", "mailboxes.0.acked"), "true");
        assert_string_equal(group_get(h, id, "options", "identity"), "true");
        harness_await(h, fake_instance(h, id, "console"),
                      harness_format(h, "\"fork\":{\"id\":\"%s\",", id));
    }
    assert_string_equal(harness_get(h, group_draft(h, "new", "status")), "empty\n");
    assert_string_equal(harness_get(h, group_draft(h, "new", "error")), "");
    assert_string_equal(group_get(h, "new", "result", "status"), "committed");
    assert_string_equal(group_get(h, "new", "result", "forks.1.id"), "web-2");
    assert_string_equal(group_get(h, "new", "result", "forks.1.status"), "committed");
    assert_string_equal(group_get(h, "new", "result", "forks.1.error"), "null");
    assert_string_equal(group_get(h, "new", "result", "forks.3.id"), "(none)");
    group_assert_new_is_empty(h);
}

static void one_that_fails_leaves_the_others(void **state)
{
    struct harness *h = *state;
    struct group_lines *lines = group_open_events(h);
    group_stage_within(h, "new", 200);
    group_make_gate(h);
    struct harness_child write = group_start_write(h, commit_new, "a b c d");
    group_start_one(h, lines, "a", "ack");
    group_start_one(h, lines, "b", "absent");
    group_start_one(h, lines, "c", "none");
    group_start_one(h, lines, "d", "ack");
    struct harness_result result = harness_finish(h, &write);
    assert_contains(result.err, "timed out");
    group_assert_forks(h, "a d");
    assert_string_equal(group_get(h, "new", "result", "status"), "failed");
    assert_string_equal(group_get(h, "new", "result", "forks.0.status"), "committed");
    assert_string_equal(group_get(h, "new", "result", "forks.1.id"), "b");
    assert_string_equal(group_get(h, "new", "result", "forks.1.status"), "failed");
    assert_string_equal(group_get(h, "new", "result", "forks.1.error.code"), "ETIMEDOUT");
    assert_string_equal(group_get(h, "new", "result", "forks.1.error.phase"), "ack");
    assert_string_equal(group_get(h, "new", "result", "forks.1.error.mailbox"), "m");
    assert_string_equal(group_get(h, "new", "result", "forks.2.status"), "failed");
    assert_string_equal(harness_get(h, group_draft(h, "new", "status")), "failed\n");
    assert_file_contains(group_draft(h, "new", "error"), "2 of 4 forks failed; the first, b: ");
    group_assert_new_is_empty(h);
    close(lines->fd);
}

static void id_that_is_taken_fails_alone(void **state)
{
    struct harness *h = *state;
    assert_works(mkdir(fake_instance(h, "b", ""), 0755));
    group_make_draft(h, "c");
    group_stage(h, "new");
    assert_errno(group_write_ids(h, commit_new, "a b c d"), EEXIST);
    assert_string_equal(assert_shell("bash", "echo $(ls instances)", 0).out, "a b d\n");
    assert_string_equal(group_get(h, "new", "result", "forks.1.error.phase"), "validate");
    assert_string_equal(group_get(h, "new", "result", "forks.2.error.message"),
                        "forks/c is there already");
    assert_string_equal(group_get(h, "new", "result", "forks.3.status"), "committed");
    assert_file_contains(group_draft(h, "new", "error"), "2 of 4 forks failed; the first, b: ");
    assert_string_equal(harness_get(h, group_draft(h, "c", "status")), "staged\n");
}

static char *many_words(struct harness *h, int count)
{
    char *text = harness_alloc(h, (size_t)count * 8 + 1), *at = text;
    for (int i = 0; i < count; i++)
        at += sprintf(at, "f%d ", i);
    return text;
}

static void text_that_is_wrong_begins_nothing(void **state)
{
    struct harness *h = *state;
    const struct {
        const char *ids;
        int code;
        const char *reason;
    } wrong[] = {
        {"a B c", EINVAL, "\"B\" is not an id"},
        {"a new", EINVAL, "\"new\" is not an id"},
        {"a b a", EINVAL, "a was written to commit twice"},
        {many_words(h, 4097), EFBIG, "one write takes 4096 ids"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        group_stage(h, "new");
        assert_errno(group_write_ids(h, commit_new, wrong[i].ids), wrong[i].code);
        assert_file_contains(group_draft(h, "new", "error"), wrong[i].reason);
        assert_string_equal(group_get(h, "new", "result", "status"), "failed");
        assert_string_equal(group_get(h, "new", "result", "forks.0"), "(none)");
        assert_string_equal(harness_get(h, group_draft(h, "new", "status")), "failed\n");
        group_assert_new_is_empty(h);
    }
    group_assert_forks(h, "");
}

static void what_is_staged_wrong_fails_all_of_them(void **state)
{
    struct harness *h = *state;
    assert_errno(harness_write(group_draft(h, "new", "mailboxes/m"), "{\"payload\":1}"), EINVAL);
    assert_errno(group_write_ids(h, commit_new, "a b"), EINVAL);
    assert_string_equal(group_get(h, "new", "result", "forks.0.error.phase"), "validate");
    assert_string_equal(group_get(h, "new", "result", "forks.0.error.mailbox"), "m");
    assert_contains(group_get(h, "new", "result", "forks.1.error.message"),
                    "mailboxes/m was refused");
    group_assert_forks(h, "");
    group_assert_new_is_empty(h);
}

/* One is there, one waits for its ack, four for their turns, and one is not begun. */
static void interrupted_write_undoes_what_is_under_way(void **state)
{
    struct harness *h = *state;
    struct group_lines *lines = group_open_events(h);
    group_stage_within(h, "new", 30000);
    group_make_gate(h);
    struct harness_child write = group_start_write(h, commit_new, "a b c d e f g");
    group_start_one(h, lines, "a", "ack");
    group_start_one(h, lines, "b", "absent");
    group_await_step(h, lines, "b", "ack");
    assert_works(kill(write.pid, SIGINT));
    assert_int_equal(harness_finish(h, &write).status, 128 + SIGINT);
    harness_await(h, group_draft(h, "new", "status"), "failed");
    group_assert_forks(h, "a");
    assert_string_equal(group_get(h, "new", "result", "forks.0.status"), "committed");
    assert_string_equal(group_get(h, "new", "result", "forks.1.error.code"), "ECANCELED");
    assert_string_equal(group_get(h, "new", "result", "forks.1.error.phase"), "ack");
    assert_string_equal(group_get(h, "new", "result", "forks.2.error.code"), "ECANCELED");
    assert_string_equal(group_get(h, "new", "result", "forks.2.error.phase"), "queued");
    assert_string_equal(group_get(h, "new", "result", "forks.6.error.phase"), "validate");
    assert_shell("bash", "[ \"$(ls -A $S/instances)\" = a ]", 0);
    assert_vmm_is(h, "a", "running");
    close(lines->fd);
}

/* What takes no VMM: 20 KB of ids. */
static void list_that_comes_in_several_writes_is_one(void **state)
{
    struct harness *h = *state;
    static const char *const shells[] = {"bash", "dash"};
    for (int i = 0; i < 2; i++) {
        harness_put(group_draft(h, "new", "options"), "{\"target_state\":\"standby\"}");
        const char *seq = harness_format(h, "echo -n $(seq -f '%s-%%040g' 400)", shells[i]);
        const char *ids = assert_shell("bash", seq, 0).out;
        assert_shell(shells[i], harness_format(h, "echo %s > %s", ids, commit_new), 0);
        assert_string_equal(group_get(h, "new", "result", "status"), "committed");
        assert_string_equal(
            assert_shell("bash",
                         harness_format(h,
                                        "ls instances | grep -c ^%s; jq '.forks | length' "
                                        "snapshots/base/forks/new/result",
                                        shells[i]),
                         0)
                .out,
            "400\n400\n");
    }
}

/* Of which the shell goes on to write what is left. */
static void list_that_is_too_long_begins_nothing(void **state)
{
    struct harness *h = *state;
    static const char *const shells[] = {"bash", "dash"};
    for (int i = 0; i < 2; i++) {
        const char *script = harness_format(h, "echo $(seq -f 'w-%%060g' 4500) > %s", commit_new);
        assert_int_not_equal(harness_shell(h, shells[i], script).status, 0);
        assert_string_equal(group_get(h, "new", "result", "error.code"), "EFBIG");
        assert_file_contains(group_draft(h, "new", "error"), "one write takes ");
        group_assert_forks(h, "");
    }
}

/* A list that ends where a buffer may end is all there is when the file is closed. */
static void list_without_a_newline_is_run_by_the_close(void **state)
{
    struct harness *h = *state;
    static const char script[] =
        "import os, sys\n"
        "words = ' '.join('%s-%%034d' %% i for i in range(4096))[:4096].strip()\n"
        "words += 'x' * (4096 - len(words))\n"
        "fd = os.open('snapshots/base/forks/new/commit', os.O_WRONLY)\n"
        "os.write(fd, words.encode())\n"
        "assert not os.listdir('instances') or '%s' == 'b'\n"
        "try: os.close(fd)\n"
        "except OSError as e: print(e.errno)\n"
        "print(len(os.listdir('instances')))\n";
    for (const char *prefix = "a"; *prefix; prefix = *prefix == 'a' ? "b" : "") {
        harness_put(group_draft(h, "new", "options"),
                    *prefix == 'a' ? "{\"target_state\":\"standby\"}" : "{\"tap\":\"t0\"}");
        struct harness_result result =
            harness_run(h, (const char *const[]){"python3", "-c",
                                                 harness_format(h, script, prefix, prefix), NULL});
        assert_string_equal(result.err, "");
        assert_string_equal(result.out,
                            *prefix == 'a' ? "111\n" : harness_format(h, "%d\n111\n", EINVAL));
    }
}

/* Its last id may be cut off. */
static void list_of_who_is_killed_before_its_end_is_not_run(void **state)
{
    static const char script[] = "import os, signal\n"
                                 "words = ' '.join('k-%034d' % i for i in range(4096))[:4096]\n"
                                 "fd = os.open('snapshots/base/forks/new/commit', os.O_WRONLY)\n"
                                 "os.write(fd, words.encode())\n"
                                 "os.kill(os.getpid(), signal.SIGTERM)\n";
    struct harness *h = *state;
    harness_put(group_draft(h, "new", "options"), "{\"target_state\":\"standby\"}");
    struct harness_result result =
        harness_run(h, (const char *const[]){"python3", "-c", script, NULL});
    assert_int_equal(result.status, 128 + SIGTERM);
    assert_string_equal(result.err, "");
    group_assert_forks(h, "");
}

static void white_space_behind_a_list_is_nothing_more(void **state)
{
    struct harness *h = *state;
    static char blanks[4097];
    auto_close int fd = open(group_draft(h, "new", "commit"), O_WRONLY | O_CLOEXEC);
    memset(blanks, ' ', 4096);
    blanks[0] = 'x';
    harness_put(group_draft(h, "new", "options"), "{\"tap\":\"t0\"}"); /* which it has not */
    assert_int_equal(write(fd, blanks, 4096), 4096);
    assert_fails(write(fd, "\n", 1), EINVAL);
    assert_fails(write(fd, "_\n", 2), EINVAL);
    group_assert_forks(h, "");
}

static void another_write_meanwhile_waits_or_is_refused(void **state)
{
    struct harness *h = *state;
    struct group_lines *lines = group_open_events(h);
    group_stage(h, "new");
    group_make_gate(h);
    struct harness_child write = group_start_write(h, commit_new, "a b");
    group_await_step(h, lines, "a", "load");
    assert_string_equal(harness_get(h, group_draft(h, "new", "status")), "committing\n");
    assert_errno(group_write_ids(h, commit_new, "a"), EBUSY);
    assert_errno(group_write_ids(h, commit_new, "a c"), EBUSY);
    assert_errno(harness_write(group_draft(h, "new", "mailboxes/m"), "{}"), EBUSY);
    assert_fails(mkdir(group_draft(h, "b", ""), 0755), EEXIST);
    struct harness_child joined = group_start_write(h, commit_new, "a b");
    harness_await_blocked(h, joined.pid);
    assert_works(kill(write.pid, SIGKILL)); /* somebody waits still */
    assert_int_equal(harness_finish(h, &write).status, 128 + SIGKILL);
    group_start_one(h, lines, "a", "ack");
    group_start_one(h, lines, "b", "ack");
    assert_int_equal(harness_finish(h, &joined).status, 0);
    group_assert_forks(h, "a b");
    close(lines->fd);
}

/* As Python writes again what failed, when it closes the file. */
static void list_that_failed_is_not_tried_again_through_the_same_file(void **state)
{
    struct harness *h = *state;
    assert_works(mkdir(fake_instance(h, "b", ""), 0755));
    int fd = open(harness_path(h, "%s", commit_new), O_WRONLY | O_CLOEXEC);
    assert_fails(write(fd, "a b\n", 4), EEXIST);
    assert_works(rmdir(fake_instance(h, "b", "")));
    assert_fails(write(fd, "a b\n", 4), EEXIST);
    assert_int_equal(write(fd, "c d\n", 4), 4);
    close(fd);
    group_assert_forks(h, "a c d");
}

static void hundred_ids_are_a_hundred_forks(void **state)
{
    struct harness *h = *state;
    group_stage(h, "new");
    assert_shell("bash", "echo $(seq -f 'f%g' 100) > snapshots/base/forks/new/commit", 0);
    assert_string_equal(assert_shell("bash",
                                     "ls instances | wc -l; cat instances/*/state | sort -u; cat "
                                     "snapshots/base/forks/f*/status | sort | uniq -c | xargs",
                                     0)
                            .out,
                        "100\nrunning\n100 committed\n");
}

static void warm_vms_are_taken_first(void **state)
{
    struct harness *h = *state;
    harness_put(harness_path(h, "snapshots/base/warm"), "2");
    harness_await(h, harness_path(h, "snapshots/base/info"), "\"ready\": 2");
    group_stage(h, "new");
    assert_errno(group_write_ids(h, commit_new, "a b c d e"), 0);
    assert_string_equal(
        assert_shell("bash",
                     "cat snapshots/base/forks/[a-e]/result | jq -s 'map(select(.warm)) | "
                     "length >= 2 and length < 5'",
                     0)
            .out,
        "true\n");
    harness_await(h, harness_path(h, "snapshots/base/info"), "\"ready\": 2");
}

/* It is paused once, and all are made of the same copy. */
static void instance_that_runs_is_saved_once_for_all(void **state)
{
    struct harness *h = *state;
    fake_make(h, "src", "mailboxes=m", "");
    harness_put(fake_instance(h, "src", "state"), "running");
    harness_await(h, fake_instance(h, "src", "console"), "ready");
    assert_shell("bash",
                 "cd instances/src/forks && echo '{\"from_running\":true}' > new/options && "
                 "echo a b c > new/commit && cat {a,b,c}/status",
                 0);
    const char *script = "stat -c %i $S/instances/[abc]/base | sort | uniq -c | awk '{print $1}'";
    assert_string_equal(assert_shell("bash", script, 0).out, "3\n");
    assert_string_equal(
        assert_shell("bash", "echo $(ls -A $S/instances $S/snapshots | grep new)", 0).out, "\n");
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)
#define test_in_order(name)                                                                        \
    cmocka_unit_test_setup_teardown(name, setup_with_one_turn, harness_teardown)

int main(void)
{
    harness_enter();
    const struct CMUnitTest tests[] = {
        test(each_id_gets_a_fork_of_what_is_staged),
        test_in_order(one_that_fails_leaves_the_others),
        test(id_that_is_taken_fails_alone),
        test(text_that_is_wrong_begins_nothing),
        test(what_is_staged_wrong_fails_all_of_them),
        test_in_order(interrupted_write_undoes_what_is_under_way),
        test(list_that_comes_in_several_writes_is_one),
        test(list_of_who_is_killed_before_its_end_is_not_run),
        test(white_space_behind_a_list_is_nothing_more),
        test(list_that_is_too_long_begins_nothing),
        test(list_without_a_newline_is_run_by_the_close),
        test_in_order(another_write_meanwhile_waits_or_is_refused),
        test(list_that_failed_is_not_tried_again_through_the_same_file),
        test(hundred_ids_are_a_hundred_forks),
        test(warm_vms_are_taken_first),
        test(instance_that_runs_is_saved_once_for_all),
    };
    return cmocka_run_group_tests_name("group", tests, NULL, NULL);
}
