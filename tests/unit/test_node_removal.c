/* SPDX-License-Identifier: MIT */
/* What is removed is gone with all that is in it, also for who has it open. */
#include "tree_fixture.h"

static void assert_gone(struct tree *tree, uint64_t node, struct handle *handle)
{
    struct stat st;
    char *bytes;
    size_t size;
    struct handle *other;
    assert_int_equal(tree_getattr(tree, node, &st), -ESTALE);
    assert_int_equal(fs_open_file(tree->fs, node, O_RDONLY, gettid(), NULL, &other), -ESTALE);
    assert_int_equal(fs_read(tree->fs, handle, 10, 0, NULL, &bytes, &size), -ENODEV);
    assert_int_equal(tree_write_at(tree, handle, "{}", 0), -ENODEV);
    assert_int_equal(fs_poll(tree->fs, handle, NULL), 0x8 | 0x10); /* POLLERR, POLLHUP */
}

static void instance_when_removed_takes_all_of_it_away(void **state)
{
    struct tree *tree = *state;
    tree_furnish(tree);
    ino_t ino = tree_stat(tree, "instances/web-1").st_ino;
    uint64_t state_node = tree_walk(tree, "instances/web-1/state");
    struct handle *state_file = tree_open(tree, "instances/web-1/state", O_RDWR);
    uint64_t record_node = tree_walk(tree, "snapshots/base/forks/web-1/options");
    struct handle *record_file = tree_open(tree, "snapshots/base/forks/web-1/options", O_RDONLY);
    struct handle *console = tree_open(tree, "instances/web-1/console", O_RDONLY);
    auto_free char *log = tree_read_open(tree, console);
    assert_string_equal(log, "hello\n");
    assert_int_equal(tree_rmdir(tree, "instances/web-1"), 0);
    tree_assert_names(tree, "snapshots/base/forks", "commit new ");
    assert_gone(tree, state_node, state_file);
    assert_gone(tree, record_node, record_file);
    auto_free char *bytes = NULL;
    size_t size;
    assert_int_equal(fs_read(tree->fs, console, 10, 0, NULL, &bytes, &size), -ENODEV);
    fs_release(tree->fs, state_file);
    fs_release(tree->fs, record_file);
    fs_release(tree->fs, console);
    assert_int_equal(tree_mkdir(tree, "instances/web-1"), 0);
    struct stat st;
    assert_int_equal(tree_getattr(tree, state_node, &st), -ESTALE);
    assert_int_not_equal(tree_stat(tree, "instances/web-1").st_ino, ino);
    assert_int_not_equal(tree_walk(tree, "instances/web-1/state"), state_node);
    fs_forget(tree->fs, state_node, UINT64_MAX); /* long after what it was of */
    assert_int_equal(tree_getattr(tree, state_node, &st), -ESTALE);
    tree_assert_text(tree, "instances/web-1/state", "created\n");
    assert_int_equal(tree_rmdir(tree, "instances/one"), 0);
    assert_int_equal(tree_rmdir(tree, "instances/two"), 0);
}

static void snapshot_when_removed_takes_its_drafts_along(void **state)
{
    struct tree *tree = *state;
    tree_furnish(tree);
    assert_int_equal(tree_mkdir(tree, "snapshots/base/forks/mine"), 0);
    assert_int_equal(tree_put(tree, "snapshots/base/forks/mine/mailboxes/box", "{}"), 0);
    uint64_t info = tree_walk(tree, "snapshots/base/info");
    struct handle *info_file = tree_open(tree, "snapshots/base/info", O_RDONLY);
    uint64_t box = tree_walk(tree, "snapshots/base/forks/mine/mailboxes/box");
    struct handle *box_file = tree_open(tree, "snapshots/base/forks/mine/mailboxes/box", O_RDWR);
    struct snapshot *snapshot = snapshots_find(&tree->world->snapshots, "base");
    assert_int_equal(snapshot_use(snapshot, NULL), 0);
    assert_int_equal(tree_rmdir(tree, "snapshots/base"), -EBUSY);
    tree_assert_names(tree, "snapshots/base/forks/mine/mailboxes", "box ");
    snapshot_leave(snapshot);
    snapshot_unref(snapshot);
    assert_int_equal(tree_rmdir(tree, "snapshots/base"), 0);
    tree_assert_names(tree, "snapshots", "");
    assert_gone(tree, info, info_file);
    assert_gone(tree, box, box_file);
    assert_int_equal(fs_flush(tree->fs, box_file, &(struct waiter){.tid = gettid()}),
                     0); /* nothing was written */
    fs_release(tree->fs, info_file);
    fs_release(tree->fs, box_file);
    tree_assert_text(tree, "instances/web-1/state", "stopped\n");
    assert_int_equal(tree_rmdir(tree, "instances/web-1"), 0);
}

