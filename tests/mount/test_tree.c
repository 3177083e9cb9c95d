/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "harness/harness.h"

static void mount_when_store_is_new_serves_the_tree(void **state)
{
    struct harness *h = *state;
    harness_mount(h, NULL);
    struct harness_result result = harness_shell(h, "bash", "ls; id -u; stat -c %U .");
    assert_string_equal(result.err, "");
    print_message("%s", result.out);
    assert_int_equal(harness_unmount(h), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(mount_when_store_is_new_serves_the_tree, harness_setup,
                                        harness_teardown),
    };
    harness_enter();
    return cmocka_run_group_tests_name("tree", tests, NULL, NULL);
}
