/* SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "fork/demand.h"
#include "test.h"

enum { SLOT_MS = 10000 };
static const double begun_ms = 1234567 * (double)SLOT_MS;

static void add(struct demand *demand, unsigned count, double now_ms)
{
    for (unsigned i = 0; i < count; i++)
        demand_add(demand, now_ms);
}

static void demand_when_nothing_was_taken_is_none(void **state)
{
    struct demand demand = {0};
    (void)state;
    assert_int_equal(demand_most(&demand, 0), 0);
    assert_int_equal(demand_most(&demand, begun_ms), 0);
}

static void demand_is_what_was_taken_in_one_slot(void **state)
{
    struct demand demand = {0};
    (void)state;
    add(&demand, 3, begun_ms);
    add(&demand, 2, begun_ms + SLOT_MS - 1);
    assert_int_equal(demand_most(&demand, begun_ms + SLOT_MS - 1), 5);
    add(&demand, 4, begun_ms + SLOT_MS);
    assert_int_equal(demand_most(&demand, begun_ms + SLOT_MS), 5);
    add(&demand, 2, begun_ms + SLOT_MS);
    assert_int_equal(demand_most(&demand, begun_ms + SLOT_MS), 6);
}

/* The last of them ends 300 s after the slot began. */
static void demand_is_forgotten_after_as_many_slots(void **state)
{
    struct demand demand = {0};
    const double end_ms = begun_ms + DEMAND_SLOTS * (double)SLOT_MS;
    (void)state;
    add(&demand, 3, begun_ms);
    add(&demand, 2, begun_ms + SLOT_MS);
    assert_int_equal(demand_most(&demand, end_ms - 1), 3);
    assert_int_equal(demand_most(&demand, end_ms), 2);
    assert_int_equal(demand_most(&demand, end_ms + SLOT_MS), 0);
}

static void demand_when_nobody_looks_for_long_is_none(void **state)
{
    struct demand demand = {0};
    (void)state;
    add(&demand, 3, begun_ms);
    assert_int_equal(demand_most(&demand, begun_ms * 2), 0);
    demand_add(&demand, begun_ms * 2);
    assert_int_equal(demand_most(&demand, begun_ms * 2), 1);
}

static void demand_that_is_very_high_stays_so(void **state)
{
    struct demand demand = {0};
    (void)state;
    add(&demand, UINT16_MAX + 10, begun_ms);
    assert_int_equal(demand_most(&demand, begun_ms), UINT16_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(demand_when_nothing_was_taken_is_none),
        cmocka_unit_test(demand_is_what_was_taken_in_one_slot),
        cmocka_unit_test(demand_is_forgotten_after_as_many_slots),
        cmocka_unit_test(demand_when_nobody_looks_for_long_is_none),
        cmocka_unit_test(demand_that_is_very_high_stays_so),
    };
    unsetenv("HYPEFS_TEST_TIMING");
    return cmocka_run_group_tests_name("demand", tests, NULL, NULL);
}
