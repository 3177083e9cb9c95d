/* SPDX-License-Identifier: MIT */
/* The thread that notices VMMs which end: held where it has been told of one, see the build file.
 */
#include <sys/epoll.h>

#include "instance/internal.h"
#include "world.h"

static atomic_bool holding;
static struct gate told, let_go; /* while holding */

int __real_epoll_wait(int epoll_fd, struct epoll_event *events, int max, int timeout_ms);
int __wrap_epoll_wait(int epoll_fd, struct epoll_event *events, int max, int timeout_ms);

int __wrap_epoll_wait(int epoll_fd, struct epoll_event *events, int max, int timeout_ms)
{
    int n = __real_epoll_wait(epoll_fd, events, max, timeout_ms);
    if (holding) {
        holding = false;
        gate_post(&told);
        if (!gate_wait(&let_go, FIXTURE_FAR_MS))
            abort();
    }
    return n;
}

static int setup(void **state)
{
    holding = false;
    gate_init(&told);
    gate_init(&let_go);
    return world_setup_empty(state);
}

static int teardown(void **state)
{
    gate_post(&let_go); /* a test that failed */
    int r = world_teardown(state);
    gate_finish(&told);
    gate_finish(&let_go);
    return r;
}

/* Left running by an earlier daemon, with a child as its VMM. Returns the child. */
static size_t leave_running(struct world *world, const char *id)
{
    auto_free char *json = NULL;
    assert_true(asprintf(&json, "\"state\":\"running\",%s,\"config\":\"{}\"", world_machine) > 0);
    return world_leave_with_vmm(world, id, json);
}

static void end_child(const struct world *world, size_t child)
{
    pidfd_send_signal(world->children[child].pidfd, SIGKILL, NULL, 0);
    assert_true(world_child_ended(world, child, FIXTURE_FAR_MS));
}

static enum instance_state state_of(struct world *world, const char *id)
{
    struct instance *instance = world_found(world, id);
    enum instance_state state = instance_state(instance);
    instance_unref(instance);
    return state;
}

/* Once for each that ended, and for nothing else. */
static void await_changes(struct world *world, size_t count)
{
    for (size_t i = 0; i < count; i++)
        assert_true(gate_wait(&world->changed, FIXTURE_FAR_MS));
    assert_false(gate_wait(&world->changed, 0));
}

static void vmms_when_they_end_all_at_once_are_each_noticed(void **state)
{
    enum { COUNT = FIXTURE_CHILDREN };
    struct world *world = *state;
    char id[16];
    for (size_t i = 0; i < COUNT; i++) {
        snprintf(id, sizeof id, "web-%zu", i);
        assert_int_equal(leave_running(world, id), i);
    }
    holding = true;
    world_open_whole(world);
    for (size_t i = 0; i < COUNT; i++)
        end_child(world, i);
    assert_true(gate_wait(&told, FIXTURE_FAR_MS));
    gate_post(&let_go);
    await_changes(world, COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        snprintf(id, sizeof id, "web-%zu", i);
        assert_int_equal(state_of(world, id), INSTANCE_STOPPED);
    }
}

/* As a fork gets its VMM. */
static void give_vmm(struct world *world, const char *id, size_t child)
{
    struct instance *instance = world_found(world, id);
    int pidfd = fcntl(world->children[child].pidfd, F_DUPFD_CLOEXEC, 0);
    assert_int_equal(vmm_create(hypervisor_find("qemu"), world->children[child].pid, pidfd,
                                &instance->vmm, &world->err),
                     0);
    instance->state = INSTANCE_RUNNING;
    assert_int_equal(instance_watch(instance, &world->err), 0);
    instance_unref(instance);
}

/* Told of an end, and before it looks, the instance is removed and another has its id. */
static void end_when_the_id_is_another_instances_by_now_is_not_that_ones(void **state)
{
    struct world *world = *state;
    size_t first = leave_running(world, "web-1"), last = leave_running(world, "last");
    size_t second = world_spawn(world, NULL);
    world_open_whole(world);
    holding = true;
    end_child(world, first);
    assert_true(gate_wait(&told, FIXTURE_FAR_MS));
    struct instance *old = world_found(world, "web-1");
    assert_int_equal(instance_change(old, INSTANCE_STOPPED, 0, &world->err), 0);
    assert_int_equal(instance_remove(old, &world->err), 0);
    instance_unref(old);
    assert_int_equal(instances_create(&world->instances, "web-1", &world->err), 0);
    give_vmm(world, "web-1", second);
    await_changes(world, 1); /* that it was stopped */
    gate_post(&let_go);

    /* Ends are taken one after the other: when this one is noticed, that one has been. */
    end_child(world, last);
    await_changes(world, 1);
    assert_int_equal(state_of(world, "last"), INSTANCE_STOPPED);
    assert_int_equal(state_of(world, "web-1"), INSTANCE_RUNNING);
    end_child(world, second);
    await_changes(world, 1);
    assert_int_equal(state_of(world, "web-1"), INSTANCE_STOPPED);
}

static void vmm_when_it_ended_before_it_was_watched_is_noticed(void **state)
{
    struct world *world = *state;
    size_t child = world_spawn(world, NULL);
    world_open_whole(world);
    assert_int_equal(instances_create(&world->instances, "web-1", &world->err), 0);
    end_child(world, child);
    give_vmm(world, "web-1", child);
    await_changes(world, 1);
    assert_int_equal(state_of(world, "web-1"), INSTANCE_STOPPED);
}

static void vmm_when_watched_twice_is_noticed_once(void **state)
{
    struct world *world = *state;
    size_t child = leave_running(world, "web-1"), last = leave_running(world, "last");
    world_open_whole(world);
    struct instance *instance = world_found(world, "web-1");
    assert_int_equal(instance_watch(instance, &world->err), 0);
    instance_unref(instance);
    end_child(world, child);
    await_changes(world, 1);
    end_child(world, last);
    await_changes(world, 1);
}

static void vmm_when_it_cannot_be_watched_is_told_of(void **state)
{
    struct world *world = *state;
    leave_running(world, "web-1");
    world_open_whole(world);
    struct instance *instance = world_found(world, "web-1");
    int pidfd = instance->vmm->pidfd;
    instance->vmm->pidfd = -1;
    assert_int_equal(instance_watch(instance, &world->err), -EBADF);
    instance->vmm->pidfd = pidfd;
    assert_non_null(strstr(world->err.text, "cannot watch the VMM of web-1"));
    instance_unref(instance);
}

static void watch_when_closed_leaves_vmms_and_no_descriptor(void **state)
{
    struct world *world = *state;
    size_t child = leave_running(world, "web-1");
    int before = world_descriptors();
    world_open_whole(world);
    world_close(world);
    assert_int_equal(world_descriptors(), before);
    assert_false(world_child_ended(world, child, 0));
}

#define WATCHED(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WATCHED(vmms_when_they_end_all_at_once_are_each_noticed),
        WATCHED(end_when_the_id_is_another_instances_by_now_is_not_that_ones),
        WATCHED(vmm_when_it_ended_before_it_was_watched_is_noticed),
        WATCHED(vmm_when_watched_twice_is_noticed_once),
        WATCHED(vmm_when_it_cannot_be_watched_is_told_of),
        WATCHED(watch_when_closed_leaves_vmms_and_no_descriptor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
