/* SPDX-License-Identifier: MIT */
/* All transitions, of a VM that was booted and of a fork: what the guest has in memory goes on. The
 * guest counts on its console, so that nothing of it can be lost, or done twice, unseen. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "vm/vm.h"

static const char box[] = "first.v1";
static const char parameters[] = "hypefs.mailboxes=first.v1 hypefs.ticks";

static int make_template(void **state)
{
    return vm_make_template(state, "microvm", parameters);
}

static char *in(struct harness *h, const char *id, const char *file)
{
    return harness_path(h, "instances/%s/%s", id, file);
}

static void change(struct harness *h, const char *id, const char *word)
{
    int code = vm_change(h, id, word);
    if (code != 0)
        fail_msg("%s to %s: %s: %s", id, word, strerrorname_np(code),
                 harness_get(h, in(h, id, "error")));
    assert_string_equal(harness_get(h, in(h, id, "state")), harness_format(h, "%s\n", word));
    assert_string_equal(harness_get(h, in(h, id, "error")), "");
}

/* The guest has counted without a gap since its console began, and booted once at most. */
static void assert_counted(struct harness *h, const char *id)
{
    static const char words[] = "vm_guest: tick ";
    unsigned last = 0;
    const char *console = harness_get(h, vm_console(h, id));
    const char *ready = strstr(console, "vm_guest: ready");
    assert_null(ready ? strstr(ready + 1, "vm_guest: ready") : NULL);
    for (const char *at = console; (at = strstr(at, words)) && strchr(at, '\n');) {
        unsigned tick = (unsigned)strtoul(at += strlen(words), NULL, 10);
        if (last != 0)
            assert_int_equal(tick, last + 1);
        last = tick;
    }
}

static void goes_on(struct harness *h, const char *id)
{
    vm_await_tick_after(h, id, vm_last_tick(h, id));
    assert_counted(h, id);
}

/* Its VM stands still while something else is done. */
static void assert_still(struct harness *h, const char *id, const char *console)
{
    assert_string_equal(harness_get(h, vm_console(h, id)), console);
}

static char *wait_paused(struct harness *h, const char *id)
{
    char *console = harness_get(h, vm_console(h, id));
    struct stat st;
    assert_int_equal(stat(in(h, id, "info"), &st), 0);
    return console;
}

static void walk_pauses(struct harness *h, const char *id)
{
    int pid = vm_pid(h, id);
    goes_on(h, id);
    change(h, id, "paused");
    char *console = wait_paused(h, id);
    assert_int_equal(vm_change(h, id, "paused"), 0);
    assert_string_equal(vm_info(h, id, "state"), "paused");
    assert_int_equal(rmdir(in(h, id, "")), -1);
    assert_int_equal(errno, EBUSY);
    assert_int_equal(access(in(h, id, "mailboxes/first.v1"), F_OK), 0);
    assert_still(h, id, console);
    change(h, id, "running");
    goes_on(h, id);
    assert_int_equal(vm_pid(h, id), pid);
}

static void walk_standby(struct harness *h, const char *id)
{
    int pid = vm_pid(h, id);
    auto_close int pidfd = pidfd_open(pid, 0);
    change(h, id, "standby");
    vm_await_end(pidfd);
    assert_string_equal(vm_info(h, id, "pid"), "null");
    assert_string_equal(vm_info(h, id, "exit"), "null");
    assert_int_equal(access(in(h, id, "mailboxes/first.v1"), F_OK), 0);
    assert_int_equal(access(harness_store_path(h, "instances/%s/base", id), F_OK), -1);
    assert_int_equal(vm_change(h, id, "standby"), 0);
    assert_int_equal(vm_change(h, id, "paused"), EINVAL);
    change(h, id, "running");
    assert_int_not_equal(vm_pid(h, id), pid);
    assert_int_equal(access(in(h, id, "mailboxes/first.v1"), F_OK), 0);
    goes_on(h, id);
}

static void walk(struct harness *h, const char *id)
{
    walk_pauses(h, id);
    walk_standby(h, id);
    walk_pauses(h, id);
    for (int i = 0; i < 2; i++) { /* saved while paused, again and again */
        change(h, id, "paused");
        walk_standby(h, id);
    }
}

/* From each state, with what is left then. */
static void walk_stops(struct harness *h, const char *id)
{
    change(h, id, "paused");
    auto_close int pidfd = pidfd_open(vm_pid(h, id), 0);
    change(h, id, "stopped");
    vm_await_end(pidfd);
    assert_string_equal(vm_info(h, id, "pid"), "null");
    assert_string_not_equal(vm_info(h, id, "exit"), "null");
    assert_int_equal(system(harness_format(h, "cd '%s' && ! ls | grep -E '^(memory|state|base)$'",
                                           harness_store_path(h, "instances/%s", id))),
                     0);
}

static void template_goes_through_all_states(void **state)
{
    struct harness *h = *state;
    vm_boot(h, "microvm", parameters);
    walk(h, "template");
    change(h, "template", "standby");
    change(h, "template", "stopped");
    assert_int_equal(access(in(h, "template", "mailboxes"), F_OK), -1);
    change(h, "template", "running");
    walk_stops(h, "template");
    change(h, "template", "running");
    change(h, "template", "stopped");
    assert_int_equal(rmdir(in(h, "template", "")), 0);
}

