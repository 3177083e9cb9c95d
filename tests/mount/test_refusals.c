/* SPDX-License-Identifier: MIT */
/* Commits that fail before a VM is loaded: the errno, the words, and nothing left behind. */
#include "fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"

enum { PAGE = 4096, COPIES = 65, UNALIGNED = 1000, ROOM = PAGE - UNALIGNED - 264, FRAMES = 96 };

/* Frames of all kinds; the pages in the order in which they are planted. */
static size_t make_frames(struct harness_frame frames[FRAMES])
{
    static const struct harness_frame some[] = {
        {.name = "m", .token = "token-m"},
        {.name = "pending", .token = "t", .sequence = 1, .payload = "{}"},
        {.name = "twice", .token = "one"},
        {.name = "twice", .token = "two"},
        {.name = "binary", .token = "\x01\xff"},
        {.name = "stale", .token = "t"},
        {.name = "stale", .token = "t"},
        {.name = "half-pending", .token = "t"},
        {.name = "half-pending", .token = "t", .sequence = 7},
        {.name = "unaligned", .token = "t", .offset = UNALIGNED},
        {.name = "dirty", .token = "t", .offset = UNALIGNED, .payload = "no JSON"},
        {.name = "two-unaligned", .token = "t", .offset = UNALIGNED},
        {.name = "two-unaligned", .token = "t", .offset = UNALIGNED},
        {.name = "beyond", .token = "t", .offset = PAGE - 256},
        {.name = NULL, .token = "t"},
    };
    size_t count = 0;
    for (; count < array_length(some); count++)
        frames[count] = some[count];
    for (int i = 0; i < COPIES; i++)
        frames[count++] = (struct harness_frame){.name = "copies", .token = "t"};
    for (size_t i = 0; i < count; i++)
        frames[i].offset += (i + 1) * PAGE;
    return count;
}

static int setup(void **state)
{
    struct harness_frame frames[FRAMES] = {0};
    if (harness_setup(state) < 0)
        return -1;
    struct harness *h = *state;
    size_t count = make_frames(frames);
    harness_craft(h, &(struct harness_snapshot){.id = "base", .frames = frames, .count = count});
    harness_craft(h, &(struct harness_snapshot){
                         .id = "other", .hypervisor = "bhyve", .frames = frames, .count = 1});
    harness_craft(h, &(struct harness_snapshot){.id = "paused", .kind = "running"});
    harness_mount(h, NULL);
    return access(harness_path(h, "snapshots/base/mailboxes/m"), F_OK);
}

/* An argument of the texts below: {"p":"xxx…"} of that many bytes. */
static char *payload_of(struct harness *h, size_t size)
{
    char *filler = harness_alloc(h, size);
    memset(filler, 'x', size - 8);
    return harness_format(h, "{\"p\":\"%s\"}", filler);
}

