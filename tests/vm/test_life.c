/* SPDX-License-Identifier: MIT */
/* What becomes of forks after their commit. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "vm/vm.h"

static const char box[] = "first.v1";

static int make_template(void **state)
{
    return vm_make_template(state, "microvm", "hypefs.mailboxes=first.v1");
}

static void fork_when_it_took_its_payload_is_armed_again(void **state)
{
    struct harness *h = *state;
    struct vm_frame frames[VM_FRAMES_MAX];
    size_t armed = 0;
    vm_fork(h, "web-1", box, VM_REQUEST("ack", ""));
    harness_await(h, vm_console(h, "web-1"), "vm_guest: first.v1 is armed again");
    size_t count = vm_read_frames(h, "web-1", box, frames);
    for (size_t i = 0; i < count; i++)
        armed += frames[i].sequence == 0 && frames[i].length == FRAME_DECLARED && frames[i].empty;
    assert_int_equal(armed, 1);
    vm_write_frames(h, "web-1", box, "{\"n\":2}");
    vm_await_payload(h, "web-1", box, "{\"n\":2}");
}

static void fork_when_stopped_has_no_process_and_nothing_to_boot_from(void **state)
{
    struct harness *h = *state;
    vm_fork(h, "web-1", box, VM_REQUEST("ack", ""));
    auto_close int pidfd = pidfd_open(vm_pid(h, "web-1"), 0);
    assert_int_equal(vm_change(h, "web-1", "stopped"), 0);
    vm_await_end(pidfd);
    assert_string_equal(harness_get(h, harness_path(h, "instances/web-1/state")), "stopped\n");
    assert_string_equal(vm_info(h, "web-1", "pid"), "null");
    assert_string_not_equal(vm_info(h, "web-1", "exit"), "null");
    assert_int_equal(vm_change(h, "web-1", "stopped"), 0);
    assert_int_equal(vm_change(h, "web-1", "running"), EOPNOTSUPP);
    assert_non_null(strstr(harness_get(h, harness_path(h, "instances/web-1/error")), "kernel"));
}

static void fork_when_its_guest_reboots_is_stopped(void **state)
{
    struct harness *h = *state;
    vm_fork(h, "web-1", box, "{\"do\":\"reboot\"}");
    harness_await(h, harness_path(h, "instances/web-1/state"), "stopped");
    /* Cloud Hypervisor finds no kernel to boot again with. */
    assert_string_equal(vm_info(h, "web-1", "exit.code"),
                        strcmp(vm_vmm(), "cloud-hypervisor") == 0 ? "1" : "0");
    assert_string_not_equal(vm_info(h, "web-1", "exit.at"), "(none)");
    assert_non_null(strstr(harness_get(h, vm_console(h, "web-1")), "payload={\"do\":\"reboot\"}"));
    assert_string_equal(harness_get(h, vm_draft(h, "web-1", "status")), "committed\n");
}

/* Waits until what was read through fd is no longer so, and reads it again. */
static char *reread(struct harness *h, int fd)
{
    struct pollfd look = {.fd = fd, .events = POLLPRI};
    char *text = harness_alloc(h, 4096);
    assert_int_equal(poll(&look, 1, HARNESS_DEADLINE_MS), 1);
    assert_true(look.revents & POLLPRI);
    assert_true(pread(fd, text, 4095, 0) > 0);
    return text;
}

static void poll_when_the_vmm_ends_wakes_state_and_info(void **state)
{
    struct harness *h = *state;
    vm_fork(h, "web-1", box, VM_REQUEST("ack", ""));
    auto_close int word = open(harness_path(h, "instances/web-1/state"), O_RDONLY | O_CLOEXEC);
    auto_close int info = open(harness_path(h, "instances/web-1/info"), O_RDONLY | O_CLOEXEC);
    assert_string_equal(reread(h, word), "running\n");
    assert_string_equal(harness_json(h, reread(h, info), "exit"), "null");
    struct pollfd quiet[] = {{.fd = word, .events = POLLPRI}, {.fd = info, .events = POLLPRI}};
    assert_int_equal(poll(quiet, 2, 0), 0);
    assert_int_equal(kill(vm_pid(h, "web-1"), SIGKILL), 0);
    assert_string_equal(reread(h, word), "stopped\n");
    char *text = reread(h, info);
    assert_string_equal(harness_json(h, text, "state"), "stopped");
    assert_string_equal(harness_json(h, text, "exit.signal"), "SIGKILL");
}

