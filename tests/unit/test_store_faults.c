/* SPDX-License-Identifier: MIT */
/*
 * Every operation of the store, with each call of the C library that can fail failing in turn: the
 * first time the first one, then the second, until none was left to fail. Each failure has an errno
 * and a text, nothing is left open, and after a restart the store is as before or as after. A write
 * or fsync that fails is a failure, or is told of.
 */
#include "faults_fixture.h"
#include "instance/internal.h"
#include "world.h"

/* Memory of an instance that is in standby on record is all that there is of it. Only where the
 * store is full it goes all the same, for that makes room. */
static void check_record(int directory_fd, const char *name)
{
    if (strcmp(name, "memory") != 0 || (faults.failed && strcmp(faults.failed, "renameat") == 0))
        return;
    auto_json cJSON *json = NULL;
    faults_armed = false;
    if (store_read_json(directory_fd, "instance.json", &json, NULL) == 0) {
        const char *state = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "state"));
        assert_true(state && strcmp(state, "standby") != 0);
    }
    faults_armed = true;
}

/* ---- the store before ---- */

enum { FIRE_MEMORY = 1 << 20 };
static const char fire_machine[] =
    "\"machine\":{\"memory_bytes\":1048576,\"vcpus\":1,\"machine\":\"microvm\",\"accel\":\"kvm\","
    "\"network\":{\"mode\":\"none\",\"restrict\":false},\"disks\":[],\"type\":null,\"cpu\":null,"
    "\"host_cpu\":null,\"version\":\"1.7.0\"}";

/* "idle" was never run; "kept" is in standby, and so is "fire", which tests/fake_firecracker can
 * load; "base" is a snapshot. */
static void fill_store(struct world *world)
{
    static const char fire_state[] = "\0\0\x64\x86\x84\x19\x10\x07{\"version\":\"1.7.0\"}";
    uint8_t image[FIXTURE_MEMORY] = {0};
    auto_free char *json = NULL;
    frames_arm(image + FRAME_SIZE, "box", "token");
    assert_true(asprintf(&json, "\"state\":\"created\",%s,\"vmm\":null", world_machine) > 0);
    world_leave_instance(world, "idle", json);
    free(json);
    assert_true(asprintf(&json, "\"state\":\"standby\",%s,\"vmm\":null", world_machine) > 0);
    world_leave_instance(world, "kept", json);
    world_write(world_path(world, "store/instances/kept/run/memory"), 0600, image, sizeof image);
    world_write_text(world_path(world, "store/instances/kept/run/state"), "device");
    world_leave_instance(world, "fire", "");
    free(json);
    assert_true(asprintf(&json,
                         "{\"version\":1,\"id\":\"fire\",\"hypervisor\":\"firecracker\","
                         "\"state\":\"standby\",%s,\"vmm\":null}",
                         fire_machine) > 0);
    world_write_text(world_path(world, "store/instances/fire/instance.json"), json);
    world_write(world_path(world, "store/instances/fire/run/memory"), 0600, image, sizeof image);
    assert_int_equal(truncate(world_path(world, "store/instances/fire/run/memory"), FIRE_MEMORY),
                     0);
    world_write(world_path(world, "store/instances/fire/run/state"), 0600, fire_state,
                sizeof fire_state - 1);
    world_open_whole(world);
    world_publish_box(world, "base");
    /* Lists that are not there yet are made by threads, whenever those come to it. */
    static const char *const ids[] = {"kept", "fire"};
    for (size_t i = 0; i < array_length(ids); i++) {
        struct instance *instance = world_found(world, ids[i]);
        struct image_index *index;
        assert_int_equal(image_index_wait(instance->image, NULL, &index, &world->err), 0);
        image_index_unref(index);
        instance_unref(instance);
    }
}

/* ---- the operations ---- */

static int publish(struct world *world, struct error *err)
{
    static struct world_image image;
    image = (struct world_image){.size = FIXTURE_MEMORY};
    faults_armed = false;
    auto_json cJSON *json = world_snapshot_json(image.size);
    faults_armed = true;
    return snapshots_publish(&world->snapshots, "more", &json, world_fill, &image, err);
}

static int import(struct world *world, struct error *err)
{
    static struct world_image image;
    image = (struct world_image){.size = FIXTURE_MEMORY};
    faults_armed = false;
    auto_json cJSON *json = world_snapshot_json(image.size);
    faults_armed = true;
    const struct snapshot_import what = {
        .id = "more", .json = json, .fill = world_fill, .context = &image};
    size_t frames;
    return snapshot_import(&world->store, &what, &frames, err);
}

static int remove_snapshot(struct world *world, struct error *err)
{
    struct snapshot *base = snapshots_find(&world->snapshots, "base");
    int r = base ? snapshot_remove(base, err) : error_set(err, EIO, "not found");
    snapshot_unref(base);
    return r;
}

static int create(struct world *world, struct error *err)
{
    return instances_create(&world->instances, "more", err);
}

