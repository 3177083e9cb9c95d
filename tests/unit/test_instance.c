/* SPDX-License-Identifier: MIT */
#include <sys/epoll.h>
#include <sys/resource.h>

#include "world.h"

/* Called with each descriptor before it is watched; see epoll_ctl in the build file. */
static void (*on_watch)(void *context);
static void *on_watch_context;

int __real_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event);

int __wrap_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event)
{
    if (on_watch)
        on_watch(on_watch_context);
    return __real_epoll_ctl(epoll_fd, operation, fd, event);
}

static struct instance *made(struct world *world, const char *id)
{
    if (instances_create(&world->instances, id, &world->err) < 0)
        fail_msg("%s", world->err.text);
    struct instance *instance = instances_find(&world->instances, id);
    assert_non_null(instance);
    return instance;
}

/* One is that of the directory in which its VMM will work. */
static void instance_at_rest_has_one_descriptor(void **state)
{
    struct world *world = *state;
    const int before = world_descriptors();
    struct instance *instance = made(world, "web-1");
    assert_int_equal(world_descriptors(), before + 1);
    assert_int_equal(instance_set_config(instance, "{}", 2, &world->err), 0);
    assert_int_equal(world_descriptors(), before + 1);
    assert_int_equal(instance_change(instance, INSTANCE_STOPPED, 0, &world->err), 0);
    assert_int_equal(world_descriptors(), before + 1);
    instance_unref(instance);
    world_restart(world);
    assert_int_equal(world_descriptors(), before + 1);
}

static void instance_when_created_is_there_whole(void **state)
{
    static const char *const members[] = {"id",          "state",      "hypervisor", "pid",
                                          "confinement", "created_at", "source",     "memory_bytes",
                                          "config",      "pause_ms",   "switched",   "exit"};
    struct world *world = *state;
    size_t count = 0;
    struct instance *instance = made(world, "web-1");
    assert_int_equal(instance_state(instance), INSTANCE_CREATED);
    assert_int_equal(world_count(world_path(world, "store/instances")), 1);
    assert_int_equal(world_count(world_path(world, "store/instances/web-1")), 4);
    auto_free char *console = world_read(world_path(world, "store/instances/web-1/console.log"));
    auto_free char *log = world_read(world_path(world, "store/instances/web-1/vmm.log"));
    assert_string_equal(console, "");
    assert_string_equal(log, "");
    auto_free char *text = instance_info(instance);
    auto_json cJSON *info = cJSON_Parse(text);
    const cJSON *item;
    cJSON_ArrayForEach (item, info) {
        assert_true(count < array_length(members));
        assert_string_equal(item->string, members[count++]);
    }
    assert_int_equal(count, array_length(members));
    assert_true(text[strlen(text) - 1] == '\n');
    instance_unref(instance);
}

static void info_when_config_is_private_does_not_show_it(void **state)
{
    static const char config[] =
        "{\"kernel\":\"/secret/a\",\"initrd\":\"/secret/b\",\"cmdline\":\"secret\",\"vcpus\":3,"
        "\"disks\":[{\"path\":\"/secret/c\",\"format\":\"raw\"}],"
        "\"network\":{\"mode\":\"tap\",\"tap\":\"secret\",\"mac\":\"02:00:00:00:00:01\"}}";
    static const char wanted[] =
        "{\"hypervisor\":\"qemu\",\"machine\":\"microvm\",\"accel\":\"auto\",\"vcpus\":3,"
        "\"memory_mib\":256,\"network\":{\"mode\":\"tap\"},\"disks\":1}";
    struct world *world = *state;
    struct instance *instance = made(world, "web-1");
    assert_int_equal(instance_set_config(instance, config, strlen(config), &world->err), 0);
    auto_free char *text = instance_info(instance);
    auto_json cJSON *info = cJSON_Parse(text);
    auto_free char *shown =
        cJSON_PrintUnformatted(cJSON_GetObjectItemCaseSensitive(info, "config"));
    assert_string_equal(shown, wanted);
    assert_null(strstr(text, "secret"));
    assert_null(strstr(text, "02:00:00:00")); /* the time may be 02:00 */
    instance_unref(instance);
}

