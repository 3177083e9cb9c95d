/* SPDX-License-Identifier: MIT */
/* The transitions that need no VM: those that are refused, and those that end or fail. */
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "instance/internal.h"
#include "world.h"

/* The child that dies as soon as its descriptor is watched again; see epoll_ctl in the build file.
 */
static struct world *dying_world;
static size_t dying_child;
/* The thread that watches, and how often it was told of something. */
static atomic_int watcher;
static atomic_uint told;

int __real_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event);
int __real_epoll_wait(int epoll_fd, struct epoll_event *events, int max, int timeout_ms);
int __wrap_epoll_wait(int epoll_fd, struct epoll_event *events, int max, int timeout_ms);

int __wrap_epoll_wait(int epoll_fd, struct epoll_event *events, int max, int timeout_ms)
{
    watcher = gettid();
    int n = __real_epoll_wait(epoll_fd, events, max, timeout_ms);
    told++;
    return n;
}

/* Until the watch has been told, and does what it does about it or is kept from that. */
static void await_watch(unsigned before)
{
    double deadline_ms = process_now_ms() + FIXTURE_FAR_MS;
    while (told == before) {
        assert_true(process_now_ms() < deadline_ms);
        sched_yield();
    }
    world_await_asleep(watcher);
}

int __wrap_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event)
{
    int r = __real_epoll_ctl(epoll_fd, operation, fd, event);
    if (r == 0 && dying_world) {
        struct world *world = dying_world;
        unsigned before = told;
        dying_world = NULL;
        pidfd_send_signal(world->children[dying_child].pidfd, SIGKILL, NULL, 0);
        assert_true(world_child_ended(world, dying_child, FIXTURE_FAR_MS));
        await_watch(before);
    }
    return r;
}

static void leave(struct world *world, const char *id, const char *state, const char *more)
{
    auto_free char *json = NULL;
    assert_true(asprintf(&json, "\"state\":\"%s\",%s,%s", state, world_machine, more) > 0);
    world_leave_instance(world, id, json);
}

/* Left running (or paused), with a child as its VMM. Returns the child. */
static size_t leave_with_vmm(struct world *world, const char *id, const char *state)
{
    auto_free char *json = NULL;
    assert_true(asprintf(&json, "\"state\":\"%s\",%s,\"config\":\"{}\"", state, world_machine) > 0);
    return world_leave_with_vmm(world, id, json);
}

static void transition_when_the_table_has_none_is_refused(void **state)
{
    static const struct {
        const char *id;
        enum instance_state to;
        int code;
        const char *why;
    } cases[] = {
        {"created", INSTANCE_RUNNING, EINVAL, "nothing to boot: write {\"kernel\""},
        {"created", INSTANCE_PAUSED, EINVAL, "created cannot become paused"},
        {"created", INSTANCE_STANDBY, EINVAL, "created cannot become standby"},
        {"stopped", INSTANCE_RUNNING, EINVAL, "nothing to boot: write {\"kernel\""},
        {"stopped", INSTANCE_PAUSED, EINVAL, "stopped cannot become paused"},
        {"stopped", INSTANCE_STANDBY, EINVAL, "stopped cannot become standby"},
        {"standby", INSTANCE_PAUSED, EINVAL, "standby cannot become paused"},
        {"standby", INSTANCE_RUNNING, EIO, "the memory image is gone"},
        {"running", INSTANCE_PAUSED, EIO, "pausing the VM: "},
        {"paused", INSTANCE_STANDBY, EIO, "pausing the VM: "},
    };
    struct world *world = *state;
    leave(world, "created", "created", "\"config\":\"{}\"");
    leave(world, "stopped", "stopped", "\"config\":\"{}\"");
    leave(world, "standby", "standby", "\"config\":\"{}\"");
    size_t running = leave_with_vmm(world, "running", "running");
    size_t paused = leave_with_vmm(world, "paused", "paused");
    world_open_whole(world);
    for (size_t i = 0; i < array_length(cases); i++) {
        struct instance *instance = world_found(world, cases[i].id);
        enum instance_state before = instance_state(instance);
        int r = instance_change(instance, cases[i].to, 0, &world->err);
        if (r != -cases[i].code || !strstr(world->err.text, cases[i].why))
            fail_msg("%s to %s: %d, %s", cases[i].id, instance_state_names[cases[i].to], r,
                     world->err.text);
        assert_int_equal(world->err.code, cases[i].code);
        assert_int_equal(instance_state(instance), before);
        instance_unref(instance);
    }
    assert_false(world_child_ended(world, running, 0));
    assert_false(world_child_ended(world, paused, 0));
}

