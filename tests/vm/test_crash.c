/* SPDX-License-Identifier: MIT */
/* Daemons that are killed in the middle (util/fault.h), and the real VMs that they leave. All
 * points are gone through with a test peer, in mount/test_crash.c. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "vm/vm.h"

static const char box[] = "first.v1";

static int make_template(void **state)
{
    return vm_make_template(state, "microvm", "hypefs.mailboxes=first.v1");
}

static char *plan_path(struct harness *h)
{
    return harness_format(h, "%s/plan", h->directory);
}

static void mount_it(struct harness *h)
{
    setenv("HYPEFS_FAULT", harness_format(h, "@%s", plan_path(h)), 1);
    harness_mount(h, NULL);
    unsetenv("HYPEFS_FAULT");
}

static int setup(void **state)
{
    if (vm_setup_unmounted(state) != 0)
        return -1;
    mount_it(*state);
    return 0;
}

static char *of_x(struct harness *h, const char *file)
{
    return harness_path(h, "instances/x/%s", file);
}

/* The daemon dies at the point, while `text` is written to the file, and the next one starts. */
static void die_at(struct harness *h, const char *point, const char *path, const char *text)
{
    harness_put(harness_format(h, "%s/new-plan", h->directory), point);
    assert_int_equal(rename(harness_format(h, "%s/new-plan", h->directory), plan_path(h)), 0);
    assert_int_not_equal(harness_write(path, text), 0);
    assert_int_equal(harness_await_end(h), 128 + SIGKILL);
    assert_int_equal(unlink(plan_path(h)), 0);
    mount_it(h);
}

static void assert_runs(struct harness *h, const char *id)
{
    assert_true(vm_is_running(h, id));
}

static bool is_there(struct harness *h, const char *path)
{
    return access(harness_path(h, "%s", path), F_OK) == 0;
}

static void remove_x(struct harness *h)
{
    assert_int_equal(vm_change(h, "x", "stopped"), 0);
    assert_int_equal(rmdir(of_x(h, "")), 0);
    vm_assert_running(h, (const char *const[]){NULL});
}

static void commit_when_the_daemon_dies_is_whole_or_nothing(void **state)
{
    static const char *const points[] = {"load:after", "patch:after", "resume:after",
                                         "publish:before-rename", "publish:after-rename"};
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(points); i++) {
        vm_stage(h, "new", box, VM_REQUEST("ack", ""));
        die_at(h, points[i], vm_draft(h, "new", "commit"), "x");
        assert_int_equal(is_there(h, "instances/x"), i == array_length(points) - 1);
        if (!is_there(h, "instances/x"))
            vm_fork(h, "x", box, VM_REQUEST("ack", ""));
        vm_assert_running(h, (const char *const[]){"x", NULL});
        assert_runs(h, "x");
        vm_write_frames(h, "x", box, "{\"n\":2}");
        vm_await_payload(h, "x", box, "{\"n\":2}");
        remove_x(h);
    }
}

static void snapshot_when_the_daemon_dies_lets_the_vm_go_on(void **state)
{
    static const char *const points[] = {"pause:after", "copy:before", "save:after",
                                         "publish:after-rename"};
    struct harness *h = *state;
    vm_fork(h, "x", box, VM_REQUEST("ack", ""));
    int pid = vm_pid(h, "x");
    for (size_t i = 0; i < array_length(points); i++) {
        die_at(h, points[i], of_x(h, "snapshot"), "s");
        vm_assert_running(h, (const char *const[]){"x", NULL});
        assert_int_equal(vm_pid(h, "x"), pid);
        assert_runs(h, "x");
        assert_int_equal(is_there(h, "snapshots/s"), i == array_length(points) - 1);
        if (!is_there(h, "snapshots/s"))
            harness_put(of_x(h, "snapshot"), "s");
        harness_put(harness_path(h, "snapshots/s/forks/new/mailboxes/%s", box),
                    VM_REQUEST("ack", ",\"n\":3"));
        harness_put(harness_path(h, "snapshots/s/forks/new/commit"), "y");
        assert_int_equal(vm_change(h, "y", "stopped"), 0);
        assert_int_equal(rmdir(harness_path(h, "instances/y")), 0);
        assert_int_equal(rmdir(harness_path(h, "snapshots/s")), 0);
    }
    vm_write_frames(h, "x", box, "{\"n\":4}");
    vm_await_payload(h, "x", box, "{\"n\":4}");
    remove_x(h);
}

static void standby_when_the_daemon_dies_is_one_or_runs(void **state)
{
    static const char *const points[] = {"save:after", "stop:before", "stop:after"};
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(points); i++) {
        vm_fork(h, "x", box, VM_REQUEST("ack", ""));
        die_at(h, points[i], of_x(h, "state"), "standby");
        const char *wanted = i == 0 ? "running\n" : "standby\n";
        assert_string_equal(harness_get(h, of_x(h, "state")), wanted);
        assert_int_equal(vm_change(h, "x", "running"), 0);
        assert_runs(h, "x");
        remove_x(h);
    }
}

static void restore_when_the_daemon_dies_is_done_or_not_begun(void **state)
{
    static const char *const points[] = {"load:after", "json:before-rename", "resume:before",
                                         "resume:after"};
    struct harness *h = *state;
    vm_fork(h, "x", box, VM_REQUEST("ack", ""));
    for (size_t i = 0; i < array_length(points); i++) {
        assert_int_equal(vm_change(h, "x", "standby"), 0);
        die_at(h, points[i], of_x(h, "state"), "running");
        const char *wanted = i < 2 ? "standby\n" : "running\n";
        assert_string_equal(harness_get(h, of_x(h, "state")), wanted);
        assert_int_equal(vm_change(h, "x", "running"), 0);
        vm_assert_running(h, (const char *const[]){"x", NULL});
        assert_runs(h, "x");
    }
    remove_x(h);
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(commit_when_the_daemon_dies_is_whole_or_nothing),
        test(snapshot_when_the_daemon_dies_lets_the_vm_go_on),
        test(standby_when_the_daemon_dies_is_one_or_runs),
        test(restore_when_the_daemon_dies_is_done_or_not_begun),
    };
    vm_enter();
    return cmocka_run_group_tests_name("crash", tests, make_template, harness_teardown);
}
