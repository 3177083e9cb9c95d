/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "test.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/utf8.h"

struct text {
    const char *bytes;
    size_t size;
};
#define TEXT(text)                                                                                 \
    {                                                                                              \
        text, sizeof text - 1                                                                      \
    }

/* Whole objects, each ending with its }: a text that ends later is finished before its end. */
static const struct text complete[] = {
    TEXT("{}"),
    TEXT(" \t\r\n{ \n}"),
    TEXT("{\"a\":1}"),
    TEXT("{\"a\":-0.5e+10,\"b\":1E5,\"c\":0,\"d\":-0,\"e\":12345678901234567890,\"f\":1e400}"),
    TEXT("{\"a\":true,\"b\":false,\"c\":null,\"d\":[],\"e\":{}}"),
    TEXT("{\"a\":[1,[2,[3,{\"x\":[{}]}]],\"]\"]}"),
    TEXT("{\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e4\\uD83D\\uDE00\\ud800\":\"\\u0000\"}"),
    TEXT("{\"\":\"\xC2\x80\xDF\xBF\xE0\xA0\x80\xED\x9F\xBF\xEE\x80\x80\xEF\xBF\xBF\"}"),
    TEXT("{\"a\":\"\xF0\x90\x80\x80\xF4\x8F\xBF\xBF\x7F\"}"),
    TEXT("{ \"a\" : [ 1 , 2 ] , \"a\" : { \"b\" : \"c\" } }"),
};

static const struct {
    struct text text;
    size_t offset; /* of the byte that makes it wrong */
} invalid[] = {
    {TEXT("[]"), 0},
    {TEXT("\"a\""), 0},
    {TEXT("12"), 0},
    {TEXT("null"), 0},
    {TEXT("  x"), 2},
    {TEXT("}"), 0},
    {TEXT("\xEF\xBB\xBF{}"), 0},
    {TEXT("{}x"), 2},
    {TEXT("{} {}"), 3},
    {TEXT("{} \0"), 3},
    {TEXT("\0{}"), 0},
    {TEXT("{\0}"), 1},
    {TEXT("{\"a\0\":1}"), 3},
    {TEXT("{\"a\":\0}"), 5},
    {TEXT("{,}"), 1},
    {TEXT("{a:1}"), 1},
    {TEXT("{'a':1}"), 1},
    {TEXT("{\"a\" 1}"), 5},
    {TEXT("{\"a\"}"), 4},
    {TEXT("{\"a\":}"), 5},
    {TEXT("{\"a\":1,}"), 7},
    {TEXT("{\"a\":1 \"b\":2}"), 7},
    {TEXT("{\"a\":1]"), 6},
    {TEXT("{\"a\":[1}"), 7},
    {TEXT("{\"a\":[1,]}"), 8},
    {TEXT("{\"a\":[,1]}"), 6},
    {TEXT("{\"a\":]"), 5},
    {TEXT("{\"a\":01}"), 6},
    {TEXT("{\"a\":-01}"), 7},
    {TEXT("{\"a\":+1}"), 5},
    {TEXT("{\"a\":.5}"), 5},
    {TEXT("{\"a\":1.}"), 7},
    {TEXT("{\"a\":1.e5}"), 7},
    {TEXT("{\"a\":1e}"), 7},
    {TEXT("{\"a\":1e+}"), 8},
    {TEXT("{\"a\":-}"), 6},
    {TEXT("{\"a\":0x10}"), 6},
    {TEXT("{\"a\":1 2}"), 7},
    {TEXT("{\"a\":NaN}"), 5},
    {TEXT("{\"a\":True}"), 5},
    {TEXT("{\"a\":trux"), 8},
    {TEXT("{\"a\":nulll}"), 9},
    {TEXT("{\"a\":falsetrue}"), 10},
    {TEXT("{\"a\":\"\t\"}"), 6},
    {TEXT("{\"a\":\"\n\"}"), 6},
    {TEXT("{\"a\":\"\x1F\"}"), 6},
    {TEXT("{\"a\":\"\\x\"}"), 7},
    {TEXT("{\"a\":\"\\\0\"}"), 7},
    {TEXT("{\"a\":\"\\u12g4\"}"), 10},
    {TEXT("{\"a\":\"\\u123\"}"), 11},
    {TEXT("{\"a\":\"\\U1234\"}"), 7},
    {TEXT("{\"a\":1}//x"), 7},
    {TEXT("{/**/}"), 1},
    {TEXT("{\"a\":\"\x80\"}"), 6},     /* a continuation byte alone */
    {TEXT("{\"a\":\"\xC0\x80\"}"), 6}, /* overlong */
    {TEXT("{\"a\":\"\xC1\xBF\"}"), 6},
    {TEXT("{\"a\":\"\xE0\x9F\xBF\"}"), 7},
    {TEXT("{\"a\":\"\xF0\x8F\xBF\xBF\"}"), 7},
    {TEXT("{\"a\":\"\xED\xA0\x80\"}"), 7},     /* a surrogate */
    {TEXT("{\"a\":\"\xF4\x90\x80\x80\"}"), 7}, /* over U+10FFFF */
    {TEXT("{\"a\":\"\xF5\x80\x80\x80\"}"), 6},
    {TEXT("{\"a\":\"\xFF\"}"), 6},
    {TEXT("{\"a\":\"\xC3\"}"), 7}, /* cut short by the quote */
    {TEXT("{\"a\":\"\xE2\x82\"}"), 8},
    {TEXT("{\xC3\xA4:1}"), 1},
};

