/* SPDX-License-Identifier: MIT */
/* What a commit leaves in the place of its draft. */
#include "fork/request.h"
#include "place.h"
#include "tree_fixture.h"

/* Leaves the fork "web-1" of "base" with this record, and starts again. */
static void leave_fork(struct tree *tree, const char *record)
{
    struct world *world = tree->world;
    place_remove(world_path(world, "store/instances/web-1"));
    tree_leave_fork(tree, record);
    tree_restart(tree);
    assert_string_equal(world->complaints, "");
}

#define WEB "snapshots/base/forks/web-1/"

static void record_when_committed_is_read_only(void **state)
{
    struct tree *tree = *state;
    struct handle *handle;
    leave_fork(tree, "{\"version\":1,\"options\":\"{ }\\n\",\"result\":{\"status\":\"committed\","
                     "\"error\":null,\"mailboxes\":[{\"name\":\"box\",\"acked\":true},"
                     "{\"name\":\"fox\"}]}}");
    tree_assert_text(tree, WEB "status", "committed\n");
    tree_assert_text(tree, WEB "error", "");
    tree_assert_text(tree, WEB "options", "{ }\n");
    tree_assert_has(tree, WEB "result", "\"status\": \"committed\"");
    tree_assert_text(tree, WEB "mailboxes/box", "{\n  \"name\": \"box\",\n  \"acked\": true\n}\n");
    tree_assert_names(tree, WEB "mailboxes", "box fox ");
    assert_int_equal(tree_put(tree, WEB "commit", "1"), 0); /* nothing is forked twice */
    assert_int_equal(tree_put(tree, WEB "commit", "web-1"), 0);
    assert_int_equal(tree_open_flags(tree, WEB "mailboxes/box", O_WRONLY, &handle), -EPERM);
    assert_int_equal(tree_open_flags(tree, WEB "options", O_RDWR, &handle), -EPERM);
    assert_int_equal(tree_open_flags(tree, WEB "mailboxes/new", O_RDWR | O_CREAT, &handle), -EPERM);
    assert_int_equal(fs_truncate(tree->fs, tree_walk(tree, WEB "options"), NULL, 0), -EPERM);
    assert_int_equal(tree_unlink(tree, WEB "mailboxes/box"), -EPERM);
    assert_int_equal(tree_rename(tree, WEB "mailboxes/box", WEB "mailboxes/new", 0), -EPERM);
    assert_int_equal(tree_rmdir(tree, "snapshots/base/forks/web-1"), -EBUSY);
    assert_int_equal(tree_put(tree, NEW "commit", "web-1"), -EEXIST);
    tree_assert_has(tree, NEW "error", "forks/web-1 is there already");
}

static void record_when_kept_after_a_failure_says_so(void **state)
{
    struct tree *tree = *state;
    leave_fork(tree, "{\"version\":1,\"options\":\"{}\",\"result\":{\"status\":\"failed\","
                     "\"error\":{\"code\":\"ETIMEDOUT\",\"message\":\"no ack\"},"
                     "\"mailboxes\":[]}}");
    tree_assert_text(tree, WEB "status", "failed\n");
    tree_assert_text(tree, WEB "error", "no ack\n");
    assert_int_equal(tree_put(tree, WEB "commit", "1"), -ETIMEDOUT);
    assert_int_equal(tree_put(tree, WEB "commit", "web-1"), -ETIMEDOUT);
    leave_fork(tree, "{\"version\":1,\"result\":{\"status\":\"failed\","
                     "\"error\":{\"code\":\"EVERYTHING\"},\"mailboxes\":7}}");
    assert_int_equal(tree_put(tree, WEB "commit", "1"), -EIO);
    tree_assert_text(tree, WEB "options", fork_options_default);
}

static void record_when_its_file_is_damaged_shows_no_nonsense(void **state)
{
    static const char *const none[] = {
        "{\"version\":1}",
        "{\"version\":1,\"result\":7}",
        "{\"version\":1,\"result\":{}}",
        "{\"version\":1,\"result\":{\"status\":7}}",
        "{\"version\":1,\"result\":{\"status\":\"committing\"}}",
        "{\"version\":1,\"result\":{\"status\":\"\"}}",
    };
    struct tree *tree = *state;
    for (size_t i = 0; i < array_length(none); i++) {
        leave_fork(tree, none[i]);
        tree_assert_names(tree, "snapshots/base/forks", "commit new ");
        tree_assert_text(tree, "instances/web-1/state", "stopped\n");
    }
    leave_fork(
        tree,
        "{\"version\":1,\"result\":{\"status\":\"committed\",\"mailboxes\":[{\"name\":\"../x\"},"
        "{\"name\":\"a/b\"},{\"name\":\"\"},{\"name\":\".\"},{\"name\":7},7,"
        "{\"name\":\"box\"},{\"name\":\"box\"},{\"name\":\"a b\"},{\"name\":\"x~\"}]}}");
    tree_assert_names(tree, WEB "mailboxes", "box ");
}

static void record_when_its_snapshot_is_another_one_is_not_shown(void **state)
{
    struct tree *tree = *state;
    leave_fork(tree, "{\"version\":1,\"result\":{\"status\":\"committed\",\"mailboxes\":[]}}");
    tree_assert_names(tree, "snapshots/base/forks", "commit new web-1 ");
    assert_int_equal(tree_rmdir(tree, "snapshots/base"), 0);
    world_publish_box(tree->world, "base");
    tree_assert_names(tree, "snapshots/base/forks", "commit new ");
    assert_int_equal(tree_rmdir(tree, "instances/web-1"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_BASE(record_when_committed_is_read_only),
        WITH_BASE(record_when_kept_after_a_failure_says_so),
        WITH_BASE(record_when_its_file_is_damaged_shows_no_nonsense),
        WITH_BASE(record_when_its_snapshot_is_another_one_is_not_shown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
