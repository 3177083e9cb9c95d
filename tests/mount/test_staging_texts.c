/* SPDX-License-Identifier: MIT */
/* Which texts can be staged in mailboxes/<name> and options, told by the write itself. */
#include "fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "util/cleanup.h"

enum { PAYLOAD_MAX = 3832, PORT_MAX = 17, TEXT_MAX = 16384 };

struct text {
    const char *text;
    int write, close;
    const char *error; /* what `error` has in it */
};

static const struct text texts[] = {
    {"{}", 0, 0, ""},
    {"  {\"a\":1}\n\n", 0, 0, ""},
    {"{\"a\":1,\"a\":2}", 0, 0, ""}, /* a payload is the guest's business */
    {"{\"n\":12345678901234567890,\"m\":1e400}", 0, 0, ""},
    {"{\"ack_port\":7}", 0, 0, ""},
    {"{\"payload\":{}}", 0, 0, ""},
    {"{\"payload\":{\"payload\":1,\"x\":[]},\"token\":\"t\"}", 0, 0, ""},
    {"{\"payload\":{},\"token_hex\":\"00ff\"}", EINVAL, EINVAL, "token_hex"}, /* a NUL */
    {"{\"payload\":{},\"token_hex\":\"01ff\"}", 0, 0, ""},
    {"{\"payload\":{},\"wait_for_ack\":false,\"ack_timeout_ms\":-1}", 0, 0, ""},
    {"{\"payload\":{},\"wait_for_ack\":true,\"ack\":\"udp\",\"ack_timeout_ms\":0}", 0, 0, ""},
    {"{\"payload\":{},\"wait_for_ack\":true,\"ack_timeout_ms\":86400000}", 0, 0, ""},
    {"{\"payload\":{\"ack_port\":1},\"wait_for_ack\":true}", 0, 0, ""},

    {"", 0, 0, "mailboxes/m: unfinished"},
    {"{", 0, EINVAL, "mailboxes/m: unfinished"},
    {" \n", 0, EINVAL, "line 2, column 1"},
    {"{\"a\":[1,2", 0, EINVAL, "line 1, column 10"},
    {"{\"a\":\"\\u12", 0, EINVAL, "unfinished"},
    {"{\"payload\":{}", 0, EINVAL, "unfinished"},

    {"[1]", EINVAL, EINVAL, "mailboxes/m: line 1, column 1"},
    {"\"text\"", EINVAL, EINVAL, "line 1, column 1"},
    {"1", EINVAL, EINVAL, "line 1, column 1"},
    {"null", EINVAL, EINVAL, "line 1, column 1"},
    {"x{}", EINVAL, EINVAL, "line 1, column 1"},
    {"{} {}", EINVAL, EINVAL, "line 1, column 4"},
    {"{\n \"a\": 01}", EINVAL, EINVAL, "line 2, column"},
    {"{'a':1}", EINVAL, EINVAL, "line 1, column 2"},
    {"{\"a\":1,}", EINVAL, EINVAL, "line 1, column 8"},
    {"{\"a\":\"\xff\"}", EINVAL, EINVAL, "line 1, column 7"},
    {"{\"a\":\"\xc3(\"}", EINVAL, EINVAL, "line 1, column"},
    {"{\"a\":\"\xed\xa0\x80\"}", EINVAL, EINVAL, "line 1, column"},
    {"{\"a\":\"tab\there\"}", EINVAL, EINVAL, "line 1, column 10"},

    {"{\"payload\":1}", EINVAL, EINVAL, "payload"},
    {"{\"payload\":[]}", EINVAL, EINVAL, "payload"},
    {"{\"payload\":null}", EINVAL, EINVAL, "payload"},
    {"{\"payload\":\"{}\"}", EINVAL, EINVAL, "payload"},
    {"{\"payload\":{},\"payload\":{}}", EINVAL, EINVAL, "payload"},
    {"{\"payload\":{},\"pay\\u006coad\":{}}", EINVAL, EINVAL, "payload"},
    {"{\"payload\":{},\"colour\":\"red\"}", EINVAL, EINVAL, "colour"},
    {"{\"payload\":{},\"token\":\"a\",\"token\":\"b\"}", EINVAL, EINVAL, "token"},
    {"{\"payload\":{},\"token\":\"\"}", EINVAL, EINVAL, "token"},
    {"{\"payload\":{},\"token\":\" \\t\"}", EINVAL, EINVAL, "token"},
    {"{\"payload\":{},\"token\":7}", EINVAL, EINVAL, "token"},
    {"{\"payload\":{},\"token\":\"a\\u0000b\"}", EINVAL, EINVAL, ""},
    {"{\"payload\":{},\"token\":\"a\",\"token_hex\":\"61\"}", EINVAL, EINVAL, "token_hex"},
    {"{\"payload\":{},\"token_hex\":\"6\"}", EINVAL, EINVAL, "token_hex"},
    {"{\"payload\":{},\"token_hex\":\"xy\"}", EINVAL, EINVAL, "token_hex"},
    {"{\"token\":\"t\"}", EINVAL, EINVAL, "\"token\" is given without \"payload\""},
    {"{\"wait_for_ack\":true}", EINVAL, EINVAL, "\"wait_for_ack\" is given without"},
    {"{\"ack_timeout_ms\":1,\"name\":\"x\"}", EINVAL, EINVAL, "without \"payload\""},
    {"{\"payload\":{},\"wait_for_ack\":1}", EINVAL, EINVAL, "wait_for_ack"},
    {"{\"payload\":{},\"wait_for_ack\":true,\"ack\":\"pigeon\"}", EINVAL, EINVAL, "ack"},
    {"{\"payload\":{\"ack_port\":1},\"wait_for_ack\":true,\"ack\":\"memory\"}", 0, 0, ""},
    {"{\"payload\":{},\"wait_for_ack\":true,\"ack_timeout_ms\":-1}", EINVAL, EINVAL, "86400000"},
    {"{\"payload\":{},\"wait_for_ack\":true,\"ack_timeout_ms\":86400001}", EINVAL, EINVAL,
     "86400000"},
    {"{\"payload\":{},\"ack\":\"udp\",\"wait_for_ack\":true,\"ack_timeout_ms\":30001}", EINVAL,
     EINVAL, "30000"},
    {"{\"payload\":{},\"wait_for_ack\":true,\"ack_timeout_ms\":1.5}", EINVAL, EINVAL, "whole"},
    {"{\"payload\":{},\"wait_for_ack\":true,\"ack_timeout_ms\":\"5\"}", EINVAL, EINVAL, "whole"},
    {"{\"payload\":{},\"wait_for_ack\":true,\"ack_timeout_ms\":null}", EINVAL, EINVAL, "whole"},
    {"{\"payload\":{\"ack_port\":1},\"ack\":\"udp\",\"wait_for_ack\":true}", EINVAL, EINVAL,
     "ack_port"},
    {"{\"payload\":{\"ack\\u005fport\":1},\"ack\":\"udp\",\"wait_for_ack\":true}", EINVAL, EINVAL,
     "ack_port"},
};

