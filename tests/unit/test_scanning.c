/* SPDX-License-Identifier: MIT */
/* The tree while a memory image is scanned anew: who looks at its mailboxes waits, no one else. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <poll.h>

#include "tree_fixture.h"

enum { NO_SUCH_THREAD = 0x3FFFFFFF };

/* Scans that have ended and do not say so before they are let go. */
struct held {
    struct tree *tree;
    struct gate ended, let_go;
};

static void hold(struct world *world)
{
    struct held *held = world->context;
    gate_post(&held->ended);
    if (!gate_wait(&held->let_go, FIXTURE_FAR_MS))
        abort();
    fs_image_scanned(held->tree->fs);
}

/* "base" as a backup brought it back: the kept list is of another image. Its scans are held. */
static int setup(void **state)
{
    struct held *held = calloc(1, sizeof *held);
    struct tree *tree;
    if (!held || tree_setup_empty((void **)&held->tree) < 0)
        return -1;
    *state = held;
    tree = held->tree;
    gate_init(&held->ended);
    gate_init(&held->let_go);
    world_open_store(tree->world);
    world_open_layers(tree->world);
    world_publish_box(tree->world, "base");
    world_close(tree->world);
    assert_int_equal(remove(world_path(tree->world, "store/snapshots/base/mailboxes.json")), 0);
    tree_start(tree);
    tree->world->on_scanned = hold;
    tree->world->context = held;
    tree->world->on_changed = NULL;
    return 0;
}