static int with(struct world *world, const char *id,
                int (*work)(struct instance *instance, struct error *err), struct error *err)
{
    struct instance *instance = instances_find(&world->instances, id);
    assert_non_null(instance);
    int r = work(instance, err);
    instance_unref(instance);
    return r;
}

static int write_config(struct instance *instance, struct error *err)
{
    static const char text[] = "{\"vcpus\":2,\"kernel\":\"/none\"}";
    return instance_set_config(instance, text, sizeof text - 1, err);
}

static int configure(struct world *world, struct error *err)
{
    return with(world, "idle", write_config, err);
}

static int remove_instance(struct world *world, struct error *err)
{
    return with(world, "idle", instance_remove, err);
}

static int take(struct instance *instance, struct error *err)
{
    return instance_snapshot(instance, "more", err);
}

static int take_snapshot(struct world *world, struct error *err)
{
    return with(world, "kept", take, err);
}

static int stop(struct instance *instance, struct error *err)
{
    return instance_change(instance, INSTANCE_STOPPED, 0, err);
}

static int stop_instance(struct world *world, struct error *err)
{
    return with(world, "kept", stop, err);
}

static int run(struct instance *instance, struct error *err)
{
    return instance_change(instance, INSTANCE_RUNNING, 0, err);
}

static int run_instance(struct world *world, struct error *err)
{
    return with(world, "fire", run, err);
}

/* A fork that is to be in standby: without a VMM. */
static int publish_fork(struct world *world, struct error *err)
{
    struct store_entry entry = {.fd = -1};
    struct instance *instance = NULL;
    struct machine machine = {.hypervisor = hypervisor_find("qemu")};
    struct vmm *vmm = NULL;
    cJSON *record = cJSON_CreateObject();
    struct instance_fork fork = {
        .entry = &entry,
        .vmm = &vmm,
        .machine = &machine,
        .source = {.id = "base", .uuid = "00000000000000000000000000000000"},
        .record = &record};
    json_add_number(record, "version", 1);
    int r = instances_reserve(&world->instances, "more", NULL, &instance, err);
    if (r == 0)
        r = store_entry_create(&world->store, STORE_INSTANCES, &entry, err);
    if (r == 0)
        r = instance_publish_fork(instance, &fork, err);
    store_entry_discard(&entry);
    instance_abandon(instance);
    machine_finish(&machine);
    cJSON_Delete(record);
    return r;
}

/* As a daemon does it, and ends if it fails. */
static int start(struct world *world, struct error *err)
{
    const struct instances_setup setup = {.store = &world->store,
                                          .snapshots = &world->snapshots,
                                          .programs = world->programs,
                                          .on_change = world_changed,
                                          .warn = world_complain,
                                          .context = world};
    struct instances *instances = &world->instances;
    struct snapshots *snapshots = &world->snapshots;
    *instances = (struct instances){0};
    *snapshots = (struct snapshots){0};
    int r = store_open(world->path, false, NULL, &world->store, err);
    bool is_open = r == 0;
    if (r == 0)
        r = snapshots_open(&world->store, world_scanned, world_complain, world, snapshots, err);
    if (r == 0)
        r = instances_open(&setup, instances, err);
    faults_armed = false;
    if (r == 0 && !world->complaints[0] &&
        (HASH_COUNT(snapshots->by_id) != 1 || HASH_COUNT(instances->by_id) != 3))
        fail_msg("after %s %u: something is missing, and no word", faults.failed, faults.fail_at);
    if (instances->setup.store)
        instances_close(instances);
    if (snapshots->store)
        snapshots_close(snapshots);
    if (is_open)
        store_close(&world->store);
    return r;
}

struct operation {
    int (*run)(struct world *world, struct error *err);
    bool starts; /* it is to be run without a daemon */
};

/* ---- one after the other ---- */

/* True if something has failed. `ret` is the store as the next daemon leaves it. */
static bool try(const struct operation *operation, unsigned at, int *ret_r, char *ret)
{
    void *state;
    assert_int_equal(world_setup_empty(&state), 0);
    struct world *world = state;
    fill_store(world);
    world->binary = (struct vmm_binary){"firecracker", getenv("FAKE_FIRECRACKER")};
    struct error err = {0};
    faults_begin(at);
    world_await_idle(world);
    int before = world_descriptors();
    if (operation->starts) {
        world_close(world);
        before = world_descriptors();
        assert_int_equal(vmm_programs_create(&world->programs, &err), 0);
    }
    world->complaints[0] = 0;
    faults_armed = true;
    int r = operation->run(world, &err);
    faults_armed = false;
    if (operation->starts)
        vmm_programs_destroy(world->programs);
    else
        world_await_idle(world);
    if (r == 0 && faults_lost_data() && !world->complaints[0])
        fail_msg("after %s %u: not a word", faults.failed, at);
    if (r < 0 && (err.code != -r || !err.text[0]))
        fail_msg("after %s %u: %d, and the error %d \"%s\"", faults.failed, at, r, err.code,
                 err.text);
    if ((r < 0 || operation->starts) && world_descriptors() != before)
        fail_msg("after %s %u: %d descriptors, and %d before", faults.failed, at,
                 world_descriptors(), before);
    world_close(world);
    world_open_store(world);
    world_open_layers(world);
    world_dump(world, ret);
    struct instance *instance = instances_find(&world->instances, "fire");
    if (instance && instance->vmm)
        assert_int_equal(stop(instance, &err), 0);
    instance_unref(instance);
    world_teardown(&state);
    *ret_r = r;
    return faults.failed != NULL;
}

