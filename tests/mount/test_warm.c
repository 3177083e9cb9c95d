/* SPDX-License-Identifier: MIT */
/* VMs that are loaded ahead of the commits. They are played by tests/fake_firecracker. */
#include "fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake.h"
#include "group.h"
#include "util/cleanup.h"

static const char timing[] = "look:100,retry:100";

static char *base(struct harness *h, const char *file)
{
    return harness_path(h, "snapshots/base/%s", file);
}

static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    fake_mount(*state);
    fake_publish(*state, "mailboxes=m,a", "");
    return 0;
}

static int warm(struct harness *h, const char *text)
{
    return harness_write(base(h, "warm"), text);
}

static void await_ready(struct harness *h, int count)
{
    harness_await(h, base(h, "info"), harness_format(h, "\"ready\": %d", count));
}

static void assert_wanted(struct harness *h, const char *number)
{
    assert_string_equal(harness_get(h, base(h, "warm")), harness_format(h, "%s\n", number));
    assert_string_equal(harness_json(h, harness_get(h, base(h, "info")), "warm.wanted"), number);
}

/* The processes in directories that nobody sees, one in a line. */
static const char *hidden(struct harness *h)
{
    return assert_shell("bash",
                        "for d in $S/instances/.new-*/run; do for p in /proc/[0-9]*; do "
                        "[[ $p/cwd -ef $d ]] && echo ${p#/proc/}; done; done; true",
                        0)
        .out;
}

static int count_lines(const char *text)
{
    int count = 0;
    for (; (text = strchr(text, '\n')); text++)
        count++;
    return count;
}

static bool has_none(void *argument)
{
    struct harness *h = argument;
    return harness_shell(h, "bash", "! ls -A $S/instances | grep '^[.]'").status == 0;
}

/* Nothing is ready, nor left of what was. */
static void assert_none(struct harness *h)
{
    harness_await_erased(h);
    assert_string_equal(hidden(h), "");
    assert_shell("bash", "! ls -A $S/instances | grep '^[.]'", 0);
}

/* Commits a fork with a payload of its own, which it takes. Returns the result's member warm. */
static const char *fork_it(struct harness *h, const char *id)
{
    harness_put(base(h, "forks/new/mailboxes/m"),
                harness_format(h,
                               "{\"payload\":{\"for\":\"%s\"},\"wait_for_ack\":true,"
                               "\"ack_timeout_ms\":30000}",
                               id));
    int code = harness_write(base(h, "forks/new/commit"), id);
    if (code != 0)
        fail_msg("%s", harness_get(h, base(h, "forks/new/error")));
    assert_file_contains(fake_instance(h, id, "console"),
                         harness_format(h, "m {\"for\":\"%s\"}\n", id));
    assert_vmm_is(h, id, "running");
    return harness_json(h, harness_get(h, fake_instance(h, id, "fork/result")), "warm");
}

static bool three_are_loaded(void *argument)
{
    return count_lines(hidden(argument)) == 3;
}

static char *pid_of(struct harness *h, const char *id)
{
    return harness_json(h, harness_get(h, fake_instance(h, id, "info")), "pid");
}

/* ---- the file ---- */

static void warm_when_written_takes_a_number_in_its_range(void **state)
{
    static const char *const bad[] = {"65", "-1",  "+1",  "1.0", "1 2",
                                      "x",  "0x1", "1e0", "\n",  "99999999999999999999"};
    struct harness *h = *state;
    assert_wanted(h, "0");
    for (size_t i = 0; i < array_length(bad); i++)
        assert_errno(warm(h, bad[i]), EINVAL);
    assert_wanted(h, "0");
    auto_close int fd = open(base(h, "warm"), O_WRONLY | O_CLOEXEC);
    assert_int_equal(write(fd, " 2\n", 3), 3);
    assert_wanted(h, "2");
    assert_int_equal(write(fd, "1", 1), 1);
    assert_wanted(h, "1");
    assert_works(ftruncate(fd, 0));
    assert_works(truncate(base(h, "warm"), 0));
    assert_shell("bash", ": > snapshots/base/warm", 0);
    assert_wanted(h, "1");
    await_ready(h, 1);
    assert_errno(warm(h, "65"), EINVAL);
    assert_wanted(h, "1");
}

static void assert_automatic(struct harness *h, const char *text, const char *most)
{
    const char *info = harness_get(h, base(h, "info"));
    assert_string_equal(harness_get(h, base(h, "warm")), harness_format(h, "%s\n", text));
    assert_string_equal(harness_json(h, info, "warm.auto"), most);
}