static const struct text options[] = {
    {"{}", 0, 0, ""},
    {"{\"on_ack_failure\":\"keep\",\"wait_for_network\":false}", 0, 0, ""},
    {"{\"target_state\":\"standby\"}", 0, 0, ""},
    {"{\"ack_address\":\"127.0.0.2\",\"tap\":null,\"identity\":false}", 0, 0, ""},
    {"{\"target_state\":\"running\"", 0, EINVAL, "options: unfinished"},
    {"[]", EINVAL, EINVAL, "options: line 1, column 1"},
    {"{\"colour\":1}", EINVAL, EINVAL, "colour"},
    {"{\"identity\":false,\"identity\":false}", EINVAL, EINVAL, "identity"},
    {"{\"wait_for_network\":\"yes\"}", EINVAL, EINVAL, "wait_for_network"},
    {"{\"target_state\":\"paused\"}", EINVAL, EINVAL, "target_state"},
    {"{\"on_ack_failure\":\"ignore\"}", EINVAL, EINVAL, "on_ack_failure"},
    {"{\"ack_address\":\"localhost\"}", EINVAL, EINVAL, "ack_address"},
    {"{\"tap\":\"tap0\"}", 0, 0, ""},
    {"{\"tap\":\"tap/0\"}", EINVAL, EINVAL, "\"tap\" must be the name of the host's interface"},
    {"{\"tap\":\"0123456789abcdef\"}", EINVAL, EINVAL, "\"tap\" must be the name"},
    {"{\"tap\":0}", EINVAL, EINVAL, "\"tap\" must be a string, or null"},
    {"{\"identity\":1}", EINVAL, EINVAL, "identity"},
    {"{\"from_running\":true}", 0, 0, ""},
    {"{\"from_running\":1}", EINVAL, EINVAL, "from_running"},
};