static void operation_when_any_call_fails_leaves_all_or_nothing(void **state)
{
    const struct operation *operation = *state;
    char before[DUMP_SIZE], after[DUMP_SIZE], now[DUMP_SIZE];
    int r;
    assert_false(try(operation, 0, &r, after));
    assert_int_equal(r, 0);
    void *empty;
    assert_int_equal(world_setup_empty(&empty), 0);
    fill_store(empty);
    world_restart(empty);
    world_dump(empty, before);
    world_teardown(&empty);
    unsigned at = 1;
    for (; try(operation, at, &r, now); at++) {
        bool as_before = strcmp(now, before) == 0, as_after = strcmp(now, after) == 0;
        if (!as_after && (r == 0 || !as_before))
            fail_msg("after %s %u, with %d, the store is\n%sbefore it was\n%sit should be\n%s",
                     faults.failed, at, r, now, before, after);
    }
    assert_int_equal(r, 0);
    assert_true(at > 3); /* else the calls were not those of the build file */
}

/* "fire" runs, and is put into standby. True if something has failed. */
static bool try_standby(struct world *world, unsigned at, int *ret_r)
{
    fill_store(world);
    world->binary = (struct vmm_binary){"firecracker", getenv("FAKE_FIRECRACKER")};
    struct instance *instance = world_found(world, "fire");
    assert_int_equal(run(instance, &world->err), 0);
    faults_begin(at);
    faults_armed = true;
    *ret_r = instance_change(instance, INSTANCE_STANDBY, 0, &world->err);
    faults_armed = false;
    enum instance_state state = instance_state(instance);
    assert_int_equal(state, *ret_r == 0 ? INSTANCE_STANDBY : INSTANCE_RUNNING);
    instance_unref(instance);
    world_restart(world);
    instance = world_found(world, "fire");
    assert_int_equal(instance_state(instance), state);
    assert_int_equal(stop(instance, &world->err), 0);
    instance_unref(instance);
    return faults.failed != NULL;
}

/* Also the last fsync of the record, which has taken the place of the one before by then. */
static void standby_when_an_fsync_fails_keeps_what_the_record_tells_of(void **state)
{
    unsigned at = 1;
    int r;
    (void)state;
    faults.only = "fsync";
    for (bool more = true; more; at++) {
        void *world;
        assert_int_equal(world_setup_empty(&world), 0);
        more = try_standby(world, at, &r);
        world_teardown(&world);
    }
    faults.only = NULL;
    assert_int_equal(r, 0);
    assert_true(at > 4); /* memory, state, and the record twice */
}

static struct operation operations[] = {
    {start, true},
    {publish, false},
    {import, false},
    {remove_snapshot, false},
    {create, false},
    {configure, false},
    {remove_instance, false},
    {take_snapshot, false},
    {stop_instance, false},
    {publish_fork, false},
    {run_instance, false},
};

#define TEST(number, title)                                                                        \
    {                                                                                              \
        .name = title, .test_func = operation_when_any_call_fails_leaves_all_or_nothing,           \
        .initial_state = &operations[number]                                                       \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(0, "start_when_any_call_fails_says_so_and_loses_nothing"),
        TEST(1, "publish_when_any_call_fails_leaves_all_or_nothing"),
        TEST(2, "import_when_any_call_fails_leaves_all_or_nothing"),
        TEST(3, "removal_of_a_snapshot_when_any_call_fails_leaves_all_or_nothing"),
        TEST(4, "create_when_any_call_fails_leaves_all_or_nothing"),
        TEST(5, "config_when_any_call_fails_is_the_old_or_the_new"),
        TEST(6, "removal_of_an_instance_when_any_call_fails_leaves_all_or_nothing"),
        TEST(7, "snapshot_of_an_instance_when_any_call_fails_leaves_all_or_nothing"),
        TEST(8, "stop_when_any_call_fails_leaves_all_or_nothing"),
        TEST(9, "fork_when_any_call_fails_leaves_all_or_nothing"),
        TEST(10, "restore_when_any_call_fails_leaves_all_or_nothing"),
        cmocka_unit_test(standby_when_an_fsync_fails_keeps_what_the_record_tells_of),
    };
    faults.unlinking = check_record;
    cJSON_InitHooks(&(cJSON_Hooks){.malloc_fn = malloc, .free_fn = free});
    return cmocka_run_group_tests(tests, NULL, NULL);
}
