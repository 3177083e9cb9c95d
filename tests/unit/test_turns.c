/* SPDX-License-Identifier: MIT */
/* Turns to start or load a VMM: how many there are, in which order, and who gives up. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "gate.h"
#include "instance/turns.h"
#include "test.h"

enum { FAR_MS = 30000, CALLERS = 5 };

/* A thread that takes a turn and keeps it. */
struct caller {
    struct turns *turns;
    struct gate queued, answered;
    atomic_bool over;
    pthread_t thread;
    int result;
};

static bool is_over(void *context)
{
    return atomic_load(&((struct caller *)context)->over);
}

static void on_queued(void *context)
{
    gate_post(&((struct caller *)context)->queued);
}

static void *take(void *argument)
{
    struct caller *caller = argument;
    const struct turns_caller how = {.is_over = is_over, .queued = on_queued, .context = caller};
    caller->result = turns_acquire(caller->turns, &how);
    gate_post(&caller->answered);
    return NULL;
}

static struct turns *create(unsigned max)
{
    struct turns *turns = NULL;
    assert_int_equal(turns_create(max, &turns, NULL), 0);
    return turns;
}

/* It waits when this returns. */
static void start(struct turns *turns, struct caller *caller)
{
    *caller = (struct caller){.turns = turns};
    gate_init(&caller->queued);
    gate_init(&caller->answered);
    assert_int_equal(pthread_create(&caller->thread, NULL, take, caller), 0);
    assert_true(gate_wait(&caller->queued, FAR_MS));
}

static void finish(struct caller *caller, int result)
{
    assert_true(gate_wait(&caller->answered, FAR_MS));
    pthread_join(caller->thread, NULL);
    assert_int_equal(caller->result, result);
    gate_finish(&caller->queued);
    gate_finish(&caller->answered);
}

static void turns_when_all_are_taken_come_in_the_order_of_arrival(void **state)
{
    struct turns *turns = create(2);
    struct caller callers[CALLERS];
    (void)state;
    assert_true(turns_try(turns));
    assert_true(turns_try(turns));
    for (int i = 0; i < CALLERS; i++)
        start(turns, &callers[i]);
    for (int i = 0; i < CALLERS; i++) {
        turns_release(turns);
        finish(&callers[i], 0);
        for (int k = i + 1; k < CALLERS; k++)
            assert_false(gate_wait(&callers[k].answered, 0));
    }
    assert_false(turns_try(turns)); /* two have turns */
    turns_release(turns);
    assert_true(turns_try(turns));
    turns_release(turns);
    turns_release(turns);
    turns_destroy(turns);
}

static void caller_that_gives_up_leaves_its_place_to_the_next(void **state)
{
    struct turns *turns = create(1);
    struct caller callers[3];
    (void)state;
    assert_true(turns_try(turns));
    for (int i = 0; i < 3; i++)
        start(turns, &callers[i]);
    atomic_store(&callers[0].over, true);
    atomic_store(&callers[2].over, true);
    turns_wake(turns);
    finish(&callers[0], -ECANCELED);
    finish(&callers[2], -ECANCELED);
    assert_false(gate_wait(&callers[1].answered, 0));
    turns_release(turns);
    finish(&callers[1], 0);
    turns_release(turns);
    assert_true(turns_try(turns));
    turns_release(turns);
    turns_destroy(turns);
}

static void caller_that_is_not_wanted_any_more_does_not_wait(void **state)
{
    struct turns *turns = create(1);
    struct caller caller;
    (void)state;
    assert_true(turns_try(turns));
    caller = (struct caller){.turns = turns, .over = true};
    gate_init(&caller.queued);
    gate_init(&caller.answered);
    assert_int_equal(pthread_create(&caller.thread, NULL, take, &caller), 0);
    finish(&caller, -ECANCELED);
    turns_release(turns);
    turns_destroy(turns);
}

/* Who only tries must not get before those that wait. */
static void try_while_somebody_waits_gets_none(void **state)
{
    struct turns *turns = create(1);
    struct caller caller;
    (void)state;
    assert_true(turns_try(turns));
    start(turns, &caller);
    turns_release(turns);
    assert_false(turns_try(turns));
    finish(&caller, 0);
    turns_release(turns);
    assert_true(turns_try(turns));
    turns_release(turns);
    turns_destroy(turns);
}

static void no_loads_are_no_limit(void **state)
{
    const struct turns_caller caller = {0};
    (void)state;
    for (int i = 0; i < CALLERS; i++) {
        assert_int_equal(turns_acquire(NULL, &caller), 0);
        assert_true(turns_try(NULL));
    }
    turns_release(NULL);
    turns_wake(NULL);
    turns_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turns_when_all_are_taken_come_in_the_order_of_arrival),
        cmocka_unit_test(caller_that_gives_up_leaves_its_place_to_the_next),
        cmocka_unit_test(caller_that_is_not_wanted_any_more_does_not_wait),
        cmocka_unit_test(try_while_somebody_waits_gets_none),
        cmocka_unit_test(no_loads_are_no_limit),
    };
    return cmocka_run_group_tests_name("turns", tests, NULL, NULL);
}
