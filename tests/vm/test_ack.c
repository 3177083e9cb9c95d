/* SPDX-License-Identifier: MIT */
/* Guests that do not answer as they should: the commit fails, and nothing of the fork is left. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vm/vm.h"

static const char box[] = "first.v1", other[] = "second.v1";

static int make_template(void **state)
{
    return vm_make_template(state, "microvm", "hypefs.mailboxes=first.v1,second.v1,third.v1");
}

/* After a failure: no trace of the fork, and the draft as it was staged. */
static void assert_taken_back(struct harness *h, size_t sockets)
{
    vm_assert_running(h, (const char *const[]){NULL});
    assert_int_equal(vm_daemon_sockets(h), sockets);
    assert_int_equal(harness_read_errno(harness_path(h, "instances/web-1/info")), ENOENT);
    assert_int_equal(access(vm_draft(h, "web-1", "status"), F_OK), -1);
    assert_string_equal(harness_get(h, vm_draft(h, "new", "status")), "failed\n");
}

static void commit_when_guest_refuses_fails_with_its_reason(void **state)
{
    struct harness *h = *state;
    size_t sockets = vm_daemon_sockets(h);
    vm_stage(h, "new", box, VM_REQUEST_UDP("fail", ",\"secret\":\"s3cret\""));
    char *result = vm_commit_fails(h, "new", "web-1", EREMOTEIO,
                                   (const char *const[]){box, "told_to_fail", NULL});
    assert_string_equal(harness_json(h, result, "error.phase"), "ack");
    assert_string_equal(harness_json(h, result, "error.mailbox"), box);
    assert_string_equal(harness_json(h, result, "mailboxes.0.acked"), "false");
    assert_null(strstr(result, "s3cret"));
    assert_taken_back(h, sockets);
    /* The id is free. */
    vm_fork(h, "web-1", box, VM_REQUEST_UDP("ack", ""));
    assert_string_equal(harness_get(h, vm_draft(h, "new", "error")), "");
}

static void commit_when_guest_is_silent_times_out(void **state)
{
    struct harness *h = *state;
    size_t sockets = vm_daemon_sockets(h);
    vm_stage(h, "new", box,
             "{\"payload\":{\"do\":\"silent\"},\"wait_for_ack\":true,\"ack\":\"udp\",\"ack_timeout_"
             "ms\":300}");
    char *result =
        vm_commit_fails(h, "new", "web-1", ETIMEDOUT,
                        (const char *const[]){box, "300 ms", "; 0 other datagrams came", NULL});
    assert_string_equal(harness_json(h, result, "error.mailbox"), box);
    assert_string_equal(harness_json(h, result, "mailboxes.0.ack_text"), "null");
    assert_taken_back(h, sockets);
}

/* Two mailboxes, not both of which will ever be acked. Tried with twice the time, again and again,
 * until the guest was quick enough for `word` to be in the error. Returns the result. */
static char *time_out(struct harness *h, const char *deed, const char *other_deed, const char *word)
{
    enum { FIRST_MS = 500, LAST_MS = 30000 };
    for (int ms = FIRST_MS;; ms *= 2) {
        const char *const deeds[] = {deed, other_deed}, *const names[] = {box, other};
        ms = ms < LAST_MS ? ms : LAST_MS;
        for (size_t i = 0; i < 2; i++)
            vm_stage(
                h, "new", names[i],
                harness_format(h,
                               "{\"payload\":{\"do\":\"%s\"},\"wait_for_ack\":true,\"ack\":\"udp\","
                               "\"ack_timeout_ms\":%d}",
                               deeds[i], ms));
        bool last = ms == LAST_MS;
        char *result = vm_commit_fails(
            h, "new", "web-1", ETIMEDOUT,
            (const char *const[]){harness_format(h, "within %d ms", ms), last ? word : NULL, NULL});
        if (last || strstr(harness_get(h, vm_draft(h, "new", "error")), word))
            return result;
    }
}