/* Its VMM answers nothing. */
static void resume_when_nobody_knows_what_came_of_it_leaves_a_vm_that_is_to_go_on(void **state)
{
    struct world *world = *state;
    size_t paused = leave_with_vmm(world, "paused", "paused");
    world_open_whole(world);
    struct instance *instance = world_found(world, "paused");
    assert_int_equal(instance_change(instance, INSTANCE_RUNNING, 0, &world->err), -EIO);
    assert_non_null(strstr(world->err.text, "resuming the VM: "));
    assert_non_null(strstr(world->err.text, "it is not known whether the VM runs"));
    assert_int_equal(instance_state(instance), INSTANCE_RUNNING);
    assert_int_equal(instance->intent, INTENT_RESUME);
    assert_int_equal(instance_change(instance, INSTANCE_RUNNING, 0, &world->err), -EIO);
    assert_string_equal(world->happenings, "state paused paused running\n");
    assert_false(world_child_ended(world, paused, 0));
    instance_unref(instance);
}

static void transition_when_it_is_there_already_does_nothing(void **state)
{
    static const struct {
        const char *id;
        enum instance_state state;
    } cases[] = {{"running", INSTANCE_RUNNING},
                 {"paused", INSTANCE_PAUSED},
                 {"standby", INSTANCE_STANDBY},
                 {"stopped", INSTANCE_STOPPED}};
    struct world *world = *state;
    leave(world, "standby", "standby", "\"config\":\"{}\"");
    leave(world, "stopped", "stopped", "\"config\":\"{}\"");
    size_t running = leave_with_vmm(world, "running", "running");
    leave_with_vmm(world, "paused", "paused");
    world_open_whole(world);
    for (size_t i = 0; i < array_length(cases); i++) {
        struct instance *instance = world_found(world, cases[i].id);
        assert_int_equal(instance_change(instance, cases[i].state, 0, &world->err), 0);
        assert_int_equal(instance_state(instance), cases[i].state);
        instance_unref(instance);
    }
    assert_false(world_child_ended(world, running, 0));
}

static void stop_when_from_any_state_ends_what_there_is(void **state)
{
    static const char *const ids[] = {"created", "running", "paused", "standby", "stopped"};
    static const char *const files[] = {"memory", "state", "mailboxes.json"};
    struct world *world = *state;
    leave(world, "created", "created", "\"config\":\"{}\"");
    leave(world, "stopped", "stopped", "\"config\":\"{}\"");
    leave(world, "standby", "standby", "\"config\":\"{}\"");
    size_t running = leave_with_vmm(world, "running", "running");
    size_t paused = leave_with_vmm(world, "paused", "paused");
    for (size_t i = 0; i < array_length(files); i++)
        world_write_text(world_path(world, "store/instances/standby/run/%s", files[i]), "x");
    world_open_whole(world);
    for (size_t i = 0; i < array_length(ids); i++) {
        struct instance *instance = world_found(world, ids[i]);
        if (instance_change(instance, INSTANCE_STOPPED, 0, &world->err) < 0)
            fail_msg("%s: %s", ids[i], world->err.text);
        assert_int_equal(instance_state(instance), INSTANCE_STOPPED);
        assert_null(instance->vmm);
        assert_int_equal(instance_remove(instance, &world->err), 0);
        instance_unref(instance);
    }
    assert_true(world_child_ended(world, running, FIXTURE_FAR_MS));
    assert_true(world_child_ended(world, paused, FIXTURE_FAR_MS));
    assert_string_equal(world->happenings, /* nothing ended by itself */
                        "state created created stopped\nremoved created stopped stopped\n"
                        "state running running stopped\nremoved running stopped stopped\n"
                        "state paused paused stopped\nremoved paused stopped stopped\n"
                        "state standby standby stopped\nremoved standby stopped stopped\n"
                        "removed stopped stopped stopped\n");
    store_await_erased(&world->store);
    assert_int_equal(world_count(world_path(world, "store/instances")), 0);
}