/* Written at once, and byte by byte: the refusal comes, at the latest, with the last one. */
static void check_text(struct harness *h, const char *path, const struct text *text)
{
    const char *error = harness_path(h, "snapshots/base/forks/new/error");
    size_t size = strlen(text->text);
    struct harness_steps steps =
        harness_write_steps(path, O_WRONLY | O_CREAT | O_TRUNC, text->text, size);
    if (steps.open != 0 || steps.write != text->write || steps.close != text->close)
        fail_msg("%s: write %d, close %d", text->text, steps.write, steps.close);
    const char *said = harness_get(h, error);
    assert_contains(said, text->error);
    assert_int_equal(said[0] == 0, text->error[0] == 0 && text->write == 0);

    auto_close int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    int code = 0;
    for (size_t i = 0; i < size && code == 0; i++)
        code = write(fd, text->text + i, 1) == 1 ? 0 : errno;
    assert_errno(code, text->write);
    assert_errno(close(steal_fd(&fd)) < 0 ? errno : 0, text->close);
    assert_string_equal(harness_get(h, error), said);
}

static void text_when_staged_is_taken_or_refused_with_a_reason(void **state)
{
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(texts); i++)
        check_text(h, harness_path(h, "snapshots/base/forks/new/mailboxes/m"), &texts[i]);
}

static void options_when_written_are_taken_or_refused_with_a_reason(void **state)
{
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(options); i++)
        check_text(h, harness_path(h, "snapshots/base/forks/new/options"), &options[i]);
}

static void options_when_never_written_show_the_defaults(void **state)
{
    struct harness *h = *state;
    const char *text = harness_get(h, harness_path(h, "snapshots/base/forks/new/options"));
    assert_string_equal(harness_json(h, text, "target_state"), "running");
    assert_string_equal(harness_json(h, text, "wait_for_network"), "true");
    assert_string_equal(harness_json(h, text, "from_running"), "false");
    assert_string_equal(harness_json(h, text, "on_ack_failure"), "destroy");
    assert_string_equal(harness_json(h, text, "tap"), "null");
    assert_string_equal(harness_json(h, text, "ack_address"), "null");
    assert_string_equal(harness_json(h, text, "identity"), "false");
}

/* {"p":"xxx…"} of that many bytes, in a request if there is something behind it. */
static char *sized(struct harness *h, size_t size, const char *before, const char *behind)
{
    char *filler = harness_alloc(h, size);
    memset(filler, 'x', size - 8);
    return harness_format(h, "%s{\"p\":\"%s\"}%s", before, filler, behind);
}

static void payload_when_at_the_limit_is_taken_and_above_refused(void **state)
{
    struct harness *h = *state;
    const char *path = harness_path(h, "snapshots/base/forks/new/mailboxes/m");
    const char *request = "{\"payload\":", *ack = ",\"wait_for_ack\":true,\"ack\":\"udp\"}";
    assert_errno(harness_write(path, sized(h, PAYLOAD_MAX, "", "")), 0);
    assert_errno(harness_write(path, sized(h, PAYLOAD_MAX, " \n", "\n\n")), 0);
    assert_errno(harness_write(path, sized(h, PAYLOAD_MAX, request, "}")), 0);
    assert_errno(harness_write(path, sized(h, PAYLOAD_MAX - PORT_MAX, request, ack)), 0);
    assert_errno(harness_write(path, sized(h, PAYLOAD_MAX + 1, "", "")), EFBIG);
    assert_file_contains(harness_path(h, "snapshots/base/forks/new/error"), "3833 bytes");
    assert_errno(harness_write(path, sized(h, PAYLOAD_MAX + 1, request, "}")), EFBIG);
    assert_errno(harness_write(path, sized(h, PAYLOAD_MAX - PORT_MAX + 1, request, ack)), EFBIG);
    assert_file_contains(harness_path(h, "snapshots/base/forks/new/error"), "ack_port");
}

static void text_when_over_16_kib_is_too_big(void **state)
{
    struct harness *h = *state;
    const char *path = harness_path(h, "snapshots/base/forks/new/mailboxes/m");
    static char text[TEXT_MAX + 2];
    memset(text, ' ', TEXT_MAX + 1);
    memcpy(text + 10, "{}", 2);
    assert_errno(harness_write(path, text + 1), 0);
    assert_errno(harness_write(path, text), EFBIG);
    assert_file_contains(harness_path(h, "snapshots/base/forks/new/error"), "16384");
    text[TEXT_MAX] = 0;
    auto_close int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    assert_int_equal(write(fd, text, TEXT_MAX), TEXT_MAX);
    assert_fails(write(fd, " ", 1), EFBIG);
}

