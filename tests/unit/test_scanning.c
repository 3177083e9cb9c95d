/* SPDX-License-Identifier: MIT */
/* The tree while a memory image is scanned anew: who looks at its mailboxes waits, no one else. */
#include <poll.h>

#include "tree_fixture.h"

enum { NO_SUCH_THREAD = 0x3FFFFFFF };

/* Scans in the background, see scan_image in the build file: they begin, and go on when they are
 * let go. */
struct held {
    struct tree *tree;
    struct gate begun, let_go;
};

static struct held *holding; /* NULL: they are not held */
static atomic_int scan_failure;

int __real_scan_image(int fd, scan_progress *progress, void *context, struct scan *ret,
                      struct error *err);
int __wrap_scan_image(int fd, scan_progress *progress, void *context, struct scan *ret,
                      struct error *err);

int __wrap_scan_image(int fd, scan_progress *progress, void *context, struct scan *ret,
                      struct error *err)
{
    if (progress && holding) {
        gate_post(&holding->begun);
        if (!gate_wait(&holding->let_go, FIXTURE_FAR_MS))
            abort();
    }
    return scan_failure ? error_errno(err, scan_failure, "cannot read the image")
                        : __real_scan_image(fd, progress, context, ret, err);
}

/* "base" as a backup brought it back: the kept list is of another image. Its scans are held. */
static int setup(void **state)
{
    struct held *held = calloc(1, sizeof *held);
    struct tree *tree;
    if (!held || tree_setup_empty((void **)&held->tree) < 0)
        return -1;
    *state = held;
    scan_failure = 0;
    tree = held->tree;
    gate_init(&held->begun);
    gate_init(&held->let_go);
    world_open_store(tree->world);
    world_open_layers(tree->world);
    world_publish_box(tree->world, "base");
    world_close(tree->world);
    assert_int_equal(remove(world_path(tree->world, "store/snapshots/base/mailboxes.json")), 0);
    tree_start(tree);
    holding = held;
    return 0;
}

static int teardown(void **state)
{
    struct held *held = *state;
    void *tree = held->tree;
    gate_post(&held->let_go); /* a test that failed has a scan held still */
    int r = tree_teardown(&tree);
    holding = NULL;
    gate_finish(&held->begun);
    gate_finish(&held->let_go);
    free(held);
    return r;
}

/* The scan that was begun is let go, and has told everyone. */
static void finish_scan(struct held *held)
{
    gate_post(&held->let_go);
    assert_true(gate_wait(&held->tree->world->scanned, FIXTURE_FAR_MS));
}

/* A lookup of box that has to wait; on the heap, for it is answered even when the test has failed.
 */
static struct caller *begin_lookup(struct tree *tree)
{
    struct caller *caller = calloc(1, sizeof *caller);
    uint64_t node;
    struct stat st;
    double seconds;
    assert_non_null(caller);
    caller_init(caller);
    assert_int_equal(fs_lookup(tree->fs, tree_walk(tree, "snapshots/base/mailboxes"), "box",
                               &caller->waiter, &node, &st, &seconds),
                     FS_LATER);
    return caller;
}

static int end_lookup(struct caller *caller)
{
    int r = caller_wait(caller, FS_LATER);
    free(caller);
    return r;
}

static void lookup_when_the_image_is_scanned_waits_for_it(void **state)
{
    struct held *held = *state;
    struct tree *tree = held->tree;
    struct caller *first = begin_lookup(tree), *second = begin_lookup(tree), *listing;
    struct handle *handle;
    listing = calloc(1, sizeof *listing);
    caller_init(listing);
    assert_int_equal(fs_opendir(tree->fs, tree_walk(tree, "snapshots/base/mailboxes"),
                                &listing->waiter, &handle),
                     FS_LATER);
    assert_true(gate_wait(&held->begun, FIXTURE_FAR_MS));
    tree_assert_text(tree, NEW "status", "empty\n"); /* nobody else waits */
    assert_false(gate_wait(&first->answered, 0));
    finish_scan(held);
    assert_int_equal(end_lookup(first), 0);
    assert_int_equal(end_lookup(second), 0);
    assert_int_equal(end_lookup(listing), 0);
    tree_assert_names(tree, "snapshots/base/mailboxes", "box ");
    tree_assert_has(tree, "snapshots/base/mailboxes/box", "\"offset\": 4096");
    assert_int_equal(tree->world->scanned.count, 0); /* one scan for all */
}

static void info_when_the_image_is_scanned_says_null_and_wakes_later(void **state)
{
    struct held *held = *state;
    struct tree *tree = held->tree;
    struct handle *info = tree_open(tree, "snapshots/base/info", O_RDONLY);
    auto_free char *before = tree_read_open(tree, info);
    assert_non_null(strstr(before, "\"mailboxes\": null"));
    assert_true(gate_wait(&held->begun, FIXTURE_FAR_MS));
    finish_scan(held);
    assert_int_equal(fs_poll(tree->fs, info, NULL), POLLIN | POLLRDNORM | POLLPRI);
    auto_free char *after = tree_read_open(tree, info);
    assert_non_null(strstr(after, "\"box\""));
    assert_int_equal(fs_poll(tree->fs, info, tree), 0);
    fs_release(tree->fs, info);
}

