/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tiny_guest.h"

static void commit_when_nothing_is_staged_makes_a_plain_fork(void **state)
{
    struct harness *h = *state;
    harness_mount(h, NULL);
    tiny_guest_snapshot(h, "base", (const char *const[]){"a", "b", NULL});
    struct harness_result result =
        harness_shell(h, "bash",
                      "ls snapshots/base/mailboxes; cat snapshots/base/info; echo f1 > "
                      "snapshots/base/forks/new/commit; cat snapshots/base/forks/f1/result; cat "
                      "instances/f1/console snapshots/base/forks/new/error");
    print_message("%s%s", result.out, result.err);
    assert_int_equal(harness_unmount(h), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(commit_when_nothing_is_staged_makes_a_plain_fork,
                                        harness_setup, harness_teardown),
    };
    harness_enter();
    return cmocka_run_group_tests_name("commit", tests, NULL, NULL);
}