static char *nested(struct harness *h, size_t depth)
{
    char *text = harness_alloc(h, 2 * depth + 8);
    memcpy(text, "{\"a\":", 5);
    memset(text + 5, '[', depth - 1);
    memset(text + 4 + depth, ']', depth - 1);
    text[3 + 2 * depth] = '}';
    return text;
}

static void text_when_nested_too_deeply_is_refused(void **state)
{
    struct harness *h = *state;
    const char *path = harness_path(h, "snapshots/base/forks/new/mailboxes/m");
    assert_errno(harness_write(path, nested(h, 128)), 0);
    assert_errno(harness_write(path, nested(h, 129)), EINVAL);
    assert_errno(harness_write(path, nested(h, 8000)), EINVAL);
    assert_contains(assert_shell("bash",
                                 "printf '{\"a\":%10000s' | tr ' ' '[' > "
                                 "snapshots/base/forks/new/mailboxes/m",
                                 1)
                        .err,
                    "Invalid argument");
}

static void text_with_a_nul_in_it_is_refused(void **state)
{
    struct harness *h = *state;
    static const char text[] = "{\"a\":\"\0\"}";
    struct harness_steps steps =
        harness_write_steps(harness_path(h, "snapshots/base/forks/new/mailboxes/m"),
                            O_WRONLY | O_CREAT | O_TRUNC, text, sizeof text - 1);
    assert_errno(steps.write, EINVAL);
    steps = harness_write_steps(harness_path(h, "snapshots/base/forks/new/mailboxes/m"),
                                O_WRONLY | O_CREAT | O_TRUNC, "{}\0", 3);
    assert_errno(steps.write, EINVAL);
}

static void payload_and_token_when_refused_are_never_quoted(void **state)
{
    struct harness *h = *state;
    const char *path = harness_path(h, "snapshots/base/forks/new/mailboxes/m");
    static const char *const secrets[] = {
        "{\"payload\":{\"k\":\"SECRET\"},\"token\":\"SECRET\",\"colour\":\"SECRET\"}",
        "{\"payload\":{\"SECRET\":1},\"token\":\"SECRET\",\"token_hex\":\"5345435245544\"}",
        "{\"payload\":\"SECRET\"}",
        "{\"SECRET\":SECRET",
        "SECRET",
    };
    for (size_t i = 0; i < array_length(secrets); i++) {
        assert_errno(harness_write(path, secrets[i]), EINVAL);
        const char *said = harness_get(h, harness_path(h, "snapshots/base/forks/new/error"));
        assert_null(strstr(said, "SECRET"));
        assert_true(said[0] != 0);
    }
    assert_null(strstr(harness_get(h, h->log), "SECRET"));
}

static void request_without_token_where_tokens_are_required_is_refused(void **state)
{
    struct harness *h = *state;
    const char *path = harness_path(h, "snapshots/base/forks/new/mailboxes/m");
    harness_craft(h, &(struct harness_snapshot){.id = "base"});
    harness_mount(h, (const char *const[]){"--require-token", NULL});
    assert_errno(harness_write(path, "{}"), EINVAL);
    assert_file_contains(harness_path(h, "snapshots/base/forks/new/error"), "\"token\"");
    assert_errno(harness_write(path, "{\"payload\":{}}"), EINVAL);
    assert_errno(harness_write(path, "{\"payload\":{},\"token\":\"t\"}"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        mounted_test(text_when_staged_is_taken_or_refused_with_a_reason),
        mounted_test(options_when_written_are_taken_or_refused_with_a_reason),
        mounted_test(options_when_never_written_show_the_defaults),
        mounted_test(payload_when_at_the_limit_is_taken_and_above_refused),
        mounted_test(text_when_over_16_kib_is_too_big),
        mounted_test(text_when_nested_too_deeply_is_refused),
        mounted_test(text_with_a_nul_in_it_is_refused),
        mounted_test(payload_and_token_when_refused_are_never_quoted),
        bare_test(request_without_token_where_tokens_are_required_is_refused),
    };
    harness_enter();
    return cmocka_run_group_tests_name("staging_texts", tests, NULL, NULL);
}