static void warm_when_automatic_reads_as_it_was_written_and_is_kept(void **state)
{
    static const char *const bad[] = {"auto:0",  "auto:65", "auto:", "auto:x",
                                      "auto: 3", "auto 3",  "Auto",  "auto:3:4"};
    struct harness *h = *state;
    assert_string_equal(harness_json(h, harness_get(h, base(h, "info")), "warm.auto"), "null");
    for (size_t i = 0; i < array_length(bad); i++) {
        assert_errno(warm(h, bad[i]), EINVAL);
        assert_contains(harness_get(h, harness_path(h, "error")), "auto:MAX");
    }
    assert_wanted(h, "0");
    assert_shell("bash", "echo auto > snapshots/base/warm", 0);
    assert_automatic(h, "auto", "8");
    assert_errno(warm(h, "auto:64"), 0);
    assert_automatic(h, "auto:64", "64");
    assert_errno(warm(h, "auto:3\n"), 0);
    assert_int_equal(harness_unmount(h), 0);
    fake_mount(h);
    assert_automatic(h, "auto:3", "3");
    assert_string_equal(harness_json(h, harness_get(h, base(h, "info")), "warm.wanted"), "0");
    assert_errno(warm(h, "2"), 0);
    assert_wanted(h, "2");
    assert_string_equal(harness_json(h, harness_get(h, base(h, "info")), "warm.auto"), "null");
    assert_errno(warm(h, "auto"), 0);
    assert_errno(warm(h, "0"), 0);
    assert_wanted(h, "0");
    assert_none(h);
}

static void warm_of_what_cannot_be_forked_is_refused(void **state)
{
    struct harness *h = *state;
    assert_int_equal(harness_unmount(h), 0);
    harness_craft(h, &(struct harness_snapshot){.id = "other", .hypervisor = "bhyve"});
    harness_craft(h, &(struct harness_snapshot){.id = "kind", .kind = "disk"});
    assert_shell("bash",
                 "cp -a $S/snapshots/base $S/snapshots/tap && cd $S/snapshots/tap && "
                 "jq '.uuid=\"0123456789abcdef0123456789abcdef\"|.machine.network="
                 "{mode:\"tap\",restrict:false,interfaces:[{id:\"net0\",tap:\"tap0\"}]}' "
                 "snapshot.json > j && mv j snapshot.json",
                 0);
    fake_mount(h);
    static const char *const ids[] = {"other", "kind", "tap"};
    for (size_t i = 0; i < array_length(ids); i++) {
        const char *path = harness_path(h, "snapshots/%s/warm", ids[i]);
        assert_errno(harness_write(path, "1"), EOPNOTSUPP);
        assert_errno(harness_write(path, "auto"), EOPNOTSUPP);
        assert_string_equal(harness_get(h, path), "0\n");
    }
    assert_none(h);
}

/* ---- forks ---- */

static void commit_when_a_vm_is_ready_takes_it(void **state)
{
    struct harness *h = *state;
    assert_string_equal(fork_it(h, "cold"), "false");
    assert_errno(warm(h, "2"), 0);
    await_ready(h, 2);
    assert_string_equal(assert_shell("bash", "ls instances", 0).out, "cold\n");
    const char *ready = hidden(h);
    assert_int_equal(count_lines(ready), 2);
    assert_string_equal(fork_it(h, "w1"), "true");
    assert_contains(ready, pid_of(h, "w1"));
    assert_string_equal(fork_it(h, "w2"), "true");
    assert_string_not_equal(pid_of(h, "w1"), pid_of(h, "w2"));
    await_ready(h, 2);
    assert_shell("bash",
                 "echo standby > instances/w1/state && echo running > instances/w1/state && "
                 "echo s > instances/w1/snapshot",
                 0);
    assert_vmm_is(h, "w1", "running");
    assert_errno(warm(h, "0"), 0);
    assert_string_equal(fork_it(h, "w3"), "false");
}

/* It would answer nothing until the commit gives up. */
static void commit_when_the_ready_vm_is_stopped_loads_another(void **state)
{
    struct harness *h = *state;
    assert_errno(warm(h, "1"), 0);
    await_ready(h, 1);
    pid_t ready = atoi(hidden(h));
    harness_stop_process(ready);
    assert_string_equal(fork_it(h, "x"), "false");
    assert_fails(kill(ready, 0), ESRCH);
    await_ready(h, 1);
    assert_string_equal(fork_it(h, "y"), "true");
}

