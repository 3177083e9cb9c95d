/* SPDX-License-Identifier: MIT */
/* Open files of the tree: what writes, flushes, truncations and reads do. */
#include <poll.h>

#include "frames.h"
#include "fork/request.h"
#include "fs/handle.h"
#include "tree_fixture.h"

static void file_when_written_reads_back_as_it_was_written(void **state)
{
    static const char text[] = "\n{ \"payload\":{\"n\":1e400},\n\t\"wait_for_ack\" : true }\n\n";
    struct tree *tree = *state;
    tree_assert_text(tree, OWN "status", "empty\n");
    tree_must_put(tree, OWN_BOX, text);
    tree_assert_text(tree, OWN_BOX, text);
    assert_int_equal(tree_stat(tree, OWN_BOX).st_size, strlen(text));
    tree_assert_text(tree, OWN "status", "staged\n");
    tree_assert_text(tree, OWN "error", "");
    tree_assert_committable(tree, OWN);
}

static void file_when_written_in_pieces_is_whole_at_the_flush(void **state)
{
    static const char *const pieces[] = {"{\n", "  \"a\": [1,\n", "2]\n", "}", "\n"};
    struct tree *tree = *state;
    struct handle *handle = tree_open(tree, OWN_BOX, O_WRONLY | O_CREAT | O_TRUNC);
    off_t at = 0;
    for (size_t i = 0; i < array_length(pieces); i++) {
        assert_int_equal(tree_write_at(tree, handle, pieces[i], at), 0);
        at += (off_t)strlen(pieces[i]);
        tree_assert_text(tree, OWN_BOX, ""); /* nothing before the flush */
    }
    tree_assert_not_committed(tree, "mailboxes/box");
    assert_int_equal(tree_flush(tree, handle), 0);
    fs_release(tree->fs, handle);
    tree_assert_text(tree, OWN_BOX, "{\n  \"a\": [1,\n2]\n}\n");
    tree_assert_committable(tree, OWN);
}

static void file_when_created_or_truncated_is_unfinished(void **state)
{
    struct tree *tree = *state;
    struct handle *handle = tree_open(tree, OWN_BOX, O_WRONLY | O_CREAT);
    assert_int_equal(tree_flush(tree, handle), 0); /* nothing written: nothing done */
    fs_release(tree->fs, handle);
    tree_assert_not_committed(tree, "mailboxes/box: unfinished: the JSON object is not complete");
    tree_must_put(tree, OWN_BOX, "{}");
    tree_assert_committable(tree, OWN);
    handle = tree_open(tree, OWN_BOX, O_WRONLY | O_TRUNC); /* as `: > box` */
    fs_release(tree->fs, handle);
    tree_assert_text(tree, OWN_BOX, "");
    tree_assert_not_committed(tree, "mailboxes/box");
    tree_must_put(tree, OWN_BOX, "{}");
    assert_int_equal(fs_truncate(tree->fs, tree_walk(tree, OWN_BOX), NULL, 0), 0);
    tree_assert_not_committed(tree, "mailboxes/box");
    tree_must_put(tree, OWN_BOX, "{}");
    handle = tree_open(tree, OWN_BOX, O_RDWR);
    assert_int_equal(fs_truncate(tree->fs, tree_walk(tree, OWN_BOX), handle, 0), 0);
    assert_int_equal(tree_flush(tree, handle), 0);
    tree_assert_not_committed(tree, "mailboxes/box");
    fs_release(tree->fs, handle);
    assert_int_equal(tree_unlink(tree, OWN_BOX), 0);
    tree_assert_committable(tree, OWN);
}