static void lookup_when_interrupted_waits_no_more(void **state)
{
    struct held *held = *state;
    struct tree *tree = held->tree;
    struct caller *caller = begin_lookup(tree);
    caller->waiter.tid = NO_SUCH_THREAD;
    fs_interrupt(tree->fs, caller);
    assert_int_equal(end_lookup(caller), -EINTR);
    assert_true(gate_wait(&held->begun, FIXTURE_FAR_MS));
    finish_scan(held);
    tree_assert_names(tree, "snapshots/base/mailboxes", "box ");
}

static void lookup_when_the_daemon_stops_is_answered(void **state)
{
    struct held *held = *state;
    struct tree *tree = held->tree;
    struct caller *caller = begin_lookup(tree);
    assert_true(gate_wait(&held->begun, FIXTURE_FAR_MS));
    fs_stop(tree->fs);
    assert_int_equal(end_lookup(caller), -ESHUTDOWN);
    finish_scan(held);
}

/* Nobody who merely looks has it scanned again and again. */
static void lookup_when_the_scan_failed_fails_until_the_image_is_another(void **state)
{
    struct held *held = *state;
    struct tree *tree = held->tree;
    struct stat st;
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1700000000}};
    scan_failure = EIO;
    struct caller *caller = begin_lookup(tree);
    assert_true(gate_wait(&held->begun, FIXTURE_FAR_MS));
    finish_scan(held);
    assert_int_equal(end_lookup(caller), 0); /* look again */
    scan_failure = 0;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(tree_try_walk(tree, "snapshots/base/mailboxes/box", &st), -EIO);
        tree_assert_has(tree, "snapshots/base/info", "\"mailboxes\": null");
    }
    const char *memory = world_path(tree->world, "store/snapshots/base/memory");
    assert_int_equal(utimensat(AT_FDCWD, memory, times, 0), 0);
    unlink(world_path(tree->world, "store/snapshots/base/mailboxes.json"));
    caller = begin_lookup(tree);
    assert_true(gate_wait(&held->begun, FIXTURE_FAR_MS));
    finish_scan(held);
    assert_int_equal(end_lookup(caller), 0);
    tree_assert_names(tree, "snapshots/base/mailboxes", "box ");
}

/* Read by a thread, and waited for by who wants to know it: at the first look it is there. */
static void kept_list_when_it_is_looked_at_first_is_waited_for(void **state)
{
    struct tree *tree = *state;
    struct caller *caller;
    struct handle *info;
    tree_restart(tree);
    scan_failure = EIO; /* none is made */
    caller = begin_lookup(tree);
    assert_int_equal(end_lookup(caller), 0);
    tree_assert_names(tree, "snapshots/base/mailboxes", "box ");
    tree_restart(tree);
    tree_assert_has(tree, "snapshots/base/info", "\"box\"");
    tree_restart(tree);
    info = tree_open(tree, "snapshots/base/info", O_RDONLY);
    auto_free char *text = tree_read_open(tree, info);
    assert_int_equal(tree_stat(tree, "snapshots/base/info").st_size, strlen(text));
    fs_release(tree->fs, info);
    scan_failure = 0;
}

static void forget_all(struct tree *tree, uint64_t last)
{
    for (uint64_t node = 2; node <= last; node++)
        fs_forget(tree->fs, node, UINT64_MAX);
}

/* The kernel forgets everything of it while its scan goes on: nobody waits for that. */
static void snapshot_when_removed_while_it_is_scanned_stops_nobody(void **state)
{
    struct held *held = *state;
    struct tree *tree = held->tree;
    struct caller *caller = begin_lookup(tree);
    assert_true(gate_wait(&held->begun, FIXTURE_FAR_MS));
    uint64_t last = tree_walk(tree, "snapshots/base/forks/new/commit");
    alarm(FIXTURE_FAR_MS / 1000);
    assert_int_equal(tree_rmdir(tree, "snapshots/base"), 0);
    assert_int_equal(end_lookup(caller), 0); /* at once: it looks again, and there is none */
    forget_all(tree, last);
    tree_assert_has(tree, "README", "hypefs");
    tree_assert_names(tree, "snapshots", "");
    store_await_erased(&tree->world->store);
    assert_int_equal(world_count(world_path(tree->world, "store/snapshots")), 0);
    alarm(0);
    finish_scan(held);
}

/* No scan of its image was begun: none is under way, none has told of its end, none left a list. */
static void assert_not_scanned(struct world *world, const char *id)
{
    struct instance *instance = instances_find(&world->instances, id);
    assert_non_null(instance);
    pthread_mutex_lock(&instance->image->lock);
    int finding = instance->image->finding;
    pthread_mutex_unlock(&instance->image->lock);
    instance_unref(instance);
    assert_int_equal(finding, 0);
    assert_false(gate_wait(&world->scanned, 0));
    assert_false(world_has(world_path(world, "store/instances/%s/run/mailboxes.json", id)));
}