static void instance_when_its_id_is_bad_or_taken_is_not_created(void **state)
{
    struct world *world = *state;
    instance_unref(made(world, "web-1"));
    int before = world_descriptors();
    assert_int_equal(instances_create(&world->instances, "web-1", &world->err), -EEXIST);
    assert_non_null(strstr(world->err.text, "web-1"));
    assert_int_equal(instances_create(&world->instances, "new", &world->err), -EINVAL);
    assert_int_equal(instances_create(&world->instances, "Web", &world->err), -EINVAL);
    assert_int_equal(instances_create(&world->instances, "", &world->err), -EINVAL);
    assert_non_null(strstr(world->err.text, "not an id"));
    /* One in the store that could not be read is not overwritten. */
    assert_int_equal(mkdir(world_path(world, "store/instances/broken"), 0700), 0);
    assert_int_equal(instances_create(&world->instances, "broken", &world->err), -EEXIST);
    assert_int_equal(instances_create(&world->instances, "broken", &world->err), -EEXIST);
    assert_int_equal(world_count(world_path(world, "store/instances")), 2);
    assert_int_equal(world_descriptors(), before);
}

static void reservation_when_held_hides_the_id_from_all_others(void **state)
{
    struct world *world = *state;
    struct instance *instance = NULL, *other = NULL;
    size_t count = 7;
    assert_int_equal(instances_reserve(&world->instances, "web-1", NULL, &instance, &world->err),
                     0);
    assert_null(instances_find(&world->instances, "web-1"));
    auto_free struct snapshot_name *names = instances_list(&world->instances, NULL, &count);
    assert_non_null(names);
    assert_int_equal(count, 0);
    assert_int_equal(instances_reserve(&world->instances, "web-1", NULL, &other, &world->err),
                     -EEXIST);
    assert_null(other);
    assert_int_equal(instances_create(&world->instances, "web-1", &world->err), -EEXIST);
    instance_abandon(instance);
    instance_unref(made(world, "web-1"));
    assert_int_equal(instances_reserve(&world->instances, "web-1", NULL, &other, &world->err),
                     -EEXIST);
    instance_abandon(NULL);
}

static void *reserve(void *argument)
{
    struct world *world = argument;
    struct instance *instance = NULL;
    instances_reserve(&world->instances, "web-1", NULL, &instance, NULL);
    return instance;
}

static void reservation_when_many_try_at_once_is_one(void **state)
{
    struct world *world = *state;
    pthread_t threads[8];
    int count = 0;
    for (size_t i = 0; i < array_length(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, reserve, world), 0);
    for (size_t i = 0; i < array_length(threads); i++) {
        void *instance;
        assert_int_equal(pthread_join(threads[i], &instance), 0);
        count += instance != NULL;
        instance_abandon(instance);
    }
    assert_in_range(count, 1, array_length(threads));
    instance_unref(made(world, "web-1"));
}

static void assert_config(struct instance *instance, const char *wanted)
{
    auto_free char *text = instance_config(instance);
    assert_string_equal(text, wanted);
}

static void config_when_written_is_kept_as_it_was_written(void **state)
{
    static const char text[] = "{\n  \"vcpus\": 2e0 , \"memory_mib\":64}\n\n";
    struct world *world = *state;
    struct instance *instance = made(world, "web-1");
    assert_int_equal(instance_check_config_writable(instance, &world->err), 0);
    assert_int_equal(instance_set_config(instance, text, sizeof text - 1, &world->err), 0);
    assert_config(instance, text);
    assert_int_equal(instance->machine.vcpus, 2);
    assert_int_equal(instance->machine.memory_bytes, 64 << 20);
    assert_int_equal(instance_set_config(instance, "{}", 2, &world->err), 0);
    assert_config(instance, "{}");
    assert_int_equal(instance->machine.vcpus, 1);
    instance_unref(instance);
}