static const struct refusal {
    const char *snapshot, *mailbox, *staged; /* staged NULL: `size` bytes */
    size_t size;
    int code;
    const char *phase, *words[2];
} refusals[] = {
    {"base", "none", "{}", 0, ENOENT, "locate", {"\"none\"", "not in the memory image"}},
    {"base", "beyond", "{}", 0, ENOENT, "locate", {"\"beyond\"", "not in the memory image"}},
    {"base",
     "m",
     "{\"payload\":{},\"token\":\"wrong\"}",
     0,
     EKEYREJECTED,
     "locate",
     {"\"m\"", "token"}},
    {"base",
     "binary",
     "{\"payload\":{},\"token_hex\":\"01fe\"}",
     0,
     EKEYREJECTED,
     "locate",
     {"\"binary\"", "token"}},
    {"base", "twice", "{}", 0, ENOTUNIQ, "locate", {"\"twice\"", "several tokens"}},
    {"base", "copies", "{}", 0, ENOTUNIQ, "locate", {"65 copies", "64"}},
    {"base", "two-unaligned", "{}", 0, ENOTUNIQ, "locate", {"2 copies", "begins at a page"}},
    {"base", "pending", "{}", 0, EBUSY, "locate", {"\"pending\"", "had not taken"}},
    {"base", "half-pending", "{}", 0, EBUSY, "locate", {"\"half-pending\"", "had not taken"}},
    {"base", "dirty", "{}", 0, EBUSY, "locate", {"\"dirty\"", "other data"}},
    {"base", "unaligned", NULL, ROOM + 1, EFBIG, "locate", {"2833 bytes", "2832"}},
    {"other", "m", "{}", 0, EOPNOTSUPP, "validate", {"bhyve", "cannot be forked"}},
    {"paused", "m", "{}", 0, EOPNOTSUPP, "validate", {"\"running\"", "cannot be forked"}},
    /* These are located; the snapshot says that another QEMU saved it. */
    {"base", "unaligned", NULL, ROOM, EOPNOTSUPP, "load", {"0.0.0", "saved by"}},
    {"base", "twice", "{\"payload\":{},\"token\":\"two\"}", 0, EOPNOTSUPP, "load", {"0.0.0", ""}},
    {"base",
     "binary",
     "{\"payload\":{},\"token_hex\":\"01FF\"}",
     0,
     EOPNOTSUPP,
     "load",
     {"0.0.0", ""}},
    {"base", "stale", "{}", 0, EOPNOTSUPP, "load", {"0.0.0", ""}},
};

static void check_result(struct harness *h, const char *draft, const struct refusal *row)
{
    const char *result = harness_get(h, harness_format(h, "%s/result", draft));
    const char *message = harness_json(h, result, "error.message");
    assert_string_equal(harness_json(h, result, "status"), "failed");
    assert_string_equal(harness_json(h, result, "source"),
                        harness_format(h, "snapshots/%s", row->snapshot));
    assert_string_equal(harness_json(h, result, "error.code"), strerrorname_np(row->code));
    assert_string_equal(harness_json(h, result, "error.phase"), row->phase);
    assert_string_equal(harness_json(h, result, "error.mailbox"),
                        strcmp(row->phase, "locate") == 0 ? row->mailbox : "null");
    assert_string_equal(harness_json(h, result, "mailboxes.0.acked"),
                        row->staged && strstr(row->staged, "wait") ? "false" : "null");
    assert_string_equal(harness_json(h, result, "mailboxes.0.payload_bytes"), "null");
    for (size_t i = 0; i < array_length(row->words); i++)
        assert_contains(message, row->words[i]);
    const char *error = harness_get(h, harness_format(h, "%s/error", draft));
    assert_int_equal(strncmp(error, message, strlen(message)), 0);
}

static void check_refusal(struct harness *h, const char *draft, const struct refusal *row)
{
    const char *file = harness_format(h, "%s/mailboxes/%s", draft, row->mailbox);
    const char *text = row->staged ? row->staged : payload_of(h, row->size);
    harness_put(file, text);
    int code = harness_write(harness_format(h, "%s/commit", draft), "1\n");
    if (code != row->code)
        fail_msg("%s, %.60s: %s, not %s: %s", row->mailbox, text, strerrorname_np(code),
                 strerrorname_np(row->code), harness_get(h, harness_format(h, "%s/error", draft)));
    assert_string_equal(harness_get(h, harness_format(h, "%s/status", draft)), "failed\n");
    check_result(h, draft, row);
    if (strcmp(strrchr(draft, '/'), "/new") == 0) { /* for the next, under another id */
        assert_fails(access(file, F_OK), ENOENT);
        return;
    }
    assert_string_equal(harness_get(h, file), text); /* it stays as it was staged */
    assert_works(unlink(file));
    assert_string_equal(harness_get(h, harness_format(h, "%s/status", draft)), "empty\n");
    assert_string_equal(harness_get(h, harness_format(h, "%s/error", draft)), "");
}