/* Between a file's creation and its first open it is as unfinished as after it. */
/* The kernel may ask to create what another process has created meanwhile. */
static void flush_when_the_text_is_incomplete_fails_for_its_opener_alone(void **state)
{
    struct tree *tree = *state;
    size_t child = world_spawn(tree->world, NULL);
    pid_t other = tree->world->children[child].pid;
    struct handle *handle = tree_open(tree, OWN_BOX, O_WRONLY | O_CREAT | O_TRUNC);
    assert_int_equal(tree_write_at(tree, handle, "{\"a\":\n", 0), 0);
    assert_int_equal(fs_flush(tree->fs, handle, &(struct waiter){.tid = other}),
                     0); /* cat's, of { echo; cat; echo; } > f */
    tree_assert_not_committed(tree,
                              "mailboxes/box: unfinished: the JSON object is not complete at line "
                              "2, column 1");
    assert_int_equal(tree_flush(tree, handle), 0); /* nothing was written since */
    assert_int_equal(tree_write_at(tree, handle, "[1", 6), 0);
    assert_int_equal(tree_flush(tree, handle), -EINVAL);
    assert_int_equal(tree_write_at(tree, handle, "]}", 8), 0);
    assert_int_equal(fs_flush(tree->fs, handle, &(struct waiter){.tid = other}), 0);
    fs_release(tree->fs, handle);
    tree_assert_text(tree, OWN_BOX, "{\"a\":\n[1]}");
    tree_assert_text(tree, OWN_BOX, "{\"a\":\n[1]}");
    tree_assert_committable(tree, OWN);
}

static void write_when_it_cannot_become_right_is_refused_at_once(void **state)
{
    static const struct {
        const char *text;
        size_t size; /* 0: strlen */
        int code;
        const char *why;
    } cases[] = {
        {"web-1\n", 0, EINVAL, "line 1, column 1"},
        {"[]", 0, EINVAL, "line 1, column 1"},
        {"\"a\"", 0, EINVAL, "line 1, column 1"},
        {"17", 0, EINVAL, "line 1, column 1"},
        {"null", 0, EINVAL, "line 1, column 1"},
        {"{\"a\":1,\n }", 0, EINVAL, "line 2, column 2"},
        {"{\"a\":1}x", 0, EINVAL, "line 1, column 8"},
        {"{\"a\":\"\xFF\"}", 0, EINVAL, "line 1, column 7"},
        {"{\"a\":\"\0\"}", 9, EINVAL, "line 1, column 7"},
        {"{\"a\":01}", 0, EINVAL, "line 1, column 7"},
        {" {\"payload\":{\n\"a\":\"\\ud800\"}, \"token\":\"\\ud800\"}", 0, EINVAL,
         "line 2, column 25: half of a"},
        {"{\"token\":\"s3cr3t\"}", 0, EINVAL, "\"token\" is given without \"payload\""},
        {"{\"payload\":{},\"wait_for_ack\":true,\"ack_timeout_ms\":1.5}", 0, EINVAL,
         "\"ack_timeout_ms\""},
    };
    struct tree *tree = *state;
    for (size_t i = 0; i < array_length(cases); i++) {
        size_t size = cases[i].size ? cases[i].size : strlen(cases[i].text);
        struct handle *handle = tree_open(tree, OWN_BOX, O_WRONLY | O_CREAT | O_TRUNC);
        int r = tree_pwrite(tree, handle, cases[i].text, size, 0, false);
        if (r != -cases[i].code)
            fail_msg("%s: %d", cases[i].text, r);
        assert_int_equal(tree_write_at(tree, handle, "{}", 0), -cases[i].code); /* stays so */
        assert_int_equal(tree_flush(tree, handle), -cases[i].code);
        fs_release(tree->fs, handle);
        tree_assert_has(tree, OWN "error", "mailboxes/box");
        tree_assert_has(tree, OWN "error", cases[i].why);
        tree_assert_not_committed(tree, "mailboxes/box");
        auto_free char *error = tree_read(tree, OWN "error");
        assert_null(strstr(error, "s3cr3t"));
    }
    tree_must_put(tree, OWN_BOX, "{}");
    tree_assert_text(tree, OWN "error", "");
    tree_assert_committable(tree, OWN);
}

