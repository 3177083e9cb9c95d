/* SPDX-License-Identifier: MIT */
/* Forks of VMs that were loaded ahead, with real guests and a disk. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vm/vm.h"

enum { FORKS = 2 };

static const char box[] = "first.v1";

static int make_template(void **state)
{
    return vm_make_template(state, "microvm", "hypefs.mailboxes=first.v1");
}

static void make_ready(struct harness *h, int count)
{
    harness_put(harness_path(h, "snapshots/base/warm"), harness_format(h, "%d", count));
    harness_await(h, harness_path(h, "snapshots/base/info"),
                  harness_format(h, "\"ready\": %d", count));
}

static void forks_of_ready_vms_have_payloads_of_their_own(void **state)
{
    struct harness *h = *state;
    char *before = vm_checksum(h);
    make_ready(h, FORKS);
    for (int i = 1; i <= FORKS; i++) {
        const char *id = harness_format(h, "web-%d", i);
        char *result = vm_fork(
            h, id, box,
            harness_format(h, "{\"payload\":{\"do\":\"ack\",\"n\":%d},\"wait_for_ack\":true,%s}", i,
                           VM_PATIENT));
        assert_string_equal(harness_json(h, result, "warm"), "true");
        assert_string_equal(harness_json(h, result, "mailboxes.0.acked"), "true");
    }
    for (int i = 1; i <= FORKS; i++)
        harness_await(h, vm_console(h, harness_format(h, "web-%d", i)),
                      harness_format(h, "payload={\"do\":\"ack\",\"n\":%d}", i));
    harness_put(harness_path(h, "snapshots/base/warm"), "0");
    vm_assert_running(h, (const char *const[]){"web-1", "web-2", NULL});
    assert_string_equal(vm_checksum(h), before);
}

static void fork_of_a_ready_vm_is_saved_and_comes_back(void **state)
{
    struct harness *h = *state;
    make_ready(h, 1);
    char *result = vm_fork(h, "x", box, VM_REQUEST("ack", ""));
    assert_string_equal(harness_json(h, result, "warm"), "true");
    harness_await(h, vm_console(h, "x"), "first.v1 is armed again");
    assert_int_equal(vm_change(h, "x", "standby"), 0);
    assert_int_equal(vm_change(h, "x", "running"), 0);
    harness_put(harness_path(h, "snapshots/base/warm"), "0");
    vm_assert_running(h, (const char *const[]){"x", NULL});
}

#define test(name) cmocka_unit_test_setup_teardown(name, vm_setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(forks_of_ready_vms_have_payloads_of_their_own),
        test(fork_of_a_ready_vm_is_saved_and_comes_back),
    };
    vm_enter();
    return cmocka_run_group_tests_name("warm", tests, make_template, harness_teardown);
}
