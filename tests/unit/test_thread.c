/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "store_fixture.h"
#include "util/thread.h"

/* What the next pthread_create() fails with, and how it was called last; see the build file. */
static int failure, detach_state;

typedef void *thread_function(void *argument);
int __real_pthread_create(pthread_t *ret, const pthread_attr_t *attributes, thread_function *run,
                          void *argument);
int __wrap_pthread_create(pthread_t *ret, const pthread_attr_t *attributes, thread_function *run,
                          void *argument);

int __wrap_pthread_create(pthread_t *ret, const pthread_attr_t *attributes, thread_function *run,
                          void *argument)
{
    assert_int_equal(pthread_attr_getdetachstate(attributes, &detach_state), 0);
    return failure ? failure : __real_pthread_create(ret, attributes, run, argument);
}

static void *post(void *gate)
{
    gate_post(gate);
    return NULL;
}

static void detach_runs_the_function_in_a_thread_that_nobody_has_to_join(void **state)
{
    static struct gate gate; /* the thread may still be in it when the test has ended */
    (void)state;
    gate_init(&gate);
    assert_int_equal(thread_detach(post, &gate, NULL), 0);
    assert_true(gate_wait(&gate, FIXTURE_FAR_MS));
    assert_int_equal(detach_state, PTHREAD_CREATE_DETACHED);
}

static void detach_when_there_can_be_no_thread_says_so(void **state)
{
    struct error err = {0};
    (void)state;
    failure = EAGAIN;
    int r = thread_detach(post, NULL, &err);
    failure = 0;
    assert_int_equal(r, -EAGAIN);
    assert_int_equal(err.code, EAGAIN);
    assert_non_null(strstr(err.text, "cannot start a thread"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(detach_runs_the_function_in_a_thread_that_nobody_has_to_join),
        cmocka_unit_test(detach_when_there_can_be_no_thread_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
