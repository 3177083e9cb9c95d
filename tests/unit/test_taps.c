/* SPDX-License-Identifier: MIT */
/* Which instance has which tap: forks, boots, VMMs that a daemon finds running. */
#include "fork/engine.h"
#include "instance/internal.h"
#include "world.h"

#define ON_TAP(tap) "{\"mode\":\"tap\",\"restrict\":false,\"interfaces\":[{\"tap\":\"" tap "\"}]}"
#define CONFIG_ON_TAP(tap) "{\"kernel\":\"/k\",\"network\":{\"mode\":\"tap\",\"tap\":\"" tap "\"}}"

static const char in_use[] = "the tap t0 is in use by the instance web-1: give another";

static struct machine machine_on(char *tap)
{
    static struct machine_interface interface;
    interface.tap = tap;
    return (struct machine){.network = NETWORK_TAP, .interfaces = &interface, .interface_count = 1};
}

static int reserve(struct world *world, const char *id, char *tap, struct instance **ret)
{
    struct machine machine = machine_on(tap);
    return instances_reserve(&world->instances, id, &machine, ret, &world->err);
}

/* A snapshot with that network, of which nothing but its record is looked at. */
static void publish(struct world *world, const char *id, const char *network)
{
    struct world_image image = {.size = FIXTURE_MEMORY};
    auto_json cJSON *json = world_snapshot_json(FIXTURE_MEMORY);
    cJSON *machine = cJSON_GetObjectItemCaseSensitive(json, "machine");
    cJSON_ReplaceItemInObjectCaseSensitive(machine, "network", cJSON_Parse(network));
    if (snapshots_publish(&world->snapshots, id, &json, world_fill, &image, &world->err) < 0)
        fail_msg("%s", world->err.text);
}

static void assert_fork_fails(struct world *world, const char *source, const char *tap, int code,
                              const char *why)
{
    const struct fork_engine engine = {
        .instances = &world->instances, .ack_address = "127.0.0.1", .cancel_fd = -1};
    struct fork_request request = {
        .id = "fork-1", .options = {.tap = tap ? strdup(tap) : NULL}, .options_text = strdup("{}")};
    struct fork_outcome outcome;
    struct error err = {0};
    struct snapshot *snapshot = snapshots_find(&world->snapshots, source);
    assert_non_null(snapshot);
    const struct fork_source origin = {.snapshot = snapshot};
    int r = fork_run(&engine, &origin, &request, &outcome, &err);
    if (r != -code || !strstr(err.text, why))
        fail_msg("%d, %s", r, err.text);
    cJSON_Delete(outcome.result);
    snapshot_unref(snapshot);
}

/* An instance whose VMM, a child, runs on the tap t0. */
static size_t leave_on_tap(struct world *world)
{
    return world_leave_with_vmm(
        world, "web-1",
        "\"state\":\"running\",\"machine\":{\"memory_bytes\":8192,\"vcpus\":1,"
        "\"machine\":\"microvm\",\"accel\":\"tcg\",\"network\":" ON_TAP(
            "t0") ",\"disks\":[],"
                  "\"type\":\"microvm\",\"cpu\":\"max\",\"version\":\"7.2.22\"}");
}

static void tap_when_reserved_is_nobody_elses_until_given_back(void **state)
{
    struct world *world = *state;
    struct instance *instance = NULL, *other = NULL, *second = NULL;
    assert_int_equal(reserve(world, "web-1", (char[]){"t0"}, &instance), 0);
    assert_int_equal(reserve(world, "web-2", (char[]){"t0"}, &other), -EBUSY);
    assert_non_null(strstr(world->err.text, in_use));
    assert_int_equal(reserve(world, "web-1", (char[]){"t0"}, &other), -EEXIST);
    assert_int_equal(reserve(world, "web-2", (char[]){"t"}, &second), 0);
    assert_null(other);
    instance_abandon(instance);
    assert_int_equal(reserve(world, "web-3", (char[]){"t0"}, &other), 0);
    instance_abandon(other);
    instance_abandon(second);
}

static pthread_barrier_t together;