static void config_when_refused_stays_as_it_was(void **state)
{
    struct world *world = *state;
    struct instance *instance = made(world, "web-1");
    struct rlimit before, none;
    assert_int_equal(instance_set_config(instance, "{\"vcpus\":3}", 11, &world->err), 0);
    assert_int_equal(instance_set_config(instance, "{\"vcpus\":0}", 11, &world->err), -EINVAL);
    assert_config(instance, "{\"vcpus\":3}");
    /* A full disk. */
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    none = (struct rlimit){0, before.rlim_max};
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    int r = instance_set_config(instance, "{\"vcpus\":5}", 11, &world->err);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, handler);
    assert_int_equal(r, -EFBIG);
    assert_config(instance, "{\"vcpus\":3}");
    assert_int_equal(instance->machine.vcpus, 3);
    assert_int_equal(instance_set_config(instance, "{\"vcpus\":4}", 11, &world->err), 0);
    instance_unref(instance);
}

static void instance_when_removed_is_gone_whole(void **state)
{
    struct world *world = *state;
    struct instance *instance = made(world, "web-1");
    uint64_t serial = instance->serial;
    assert_int_equal(instance_remove(instance, &world->err), 0);
    store_await_erased(&world->store);
    assert_int_equal(world_count(world_path(world, "store/instances")), 0);
    assert_null(instances_find(&world->instances, "web-1"));
    assert_int_equal(instance_remove(instance, &world->err), -ENODEV);
    assert_int_equal(instance_check_config_writable(instance, &world->err), -ENODEV);
    assert_int_equal(instance_set_config(instance, "{}", 2, &world->err), -ENODEV);
    assert_int_equal(instance_change(instance, INSTANCE_RUNNING, 0, &world->err), -ENODEV);
    assert_int_equal(instance_snapshot(instance, "base", &world->err), -ENODEV);
    struct instance *again = made(world, "web-1");
    assert_true(again->serial > serial);
    auto_free char *info = instance_info(instance); /* what is held stays readable */
    assert_non_null(info);
    assert_string_equal(world->happenings, "made web-1 created created\n"
                                           "removed web-1 created created\n"
                                           "made web-1 created created\n");
    instance_unref(again);
    instance_unref(instance);
}

/* What a fork's engine has when the guest runs. */
struct parts {
    struct world *world;
    struct snapshot *source;
    struct instance *instance;
    struct store_entry entry;
    struct machine machine;
    struct vmm *vmm;
    cJSON *record;
    struct instance_fork fork;
    size_t child;
    bool seen; /* when it is first watched */
};

static void make_parts(struct world *world, struct parts *parts)
{
    *parts = (struct parts){.world = world, .entry.fd = -1};
    world_publish_box(world, "base");
    parts->source = snapshots_find(&world->snapshots, "base");
    parts->child = world_spawn(world, NULL);
    int pidfd = fcntl(world->children[parts->child].pidfd, F_DUPFD_CLOEXEC, 0);
    assert_int_equal(vmm_create(hypervisor_find("qemu"), world->children[parts->child].pid, pidfd,
                                &parts->vmm, &world->err),
                     0);
    assert_int_equal(
        machine_from_json(snapshot_machine(parts->source), &parts->machine, &world->err), 0);
    parts->machine.hypervisor = hypervisor_find("qemu");
    assert_int_equal(
        instances_reserve(&world->instances, "fork-1", NULL, &parts->instance, &world->err), 0);
    assert_int_equal(store_entry_create(&world->store, STORE_INSTANCES, &parts->entry, &world->err),
                     0);
    parts->record = cJSON_CreateObject();
    assert_int_equal(snapshot_use(parts->source, &world->err), 0);
    parts->fork = (struct instance_fork){.entry = &parts->entry,
                                         .vmm = &parts->vmm,
                                         .machine = &parts->machine,
                                         .mapped = parts->source,
                                         .source.id = "base",
                                         .record = &parts->record};
    memcpy(parts->fork.source.uuid, parts->source->uuid, sizeof parts->source->uuid);
}

