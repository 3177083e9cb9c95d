/* SPDX-License-Identifier: MIT */
/* A daemon that is killed at every point of what it does: the next one shows it as if it had never
 * begun, or as if it had ended. The VMMs are played by test peers of
 * Firecracker, or of Cloud Hypervisor (fake.h). */
#include "crash.h"

#include "fake.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *trim(char *text)
{
    text[strcspn(text, "\n")] = 0;
    return text;
}

static int write_state(struct harness *h, const char *word)
{
    return harness_write(crash_instance(h, "x", "state"), word);
}

/* Is x in the state after, rather than before? */
static bool arrived(struct harness *h, const char *before, const char *after)
{
    const char *state = trim(harness_get(h, crash_instance(h, "x", "state")));
    if (strcmp(state, before) != 0 && strcmp(state, after) != 0) {
        print_error("x is %s, neither %s nor %s\n", state, before, after);
        fail();
    }
    return strcmp(state, after) == 0;
}

static bool is_there(struct harness *h, const char *path)
{
    return access(harness_path(h, "%s", path), F_OK) == 0;
}

/* Of its disk as it was saved. */
static bool has_copy(struct harness *h)
{
    return access(harness_store_path(h, "instances/x/run/frozen-disk0"), F_OK) == 0;
}

/* ---- how x comes to be ---- */

static void make(struct harness *h)
{
    crash_make(h, "x");
}

static void boot(struct harness *h)
{
    make(h);
    harness_put(crash_instance(h, "x", "state"), "running");
    harness_await(h, crash_instance(h, "x", "console"), "ready");
}

static void fork_it(struct harness *h)
{
    harness_put(harness_path(h, "snapshots/base/forks/new/mailboxes/m"), "{\"secret\":1}");
    harness_put(harness_path(h, "snapshots/base/forks/new/commit"), "x");
    harness_await(h, crash_instance(h, "x", "console"), "secret");
}

static void boot_if_stopped(struct harness *h)
{
    if (strcmp(harness_get(h, crash_instance(h, "x", "state")), "stopped\n") == 0)
        harness_put(crash_instance(h, "x", "state"), "running");
}

static void crash_in(void **state, void (*prepare)(struct harness *h),
                     void (*stage)(struct harness *h), int (*run)(struct harness *h),
                     bool (*done)(struct harness *h))
{
    crash_everywhere(*state, &(struct crash_operation){
                                 .prepare = prepare, .stage = stage, .run = run, .done = done});
}

/* ---- one transition ---- */

