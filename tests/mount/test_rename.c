/* SPDX-License-Identifier: MIT */
/* Renames among staged files. */
#include "fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"

static const char directory[] = "snapshots/base/forks/new/mailboxes";

static char *in(struct harness *h, const char *name)
{
    return harness_path(h, "%s/%s", directory, name);
}

static int move(struct harness *h, const char *from, const char *to, unsigned flags)
{
    return renameat2(AT_FDCWD, in(h, from), AT_FDCWD, in(h, to), flags);
}

static char *error_of(struct harness *h)
{
    return harness_get(h, harness_path(h, "snapshots/base/forks/new/error"));
}

static void rename_moves_the_text_and_keeps_the_inode(void **state)
{
    struct harness *h = *state;
    struct stat before, after;
    harness_put(in(h, "m"), "{\"n\":1}");
    assert_works(stat(in(h, "m"), &before));
    assert_works(move(h, "m", "a", 0));
    assert_works(stat(in(h, "a"), &after));
    assert_int_equal(before.st_ino, after.st_ino);
    assert_string_equal(harness_get(h, in(h, "a")), "{\"n\":1}");
    assert_fails(access(in(h, "m"), F_OK), ENOENT);
    assert_works(move(h, "a", "a", 0));
    assert_string_equal(harness_get(h, in(h, "a")), "{\"n\":1}");
    assert_fails(move(h, "m", "b", 0), ENOENT);
}

static void rename_over_a_file_replaces_it(void **state)
{
    struct harness *h = *state;
    harness_put(in(h, "m"), "{\"n\":1}");
    harness_put(in(h, "a"), "{\"n\":2}");
    assert_works(move(h, "m", "a", 0));
    assert_string_equal(harness_get(h, in(h, "a")), "{\"n\":1}");
    assert_string_equal(assert_shell("bash", "ls snapshots/base/forks/new/mailboxes", 0).out,
                        "a\n");
}

static void rename_with_flags_knows_noreplace_alone(void **state)
{
    struct harness *h = *state;
    harness_put(in(h, "m"), "{\"n\":1}");
    harness_put(in(h, "a"), "{\"n\":2}");
    assert_fails(move(h, "m", "a", RENAME_NOREPLACE), EEXIST);
    assert_works(move(h, "m", "b", RENAME_NOREPLACE));
    assert_fails(move(h, "a", "b", RENAME_EXCHANGE), EINVAL);
    assert_fails(move(h, "a", "b", RENAME_WHITEOUT), EINVAL);
    assert_string_equal(harness_get(h, in(h, "a")), "{\"n\":2}");
    assert_string_equal(harness_get(h, in(h, "b")), "{\"n\":1}");
}

static void rename_between_drafts_is_for_mv_to_copy(void **state)
{
    struct harness *h = *state;
    assert_works(mkdir(harness_path(h, "snapshots/base/forks/d"), 0755));
    harness_put(in(h, "m"), "{\"n\":1}");
    const char *other = harness_path(h, "snapshots/base/forks/d/mailboxes/m");
    assert_fails(rename(in(h, "m"), other), EXDEV);
    assert_shell("bash",
                 "cd snapshots/base/forks && mv new/mailboxes/m d/mailboxes/ && ! ls "
                 "new/mailboxes/m",
                 0);
    assert_string_equal(harness_get(h, other), "{\"n\":1}");
}

static void rename_carries_the_marks_along(void **state)
{
    struct harness *h = *state;
    assert_errno(harness_write(in(h, "m"), "{"), EINVAL);
    assert_works(move(h, "m", "a", 0));
    assert_contains(error_of(h), "mailboxes/a: unfinished");
    assert_errno(harness_write(in(h, "m"), "[]"), EINVAL);
    assert_works(move(h, "m", "b", 0));
    assert_contains(error_of(h), "mailboxes/b: line 1, column 1");
    assert_null(strstr(error_of(h), "mailboxes/m"));
    harness_put(in(h, "m"), "{}");
    assert_works(move(h, "m", "a", 0));
    assert_works(unlink(in(h, "b")));
    assert_string_equal(error_of(h), "");
}

static void rename_to_a_name_that_no_mailbox_has_is_refused(void **state)
{
    struct harness *h = *state;
    harness_put(in(h, "m"), "{}");
    assert_fails(move(h, "m", "a b", 0), EINVAL);
    assert_fails(rename(in(h, "m"), harness_path(h, "snapshots/base/forks/new/options")), EPERM);
    assert_fails(rename(in(h, "m"), harness_path(h, "m")), EPERM);
    assert_string_equal(harness_get(h, in(h, "m")), "{}");
}

static void rename_of_a_scratch_file_to_a_mailbox_asks_for_a_payload(void **state)
{
    struct harness *h = *state;
    harness_put(in(h, "m"), "{\"n\":1}");
    harness_put(in(h, "m~"), "free text");
    assert_fails(move(h, "m~", "m", 0), EINVAL);
    assert_fails(move(h, "m~", "a", 0), EINVAL);
    assert_string_equal(harness_get(h, in(h, "m")), "{\"n\":1}");
    assert_works(move(h, "m~", ".m.swp", 0));
    harness_put(in(h, "m~"), "{\"n\":2}");
    assert_works(move(h, "m~", "m", 0));
    assert_string_equal(harness_get(h, in(h, "m")), "{\"n\":2}");
    assert_works(move(h, "m", "m~", 0));
    assert_works(unlink(in(h, ".m.swp")));
    assert_string_equal(harness_get(h, harness_path(h, "snapshots/base/forks/new/status")),
                        "empty\n");
}

static void open_file_when_renamed_stages_under_the_new_name(void **state)
{
    struct harness *h = *state;
    auto_close int fd = open(in(h, "m"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, "{\"n\":", 5), 5);
    assert_works(move(h, "m", "a", 0));
    assert_int_equal(write(fd, "1}", 2), 2);
    assert_works(close(steal_fd(&fd)));
    assert_string_equal(harness_get(h, in(h, "a")), "{\"n\":1}");
    assert_string_equal(error_of(h), "");
}

static void open_file_of_what_was_replaced_changes_nothing(void **state)
{
    struct harness *h = *state;
    harness_put(in(h, "a"), "{\"n\":1}");
    harness_put(in(h, "m"), "{\"n\":2}");
    auto_close int fd = open(in(h, "a"), O_WRONLY | O_TRUNC | O_CLOEXEC);
    assert_works(move(h, "m", "a", 0));
    if (write(fd, "{\"n\":3}", 7) == 7)
        close(steal_fd(&fd));
    assert_string_equal(harness_get(h, in(h, "a")), "{\"n\":2}");
    assert_string_equal(error_of(h), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        mounted_test(rename_moves_the_text_and_keeps_the_inode),
        mounted_test(rename_over_a_file_replaces_it),
        mounted_test(rename_with_flags_knows_noreplace_alone),
        mounted_test(rename_between_drafts_is_for_mv_to_copy),
        mounted_test(rename_carries_the_marks_along),
        mounted_test(rename_to_a_name_that_no_mailbox_has_is_refused),
        mounted_test(rename_of_a_scratch_file_to_a_mailbox_asks_for_a_payload),
        mounted_test(open_file_when_renamed_stages_under_the_new_name),
        mounted_test(open_file_of_what_was_replaced_changes_nothing),
    };
    harness_enter();
    return cmocka_run_group_tests_name("rename", tests, NULL, NULL);
}
