/* SPDX-License-Identifier: MIT */
/* `error` in the root: every refusal has a place where its reason can be read. */
#include "fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"

enum { LINES_MAX = 64 };

static char *error(struct harness *h)
{
    return harness_get(h, harness_path(h, "error"));
}

static size_t count_lines(const char *text)
{
    size_t count = 0;
    for (; *text; text++)
        count += *text == '\n';
    return count;
}

/* The last line. */
static const char *last(struct harness *h)
{
    char *text = error(h);
    size_t size = strlen(text);
    assert_true(size > 0 && text[size - 1] == '\n');
    text[size - 1] = 0;
    char *line = strrchr(text, '\n');
    return line ? line + 1 : text;
}

/* In bash at the mount; `line` is in the last line of MOUNT/error, and `beside` (if not NULL) is a
 * file that tells it too. */
static const struct refusal {
    const char *script, *words, *line, *beside;
} refusals[] = {
    {"mkdir instances/A", "Invalid argument",
     "mkdir instances/A: EINVAL: \"A\" is not an id: 1 to 63", NULL},
    {"mkdir instances/commit", "Invalid argument",
     "mkdir instances/commit: EINVAL: \"commit\" is not an id", NULL},
    {"mkdir instances/x/forks/-a", "Invalid argument",
     "mkdir instances/x/forks/-a: EINVAL: \"-a\" is not an id", "instances/x/error"},
    {"mkdir snapshots/other", "not permitted",
     "mkdir snapshots/other: EPERM: directories can only be made in instances/ and in forks/",
     NULL},
    {"rmdir snapshots/base/forks/new", "not permitted",
     "rmdir snapshots/base/forks/new: EPERM: forks/new is always there",
     "snapshots/base/forks/new/error"},
    {"rm -rf instances/x", "not permitted",
     ": EPERM: this file cannot be removed alone: remove its directory with rmdir, not with rm -r",
     "instances/x/error"},
    {"mkdir snapshots/base/forks/d/sub", "not permitted",
     "mkdir snapshots/base/forks/d/sub: EPERM: directories can only be made in",
     "snapshots/base/forks/d/error"},
    {"rm snapshots/base/forks/d/options", "not permitted",
     "unlink snapshots/base/forks/d/options: EPERM: this file cannot be removed alone",
     "snapshots/base/forks/d/error"},
    {"touch snapshots/base/forks/d/y", "not permitted",
     "create snapshots/base/forks/d/y: EPERM: files can only be made in",
     "snapshots/base/forks/d/error"},
    {"ln README snapshots/base/forks/d/mailboxes/l", "not permitted",
     "link snapshots/base/forks/d/mailboxes/l: EPERM: hard links cannot be made here",
     "snapshots/base/forks/d/error"},
    {"mkfifo snapshots/base/forks/d/mailboxes/p", "not permitted",
     "mknod snapshots/base/forks/d/mailboxes/p: EPERM: named pipes, sockets and devices cannot",
     "snapshots/base/forks/d/error"},
    {"mv snapshots/base/forks/d/options snapshots/base/forks/d/mailboxes/o", "not permitted",
     "rename snapshots/base/forks/d/options: EPERM: only files in a draft's mailboxes/",
     "snapshots/base/forks/d/error"},
    {"mv README snapshots/base/forks/d/mailboxes/o", "not permitted",
     "rename README: EPERM: only files in a draft's mailboxes/", "snapshots/base/forks/d/error"},
    {"rm instances/x/info", "not permitted",
     "unlink instances/x/info: EPERM: this file cannot be removed alone", "instances/x/error"},
    {"mkdir instances/x/s", "not permitted",
     "mkdir instances/x/s: EPERM: directories can only be made in", "instances/x/error"},
    {"rm README", "not permitted", "unlink README: EPERM: this file cannot be removed alone", NULL},
    {"mv instances/x instances/y", "not permitted", "rename instances/x: EPERM: only files", NULL},
    {"mv snapshots/base/forks/d/mailboxes/m snapshots/base/forks/d/mailboxes/a+b",
     "subdirectory of itself",
     "rename snapshots/base/forks/d/mailboxes/m: EINVAL: mailboxes/a+b is not the name",
     "snapshots/base/forks/d/error"},
    {"touch snapshots/base/forks/d/mailboxes/a+b", "Invalid argument",
     "create snapshots/base/forks/d/mailboxes/a+b: EINVAL: mailboxes/a+b is not the name",
     "snapshots/base/forks/d/error"},
    {"touch instances/x/y", "not permitted",
     "create instances/x/y: EPERM: files can only be made in a draft's", "instances/x/error"},
    {"ln -s x snapshots/base/forks/d/mailboxes/l", "not permitted",
     "symlink snapshots/base/forks/d/mailboxes/l: EPERM: symbolic links cannot be made",
     "snapshots/base/forks/d/error"},
    {"ln README instances/x/l", "not permitted",
     "link instances/x/l: EPERM: hard links cannot be made here: copy with cp",
     "instances/x/error"},
    {"mkfifo p", "not permitted", "mknod p: EPERM: named pipes, sockets and devices cannot", NULL},
    {"echo 65 > snapshots/base/warm", "Invalid argument",
     "write snapshots/base/warm: EINVAL: warm takes only a whole number from 0 to 64", NULL},
    {"cp -r instances/x instances/z; rmdir instances/z/forks/new", "not permitted", "EPERM", NULL},
};