#define transition(name, make_it, before, after)                                                   \
    static void name##_prepare(struct harness *h)                                                  \
    {                                                                                              \
        make_it(h);                                                                                \
        harness_put(crash_instance(h, "x", "state"), before);                                      \
    }                                                                                              \
    static int name##_run(struct harness *h)                                                       \
    {                                                                                              \
        return write_state(h, after);                                                              \
    }                                                                                              \
    static bool name##_done(struct harness *h)                                                     \
    {                                                                                              \
        return arrived(h, before, after);                                                          \
    }                                                                                              \
    static void crash_in_##name(void **state)                                                      \
    {                                                                                              \
        crash_in(state, name##_prepare, NULL, name##_run, name##_done);                            \
    }

transition(pause, boot, "running", "paused");
transition(standby, boot, "running", "standby");
transition(standby_from_paused, boot, "paused", "standby");
transition(restore, boot, "standby", "running");
transition(stop, boot, "running", "stopped");
transition(stop_of_a_standby, boot, "standby", "stopped");
transition(boot_anew, boot, "stopped", "running");
transition(forks_unpause, fork_it, "paused", "running");
transition(forks_standby, fork_it, "running", "standby");
transition(forks_restore, fork_it, "standby", "running");
transition(forks_stop, fork_it, "paused", "stopped");

/* Its VMM has ended with the daemon: it was to run, and never did, or it ran. */
static bool restored_and_ended(struct harness *h)
{
    const char *state = trim(harness_get(h, crash_instance(h, "x", "state")));
    return strcmp(state, "running") == 0 || arrived(h, "standby", "stopped");
}

static void host_ends_in_restore(void **state)
{
    crash_everywhere(*state, &(struct crash_operation){.prepare = restore_prepare,
                                                       .run = restore_run,
                                                       .done = restored_and_ended,
                                                       .host_ends = true});
}

static void restore_to_save(struct harness *h)
{
    restore_prepare(h);
    harness_put(crash_instance(h, "x", "state"), "running");
}

/* What is on its disk is either in the image, or on what it ran on last. */
static bool saved_or_ended(struct harness *h)
{
    bool saved = arrived(h, "stopped", "standby");
    assert_int_equal(has_copy(h), saved);
    return saved;
}

static void host_ends_in_standby(void **state)
{
    crash_everywhere(*state, &(struct crash_operation){.prepare = restore_to_save,
                                                       .stage = boot_if_stopped,
                                                       .run = standby_run,
                                                       .done = saved_or_ended,
                                                       .host_ends = true});
}

/* ---- directories and config ---- */

static int run_mkdir(struct harness *h)
{
    return mkdir(crash_instance(h, "x", ""), 0755) < 0 ? errno : 0;
}

static bool x_is_there(struct harness *h)
{
    return is_there(h, "instances/x");
}

static void crash_in_mkdir(void **state)
{
    crash_in(state, NULL, NULL, run_mkdir, x_is_there);
}

/* It has a copy of its disk, which is not that of another. */
static void stop_with_a_copy(struct harness *h)
{
    restore_prepare(h);
    harness_put(crash_instance(h, "x", "state"), "stopped");
}

static int run_config(struct harness *h)
{
    return harness_write(crash_instance(h, "x", "config"), crash_config(h, "other"));
}

static bool is_configured(struct harness *h)
{
    bool other = strstr(harness_get(h, crash_instance(h, "x", "config")), "/other\"");
    assert_int_equal(has_copy(h), !other);
    return other;
}

static void crash_in_config(void **state)
{
    crash_in(state, stop_with_a_copy, NULL, run_config, is_configured);
}

static void stop_fork(struct harness *h)
{
    fork_it(h);
    harness_put(crash_instance(h, "x", "state"), "standby");
}

static int run_rmdir(struct harness *h)
{
    return rmdir(crash_instance(h, "x", "")) < 0 ? errno : 0;
}

static bool x_is_gone(struct harness *h)
{
    assert_int_equal(is_there(h, "instances/x"), is_there(h, "snapshots/base/forks/x"));
    return !is_there(h, "instances/x");
}

static void crash_in_rmdir_of_a_fork(void **state)
{
    crash_in(state, stop_fork, NULL, run_rmdir, x_is_gone);
}

static void publish(struct harness *h)
{
    boot(h);
    harness_put(crash_instance(h, "x", "snapshot"), "s");
}

static int run_rmdir_of_s(struct harness *h)
{
    return rmdir(harness_path(h, "snapshots/s")) < 0 ? errno : 0;
}

static bool s_is_gone(struct harness *h)
{
    return !is_there(h, "snapshots/s");
}

static void crash_in_rmdir_of_a_snapshot(void **state)
{
    crash_in(state, publish, NULL, run_rmdir_of_s, s_is_gone);
}

/* ---- snapshots ---- */

static void boot_and_pause(struct harness *h)
{
    boot(h);
    harness_put(crash_instance(h, "x", "state"), "paused");
}

static int run_snapshot(struct harness *h)
{
    return harness_write(crash_instance(h, "x", "snapshot"), "s");
}

static bool snapshot_of_running(struct harness *h)
{
    arrived(h, "running", "running");
    return is_there(h, "snapshots/s");
}

static bool snapshot_of_paused(struct harness *h)
{
    arrived(h, "paused", "paused");
    return is_there(h, "snapshots/s");
}

static bool snapshot_of_standby(struct harness *h)
{
    arrived(h, "standby", "standby");
    return is_there(h, "snapshots/s");
}

static void crash_in_snapshot_of_a_running_one(void **state)
{
    crash_in(state, fork_it, NULL, run_snapshot, snapshot_of_running);
}

/* Without a disk it goes on in another VMM. */
static void boot_plain(struct harness *h)
{
    fake_make(h, "x", "mailboxes=m", "");
    harness_put(crash_instance(h, "x", "state"), "running");
    harness_await(h, crash_instance(h, "x", "console"), "ready");
}

static void crash_in_snapshot_of_a_booted_one(void **state)
{
    crash_everywhere(*state, &(struct crash_operation){.prepare = boot_plain,
                                                       .run = run_snapshot,
                                                       .done = snapshot_of_running,
                                                       .moves = true});
}

static bool snapshot_or_ended(struct harness *h)
{
    arrived(h, "running", "stopped");
    return is_there(h, "snapshots/s");
}

static void host_ends_in_snapshot_of_a_booted_one(void **state)
{
    crash_everywhere(*state, &(struct crash_operation){.prepare = boot_plain,
                                                       .stage = boot_if_stopped,
                                                       .run = run_snapshot,
                                                       .done = snapshot_or_ended,
                                                       .host_ends = true,
                                                       .moves = true});
}

static void crash_in_snapshot_of_a_paused_one(void **state)
{
    crash_in(state, boot_and_pause, NULL, run_snapshot, snapshot_of_paused);
}

static void crash_in_snapshot_of_a_standby_one(void **state)
{
    crash_in(state, stop_fork, NULL, run_snapshot, snapshot_of_standby);
}

/* ---- deliveries to one that runs ---- */

static unsigned deliveries;

static int deliver(struct harness *h, unsigned number)
{
    return harness_write(crash_instance(h, "x", "mailboxes/m"),
                         harness_format(h,
                                        "{\"payload\":{\"live\":%u},\"wait_for_ack\":true,"
                                        "\"ack_timeout_ms\":30000}",
                                        number));
}

static int run_delivery(struct harness *h)
{
    return deliver(h, ++deliveries);
}

/* Once at the most, and not later: the next one works. */
static bool was_taken(struct harness *h)
{
    unsigned count = 0;
    arrived(h, "running", "running");
    assert_errno(deliver(h, 0), 0);
    const char *line = harness_format(h, "m {\"live\":%u}\n", deliveries);
    const char *at = harness_get(h, crash_instance(h, "x", "console"));
    for (; (at = strstr(at, line)); at++)
        count++;
    assert_in_range(count, 0, 1);
    return count == 1;
}

/* Its VMM stands still when the daemon is killed, and goes on. */
static void crash_in_delivery_to_a_fork(void **state)
{
    crash_everywhere(
        *state, &(struct crash_operation){
                    .prepare = fork_it, .run = run_delivery, .done = was_taken, .talks = true});
}

static void crash_in_delivery_to_a_booted_one(void **state)
{
    crash_everywhere(
        *state, &(struct crash_operation){
                    .prepare = boot_plain, .run = run_delivery, .done = was_taken, .talks = true});
}

/* ---- forks ---- */

static void stage(struct harness *h, const char *source, const char *options,
                  const char *timeout_ms)
{
    const char *draft = harness_path(h, "%s/forks/new", source);
    harness_put(harness_format(h, "%s/options", draft), options);
    if (timeout_ms)
        harness_put(harness_format(h, "%s/mailboxes/m", draft),
                    harness_format(h,
                                   "{\"payload\":{\"secret\":2},\"wait_for_ack\":true,"
                                   "\"ack_timeout_ms\":%s}",
                                   timeout_ms));
}

/* There whole, or not at all. */
static bool id_is_there(struct harness *h, const char *source, const char *id, const char *state)
{
    const char *record = harness_format(h, "%s/forks/%s", source, id);
    bool there = is_there(h, harness_format(h, "instances/%s", id));
    assert_int_equal(there, is_there(h, record));
    if (!there)
        return false;
    assert_string_equal(trim(harness_get(h, crash_instance(h, id, "state"))), state);
    assert_string_equal(trim(harness_get(h, harness_path(h, "%s/status", record))), "committed");
    const char *result = harness_get(h, harness_path(h, "%s/result", record));
    if (strcmp(state, "running") == 0) {
        assert_string_equal(harness_json(h, result, "mailboxes.0.acked"), "true");
        assert_file_contains(crash_instance(h, id, "console"), "\"secret\":2");
    }
    return true;
}

static bool fork_is_there(struct harness *h, const char *source, const char *state)
{
    return id_is_there(h, source, "f", state);
}

static void stage_in_base(struct harness *h)
{
    stage(h, "snapshots/base", "{}", "30000");
}

static int run_commit(struct harness *h)
{
    return harness_write(harness_path(h, "snapshots/base/forks/new/commit"), "f");
}

static bool is_committed(struct harness *h)
{
    return fork_is_there(h, "snapshots/base", "running");
}

static void crash_in_commit(void **state)
{
    crash_in(state, NULL, stage_in_base, run_commit, is_committed);
}

/* Each of them is there whole, or not at all: those that are not there are written again. */
static int run_commit_of_three(struct harness *h)
{
    const char *ids = "";
    for (const char *id = "f"; *id; id = *id == 'f' ? "g" : *id == 'g' ? "h" : "")
        if (!is_there(h, harness_format(h, "instances/%s", id)))
            ids = harness_format(h, "%s %s", ids, id);
    return harness_write(harness_path(h, "snapshots/base/forks/new/commit"), ids);
}

static bool are_committed(struct harness *h)
{
    bool f = fork_is_there(h, "snapshots/base", "running");
    bool g = id_is_there(h, "snapshots/base", "g", "running");
    return id_is_there(h, "snapshots/base", "h", "running") && f && g;
}

static void crash_in_commit_of_three(void **state)
{
    crash_in(state, NULL, stage_in_base, run_commit_of_three, are_committed);
}

static void stage_to_standby(struct harness *h)
{
    stage(h, "snapshots/base", "{\"target_state\":\"standby\"}", NULL);
}

static bool is_committed_to_standby(struct harness *h)
{
    return fork_is_there(h, "snapshots/base", "standby");
}

static void crash_in_commit_to_standby(void **state)
{
    crash_in(state, NULL, stage_to_standby, run_commit, is_committed_to_standby);
}

/* Long enough for the instance to be seen before its ack comes. */
static void stage_in_x(struct harness *h)
{
    stage(h, "instances/x", "{\"from_running\":true}", "86400000");
}

static int run_commit_of_x(struct harness *h)
{
    return harness_write(harness_path(h, "instances/x/forks/new/commit"), "f");
}

static bool is_committed_of_standby(struct harness *h)
{
    arrived(h, "standby", "standby");
    return fork_is_there(h, "instances/x", "running");
}

static bool is_committed_of_running(struct harness *h)
{
    arrived(h, "running", "running");
    return fork_is_there(h, "instances/x", "running");
}

static void crash_in_commit_of_a_standby_one(void **state)
{
    crash_in(state, stop_fork, stage_in_x, run_commit_of_x, is_committed_of_standby);
}

static void crash_in_commit_of_a_running_one(void **state)
{
    crash_in(state, boot, stage_in_x, run_commit_of_x, is_committed_of_running);
}

/* ---- what comes from outside ---- */

struct end {
    const char *state;
    bool dead;
};

static bool stopped_or_dead(void *argument)
{
    struct end *end = argument;
    char word[16] = "";
    int fd = open(end->state, O_RDONLY | O_CLOEXEC);
    end->dead = fd < 0 || read(fd, word, sizeof word - 1) < 0;
    if (fd >= 0)
        close(fd);
    return end->dead || strcmp(word, "stopped\n") == 0;
}

/* Its VMM ends by itself. */
static int run_end(struct harness *h)
{
    const char *info = harness_get(h, crash_instance(h, "x", "info"));
    kill(atoi(harness_json(h, info, "pid")), SIGKILL);
    struct end end = {.state = crash_instance(h, "x", "state")};
    harness_await_that(stopped_or_dead, &end, "the end of the VMM is noticed");
    return end.dead ? ENOTCONN : 0;
}

static bool has_ended(struct harness *h)
{
    const char *info = harness_get(h, crash_instance(h, "x", "info"));
    assert_true(strcmp(harness_json(h, info, "exit"), "null") != 0);
    return arrived(h, "stopped", "stopped");
}

static void crash_when_a_vmm_ends(void **state)
{
    crash_in(state, fork_it, NULL, run_end, has_ended);
}

static void copy_base(struct harness *h)
{
    assert_shell(
        "bash",
        "cp -f $S/snapshots/base/memory $T/mem && cp -f $S/snapshots/base/state $T/vmstate "
        "&& echo '{\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":8}}' > $T/vm.json",
        0);
}

