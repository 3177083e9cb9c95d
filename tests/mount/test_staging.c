/* SPDX-License-Identifier: MIT */
/* Collected files through system calls: when bytes take effect, marks, refusals, offsets. */
#include "fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/cleanup.h"

enum { FILES_MAX = 24, MAILBOXES_MAX = 16, SCRATCH_MAX = 65536 };

/* It stays as it was staged when its commit fails. */
static const char draft[] = "snapshots/base/forks/own";

static char *in_draft(struct harness *h, const char *name)
{
    return harness_path(h, "%s/%s", draft, name);
}

static int open_m(struct harness *h, int flags)
{
    int fd = open(in_draft(h, "mailboxes/m"), flags | O_CREAT | O_CLOEXEC, 0600);
    assert_works(fd);
    return fd;
}

static void put(int fd, const char *text)
{
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static void assert_m(struct harness *h, const char *text)
{
    struct stat st;
    assert_string_equal(harness_get(h, in_draft(h, "mailboxes/m")), text);
    assert_works(stat(in_draft(h, "mailboxes/m"), &st));
    assert_int_equal(st.st_size, strlen(text));
}

static void assert_status(struct harness *h, const char *word)
{
    assert_string_equal(harness_get(h, in_draft(h, "status")), harness_format(h, "%s\n", word));
}

/* What `error` says, and that commit refuses with it. */
static void assert_marked(struct harness *h, const char *words)
{
    assert_file_contains(in_draft(h, "error"), words);
    assert_errno(harness_write(in_draft(h, "commit"), "1"), EINVAL);
    assert_file_contains(in_draft(h, "error"), "mailboxes/m");
    assert_status(h, "failed");
}

static void assert_unmarked(struct harness *h)
{
    assert_string_equal(harness_get(h, in_draft(h, "error")), "");
    assert_status(h, "staged");
}

static void text_when_flushed_takes_effect_as_written(void **state)
{
    struct harness *h = *state;
    static const char text[] = "\n { \"n\" : 12345678901234567890 ,\t\"m\": 1e400 }\n\n";
    auto_close int fd = open_m(h, O_WRONLY | O_TRUNC);
    assert_status(h, "staged");
    put(fd, text);
    assert_m(h, ""); /* not yet */
    assert_works(close(dup(fd)));
    assert_m(h, text);
    assert_unmarked(h);
}

static void text_when_it_comes_in_pieces_is_one_text(void **state)
{
    struct harness *h = *state;
    static const char text[] = "{\n  \"a\": [1, 2],\n  \"b\": \"\\u00e4\xc3\xa4\"\n}\n";
    int fd = open_m(h, O_WRONLY | O_TRUNC);
    for (const char *at = text; *at; at++)
        assert_int_equal(write(fd, at, 1), 1);
    assert_works(close(fd));
    assert_m(h, text);
}

static void flush_by_another_process_of_an_incomplete_text_succeeds(void **state)
{
    struct harness *h = *state;
    int status;
    int fd = open_m(h, O_WRONLY | O_TRUNC);
    put(fd, "{\"a\":");
    pid_t child = fork();
    if (child == 0)
        _exit(close(fd) == 0 ? 0 : errno);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_errno(WEXITSTATUS(status), 0);
    assert_file_contains(in_draft(h, "error"), "unfinished");
    put(fd, "1}");
    assert_works(close(fd));
    assert_m(h, "{\"a\":1}");
    assert_unmarked(h);
}

static void flush_by_the_opener_of_an_incomplete_text_fails_and_marks(void **state)
{
    struct harness *h = *state;
    int fd = open_m(h, O_WRONLY | O_TRUNC);
    put(fd, "{\"a\":\n");
    assert_fails(close(dup(fd)), EINVAL);
    assert_works(close(dup(fd))); /* nothing was written since */
    assert_m(h, "{\"a\":\n");
    assert_marked(h, "line 2, column 1");
    put(fd, "1}");
    assert_works(close(fd));
    assert_unmarked(h);
}

static void open_with_truncation_marks_the_file_at_once(void **state)
{
    struct harness *h = *state;
    harness_put(in_draft(h, "mailboxes/m"), "{\"old\":1}");
    int fd = open_m(h, O_WRONLY | O_TRUNC);
    assert_m(h, "");
    assert_works(close(fd));
    assert_marked(h, "mailboxes/m: unfinished");
    harness_put(in_draft(h, "mailboxes/m"), "{}");
    assert_unmarked(h);
}

static void truncation_to_zero_marks_the_file_at_once(void **state)
{
    struct harness *h = *state;
    harness_put(in_draft(h, "mailboxes/m"), "{\"old\":1}");
    assert_works(truncate(in_draft(h, "mailboxes/m"), 0));
    assert_m(h, "");
    assert_marked(h, "unfinished");
    harness_put(in_draft(h, "mailboxes/m"), "{\"old\":2}");
    int fd = open_m(h, O_WRONLY);
    assert_works(ftruncate(fd, 0));
    assert_m(h, "");
    assert_works(close(fd));
    assert_marked(h, "unfinished");
}

static void creation_marks_the_file_and_unlink_clears_the_mark(void **state)
{
    struct harness *h = *state;
    assert_works(close(open_m(h, O_WRONLY | O_EXCL)));
    assert_fails(open(in_draft(h, "mailboxes/m"), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600),
                 EEXIST);
    assert_marked(h, "unfinished");
    assert_works(unlink(in_draft(h, "mailboxes/m")));
    assert_string_equal(harness_get(h, in_draft(h, "error")), "");
    assert_status(h, "empty");
    assert_fails(unlink(in_draft(h, "mailboxes/m")), ENOENT);
}

static void truncation_to_less_cuts_and_to_more_is_refused(void **state)
{
    struct harness *h = *state;
    const char *path = in_draft(h, "mailboxes/m");
    harness_put(path, "{\"a\":1}\n\n");
    assert_works(truncate(path, 8));
    assert_m(h, "{\"a\":1}\n");
    assert_works(truncate(path, 8));
    assert_fails(truncate(path, 9), EINVAL);
    assert_m(h, "{\"a\":1}\n");
    assert_unmarked(h);
    assert_fails(truncate(path, 3), EINVAL); /* what is left is no text */
    assert_marked(h, "unfinished");
}

static void refused_open_file_stays_refused_until_truncated(void **state)
{
    struct harness *h = *state;
    int fd = open_m(h, O_WRONLY | O_TRUNC);
    assert_fails(write(fd, "[1]", 3), EINVAL);
    assert_fails(write(fd, "{}", 2), EINVAL);
    assert_fails(pwrite(fd, "{}", 2, 0), EINVAL);
    assert_fails(close(dup(fd)), EINVAL);
    assert_marked(h, "mailboxes/m: line 1, column 1");
    assert_works(ftruncate(fd, 0));
    assert_int_equal(pwrite(fd, "{}", 2, 0), 2);
    assert_works(close(fd));
    assert_m(h, "{}");
    assert_unmarked(h);
}

static void refused_open_file_keeps_its_errno(void **state)
{
    struct harness *h = *state;
    static char big[20000];
    memset(big, ' ', sizeof big);
    int fd = open_m(h, O_WRONLY | O_TRUNC);
    assert_fails(write(fd, big, sizeof big), EFBIG);
    assert_fails(write(fd, "x", 1), EFBIG);
    assert_fails(close(fd), EFBIG);
}

static void refusal_of_one_open_file_does_not_touch_another(void **state)
{
    struct harness *h = *state;
    auto_close int good = open_m(h, O_WRONLY | O_TRUNC);
    auto_close int bad = open_m(h, O_WRONLY);
    assert_fails(write(bad, "x", 1), EINVAL);
    put(good, "{\"good\":1}");
    assert_works(close(steal_fd(&good)));
    assert_m(h, "{\"good\":1}");
    assert_unmarked(h);
    assert_fails(close(steal_fd(&bad)), EINVAL);
    assert_m(h, "{\"good\":1}");
}

static void open_file_without_truncation_starts_from_the_text(void **state)
{
    struct harness *h = *state;
    char text[32] = "";
    harness_put(in_draft(h, "mailboxes/m"), "{\"n\":1}\n");
    int fd = open_m(h, O_RDWR);
    assert_int_equal(pwrite(fd, "2", 1, 5), 1);
    assert_int_equal(pread(fd, text, sizeof text, 0), 8); /* its own bytes */
    assert_string_equal(text, "{\"n\":2}\n");
    assert_m(h, "{\"n\":1}\n");
    assert_works(close(fd));
    assert_m(h, "{\"n\":2}\n");
}

static void append_goes_to_the_end_whatever_the_offset(void **state)
{
    struct harness *h = *state;
    assert_errno(harness_write(in_draft(h, "mailboxes/m"), "{\"n\":"), EINVAL);
    int fd = open_m(h, O_WRONLY | O_APPEND);
    put(fd, "1");
    assert_int_equal(pwrite(fd, "}", 1, 0), 1);
    assert_int_equal(pwrite(fd, "\n", 1, 5000), 1);
    assert_works(close(fd));
    assert_m(h, "{\"n\":1}\n");
    assert_unmarked(h);
}

static void write_past_the_end_is_refused(void **state)
{
    struct harness *h = *state;
    harness_put(in_draft(h, "mailboxes/m"), "{}");
    int fd = open_m(h, O_WRONLY);
    assert_fails(pwrite(fd, "\n", 1, 3), EINVAL);
    assert_int_equal(pwrite(fd, "\n", 1, 2), 1);
    assert_works(close(fd));
    assert_m(h, "{}\n");
}

static void files_when_24_are_there_are_all(void **state)
{
    struct harness *h = *state;
    for (int i = 0; i < FILES_MAX; i++)
        harness_put(in_draft(h, harness_format(h, "mailboxes/f%d", i)), "{}");
    assert_errno(harness_write(in_draft(h, "mailboxes/more"), "{}"), ENOSPC);
    harness_put(in_draft(h, "mailboxes/f7"), "{\"again\":1}");
    assert_works(unlink(in_draft(h, "mailboxes/f7")));
    assert_errno(harness_write(in_draft(h, "mailboxes/more"), "{}"), 0);
    assert_errno(harness_write(in_draft(h, "commit"), "1"), ENOSPC);
    assert_file_contains(in_draft(h, "error"), "16 mailboxes");
}

/* `own` is one of them. More commits than may be under way (1024) have room. */
static void drafts_when_4096_are_there_are_all(void **state)
{
    struct harness *h = *state;
    assert_shell("bash", "cd snapshots/base/forks && mkdir $(seq -f d%g 4095)", 0);
    assert_fails(mkdir(harness_path(h, "snapshots/base/forks/one-more"), 0755), ENOSPC);
    assert_file_contains(harness_path(h, "error"), "there are 4096 drafts beside forks/new");
    assert_works(mkdir(harness_path(h, "instances/x"), 0755)); /* another source has its own */
    assert_works(mkdir(harness_path(h, "instances/x/forks/d"), 0755));
    assert_works(rmdir(harness_path(h, "snapshots/base/forks/d7")));
    assert_works(mkdir(harness_path(h, "snapshots/base/forks/one-more"), 0755));
    assert_shell(
        "bash",
        "cd snapshots/base/forks && rmdir d* one-more own && [ \"$(echo *)\" = 'commit new' ]", 0);
}

/* The check of the number comes before the mailboxes are looked for. */
static void mailboxes_when_17_are_staged_are_one_too_many(void **state)
{
    struct harness *h = *state;
    for (int i = 0; i <= MAILBOXES_MAX; i++)
        harness_put(in_draft(h, harness_format(h, "mailboxes/f%d", i)), "{}");
    assert_errno(harness_write(in_draft(h, "commit"), "1"), ENOSPC);
    assert_file_contains(in_draft(h, "error"), "more than 16 mailboxes");
    assert_string_equal(harness_json(h, harness_get(h, in_draft(h, "result")), "error.phase"),
                        "validate");
    assert_works(unlink(in_draft(h, "mailboxes/f3")));
    assert_errno(harness_write(in_draft(h, "commit"), "1"), ENOENT);
    assert_file_contains(in_draft(h, "error"), "\"f0\"");
    assert_no_instance(h);
}

/* The kernel knows them before the daemon does. */
static void names_dot_and_dot_dot_are_no_mailboxes(void **state)
{
    struct harness *h = *state;
    static const char *const scripts[] = {
        "echo '{}' > .", "echo '{}' > ..", "echo '{}' >> ./..", "mv m .",
        "mv m ..",       "mv -T m .",      "mv -T m ..",        "mv . a",
        "cp m .",        "cp -T m .",      "ln m ..",           "tee . < m",
        "rm .",          "rm -r ..",
    };
    harness_put(in_draft(h, "mailboxes/m"), "{\"n\":1}");
    for (size_t i = 0; i < array_length(scripts); i++) {
        assert_shell("bash", harness_format(h, "cd %s/mailboxes && %s", draft, scripts[i]), 1);
        assert_string_equal(
            assert_shell("bash", harness_format(h, "ls -A %s/mailboxes", draft), 0).out, "m\n");
        assert_m(h, "{\"n\":1}");
        assert_status(h, "staged");
        /* It tells what was refused, and nothing of the file. */
        assert_null(strstr(harness_get(h, in_draft(h, "error")), "mailboxes/m"));
    }
    assert_fails(open(in_draft(h, "mailboxes/."), O_WRONLY | O_CREAT | O_CLOEXEC, 0600), EISDIR);
    assert_fails(rename(in_draft(h, "mailboxes/m"), in_draft(h, "mailboxes/..")), EBUSY);
}

static void names_that_no_mailbox_has_are_refused(void **state)
{
    struct harness *h = *state;
    static const char *const bad[] = {"a b", "ä", "a,b", "a\nb", "a+b", "a@b", "a\\b", "a*"};
    char name[70];
    memset(name, 'n', sizeof name);
    name[65] = 0;
    for (size_t i = 0; i < array_length(bad); i++)
        assert_errno(harness_write(in_draft(h, harness_format(h, "mailboxes/%s", bad[i])), "{}"),
                     EINVAL);
    assert_errno(harness_write(in_draft(h, harness_format(h, "mailboxes/%s", name)), "{}"), EINVAL);
    name[64] = 0;
    assert_errno(harness_write(in_draft(h, harness_format(h, "mailboxes/%s", name)), "{}"), 0);
    assert_errno(harness_write(in_draft(h, "mailboxes/A.b_c:d-9"), "{}"), 0);
    assert_errno(harness_write(in_draft(h, "mailboxes/..."), "{}"), 0);
}

static void scratch_files_take_any_bytes_and_are_not_committed(void **state)
{
    struct harness *h = *state;
    static const char *const names[] = {".m.swp", ".m.swo", ".m.swpx", "m~", "4913"};
    static char bytes[SCRATCH_MAX + 1];
    for (size_t i = 0; i < array_length(names); i++) {
        struct harness_steps steps =
            harness_write_steps(in_draft(h, harness_format(h, "mailboxes/%s", names[i])),
                                O_WRONLY | O_CREAT | O_TRUNC, bytes, SCRATCH_MAX);
        assert_int_equal(steps.open | steps.write | steps.close, 0);
    }
    assert_string_equal(harness_get(h, in_draft(h, "error")), "");
    assert_status(h, "empty");
    struct harness_steps steps = harness_write_steps(in_draft(h, "mailboxes/m~"),
                                                     O_WRONLY | O_TRUNC, bytes, SCRATCH_MAX + 1);
    assert_errno(steps.write, EFBIG);
}

static void seek_to_the_end_counts_what_was_written_and_not_closed(void **state)
{
    struct harness *h = *state;
    int fd = open_m(h, O_RDWR | O_TRUNC);
    put(fd, "{\"a\":");
    assert_int_equal(lseek(fd, 0, SEEK_END), 5);
    put(fd, "1}");
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    assert_works(close(fd));
    assert_m(h, "{\"a\":1}");
}

static void write_that_is_refused_leaves_options_unwritten(void **state)
{
    struct harness *h = *state;
    int fd = open(in_draft(h, "options"), O_WRONLY | O_CLOEXEC);
    assert_works(fd);
    assert_fails(pwrite(fd, "{}", 2, 5000), EINVAL);
    assert_works(close(fd));
    assert_status(h, "empty");
}

static void rename_of_a_scratch_file_that_is_no_payload_says_why(void **state)
{
    struct harness *h = *state;
    harness_put(in_draft(h, "mailboxes/m~"), "no payload\n");
    assert_fails(rename(in_draft(h, "mailboxes/m~"), in_draft(h, "mailboxes/m")), EINVAL);
    assert_file_contains(in_draft(h, "error"), "mailboxes/m~ cannot become m: line 1, column 1");
    assert_status(h, "empty");
    harness_put(in_draft(h, "mailboxes/m"), "{}");
    assert_string_equal(harness_get(h, in_draft(h, "error")), "");
}

static void directories_when_changed_have_a_new_mtime(void **state)
{
    static const char *const scripts[] = {"mkdir snapshots/base/forks/d",
                                          "rmdir snapshots/base/forks/d", "mkdir instances/i",
                                          "rmdir instances/i"};
    static const char *const directories[] = {"snapshots/base/forks", "snapshots/base/forks",
                                              "instances", "instances"};
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(scripts); i++) {
        struct stat before, after;
        assert_works(stat(harness_path(h, "%s", directories[i]), &before));
        assert_shell("bash", scripts[i], 0);
        assert_works(stat(harness_path(h, "%s", directories[i]), &after));
        assert_memory_not_equal(&before.st_mtim, &after.st_mtim, sizeof before.st_mtim);
    }
}

