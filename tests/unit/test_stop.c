/* SPDX-License-Identifier: MIT */
/* What a write of stopped ends is cancelled, whatever it says. */
#include "instance/internal.h"
#include "world.h"

static void leave(struct world *world, const char *state)
{
    auto_free char *json = NULL;
    assert_true(asprintf(&json, "\"state\":\"%s\",%s,\"config\":\"{}\"", state, world_machine) > 0);
    world_leave_instance(world, "web-1", json);
}

struct stop {
    struct instance *instance;
    int result;
};

static void *run_stop(void *argument)
{
    struct stop *stop = argument;
    stop->result = instance_change(stop->instance, INSTANCE_STOPPED, 0, NULL);
    return NULL;
}

static int fail_when_cancelled(struct instance *instance, void *context, struct error *err)
{
    gate_post(context);
    process_poll(&instance->cancel_fd, 1, process_now_ms() + FIXTURE_FAR_MS);
    return error_set(err, EIO, "nobody takes connections");
}

struct copy {
    struct instance *instance;
    struct gate begun;
    struct error err;
    int result;
};

static void *run_copy(void *argument)
{
    struct copy *copy = argument;
    copy->result = instance_begin(copy->instance, BEGIN_OR_FAIL, &copy->err);
    if (copy->result < 0)
        return NULL;
    double paused_ms;
    copy->result = instance_copy(copy->instance, NULL, fail_when_cancelled, &copy->begun,
                                 &paused_ms, &copy->err);
    instance_end(copy->instance);
    return NULL;
}

/* As of a QEMU that was cut short in a command, and does not take another connection. */
static void copy_when_it_fails_because_of_a_stop_is_cancelled(void **state)
{
    struct world *world = *state;
    pthread_t thread;
    leave(world, "standby");
    world_open_whole(world);
    struct copy copy = {.instance = world_found(world, "web-1")};
    gate_init(&copy.begun);
    assert_int_equal(pthread_create(&thread, NULL, run_copy, &copy), 0);
    bool begun = gate_wait(&copy.begun, FIXTURE_FAR_MS);
    int r = instance_change(copy.instance, INSTANCE_STOPPED, 0, &world->err);
    pthread_join(thread, NULL);
    gate_finish(&copy.begun);
    assert_true(begun);
    assert_int_equal(r, 0);
    assert_int_equal(copy.result, -ECANCELED);
    assert_int_equal(copy.err.code, ECANCELED);
    assert_string_equal(copy.err.text, "ended by a write of stopped");
    instance_unref(copy.instance);
}

struct waiting {
    struct instance *instance;
    atomic_int tid;
    struct error err;
    int result;
};

static void *wait_to_begin(void *argument)
{
    struct waiting *waiting = argument;
    waiting->tid = gettid();
    waiting->result = instance_begin(waiting->instance, BEGIN_WAITING, &waiting->err);
    if (waiting->result == 0)
        instance_end(waiting->instance);
    return NULL;
}

/* Two more commits, of an instance that is being copied for a first one. */
static void forks_when_they_wait_for_a_copy_that_is_stopped_are_cancelled_too(void **state)
{
    struct world *world = *state;
    pthread_t threads[2], stopper;
    leave(world, "created");
    world_open_whole(world);
    struct instance *instance = world_found(world, "web-1");
    struct waiting waiting[2] = {{.instance = instance}, {.instance = instance}};
    struct stop stop = {.instance = instance};
    assert_int_equal(instance_begin(instance, BEGIN_OR_FAIL, &world->err), 0);
    for (size_t i = 0; i < array_length(threads); i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, wait_to_begin, &waiting[i]), 0);
        while (waiting[i].tid == 0)
            sched_yield();
        world_await_asleep(waiting[i].tid);
    }
    assert_int_equal(pthread_create(&stopper, NULL, run_stop, &stop), 0);
    bool cancelled = process_poll(&instance->cancel_fd, 1, process_now_ms() + FIXTURE_FAR_MS) > 0;
    instance_end(instance);
    pthread_join(stopper, NULL);
    for (size_t i = 0; i < array_length(threads); i++)
        pthread_join(threads[i], NULL);
    assert_true(cancelled);
    assert_int_equal(stop.result, 0);
    for (size_t i = 0; i < array_length(threads); i++) {
        assert_int_equal(waiting[i].result, -ECANCELED);
        assert_string_equal(waiting[i].err.text, "ended by a write of stopped");
    }
    assert_int_equal(instance_state(instance), INSTANCE_STOPPED);
    instance_unref(instance);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_EMPTY(copy_when_it_fails_because_of_a_stop_is_cancelled),
        IN_EMPTY(forks_when_they_wait_for_a_copy_that_is_stopped_are_cancelled_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
