/* SPDX-License-Identifier: MIT */
/* Instances and forks on taps, with a real VMM, in a network namespace of the program's own. */
#include "fixture.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "taps.h"
#include "tiny_guest.h"
#include "util/cleanup.h"

static const char in_use[] = "the tap t0 is in use by the instance ";

static void make(struct harness *h, const char *id)
{
    static const char *const names[] = {"m", NULL};
    const char *kernel = harness_json(h, tiny_guest_config(h, names), "kernel");
    assert_works(mkdir(harness_path(h, "instances/%s", id), 0755));
    harness_put(harness_path(h, "instances/%s/config", id),
                harness_format(h,
                               "{\"kernel\":\"%s\",\"memory_mib\":8,\"network\":{\"mode\":\"tap\","
                               "\"tap\":\"t0\",\"mac\":\"02:00:00:00:00:01\"}}",
                               kernel));
}

static char *forks(struct harness *h, const char *name)
{
    return harness_path(h, "snapshots/base/forks/%s", name);
}

static int commit(struct harness *h, const char *id, const char *options)
{
    harness_put(forks(h, "new/options"), options);
    return harness_write(forks(h, "new/commit"), id);
}

/* snapshots/base, whose guest was on t0, which is free again. */
static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    struct harness *h = *state;
    harness_mount(h, NULL);
    make(h, "x");
    harness_put(harness_path(h, "instances/x/state"), "running");
    harness_await(h, harness_path(h, "instances/x/console"), "ready");
    taps_assert(h, "t0", true);
    return 0;
}

static int setup_snapshot(void **state)
{
    if (setup(state) < 0)
        return -1;
    struct harness *h = *state;
    harness_put(harness_path(h, "instances/x/state"), "standby");
    harness_put(harness_path(h, "instances/x/snapshot"), "base");
    taps_assert(h, "t0", false);
    return 0;
}

static void instance_when_its_tap_is_in_use_does_not_boot(void **state)
{
    struct harness *h = *state;
    make(h, "y");
    assert_errno(harness_write(harness_path(h, "instances/y/state"), "running"), EBUSY);
    assert_file_contains(harness_path(h, "instances/y/error"), in_use);
    assert_string_equal(harness_get(h, harness_path(h, "instances/y/state")), "created\n");
    harness_put(harness_path(h, "instances/x/state"), "stopped");
    harness_put(harness_path(h, "instances/y/state"), "running");
    taps_assert(h, "t0", true);
    const char *config = harness_get(h, harness_path(h, "instances/y/config"));
    assert_string_equal(harness_json(h, config, "network.mac"), "02:00:00:00:00:01");
}

static void fork_when_its_tap_is_in_use_is_busy_and_another_is_taken(void **state)
{
    struct harness *h = *state;
    assert_errno(commit(h, "f0", "{}"), 0);
    taps_assert(h, "t0", true);
    assert_errno(commit(h, "f1", "{}"), EBUSY);
    assert_file_contains(forks(h, "new/error"), in_use);
    assert_errno(commit(h, "f1", "{\"tap\":\"t0\"}"), EBUSY);
    assert_file_contains(forks(h, "new/error"), "f0");
    taps_assert(h, "t1", false);
    harness_put(forks(h, "new/mailboxes/m"), "{\"word\":\"hello\"}");
    assert_errno(commit(h, "f1", "{\"tap\":\"t1\"}"), 0);
    harness_await(h, harness_path(h, "instances/f1/console"), "m {\"word\":\"hello\"}");
    taps_assert(h, "t1", true);
    const char *config = harness_get(h, harness_path(h, "instances/f1/config"));
    assert_string_equal(harness_json(h, config, "network.tap"), "t1");
    assert_errno(commit(h, "f2", "{\"tap\":\"t1\"}"), EBUSY);
    /* A daemon that starts again knows. */
    harness_unmount(h);
    harness_mount(h, NULL);
    assert_errno(commit(h, "f2", "{\"tap\":\"t1\"}"), EBUSY);
    assert_errno(commit(h, "f2", "{}"), EBUSY);
    harness_put(harness_path(h, "instances/f0/state"), "stopped");
    assert_errno(commit(h, "f2", "{}"), 0);
    taps_assert(h, "t0", true);
}

/* Not an instance's: hypefs opens it, and knows why it cannot. */
static void tap_that_another_process_has_open_is_named(void **state)
{
    struct harness *h = *state;
    struct ifreq request = {.ifr_name = "t0", .ifr_flags = IFF_TAP | IFF_NO_PI};
    auto_close int other = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    assert_works(ioctl(other, TUNSETIFF, &request));
    assert_errno(commit(h, "f1", "{}"), EIO);
    assert_file_contains(forks(h, "new/error"), "the tap t0 cannot be opened");
    assert_file_contains(forks(h, "new/error"), ": another process has it open: stop that");
    close(steal_fd(&other));
    assert_works(commit(h, "f1", "{}"));
    taps_assert(h, "t0", true);
}