static void commit_that_runs_nothing_takes_none(void **state)
{
    struct harness *h = *state;
    assert_errno(warm(h, "1"), 0);
    await_ready(h, 1);
    const char *ready = hidden(h);
    harness_put(base(h, "forks/new/options"), "{\"target_state\":\"standby\"}");
    harness_put(base(h, "forks/new/commit"), "x");
    assert_file_contains(fake_instance(h, "x", "fork/result"), "\"warm\": false");
    assert_string_equal(hidden(h), ready);
}

static void commit_when_a_replaced_image_was_accepted_loads_the_new_one(void **state)
{
    struct harness *h = *state;
    assert_errno(warm(h, "1"), 0);
    await_ready(h, 1);
    assert_shell("bash", "cd $S/snapshots/base && cp memory new && mv new memory", 0);
    assert_errno(harness_write(base(h, "forks/new/commit"), "x"), EIO);
    assert_errno(harness_write(base(h, "accept"), "1"), 0);
    assert_string_equal(fork_it(h, "x"), "false");
    await_ready(h, 1);
    assert_string_equal(fork_it(h, "y"), "true");
}

/* ---- as many as are taken ---- */

static void warm_when_automatic_follows_the_commits_up_to_its_limit(void **state)
{
    struct harness *h = *state;
    assert_errno(warm(h, "auto:2"), 0);
    assert_none(h);
    assert_string_equal(fork_it(h, "a"), "false");
    await_ready(h, 1);
    assert_string_equal(fork_it(h, "b"), "true");
    await_ready(h, 2);
    assert_string_equal(fork_it(h, "c"), "true");
    await_ready(h, 2);
    assert_string_equal(harness_json(h, harness_get(h, base(h, "info")), "warm.wanted"), "2");
    harness_put(base(h, "forks/new/options"), "{\"target_state\":\"standby\"}");
    harness_put(base(h, "forks/new/commit"), "x"); /* takes none, and asks for none */
    assert_errno(warm(h, "auto:1"), 0);
    assert_int_equal(count_lines(hidden(h)), 1);
}

/* Time goes fast here. */
static void warm_when_automatic_and_nothing_is_taken_falls_to_none(void **state)
{
    struct harness *h = *state;
    assert_int_equal(harness_unmount(h), 0);
    setenv("HYPEFS_TEST_TIMING", "look:50,retry:100,demand:50", 1);
    fake_mount(h);
    setenv("HYPEFS_TEST_TIMING", timing, 1);
    assert_errno(warm(h, "auto"), 0);
    fork_it(h, "a");
    harness_await(h, base(h, "info"), "\"wanted\": 0");
    harness_await_that(has_none, h, "those that were ready to end");
    assert_automatic(h, "auto", "8");
}

/* ---- several at a time ---- */

/* Three of four turns are the filler's: a commit that comes then need not wait for one. */
static void vms_are_loaded_several_at_a_time_and_a_commit_beside_them(void **state)
{
    struct harness *h = *state;
    assert_int_equal(harness_unmount(h), 0);
    fake_mount_with(h, "--max-loads", "4");
    fork_it(h, "cold"); /* the VMM's version is known from here on */
    const char *gate = harness_format(h, "%s/gate", h->programs);
    assert_works(mkfifo(gate, 0600));
    assert_works(chmod(gate, 0644));
    fake_tell(h, harness_format(h, "FAKE_VMM_GUEST=ack\nread go < '%s'", gate));
    struct group_lines *lines = group_open_events(h);
    assert_errno(warm(h, "10"), 0);
    harness_await_that(three_are_loaded, h, "three VMs to be loaded");
    struct harness_child commit =
        harness_start_shell(h, "bash", "echo c > snapshots/base/forks/new/commit");
    group_await_step(h, lines, "c", "load");
    assert_null(strstr(lines->text, "queued"));
    close(lines->fd);
    fake_tell(h, "FAKE_VMM_GUEST=ack");
    harness_put(gate, "go\n");
    assert_int_equal(harness_finish(h, &commit).status, 0);
    await_ready(h, 10);
}