static enum json_status status_of(const char *text, size_t size)
{
    struct json_check check;
    return json_check(text, size, &check);
}

static void check_when_the_object_is_whole_is_complete(void **state)
{
    struct json_check check;

    (void)state;
    for (size_t i = 0; i < array_length(complete); i++) {
        const struct text *text = &complete[i];
        assert_int_equal(json_check(text->bytes, text->size, &check), JSON_COMPLETE);
        assert_int_equal(text->bytes[check.object.start], '{');
        assert_int_equal(strcspn(text->bytes, "{"), check.object.start);
        assert_int_equal(check.object.end, text->size);
        assert_int_equal(check.offset, text->size);
        assert_string_equal(check.why, "");
    }
}

static void check_when_white_space_follows_leaves_it_out_of_the_object(void **state)
{
    struct json_check check;

    (void)state;
    assert_int_equal(json_check("\n {\"a\":1} \r\n\t", 13, &check), JSON_COMPLETE);
    assert_int_equal(check.object.start, 2);
    assert_int_equal(check.object.end, 9);
    assert_int_equal(check.offset, 13);
}

static void check_of_every_proper_prefix_is_incomplete(void **state)
{
    (void)state;
    for (size_t i = 0; i < array_length(complete); i++)
        for (size_t size = 0; size < complete[i].size; size++) {
            struct json_check check;
            assert_int_equal(json_check(complete[i].bytes, size, &check), JSON_INCOMPLETE);
            assert_int_equal(check.offset, size);
            assert_int_equal(check.object.end, 0);
            assert_string_equal(check.why, "");
        }
}

static void check_when_wrong_says_so_from_the_wrong_byte_on_and_not_before(void **state)
{
    (void)state;
    for (size_t i = 0; i < array_length(invalid); i++) {
        const struct text *text = &invalid[i].text;
        struct json_check check;
        for (size_t size = invalid[i].offset + 1; size <= text->size; size++) {
            assert_int_equal(json_check(text->bytes, size, &check), JSON_INVALID);
            assert_int_equal(check.offset, invalid[i].offset);
            assert_int_not_equal(strlen(check.why), 0);
        }
        for (size_t size = 0; size <= invalid[i].offset; size++)
            assert_int_not_equal(status_of(text->bytes, size), JSON_INVALID);
    }
}

static void check_when_one_byte_of_a_good_text_is_changed_never_reads_beyond(void **state)
{
    (void)state;
    for (size_t i = 0; i < array_length(complete); i++)
        for (size_t at = 0; at < complete[i].size; at++)
            for (int byte = 0; byte < 256; byte += 3) {
                auto_free char *copy = malloc(complete[i].size);
                assert_non_null(copy);
                memcpy(copy, complete[i].bytes, complete[i].size);
                copy[at] = (char)byte;
                struct json_check check;
                json_check(copy, complete[i].size, &check);
                assert_true(check.offset <= complete[i].size);
            }
}