static void fork_when_the_tap_is_not_there_is_eio(void **state)
{
    struct harness *h = *state;
    assert_errno(commit(h, "f0", "{\"tap\":\"t9\"}"), EIO);
    assert_file_contains(forks(h, "new/error"), "the tap t9: No such device");
    assert_shell("bash", "ip link show t9 2> /dev/null", 1);
    assert_errno(commit(h, "f0", "{\"tap\":\"lo\"}"), EIO);
    assert_file_contains(forks(h, "new/error"), "the interface lo is no tap");
    assert_errno(commit(h, "f0", "{\"tap\":\"t2\"}"), 0);
}

static void fork_when_the_source_has_no_tap_is_einval(void **state)
{
    struct harness *h = *state;
    assert_errno(commit(h, "f0", "{\"tap\":\"t1\"}"), EINVAL);
    assert_file_contains(forks(h, "new/error"), "has no interface on a tap");
    assert_string_equal(harness_json(h, harness_get(h, forks(h, "new/result")), "error.phase"),
                        "validate");
    assert_no_instance(h);
    assert_errno(commit(h, "f0", "{}"), 0);
}

/* Only root can remove it while the VM has it open. */
static void tap_that_was_made_anew_is_told_at_a_save_and_opened_by_a_restore(void **state)
{
    struct harness *h = *state;
    harness_put(harness_path(h, "instances/x/snapshot"), "before");
    assert_shell("bash", "ip link set t0 down && ip link set t0 name t9", 0);
    harness_put(harness_path(h, "instances/x/snapshot"), "renamed"); /* it has it still */
    assert_shell("bash", "ip link set t9 name t0 && ip link set t0 up", 0);
    assert_shell("bash",
                 "! grep 'the tap t0' $T/log && ip link del t0 && ip tuntap add t0 mode tap && "
                 "ip link set t0 up",
                 0);
    harness_kill(h); /* the index is on record */
    harness_mount(h, NULL);
    harness_put(harness_path(h, "instances/x/snapshot"), "base");
    harness_await(h, h->log, "the tap t0 of x was removed after its VM had opened it");
    taps_assert(h, "t0", false);
    harness_put(harness_path(h, "instances/x/state"), "standby");
    harness_put(harness_path(h, "instances/x/state"), "running");
    taps_assert(h, "t0", true);
}

static void forks_when_two_want_one_tap_at_once_are_one(void **state)
{
    struct harness *h = *state;
    struct harness_child children[2];
    int succeeded = 0;
    for (int i = 0; i < 2; i++) {
        assert_works(mkdir(forks(h, harness_format(h, "d%d", i)), 0755));
        harness_put(forks(h, harness_format(h, "d%d/options", i)), "{\"tap\":\"t1\"}");
    }
    for (int i = 0; i < 2; i++)
        children[i] = tiny_guest_commit(h, harness_format(h, "d%d", i), "1");
    for (int i = 0; i < 2; i++) {
        struct harness_result result = harness_finish(h, &children[i]);
        succeeded += result.status == 0;
        if (result.status != 0)
            assert_file_contains(forks(h, harness_format(h, "d%d/error", i)),
                                 "the tap t1 is in use by the instance d");
    }
    assert_int_equal(succeeded, 1);
}

#define tap_test(name, setup) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        tap_test(instance_when_its_tap_is_in_use_does_not_boot, setup),
        tap_test(fork_when_its_tap_is_in_use_is_busy_and_another_is_taken, setup_snapshot),
        tap_test(tap_that_another_process_has_open_is_named, setup_snapshot),
        tap_test(fork_when_the_tap_is_not_there_is_eio, setup_snapshot),
        tap_test(fork_when_the_source_has_no_tap_is_einval, tiny_guest_setup),
        tap_test(forks_when_two_want_one_tap_at_once_are_one, setup_snapshot),
    };
    const struct CMUnitTest as_root[] = {
        tap_test(tap_that_was_made_anew_is_told_at_a_save_and_opened_by_a_restore, setup),
    };
    harness_enter_with(taps_make);
    if (!tiny_guest_possible())
        return HARNESS_SKIPPED;
    int failed = cmocka_run_group_tests_name("taps", tests, NULL, NULL);
    return geteuid() == 0 ? failed + cmocka_run_group_tests_name("made anew", as_root, NULL, NULL)
                          : failed;
}