/* EINTR: it was ended at a point. */
static int run_import(struct harness *h)
{
    if (crash_plan)
        setenv("HYPEFS_FAULT", crash_plan, 1);
    struct harness_result result = harness_shell(
        h, "bash",
        "exec $HYPEFS import --id s --hypervisor firecracker --memory $T/mem --state $T/vmstate "
        "--config $T/vm.json --store $S");
    unsetenv("HYPEFS_FAULT");
    crash_note(result.err);
    return result.status == 0 ? 0 : result.status == 128 + SIGKILL ? EINTR : EIO;
}

static bool s_is_there(struct harness *h)
{
    return is_there(h, "snapshots/s");
}

static void crash_in_import(void **state)
{
    crash_everywhere(*state, &(struct crash_operation){.prepare = copy_base,
                                                       .run = run_import,
                                                       .done = s_is_there,
                                                       .elsewhere = true});
}

/* EINTR: it was ended at a point. */
static int take_over(struct harness *h, const char *plan)
{
    setenv("HYPEFS_FAULT", plan, 1);
    struct harness_result result =
        harness_shell(h, "bash", "exec $HYPEFS accept --store $S instances/x");
    unsetenv("HYPEFS_FAULT");
    crash_note(result.err);
    return result.status == 0 ? 0 : result.status == 128 + SIGKILL ? EINTR : EIO;
}