static char *nested(size_t depth, size_t *size)
{
    char *text = malloc(2 * depth + 4);
    assert_non_null(text);
    memcpy(text, "{\"a\":", 5);
    memset(text + 5, '[', depth - 1);
    memset(text + 4 + depth, ']', depth - 1);
    text[2 * depth + 3] = '}';
    *size = 2 * depth + 4;
    return text;
}

static void check_when_nested_too_deeply_is_invalid_at_that_bracket(void **state)
{
    size_t size;
    struct json_check check;
    auto_free char *allowed = nested(JSON_DEPTH_MAX, &size);

    (void)state;
    assert_int_equal(status_of(allowed, size), JSON_COMPLETE);
    auto_free char *over = nested(JSON_DEPTH_MAX + 1, &size);
    assert_int_equal(json_check(over, size, &check), JSON_INVALID);
    assert_int_equal(check.offset, 5 + JSON_DEPTH_MAX - 1);
    auto_free char *deep = nested(10000, &size);
    assert_int_equal(json_check(deep, size, &check), JSON_INVALID);
    assert_int_equal(check.offset, 5 + JSON_DEPTH_MAX - 1);
}

static void check_counts_lines_and_columns_from_1_in_bytes(void **state)
{
    struct json_check check;

    (void)state;
    json_check("", 0, &check);
    assert_int_equal(check.line, 1);
    assert_int_equal(check.column, 1);
    json_check("{\n\"\xC3\xA4\": 1,\n  x}", 15, &check);
    assert_int_equal(check.line, 3);
    assert_int_equal(check.column, 3);
    json_check("{\n\"a\": [\n", 9, &check);
    assert_int_equal(check.line, 3);
    assert_int_equal(check.column, 1);
}

static void assert_span(const char *text, struct json_span span, const char *expected)
{
    assert_int_equal(span.end - span.start, strlen(expected));
    assert_memory_equal(text + span.start, expected, strlen(expected));
}

static void next_member_gives_names_and_values_as_written(void **state)
{
    static const char text[] = "  {\"a\" : 12345678901234567890 "
                               ",\"\\u0062\":\"x,}\\\"]\\\\\",\n\"c\":{\"d\":[1, {}],\"e\":\"}\"},"
                               "\"\":[ {\"x\":\"]\"}, [] ] , \"n\":null\t,\"t\":true}  ";
    static const char *const expected[][2] = {
        {"a", "12345678901234567890"},
        {"\\u0062", "\"x,}\\\"]\\\\\""},
        {"c", "{\"d\":[1, {}],\"e\":\"}\"}"},
        {"", "[ {\"x\":\"]\"}, [] ]"},
        {"n", "null"},
        {"t", "true"},
    };
    struct json_check check;
    struct json_member member;

    (void)state;
    assert_int_equal(json_check(text, strlen(text), &check), JSON_COMPLETE);
    size_t position = check.object.start;
    for (size_t i = 0; i < array_length(expected); i++) {
        assert_true(json_next_member(text, check.object, &position, &member));
        assert_span(text, member.name, expected[i][0]);
        assert_span(text, member.value, expected[i][1]);
    }
    assert_false(json_next_member(text, check.object, &position, &member));
    assert_false(json_next_member(text, check.object, &position, &member));
}

static void next_member_when_the_object_is_empty_finds_none(void **state)
{
    struct json_member member;
    size_t position = 0;

    (void)state;
    assert_false(json_next_member("{}", (struct json_span){0, 2}, &position, &member));
    assert_false(json_next_member("{ \n }", (struct json_span){0, 5}, &position, &member));
}

static void next_member_of_an_inner_object_stays_inside(void **state)
{
    static const char text[] = "{\"p\":{\"x\":1},\"y\":2}";
    struct json_member outer, inner;
    size_t position = 0;

    (void)state;
    assert_true(json_next_member(text, (struct json_span){0, sizeof text - 1}, &position, &outer));
    position = outer.value.start;
    assert_true(json_next_member(text, outer.value, &position, &inner));
    assert_span(text, inner.name, "x");
    assert_false(json_next_member(text, outer.value, &position, &inner));
}

static bool name_is(const char *written, const char *ascii)
{
    return json_name_is(written, (struct json_span){0, strlen(written)}, ascii);
}