static void open_file_when_refused_works_again_after_a_truncation(void **state)
{
    struct tree *tree = *state;
    struct handle *handle = tree_open(tree, OWN_BOX, O_WRONLY | O_CREAT | O_TRUNC);
    uint64_t node = tree_walk(tree, OWN_BOX);
    assert_int_equal(tree_write_at(tree, handle, "{\"a\" 1}", 0), -EINVAL);
    assert_int_equal(fs_truncate(tree->fs, node, handle, 3), 0);
    assert_int_equal(tree_write_at(tree, handle, "{", 0), -EINVAL);
    assert_int_equal(fs_truncate(tree->fs, node, handle, 0), 0);
    assert_int_equal(tree_flush(tree, handle), 0);
    tree_assert_not_committed(tree, "mailboxes/box: unfinished");
    assert_int_equal(tree_write_at(tree, handle, "{\"a\":1}", 0), 0);
    assert_int_equal(tree_flush(tree, handle), 0);
    fs_release(tree->fs, handle);
    tree_assert_text(tree, OWN_BOX, "{\"a\":1}");
    tree_assert_committable(tree, OWN);
}

static void file_when_refused_keeps_its_mark_until_mended(void **state)
{
    struct tree *tree = *state;
    tree_must_put(tree, OWN_BOX, "{\"a\":1}");
    assert_int_equal(tree_put(tree, OWN_BOX, "nonsense"), -EINVAL);
    struct handle *handle = tree_open(tree, OWN_BOX, O_RDWR); /* looking does not mend */
    assert_int_equal(tree_flush(tree, handle), 0);
    fs_release(tree->fs, handle);
    tree_assert_not_committed(tree, "mailboxes/box");
    assert_int_equal(tree_rename(tree, OWN_BOX, OWN "mailboxes/fox", 0), 0);
    tree_assert_not_committed(tree, "mailboxes/fox");
    assert_int_equal(tree_rename(tree, OWN "mailboxes/fox", OWN_BOX, 0), 0);
    assert_int_equal(tree_unlink(tree, OWN_BOX), 0);
    tree_assert_text(tree, OWN "error", "");
    tree_assert_committable(tree, OWN);
}

static void file_when_too_big_is_refused(void **state)
{
    struct tree *tree = *state;
    auto_free char *fits = frames_payload(3832), *over = frames_payload(3833), *far = malloc(16385);
    tree_must_put(tree, OWN_BOX, fits);
    assert_int_equal(tree_put(tree, OWN_BOX, over), -EFBIG);
    tree_assert_has(tree, OWN "error", "mailboxes/box: the payload has 3833 bytes");
    memset(far, ' ', 16385);
    far[16384] = 0;
    memcpy(far, fits, 3832);
    tree_must_put(tree, OWN_BOX, far); /* 16 KiB with the white space */
    struct handle *handle = tree_open(tree, OWN_BOX, O_RDWR);
    assert_int_equal(tree_pwrite(tree, handle, " ", 1, 0, true), -EFBIG);
    assert_int_equal(tree_flush(tree, handle), -EFBIG);
    fs_release(tree->fs, handle);
    tree_assert_has(tree, OWN "error", "more than 16384 bytes");
    tree_assert_not_committed(tree, "mailboxes/box");
}

static void file_when_opened_without_truncation_starts_from_its_text(void **state)
{
    struct tree *tree = *state;
    tree_must_put(tree, OWN_BOX, "{\"a\":1}");
    struct handle *handle = tree_open(tree, OWN_BOX, O_RDWR | O_APPEND);
    auto_free char *text = tree_read_open(tree, handle);
    assert_string_equal(text, "{\"a\":1}");
    assert_int_equal(tree_pwrite(tree, handle, "\n\n", 2, 0, true), 0); /* `>>`, a stale offset */
    assert_int_equal(tree_flush(tree, handle), 0);
    fs_release(tree->fs, handle);
    tree_assert_text(tree, OWN_BOX, "{\"a\":1}\n\n");
    handle = tree_open(tree, OWN_BOX, O_RDWR);
    assert_int_equal(tree_write_at(tree, handle, "2", 5), 0);
    assert_int_equal(tree_write_at(tree, handle, " ", 10), -EINVAL); /* past the end */
    assert_int_equal(tree_write_at(tree, handle, " ", 9), 0);
    assert_int_equal(tree_flush(tree, handle), 0);
    fs_release(tree->fs, handle);
    tree_assert_text(tree, OWN_BOX, "{\"a\":2}\n\n ");
}