static void look_for_fork(void *context)
{
    struct parts *parts = context; /* the lock is held */
    parts->seen |= parts->instance->published;
}

static size_t count_forks(struct world *world, const char *source_uuid)
{
    size_t count;
    auto_free struct snapshot_name *forks = instances_list(&world->instances, source_uuid, &count);
    assert_non_null(forks);
    return count;
}

static void fork_when_published_runs_and_is_watched(void **state)
{
    struct world *world = *state;
    struct parts parts;
    make_parts(world, &parts);
    assert_int_equal(instance_publish_fork(parts.instance, &parts.fork, &world->err), 0);
    assert_true(!parts.vmm && !parts.record && parts.entry.fd == -1);
    struct instance *fork = instances_find(&world->instances, "fork-1");
    assert_ptr_equal(fork, parts.instance);
    assert_int_equal(instance_state(fork), INSTANCE_RUNNING);
    assert_int_equal(parts.source->users, 1);
    assert_int_equal(count_forks(world, parts.source->uuid), 1);
    assert_int_equal(count_forks(world, fork->uuid), 0);
    assert_int_equal(instance_check_config_writable(fork, &world->err), -EBUSY);
    assert_non_null(strstr(world->err.text, "running"));
    instance_abandon(parts.instance);
    pidfd_send_signal(world->children[parts.child].pidfd, SIGKILL, NULL, 0);
    assert_true(gate_wait(&world->changed, FIXTURE_FAR_MS));
    assert_int_equal(instance_state(fork), INSTANCE_STOPPED);
    assert_int_equal(parts.source->users, 0);
    assert_int_equal(instance_change(fork, INSTANCE_RUNNING, 0, &world->err), -EOPNOTSUPP);
    assert_non_null(strstr(world->err.text, "\"kernel\""));
    assert_int_equal(instance_remove(fork, &world->err), 0);
    assert_int_equal(count_forks(world, parts.source->uuid), 0);
    instance_unref(fork);
    snapshot_unref(parts.source);
}

/* Whoever sees the fork may stop it at once: by then nothing else may touch its VMM. */
static void fork_when_others_see_it_is_watched_already(void **state)
{
    struct world *world = *state;
    struct parts parts;
    make_parts(world, &parts);
    on_watch_context = &parts;
    on_watch = look_for_fork;
    int r = instance_publish_fork(parts.instance, &parts.fork, &world->err);
    on_watch = NULL;
    assert_int_equal(r, 0);
    assert_false(parts.seen);
    look_for_fork(&parts);
    assert_true(parts.seen);
    instance_abandon(parts.instance);
    snapshot_unref(parts.source);
}

static void fork_when_it_cannot_be_published_stays_the_callers(void **state)
{
    struct world *world = *state;
    struct parts parts;
    make_parts(world, &parts);
    assert_int_equal(mkdir(world_path(world, "store/instances/fork-1"), 0700), 0);
    assert_int_equal(instance_publish_fork(parts.instance, &parts.fork, &world->err), -EEXIST);
    assert_true(parts.vmm && parts.record && parts.entry.fd >= 0 && parts.machine.type);
    assert_null(instances_find(&world->instances, "fork-1"));
    assert_int_equal(parts.source->users, 1);
    assert_false(world_child_ended(world, parts.child, 0));
    vmm_close(parts.vmm);
    machine_finish(&parts.machine);
    cJSON_Delete(parts.record);
    store_entry_discard(&parts.entry);
    instance_abandon(parts.instance);
    snapshot_leave(parts.source);
    snapshot_unref(parts.source);
    assert_int_equal(world_count(world_path(world, "store/instances")), 1);
}

