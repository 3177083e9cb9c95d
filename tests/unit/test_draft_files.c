/* SPDX-License-Identifier: MIT */
/* Files in a draft's mailboxes/: which there may be, and what they are called. */
#include "fs/node.h"
#include "tree_fixture.h"

static void file_when_created_and_not_yet_opened_is_unfinished(void **state)
{
    struct tree *tree = *state;
    struct stat st;
    uint64_t node, mailboxes = tree_walk(tree, OWN "mailboxes");
    assert_int_equal(fs_create_node(tree->fs, mailboxes, "box", O_CREAT, 0, &node, &st), 0);
    tree_assert_text(tree, OWN "status", "staged\n");
    tree_assert_not_committed(tree, "mailboxes/box: unfinished");
}

static void file_when_created_by_two_keeps_what_the_first_wrote(void **state)
{
    struct tree *tree = *state;
    struct stat st;
    struct handle *handle;
    uint64_t node, mailboxes = tree_walk(tree, OWN "mailboxes");
    tree_must_put(tree, OWN_BOX, "{\"a\":1}");
    assert_int_equal(fs_create(tree->fs, mailboxes, "box", O_WRONLY | O_CREAT | O_APPEND, gettid(),
                               &node, &st, &handle),
                     0);
    fs_release(tree->fs, handle);
    tree_assert_text(tree, OWN_BOX, "{\"a\":1}");
    tree_assert_committable(tree, OWN);
    assert_int_equal(fs_create(tree->fs, mailboxes, "box", O_WRONLY | O_CREAT | O_EXCL, gettid(),
                               &node, &st, &handle),
                     -EEXIST);
    assert_int_equal(fs_create(tree->fs, mailboxes, "box", O_WRONLY | O_CREAT | O_TRUNC, gettid(),
                               &node, &st, &handle),
                     0);
    fs_release(tree->fs, handle);
    tree_assert_text(tree, OWN_BOX, "");
}

static void file_when_unlinked_while_open_is_no_longer_staged(void **state)
{
    struct tree *tree = *state;
    struct handle *handle = tree_open(tree, OWN_BOX, O_RDWR | O_CREAT);
    assert_int_equal(tree_unlink(tree, OWN_BOX), 0);
    tree_assert_text(tree, OWN "status", "empty\n");
    assert_int_equal(tree_write_at(tree, handle, "nonsense", 0), -EINVAL);
    assert_int_equal(tree_flush(tree, handle), -EINVAL);
    tree_must_put(tree, OWN_BOX, "{\"new\":1}");
    fs_release(tree->fs, handle);
    tree_assert_text(tree, OWN_BOX, "{\"new\":1}");
    tree_assert_text(tree, OWN "error", "");
    tree_assert_committable(tree, OWN);
}

static void files_when_more_than_24_are_refused(void **state)
{
    struct tree *tree = *state;
    char path[128];
    for (int i = 0; i < 24; i++) {
        snprintf(path, sizeof path, OWN "mailboxes/%s%d%s", i % 2 ? "m" : ".m", i,
                 i % 2 ? "" : ".swp");
        tree_must_put(tree, path, "{}");
    }
    assert_int_equal(tree_put(tree, OWN_BOX, "{}"), -ENOSPC);
    tree_must_put(tree, path, "{\"still\":1}");
    assert_int_equal(tree_unlink(tree, path), 0);
    tree_must_put(tree, OWN_BOX, "{}");
    assert_int_equal(tree_put(tree, OWN "mailboxes/fox", "{}"), -ENOSPC);
}

static void mailboxes_when_more_than_16_are_not_committed(void **state)
{
    struct tree *tree = *state;
    char path[128];
    for (int i = 0; i < 17; i++) {
        snprintf(path, sizeof path, OWN "mailboxes/m%d", i);
        tree_must_put(tree, path, "{}");
    }
    assert_int_equal(tree_put(tree, OWN "commit", "1"), -ENOSPC);
    tree_assert_has(tree, OWN "error", "more than 16 mailboxes");
    assert_int_equal(tree_unlink(tree, path), 0);
    assert_int_equal(tree_put(tree, OWN "commit", "1"), -ENOENT); /* the image has none of them */
}

