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
    uid_t user;
    const char *source;
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
    const struct turns_caller how = {.is_over = is_over,
                                     .queued = on_queued,
                                     .context = caller,
                                     .user = caller->user,
                                     .source = caller->source};
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
static void start_for(struct turns *turns, uid_t user, const char *source, struct caller *caller)
{
    *caller = (struct caller){.turns = turns, .user = user, .source = source};
    gate_init(&caller->queued);
    gate_init(&caller->answered);
    assert_int_equal(pthread_create(&caller->thread, NULL, take, caller), 0);
    assert_true(gate_wait(&caller->queued, FAR_MS));
}

static void start(struct turns *turns, struct caller *caller)
{
    start_for(turns, 0, NULL, caller);
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

/* Who comes, in this order, and who is served. */
static void assert_order(const char *const (*who)[2], const int *order, int count)
{
    struct turns *turns = create(1);
    struct caller callers[16];
    assert_true(turns_try(turns));
    for (int i = 0; i < count; i++)
        start_for(turns, (uid_t)(who[i][0][0] - '0'), who[i][1], &callers[i]);
    for (int i = 0; i < count; i++) {
        turns_release(turns);
        if (!gate_wait(&callers[order[i]].answered, FAR_MS))
            fail_msg("%d. is not %d", i, order[i]);
        gate_post(&callers[order[i]].answered);
        finish(&callers[order[i]], 0);
    }
    turns_release(turns);
    turns_destroy(turns);
}

static void users_are_served_one_after_the_other(void **state)
{
    static const char *const who[][2] = {{"1", "a"}, {"1", "a"}, {"1", "a"}, {"2", "a"},
                                         {"2", "b"}, {"3", "a"}, {"2", "a"}};
    static const int order[] = {0, 3, 5, 1, 4, 2, 6};
    (void)state;
    assert_order(who, order, 7);
}

static void sources_of_a_user_are_served_one_after_the_other(void **state)
{
    static const char *const who[][2] = {{"1", "a"}, {"1", "a"}, {"1", "a"}, {"1", "b"},
                                         {"1", "c"}, {"1", "b"}, {"1", NULL}};
    static const int order[] = {0, 3, 4, 6, 1, 5, 2};
    (void)state;
    assert_order(who, order, 7);
}

/* Else two users who always have a single one waiting would keep a third one's back for ever. */
static void user_who_comes_again_does_not_come_before_those_that_wait(void **state)
{
    struct turns *turns = create(1);
    struct caller patient[2], quick[2];
    (void)state;
    assert_true(turns_try(turns));
    start_for(turns, 1, "a", &patient[0]);
    start_for(turns, 1, "a", &patient[1]);
    start_for(turns, 2, "a", &quick[0]);
    turns_release(turns);
    finish(&patient[0], 0);
    turns_release(turns);
    finish(&quick[0], 0);
    start_for(turns, 2, "a", &quick[1]);
    turns_release(turns);
    finish(&patient[1], 0);
    turns_release(turns);
    finish(&quick[1], 0);
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

static void spare_turn_leaves_one_of_several(void **state)
{
    struct turns *one, *three;
    struct error err;
    (void)state;
    assert_int_equal(turns_create(1, &one, &err), 0);
    assert_true(turns_try_spare(one)); /* there is none to leave */
    assert_false(turns_try_spare(one));
    turns_release(one);
    turns_destroy(one);
    assert_int_equal(turns_create(3, &three, &err), 0);
    assert_true(turns_try_spare(three));
    assert_true(turns_try_spare(three));
    assert_false(turns_try_spare(three));
    assert_true(turns_try(three));
    for (int i = 0; i < 3; i++)
        turns_release(three);
    turns_destroy(three);
    assert_true(turns_try_spare(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turns_when_all_are_taken_come_in_the_order_of_arrival),
        cmocka_unit_test(users_are_served_one_after_the_other),
        cmocka_unit_test(sources_of_a_user_are_served_one_after_the_other),
        cmocka_unit_test(user_who_comes_again_does_not_come_before_those_that_wait),
        cmocka_unit_test(caller_that_gives_up_leaves_its_place_to_the_next),
        cmocka_unit_test(caller_that_is_not_wanted_any_more_does_not_wait),
        cmocka_unit_test(try_while_somebody_waits_gets_none),
        cmocka_unit_test(no_loads_are_no_limit),
        cmocka_unit_test(spare_turn_leaves_one_of_several),
    };
    return cmocka_run_group_tests_name("turns", tests, NULL, NULL);
}