/* The VMM dies just before it is watched. */
static void kill_child(void *context)
{
    struct parts *parts = context;
    pidfd_send_signal(parts->world->children[parts->child].pidfd, SIGKILL, NULL, 0);
    assert_true(world_child_ended(parts->world, parts->child, FIXTURE_FAR_MS));
}

static void fork_when_its_vmm_dies_while_it_is_published_is_stopped(void **state)
{
    struct world *world = *state;
    struct parts parts;
    make_parts(world, &parts);
    on_watch_context = &parts;
    on_watch = kill_child;
    int r = instance_publish_fork(parts.instance, &parts.fork, &world->err);
    on_watch = NULL;
    assert_int_equal(r, 0);
    assert_true(gate_wait(&world->changed, FIXTURE_FAR_MS));
    assert_int_equal(instance_state(parts.instance), INSTANCE_STOPPED);
    assert_string_equal(world->happenings, "published base\n"
                                           "made fork-1 running running\n"
                                           "ended fork-1 running running\n"
                                           "state fork-1 running stopped\n");
    assert_int_equal(parts.source->users, 0);
    instance_abandon(parts.instance);
    instance_unref(made(world, "other"));
    snapshot_unref(parts.source);
}

static void instance_when_others_took_its_directory_is_removed_and_no_other_erased(void **state)
{
    struct world *world = *state;
    char place[PATH_MAX];
    snprintf(place, sizeof place, "%s", world_path(world, "store/instances/web-1"));
    assert_int_equal(instances_create(&world->instances, "web-1", &world->err), 0);
    struct instance *instance = instances_find(&world->instances, "web-1");
    assert_int_equal(instance_remove_vanished(instance, &world->err), -EEXIST);
    assert_int_equal(rename(place, world_path(world, "away")), 0);
    assert_int_equal(mkdir(place, 0700), 0);
    assert_int_equal(instance_remove_vanished(instance, &world->err), -EBUSY);
    assert_int_equal(instance_remove(instance, &world->err), -EBUSY);
    assert_int_equal(rmdir(place), 0);
    assert_int_equal(instance_remove_vanished(instance, &world->err), 0);
    assert_true(world_has(world_path(world, "away/instance.json")));
    instance_unref(instance);
}

/* Before anything is done for it: its VM would be shown as waiting, in the place of what the
 * store's notes tell of. */
static void reservation_when_the_id_is_taken_in_the_store_is_refused(void **state)
{
    struct world *world = *state;
    struct instance *instance;
    assert_int_equal(mkdir(world_path(world, "store/instances/web-1"), 0700), 0);
    assert_int_equal(instances_reserve(&world->instances, "web-1", NULL, &instance, &world->err),
                     -EEXIST);
    assert_non_null(strstr(world->err.text, "is taken in the store"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_WORLD(instance_at_rest_has_one_descriptor),
        IN_WORLD(instance_when_created_is_there_whole),
        IN_WORLD(instance_when_its_id_is_bad_or_taken_is_not_created),
        IN_WORLD(info_when_config_is_private_does_not_show_it),
        IN_WORLD(reservation_when_held_hides_the_id_from_all_others),
        IN_WORLD(reservation_when_many_try_at_once_is_one),
        IN_WORLD(config_when_written_is_kept_as_it_was_written),
        IN_WORLD(config_when_refused_stays_as_it_was),
        IN_WORLD(instance_when_removed_is_gone_whole),
        IN_WORLD(fork_when_published_runs_and_is_watched),
        IN_WORLD(fork_when_others_see_it_is_watched_already),
        IN_WORLD(fork_when_it_cannot_be_published_stays_the_callers),
        IN_WORLD(fork_when_its_vmm_dies_while_it_is_published_is_stopped),
        IN_WORLD(reservation_when_the_id_is_taken_in_the_store_is_refused),
        IN_WORLD(instance_when_others_took_its_directory_is_removed_and_no_other_erased),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