static void scratch_file_when_written_may_hold_anything(void **state)
{
    static const char *const names[] = {".box.swp", ".box.swpx", ".box.swx", "box~", "~", "4913"};
    struct tree *tree = *state;
    char path[128], *bytes = malloc(65537);
    memset(bytes, 'x', 65537);
    bytes[65536] = 0;
    for (size_t i = 0; i < array_length(names); i++) {
        snprintf(path, sizeof path, OWN "mailboxes/%s", names[i]);
        tree_must_put(tree, path, "not JSON \xFF\n");
        tree_assert_text(tree, path, "not JSON \xFF\n");
    }
    tree_assert_text(tree, OWN "status", "empty\n");
    tree_must_put(tree, path, bytes);
    struct handle *handle = tree_open(tree, path, O_WRONLY);
    assert_int_equal(tree_write_at(tree, handle, "y", 65536), -EFBIG);
    fs_release(tree->fs, handle);
    free(bytes);
    tree_assert_text(tree, OWN "error", "");
    tree_assert_committable(tree, OWN); /* never committed */
}

static void scratch_file_when_renamed_to_a_mailbox_must_be_acceptable(void **state)
{
    struct tree *tree = *state;
    char *large = malloc(20001);
    memset(large, ' ', 20001);
    large[20000] = 0;
    memcpy(large, "{}", 2);
    tree_must_put(tree, OWN "mailboxes/4913", "not JSON");
    assert_int_equal(tree_rename(tree, OWN "mailboxes/4913", OWN_BOX, 0), -EINVAL);
    tree_must_put(tree, OWN "mailboxes/4913", "{\"a\":");
    assert_int_equal(tree_rename(tree, OWN "mailboxes/4913", OWN_BOX, 0), -EINVAL);
    tree_must_put(tree, OWN "mailboxes/4913", "{\"token\":\"t\"}");
    assert_int_equal(tree_rename(tree, OWN "mailboxes/4913", OWN_BOX, 0), -EINVAL);
    tree_must_put(tree, OWN "mailboxes/4913", large);
    assert_int_equal(tree_rename(tree, OWN "mailboxes/4913", OWN_BOX, 0), -EFBIG);
    free(large);
    tree_assert_names(tree, OWN "mailboxes", "4913 ");
    tree_must_put(tree, OWN "mailboxes/4913", "{\"a\":1}");
    assert_int_equal(tree_rename(tree, OWN "mailboxes/4913", OWN_BOX, 0), 0);
    tree_assert_text(tree, OWN_BOX, "{\"a\":1}");
    assert_int_equal(tree_rename(tree, OWN_BOX, OWN "mailboxes/box~", 0), 0); /* a backup */
    tree_assert_text(tree, OWN "status", "empty\n");
    tree_must_put(tree, OWN_BOX, "{\"a\":2}");
    tree_assert_committable(tree, OWN);
}