static void crash_when_a_store_of_version_0_1_is_taken_over(void **state)
{
    struct harness *h = *state;
    int code = EINTR, crashes = 0;
    boot(h);
    harness_put(crash_instance(h, "x", "state"), "standby");
    assert_int_equal(harness_unmount(h), 0);
    while (code == EINTR) {
        fixture_make_old(h, "x");
        code = take_over(h, harness_format(h, "any:%d", ++crashes));
        if (code == EINTR && crashes % 3 == 0)
            take_over(h, harness_format(h, "any:%d", 1 + crashes / 3));
        assert_int_equal(take_over(h, "trace"), 0);
        assert_shell("bash",
                     "cd $S/instances/x && [ $(ls | tr '\\n' ,) = "
                     "console.log,instance.json,run,vmm.log, ] && [ -s run/memory ] && "
                     "[ -s run/state ] && jq -e '.state == \"standby\"' instance.json",
                     0);
    }
    assert_int_equal(code, 0);
    assert_true(crashes > 5);
}

static void every_point_was_passed(void **state)
{
    (void)state;
    assert_true(crash_passed_all());
}

#define crash_test(name) cmocka_unit_test_setup_teardown(name, crash_setup, crash_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        crash_test(crash_in_mkdir),
        crash_test(crash_in_config),
        crash_test(crash_in_pause),
        crash_test(crash_in_standby),
        crash_test(crash_in_standby_from_paused),
        crash_test(crash_in_restore),
        crash_test(host_ends_in_standby),
        crash_test(host_ends_in_restore),
        crash_test(crash_in_stop),
        crash_test(crash_in_stop_of_a_standby),
        crash_test(crash_in_boot_anew),
        crash_test(crash_in_forks_unpause),
        crash_test(crash_in_forks_standby),
        crash_test(crash_in_forks_restore),
        crash_test(crash_in_forks_stop),
        crash_test(crash_in_rmdir_of_a_fork),
        crash_test(crash_in_rmdir_of_a_snapshot),
        crash_test(crash_in_snapshot_of_a_running_one),
        crash_test(crash_in_snapshot_of_a_paused_one),
        crash_test(crash_in_snapshot_of_a_standby_one),
        crash_test(crash_in_delivery_to_a_fork),
        crash_test(crash_in_delivery_to_a_booted_one),
        crash_test(crash_in_commit),
        crash_test(crash_in_commit_of_three),
        crash_test(crash_in_commit_to_standby),
        crash_test(crash_in_commit_of_a_standby_one),
        crash_test(crash_in_commit_of_a_running_one),
        crash_test(crash_when_a_vmm_ends),
        crash_test(crash_when_a_store_of_version_0_1_is_taken_over),
    };
    /* base is imported as a snapshot of Firecracker's; and without that, not each point is passed.
     */
    const struct CMUnitTest of_firecracker[] = {
        crash_test(crash_in_import),
        cmocka_unit_test(every_point_was_passed),
    };
    /* Whose memory is a file. */
    const struct CMUnitTest of_cloud_hypervisor[] = {
        crash_test(crash_in_snapshot_of_a_booted_one),
        crash_test(host_ends_in_snapshot_of_a_booted_one),
    };
    crash_enter();
    int failed = cmocka_run_group_tests_name("crash", tests, NULL, NULL);
    if (fake_is_firecracker())
        failed += cmocka_run_group_tests_name("crash of Firecracker", of_firecracker, NULL, NULL);
    else
        failed += cmocka_run_group_tests_name("crash of Cloud Hypervisor", of_cloud_hypervisor,
                                              NULL, NULL);
    return failed;
}