static void commit_that_is_refused_says_why_and_leaves_nothing(void **state)
{
    struct harness *h = *state;
    const char *before = assert_shell("bash", "cd $S/snapshots && sha256sum */memory", 0).out;
    for (size_t i = 0; i < array_length(refusals); i++) {
        check_refusal(h, harness_path(h, "snapshots/%s/forks/new", refusals[i].snapshot),
                      &refusals[i]);
        const char *draft = harness_path(h, "snapshots/%s/forks/d", refusals[i].snapshot);
        assert_works(mkdir(draft, 0755));
        check_refusal(h, draft, &refusals[i]);
        assert_works(rmdir(draft));
    }
    assert_no_instance(h);
    assert_string_equal(assert_shell("bash", "cd $S/snapshots && sha256sum */memory", 0).out,
                        before);
}

static void commit_when_one_of_several_mailboxes_is_missing_names_it(void **state)
{
    struct harness *h = *state;
    const char *draft = harness_path(h, "snapshots/base/forks/new");
    static const char *const names[] = {"m", "missing", "stale", "binary"};
    for (size_t i = 0; i < array_length(names); i++)
        harness_put(harness_format(h, "%s/mailboxes/%s", draft, names[i]),
                    "{\"payload\":{},\"wait_for_ack\":true}");
    assert_errno(harness_write(harness_format(h, "%s/commit", draft), "1"), ENOENT);
    const char *result = harness_get(h, harness_format(h, "%s/result", draft));
    assert_string_equal(harness_json(h, result, "error.mailbox"), "missing");
    assert_string_equal(harness_json(h, result, "mailboxes.3.name"), "binary");
    assert_no_instance(h);
}

static const struct {
    const char *draft, *text;
    int code;
    const char *words;
} commands[] = {
    {"new", "A", EINVAL, "is not an id"},
    {"new", "a B", EINVAL, "\"B\" is not an id"},
    {"new", "a a", EINVAL, "a was written to commit twice"},
    {"new", "new", EINVAL, "\"new\""},
    {"new", "commit", EINVAL, "\"commit\""},
    {"new", "-a", EINVAL, "is not an id"},
    {"new", "a-", EINVAL, "is not an id"},
    {"new", "../a", EINVAL, "is not an id"},
    {"new", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", EINVAL,
     "is not an id"},
    {"new", "d", EEXIST, "forks/d"},
    {"new", "y", EEXIST, "instance y"},
    {"d", "e", EINVAL, "can only be called d"},
    {"d", "new", EINVAL, "can only be called d"},
    {"x", "1", EEXIST, "instance x"},
};

static void commit_of_an_id_that_cannot_be_is_refused(void **state)
{
    struct harness *h = *state;
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
    assert_works(mkdir(harness_path(h, "instances/y"), 0755));
    assert_works(mkdir(harness_path(h, "snapshots/base/forks/d"), 0755));
    assert_works(mkdir(harness_path(h, "snapshots/base/forks/x"), 0755));
    for (size_t i = 0; i < array_length(commands); i++) {
        const char *draft = harness_path(h, "snapshots/base/forks/%s", commands[i].draft);
        const char *path = harness_format(h, "%s/commit", draft);
        assert_errno(harness_write(path, commands[i].text), commands[i].code);
        assert_file_contains(harness_format(h, "%s/error", draft), commands[i].words);
        assert_errno(harness_write(path, harness_format(h, " \n%s\t\n", commands[i].text)),
                     commands[i].code);
    }
}

static void commit_of_bytes_that_are_no_text_is_refused(void **state)
{
    struct harness *h = *state;
    const char *path = harness_path(h, "snapshots/base/forks/new/commit");
    static char big[100000];
    memset(big, 'a', sizeof big);
    assert_errno(harness_write_steps(path, O_WRONLY, "1\0", 2).write, EINVAL);
    assert_errno(harness_write_steps(path, O_WRONLY, "a\0b", 3).write, EINVAL);
    assert_errno(harness_write_steps(path, O_WRONLY, "\xff\xfe", 2).write, EINVAL);
    assert_errno(harness_write_steps(path, O_WRONLY, big, sizeof big).write, EINVAL);
}

