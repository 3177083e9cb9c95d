/* SPDX-License-Identifier: MIT */
/*
 * What is done with VMs, with each call of the C library that can fail failing in turn (faults.h),
 * against tests/fake_firecracker. After each failure there are an errno and a text, no descriptor
 * and no process is left, the state is what it was, the same succeeds if it is tried again, and so
 * it does after a restart, by which nothing is lost.
 */
#include "faults_fixture.h"
#include "fork/engine.h"
#include "instance/internal.h"
#include "world.h"
#include "util/thread.h"

enum { MEMORY = 1 << 20, SHOWN_SIZE = 256 };
#define MACHINE                                                                                    \
    "\"machine\":{\"memory_bytes\":1048576,\"vcpus\":1,\"machine\":\"microvm\",\"accel\":\"kvm\"," \
    "\"network\":{\"mode\":\"none\",\"restrict\":false},\"disks\":[],\"type\":null,\"cpu\":null,"  \
    "\"host_cpu\":null,\"version\":\"1.7.0\"}"

/* A world, and what forks need besides. */
struct stage {
    struct world *world;
    struct memory_watch *watch;
    struct warm_pool pool;
};

/* ---- the store before: "fire" in standby, "idle" that was never run, the snapshot "base" ---- */

static void write_image(int directory_fd)
{
    static const char device[] = "\0\0\x64\x86\x84\x19\x10\x07{\"version\":\"1.7.0\"}";
    uint8_t frame[FRAME_SIZE] = {0};
    auto_close int memory = openat(directory_fd, "memory", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    auto_close int state = openat(directory_fd, "state", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    frames_arm(frame, "box", "token");
    assert_int_equal(write(state, device, sizeof device - 1), sizeof device - 1);
    assert_int_equal(pwrite(memory, frame, sizeof frame, FRAME_SIZE), sizeof frame);
    assert_int_equal(ftruncate(memory, MEMORY), 0);
}

static int fill_entry(void *context, const struct store_entry *entry, struct error *err)
{
    (void)context;
    (void)err;
    write_image(entry->fd);
    return 0;
}

static void publish_base(struct world *world)
{
    static const char text[] = "{\"kind\":\"standby\",\"hypervisor\":\"firecracker\","
                               "\"memory_bytes\":1048576," MACHINE "}";
    auto_json cJSON *json = NULL;
    assert_int_equal(json_parse(text, strlen(text), &json, NULL), 0);
    assert_int_equal(
        snapshots_publish(&world->snapshots, "base", &json, fill_entry, NULL, &world->err), 0);
}

static void fill_store(struct world *world)
{
    static const char config[] = "{\"hypervisor\":\"firecracker\",\"kernel\":\"/etc/passwd\"}";
    world_leave_instance(world, "fire", "");
    world_write_text(world_path(world, "store/instances/fire/instance.json"),
                     "{\"version\":1,\"id\":\"fire\",\"hypervisor\":\"firecracker\","
                     "\"state\":\"standby\"," MACHINE ",\"vmm\":null}");
    auto_close int fd = open(world_path(world, "store/instances/fire/run"), O_RDONLY | O_CLOEXEC);
    write_image(fd);
    world_open_whole(world);
    publish_base(world);
    assert_int_equal(instances_create(&world->instances, "idle", &world->err), 0);
    struct instance *idle = world_found(world, "idle");
    assert_int_equal(instance_set_config(idle, config, sizeof config - 1, &world->err), 0);
    instance_unref(idle);
}

/* Lists that are not there yet are made by threads, whenever those come to it. */
static void await_lists(struct world *world)
{
    struct instance *fire = world_found(world, "fire");
    struct snapshot *base = snapshots_find(&world->snapshots, "base");
    struct image_index *index;
    if (instance_state(fire) == INSTANCE_STANDBY) {
        assert_int_equal(image_index_wait(fire->image, NULL, &index, &world->err), 0);
        image_index_unref(index);
    }
    assert_int_equal(image_index_wait(base->image, NULL, &index, &world->err), 0);
    image_index_unref(index);
    snapshot_unref(base);
    instance_unref(fire);
}

/* Each daemon that is started knows the fake. */
static void settle(struct world *world)
{
    await_lists(world);
    world->binary = (struct vmm_binary){"firecracker", getenv("FAKE_FIRECRACKER")};
    world->complaints[0] = 0;
}

static void restart(struct world *world)
{
    world_restart(world);
    if (strstr(world->complaints, "left out"))
        fail_msg("after %s %u: %s", faults.failed, faults.fail_at, world->complaints);
    settle(world);
}

/* ---- the operations ---- */

static int change(struct world *world, const char *id, enum instance_state state, struct error *err)
{
    struct instance *instance = world_found(world, id);
    int r = instance_change(instance, state, 0, err);
    instance_unref(instance);
    return r;
}

static int boot(struct stage *stage, struct error *err)
{
    return change(stage->world, "idle", INSTANCE_RUNNING, err);
}

static int restore(struct stage *stage, struct error *err)
{
    return change(stage->world, "fire", INSTANCE_RUNNING, err);
}

static int pause_it(struct stage *stage, struct error *err)
{
    return change(stage->world, "fire", INSTANCE_PAUSED, err);
}

static int stand_by(struct stage *stage, struct error *err)
{
    return change(stage->world, "fire", INSTANCE_STANDBY, err);
}

static int stop(struct stage *stage, struct error *err)
{
    return change(stage->world, "fire", INSTANCE_STOPPED, err);
}

static int restore_and_pause(struct stage *stage, struct error *err)
{
    int r = restore(stage, err);
    return r < 0 ? r : pause_it(stage, err);
}

static int take(struct stage *stage, struct error *err)
{
    struct instance *instance = world_found(stage->world, "fire");
    int r = instance_snapshot(instance, "more", err);
    instance_unref(instance);
    return r;
}

/* The fake's guest acks; of an instance the fork is shown as waiting before. */
static int fork_of(struct stage *stage, struct fork_source *source, struct error *err)
{
    const char *text = source->instance ? "{\"payload\":{\"a\":1},\"wait_for_ack\":true,"
                                          "\"ack_timeout_ms\":60000}"
                                        : "{\"payload\":{\"a\":1},\"wait_for_ack\":true}";
    static const char options[] = "{\"from_running\":true}";
    static const struct fork_rules rules = {.ack = FORK_ACK_MEMORY};
    struct fork_engine engine = {.instances = &stage->world->instances,
                                 .ack_address = "127.0.0.1",
                                 .watch = stage->watch,
                                 .cancel_fd = -1};
    struct fork_request request = {.id = "more", .count = 1, .mailboxes = {{.name = "box"}}};
    struct fork_outcome outcome = {0};
    struct json_check check;
    bool armed = faults_armed;
    faults_armed = false;
    request.options_text = strdup(options);
    assert_int_equal(json_check(text, strlen(text), &check), JSON_COMPLETE);
    assert_int_equal(fork_parse_mailbox(text, check.object, &rules, &request.mailboxes[0], err), 0);
    assert_int_equal(fork_parse_options(options, sizeof options - 1, &request.options, err), 0);
    faults_armed = armed;
    int r = fork_run(&engine, source, &request, &outcome, err);
    faults_armed = false;
    assert_int_equal(outcome.published, r == 0);
    cJSON_Delete(outcome.result);
    return r;
}

static int commit(struct stage *stage, struct error *err)
{
    struct fork_source source = {.snapshot = snapshots_find(&stage->world->snapshots, "base")};
    int r = fork_of(stage, &source, err);
    snapshot_unref(source.snapshot);
    return r;
}

static int commit_running(struct stage *stage, struct error *err)
{
    struct fork_source source = {.instance = world_found(stage->world, "fire")};
    int r = fork_of(stage, &source, err);
    instance_unref(source.instance);
    return r;
}

static void open_pool(struct stage *stage)
{
    const struct warm_setup setup = {.instances = &stage->world->instances,
                                     .meminfo = "/proc/meminfo"};
    assert_int_equal(warm_open(&setup, &stage->pool, &stage->world->err), 0);
}

/* Why none can be loaded ahead, as it was told; NULL: that was not told. */
static const char *why_none(struct world *world)
{
    pthread_mutex_lock(&world->scanned.lock);
    const char *ret = strstr(world->complaints, "no VM can be loaded ahead");
    pthread_mutex_unlock(&world->scanned.lock);
    return ret;
}

static int await_ready(struct stage *stage, struct snapshot *base, unsigned count,
                       struct error *err)
{
    double deadline_ms = process_now_ms() + FIXTURE_FAR_MS;
    while (warm_count(&stage->pool, base).ready != count && !why_none(stage->world)) {
        assert_true(process_now_ms() < deadline_ms);
        sched_yield();
    }
    const char *why = why_none(stage->world);
    return why ? error_set(err, EIO, "%s", why) : 0;
}

/* The threads that load them are armed, and nothing else. */
static int load_ahead(struct stage *stage, struct error *err)
{
    struct snapshot *base = snapshots_find(&stage->world->snapshots, "base");
    faults.threads = faults_armed;
    faults_armed = false;
    stage->world->complaints[0] = 0;
    open_pool(stage);
    int r = await_ready(stage, base, 1, err);
    faults.threads = false;
    warm_close(&stage->pool);
    snapshot_unref(base);
    return r;
}

/* The other way round. */
static int want_ahead(struct stage *stage, struct error *err)
{
    struct snapshot *base = snapshots_find(&stage->world->snapshots, "base");
    bool armed = faults_armed;
    faults_armed = false;
    open_pool(stage);
    faults_armed = armed;
    int r = warm_set(&stage->pool, base, &(struct warm_wish){.number = 1}, err);
    faults_armed = false;
    if (r == 0)
        r = await_ready(stage, base, 1, err);
    warm_close(&stage->pool);
    snapshot_unref(base);
    return r;
}

struct operation {
    int (*prepare)(struct stage *stage, struct error *err); /* NULL: nothing is needed */
    int (*run)(struct stage *stage, struct error *err);
};

/* ---- one after the other ---- */

/* Of this process, those that have ended and were not reaped, too. */
static int count_children(void)
{
    int count = 0;
    auto_closedir DIR *tasks = opendir("/proc/self/task");
    assert_non_null(tasks);
    for (struct dirent *task; (task = readdir(tasks));) {
        char path[300];
        snprintf(path, sizeof path, "/proc/self/task/%s/children", task->d_name);
        auto_fclose FILE *file = fopen(path, "re");
        for (int child; file && fscanf(file, "%d", &child) == 1;)
            count++;
    }
    return count;
}

/* Those that run end, whatever they are called. */
static void stop_all(struct world *world)
{
    static const char *const ids[] = {"fire", "idle", "more"};
    for (size_t i = 0; i < array_length(ids); i++) {
        struct instance *instance = instances_find(&world->instances, ids[i]);
        if (instance && instance->vmm)
            assert_int_equal(instance_change(instance, INSTANCE_STOPPED, 0, &world->err), 0);
        instance_unref(instance);
    }
}

static void open_stage(const struct operation *operation, struct stage *ret)
{
    void *state;
    assert_int_equal(world_setup_empty(&state), 0);
    *ret = (struct stage){.world = state};
    fill_store(ret->world);
    settle(ret->world);
    assert_int_equal(memory_watch_create(&ret->watch, &ret->world->err), 0);
    if (operation->prepare && operation->prepare(ret, &ret->world->err) < 0)
        fail_msg("%s", ret->world->err.text);
}

static void close_stage(struct stage *stage)
{
    void *state = stage->world;
    stop_all(stage->world);
    memory_watch_destroy(stage->watch);
    world_teardown(&state);
    assert_int_equal(count_children(), 0);
}

/* What the daemon shows. */
static void show(struct world *world, char ret[static SHOWN_SIZE])
{
    static const char *const ids[] = {"fire", "idle", "more"};
    size_t used = 0;
    for (size_t i = 0; i < array_length(ids); i++) {
        struct instance *instance = instances_find(&world->instances, ids[i]);
        used += (size_t)snprintf(ret + used, SHOWN_SIZE - used, "%s %s %d\n", ids[i],
                                 instance ? instance_state_names[instance->state] : "-",
                                 instance && instance->vmm);
        instance_unref(instance);
    }
    struct snapshot *more = snapshots_find(&world->snapshots, "more");
    snprintf(ret + used, SHOWN_SIZE - used, "%d", more != NULL);
    snapshot_unref(more);
}

/* A thread that scanned an image may still have to close it. */
static void await_descriptors(int count, const struct error *err)
{
    double deadline_ms = process_now_ms() + FIXTURE_FAR_MS / 6;
    while (world_descriptors() != count) {
        if (process_now_ms() > deadline_ms)
            fail_msg("after %s %u: %d descriptors, and %d before; %s", faults.failed,
                     faults.fail_at, world_descriptors(), count, err->text);
        sched_yield();
    }
}

static void clear_complaints(struct world *world)
{
    pthread_mutex_lock(&world->scanned.lock);
    world->complaints[0] = 0;
    pthread_mutex_unlock(&world->scanned.lock);
}

/* Something was said, other than what is said of each save. */
static bool is_told(const struct world *world)
{
    unsigned lines = 0;
    for (const char *at = world->complaints; *at; at++)
        lines += *at == '\n';
    return lines > (strstr(world->complaints, " ms to be saved\n") != NULL);
}

/* A file system may have no locks; and a socket that nobody listens at is removed when another is
 * made. */
static bool may_be_silent(void)
{
    return strcmp(faults.failed, "flock") == 0 || strstr(faults.name, ".sock");
}

/* The operation, with that call failing. If it fails, it says so, and nothing is left of it. */
static int attempt(const struct operation *operation, struct stage *stage, unsigned at)
{
    struct error err = {0};
    char before[SHOWN_SIZE], now[SHOWN_SIZE];
    world_await_idle(stage->world);
    int descriptors = world_descriptors(), children = count_children();
    show(stage->world, before);
    clear_complaints(stage->world);
    faults_begin(at);
    faults_armed = true;
    int r = operation->run(stage, &err);
    faults_armed = false;
    if (r == 0 && faults.failed && !may_be_silent() && !is_told(stage->world))
        fail_msg("after %s %u: not a word", faults.failed, at);
    if (r == 0)
        return 0;
    if (!faults.failed || err.code != -r || !err.text[0])
        fail_msg("after %s %u: %d, and the error %d \"%s\"", faults.failed, at, r, err.code,
                 err.text);
    await_descriptors(descriptors, &err);
    if (count_children() != children)
        fail_msg("after %s %u: %d processes, and %d before; %s", faults.failed, at,
                 count_children(), children, err.text);
    show(stage->world, now);
    if (strcmp(now, before) != 0)
        fail_msg("after %s %u, \"%s\", there is\n%sbefore it was\n%s", faults.failed, at, err.text,
                 now, before);
    return r;
}

/* Nothing is known of the program, so that the next attempt makes the same calls. */
static void forget_program(struct world *world)
{
    vmm_programs_destroy(world->programs);
    assert_int_equal(vmm_programs_create(&world->programs, &world->err), 0);
    world->instances.setup.programs = world->programs;
}

/* The store as a daemon that starts leaves it. */
static void dump(const struct operation *operation, bool run, char ret[static DUMP_SIZE])
{
    struct stage stage;
    open_stage(operation, &stage);
    if (run && attempt(operation, &stage, 0) < 0)
        fail_msg("it fails without a fault");
    restart(stage.world);
    world_dump(stage.world, ret);
    close_stage(&stage);
}

/* Each attempt but those that succeed is made where the one before has failed, so what that leaves
 * counts: in the same daemon, or in the next. */
static void operation_when_any_call_fails(const struct operation *operation, bool restarts)
{
    char before[DUMP_SIZE], after[DUMP_SIZE], now[DUMP_SIZE];
    struct stage stage;
    bool more = true;
    dump(operation, false, before);
    dump(operation, true, after);
    open_stage(operation, &stage);
    for (unsigned at = 1; more; at++) {
        int r = attempt(operation, &stage, at);
        more = faults.failed;
        if (r < 0 && !restarts) {
            forget_program(stage.world);
            continue;
        }
        restart(stage.world);
        world_dump(stage.world, now);
        bool as_before = strcmp(now, before) == 0, as_after = strcmp(now, after) == 0;
        if (!as_after && (r == 0 || !as_before))
            fail_msg("after %s %u, with %d, the store is\n%sbefore it was\n%sit should be\n%s",
                     faults.failed, at, r, now, before, after);
        if (!as_before || r == 0) {
            close_stage(&stage);
            open_stage(operation, &stage);
        }
    }
    close_stage(&stage);
    assert_true(faults.fail_at > 5); /* else the calls were not those of the build file */
}

static void same_daemon(void **state)
{
    operation_when_any_call_fails(*state, false);
}

static void next_daemon(void **state)
{
    operation_when_any_call_fails(*state, true);
}

static struct operation operations[] = {
    {NULL, boot},
    {NULL, restore},
    {restore, pause_it},
    {restore_and_pause, restore},
    {restore, stand_by},
    {restore, stop},
    {restore, take},
    {NULL, commit},
    {restore, commit_running},
    {want_ahead, load_ahead},
    {NULL, want_ahead},
};

#define TEST(number, title)                                                                        \
    {.name = title "_when_any_call_fails_leaves_all_as_it_was",                                    \
     .test_func = same_daemon,                                                                     \
     .initial_state = &operations[number]},                                                        \
    {                                                                                              \
        .name = title "_when_any_call_fails_loses_nothing_by_a_restart", .test_func = next_daemon, \
        .initial_state = &operations[number]                                                       \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(0, "boot"),       TEST(1, "restore"),     TEST(2, "pause"),
        TEST(3, "resume"),     TEST(4, "standby"),     TEST(5, "stop"),
        TEST(6, "snapshot"),   TEST(7, "commit"),      TEST(8, "commit_of_a_running_instance"),
        TEST(9, "load_ahead"), TEST(10, "want_ahead"),
    };
    setenv("FAKE_VMM_GUEST", "ack", 1);
    cJSON_InitHooks(&(cJSON_Hooks){.malloc_fn = malloc, .free_fn = free});
    return cmocka_run_group_tests(tests, NULL, NULL);
}
