/* SPDX-License-Identifier: MIT */
/* VMs and the daemon: they outlive it, and the next one finds them again. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "vm/vm.h"

static const char box[] = "first.v1";

static int make_template(void **state)
{
    return vm_make_template(state, "microvm", "hypefs.mailboxes=first.v1");
}

/* A commit whose guest has its payload and says nothing. */
static struct vm_pending *start_silent(struct harness *h)
{
    vm_stage(h, "new", box, VM_REQUEST_UDP("silent", ""));
    struct vm_pending *pending = vm_start_commit(h, "new", "pending");
    vm_await_pending_payload(h, box, "{\"do\":\"silent\",\"ack_port\":");
    assert_string_equal(harness_get(h, vm_draft(h, "new", "status")), "committing\n");
    return pending;
}

/* The instance of an earlier daemon does all that one of this daemon does. */
static void assert_adopted(struct harness *h, const char *id, int pid)
{
    assert_int_equal(vm_pid(h, id), pid);
    assert_string_equal(harness_get(h, vm_draft(h, id, "status")), "committed\n");
    assert_string_equal(
        harness_json(h, harness_get(h, vm_draft(h, id, "result")), "mailboxes.0.acked"), "true");
    assert_non_null(strstr(harness_get(h, vm_console(h, id)), "payload="));
    assert_int_equal(rmdir(harness_path(h, "snapshots/base")), -1);
    assert_int_equal(errno, EBUSY);
    auto_close int pidfd = pidfd_open(pid, 0);
    assert_int_equal(vm_change(h, id, "stopped"), 0);
    vm_await_end(pidfd);
    assert_string_equal(harness_get(h, harness_path(h, "instances/%s/state", id)), "stopped\n");
    assert_int_equal(rmdir(harness_path(h, "instances/%s", id)), 0);
}

static void sigterm_when_a_commit_is_pending_answers_it_and_leaves_the_others(void **state)
{
    struct harness *h = *state;
    vm_fork(h, "web-1", box, VM_REQUEST("ack", ""));
    int pid = vm_pid(h, "web-1");
    struct vm_pending *pending = start_silent(h);
    assert_int_equal(harness_unmount(h), 0);
    assert_int_equal(vm_finish_commit(pending), ESHUTDOWN);
    assert_int_equal(kill(pid, 0), 0);

    harness_mount(h, NULL);
    vm_assert_running(h, (const char *const[]){"web-1", NULL});
    assert_string_equal(harness_get(h, vm_draft(h, "new", "status")), "empty\n");
    assert_adopted(h, "web-1", pid);
    vm_assert_running(h, (const char *const[]){NULL});
}

static void unmount_when_a_fork_runs_ends_the_daemon_alone(void **state)
{
    struct harness *h = *state;
    vm_fork(h, "web-1", box, VM_REQUEST("ack", ""));
    int pid = vm_pid(h, "web-1");
    struct harness_result result = harness_shell(h, "sh", "cd / && exec fusermount3 -u \"$M\"");
    assert_string_equal(result.err, "");
    assert_int_equal(result.status, 0);
    assert_int_equal(harness_await_end(h), 0);
    harness_mount(h, NULL);
    vm_assert_running(h, (const char *const[]){"web-1", NULL});
    assert_adopted(h, "web-1", pid);
}

static void kill_when_forks_run_lets_the_next_daemon_adopt_them(void **state)
{
    struct harness *h = *state;
    vm_fork(h, "one", box, VM_REQUEST("ack", ",\"n\":1"));
    vm_fork(h, "two", box, VM_REQUEST("ack", ",\"n\":2"));
    int one = vm_pid(h, "one"), two = vm_pid(h, "two");
    harness_kill(h);
    harness_mount(h, NULL);
    vm_assert_running(h, (const char *const[]){"one", "two", NULL});
    vm_fork(h, "three", box, VM_REQUEST("ack", ",\"n\":3"));
    assert_adopted(h, "one", one);
    vm_assert_running(h, (const char *const[]){"two", "three", NULL});

    /* The end of a VMM that is not its child is noticed, too. */
    auto_close int word = open(harness_path(h, "instances/two/state"), O_RDONLY | O_CLOEXEC);
    char text[16] = "";
    assert_int_equal(pread(word, text, sizeof text - 1, 0), strlen("running\n"));
    assert_int_equal(kill(two, SIGKILL), 0);
    struct pollfd look = {.fd = word, .events = POLLPRI};
    assert_int_equal(poll(&look, 1, HARNESS_DEADLINE_MS), 1);
    assert_int_equal(pread(word, text, sizeof text - 1, 0), strlen("stopped\n"));
    assert_memory_equal(text, "stopped\n", strlen("stopped\n"));
}

static void kill_when_a_commit_is_pending_leaves_nothing_of_it_to_the_next_daemon(void **state)
{
    struct harness *h = *state;
    vm_fork(h, "web-1", box, VM_REQUEST("ack", ""));
    struct vm_pending *pending = start_silent(h);
    harness_kill(h);
    assert_int_not_equal(vm_finish_commit(pending), 0);
    harness_mount(h, NULL);
    vm_assert_running(h, (const char *const[]){"web-1", NULL});
    vm_fork(h, "pending", box, VM_REQUEST("ack", ""));
}

static void fork_when_its_vmm_ends_between_daemons_is_stopped(void **state)
{
    struct harness *h = *state;
    vm_fork(h, "web-1", box, VM_REQUEST("ack", ""));
    int pid = vm_pid(h, "web-1");
    auto_close int pidfd = pidfd_open(pid, 0);
    assert_int_equal(harness_unmount(h), 0);
    assert_int_equal(kill(pid, SIGKILL), 0);
    vm_await_end(pidfd);
    harness_mount(h, NULL);
    assert_string_equal(harness_get(h, harness_path(h, "instances/web-1/state")), "stopped\n");
    assert_string_equal(vm_info(h, "web-1", "pid"), "null");
    assert_string_not_equal(vm_info(h, "web-1", "exit"), "null");
    assert_int_equal(rmdir(harness_path(h, "instances/web-1")), 0);
    vm_assert_running(h, (const char *const[]){NULL});
}

#define test(name) cmocka_unit_test_setup_teardown(name, vm_setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(sigterm_when_a_commit_is_pending_answers_it_and_leaves_the_others),
        test(unmount_when_a_fork_runs_ends_the_daemon_alone),
        test(kill_when_forks_run_lets_the_next_daemon_adopt_them),
        test(kill_when_a_commit_is_pending_leaves_nothing_of_it_to_the_next_daemon),
        test(fork_when_its_vmm_ends_between_daemons_is_stopped),
    };
    vm_enter();
    return cmocka_run_group_tests_name("daemon", tests, make_template, harness_teardown);
}
