/* SPDX-License-Identifier: MIT */
/* The pool of VMs that are loaded ahead. The VMs are played by tests/fake_firecracker. */
#include <utlist.h>

#include "fork/warm_internal.h"
#include "world.h"

enum { MEMORY_BYTES = 8 << 20 };

static const char short_of_memory[] = "MemTotal: 100 kB\nMemAvailable: 4 kB\n";
static const char between[] = "MemTotal: 100 kB\nMemAvailable: 7 kB\n";
static const char enough[] = "MemTotal: 100 kB\nMemAvailable: 10 kB\n";

static struct warm_pool *pool_of(struct world *world)
{
    return world->context;
}

static int setup(void **state)
{
    int r = world_setup(state);
    struct world *world = *state;
    if (r == 0)
        world->context = calloc(1, sizeof(struct warm_pool));
    return r == 0 && world->context ? 0 : -1;
}

/* However the test went: the filler must not outlive what it works with. */
static int teardown(void **state)
{
    struct world *world = *state;
    unsetenv("FAKE_VMM_FAULT");
    if (pool_of(world))
        warm_close(pool_of(world));
    free(world->context);
    return world_teardown(state);
}

static int fill(void *context, const struct store_entry *entry, struct error *err)
{
    static const char state[] = "\0\0\x64\x86\x84\x19\x10\x07{\"version\":\"1.7.0\"}";
    auto_close int memory =
        openat(entry->fd, "memory", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    auto_close int device =
        openat(entry->fd, "state", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    (void)context;
    if (memory < 0 || device < 0 || ftruncate(memory, MEMORY_BYTES) < 0 ||
        write(device, state, sizeof state - 1) != sizeof state - 1)
        return error_errno(err, errno, "cannot fill the snapshot");
    return 0;
}

static struct snapshot *publish(struct world *world)
{
    static const char text[] =
        "{\"kind\":\"standby\",\"hypervisor\":\"firecracker\",\"memory_bytes\":8388608,"
        "\"machine\":{\"memory_bytes\":8388608,\"vcpus\":1,\"machine\":\"microvm\","
        "\"accel\":\"kvm\",\"network\":{\"mode\":\"none\",\"restrict\":false},\"disks\":[],"
        "\"version\":\"1.7.0\"}}";
    cJSON *json = NULL;
    assert_int_equal(json_parse(text, strlen(text), &json, NULL), 0);
    world->binary = (struct vmm_binary){"firecracker", getenv("FAKE_FIRECRACKER")};
    if (snapshots_publish(&world->snapshots, "base", &json, fill, NULL, &world->err) < 0)
        fail_msg("%s", world->err.text);
    cJSON_Delete(json);
    return snapshots_find(&world->snapshots, "base");
}

/* In one step: the filler looks any time. */
static void tell(struct world *world, const char *text)
{
    char to[PATH_MAX];
    snprintf(to, sizeof to, "%s", world_path(world, "meminfo"));
    world_write_text(world_path(world, "new"), text);
    assert_int_equal(rename(world_path(world, "new"), to), 0);
}

static int set(struct warm_pool *pool, struct snapshot *snapshot, unsigned number,
               struct error *err)
{
    return warm_set(pool, snapshot, &(struct warm_wish){.number = number}, err);
}

static void changed(void *context, const char *id)
{
    (void)id;
    gate_post(&((struct world *)context)->changed);
}

static void open_pool(struct world *world, const char *meminfo)
{
    const struct warm_setup pool = {
        .instances = &world->instances, .meminfo = meminfo, .on_change = changed, .context = world};
    assert_int_equal(warm_open(&pool, pool_of(world), &world->err), 0);
}

static void await_ready(struct world *world, struct warm_pool *pool, struct snapshot *snapshot,
                        unsigned ready)
{
    double deadline_ms = process_now_ms() + FIXTURE_FAR_MS;
    while (warm_count(pool, snapshot).ready != ready) { /* at that moment, not when it is told */
        if (process_now_ms() >= deadline_ms)
            fail_msg("%u are not ready: %s", ready, world->complaints);
        sched_yield();
    }
}

/* What lies in the directories of those that are ready takes a while to erase. */
static void make_erasing_long(struct world *world)
{
    enum { FILES = 500 };
    const struct warm_vm *vm;
    struct warm_pool *pool = pool_of(world);
    char name[32];
    pthread_mutex_lock(&pool->lock);
    LL_FOREACH (pool->sources->ready, vm)
        for (int i = 0; i < FILES; i++) {
            snprintf(name, sizeof name, "file-%d", i);
            int fd = openat(vm->entry.fd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
            assert_true(fd >= 0);
            close(fd);
        }
    pthread_mutex_unlock(&pool->lock);
}

/* Whoever sees that none is ready finds that nothing of them is left. */
static void vms_when_memory_is_short_end_until_there_is_enough(void **state)
{
    struct world *world = *state;
    struct warm_pool *pool = pool_of(world);
    char meminfo[PATH_MAX];
    struct snapshot *snapshot = publish(world);
    snprintf(meminfo, sizeof meminfo, "%s", world_path(world, "meminfo"));
    tell(world, between);
    open_pool(world, meminfo);
    assert_int_equal(set(pool, snapshot, 2, &world->err), 0);
    await_ready(world, pool, snapshot, 2);
    make_erasing_long(world);
    tell(world, short_of_memory);
    await_ready(world, pool, snapshot, 0);
    assert_int_equal(world_count(world_path(world, "store/instances")), 0);
    tell(world, enough);
    await_ready(world, pool, snapshot, 2);
    assert_int_equal(warm_count(pool, snapshot).wanted, 2);
    warm_close(pool);
    assert_int_equal(world_count(world_path(world, "store/instances")), 0);
    assert_non_null(strstr(world->complaints, "memory is short"));
    snapshot_unref(snapshot);
}

static void commit_under_way_keeps_the_filler_waiting(void **state)
{
    struct world *world = *state;
    struct warm_pool *pool = pool_of(world);
    struct snapshot *snapshot = publish(world);
    open_pool(world, "/nowhere");
    warm_begin(pool);
    assert_int_equal(set(pool, snapshot, 1, &world->err), 0);
    assert_int_equal(warm_count(pool, snapshot).ready, 0);
    warm_end(pool);
    await_ready(world, pool, snapshot, 1);
    warm_close(pool);
    assert_non_null(strstr(world->complaints, "/nowhere cannot be read"));
    snapshot_unref(snapshot);
}

/* So that memory can be had back when the store is full. */
static void zero_needs_no_room_in_the_store(void **state)
{
    struct world *world = *state;
    struct warm_pool *pool = pool_of(world);
    struct snapshot *snapshot = publish(world);
    open_pool(world, "/nowhere");
    assert_int_equal(set(pool, snapshot, 0, &world->err), 0);
    assert_int_equal(set(pool, snapshot, 1, &world->err), 0);
    assert_true(world_has(world_path(world, "store/snapshots/base/warm.json")));
    assert_int_equal(set(pool, snapshot, 0, &world->err), 0);
    assert_false(world_has(world_path(world, "store/snapshots/base/warm.json")));
    warm_close(pool);
    snapshot_unref(snapshot);
}

/* As the kernel ends them when memory runs out. */
static void kill_all(struct warm_pool *pool)
{
    const struct warm_vm *vm;
    pthread_mutex_lock(&pool->lock);
    LL_FOREACH (pool->sources->ready, vm) {
        assert_int_equal(pidfd_send_signal(vm->vmm->pidfd, SIGKILL, NULL, 0), 0);
        assert_true(process_poll(&vm->vmm->pidfd, 1, process_now_ms() + FIXTURE_FAR_MS) > 0);
    }
    pthread_mutex_unlock(&pool->lock);
}

static unsigned count_alive(struct warm_pool *pool)
{
    const struct warm_vm *vm;
    unsigned count = 0;
    pthread_mutex_lock(&pool->lock);
    LL_FOREACH (pool->sources->ready, vm)
        count += warm_is_alive(vm);
    pthread_mutex_unlock(&pool->lock);
    return count;
}

/* If each doubled the wait, they would come after a minute. */
static void vms_that_end_at_once_are_one_failure(void **state)
{
    enum { COUNT = 7 };
    struct world *world = *state;
    struct warm_pool *pool = pool_of(world);
    struct snapshot *snapshot = publish(world);
    open_pool(world, "/nowhere");
    assert_int_equal(set(pool, snapshot, COUNT, &world->err), 0);
    await_ready(world, pool, snapshot, COUNT);
    kill_all(pool);
    while (count_alive(pool) < COUNT)
        if (!gate_wait(&world->changed, FIXTURE_FAR_MS))
            fail_msg("%u are alive: %s", count_alive(pool), world->complaints);
    warm_close(pool);
    snapshot_unref(snapshot);
}

struct forgetter {
    struct warm_pool *pool;
    struct snapshot *snapshot;
    const char *instances; /* the directory of those that are ready */
    int left;              /* in it, when nothing of the snapshot was to be left */
    pthread_t thread;
};

static void *forget(void *argument)
{
    struct forgetter *forgetter = argument;
    struct error err;
    assert_int_equal(set(forgetter->pool, forgetter->snapshot, 0, &err), 0);
    forgetter->left = world_count(forgetter->instances);
    return NULL;
}

static void forget_by_two(struct world *world, struct snapshot *snapshot)
{
    char *instances = NULL;
    struct forgetter two[2];
    assert_true(asprintf(&instances, "%s/instances", world->path) > 0);
    for (int i = 0; i < 2; i++) {
        two[i] = (struct forgetter){
            .pool = pool_of(world), .snapshot = snapshot, .instances = instances};
        assert_int_equal(pthread_create(&two[i].thread, NULL, forget, &two[i]), 0);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(two[i].thread, NULL);
    free(instances);
    for (int i = 0; i < 2; i++)
        assert_int_equal(two[i].left, 0);
}

/* However late the second comes: while the first still ends the VMs, it waits as well. */
static void snapshot_when_two_forget_it_has_nothing_left_for_either(void **state)
{
    struct world *world = *state;
    struct snapshot *snapshot = publish(world);
    open_pool(world, "/nowhere");
    assert_int_equal(set(pool_of(world), snapshot, 2, &world->err), 0);
    await_ready(world, pool_of(world), snapshot, 2);
    make_erasing_long(world);
    forget_by_two(world, snapshot);
    snapshot_unref(snapshot);
}

static void snapshot_when_two_forget_it_while_it_is_loaded_is_gone(void **state)
{
    struct world *world = *state;
    struct warm_pool *pool = pool_of(world);
    struct snapshot *snapshot = publish(world);
    setenv("FAKE_VMM_FAULT", "load:before:hang", 1);
    open_pool(world, "/nowhere");
    assert_int_equal(set(pool, snapshot, 1, &world->err), 0);
    pthread_mutex_lock(&pool->lock);
    while (!pool->loads) {
        pthread_mutex_unlock(&pool->lock);
        sched_yield();
        pthread_mutex_lock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    forget_by_two(world, snapshot);
    warm_close(pool);
    assert_int_equal(world_count(world_path(world, "store/instances")), 0);
    snapshot_unref(snapshot);
}

/* No memory for the list of snapshots. */
static bool fail_list;

struct snapshot_name *__real_snapshots_list(struct snapshots *snapshots, size_t *ret_count);
struct snapshot_name *__wrap_snapshots_list(struct snapshots *snapshots, size_t *ret_count);
struct snapshot_name *__wrap_snapshots_list(struct snapshots *snapshots, size_t *ret_count)
{
    return fail_list ? NULL : __real_snapshots_list(snapshots, ret_count);
}

static void pool_without_memory_for_the_snapshots_is_not_opened(void **state)
{
    struct world *world = *state;
    const struct warm_setup pool = {.instances = &world->instances, .meminfo = "/proc/meminfo"};
    fail_list = true;
    int r = warm_open(&pool, pool_of(world), &world->err);
    fail_list = false;
    assert_int_equal(r, -ENOMEM);
    assert_int_equal(world->err.code, ENOMEM);
    warm_close(pool_of(world));
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(pool_without_memory_for_the_snapshots_is_not_opened),
        test(vms_when_memory_is_short_end_until_there_is_enough),
        test(commit_under_way_keeps_the_filler_waiting),
        test(zero_needs_no_room_in_the_store),
        test(vms_that_end_at_once_are_one_failure),
        test(snapshot_when_two_forget_it_has_nothing_left_for_either),
        test(snapshot_when_two_forget_it_while_it_is_loaded_is_gone),
    };
    setenv("HYPEFS_TEST_TIMING", "look:50,retry:50", 1);
    return cmocka_run_group_tests_name("warm", tests, NULL, NULL);
}