/* As if it had been removed in the tree, from the next look at snapshots/ on. */
static void snapshot_that_others_take_out_of_the_store_takes_its_drafts_along(void **state)
{
    struct tree *tree = *state;
    char moved[PATH_MAX];
    tree_furnish(tree);
    assert_int_equal(tree_mkdir(tree, "snapshots/base/forks/mine"), 0);
    uint64_t info = tree_walk(tree, "snapshots/base/info");
    struct handle *info_file = tree_open(tree, "snapshots/base/info", O_RDONLY);
    struct handle *box_file =
        tree_open(tree, "snapshots/base/forks/mine/mailboxes/box", O_RDWR | O_CREAT);
    assert_int_equal(tree_write_at(tree, box_file, "{}", 0), 0);
    uint64_t box = tree_walk(tree, "snapshots/base/forks/mine/mailboxes/box");
    snprintf(moved, sizeof moved, "%s", world_path(tree->world, "moved"));
    assert_int_equal(rename(world_path(tree->world, "store/snapshots/base"), moved), 0);
    tree_assert_names(tree, "snapshots", "");
    assert_gone(tree, info, info_file);
    assert_gone(tree, box, box_file);
    assert_int_equal(fs_flush(tree->fs, box_file, &(struct waiter){.tid = gettid()}), -ENODEV);

    fs_release(tree->fs, info_file);
    fs_release(tree->fs, box_file);
}

static void draft_when_removed_takes_what_was_staged_along(void **state)
{
    struct tree *tree = *state;
    tree_furnish(tree);
    assert_int_equal(tree_mkdir(tree, "snapshots/base/forks/mine"), 0);
    uint64_t node = tree_walk(tree, "snapshots/base/forks/mine/commit");
    struct handle *commit = tree_open(tree, "snapshots/base/forks/mine/commit", O_RDWR);
    struct handle *box =
        tree_open(tree, "snapshots/base/forks/mine/mailboxes/box", O_RDWR | O_CREAT);
    assert_int_equal(tree_write_at(tree, box, "{}", 0), 0);
    ino_t ino = tree_stat(tree, "snapshots/base/forks/mine").st_ino;
    assert_int_equal(tree_rmdir(tree, "snapshots/base/forks/mine"), 0);
    assert_gone(tree, node, commit);
    assert_int_equal(fs_flush(tree->fs, box, &(struct waiter){.tid = gettid()}), -ENODEV);
    assert_int_equal(tree_mkdir(tree, "snapshots/base/forks/mine"), 0);
    assert_int_not_equal(tree_stat(tree, "snapshots/base/forks/mine").st_ino, ino);
    assert_int_equal(tree_write_at(tree, commit, "1", 0), -ENODEV);
    tree_assert_names(tree, "snapshots/base/forks/mine/mailboxes", "");
    fs_release(tree->fs, commit);
    fs_release(tree->fs, box);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_EMPTY_TREE(instance_when_removed_takes_all_of_it_away),
        IN_EMPTY_TREE(snapshot_when_removed_takes_its_drafts_along),
        IN_EMPTY_TREE(snapshot_that_others_take_out_of_the_store_takes_its_drafts_along),
        IN_EMPTY_TREE(draft_when_removed_takes_what_was_staged_along),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