static void commit_when_one_of_two_is_silent_times_out(void **state)
{
    struct harness *h = *state;
    char *result = time_out(h, "ack", "silent", other);
    assert_string_equal(harness_json(h, result, "error.mailbox"), other);
    assert_string_equal(harness_json(h, result, "mailboxes.0.acked"), "true");
    assert_string_equal(harness_json(h, result, "mailboxes.1.acked"), "false");
    vm_assert_running(h, (const char *const[]){NULL});
}

/* An ack of "first.v1x", and one that is text with an ack in it: neither is one. */
static void commit_when_datagrams_only_look_like_acks_times_out_and_counts_them(void **state)
{
    struct harness *h = *state;
    size_t sockets = vm_daemon_sockets(h);
    char *result = time_out(h, "longer-name", "free-text", "; 2 other datagrams came");
    assert_string_equal(harness_json(h, result, "mailboxes.0.acked"), "false");
    assert_string_equal(harness_json(h, result, "mailboxes.1.acked"), "false");
    assert_taken_back(h, sockets);
}

static void commit_when_failure_is_to_be_kept_leaves_the_instance_and_a_failed_record(void **state)
{
    struct harness *h = *state;
    size_t sockets = vm_daemon_sockets(h);
    harness_put(vm_draft(h, "new", "options"), "{\"on_ack_failure\":\"keep\"}");
    vm_stage(h, "new", box,
             "{\"payload\":{\"do\":\"silent\"},\"wait_for_ack\":true,\"ack\":\"udp\",\"ack_timeout_"
             "ms\":300}");
    assert_int_equal(harness_write(vm_draft(h, "new", "commit"), "kept"), ETIMEDOUT);
    vm_assert_running(h, (const char *const[]){"kept", NULL});
    assert_int_equal(vm_daemon_sockets(h), sockets);
    assert_string_equal(harness_get(h, vm_draft(h, "kept", "status")), "failed\n");
    char *result = harness_get(h, vm_draft(h, "kept", "result"));
    assert_string_equal(harness_json(h, result, "error.code"), "ETIMEDOUT");
    assert_string_equal(harness_json(h, result, "instance"), "kept");
    assert_non_null(strstr(harness_get(h, vm_draft(h, "kept", "error")), box));
    assert_string_equal(harness_get(h, vm_draft(h, "kept", "instance/state")), "running\n");
    assert_string_equal(harness_get(h, harness_path(h, "instances/kept/fork/status")), "failed\n");
    harness_await(h, vm_console(h, "kept"), "first.v1 is armed again");
    assert_int_equal(harness_write(vm_draft(h, "kept", "mailboxes/first.v1"), "{}"), EPERM);
    assert_int_equal(vm_change(h, "kept", "stopped"), 0);
    assert_int_equal(rmdir(harness_path(h, "instances/kept")), 0);
    assert_int_equal(access(vm_draft(h, "kept", "status"), F_OK), -1);
}

static void commit_when_guest_reboots_before_its_ack_fails(void **state)
{
    struct harness *h = *state;
    size_t sockets = vm_daemon_sockets(h);
    vm_stage(h, "new", box, VM_REQUEST_UDP("reboot", ""));
    char *result = vm_commit_fails(h, "new", "web-1", EIO,
                                   (const char *const[]){"before its guest acked", NULL});
    assert_string_equal(harness_json(h, result, "error.phase"), "ack");
    assert_taken_back(h, sockets);
}

#define test(name) cmocka_unit_test_setup_teardown(name, vm_setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(commit_when_guest_refuses_fails_with_its_reason),
        test(commit_when_guest_is_silent_times_out),
        test(commit_when_one_of_two_is_silent_times_out),
        test(commit_when_datagrams_only_look_like_acks_times_out_and_counts_them),
        test(commit_when_failure_is_to_be_kept_leaves_the_instance_and_a_failed_record),
        test(commit_when_guest_reboots_before_its_ack_fails),
    };
    vm_enter();
    return cmocka_run_group_tests_name("ack", tests, make_template, harness_teardown);
}
