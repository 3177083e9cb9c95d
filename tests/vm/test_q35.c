/* SPDX-License-Identifier: MIT */
/* Another machine, whose guest is less quiet: a child of the armed process writes memory. */
#include <string.h>

#include "vm/vm.h"

static int make_template(void **state)
{
    return vm_make_template(state, "q35", "hypefs.mailboxes=first.v1,second.v1 hypefs.child");
}

/* Were the frames shared with the child, there would be two of each. */
static void fork_when_its_process_had_forked_has_its_payload(void **state)
{
    struct harness *h = *state;
    for (int i = 0; i < 3; i++) {
        const char *id = harness_format(h, "web-%d", i);
        vm_stage(h, "new", "first.v1",
                 harness_format(h, VM_REQUEST("ack", ",\"name\":\"clone %d\""), i));
        vm_stage(h, "new", "second.v1", "{\"quiet\":true}");
        char *result = vm_commit(h, "new", id);
        assert_string_equal(harness_json(h, result, "mailboxes.0.acked"), "true");
        assert_string_equal(harness_json(h, result, "mailboxes.0.copies"), "1");
        assert_string_equal(harness_json(h, result, "mailboxes.1.copies"), "1");
        harness_await(h, vm_console(h, id), harness_format(h, "\"name\":\"clone %d\"}", i));
        vm_await_payload(h, id, "second.v1", "{\"quiet\":true}");
    }
    assert_string_equal(vm_info(h, "web-0", "config.machine"), "q35");
}

static void fork_when_its_guest_reboots_is_stopped(void **state)
{
    struct harness *h = *state;
    vm_fork(h, "web-1", "first.v1", "{\"do\":\"reboot\"}");
    harness_await(h, harness_path(h, "instances/web-1/state"), "stopped");
    assert_string_equal(vm_info(h, "web-1", "exit.code"), "0");
}

static void forks_when_they_ran_leave_the_image_as_it_was(void **state)
{
    struct harness *h = *state;
    char *before = vm_checksum(h);
    vm_fork(h, "one", "first.v1", VM_REQUEST("ack", ",\"n\":1"));
    harness_await(h, vm_console(h, "one"), "first.v1 is armed again");
    assert_string_equal(vm_checksum(h), before);
}

#define test(name) cmocka_unit_test_setup_teardown(name, vm_setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(fork_when_its_process_had_forked_has_its_payload),
        test(fork_when_its_guest_reboots_is_stopped),
        test(forks_when_they_ran_leave_the_image_as_it_was),
    };
    vm_enter();
    return cmocka_run_group_tests_name("q35", tests, make_template, harness_teardown);
}