struct
try {
    struct world *world;
    char id[8];
    struct instance *instance;
    int result;
};

static void *try_to_reserve(void *argument)
{
    struct try *try = argument;
    struct machine_interface interface = {.tap = (char[]){"t0"}};
    struct machine machine = {.interfaces = &interface, .interface_count = 1};
    pthread_barrier_wait(&together);
    try->result =
        instances_reserve(&try->world->instances, try->id, &machine, &try->instance, NULL);
    return NULL;
}

static void tap_when_many_want_it_at_once_is_ones(void **state)
{
    struct try tries[8];
    pthread_t threads[array_length(tries)];
    int count = 0;
    pthread_barrier_init(&together, NULL, array_length(tries));
    for (size_t i = 0; i < array_length(tries); i++) {
        tries[i] = (struct try){.world = *state};
        snprintf(tries[i].id, sizeof tries[i].id, "i%zu", i);
        assert_int_equal(pthread_create(&threads[i], NULL, try_to_reserve, &tries[i]), 0);
    }
    for (size_t i = 0; i < array_length(tries); i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < array_length(tries); i++) {
        assert_true(tries[i].result == 0 || tries[i].result == -EBUSY);
        count += tries[i].result == 0;
        instance_abandon(tries[i].instance);
    }
    pthread_barrier_destroy(&together);
    assert_int_equal(count, 1);
}

static void fork_when_the_source_has_no_tap_takes_none(void **state)
{
    struct world *world = *state;
    publish(world, "base", "{\"mode\":\"user\",\"restrict\":false}");
    publish(world, "two",
            "{\"mode\":\"tap\",\"restrict\":false,\"interfaces\":[{\"tap\":\"a\"},{\"tap\":\"b\"}]"
            "}");
    assert_fork_fails(world, "base", "t0", EINVAL,
                      "options: \"tap\" cannot be used with the snapshot base: the machine has no "
                      "interface on a tap");
    assert_fork_fails(world, "two", "t0", EINVAL, "the machine has 2 interfaces on taps");
}

static void fork_when_its_tap_is_in_use_is_busy(void **state)
{
    struct world *world = *state;
    struct instance *instance = NULL;
    publish(world, "base", ON_TAP("t0"));
    publish(world, "other", ON_TAP("t1"));
    assert_int_equal(reserve(world, "web-1", (char[]){"t0"}, &instance), 0);
    assert_fork_fails(world, "base", NULL, EBUSY, in_use);
    assert_fork_fails(world, "base", "t0", EBUSY, in_use);
    assert_fork_fails(world, "other", "t0", EBUSY, in_use);
    /* These get to their VMM, of which there is none; and give their taps back. */
    assert_fork_fails(world, "other", NULL, EIO, world->qemu);
    assert_fork_fails(world, "base", "t1", EIO, world->qemu);
    instance_abandon(instance);
    assert_fork_fails(world, "base", NULL, EIO, world->qemu);
    assert_fork_fails(world, "base", "t0", EIO, world->qemu);
}

static void fork_when_the_tap_is_not_there_is_eio_and_names_it(void **state)
{
    struct world *world = *state;
    publish(world, "base", ON_TAP("t0"));
    world_install_qemu(world, world_qemu_that_dies);
    assert_fork_fails(world, "base", "no-such-tap-0", EIO, "the tap no-such-tap-0: No such device");
}

static void vmm_when_found_running_has_its_tap_until_it_ends(void **state)
{
    struct world *world = *state;
    struct instance *other = NULL;
    leave_on_tap(world);
    world_open_whole(world);
    assert_int_equal(reserve(world, "web-2", (char[]){"t0"}, &other), -EBUSY);
    assert_non_null(strstr(world->err.text, in_use));
    struct instance *instance = world_found(world, "web-1");
    auto_free char *config = instance_config(instance);
    assert_non_null(strstr(config, "\"tap\": \"t0\""));
    assert_int_equal(instance_change(instance, INSTANCE_STOPPED, 0, &world->err), 0);
    instance_unref(instance);
    assert_int_equal(reserve(world, "web-2", (char[]){"t0"}, &other), 0);
    instance_abandon(other);
}

