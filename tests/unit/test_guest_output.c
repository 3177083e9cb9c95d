/* SPDX-License-Identifier: MIT */
/* What a hook prints, as a reply. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest/output.h"
#include "test.h"
#include "util/json.h"
#include "util/utf8.h"

enum { REPLY_MAX = 3824 };

/* In pieces of `piece` bytes; a static text. */
static const char *reply_to(const char *text, size_t size, size_t piece, size_t max)
{
    static char reply[REPLY_MAX + 1];
    struct output output = {0};
    for (size_t at = 0; at < size; at += piece)
        output_add(&output, text + at, size - at < piece ? size - at : piece);
    size_t used = output_reply(&output, reply, max);
    assert_true(used <= max);
    reply[used] = '\0';
    return reply;
}

static void output_that_is_an_object_is_the_reply(void **state)
{
    static const char *const cases[][2] = {
        {"{}", "{}"},
        {" \n{ \"a\":1.50 }\n\n", "{ \"a\":1.50 }"},
        {"{\"a\":\"\xC3\xA9\"}", "{\"a\":\"\xC3\xA9\"}"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (size_t piece = 1; piece < 20; piece++)
            assert_string_equal(reply_to(cases[i][0], strlen(cases[i][0]), piece, REPLY_MAX),
                                cases[i][1]);
}

static void output_that_is_none_is_a_member(void **state)
{
    static const struct {
        const char *text;
        size_t size;
        const char *reply;
    } cases[] = {
        {"done\n", 5, "{\"output\":\"done\\n\"}"},
        {"\n", 1, "{\"output\":\"\\n\"}"},
        {"[1]", 3, "{\"output\":\"[1]\"}"},
        {"{}{}", 4, "{\"output\":\"{}{}\"}"},
        {"{\"a\":", 5, "{\"output\":\"{\\\"a\\\":\"}"},
        {"\"\\/\b\f\r\t\x01\x1f\x7f", 10,
         "{\"output\":\"\\\"\\\\/\\b\\f\\r\\t\\u0001\\u001f\x7f\"}"},
        {"a\0b", 3, "{\"output\":\"a\\u0000b\"}"},
        {"\xC3\xA9\xF0\x9F\x98\x80", 6, "{\"output\":\"\xC3\xA9\xF0\x9F\x98\x80\"}"},
        {"\xC3(\xFF\xC3", 4, "{\"output\":\"?(??\"}"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_string_equal(reply_to(cases[i].text, cases[i].size, 1, REPLY_MAX), cases[i].reply);
}

static void output_of_nothing_is_no_reply(void **state)
{
    (void)state;
    assert_string_equal(reply_to("", 0, 1, REPLY_MAX), "");
}

static void output_that_just_fits_is_whole_and_one_byte_more_is_cut(void **state)
{
    enum { ROOM = REPLY_MAX - sizeof "{\"output\":\"\"}" + 1 };
    char text[ROOM + 1];
    (void)state;
    memset(text, 'x', sizeof text);
    const char *reply = reply_to(text, ROOM, 100, REPLY_MAX);
    assert_int_equal(strlen(reply), REPLY_MAX);
    assert_null(strstr(reply, "dropped"));
    reply = reply_to(text, ROOM + 1, 100, REPLY_MAX);
    assert_non_null(strstr(reply, "\",\"dropped\":"));
}

/* Bytes of the text that the reply has, which are those that nothing was made of. */
static size_t kept(const char *reply, char wanted)
{
    size_t count = 0;
    for (const char *c = strchr(reply, ':') + 1; *c; c++)
        count += *c == wanted;
    return count;
}

static void output_that_is_long_is_cut_in_the_middle(void **state)
{
    static const size_t sizes[] = {4000, 5000, 8192, 8193, 20000, 100000};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (size_t piece = 1; piece <= 10000; piece = piece * 3 + 1) {
            char *text = malloc(sizes[i]);
            assert_non_null(text);
            memset(text, 'x', sizes[i]);
            memcpy(text, "begin", 5);
            memcpy(text + sizes[i] - 3, "end", 3);
            const char *reply = reply_to(text, sizes[i], piece, REPLY_MAX);
            auto_json cJSON *json = cJSON_Parse(reply);
            const char *output = json_get_text(json, "output");
            assert_memory_equal(output, "beginx", 6);
            assert_string_equal(output + strlen(output) - 4, "xend");
            assert_int_equal(json_get_count(json, "dropped"), sizes[i] - strlen(output));
            assert_true(strlen(output) > REPLY_MAX - 60);
            free(text);
        }
}

static void output_is_never_cut_inside_a_character_or_an_escape(void **state)
{
    char text[9000];
    (void)state;
    for (size_t shift = 0; shift < 4; shift++) {
        size_t size = shift;
        memset(text, '.', sizeof text);
        for (; size + 4 <= sizeof text; size += 4)
            memcpy(text + size, "\xF0\x9F\x98\x80", 4);
        const char *reply = reply_to(text, size, 1000, REPLY_MAX);
        assert_null(strchr(reply, '?'));
        assert_true(utf8_valid(reply, strlen(reply)));
        memset(text, '\n', sizeof text);
        reply = reply_to(text, sizeof text - shift, 1000, REPLY_MAX - shift);
        auto_json cJSON *json = cJSON_Parse(reply);
        const char *output = json_get_text(json, "output");
        assert_int_equal(strlen(output), strspn(output, "\n"));
        assert_int_equal(json_get_count(json, "dropped") + strlen(output), sizeof text - shift);
        assert_int_equal(kept(reply, 'n'), strlen(output));
    }
}

static void object_that_is_too_long_is_a_text(void **state)
{
    char text[REPLY_MAX + 2];
    (void)state;
    memset(text, 'x', sizeof text);
    memcpy(text, "{\"a\":\"", 6);
    memcpy(text + REPLY_MAX - 1, "\"}", 2);
    assert_memory_equal(reply_to(text, REPLY_MAX + 1, 100, REPLY_MAX), "{\"output\":\"{\\\"a\\\"",
                        17);
    memcpy(text + REPLY_MAX - 2, "\"}", 2);
    assert_memory_equal(reply_to(text, REPLY_MAX, 100, REPLY_MAX), "{\"a\":\"xxx", 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(output_that_is_an_object_is_the_reply),
        cmocka_unit_test(output_that_is_none_is_a_member),
        cmocka_unit_test(output_of_nothing_is_no_reply),
        cmocka_unit_test(output_that_just_fits_is_whole_and_one_byte_more_is_cut),
        cmocka_unit_test(output_that_is_long_is_cut_in_the_middle),
        cmocka_unit_test(output_is_never_cut_inside_a_character_or_an_escape),
        cmocka_unit_test(object_that_is_too_long_is_a_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