static void refusal_when_nothing_is_beside_it_is_told_in_the_root(void **state)
{
    struct harness *h = *state;
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
    assert_works(mkdir(harness_path(h, "snapshots/base/forks/d"), 0755));
    harness_put(harness_path(h, "snapshots/base/forks/d/mailboxes/m"), "{\"secret\":\"s3cret\"}");
    assert_string_equal(error(h), "");
    for (size_t i = 0; i < array_length(refusals); i++) {
        struct harness_result result = harness_shell(h, "bash", refusals[i].script);
        assert_int_not_equal(result.status, 0);
        assert_contains(result.err, refusals[i].words);
        assert_contains(error(h), refusals[i].line);
        if (refusals[i].beside) {
            const char *reason = strchr(strstr(last(h), ": E") + 2, ':');
            assert_contains(harness_get(h, harness_path(h, "%s", refusals[i].beside)), reason + 2);
        }
    }
    assert_null(strstr(error(h), "s3cret"));
}

/* Editors try to make a swap file, and ask what to do about a file that changes meanwhile. */
static void refusal_changes_no_time_of_the_files_beside_it(void **state)
{
    struct harness *h = *state;
    static const char *const files[] = {"instances/x/config", "snapshots/base/forks/d/options"};
    struct stat before, after;
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
    assert_works(mkdir(harness_path(h, "snapshots/base/forks/d"), 0755));
    for (size_t i = 0; i < array_length(files); i++) {
        const char *path = harness_path(h, "%s", files[i]);
        assert_works(stat(path, &before));
        assert_errno(harness_write(harness_format(h, "%s.swp", path), "x"), EPERM);
        assert_works(stat(path, &after));
        assert_memory_equal(&before.st_mtim, &after.st_mtim, sizeof before.st_mtim);
    }
}

static void line_when_told_has_time_and_pid(void **state)
{
    struct harness *h = *state;
    unsigned year;
    int pid;
    char operation[16], path[64];
    assert_fails(mkdir(harness_path(h, "instances/A"), 0755), EINVAL);
    assert_int_equal(sscanf(last(h), "%u-%*2u-%*2uT%*2u:%*2u:%*2u.%*3uZ %d %15s %63[^:]", &year,
                            &pid, operation, path),
                     4);
    assert_int_equal(pid, getpid());
    assert_string_equal(operation, "mkdir");
    assert_string_equal(path, "instances/A");
}

static void rmdir_that_is_busy_says_why(void **state)
{
    struct harness *h = *state;
    const char *draft = harness_path(h, "snapshots/base/forks/d");
    assert_works(mkdir(draft, 0755));
    assert_fails(rmdir(harness_path(h, "snapshots/base/forks/new")), EPERM);
    assert_fails(rmdir(harness_path(h, "instances")), EPERM);
    assert_contains(last(h), "rmdir instances: EPERM: only instances, snapshots and drafts");
}