/* Each VM that was loaded is taken or ready: none was loaded in vain. */
static void check_storm(struct harness *h, const char *wish, int ready_before, int ready_after)
{
    enum { COMMITS = 40 };
    assert_shell("bash", "> $T/loads", 0);
    assert_errno(warm(h, wish), 0);
    await_ready(h, ready_before);
    assert_shell("bash",
                 harness_format(h,
                                "seq %d | xargs -P 20 -I{} bash -c 'mkdir snapshots/base/forks/f{} "
                                "&& echo 1 > snapshots/base/forks/f{}/commit'",
                                COMMITS),
                 0);
    await_ready(h, ready_after);
    assert_string_equal(assert_shell("bash", "wc -l < $T/loads", 0).out,
                        harness_format(h, "%d\n", COMMITS + ready_after));
    assert_string_equal(assert_shell("bash", "grep -l running instances/*/state | wc -l", 0).out,
                        harness_format(h, "%d\n", COMMITS));
    assert_int_equal(count_lines(hidden(h)), ready_after);
}

static void mount_counting_loads(struct harness *h)
{
    assert_int_equal(harness_unmount(h), 0);
    fake_mount_with(h, "--confine", "off");
    fake_tell(h, harness_format(h,
                                "FAKE_VMM_GUEST=ack\n"
                                "case $1 in --*version) ;; *) echo >> '%s/loads' ;; esac",
                                h->directory));
}

static void storm_of_commits_loads_no_vm_in_vain(void **state)
{
    struct harness *h = *state;
    mount_counting_loads(h);
    check_storm(h, "8", 8, 8);
}

static void storm_of_commits_when_automatic_loads_no_vm_in_vain(void **state)
{
    struct harness *h = *state;
    mount_counting_loads(h);
    check_storm(h, "auto:5", 0, 5);
}

/* Its guest never answers. */
static void commit_that_fails_leaves_nothing_of_the_vm(void **state)
{
    struct harness *h = *state;
    fake_tell(h, "FAKE_VMM_GUEST=absent");
    assert_errno(warm(h, "1"), 0);
    await_ready(h, 1);
    const char *ready = hidden(h);
    harness_put(base(h, "forks/new/mailboxes/m"),
                "{\"payload\":{},\"wait_for_ack\":true,\"ack_timeout_ms\":1}");
    assert_errno(harness_write(base(h, "forks/new/commit"), "x"), ETIMEDOUT);
    assert_file_contains(base(h, "forks/new/result"), "\"warm\": true");
    assert_fails(kill(atoi(ready), 0), ESRCH);
    assert_errno(warm(h, "0"), 0);
    assert_none(h);
}

/* ---- when they go ---- */

static void warm_when_lowered_ends_those_that_are_too_many(void **state)
{
    struct harness *h = *state;
    assert_errno(warm(h, "3"), 0);
    await_ready(h, 3);
    assert_errno(warm(h, "1"), 0);
    assert_int_equal(count_lines(hidden(h)), 1);
    await_ready(h, 1);
    assert_errno(warm(h, "0"), 0);
    assert_none(h);
}

static void rmdir_of_a_snapshot_ends_its_ready_vms(void **state)
{
    struct harness *h = *state;
    assert_errno(warm(h, "2"), 0);
    await_ready(h, 2);
    assert_string_equal(fork_it(h, "w1"), "true");
    assert_fails(rmdir(base(h, "")), EBUSY);
    await_ready(h, 2);
    fake_drop(h, "w1");
    assert_works(rmdir(base(h, "")));
    harness_await_that(has_none, h, "those that were ready to end");
}

/* One may be under way. */
static void rmdir_when_a_vm_is_being_loaded_ends_it(void **state)
{
    struct harness *h = *state;
    assert_errno(warm(h, "64"), 0);
    assert_works(rmdir(base(h, "")));
    harness_await_that(has_none, h, "those that were ready to end");
    assert_string_equal(harness_get(h, h->log), "");
}

static void end_of_the_daemon_ends_them_and_the_next_one_loads_them_again(void **state)
{
    struct harness *h = *state;
    assert_errno(warm(h, "2"), 0);
    await_ready(h, 2);
    assert_int_equal(harness_unmount(h), 0);
    assert_none(h);
    fake_mount(h);
    assert_wanted(h, "2");
    await_ready(h, 2);
    assert_string_equal(fork_it(h, "x"), "true");
}

static void crash_of_the_daemon_leaves_them_to_the_next_one_that_ends_them(void **state)
{
    struct harness *h = *state;
    assert_errno(warm(h, "2"), 0);
    await_ready(h, 2);
    const char *before = hidden(h);
    harness_kill(h);
    assert_string_equal(hidden(h), before);
    assert_shell("bash", "cd $S/snapshots/base && rm warm.json", 0);
    fake_mount(h);
    assert_none(h);
    assert_wanted(h, "0");
}

/* ---- when something goes wrong ---- */