static void network_and_other_names_in_a_draft_cannot_be_created(void **state)
{
    struct harness *h = *state;
    assert_fails(access(in_draft(h, "network"), F_OK), ENOENT);
    assert_errno(harness_write(in_draft(h, "payload"), "{}"), EPERM);
}

static int setup(void **state)
{
    return fixture_setup(state) < 0 ? -1 : mkdir(harness_path(*state, "%s", draft), 0755);
}

#define draft_test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        draft_test(text_when_flushed_takes_effect_as_written),
        draft_test(text_when_it_comes_in_pieces_is_one_text),
        draft_test(flush_by_another_process_of_an_incomplete_text_succeeds),
        draft_test(flush_by_the_opener_of_an_incomplete_text_fails_and_marks),
        draft_test(open_with_truncation_marks_the_file_at_once),
        draft_test(truncation_to_zero_marks_the_file_at_once),
        draft_test(creation_marks_the_file_and_unlink_clears_the_mark),
        draft_test(truncation_to_less_cuts_and_to_more_is_refused),
        draft_test(refused_open_file_stays_refused_until_truncated),
        draft_test(refused_open_file_keeps_its_errno),
        draft_test(refusal_of_one_open_file_does_not_touch_another),
        draft_test(open_file_without_truncation_starts_from_the_text),
        draft_test(append_goes_to_the_end_whatever_the_offset),
        draft_test(write_past_the_end_is_refused),
        draft_test(files_when_24_are_there_are_all),
        draft_test(drafts_when_4096_are_there_are_all),
        draft_test(mailboxes_when_17_are_staged_are_one_too_many),
        draft_test(names_dot_and_dot_dot_are_no_mailboxes),
        draft_test(names_that_no_mailbox_has_are_refused),
        draft_test(scratch_files_take_any_bytes_and_are_not_committed),
        draft_test(seek_to_the_end_counts_what_was_written_and_not_closed),
        draft_test(write_that_is_refused_leaves_options_unwritten),
        draft_test(rename_of_a_scratch_file_that_is_no_payload_says_why),
        draft_test(directories_when_changed_have_a_new_mtime),
        draft_test(network_and_other_names_in_a_draft_cannot_be_created),
    };
    harness_enter();
    return cmocka_run_group_tests_name("staging", tests, NULL, NULL);
}