static void rmdir_when_something_is_in_use_is_refused(void **state)
{
    struct harness *h = *state;
    const char *snapshot = harness_path(h, "snapshots/base");
    const char *instance = harness_path(h, "instances/web-1");
    vm_fork(h, "web-1", box, VM_REQUEST("ack", ""));
    assert_int_equal(rmdir(snapshot), -1);
    assert_int_equal(errno, EBUSY);
    assert_int_equal(rmdir(instance), -1);
    assert_int_equal(errno, EBUSY);
    assert_non_null(strstr(harness_get(h, harness_path(h, "instances/web-1/error")), "stopped"));
    assert_int_equal(rmdir(harness_path(h, "snapshots/base/forks/web-1")), -1);
    assert_int_equal(errno, EBUSY);
    vm_assert_running(h, (const char *const[]){"web-1", NULL});

    assert_int_equal(vm_change(h, "web-1", "stopped"), 0);
    assert_int_equal(rmdir(instance), 0);
    assert_int_equal(access(vm_draft(h, "web-1", "status"), F_OK), -1);
    assert_int_equal(rmdir(snapshot), 0);
    assert_int_equal(access(harness_store_path(h, "snapshots/base"), F_OK), -1);
    vm_assert_running(h, (const char *const[]){NULL});
}

static void rmdir_when_the_fork_is_stopped_removes_the_snapshot_alone(void **state)
{
    struct harness *h = *state;
    vm_fork(h, "web-1", box, VM_REQUEST("ack", ""));
    assert_int_equal(vm_change(h, "web-1", "stopped"), 0);
    assert_int_equal(rmdir(harness_path(h, "snapshots/base")), 0);
    assert_string_equal(vm_info(h, "web-1", "source.snapshot"), "base");
    assert_string_equal(harness_get(h, harness_path(h, "instances/web-1/state")), "stopped\n");
    assert_int_equal(rmdir(harness_path(h, "instances/web-1")), 0);
}

static void ids_when_the_fork_is_removed_can_be_used_again(void **state)
{
    struct harness *h = *state;
    vm_fork(h, "web-1", box, "{\"n\":1}");
    vm_await_payload(h, "web-1", box, "{\"n\":1}");
    auto_close int old = open(vm_console(h, "web-1"), O_RDONLY | O_CLOEXEC);
    assert_int_equal(vm_change(h, "web-1", "stopped"), 0);
    assert_int_equal(rmdir(harness_path(h, "instances/web-1")), 0);
    vm_fork(h, "web-1", box, "{\"n\":2}");
    vm_await_payload(h, "web-1", box, "{\"n\":2}");
    char byte;
    assert_int_equal(pread(old, &byte, 1, 0), -1);
    assert_int_equal(errno, ENODEV);
}

#define test(name) cmocka_unit_test_setup_teardown(name, vm_setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(fork_when_it_took_its_payload_is_armed_again),
        test(fork_when_stopped_has_no_process_and_nothing_to_boot_from),
        test(fork_when_its_guest_reboots_is_stopped),
        test(poll_when_the_vmm_ends_wakes_state_and_info),
        test(rmdir_when_something_is_in_use_is_refused),
        test(rmdir_when_the_fork_is_stopped_removes_the_snapshot_alone),
        test(ids_when_the_fork_is_removed_can_be_used_again),
    };
    vm_enter();
    return cmocka_run_group_tests_name("life", tests, make_template, harness_teardown);
}