static void boot_when_the_tap_is_in_use_is_busy(void **state)
{
    struct world *world = *state;
    struct instance *other = NULL;
    leave_on_tap(world);
    world_open_whole(world);
    assert_int_equal(instances_create(&world->instances, "web-2", &world->err), 0);
    struct instance *first = world_found(world, "web-1"), *instance = world_found(world, "web-2");
    static const char config[] = CONFIG_ON_TAP("t0");
    assert_int_equal(instance_set_config(instance, config, strlen(config), &world->err), 0);
    assert_int_equal(instance_change(instance, INSTANCE_RUNNING, 0, &world->err), -EBUSY);
    assert_non_null(strstr(world->err.text, in_use));
    assert_int_equal(instance_state(instance), INSTANCE_CREATED);
    assert_int_equal(instance_change(first, INSTANCE_STOPPED, 0, &world->err), 0);
    /* It gets to its VMM, of which there is none, and gives the tap back. */
    assert_int_equal(instance_change(instance, INSTANCE_RUNNING, 0, &world->err), -EIO);
    assert_int_equal(reserve(world, "web-3", (char[]){"t0"}, &other), 0);
    instance_abandon(other);
    instance_unref(first);
    instance_unref(instance);
}

static void fork_when_published_keeps_its_tap_over_a_restart(void **state)
{
    struct world *world = *state;
    struct instance *instance = NULL, *other = NULL;
    struct store_entry entry = {.fd = -1};
    struct vmm *vmm = NULL;
    struct machine machine = {0};
    publish(world, "base", ON_TAP("t0"));
    struct snapshot *base = snapshots_find(&world->snapshots, "base");
    assert_int_equal(store_entry_create(&world->store, STORE_INSTANCES, &entry, &world->err), 0);
    size_t child = world_spawn_vmm(world, world_path(world, "store/instances/%s/run", entry.name));
    int pidfd = fcntl(world->children[child].pidfd, F_DUPFD_CLOEXEC, 0);
    assert_int_equal(machine_from_json(snapshot_machine(base), &machine, &world->err), 0);
    machine.hypervisor = hypervisor_find("qemu");
    assert_int_equal(machine_set_tap(&machine, "t7", &world->err), 0);
    assert_int_equal(
        vmm_create(machine.hypervisor, world->children[child].pid, pidfd, &vmm, &world->err), 0);
    assert_int_equal(
        instances_reserve(&world->instances, "fork-1", &machine, &instance, &world->err), 0);
    assert_int_equal(snapshot_use(base, &world->err), 0);
    cJSON *record = cJSON_CreateObject();
    struct instance_fork fork = {.entry = &entry,
                                 .vmm = &vmm,
                                 .machine = &machine,
                                 .mapped = base,
                                 .source = fork_source_id(&(struct fork_source){.snapshot = base}),
                                 .record = &record};
    assert_int_equal(instance_publish_fork(instance, &fork, &world->err), 0);
    instance_abandon(instance);
    snapshot_unref(base);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(reserve(world, "web-2", (char[]){"t7"}, &other), -EBUSY);
        assert_int_equal(reserve(world, "web-2", (char[]){"t0"}, &other), 0);
        instance_abandon(other);
        world_restart(world);
    }
    auto_free char *kept = world_read(world_path(world, "store/instances/fork-1/instance.json"));
    assert_true(strstr(kept, "\"t7\"") && !strstr(kept, "\"t0\""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_WORLD(tap_when_reserved_is_nobody_elses_until_given_back),
        IN_WORLD(tap_when_many_want_it_at_once_is_ones),
        IN_WORLD(fork_when_the_source_has_no_tap_takes_none),
        IN_WORLD(fork_when_its_tap_is_in_use_is_busy),
        IN_WORLD(fork_when_the_tap_is_not_there_is_eio_and_names_it),
        IN_EMPTY(vmm_when_found_running_has_its_tap_until_it_ends),
        IN_EMPTY(boot_when_the_tap_is_in_use_is_busy),
        IN_WORLD(fork_when_published_keeps_its_tap_over_a_restart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
