/* SPDX-License-Identifier: MIT */
/* What a start of the daemon makes of VMs whose end, or life, it cannot see. */
#include <sys/epoll.h>

#include "instance/internal.h"
#include "world.h"

/* What fails with `failing`: pidfd_open(), or open() of a process's stat. See the build file. */
static int failing;
static bool fail_pidfd, fail_stat;
/* While its instances are loaded: none is acted on. */
static struct world *loading;
static unsigned looked_for;
/* Whose VMMs die as soon as they are watched. */
static struct world *dying;
static bool removing; /* and they are removed then */

int __real_pidfd_open(pid_t pid, unsigned flags);
int __wrap_pidfd_open(pid_t pid, unsigned flags);
int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);

/* No thread can be started. */
static bool fail_thread;

int __real_thread_detach(void *(*run)(void *argument), void *argument, struct error *err);
int __wrap_thread_detach(void *(*run)(void *argument), void *argument, struct error *err);
int __wrap_thread_detach(void *(*run)(void *argument), void *argument, struct error *err)
{
    return fail_thread ? error_errno(err, EAGAIN, "cannot start a thread")
                       : __real_thread_detach(run, argument, err);
}

int __real_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event);

static void assert_nothing_has_changed(struct world *world)
{
    pthread_mutex_lock(&world->instances.lock);
    unsigned recovering = world->instances.recovering;
    pthread_mutex_unlock(&world->instances.lock);
    assert_int_equal(recovering, 0);
    assert_false(gate_wait(&world->changed, 0));
}

int __wrap_pidfd_open(pid_t pid, unsigned flags)
{
    if (loading) {
        assert_nothing_has_changed(loading);
        looked_for++;
    }
    if (!fail_pidfd)
        return __real_pidfd_open(pid, flags);
    errno = failing;
    return -1;
}

int __wrap_open64(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    size_t size = strlen(path);
    if (!fail_stat || size < 5 || strcmp(path + size - 5, "/stat") != 0)
        return __real_open64(path, flags, mode);
    errno = failing;
    return -1;
}

/* The instance of that serial, if it has no owner. */
static struct instance *without_owner(struct world *world, uint64_t serial)
{
    pthread_mutex_lock(&world->instances.lock);
    struct instance *instance = world->instances.by_id;
    while (instance && instance->serial != serial)
        instance = instance->hh.next;
    if (instance && instance->busy)
        instance = NULL;
    pthread_mutex_unlock(&world->instances.lock);
    return instance;
}

/* Who is told of an end acts at once, unless the instance has an owner. Who gives one up, which
 * other threads than that of the start do, has the lock here. */
int __wrap_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event)
{
    int r = __real_epoll_ctl(epoll_fd, operation, fd, event);
    struct instance *instance =
        dying && gettid() == getpid() ? without_owner(dying, event->data.u64) : NULL;
    if (r == 0 && instance) {
        pidfd_send_signal(fd, SIGKILL, NULL, 0);
        while (instance_state(instance) != INSTANCE_STOPPED) /* others change as well */
            assert_true(gate_wait(&dying->changed, FIXTURE_FAR_MS));
        if (removing)
            assert_int_equal(instance_remove(instance, &dying->err), 0);
    }
    return r;
}

static int setup(void **state)
{
    loading = dying = NULL; /* a test that failed */
    fail_thread = removing = false;
    return world_setup_empty(state);
}

static void open_world(struct world *world)
{
    world_open_store(world);
    world_open_layers(world);
}

static void leave(struct world *world, const char *id, const char *state, const char *vmm)
{
    auto_free char *json = NULL;
    assert_true(asprintf(&json, "\"state\":\"%s\",%s,\"vmm\":%s", state, world_machine, vmm) > 0);
    world_leave_instance(world, id, json);
}

/* Running, in its own directory; with an intent, or none (NULL). */
static size_t leave_held(struct world *world, const char *id, const char *intent)
{
    char vmm[256];
    leave(world, id, "running", "null");
    size_t child = world_spawn_vmm(world, world_path(world, "store/instances/%s/run", id));
    world_describe_child(world, child, vmm, sizeof vmm);
    remove(world_path(world, "store/instances/%s/instance.json", id));
    auto_free char *json = NULL;
    assert_true(asprintf(&json,
                         "{\"version\":2,\"hypervisor\":\"qemu\",\"state\":\"running\",%s,"
                         "\"vmm\":%s%s%s%s}",
                         world_machine, vmm, intent ? ",\"intent\":\"" : "", intent ? intent : "",
                         intent ? "\"" : "") > 0);
    world_write_text(world_path(world, "store/instances/%s/instance.json", id), json);
    return child;
}

static size_t leave_running(struct world *world, const char *id)
{
    return leave_held(world, id, NULL);
}

static void assert_runs(struct world *world, const char *id)
{
    struct instance *instance = instances_find(&world->instances, id);
    assert_non_null(instance);
    assert_int_equal(instance_state(instance), INSTANCE_RUNNING);
    instance_unref(instance);
}