static void boot_when_the_program_is_missing_or_dies_leaves_the_state(void **state)
{
    struct world *world = *state;
    leave(world, "web-1", "created", "\"config\":\"{\\\"kernel\\\":\\\"/k\\\"}\"");
    world_open_whole(world);
    struct instance *instance = world_found(world, "web-1");
    assert_int_equal(instance_change(instance, INSTANCE_RUNNING, 0, &world->err), -EIO);
    assert_non_null(strstr(world->err.text, world->qemu));
    assert_int_equal(instance_state(instance), INSTANCE_CREATED);
    world_install_qemu(world, world_qemu_that_dies);
    assert_int_equal(instance_change(instance, INSTANCE_RUNNING, 0, &world->err), -EIO);
    assert_non_null(strstr(world->err.text, "no such luck"));
    assert_int_equal(instance_state(instance), INSTANCE_CREATED);
    assert_null(instance->vmm);
    assert_false(world_has(world_path(world, "store/instances/web-1/run/memory")));
    auto_free char *log = world_read(world_path(world, "store/instances/web-1/vmm.log"));
    assert_non_null(strstr(log, "no such luck"));
    assert_int_equal(instance_remove(instance, &world->err), 0);
    instance_unref(instance);
}

static void standby_when_the_vmm_does_not_answer_leaves_it_running(void **state)
{
    struct world *world = *state;
    size_t child = leave_with_vmm(world, "web-1", "running");
    world_open_whole(world);
    struct instance *instance = world_found(world, "web-1");
    assert_int_equal(instance_change(instance, INSTANCE_STANDBY, 0, &world->err), -EIO);
    assert_non_null(strstr(world->err.text, "pausing the VM"));
    assert_int_equal(instance_state(instance), INSTANCE_RUNNING);
    assert_false(world_child_ended(world, child, 0));
    /* It may be paused: the next daemon lets it go on. */
    auto_free char *record = world_read(world_path(world, "store/instances/web-1/instance.json"));
    assert_non_null(strstr(record, "\"intent\": \"standby\""));
    assert_false(world_has(world_path(world, "store/instances/web-1/run/state")));
    instance_unref(instance);
}

static void fork_when_stopped_has_nothing_to_boot_from(void **state)
{
    struct world *world = *state;
    auto_free char *json = NULL;
    assert_true(asprintf(&json,
                         "\"state\":\"running\",%s,\"source\":{\"snapshot\":\"gone\","
                         "\"uuid\":\"x\"}",
                         world_machine) > 0);
    world_leave_with_vmm(world, "fork-1", json);
    world_write_text(world_path(world, "store/instances/fork-1/fork.json"), "{\"version\":1}");
    world_open_whole(world);
    struct instance *instance = world_found(world, "fork-1");
    assert_int_equal(instance_change(instance, INSTANCE_STOPPED, 0, &world->err), 0);
    assert_int_equal(instance_change(instance, INSTANCE_RUNNING, 0, &world->err), -EOPNOTSUPP);
    assert_non_null(strstr(world->err.text, "nothing to boot from: give its config a \"kernel\""));
    instance_unref(instance);
}

struct change {
    struct instance *instance;
    enum instance_state target;
    int result;
    struct error err;
};

static void *run_change(void *argument)
{
    struct change *change = argument;
    change->result = instance_change(change->instance, change->target, 0, &change->err);
    return NULL;
}

/* Begins to boot an instance whose VMM hangs. */
static pthread_t begin_boot(struct world *world, struct change *change)
{
    pthread_t thread;
    char byte;
    world_install_qemu_that_hangs(world);
    leave(world, "web-1", "created", "\"config\":\"{\\\"kernel\\\":\\\"/k\\\"}\"");
    world_open_whole(world);
    *change = (struct change){.instance = world_found(world, "web-1"), .target = INSTANCE_RUNNING};
    auto_close int fd = open(world_path(world, "started"), O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pthread_create(&thread, NULL, run_change, change), 0);
    assert_true(process_poll(&fd, 1, process_now_ms() + FIXTURE_FAR_MS) > 0);
    assert_int_equal(read(fd, &byte, 1), 1);
    return thread;
}