static bool is_replaced(void *argument)
{
    struct harness *h = argument;
    const char *now = hidden(h);
    return count_lines(now) == 1 && strstr(harness_get(h, base(h, "info")), "\"ready\": 1") &&
           strstr(harness_get(h, h->log),
                  "loaded ahead from the snapshot base has ended by itself");
}

static void vm_that_ended_is_replaced(void **state)
{
    struct harness *h = *state;
    assert_errno(warm(h, "1"), 0);
    await_ready(h, 1);
    pid_t pid = atoi(hidden(h));
    assert_works(kill(pid, SIGKILL));
    harness_await_that(is_replaced, h, "the VM is replaced");
    assert_int_not_equal(atoi(hidden(h)), pid);
}

static void commit_when_the_ready_vm_has_just_ended_loads_one(void **state)
{
    struct harness *h = *state;
    assert_errno(warm(h, "1"), 0);
    await_ready(h, 1);
    pid_t pid = atoi(hidden(h));
    auto_close int pidfd = pidfd_open(pid, 0);
    assert_works(kill(pid, SIGKILL));
    assert_int_equal(poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, HARNESS_DEADLINE_MS),
                     1);
    fork_it(h, "x");
    assert_true(atoi(pid_of(h, "x")) != pid);
}

static bool is_told(void *argument)
{
    struct harness *h = argument;
    return strstr(harness_get(h, h->log), "no VM can be loaded ahead from the snapshot base");
}

static void vm_that_cannot_be_loaded_is_told_once(void **state)
{
    struct harness *h = *state;
    assert_shell("bash", "cd $S/snapshots/base && mv state away", 0);
    assert_errno(warm(h, "1"), 0);
    harness_await_that(is_told, h, "the failure is told");
    assert_shell("bash", "cd $S/snapshots/base && mv away state", 0);
    await_ready(h, 1); /* by itself */
    assert_int_equal(count_lines(harness_get(h, h->log)), 1);
    assert_string_equal(fork_it(h, "x"), "true");
}

/* Nobody has vouched for it: no commit could use a VM of it. */
static void vms_when_the_image_was_changed_go_and_come_back_when_it_is_accepted(void **state)
{
    struct harness *h = *state;
    assert_int_equal(warm(h, "1"), 0);
    await_ready(h, 1);
    assert_shell("bash", "touch -d 2024-02-03T04:05:06Z $S/snapshots/base/memory", 0);
    await_ready(h, 0);
    harness_await(h, h->log, "no VM can be loaded ahead from the snapshot base: ");
    assert_file_contains(h->log, "hypefs accept");
    assert_errno(harness_write(base(h, "forks/new/commit"), "f1"), EIO);
    assert_none(h);
    harness_put(base(h, "accept"), "1\n");
    harness_put(base(h, "forks/new/commit"), "f1");
    await_ready(h, 1);
    assert_string_equal(fork_it(h, "f2"), "true");
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(warm_when_written_takes_a_number_in_its_range),
        test(warm_when_automatic_reads_as_it_was_written_and_is_kept),
        test(warm_of_what_cannot_be_forked_is_refused),
        test(commit_when_a_vm_is_ready_takes_it),
        test(commit_when_the_ready_vm_is_stopped_loads_another),
        test(commit_that_runs_nothing_takes_none),
        test(commit_when_a_replaced_image_was_accepted_loads_the_new_one),
        test(warm_when_automatic_follows_the_commits_up_to_its_limit),
        test(warm_when_automatic_and_nothing_is_taken_falls_to_none),
        test(vms_are_loaded_several_at_a_time_and_a_commit_beside_them),
        test(storm_of_commits_loads_no_vm_in_vain),
        test(storm_of_commits_when_automatic_loads_no_vm_in_vain),
        test(commit_that_fails_leaves_nothing_of_the_vm),
        test(warm_when_lowered_ends_those_that_are_too_many),
        test(rmdir_of_a_snapshot_ends_its_ready_vms),
        test(rmdir_when_a_vm_is_being_loaded_ends_it),
        test(end_of_the_daemon_ends_them_and_the_next_one_loads_them_again),
        test(crash_of_the_daemon_leaves_them_to_the_next_one_that_ends_them),
        test(vm_that_ended_is_replaced),
        test(commit_when_the_ready_vm_has_just_ended_loads_one),
        test(vm_that_cannot_be_loaded_is_told_once),
        test(vms_when_the_image_was_changed_go_and_come_back_when_it_is_accepted),
    };
    setenv("HYPEFS_TEST_TIMING", timing, 1);
    harness_enter();
    return cmocka_run_group_tests_name("warm", tests, NULL, NULL);
}
