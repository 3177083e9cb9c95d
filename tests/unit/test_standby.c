/* SPDX-License-Identifier: MIT */
/* What becomes of the saved memory of an instance in standby. */
#include "world.h"

/* The state on record when the memory was unlinked. */
static char state_on_record[16];

int __real_unlinkat(int directory_fd, const char *name, int flags);
int __wrap_unlinkat(int directory_fd, const char *name, int flags);

int __wrap_unlinkat(int directory_fd, const char *name, int flags)
{
    auto_json cJSON *json = NULL;
    if (strcmp(name, "memory") == 0 &&
        store_read_json(directory_fd, "../instance.json", &json, NULL) == 0)
        snprintf(state_on_record, sizeof state_on_record, "%s",
                 cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "state")));
    return __real_unlinkat(directory_fd, name, flags);
}

/* How many images were scanned; see the build file. */
static atomic_uint scans;
static struct gate begun, released; /* of a scan that is held up, */
static atomic_bool held;            /* if they are to be */

int __real_scan_image(int fd, scan_progress *progress, void *context, struct scan *ret,
                      struct error *err);
int __wrap_scan_image(int fd, scan_progress *progress, void *context, struct scan *ret,
                      struct error *err);

int __wrap_scan_image(int fd, scan_progress *progress, void *context, struct scan *ret,
                      struct error *err)
{
    scans++;
    if (atomic_load(&held)) {
        gate_post(&begun);
        gate_wait(&released, FIXTURE_FAR_MS);
    }
    return __real_scan_image(fd, progress, context, ret, err);
}

static void leave(struct world *world)
{
    auto_free char *json = NULL;
    assert_true(asprintf(&json, "\"state\":\"standby\",\"config\":\"{}\",%s", world_machine) > 0);
    world_leave_instance(world, "web-1", json);
}

static void stop_when_from_standby_drops_the_saved_memory(void **state)
{
    static const char *const files[] = {"memory", "state", "mailboxes.json"};
    struct world *world = *state;
    leave(world);
    for (size_t i = 0; i < array_length(files); i++)
        world_write_text(world_path(world, "store/instances/web-1/run/%s", files[i]), "x");
    world_open_whole(world);
    struct instance *instance = world_found(world, "web-1");
    assert_int_equal(instance_check_config_writable(instance, &world->err), -EBUSY);
    assert_non_null(strstr(world->err.text, "standby"));
    assert_non_null(strstr(world->err.text, "write stopped to state first"));
    assert_int_equal(instance_change(instance, INSTANCE_STOPPED, 0, &world->err), 0);
    assert_string_equal(state_on_record, "stopped"); /* before the memory went */
    assert_int_equal(world_count(world_path(world, "store/instances/web-1")), 4);
    assert_int_equal(instance_check_config_writable(instance, &world->err), 0);
    instance_unref(instance);
    world_restart(world);
    instance = world_found(world, "web-1");
    assert_int_equal(instance_state(instance), INSTANCE_STOPPED);
    instance_unref(instance);
}

static void stop_when_it_cannot_be_put_on_record_keeps_the_saved_memory(void **state)
{
    struct world *world = *state;
    leave(world);
    world_write_text(world_path(world, "store/instances/web-1/run/memory"), "x");
    world_open_whole(world);
    assert_int_equal(mkdir(world_path(world, "store/instances/web-1/instance.json.tmp"), 0700), 0);
    struct instance *instance = world_found(world, "web-1");
    assert_int_equal(instance_change(instance, INSTANCE_STOPPED, 0, &world->err), -EISDIR);
    assert_int_equal(instance_state(instance), INSTANCE_STANDBY);
    assert_true(world_has(world_path(world, "store/instances/web-1/run/memory")));
    assert_int_equal(rmdir(world_path(world, "store/instances/web-1/instance.json.tmp")), 0);
    assert_int_equal(instance_change(instance, INSTANCE_STOPPED, 0, &world->err), 0);
    assert_false(world_has(world_path(world, "store/instances/web-1/run/memory")));
    instance_unref(instance);
}

static void leave_standby(struct world *world)
{
    struct world_image image = {.size = FIXTURE_MEMORY};
    frames_arm(world_page(&image, 1), "box", "token");
    leave(world);
    world_write(world_path(world, "store/instances/web-1/run/memory"), 0600, image.bytes,
                image.size);
    world_write_text(world_path(world, "store/instances/web-1/run/state"), "device");
}

static ino_t inode_of(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_ino;
}

static void snapshot_when_in_standby_shares_the_instances_image(void **state)
{
    struct world *world = *state;
    leave_standby(world);
    world_open_whole(world);
    struct instance *instance = world_found(world, "web-1");
    assert_int_equal(instance_snapshot(instance, "Base", &world->err), -EINVAL);
    assert_int_equal(instance_snapshot(instance, "base", &world->err), 0);
    assert_int_equal(instance_snapshot(instance, "base", &world->err), -EEXIST);
    assert_int_equal(instance_snapshot(instance, "other", &world->err), 0);
    assert_int_equal(instance_state(instance), INSTANCE_STANDBY);
    ino_t inode = inode_of(world_path(world, "store/instances/web-1/run/memory"));
    assert_int_equal(inode_of(world_path(world, "store/snapshots/base/memory")), inode);
    struct snapshot *base = snapshots_find(&world->snapshots, "base");
    assert_non_null(base);
    auto_free char *info = world_info(world, base);
    assert_non_null(strstr(info, "\"source_instance\": \"web-1\""));
    assert_non_null(strstr(info, "\"kind\": \"standby\""));
    assert_non_null(strstr(info, "\"hypervisor_version\": \"7.2.22\""));
    assert_non_null(strstr(info, "\"memory_bytes\": 268435456"));
    assert_non_null(strstr(info, "\"box\""));
    snapshot_unref(base);
    /* The snapshot outlives the instance's own image, and the instance. */
    assert_int_equal(instance_change(instance, INSTANCE_STOPPED, 0, &world->err), 0);
    assert_int_equal(instance_remove(instance, &world->err), 0);
    instance_unref(instance);
    assert_int_equal(inode_of(world_path(world, "store/snapshots/base/memory")), inode);
}