static void stop_when_a_boot_is_under_way_ends_it(void **state)
{
    struct world *world = *state;
    struct change boot;
    pthread_t thread = begin_boot(world, &boot);
    assert_int_equal(instance_state(boot.instance), INSTANCE_CREATED);
    assert_int_equal(instance_change(boot.instance, INSTANCE_PAUSED, 0, &world->err), -EBUSY);
    assert_non_null(strstr(world->err.text, "write stopped to end it"));
    assert_int_equal(instance_remove(boot.instance, &world->err), -EBUSY);
    assert_non_null(strstr(world->err.text, "another transition is under way: wait"));
    assert_int_equal(instance_set_config(boot.instance, "{}", 2, &world->err), -EBUSY);
    assert_int_equal(instance_change(boot.instance, INSTANCE_STOPPED, 0, &world->err), 0);
    pthread_join(thread, NULL);
    assert_int_equal(boot.result, -ECANCELED);
    assert_non_null(strstr(boot.err.text, "ended by a write of stopped"));
    assert_int_equal(instance_state(boot.instance), INSTANCE_STOPPED);
    assert_null(boot.instance->vmm);
    assert_int_equal(world_count(world_path(world, "store/instances/web-1")), 4);
    assert_int_equal(instance_remove(boot.instance, &world->err), 0);
    instance_unref(boot.instance);
}

/* In one step, before whoever waits for the first can begin. */
static void end_and_begin_another(struct instance *instance)
{
    pthread_mutex_lock(&instance->table->lock);
    close(instance->cancel_fd);
    instance->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    atomic_store(&instance->cancelled, false);
    pthread_cond_broadcast(&instance->table->idle);
    pthread_mutex_unlock(&instance->table->lock);
}

static void stop_when_another_transition_is_faster_ends_that_too(void **state)
{
    struct world *world = *state;
    pthread_t thread;
    leave(world, "web-1", "created", "\"config\":\"{}\"");
    world_open_whole(world);
    struct instance *instance = world_found(world, "web-1");
    struct change stop = {.instance = instance, .target = INSTANCE_STOPPED};
    assert_int_equal(instance_begin(instance, BEGIN_OR_FAIL, &world->err), 0);
    assert_int_equal(pthread_create(&thread, NULL, run_change, &stop), 0);
    bool first = process_poll(&instance->cancel_fd, 1, process_now_ms() + FIXTURE_FAR_MS) > 0;
    end_and_begin_another(instance);
    bool second = process_poll(&instance->cancel_fd, 1, process_now_ms() + FIXTURE_FAR_MS) > 0;
    instance_end(instance);
    pthread_join(thread, NULL);
    assert_int_equal(stop.result, 0);
    assert_true(first);
    assert_true(second);
    instance_unref(instance);
}

static void transitions_when_the_daemon_stops_end(void **state)
{
    struct world *world = *state;
    struct change boot;
    pthread_t thread = begin_boot(world, &boot);
    instances_stop(&world->instances);
    pthread_join(thread, NULL);
    assert_int_equal(boot.result, -ESHUTDOWN);
    assert_non_null(strstr(boot.err.text, "the daemon is stopping"));
    assert_int_equal(instance_change(boot.instance, INSTANCE_STOPPED, 0, &world->err), -ESHUTDOWN);
    assert_int_equal(instance_snapshot(boot.instance, "base", &world->err), -ESHUTDOWN);
    assert_int_equal(instance_state(boot.instance), INSTANCE_CREATED);
    instance_unref(boot.instance);
}

static void await_stopped(struct world *world, struct instance *instance)
{
    while (instance_state(instance) != INSTANCE_STOPPED)
        if (!gate_wait(&world->changed, FIXTURE_FAR_MS / 6))
            fail_msg("nobody noticed that the VMM ended");
}