static void name_is_resolves_escapes(void **state)
{
    (void)state;
    assert_true(name_is("payload", "payload"));
    assert_true(name_is("\\u0070ay\\u006Coad", "payload"));
    assert_true(name_is("a\\/b\\\"\\\\\\n\\t\\r\\b\\f", "a/b\"\\\n\t\r\b\f"));
    assert_true(name_is("", ""));
    assert_false(name_is("payloa", "payload"));
    assert_false(name_is("payload2", "payload"));
    assert_false(name_is("Payload", "payload"));
    assert_false(name_is("payload\\u0000", "payload"));
    assert_false(name_is("\\u0170ayload", "payload"));
    assert_false(name_is("\\u0000", ""));
    assert_false(name_is("", "a"));
}

static void has_member_looks_at_the_outermost_members_only(void **state)
{
    static const char text[] = "{\"a\":{\"payload\":1},\"b\":\"payload\",\"\\u0063\":0}";
    const struct json_span object = {0, sizeof text - 1};

    (void)state;
    assert_true(json_has_member(text, object, "a"));
    assert_true(json_has_member(text, object, "c"));
    assert_false(json_has_member(text, object, "payload"));
}

static void utf8_valid_knows_good_and_bad_sequences(void **state)
{
    static const struct text good[] = {
        TEXT(""), TEXT("a\0b"), TEXT("\xC3\xA4"), TEXT("\xE2\x82\xAC"), TEXT("\xF0\x9F\x98\x80"),
    };
    static const struct text bad[] = {
        TEXT("\x80"),         TEXT("\xC3"),     TEXT("\xC3("),        TEXT("\xE2\x82"),
        TEXT("\xF0\x9F\x98"), TEXT("\xC0\xAF"), TEXT("\xED\xBF\xBF"), TEXT("\xF4\x90\x80\x80"),
        TEXT("a\xFE"),
    };

    (void)state;
    for (size_t i = 0; i < array_length(good); i++)
        assert_true(utf8_valid(good[i].bytes, good[i].size));
    for (size_t i = 0; i < array_length(bad); i++)
        assert_false(utf8_valid(bad[i].bytes, bad[i].size));
}

static void json_when_printed_moves_no_terminal_and_means_the_same(void **state)
{
    static const char words[] = "\x1b\x7F\xC2\x85\xE2\x80\xA8\xE2\x81\xA9\xC3\xA4";
    (void)state;
    auto_json cJSON *json = cJSON_CreateObject();
    assert_non_null(cJSON_AddStringToObject(json, words, words));
    char *texts[] = {json_print(json), json_print_line(json)};
    for (size_t i = 0; i < array_length(texts); i++) {
        auto_json cJSON *again = cJSON_Parse(texts[i]);
        assert_true(cJSON_Compare(json, again, true));
        assert_null(strpbrk(texts[i], "\x1b\x7F\xC2\xE2"));
        assert_non_null(strstr(texts[i], "\\u001b\\u007f\\u0085\\u2028\\u2069\xC3\xA4"));
        free(texts[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_when_printed_moves_no_terminal_and_means_the_same),
        cmocka_unit_test(check_when_the_object_is_whole_is_complete),
        cmocka_unit_test(check_when_white_space_follows_leaves_it_out_of_the_object),
        cmocka_unit_test(check_of_every_proper_prefix_is_incomplete),
        cmocka_unit_test(check_when_wrong_says_so_from_the_wrong_byte_on_and_not_before),
        cmocka_unit_test(check_when_one_byte_of_a_good_text_is_changed_never_reads_beyond),
        cmocka_unit_test(check_when_nested_too_deeply_is_invalid_at_that_bracket),
        cmocka_unit_test(check_counts_lines_and_columns_from_1_in_bytes),
        cmocka_unit_test(next_member_gives_names_and_values_as_written),
        cmocka_unit_test(next_member_when_the_object_is_empty_finds_none),
        cmocka_unit_test(next_member_of_an_inner_object_stays_inside),
        cmocka_unit_test(name_is_resolves_escapes),
        cmocka_unit_test(has_member_looks_at_the_outermost_members_only),
        cmocka_unit_test(utf8_valid_knows_good_and_bad_sequences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