static void names_when_they_would_move_a_terminal_are_escaped(void **state)
{
    struct harness *h = *state;
    assert_fails(mkdir(harness_path(h, "instances/\x1b[2J\n\xC2\x9B\xE2\x80\xAE"), 0755), EINVAL);
    assert_contains(error(h), "instances/\\u001b[2J\\u000a\\u009b\\u202e: EINVAL: ");
    assert_int_equal(count_lines(error(h)), 1);
}

static void lines_when_there_are_too_many_are_the_last(void **state)
{
    struct harness *h = *state;
    for (int i = 0; i < LINES_MAX + 3; i++)
        assert_fails(mkdir(harness_path(h, "instances/A%d", i), 0755), EINVAL);
    assert_int_equal(count_lines(error(h)), LINES_MAX);
    assert_null(strstr(error(h), "instances/A2:"));
    assert_contains(error(h), "instances/A3:");
    assert_contains(last(h), harness_format(h, "instances/A%d:", LINES_MAX + 2));
    struct stat st;
    assert_works(stat(harness_path(h, "error"), &st));
    assert_int_equal(st.st_size, strlen(error(h)));
    assert_int_equal(st.st_mode, S_IFREG | 0444);
}

static void reason_of_a_refused_file_when_committed_is_told_once(void **state)
{
    struct harness *h = *state;
    const char *reason = "line 1, column 1";
    assert_works(mkdir(harness_path(h, "snapshots/base/forks/d"), 0755));
    const char *why = harness_path(h, "snapshots/base/forks/d/error");
    assert_errno(harness_write(harness_path(h, "snapshots/base/forks/d/mailboxes/m"), "[1]"),
                 EINVAL);
    assert_file_contains(why, reason);
    assert_errno(harness_write(harness_path(h, "snapshots/base/forks/d/commit"), "1"), EINVAL);
    const char *told = strstr(harness_get(h, why), reason);
    assert_non_null(told);
    assert_null(strstr(told + 1, reason));
    assert_file_contains(why, "write it again, or remove it");
}

/* A stranger's snapshot: its words and its guest's tokens. */
static void words_of_a_snapshot_that_would_move_a_terminal_are_escaped(void **state)
{
    static const struct harness_frame frames[] = {
        {.offset = 4096, .name = "m", .token = "a\xC2\x9B\xE2\x80\xAEz"}};
    struct harness *h = *state;
    harness_craft(
        h, &(struct harness_snapshot){
               .id = "base", .version = "\\u001b]0;x\\u0007\\u009b", .frames = frames, .count = 1});
    harness_mount(h, NULL);
    const char *marker = harness_get(h, harness_path(h, "snapshots/base/mailboxes/m"));
    assert_contains(marker, "\"a\\u009b\\u202ez\"");
    assert_errno(harness_write(harness_path(h, "snapshots/base/forks/new/commit"), "f"),
                 EOPNOTSUPP);
    const char *why = harness_get(h, harness_path(h, "snapshots/base/forks/new/error"));
    assert_contains(why, "\\u001b]0;x\\u0007\\u009b");
    assert_null(strstr(why, "\x1b"));
    struct harness_result scan =
        harness_shell(h, "bash", "$HYPEFS scan --json $S/snapshots/base/memory");
    assert_contains(scan.out, "\"a\\u009b\\u202ez\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        mounted_test(refusal_when_nothing_is_beside_it_is_told_in_the_root),
        mounted_test(refusal_changes_no_time_of_the_files_beside_it),
        mounted_test(line_when_told_has_time_and_pid),
        mounted_test(rmdir_that_is_busy_says_why),
        mounted_test(names_when_they_would_move_a_terminal_are_escaped),
        mounted_test(lines_when_there_are_too_many_are_the_last),
        mounted_test(reason_of_a_refused_file_when_committed_is_told_once),
        bare_test(words_of_a_snapshot_that_would_move_a_terminal_are_escaped),
    };
    harness_enter();
    return cmocka_run_group_tests_name("errors", tests, NULL, NULL);
}
