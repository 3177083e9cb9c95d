/* SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "test.h"
#include "util/timing.h"

/* docs/architecture.md has them, and others pages some. */
static void timing_when_not_told_is_as_documented(void **state)
{
    (void)state;
    unsetenv("HYPEFS_TEST_TIMING");
    assert_int_equal(timing_ms(TIMING_STOP), 5000);
    assert_int_equal(timing_ms(TIMING_KILL), 30000);
    assert_int_equal(timing_ms(TIMING_RECOVER), 5000);
    assert_int_equal(timing_ms(TIMING_LOCK), 5000);
    assert_int_equal(timing_ms(TIMING_UNMOUNT), 2000);
    assert_int_equal(timing_ms(TIMING_SILENT), 10000);
    assert_int_equal(timing_ms(TIMING_NETWORK), 5000);
    assert_int_equal(timing_ms(TIMING_LOOK), 1000);
    assert_int_equal(timing_ms(TIMING_ERASE), 3000);
    assert_int_equal(timing_ms(TIMING_DEMAND), 10000);
}

static void timing_when_told_is_that_and_others_stay(void **state)
{
    (void)state;
    setenv("HYPEFS_TEST_TIMING", "stop:1,network:20,lockets:3,look", 1);
    assert_int_equal(timing_ms(TIMING_STOP), 1);
    assert_int_equal(timing_ms(TIMING_NETWORK), 20);
    assert_int_equal(timing_ms(TIMING_LOCK), 5000);
    assert_int_equal(timing_ms(TIMING_LOOK), 1000);
    assert_int_equal(timing_ms(TIMING_KILL), 30000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timing_when_not_told_is_as_documented),
        cmocka_unit_test(timing_when_told_is_that_and_others_stay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