/* What was looked up in standby must not lead to the memory of a VM that runs. */
static void mailboxes_of_an_instance_when_it_left_standby_are_not_looked_for(void **state)
{
    struct held *held = *state;
    struct tree *tree = held->tree;
    struct world *world = tree->world;
    struct world_image image = {.size = FIXTURE_MEMORY};
    struct image_index *index = NULL;
    struct caller caller;
    struct stat st;
    uint64_t node;
    double seconds;
    frames_arm(world_page(&image, 1), "box", "token");
    tree_stop(tree);
    world_close(world);
    auto_free char *json = NULL;
    assert_true(asprintf(&json, "\"state\":\"standby\",\"config\":\"{}\",%s", world_machine) > 0);
    world_leave_instance(world, "one", json);
    world_write(world_path(world, "store/instances/one/run/memory"), 0600, image.bytes, image.size);
    auto_close int fd =
        open(world_path(world, "store/instances/one/run"), O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    assert_int_equal(image_scan(fd, NULL, &index, &world->err), 0);
    image_index_unref(index);
    tree_start(tree);
    uint64_t mailboxes = tree_walk(tree, "instances/one/mailboxes");
    uint64_t box = tree_walk(tree, "instances/one/mailboxes/box");
    tree_assert_has(tree, "instances/one/mailboxes/box", "\"name\": \"box\"");
    assert_true(gate_wait(&world->scanned, FIXTURE_FAR_MS)); /* the list was read */
    assert_int_equal(tree_put(tree, "instances/one/state", "stopped"), 0);
    world_write(world_path(world, "store/instances/one/run/memory"), 0600, image.bytes, image.size);
    caller_init(&caller);
    assert_int_equal(fs_lookup(tree->fs, mailboxes, "box", &caller.waiter, &node, &st, &seconds),
                     -ENOENT);
    gate_finish(&caller.answered);
    assert_int_equal(tree_getattr(tree, box, &st), -ESTALE);
    assert_not_scanned(world, "one");
}

/* The snapshot's image, with these mailboxes in a row. */
static void put_image(const struct world *world, const char *first, const char *second)
{
    struct world_image image = {.size = FIXTURE_MEMORY};
    frames_arm(world_page(&image, 1), first, first);
    if (second)
        frames_arm(world_page(&image, 2), second, second);
    assert_int_equal(remove(world_path(world, "store/snapshots/base/memory")), 0);
    assert_int_equal(remove(world_path(world, "store/snapshots/base/mailboxes.json")), 0);
    world_write(world_path(world, "store/snapshots/base/memory"), 0600, image.bytes, image.size);
}

/* What is open of a mailbox must not show the tokens of another one, whatever the image is. */
static void mailbox_when_the_image_is_another_is_the_one_of_its_name(void **state)
{
    struct tree *tree = *state;
    struct stat st;
    char *bytes = NULL;
    size_t size;
    struct handle *box = tree_open(tree, "snapshots/base/mailboxes/box", O_RDONLY);
    ino_t ino = tree_stat(tree, "snapshots/base/mailboxes/box").st_ino;
    put_image(tree->world, "zap", "box");
    assert_int_equal(tree_stat(tree, "snapshots/base/mailboxes/box").st_ino, ino);
    assert_int_not_equal(tree_stat(tree, "snapshots/base/mailboxes/zap").st_ino, ino);
    auto_free char *text = tree_read_open(tree, box);
    assert_non_null(strstr(text, "\"name\": \"box\""));
    assert_non_null(strstr(text, "\"offset\": 8192"));
    assert_null(strstr(text, "zap"));
    put_image(tree->world, "zap", NULL);
    assert_int_equal(tree_try_walk(tree, "snapshots/base/mailboxes/box", &st), -ENOENT);
    assert_int_equal(fs_read(tree->fs, box, 100, 0, NULL, &bytes, &size), -ENODEV);
    fs_release(tree->fs, box);
}

#define SCANNED(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCANNED(lookup_when_the_image_is_scanned_waits_for_it),
        SCANNED(info_when_the_image_is_scanned_says_null_and_wakes_later),
        SCANNED(lookup_when_interrupted_waits_no_more),
        SCANNED(lookup_when_the_daemon_stops_is_answered),
        SCANNED(lookup_when_the_scan_failed_fails_until_the_image_is_another),
        SCANNED(snapshot_when_removed_while_it_is_scanned_stops_nobody),
        WITH_BASE(kept_list_when_it_is_looked_at_first_is_waited_for),
        WITH_BASE(mailbox_when_the_image_is_another_is_the_one_of_its_name),
        SCANNED(mailboxes_of_an_instance_when_it_left_standby_are_not_looked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
