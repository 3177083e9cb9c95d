/* SPDX-License-Identifier: MIT */
/* The example guest as it is: its init, the agent, and the hook that takes a name. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "vm/vm.h"

static const char box[] = "kernel.identity.v1";

static int make_template(void **state)
{
    return vm_make_template(state, "microvm", "hypefs.clock");
}

static char *acked(struct harness *h, const char *name, const char *ack)
{
    return harness_format(h,
                          "{\"payload\":{\"instance_name\":\"%s\"},\"wait_for_ack\":true,"
                          "\"ack\":\"%s\"," VM_PATIENT "}",
                          name, ack);
}

static char *named(struct harness *h, const char *name)
{
    return acked(h, name, "memory");
}

static void fork_when_its_hook_takes_the_name_is_acked(void **state)
{
    struct harness *h = *state;
    static const char *const names[] = {"web-1", "web-2"};
    for (size_t i = 0; i < 2; i++) {
        char *result = vm_fork(h, names[i], box, acked(h, names[i], i ? "keyed" : "memory"));
        assert_string_equal(harness_json(h, result, "mailboxes.0.ack_text"),
                            i ? "stage=applied mailbox=kernel.identity.v1" : "null");
        /* What the agent says of it is there when the commit returns. */
        char *console = i ? harness_await(h, vm_console(h, names[i]), "hypefs-guest: applied")
                          : harness_get(h, vm_console(h, names[i]));
        assert_non_null(strstr(console, "hypefs-guest: applied"));
        assert_non_null(
            strstr(console, harness_format(h, "hook: this clone is now %s\r\n", names[i])));
        assert_null(strstr(console, names[1 - i]));
        assert_string_equal(harness_json(h, result, "mailboxes.0.reply.output"),
                            harness_format(h, "hook: this clone is now %s\n", names[i]));
    }
    vm_assert_running(h, (const char *const[]){"web-1", "web-2", NULL});
}

/* The agent has taken seed and time, or it would have refused. */
static void fork_with_identity_takes_it_before_the_hook(void **state)
{
    struct harness *h = *state;
    harness_put(vm_draft(h, "new", "options"), "{\"identity\":true}");
    vm_fork(h, "web-1", box, named(h, "web-1"));
    harness_await(h, vm_console(h, "web-1"), "hypefs-guest: applied");
    /* One that is not as the host writes it. */
    vm_write_frames(h, "web-1", box, "{\"instance_name\":\"web-2\",\"fork\":{\"id\":\"web-2\"}}");
    harness_await(h, vm_console(h, "web-1"),
                  "hypefs-guest: failed kernel.identity.v1: cannot apply");
}

static void fork_when_it_took_a_name_takes_another(void **state)
{
    struct harness *h = *state;
    vm_fork(h, "web-1", box, named(h, "web-1"));
    harness_await(h, vm_console(h, "web-1"), "hypefs-guest: applied");
    vm_write_frames(h, "web-1", box, "{\"instance_name\":\"web-9\"}");
    harness_await(h, vm_console(h, "web-1"), "hook: this clone is now web-9");
}

static void commit_when_the_hook_refuses_fails_with_its_last_line(void **state)
{
    struct harness *h = *state;
    vm_stage(h, "new", box, named(h, "Not A Name"));
    char *result =
        vm_commit_fails(h, "new", "web-1", EREMOTEIO,
                        (const char *const[]){box, "the payload has no good instance_name",
                                              "(hook exit status 1)", NULL});
    assert_string_equal(harness_json(h, result, "error.phase"), "ack");
    vm_assert_running(h, (const char *const[]){NULL});
    vm_fork(h, "web-1", box, named(h, "web-1"));
    vm_assert_running(h, (const char *const[]){"web-1", NULL});
}

/* Its clock stood still; the VM's real-time clock did not. */
static void fork_that_was_paused_sets_its_clock(void **state)
{
    enum { PAUSE_S = 4 };
    struct harness *h = *state;
    struct timespec until;
    harness_put(vm_draft(h, "new", "options"), "{\"identity\":true}");
    vm_fork(h, "web-1", box, named(h, "web-1"));
    assert_null(strstr(harness_get(h, vm_console(h, "web-1")), "the clock was"));
    assert_int_equal(vm_change(h, "web-1", "paused"), 0);
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += PAUSE_S;
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until,
                    NULL); /* what is tested is that it is */
    assert_int_equal(vm_change(h, "web-1", "running"), 0);
    harness_await(h, vm_console(h, "web-1"), " ms late, and is set");
}

#define test(name) cmocka_unit_test_setup_teardown(name, vm_setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(fork_when_its_hook_takes_the_name_is_acked),
        test(fork_with_identity_takes_it_before_the_hook),
        test(fork_that_was_paused_sets_its_clock),
        test(fork_when_it_took_a_name_takes_another),
        test(commit_when_the_hook_refuses_fails_with_its_last_line),
    };
    vm_enter_with_agent();
    return cmocka_run_group_tests_name("agent", tests, make_template, harness_teardown);
}
