/* SPDX-License-Identifier: MIT */
#include "util/thread.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/* Is there no address space for the thread's stack? pthread_create() says EAGAIN then too. */
static bool lacks_memory(const pthread_attr_t *attributes)
{
    size_t size = 0, guard = 0;
    pthread_attr_getstacksize(attributes, &size);
    pthread_attr_getguardsize(attributes, &guard);
    void *stack = mmap(NULL, size + guard, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED)
        return errno == ENOMEM;
    munmap(stack, size + guard);
    return false;
}

static int start(int detach_state, void *(*run)(void *argument), void *argument, pthread_t *ret,
                 struct error *err)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, detach_state);
    int code = pthread_create(ret, &attributes, run, argument);
    if (code == EAGAIN && lacks_memory(&attributes))
        code = ENOMEM;
    pthread_attr_destroy(&attributes);
    return code == 0 ? 0 : error_errno(err, code, "cannot start a thread");
}

int thread_start(void *(*run)(void *argument), void *argument, pthread_t *ret, struct error *err)
{
    return start(PTHREAD_CREATE_JOINABLE, run, argument, ret, err);
}

int thread_detach(void *(*run)(void *argument), void *argument, struct error *err)
{
    pthread_t thread;
    return start(PTHREAD_CREATE_DETACHED, run, argument, &thread, err);
}

int thread_wait_until(pthread_cond_t *changed, pthread_mutex_t *lock, double deadline_ms)
{
    int64_t ns = (int64_t)(deadline_ms * 1e6);
    const struct timespec until = {.tv_sec = (time_t)(ns / 1000000000),
                                   .tv_nsec = (long)(ns % 1000000000)};
    return pthread_cond_clockwait(changed, lock, CLOCK_MONOTONIC, &until);
}

__attribute__((noinline)) void thread_wipe_stack(void)
{
    char bytes[16 * 1024];
    explicit_bzero(bytes, sizeof bytes);
}