static void vmm_when_it_ends_by_itself_leaves_a_stopped_instance(void **state)
{
    struct world *world = *state;
    size_t child = leave_with_vmm(world, "web-1", "running");
    world_open_whole(world);
    struct instance *instance = world_found(world, "web-1");
    pidfd_send_signal(world->children[child].pidfd, SIGTERM, NULL, 0);
    await_stopped(world, instance);
    auto_free char *info = instance_info(instance);
    assert_non_null(strstr(info, "\"signal\": \"SIGTERM\""));
    assert_non_null(strstr(info, "\"pid\": null"));
    instance_unref(instance);
}

/* The watch is armed at the end of each transition: from then on no end may be missed. */
static void vmm_when_it_ends_at_the_end_of_a_transition_is_noticed(void **state)
{
    struct world *world = *state;
    dying_child = leave_with_vmm(world, "web-1", "running");
    world_open_whole(world);
    struct instance *instance = world_found(world, "web-1");
    dying_world = world;
    assert_int_equal(instance_change(instance, INSTANCE_STANDBY, 0, &world->err), -EIO);
    assert_null(dying_world);
    await_stopped(world, instance);
    assert_null(instance->vmm);
    instance_unref(instance);
}

static void vmm_when_it_ends_during_a_transition_is_noticed(void **state)
{
    struct world *world = *state;
    size_t child = leave_with_vmm(world, "web-1", "running");
    world_open_whole(world);
    struct instance *instance = world_found(world, "web-1");
    pidfd_send_signal(world->children[child].pidfd, SIGKILL, NULL, 0);
    int r = instance_change(instance, INSTANCE_STANDBY, 0, &world->err);
    assert_true(r == -EIO || r == -EINVAL || r == -EBUSY); /* who was first? */
    await_stopped(world, instance);
    instance_unref(instance);
}

static void snapshot_when_there_is_no_saved_memory_is_refused(void **state)
{
    struct world *world = *state;
    leave(world, "created", "created", "\"config\":\"{}\"");
    leave(world, "stopped", "stopped", "\"config\":\"{}\"");
    leave(world, "standby", "standby", "\"config\":\"{}\"");
    leave_with_vmm(world, "running", "running");
    world_open_whole(world);
    static const struct {
        const char *id;
        int code;
        const char *why;
    } cases[] = {{"created", EINVAL, "created has no memory to snapshot"},
                 {"stopped", EINVAL, "write running to its state first"},
                 {"running", EIO, "pausing the VM: "},
                 {"standby", ENOENT, "cannot link the instance's memory"}};
    for (size_t i = 0; i < array_length(cases); i++) {
        struct instance *instance = world_found(world, cases[i].id);
        int r = instance_snapshot(instance, "base", &world->err);
        if (r != -cases[i].code || !strstr(world->err.text, cases[i].why))
            fail_msg("%s: %d, %s", cases[i].id, r, world->err.text);
        instance_unref(instance);
    }
    assert_int_equal(world_count(world_path(world, "store/snapshots")), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_EMPTY(transition_when_the_table_has_none_is_refused),
        IN_EMPTY(resume_when_nobody_knows_what_came_of_it_leaves_a_vm_that_is_to_go_on),
        IN_EMPTY(transition_when_it_is_there_already_does_nothing),
        IN_EMPTY(stop_when_from_any_state_ends_what_there_is),
        IN_EMPTY(boot_when_the_program_is_missing_or_dies_leaves_the_state),
        IN_EMPTY(standby_when_the_vmm_does_not_answer_leaves_it_running),
        IN_EMPTY(fork_when_stopped_has_nothing_to_boot_from),
        IN_EMPTY(stop_when_a_boot_is_under_way_ends_it),
        IN_EMPTY(stop_when_another_transition_is_faster_ends_that_too),
        IN_EMPTY(transitions_when_the_daemon_stops_end),
        IN_EMPTY(vmm_when_it_ends_by_itself_leaves_a_stopped_instance),
        IN_EMPTY(vmm_when_it_ends_at_the_end_of_a_transition_is_noticed),
        IN_EMPTY(vmm_when_it_ends_during_a_transition_is_noticed),
        IN_EMPTY(snapshot_when_there_is_no_saved_memory_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