static void rename_when_its_rules_are_broken_fails(void **state)
{
    struct tree *tree = *state;
    tree_must_put(tree, OWN_BOX, "{\"a\":1}");
    tree_must_put(tree, OWN "mailboxes/fox", "{\"a\":2}");
    assert_int_equal(tree_mkdir(tree, "snapshots/base/forks/mine"), 0);
    static const struct {
        const char *from, *to;
        unsigned flags;
        int code;
    } cases[] = {
        {OWN_BOX, OWN "mailboxes/fox", RENAME_NOREPLACE, EEXIST},
        {OWN_BOX, OWN_BOX, RENAME_NOREPLACE, EEXIST},
        {OWN_BOX, OWN "mailboxes/fox", RENAME_EXCHANGE, EINVAL},
        {OWN_BOX, OWN "mailboxes/new.name", RENAME_WHITEOUT, EINVAL},
        {OWN_BOX, "snapshots/base/forks/mine/mailboxes/box", 0, EXDEV},
        {OWN_BOX, "snapshots/base/forks/box", 0, EPERM},
        {OWN_BOX, OWN "options", 0, EPERM},
        {OWN_BOX, "instances/box", 0, EPERM},
        {OWN_BOX, OWN "mailboxes/a b", 0, EINVAL},
        {OWN_BOX, OWN "mailboxes/..", 0, EINVAL},
        {OWN "mailboxes/other", OWN_BOX, 0, ENOENT},
        {OWN "options", OWN "mailboxes/options", 0, EPERM},
        {"snapshots/base", "snapshots/other", 0, EPERM},
        {"snapshots/base/forks/mine", "snapshots/base/forks/yours", 0, EPERM},
    };
    for (size_t i = 0; i < array_length(cases); i++) {
        int r = tree_rename(tree, cases[i].from, cases[i].to, cases[i].flags);
        if (r != -cases[i].code)
            fail_msg("%s to %s: %d", cases[i].from, cases[i].to, r);
    }
    tree_assert_text(tree, OWN_BOX, "{\"a\":1}");
    tree_assert_text(tree, OWN "mailboxes/fox", "{\"a\":2}");
    tree_assert_names(tree, OWN "mailboxes", "box fox ");
}

static void rename_when_allowed_replaces_and_carries_the_file(void **state)
{
    struct tree *tree = *state;
    tree_must_put(tree, OWN_BOX, "{\"a\":1}");
    tree_must_put(tree, OWN "mailboxes/fox", "{\"a\":2}");
    ino_t ino = tree_stat(tree, OWN "mailboxes/fox").st_ino;
    struct handle *old = tree_open(tree, OWN_BOX, O_RDWR);
    struct handle *moved = tree_open(tree, OWN "mailboxes/fox", O_RDWR);
    assert_int_equal(tree_rename(tree, OWN "mailboxes/fox", OWN_BOX, 0), 0);
    tree_assert_names(tree, OWN "mailboxes", "box ");
    tree_assert_text(tree, OWN_BOX, "{\"a\":2}");
    assert_int_equal(tree_stat(tree, OWN_BOX).st_ino, ino);
    assert_int_equal(tree_write_at(tree, old, "9", 5), 0); /* it was replaced */
    assert_int_equal(tree_flush(tree, old), 0);
    tree_assert_text(tree, OWN_BOX, "{\"a\":2}");
    assert_int_equal(tree_write_at(tree, moved, "3", 5), 0);
    assert_int_equal(tree_flush(tree, moved), 0);
    tree_assert_text(tree, OWN_BOX, "{\"a\":3}");
    fs_release(tree->fs, old);
    fs_release(tree->fs, moved);
    assert_int_equal(tree_rename(tree, OWN_BOX, OWN_BOX, 0), 0);
    assert_int_equal(tree_rename(tree, OWN_BOX, OWN "mailboxes/fox", RENAME_NOREPLACE), 0);
    tree_assert_names(tree, OWN "mailboxes", "fox ");
    /* An unfinished file stays so. */
    struct handle *begun = tree_open(tree, OWN "mailboxes/begun", O_WRONLY | O_CREAT);
    fs_release(tree->fs, begun);
    assert_int_equal(tree_rename(tree, OWN "mailboxes/begun", OWN "mailboxes/fox", 0), 0);
    tree_assert_not_committed(tree, "mailboxes/fox: unfinished");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_DRAFT(file_when_created_and_not_yet_opened_is_unfinished),
        WITH_DRAFT(file_when_created_by_two_keeps_what_the_first_wrote),
        WITH_DRAFT(file_when_unlinked_while_open_is_no_longer_staged),
        WITH_DRAFT(files_when_more_than_24_are_refused),
        WITH_DRAFT(mailboxes_when_more_than_16_are_not_committed),
        WITH_DRAFT(scratch_file_when_written_may_hold_anything),
        WITH_DRAFT(scratch_file_when_renamed_to_a_mailbox_must_be_acceptable),
        WITH_DRAFT(rename_when_its_rules_are_broken_fails),
        WITH_DRAFT(rename_when_allowed_replaces_and_carries_the_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