/* Freeing wipes no more than the size, and what was cut off may be a secret. */
static void truncation_when_it_cuts_something_off_wipes_it(void **state)
{
    static const char text[] = "{\"secret\":1}", zeros[sizeof text] = "";
    struct tree *tree = *state;
    tree_must_put(tree, OWN_BOX, text);
    struct handle *handle = tree_open(tree, OWN_BOX, O_WRONLY);
    assert_int_equal(fs_truncate(tree->fs, tree_walk(tree, OWN_BOX), handle, 2), 0);
    assert_memory_equal(handle->text, text, 2);
    assert_memory_equal(handle->text + 2, zeros, strlen(text) - 2);
    fs_release(tree->fs, handle);
}

static void truncation_when_to_a_length_keeps_the_beginning(void **state)
{
    struct tree *tree = *state;
    tree_must_put(tree, OWN_BOX, "{\"a\":1}  \n");
    uint64_t node = tree_walk(tree, OWN_BOX);
    assert_int_equal(fs_truncate(tree->fs, node, NULL, 11), -EINVAL);
    assert_int_equal(fs_truncate(tree->fs, node, NULL, 10), 0);
    assert_int_equal(fs_truncate(tree->fs, node, NULL, 7), 0);
    tree_assert_text(tree, OWN_BOX, "{\"a\":1}");
    struct handle *handle = tree_open(tree, OWN_BOX, O_RDWR);
    assert_int_equal(fs_truncate(tree->fs, node, handle, 8), -EINVAL);
    assert_int_equal(fs_truncate(tree->fs, node, handle, 6), 0);
    tree_assert_text(tree, OWN_BOX, "{\"a\":1}"); /* not before the flush */
    assert_int_equal(tree_flush(tree, handle), -EINVAL);
    tree_assert_text(tree, OWN_BOX, "{\"a\":1");
    tree_assert_not_committed(tree, "mailboxes/box: unfinished");
    assert_int_equal(tree_write_at(tree, handle, "}", 6), 0);
    assert_int_equal(tree_flush(tree, handle), 0);
    fs_release(tree->fs, handle);
    assert_int_equal(fs_truncate(tree->fs, node, NULL, 6), -EINVAL);
    tree_assert_not_committed(tree, "mailboxes/box: unfinished");
}

static void file_when_open_twice_takes_the_last_flush(void **state)
{
    struct tree *tree = *state;
    struct handle *first = tree_open(tree, OWN_BOX, O_WRONLY | O_CREAT | O_TRUNC);
    struct handle *second = tree_open(tree, OWN_BOX, O_WRONLY | O_TRUNC);
    assert_int_equal(tree_write_at(tree, first, "{\"a\":1}", 0), 0);
    assert_int_equal(tree_write_at(tree, second, "{\"a\":2", 0), 0);
    assert_int_equal(tree_flush(tree, first), 0);
    tree_assert_text(tree, OWN_BOX, "{\"a\":1}");
    assert_int_equal(tree_write_at(tree, second, "}", 6), 0);
    assert_int_equal(tree_flush(tree, second), 0);
    tree_assert_text(tree, OWN_BOX, "{\"a\":2}");
    fs_release(tree->fs, first);
    fs_release(tree->fs, second);
}