static int teardown(void **state)
{
    struct held *held = *state;
    void *tree = held->tree;
    gate_post(&held->let_go); /* a test that failed has a scan held still */
    int r = tree_teardown(&tree);
    gate_finish(&held->ended);
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
    assert_non_null(caller);
    caller_init(caller);
    assert_int_equal(fs_lookup(tree->fs, tree_walk(tree, "snapshots/base/mailboxes"), "box",
                               &caller->waiter, &node, &st),
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
    assert_true(gate_wait(&held->ended, FIXTURE_FAR_MS));
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
    assert_true(gate_wait(&held->ended, FIXTURE_FAR_MS));
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
    assert_true(gate_wait(&held->ended, FIXTURE_FAR_MS));
    finish_scan(held);
    tree_assert_names(tree, "snapshots/base/mailboxes", "box ");
}

static void lookup_when_the_daemon_stops_is_answered(void **state)
{
    struct held *held = *state;
    struct tree *tree = held->tree;
    struct caller *caller = begin_lookup(tree);
    assert_true(gate_wait(&held->ended, FIXTURE_FAR_MS));
    fs_stop(tree->fs);
    assert_int_equal(end_lookup(caller), -ESHUTDOWN);
    finish_scan(held);
}

static void lookup_when_the_scan_fails_fails_and_later_tries_again(void **state)
{
    struct held *held = *state;
    struct tree *tree = held->tree;
    struct stat st;
    const char *kept = world_path(tree->world, "store/snapshots/base/mailboxes.json");
    assert_int_equal(mkdir(kept, 0700), 0); /* the list cannot be written */
    struct caller *caller = begin_lookup(tree);
    assert_true(gate_wait(&held->ended, FIXTURE_FAR_MS));
    finish_scan(held);
    assert_int_equal(end_lookup(caller), 0); /* look again */
    assert_int_equal(tree_try_walk(tree, "snapshots/base/mailboxes/box", &st), -EISDIR);
    assert_int_equal(remove(world_path(tree->world, "store/snapshots/base/mailboxes.json")), 0);
    caller = begin_lookup(tree);
    assert_true(gate_wait(&held->ended, FIXTURE_FAR_MS));
    finish_scan(held);
    assert_int_equal(end_lookup(caller), 0);
    tree_assert_names(tree, "snapshots/base/mailboxes", "box ");
}

struct remover {
    struct tree *tree;
    struct gate removed;
    pid_t tid;
    int result;
};

/* And the kernel forgets everything of it. */
static void *remove_snapshot(void *argument)
{
    struct remover *remover = argument;
    struct tree *tree = remover->tree;
    uint64_t last = tree_walk(tree, "snapshots/base/forks/new/commit");
    remover->tid = gettid();
    remover->result = tree_rmdir(tree, "snapshots/base");
    gate_post(&remover->removed);
    for (uint64_t node = 2; node <= last; node++)
        fs_forget(tree->fs, node, UINT64_MAX);
    return NULL;
}

/* The last to let go of a snapshot waits for its scan, which in turn has to tell the tree. */
static void snapshot_when_removed_while_it_is_scanned_stops_nobody(void **state)
{
    struct held *held = *state;
    struct tree *tree = held->tree;
    static struct remover remover; /* for the thread, even when the test has failed */
    pthread_t thread;
    remover = (struct remover){.tree = tree, .result = 1};
    gate_init(&remover.removed);
    free(tree_read(tree, "snapshots/base/info")); /* begins a scan */
    assert_true(gate_wait(&held->ended, FIXTURE_FAR_MS));
    alarm(FIXTURE_FAR_MS / 1000);
    assert_int_equal(pthread_create(&thread, NULL, remove_snapshot, &remover), 0);
    assert_true(gate_wait(&remover.removed, FIXTURE_FAR_MS));
    assert_int_equal(remover.result, 0);
    world_await_asleep(remover.tid);           /* forgetting it has to wait */
    tree_assert_has(tree, "README", "hypefs"); /* everyone else goes on */
    gate_post(&held->let_go);
    assert_int_equal(pthread_join(thread, NULL), 0);
    alarm(0);
    gate_finish(&remover.removed);
    tree_assert_names(tree, "snapshots", "");
}

/* No scan of its image was begun: none is under way, none has told of its end, none left a list. */
static void assert_not_scanned(struct world *world, const char *id)
{
    struct instance *instance = instances_find(&world->instances, id);
    assert_non_null(instance);
    pthread_mutex_lock(&instance->image.lock);
    unsigned threads = instance->image.threads;
    pthread_mutex_unlock(&instance->image.lock);
    instance_unref(instance);
    assert_int_equal(threads, 0);
    assert_false(gate_wait(&world->scanned, 0));
    assert_false(world_has(world_path(world, "store/instances/%s/mailboxes.json", id)));
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
    frames_arm(world_page(&image, 1), "box", "token");
    tree_stop(tree);
    world_close(world);
    auto_free char *json = NULL;
    assert_true(asprintf(&json, "\"state\":\"standby\",\"config\":\"{}\",%s", world_machine) > 0);
    world_leave_instance(world, "one", json);
    world_write(world_path(world, "store/instances/one/memory"), 0600, image.bytes, image.size);
    auto_close int fd =
        open(world_path(world, "store/instances/one"), O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    assert_int_equal(image_scan(fd, NULL, &index, &world->err), 0);
    image_index_unref(index);
    tree_start(tree);
    uint64_t mailboxes = tree_walk(tree, "instances/one/mailboxes");
    uint64_t box = tree_walk(tree, "instances/one/mailboxes/box");
    tree_assert_has(tree, "instances/one/mailboxes/box", "\"name\": \"box\"");
    assert_int_equal(tree_put(tree, "instances/one/state", "stopped"), 0);
    world_write(world_path(world, "store/instances/one/memory"), 0600, image.bytes, image.size);
    caller_init(&caller);
    assert_int_equal(fs_lookup(tree->fs, mailboxes, "box", &caller.waiter, &node, &st), -ENOENT);
    gate_finish(&caller.answered);
    assert_int_equal(fs_getattr(tree->fs, box, NULL, &st), 0);
    assert_int_equal(st.st_size, 0);
    assert_not_scanned(world, "one");
}

#define SCANNED(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCANNED(lookup_when_the_image_is_scanned_waits_for_it),
        SCANNED(info_when_the_image_is_scanned_says_null_and_wakes_later),
        SCANNED(lookup_when_interrupted_waits_no_more),
        SCANNED(lookup_when_the_daemon_stops_is_answered),
        SCANNED(lookup_when_the_scan_fails_fails_and_later_tries_again),
        SCANNED(snapshot_when_removed_while_it_is_scanned_stops_nobody),
        SCANNED(mailboxes_of_an_instance_when_it_left_standby_are_not_looked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