static void fork_goes_through_all_states(void **state)
{
    struct harness *h = *state;
    char *before = vm_checksum(h);
    vm_fork(h, "web-1", box, VM_REQUEST("ack", ""));
    harness_await(h, vm_console(h, "web-1"), "is armed again");
    walk(h, "web-1");
    vm_write_frames(h, "web-1", box, "{\"n\":2}");
    vm_await_payload(h, "web-1", box, "{\"n\":2}");
    assert_string_equal(vm_checksum(h), before);
    walk_stops(h, "web-1");
    assert_int_equal(vm_change(h, "web-1", "running"), EOPNOTSUPP);
    assert_int_equal(rmdir(in(h, "web-1", "")), 0);
    vm_assert_running(h, (const char *const[]){NULL});
}

/* Another program has let it go on: what is saved must be of one moment. */
static void paused_vm_that_runs_is_paused_before_it_is_saved(void **state)
{
    struct harness *h = *state;
    vm_needs_qemu(); /* it is asked past hypefs */
    vm_boot(h, "microvm", parameters);
    change(h, "template", "paused");
    cJSON_Delete(vm_ask(h, "template", "cont"));
    assert_true(vm_is_running(h, "template"));
    harness_put(in(h, "template", "snapshot"), "s");
    assert_false(vm_is_running(h, "template"));
    change(h, "template", "running");
    goes_on(h, "template");
    change(h, "template", "stopped");
}

static void fork_in_standby_when_stopped_drops_its_memory_alone(void **state)
{
    struct harness *h = *state;
    vm_commit(h, "new", "web-1");
    change(h, "web-1", "standby");
    harness_put(in(h, "web-1", "snapshot"), "kept");
    change(h, "web-1", "stopped");
    assert_int_equal(access(harness_store_path(h, "instances/web-1/run/memory"), F_OK), -1);
    assert_int_equal(access(harness_store_path(h, "snapshots/kept/memory"), F_OK), 0);
    assert_int_equal(rmdir(in(h, "web-1", "")), 0);
    assert_int_equal(access(vm_draft(h, "web-1", "status"), F_OK), -1);
}

static void fork_that_is_paused_when_its_vmm_is_killed_is_stopped(void **state)
{
    struct harness *h = *state;
    vm_commit(h, "new", "web-1");
    change(h, "web-1", "paused");
    assert_int_equal(kill(vm_pid(h, "web-1"), SIGKILL), 0);
    harness_await(h, in(h, "web-1", "state"), "stopped");
    assert_string_equal(vm_info(h, "web-1", "exit.signal"), "SIGKILL");
    assert_int_equal(vm_change(h, "web-1", "paused"), EINVAL);
}

/* Another daemon knows what the VMM maps, and that it is paused. */
static void states_when_the_daemon_starts_again_are_as_they_were(void **state)
{
    struct harness *h = *state;
    vm_commit(h, "new", "run");
    vm_commit(h, "new", "rest");
    change(h, "rest", "standby");
    change(h, "rest", "running");
    change(h, "rest", "paused");
    int pid = vm_pid(h, "run"), resting = vm_pid(h, "rest");
    char *console = wait_paused(h, "rest");
    assert_int_equal(harness_unmount(h), 0);
    harness_mount(h, NULL);
    assert_int_equal(vm_pid(h, "run"), pid);
    assert_int_equal(vm_pid(h, "rest"), resting);
    assert_string_equal(harness_get(h, in(h, "rest", "state")), "paused\n");
    goes_on(h, "run");
    assert_still(h, "rest", console);
    harness_put(in(h, "rest", "snapshot"), "s");
    vm_assert_image(h, "rest", harness_store_path(h, "snapshots/s/memory"));
    walk_standby(h, "run");
    walk_standby(h, "rest");
    change(h, "run", "standby");
    assert_int_equal(harness_unmount(h), 0);
    harness_mount(h, NULL);
    change(h, "run", "running");
    goes_on(h, "run");
}

/* Of one that is asked for, waits for it, and is woken. */
static void poll_when_the_state_changes_is_woken_by_each(void **state)
{
    static const char *const words[] = {"paused", "running", "standby", "running", "stopped"};
    struct harness *h = *state;
    char text[16];
    vm_commit(h, "new", "web-1");
    auto_close int fd = open(in(h, "web-1", "state"), O_RDONLY | O_CLOEXEC);
    struct pollfd look = {.fd = fd, .events = POLLPRI};
    assert_true(pread(fd, text, sizeof text, 0) > 0);
    for (size_t i = 0; i < array_length(words); i++) {
        assert_int_equal(poll(&look, 1, 0), 0);
        change(h, "web-1", words[i]);
        assert_int_equal(poll(&look, 1, HARNESS_DEADLINE_MS), 1);
        ssize_t size = pread(fd, text, sizeof text - 1, 0);
        assert_true(size > 0);
        text[size - 1] = 0;
        assert_string_equal(text, words[i]);
    }
}

#define test(name) cmocka_unit_test_setup_teardown(name, vm_setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(template_goes_through_all_states),
        test(fork_goes_through_all_states),
        test(paused_vm_that_runs_is_paused_before_it_is_saved),
        test(fork_in_standby_when_stopped_drops_its_memory_alone),
        test(fork_that_is_paused_when_its_vmm_is_killed_is_stopped),
        test(states_when_the_daemon_starts_again_are_as_they_were),
        test(poll_when_the_state_changes_is_woken_by_each),
    };
    vm_enter();
    return cmocka_run_group_tests_name("states", tests, make_template, harness_teardown);
}