static void options_when_written_replace_all(void **state)
{
    static const char keep[] = "{\"on_ack_failure\":\"keep\"}\n";
    struct tree *tree = *state;
    tree_assert_text(tree, OWN "options", fork_options_default);
    assert_int_equal(tree_stat(tree, OWN "options").st_size, strlen(fork_options_default));
    tree_must_put(tree, OWN "options", keep);
    tree_assert_text(tree, OWN "options", keep);
    tree_assert_text(tree, OWN "status", "staged\n");
    assert_int_equal(tree_put(tree, OWN "options", "{\"tap\":\"tap/0\"}"), -EINVAL);
    assert_int_equal(tree_put(tree, OWN "options", "{\"keep\":true}"), -EINVAL);
    tree_assert_has(tree, OWN "error", "options: unknown member \"keep\"");
    tree_assert_not_committed(tree, "options");
    tree_must_put(tree, OWN "options", "{}");
    tree_assert_committable(tree, OWN);
    assert_int_equal(tree_unlink(tree, OWN "options"), -EPERM);
}

static void open_when_the_mode_forbids_it_fails(void **state)
{
    static const char *const readable[] = {
        "README",     "snapshots/base/info", "snapshots/base/mailboxes/box",
        OWN "status", OWN "result",          OWN "error"};
    struct tree *tree = *state;
    struct handle *handle;
    for (size_t i = 0; i < array_length(readable); i++) {
        static const int flags[] = {O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC, O_WRONLY | O_APPEND};
        for (size_t k = 0; k < array_length(flags); k++)
            if (tree_open_flags(tree, readable[i], flags[k], &handle) != -EACCES)
                fail_msg("%s, flags %o", readable[i], flags[k]);
        assert_int_equal(fs_truncate(tree->fs, tree_walk(tree, readable[i]), NULL, 0), -EACCES);
    }
    assert_int_equal(tree_open_flags(tree, "snapshots", O_RDONLY, &handle), -EISDIR);
    tree_assert_text(tree, OWN "commit", ""); /* reading a command gives nothing */
    assert_int_equal(fs_truncate(tree->fs, tree_walk(tree, OWN "commit"), NULL, 0), 0);
    handle = tree_open(tree, OWN "commit", O_WRONLY | O_TRUNC); /* as `: > commit` */
    assert_int_equal(tree_flush(tree, handle), 0);
    fs_release(tree->fs, handle);
    tree_assert_text(tree, OWN "status", "empty\n");
    tree_assert_text(tree, OWN "result", "");
}

static void content_when_read_on_stays_what_was_begun(void **state)
{
    struct tree *tree = *state;
    struct handle *handle = tree_open(tree, OWN "status", O_RDONLY);
    static const struct {
        size_t size, at;
        const char *wanted;
    } reads[] = {{2, 0, "em"}, {9, 2, "pty\n"}, {9, 6, ""}, {9, 100, ""}};
    for (size_t i = 0; i < array_length(reads); i++) {
        auto_free char *bytes = NULL;
        size_t size;
        assert_int_equal(
            fs_read(tree->fs, handle, reads[i].size, (off_t)reads[i].at, NULL, &bytes, &size), 0);
        assert_int_equal(size, strlen(reads[i].wanted));
        assert_memory_equal(bytes, reads[i].wanted, size);
        if (i == 0)
            tree_must_put(tree, OWN_BOX, "{}");
    }
    auto_free char *again = tree_read_open(tree, handle);
    assert_string_equal(again, "staged\n");
    fs_release(tree->fs, handle);
    handle = tree_open(tree, OWN "status", O_RDONLY); /* tail -c reads at the end first */
    auto_free char *end = NULL;
    size_t size;
    assert_int_equal(fs_read(tree->fs, handle, 9, 5, NULL, &end, &size), 0);
    assert_int_equal(size, 2);
    fs_release(tree->fs, handle);
}

enum {
    CHANGED = POLLIN | POLLRDNORM | POLLPRI,
    ALWAYS = POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM,
};

