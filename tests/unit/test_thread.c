/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "world.h"
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

/* mmap() fails. */
static bool lacking;

void *__real_mmap64(void *at, size_t size, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *at, size_t size, int protection, int flags, int fd, off_t offset);

void *__wrap_mmap64(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    if (!lacking)
        return __real_mmap64(at, size, protection, flags, fd, offset);
    errno = ENOMEM;
    return MAP_FAILED;
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

/* pthread_create() says EAGAIN of that too. */
static void thread_when_its_stack_has_no_address_space_is_enomem(void **state)
{
    struct error err = {0};
    pthread_t thread;
    (void)state;
    failure = EAGAIN;
    lacking = true;
    int detached = thread_detach(post, NULL, NULL);
    int joined = thread_start(post, NULL, &thread, &err);
    lacking = false;
    failure = 0;
    assert_int_equal(detached, -ENOMEM);
    assert_int_equal(joined, -ENOMEM);
    assert_int_equal(detach_state, PTHREAD_CREATE_JOINABLE);
    assert_non_null(strstr(err.text, "RLIMIT_AS"));
    assert_null(strstr(err.text, "RLIMIT_NPROC"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(detach_runs_the_function_in_a_thread_that_nobody_has_to_join),
        cmocka_unit_test(detach_when_there_can_be_no_thread_says_so),
        cmocka_unit_test(thread_when_its_stack_has_no_address_space_is_enomem),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