/* Whether it runs is not known: it is not ended, and nothing is changed. */
static void assert_left_alone(struct world *world, size_t child)
{
    open_world(world);
    fail_pidfd = fail_stat = false;
    assert_null(instances_find(&world->instances, "web-1"));
    assert_non_null(strstr(world->complaints, "instance web-1: it is not known whether"));
    assert_non_null(strstr(world->complaints, strerrordesc_np(failing)));
    assert_false(world_child_ended(world, child, 0));
    assert_int_equal(instances_create(&world->instances, "web-1", &world->err), -EEXIST);
    world->complaints[0] = 0;
    world_close(world);
}

static void vmm_when_there_is_no_telling_whether_it_runs_is_left_alone(void **state)
{
    static const int codes[] = {EMFILE, ENFILE, ENOMEM};
    struct world *world = *state;
    size_t child = leave_running(world, "web-1");
    for (size_t i = 0; i < array_length(codes); i++) {
        failing = codes[i];
        fail_pidfd = true;
        assert_left_alone(world, child);
        fail_stat = true;
        assert_left_alone(world, child);
    }
    open_world(world);
    assert_runs(world, "web-1");
    assert_string_equal(world->complaints, "");
}

/* On record it would be no process: the next start would end it. */
static void vmm_when_it_cannot_be_described_is_not_put_on_record(void **state)
{
    struct world *world = *state;
    leave_running(world, "web-1");
    open_world(world);
    struct instance *instance = instances_find(&world->instances, "web-1");
    assert_non_null(instance);
    failing = EMFILE;
    fail_stat = true;
    int r = instance_record(instance, &world->err);
    fail_stat = false;
    instance_unref(instance);
    assert_int_equal(r, -EMFILE);
    world_restart(world);
    assert_runs(world, "web-1");
}

/* What a daemon that was killed, or none, has left of a VM's memory is of no use. */
static void memory_when_no_vmm_runs_and_none_was_saved_is_dropped(void **state)
{
    static const char *const states[] = {"created", "running", "standby", "stopped"};
    static const char *const files[] = {"run/memory", "run/state", "run/mailboxes.json", "base"};
    struct world *world = *state;
    for (size_t i = 0; i < array_length(states); i++) {
        leave(world, states[i], states[i], "null");
        for (size_t j = 0; j < array_length(files); j++)
            world_write_text(world_path(world, "store/instances/%s/%s", states[i], files[j]), "x");
    }
    open_world(world);
    for (size_t i = 0; i < array_length(states); i++) {
        bool saved = strcmp(states[i], "standby") == 0;
        for (size_t j = 0; j < array_length(files); j++)
            if (world_has(world_path(world, "store/instances/%s/%s", states[i], files[j])) !=
                (saved && j < 3))
                fail_msg("%s of %s", files[j], states[i]);
    }
}

/* It never ran: its memory is what counts. */
static void assert_stands_by(struct world *world)
{
    static const char *const files[] = {"run/memory", "run/state", "base"};
    for (size_t i = 0; i < array_length(files); i++)
        world_write_text(world_path(world, "store/instances/web-1/%s", files[i]), "x");
    for (int starts = 0; starts < 2; starts++) {
        open_world(world);
        struct instance *instance = instances_find(&world->instances, "web-1");
        assert_int_equal(instance_state(instance), INSTANCE_STANDBY);
        assert_false(instance->exit.ended);
        instance_unref(instance);
        for (size_t i = 0; i < array_length(files); i++)
            assert_int_equal(world_has(world_path(world, "store/instances/web-1/%s", files[i])),
                             i < 2);
        assert_false(world_has(world_path(world, "store/instances/web-1/restoring")));
        world_close(world);
    }
    world_remove_instance(world, "web-1");
}

static void instance_when_its_restore_was_cut_short_stands_by(void **state)
{
    struct world *world = *state;
    leave(world, "web-1", "running", "null,\"intent\":\"restore\"");
    assert_stands_by(world);
    leave(world, "web-1", "running", "null");
    world_write_text(world_path(world, "store/instances/web-1/restoring"), "");
    assert_stands_by(world);
}

/* What its image boots from is of the image, and is lost only with that. */
static void instance_when_its_restore_from_firmware_was_cut_short_still_boots(void **state)
{
    struct world *world = *state;
    auto_free char *json = NULL;
    assert_true(asprintf(&json,
                         "\"state\":\"running\",\"intent\":\"restore\",\"vmm\":null,%.*s,"
                         "\"boot\":{\"kernel\":\"/kernel\",\"initrd\":null,\"cmdline\":\"a\"}}",
                         (int)strlen(world_machine) - 1, world_machine) > 0);
    world_leave_instance(world, "web-1", json);
    world_write_text(world_path(world, "store/instances/web-1/run/memory"), "x");
    world_write_text(world_path(world, "store/instances/web-1/run/state"), "x");
    for (int starts = 0; starts < 2; starts++) {
        open_world(world);
        struct instance *instance = world_found(world, "web-1");
        assert_int_equal(instance_state(instance), INSTANCE_STANDBY);
        assert_true(instance->machine.in_firmware);
        assert_string_equal(instance->machine.kernel, "/kernel");
        instance_unref(instance);
        world_close(world);
    }
    open_world(world);
    struct instance *instance = world_found(world, "web-1");
    assert_int_equal(instance_change(instance, INSTANCE_STOPPED, 0, &world->err), 0);
    instance_unref(instance);
    auto_json cJSON *record = NULL;
    auto_close int fd = open(world_path(world, "store/instances/web-1"), O_RDONLY | O_CLOEXEC);
    assert_int_equal(store_read_json(fd, "instance.json", &record, &world->err), 0);
    assert_true(cJSON_GetObjectItemCaseSensitive(record, "version")->valuedouble == 2);
    const cJSON *machine = cJSON_GetObjectItemCaseSensitive(record, "machine");
    assert_null(cJSON_GetObjectItemCaseSensitive(machine, "boot"));
}