static void poll_when_the_content_differs_from_what_was_read_is_ready(void **state)
{
    struct tree *tree = *state;
    struct handle *handle = tree_open(tree, OWN "status", O_RDONLY);
    assert_int_equal(fs_poll(tree->fs, handle, NULL), CHANGED); /* never read */
    free(tree_read_open(tree, handle));
    assert_int_equal(fs_poll(tree->fs, handle, tree), 0);
    assert_int_equal(fs_poll(tree->fs, handle, tree), 0); /* the earlier one is given back */
    assert_int_equal(tree->dropped, 1);
    assert_int_equal(tree->woken, 0);
    tree_must_put(tree, OWN_BOX, "{}");
    assert_int_equal(tree->woken, 1);
    assert_int_equal(fs_poll(tree->fs, handle, NULL), CHANGED);
    auto_free char *text = tree_read_open(tree, handle);
    assert_string_equal(text, "staged\n");
    assert_int_equal(fs_poll(tree->fs, handle, tree), 0);
    tree_must_put(tree, OWN_BOX, "{\"a\":1}"); /* a change, but not of the content */
    assert_int_equal(tree->woken, 2);
    assert_int_equal(fs_poll(tree->fs, handle, tree), 0);
    assert_int_equal(tree_unlink(tree, OWN_BOX), 0);
    assert_int_equal(tree->woken, 3);
    assert_int_equal(fs_poll(tree->fs, handle, tree), CHANGED);
    fs_release(tree->fs, handle);
    assert_int_equal(tree->dropped, 2);
}

static void poll_when_not_of_a_watched_file_is_always_ready(void **state)
{
    static const char *const paths[] = {"README", OWN "error", OWN "result", OWN "options"};
    struct tree *tree = *state;
    for (size_t i = 0; i < array_length(paths); i++) {
        struct handle *handle = tree_open(tree, paths[i], O_RDONLY);
        free(tree_read_open(tree, handle));
        assert_int_equal(fs_poll(tree->fs, handle, NULL), ALWAYS);
        fs_release(tree->fs, handle);
    }
    struct handle *handle = tree_open(tree, "snapshots/base/info", O_RDONLY);
    assert_int_equal(fs_poll(tree->fs, handle, NULL), CHANGED);
    free(tree_read_open(tree, handle));
    assert_int_equal(fs_poll(tree->fs, handle, NULL), 0);
    fs_release(tree->fs, handle);
}

static void mtime_when_something_is_staged_moves_on(void **state)
{
    struct tree *tree = *state;
    tree_must_put(tree, OWN_BOX, "{}");
    struct stat before = tree_stat(tree, OWN_BOX), same = tree_stat(tree, OWN_BOX);
    assert_memory_equal(&before.st_mtim, &same.st_mtim, sizeof before.st_mtim);
    tree_must_put(tree, OWN_BOX, "{\"a\":1}");
    struct stat after = tree_stat(tree, OWN_BOX);
    assert_true(after.st_mtim.tv_sec > before.st_mtim.tv_sec ||
                after.st_mtim.tv_nsec != before.st_mtim.tv_nsec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_DRAFT(file_when_written_reads_back_as_it_was_written),
        WITH_DRAFT(file_when_written_in_pieces_is_whole_at_the_flush),
        WITH_DRAFT(file_when_created_or_truncated_is_unfinished),
        WITH_DRAFT(flush_when_the_text_is_incomplete_fails_for_its_opener_alone),
        WITH_DRAFT(write_when_it_cannot_become_right_is_refused_at_once),
        WITH_DRAFT(open_file_when_refused_works_again_after_a_truncation),
        WITH_DRAFT(file_when_refused_keeps_its_mark_until_mended),
        WITH_DRAFT(file_when_too_big_is_refused),
        WITH_DRAFT(file_when_opened_without_truncation_starts_from_its_text),
        WITH_DRAFT(truncation_when_it_cuts_something_off_wipes_it),
        WITH_DRAFT(truncation_when_to_a_length_keeps_the_beginning),
        WITH_DRAFT(file_when_open_twice_takes_the_last_flush),
        WITH_DRAFT(options_when_written_replace_all),
        WITH_DRAFT(open_when_the_mode_forbids_it_fails),
        WITH_DRAFT(content_when_read_on_stays_what_was_begun),
        WITH_DRAFT(poll_when_the_content_differs_from_what_was_read_is_ready),
        WITH_DRAFT(poll_when_not_of_a_watched_file_is_always_ready),
        WITH_DRAFT(mtime_when_something_is_staged_moves_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
