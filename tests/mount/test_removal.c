/* SPDX-License-Identifier: MIT */
/*
 * A removal is answered when it is out of sight, and the files are erased after that. To look at
 * what happens meanwhile, erasing waits while there is a gate (slow_disk.c). The VMM is
 * tests/fake_firecracker.
 */
#include "fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake.h"
#include "util/cleanup.h"

static char *gate(struct harness *h)
{
    return harness_format(h, "%s/gate", h->directory);
}

static void hold(struct harness *h)
{
    harness_put(gate(h), "");
}

static void let_go(struct harness *h)
{
    assert_works(unlink(gate(h)));
}

/* An ASan that is not linked statically wants to be the first. */
static void mount_slowly(struct harness *h)
{
    setenv("HYPEFS_TEST_UNERASED", gate(h), 1);
    setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1);
    setenv("LD_PRELOAD", getenv("HYPEFS_SLOW_DISK"), 1);
    fake_mount(h);
    unsetenv("LD_PRELOAD");
}

/* instances/x in standby and snapshots/s of it. */
static int fill_store(struct harness *h)
{
    mount_slowly(h);
    fake_make(h, "x", "mailboxes=m", "");
    harness_put(fake_instance(h, "x", "state"), "running");
    harness_await(h, fake_instance(h, "x", "console"), "ready");
    harness_put(fake_instance(h, "x", "state"), "standby");
    harness_put(fake_instance(h, "x", "snapshot"), "s");
    return 0;
}

static int setup(void **state)
{
    return harness_setup(state) < 0 ? -1 : fill_store(*state);
}

static int teardown(void **state)
{
    struct harness *h = *state;
    unlink(gate(h));
    return harness_teardown(state);
}

/* How many removed entries are there yet. The mount may just go: find needs its directory. */
static const char *hidden(struct harness *h)
{
    return assert_shell("bash", "cd / && find $S -name '.gone-*' | wc -l", 0).out;
}

static void assert_nothing_hidden(struct harness *h)
{
    assert_string_equal(
        assert_shell("bash",
                     "find $S/instances $S/snapshots -mindepth 1 -maxdepth 1 -name '*.*' -printf "
                     "'%f\n'",
                     0)
            .out,
        "");
}

static void removal_is_answered_before_the_files_are_erased(void **state)
{
    struct harness *h = *state;
    hold(h);
    assert_shell("bash", "timeout 20 rmdir instances/x snapshots/s", 0);
    assert_string_equal(hidden(h), "2\n");
    assert_shell("bash",
                 "[ -e $S/instances/.gone-*/run/memory ] && [ -e $S/snapshots/.gone-*/memory ]", 0);
    assert_string_equal(
        assert_shell("bash", "timeout 20 ls instances snapshots | grep -v :", 0).out, "\n");
    assert_fails(access(fake_instance(h, "x", "info"), F_OK), ENOENT);
    assert_shell("bash", "timeout 20 mkdir instances/x && timeout 20 rmdir instances/x", 0);
    let_go(h);
    harness_await_erased(h);
}

static void end_of_the_daemon_waits_for_what_is_being_erased(void **state)
{
    struct harness *h = *state;
    hold(h);
    assert_works(rmdir(fake_instance(h, "x", "")));
    assert_works(kill(h->daemon, SIGTERM));
    assert_string_equal(hidden(h), "1\n");
    let_go(h);
    assert_int_equal(harness_await_end(h), 0);
    assert_nothing_hidden(h);
}

static void start_erases_what_a_killed_daemon_had_not(void **state)
{
    struct harness *h = *state;
    hold(h);
    assert_works(rmdir(fake_instance(h, "x", "")));
    harness_kill(h);
    assert_string_equal(hidden(h), "1\n");
    let_go(h);
    fake_mount(h);
    assert_nothing_hidden(h);
}

/* ---- a disk that is full ---- */

static int setup_disk(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    struct harness *h = *state;
    h->store = harness_format(h, "%s/store", getenv("HYPEFS_TEST_DISK"));
    return fill_store(h);
}

static int teardown_disk(void **state)
{
    int r = teardown(state);
    if (system("rm -rf \"$HYPEFS_TEST_DISK\"/*") != 0)
        return -1;
    return r;
}

/* That room is for who comes next. */
static void remove_on_a_full_disk(struct harness *h)
{
    assert_works(mkdir(fake_instance(h, "y", ""), 0755));
    assert_shell("bash", "head -c 2M /dev/zero > $S/instances/y/run/ballast", 0);
    fixture_fill_file(harness_format(h, "%s/fill", getenv("HYPEFS_TEST_DISK")));
    hold(h);
    assert_works(rmdir(fake_instance(h, "y", "")));
}

static void commit_finds_the_room_that_is_being_erased(void **state)
{
    struct harness *h = *state;
    remove_on_a_full_disk(h);
    struct harness_child commit =
        harness_start_shell(h, "bash", "echo f > snapshots/s/forks/new/commit");
    harness_await_blocked(h, commit.pid);
    assert_shell("bash", "timeout 20 cat instances/x/state", 0);
    let_go(h);
    struct harness_result result = harness_finish(h, &commit);
    assert_string_equal(result.err, "");
    assert_int_equal(result.status, 0);
    assert_vmm_is(h, "f", "running");
}

static void start_finds_the_room_that_is_being_erased(void **state)
{
    struct harness *h = *state;
    remove_on_a_full_disk(h);
    struct harness_child boot = harness_start_shell(h, "bash", "echo running > instances/x/state");
    harness_await_blocked(h, boot.pid);
    let_go(h);
    assert_string_equal(harness_finish(h, &boot).err, "");
    assert_vmm_is(h, "x", "running");
}

static void new_instance_finds_the_room_that_is_being_erased(void **state)
{
    struct harness *h = *state;
    remove_on_a_full_disk(h);
    struct harness_child make =
        harness_start(h, (const char *const[]){"mkdir", "instances/z", NULL});
    harness_await_blocked(h, make.pid);
    let_go(h);
    assert_string_equal(harness_finish(h, &make).err, "");
    assert_works(access(fake_instance(h, "z", "info"), F_OK));
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define disk_test(name) cmocka_unit_test_setup_teardown(name, setup_disk, teardown_disk)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(removal_is_answered_before_the_files_are_erased),
        test(end_of_the_daemon_waits_for_what_is_being_erased),
        test(start_erases_what_a_killed_daemon_had_not),
    };
    const struct CMUnitTest of_disks[] = {
        disk_test(commit_finds_the_room_that_is_being_erased),
        disk_test(start_finds_the_room_that_is_being_erased),
        disk_test(new_instance_finds_the_room_that_is_being_erased),
    };
    harness_enter_with(fixture_mount_disk);
    int failed = cmocka_run_group_tests_name("removal", tests, NULL, NULL);
    /* root alone, or a user that root's tests become, has a small disk */
    return getenv("HYPEFS_TEST_DISK")
               ? failed + cmocka_run_group_tests_name("full", of_disks, NULL, NULL)
               : failed;
}
