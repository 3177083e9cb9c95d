/* SPDX-License-Identifier: MIT */
/* VMs that are saved before their firmware has read the kernel: QEMU is started frozen, by a script
 * that adds -S, so that it has not run at all then. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/vm.h"

static const char *const boards[] = {"microvm", "q35"};

/* With a frozen VM of which the guest would be ready. */
static void boot(struct harness *h, const char *machine)
{
    char *qemu = vm_script(h, "frozen",
                           "#!/bin/sh\n"
                           "case \"$*\" in\n"
                           "*--version | *\" -S \"*) exec qemu-system-x86_64 \"$@\" ;;\n"
                           "*) exec qemu-system-x86_64 \"$@\" -S ;;\n"
                           "esac\n");
    harness_mount(h, (const char *const[]){"--qemu", qemu, NULL});
    vm_start(h, machine, "hypefs.mailboxes=box.v1");
}

static void await_ready(struct harness *h, const char *id)
{
    harness_await(h, vm_console(h, id), "vm_guest: ready");
    assert_string_equal(harness_get(h, harness_path(h, "instances/%s/state", id)), "running\n");
}

/* Of an instance or a snapshot, by its file: does it tell what a load boots from? An older hypefs,
 * which does not know that, leaves it out for its version. */
static void assert_boots(struct harness *h, const char *file, bool boots)
{
    const char *record = harness_get(h, harness_store_path(h, "%s", file));
    bool is_snapshot = strncmp(file, "snapshots/", 10) == 0;
    assert_string_equal(harness_json(h, record, "version"), boots || !is_snapshot ? "2" : "1");
    assert_true((strstr(record, "\"boot\"") != NULL) == boots);
}

/* Then it is saved in standby like any other. */
static void assert_goes_on(struct harness *h, const char *id)
{
    await_ready(h, id);
    assert_int_equal(vm_change(h, id, "standby"), 0);
    assert_int_equal(vm_change(h, id, "running"), 0);
    assert_string_equal(harness_get(h, harness_path(h, "instances/%s/state", id)), "running\n");
}

static void standby_when_the_firmware_runs_becomes_a_vm_that_boots(void **state)
{
    struct harness *h = *state;
    for (size_t i = 0; i < 2; i++) {
        boot(h, boards[i]);
        assert_int_equal(vm_change(h, "template", "standby"), 0);
        assert_boots(h, "instances/template/instance.json", true);
        harness_await(h, h->log, "template was saved before its firmware had read its kernel");
        assert_int_equal(harness_unmount(h), 0);
        harness_mount(h, NULL); /* what is needed is in the store */
        assert_int_equal(vm_change(h, "template", "running"), 0);
        assert_boots(h, "instances/template/instance.json", false);
        assert_goes_on(h, "template");
        assert_int_equal(vm_change(h, "template", "stopped"), 0);
        assert_int_equal(rmdir(harness_path(h, "instances/template")), 0);
        assert_int_equal(harness_unmount(h), 0);
    }
}

static void snapshot_when_the_firmware_runs_has_forks_that_boot(void **state)
{
    struct harness *h = *state;
    boot(h, "microvm");
    harness_put(harness_path(h, "instances/template/snapshot"), "first");
    assert_boots(h, "snapshots/first/snapshot.json", true);
    assert_boots(h, "instances/template/instance.json", false);
    harness_put(harness_path(h, "snapshots/first/forks/new/commit"), "f1");
    assert_boots(h, "instances/f1/instance.json", false);
    assert_goes_on(h, "f1");
    harness_put(harness_path(h, "instances/f1/snapshot"), "second");
    assert_boots(h, "snapshots/second/snapshot.json", false);
}