static void truncation_of_commit_alone_does_nothing(void **state)
{
    struct harness *h = *state;
    assert_shell("bash", ": > snapshots/base/forks/new/commit", 0);
    assert_works(truncate(harness_path(h, "snapshots/base/forks/new/commit"), 0));
    assert_string_equal(harness_get(h, harness_path(h, "snapshots/base/forks/new/status")),
                        "empty\n");
    assert_string_equal(harness_get(h, harness_path(h, "snapshots/base/forks/new/result")), "");
    assert_no_instance(h);
}

static void options_when_unfinished_keep_the_draft_from_committing(void **state)
{
    struct harness *h = *state;
    const char *draft = harness_path(h, "snapshots/base/forks/new");
    assert_errno(harness_write(harness_format(h, "%s/options", draft), "{"), EINVAL);
    assert_errno(harness_write(harness_format(h, "%s/commit", draft), "1"), EINVAL);
    assert_file_contains(harness_format(h, "%s/error", draft), "options");
    const char *result = harness_get(h, harness_format(h, "%s/result", draft));
    assert_string_equal(harness_json(h, result, "error.phase"), "validate");
    assert_string_equal(harness_json(h, result, "error.mailbox"), "null");
}

static void mailboxes_when_listed_show_what_the_image_holds(void **state)
{
    struct harness *h = *state;
    static const struct {
        const char *file, *member, *value;
    } facts[] = {
        {"m", "name", "m"},
        {"m", "payload_capacity", "3832"},
        {"m", "markers.0.token", "token-m"},
        {"m", "markers.0.offset", "4096"},
        {"m", "markers.0.page_aligned", "true"},
        {"m", "markers.0.state", "armed"},
        {"m", "markers.1", "(none)"},
        {"pending", "markers.0.state", "pending"},
        {"twice", "markers.0.token", "one"},
        {"twice", "markers.1.token", "two"},
        {"binary", "markers.0.token_hex", "01ff"},
        {"binary", "markers.0.token", "(none)"},
        {"unaligned", "payload_capacity", "2832"},
        {"unaligned", "markers.0.page_aligned", "false"},
        {"copies", "markers.64.state", "armed"},
    };
    for (size_t i = 0; i < array_length(facts); i++)
        assert_string_equal(
            harness_json(
                h, harness_get(h, harness_path(h, "snapshots/base/mailboxes/%s", facts[i].file)),
                facts[i].member),
            facts[i].value);
    assert_string_equal(assert_shell("bash", "ls snapshots/base/mailboxes | tr '\\n' ' '", 0).out,
                        "binary copies dirty half-pending m pending stale twice two-unaligned "
                        "unaligned ");
    const char *info = harness_get(h, harness_path(h, "snapshots/base/info"));
    assert_string_equal(harness_json(h, info, "network_mailbox"), "true");
    assert_string_equal(harness_json(h, info, "truncated"), "false");
    assert_string_equal(harness_json(h, info, "mailboxes.0"), "m");
    assert_string_equal(harness_json(h, info, "kind"), "standby");
}

#define refusal_test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        refusal_test(commit_that_is_refused_says_why_and_leaves_nothing),
        refusal_test(commit_when_one_of_several_mailboxes_is_missing_names_it),
        refusal_test(commit_of_an_id_that_cannot_be_is_refused),
        refusal_test(commit_of_bytes_that_are_no_text_is_refused),
        refusal_test(truncation_of_commit_alone_does_nothing),
        refusal_test(options_when_unfinished_keep_the_draft_from_committing),
        refusal_test(mailboxes_when_listed_show_what_the_image_holds),
    };
    harness_enter();
    return cmocka_run_group_tests_name("refusals", tests, NULL, NULL);
}