/* It was scanned when it was saved, and its image is the same file. */
static void snapshot_when_the_image_was_scanned_is_not_scanned_again(void **state)
{
    struct world *world = *state;
    struct image_index *index = NULL;
    leave_standby(world);
    world_open_whole(world);
    struct instance *instance = world_found(world, "web-1");
    assert_int_equal(image_index_wait(instance->image, NULL, &index, &world->err), 0);
    image_index_unref(index);
    scans = 0;
    assert_int_equal(instance_snapshot(instance, "base", &world->err), 0);
    assert_true(world_has(world_path(world, "store/snapshots/base/mailboxes.json")));
    struct snapshot *base = snapshots_find(&world->snapshots, "base");
    assert_int_equal(image_index_wait(base->image, NULL, &index, &world->err), 0);
    assert_int_equal(index->scan.count, 1);
    assert_int_equal(scans, 0);
    image_index_unref(index);
    snapshot_unref(base);
    /* A list of another image is not believed, and nobody has vouched for this one. */
    assert_int_equal(
        utimensat(AT_FDCWD, world_path(world, "store/instances/web-1/run/memory"), NULL, 0), 0);
    assert_int_equal(instance_snapshot(instance, "other", &world->err), -EIO);
    assert_non_null(strstr(world->err.text, "hypefs accept"));
    assert_int_equal(scans, 0);
    auto_json cJSON *files = cJSON_CreateArray();
    assert_int_equal(image_accept(instance->image, NULL, FIXTURE_MEMORY, files, &world->err), 0);
    assert_int_equal(scans, 1);
    assert_int_equal(instance_snapshot(instance, "other", &world->err), 0);
    assert_int_equal(scans, 1);
    instance_unref(instance);
}

static void hold_scans(void)
{
    gate_init(&begun);
    gate_init(&released);
    atomic_store(&held, true);
}

/* No scan is under way any more, after one was let go on. */
static void release_scans(struct world *world)
{
    image_scans_wait(&world->snapshots.scans);
    atomic_store(&held, false);
    gate_finish(&begun);
    gate_finish(&released);
}

static void *restore(void *argument)
{
    return (void *)(intptr_t)instance_change(argument, INSTANCE_RUNNING, 0, NULL);
}

/* The list of its image has to be made anew, which takes as long as the image is big. */
static void stop_when_a_restore_waits_for_a_scan_ends_that(void **state)
{
    struct world *world = *state;
    pthread_t thread;
    void *result;
    leave_standby(world);
    world_open_whole(world);
    struct instance *instance = world_found(world, "web-1");
    hold_scans();
    assert_int_equal(pthread_create(&thread, NULL, restore, instance), 0);
    assert_true(gate_wait(&begun, FIXTURE_FAR_MS));
    int r = instance_change(instance, INSTANCE_STOPPED, 0, &world->err);
    gate_post(&released);
    pthread_join(thread, &result);
    release_scans(world);
    assert_int_equal(r, 0);
    assert_int_equal((intptr_t)result, -ECANCELED);
    assert_int_equal(instance_state(instance), INSTANCE_STOPPED);
    instance_unref(instance);
}

static void *accept_it(void *argument)
{
    return (void *)(intptr_t)instance_accept(argument, NULL);
}

static void *stop_it(void *argument)
{
    return (void *)(intptr_t)instance_change(argument, INSTANCE_STOPPED, 0, NULL);
}

static void stop_when_an_image_is_vouched_for_ends_that(void **state)
{
    struct world *world = *state;
    pthread_t accept_thread, stop_thread;
    void *accepted, *stopped;
    leave_standby(world);
    assert_int_equal(truncate(world_path(world, "store/instances/web-1/run/memory"), 256 << 20), 0);
    world_open_whole(world);
    struct instance *instance = world_found(world, "web-1");
    hold_scans();
    assert_int_equal(pthread_create(&accept_thread, NULL, accept_it, instance), 0);
    assert_true(gate_wait(&begun, FIXTURE_FAR_MS));
    assert_int_equal(pthread_create(&stop_thread, NULL, stop_it, instance), 0);
    double deadline_ms = process_now_ms() + FIXTURE_FAR_MS;
    while (!atomic_load(&instance->cancelled) && process_now_ms() < deadline_ms)
        sched_yield();
    gate_post(&released);
    pthread_join(accept_thread, &accepted);
    pthread_join(stop_thread, &stopped);
    release_scans(world);
    assert_int_equal((intptr_t)accepted, -ECANCELED);
    assert_int_equal((intptr_t)stopped, 0);
    assert_int_equal(instance_state(instance), INSTANCE_STOPPED);
    instance_unref(instance);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_EMPTY(stop_when_from_standby_drops_the_saved_memory),
        IN_EMPTY(stop_when_it_cannot_be_put_on_record_keeps_the_saved_memory),
        IN_EMPTY(stop_when_a_restore_waits_for_a_scan_ends_that),
        IN_EMPTY(stop_when_an_image_is_vouched_for_ends_that),
        IN_EMPTY(snapshot_when_the_image_was_scanned_is_not_scanned_again),
        IN_EMPTY(snapshot_when_in_standby_shares_the_instances_image),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