/* By a daemon that finds the VM running; and the fork is saved at once, too. */
static void fork_when_saved_in_its_firmware_boots_later(void **state)
{
    struct harness *h = *state;
    boot(h, "q35");
    assert_int_equal(harness_unmount(h), 0);
    harness_mount(h, NULL);
    harness_put(harness_path(h, "instances/template/snapshot"), "first");
    harness_put(harness_path(h, "snapshots/first/forks/new/options"),
                "{\"target_state\":\"standby\"}");
    harness_put(harness_path(h, "snapshots/first/forks/new/commit"), "f1");
    assert_boots(h, "instances/f1/instance.json", true);
    assert_int_equal(vm_change(h, "f1", "running"), 0);
    assert_int_equal(vm_change(h, "f1", "standby"), 0);
    assert_int_equal(vm_change(h, "f1", "running"), 0);
    assert_goes_on(h, "f1");
}

static void load_when_the_kernel_is_gone_is_eio_and_names_it(void **state)
{
    struct harness *h = *state;
    boot(h, "microvm");
    assert_int_equal(vm_change(h, "template", "standby"), 0);
    char *record = harness_store_path(h, "instances/template/instance.json");
    assert_int_equal(harness_unmount(h), 0);
    assert_int_equal(
        harness_run(h,
                    (const char *const[]){"sed", "-i",
                                          "s|\"kernel\": *\"/[^\"]*\"|\"kernel\": \"/no-kernel\"|",
                                          record, NULL})
            .status,
        0);
    harness_mount(h, NULL);
    assert_int_equal(vm_change(h, "template", "running"), EIO);
    char *error = harness_get(h, harness_path(h, "instances/template/error"));
    assert_non_null(strstr(error, "/no-kernel"));
    assert_string_equal(harness_get(h, harness_path(h, "instances/template/state")), "standby\n");
    harness_put(harness_path(h, "instances/template/snapshot"), "first");
    assert_int_equal(harness_write(harness_path(h, "snapshots/first/forks/new/commit"), "f1"), EIO);
    error = harness_get(h, harness_path(h, "snapshots/first/forks/new/error"));
    assert_non_null(strstr(error, "/no-kernel"));
}

static void fork_running(struct harness *h, const char *source, const char *id)
{
    harness_put(harness_path(h, "instances/%s/forks/new/options", source),
                "{\"from_running\":true}");
    if (harness_write(harness_path(h, "instances/%s/forks/new/commit", source), id) != 0)
        fail_msg("%s", harness_get(h, harness_path(h, "instances/%s/forks/new/error", source)));
    assert_string_equal(harness_get(h, harness_path(h, "instances/%s/state", id)), "running\n");
}

static void from_running_when_the_firmware_runs_has_forks_that_boot(void **state)
{
    struct harness *h = *state;
    boot(h, "microvm");
    fork_running(h, "template", "f1");
    await_ready(h, "f1");
}

/* The machine that is described before the copy differs from that of the copy by what it boots
 * from. */
static void from_running_of_a_fork_that_was_saved_in_its_firmware_succeeds(void **state)
{
    struct harness *h = *state;
    boot(h, "microvm");
    harness_put(harness_path(h, "instances/template/snapshot"), "first");
    harness_put(harness_path(h, "snapshots/first/forks/new/commit"), "f1");
    await_ready(h, "f1");
    fork_running(h, "f1", "g1");
    fork_running(h, "f1", "g2");
    fork_running(h, "g1", "g3");
}

#define test(name) cmocka_unit_test_setup_teardown(name, harness_setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(standby_when_the_firmware_runs_becomes_a_vm_that_boots),
        test(snapshot_when_the_firmware_runs_has_forks_that_boot),
        test(fork_when_saved_in_its_firmware_boots_later),
        test(from_running_when_the_firmware_runs_has_forks_that_boot),
        test(from_running_of_a_fork_that_was_saved_in_its_firmware_succeeds),
        test(load_when_the_kernel_is_gone_is_eio_and_names_it),
    };
    vm_enter();
    return cmocka_run_group_tests_name("early", tests, NULL, NULL);
}