/* Whoever is told of a change may look for the forks of what has changed: all are there. */
static void instances_when_they_are_loaded_are_all_there_before_one_changes(void **state)
{
    static const char *const ids[] = {"a", "b", "c"};
    struct world *world = *state;
    for (size_t i = 0; i < array_length(ids); i++) {
        leave_held(world, ids[i], "copy");
    }
    world_open_store(world);
    loading = world;
    looked_for = 0;
    world_open_layers(world);
    loading = NULL;
    assert_int_equal(looked_for, array_length(ids));
    for (size_t i = 0; i < array_length(ids); i++)
        assert_true(gate_wait(&world->changed, FIXTURE_FAR_MS));
    world->complaints[0] = 0; /* they do not answer */
}

/* Nothing looks at the instance any more when that is noticed. */
static void vmm_when_it_dies_as_soon_as_it_is_watched_is_noticed(void **state)
{
    struct world *world = *state;
    leave_running(world, "web-1");
    leave_held(world, "web-2", "pause");
    world_open_store(world);
    dying = world;
    world_open_layers(world);
    dying = NULL;
    struct instance *instance = instances_find(&world->instances, "web-1");
    assert_int_equal(instance_state(instance), INSTANCE_STOPPED);
    instance_unref(instance);
}

/* As others do who take its directory out of the store. */
static void instance_that_is_removed_while_it_is_found_is_no_matter(void **state)
{
    struct world *world = *state;
    leave_running(world, "web-1");
    leave_running(world, "web-2");
    world_open_store(world);
    dying = world;
    removing = true;
    world_open_layers(world);
    dying = NULL;
    world_await_idle(world);
    assert_int_equal(world_count(world_path(world, "store/instances")), 0);
}

/* Its VMM ends as soon as it is told that it has changed. */
static void end_vmm(struct world *world, const char *id)
{
    (void)id;
    world->on_changed = NULL;
    pidfd_send_signal(world->children[0].pidfd, SIGKILL, NULL, 0);
    assert_true(gate_wait(&world->changed, FIXTURE_FAR_MS));
}

/* Nobody lets it go on, so it is told of, and left as it is. */
static void vmm_when_no_thread_can_look_after_it_is_watched(void **state)
{
    struct world *world = *state;
    leave_held(world, "web-1", "standby");
    world_open_store(world);
    world->on_changed = end_vmm;
    fail_thread = true;
    world_open_layers(world);
    fail_thread = false;
    struct instance *instance = instances_find(&world->instances, "web-1");
    assert_int_equal(instance_state(instance), INSTANCE_STOPPED);
    instance_unref(instance);
    assert_non_null(strstr(world->complaints, "web-1 is paused, because work on it"));
    world->complaints[0] = 0;
}

/* A zombie: its parent lives, and has not asked for it. */
static void vmm_when_it_ended_and_was_not_reaped_has_ended(void **state)
{
    struct world *world = *state;
    size_t child = leave_held(world, "web-1", "resume");
    pidfd_send_signal(world->children[child].pidfd, SIGKILL, NULL, 0);
    assert_true(world_child_ended(world, child, FIXTURE_FAR_MS));
    open_world(world);
    struct instance *instance = instances_find(&world->instances, "web-1");
    assert_int_equal(instance_state(instance), INSTANCE_STOPPED);
    assert_true(instance->exit.ended);
    instance_unref(instance);
    assert_string_equal(world->complaints, "");
}

#define OPENED(test) cmocka_unit_test_setup_teardown(test, setup, world_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        OPENED(vmm_when_there_is_no_telling_whether_it_runs_is_left_alone),
        OPENED(vmm_when_it_cannot_be_described_is_not_put_on_record),
        OPENED(memory_when_no_vmm_runs_and_none_was_saved_is_dropped),
        OPENED(instance_when_its_restore_was_cut_short_stands_by),
        OPENED(instance_when_its_restore_from_firmware_was_cut_short_still_boots),
        OPENED(instances_when_they_are_loaded_are_all_there_before_one_changes),
        OPENED(vmm_when_it_dies_as_soon_as_it_is_watched_is_noticed),
        OPENED(instance_that_is_removed_while_it_is_found_is_no_matter),
        OPENED(vmm_when_no_thread_can_look_after_it_is_watched),
        OPENED(vmm_when_it_ended_and_was_not_reaped_has_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
