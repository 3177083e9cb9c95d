/* SPDX-License-Identifier: MIT */
/* VMs and a daemon that starts again, where the VMM does not answer. It is played by
 * tests/fake_firecracker. */
#include "fixture.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char *of_x(struct harness *h, const char *file)
{
    return harness_path(h, "instances/x/%s", file);
}

static void mount_it(struct harness *h)
{
    const char *fake = getenv("FAKE_FIRECRACKER");
    assert_non_null(fake);
    harness_mount(h, (const char *const[]){"--firecracker", fake, NULL});
}

static pid_t pid_of_x(struct harness *h)
{
    return atoi(harness_json(h, harness_get(h, of_x(h, "info")), "pid"));
}

/* instances/x runs. */
static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    struct harness *h = *state;
    mount_it(h);
    if (mkdir(of_x(h, ""), 0755) < 0)
        return -1;
    harness_put(of_x(h, "config"), "{\"hypervisor\":\"firecracker\",\"kernel\":\"/etc/passwd\","
                                   "\"memory_mib\":8,\"cmdline\":\"mailboxes=m\"}");
    harness_put(of_x(h, "state"), "running");
    harness_await(h, of_x(h, "console"), "ready");
    return 0;
}

/* As if the daemon had been killed in the middle of a snapshot, with a VMM that hangs since. */
static pid_t restart_while_it_is_held(struct harness *h)
{
    pid_t pid = pid_of_x(h);
    harness_put(of_x(h, "state"), "paused");
    harness_kill(h);
    assert_shell("bash",
                 "cd $S/instances/x && jq '.version=2|.state=\"running\"|.intent=\"copy\"' "
                 "instance.json > j && "
                 "mv j instance.json",
                 0);
    harness_stop_process(pid);
    mount_it(h);
    assert_string_equal(harness_get(h, of_x(h, "state")), "running\n");
    assert_contains(harness_get(h, h->log), "the VM x is paused, because work on it was cut short");
    return pid;
}

static bool can_be_paused(void *argument)
{
    int code = harness_write(of_x(argument, "state"), "paused");
    assert_true(code == 0 || code == EBUSY);
    return code == 0;
}

static void mount_when_a_vmm_hangs_answers_and_the_vm_goes_on_when_it_can(void **state)
{
    struct harness *h = *state;
    pid_t pid = restart_while_it_is_held(h);
    assert_errno(harness_write(of_x(h, "state"), "paused"), EBUSY);
    assert_fails(rmdir(of_x(h, "")), EBUSY);
    assert_works(kill(pid, SIGCONT));
    harness_await_that(can_be_paused, h, "x goes on");
    assert_int_equal(pid_of_x(h), pid);
    harness_put(of_x(h, "state"), "running");
    assert_vmm_is(h, "x", "running");
    assert_null(
        strstr(harness_get(h, harness_store_path(h, "instances/x/instance.json")), "\"intent\""));
}

static void end_of_the_daemon_when_a_vmm_hangs_leaves_it_to_the_next(void **state)
{
    struct harness *h = *state;
    pid_t pid = restart_while_it_is_held(h);
    assert_int_equal(harness_unmount(h), 0);
    assert_works(kill(pid, SIGCONT));
    mount_it(h);
    assert_vmm_is(h, "x", "running");
    assert_int_equal(pid_of_x(h), pid);
}

static void assert_can_be_stopped(struct harness *h)
{
    harness_put(of_x(h, "state"), "stopped");
    const char *info = harness_get(h, of_x(h, "info"));
    assert_true(strcmp(harness_json(h, info, "exit"), "null") != 0);
    assert_works(rmdir(of_x(h, "")));
    assert_no_instance(h);
}

static void assert_lies_in(struct harness *h, const char *file, bool beside_the_record)
{
    assert_int_equal(access(harness_store_path(h, "instances/x/%s", file), F_OK) == 0,
                     beside_the_record);
    assert_int_equal(access(harness_store_path(h, "instances/x/run/%s", file), F_OK) == 0,
                     !beside_the_record);
}

/* Its VMM goes on where it is, as does the next one, until a daemon starts that finds none. */
static void vm_of_version_0_1_runs_on_and_its_store_is_taken_over_when_it_has_ended(void **state)
{
    struct harness *h = *state;
    pid_t pid = pid_of_x(h);
    harness_kill(h);
    fixture_make_old(h, "x");
    mount_it(h);
    assert_vmm_is(h, "x", "running");
    assert_int_equal(pid_of_x(h), pid);
    harness_put(of_x(h, "snapshot"), "s");
    harness_put(of_x(h, "state"), "standby");
    assert_lies_in(h, "memory", true);
    harness_put(of_x(h, "state"), "running");
    assert_vmm_is(h, "x", "running");
    harness_put(of_x(h, "state"), "standby");
    assert_int_equal(harness_unmount(h), 0);
    mount_it(h);
    assert_string_equal(harness_get(h, of_x(h, "state")), "standby\n");
    assert_lies_in(h, "memory", false);
    assert_lies_in(h, "console.log", true);
    assert_shell("bash", "jq -e '.version == 2' $S/instances/x/instance.json", 0);
    harness_put(of_x(h, "state"), "running");
    assert_vmm_is(h, "x", "running");
    assert_null(strstr(harness_get(h, h->log), "cannot"));
}

static void stopped_when_a_vmm_hangs_since_the_start_ends_it(void **state)
{
    struct harness *h = *state;
    restart_while_it_is_held(h);
    assert_can_be_stopped(h);
}

/* Deaf to SIGTERM. */
static void stopped_when_a_vmm_hangs_ends_it(void **state)
{
    struct harness *h = *state;
    harness_stop_process(pid_of_x(h));
    assert_can_be_stopped(h);
}

/* A network mount whose server is gone, with somebody in it; and with a VMM in it, of another
 * store.
 */
static void start_when_others_are_in_a_mount_that_hangs_does_not_wait_for_it(void **state)
{
    struct harness *h = *state;
    harness_mount(h, NULL);
    assert_shell("bash",
                 harness_format(h,
                                "tail -f /dev/null & guest=$!\n"
                                "HYPEFS_CHILD=1 tail -f /dev/null & vmm=$!\n"
                                "cd $T && mkdir second\n"
                                "kill -STOP %d\n"
                                "timeout -s KILL 30 $HYPEFS mount --store $T/other $T/second\n"
                                "status=$?\n"
                                "kill -CONT %d\n"
                                "kill $guest $vmm || status=1\n"
                                "fusermount3 -u $T/second\n"
                                "exit $status",
                                (int)h->daemon, (int)h->daemon),
                 0);
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(mount_when_a_vmm_hangs_answers_and_the_vm_goes_on_when_it_can),
        test(end_of_the_daemon_when_a_vmm_hangs_leaves_it_to_the_next),
        test(vm_of_version_0_1_runs_on_and_its_store_is_taken_over_when_it_has_ended),
        test(stopped_when_a_vmm_hangs_since_the_start_ends_it),
        test(stopped_when_a_vmm_hangs_ends_it),
        bare_test(start_when_others_are_in_a_mount_that_hangs_does_not_wait_for_it),
    };
    setenv("HYPEFS_TEST_TIMING", "stop:300,recover:300", 1);
    harness_enter();
    return cmocka_run_group_tests_name("restart", tests, NULL, NULL);
}
