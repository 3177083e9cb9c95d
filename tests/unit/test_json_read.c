/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/utf8.h"

struct settings {
    bool flag;
    int64_t number;
    char *string;
    int word;
    const cJSON *object, *array;
};

static const char *const words[] = {"running", "standby", NULL};

static const struct json_field fields[] = {
    {"flag", JSON_BOOL, offsetof(struct settings, flag)},
    {"number", JSON_INTEGER, offsetof(struct settings, number), .min = -5, .max = 30000},
    {"string", JSON_STRING, offsetof(struct settings, string), .nullable = true},
    {"word", JSON_WORD, offsetof(struct settings, word), .words = words},
    {"object", JSON_OBJECT, offsetof(struct settings, object), .required = true},
    {"array", JSON_ARRAY, offsetof(struct settings, array)},
};

/* Reads into settings with known defaults; the document is kept alive by the caller. */
static int read_text(const char *text, struct settings *settings, cJSON **json, struct error *err)
{
    *settings = (struct settings){.number = 7, .word = 1, .string = strdup("before")};
    assert_non_null(settings->string);
    assert_int_equal(json_parse(text, strlen(text), json, err), 0);
    return json_read(*json, fields, array_length(fields), settings, err);
}

static void read_when_all_members_are_given_sets_them(void **state)
{
    struct settings settings;
    struct error err = {0};
    auto_json cJSON *json = NULL;

    (void)state;
    assert_int_equal(read_text("{\"flag\":true,\"number\":-5,\"string\":\"x\",\"word\":\"running\","
                               "\"object\":{\"a\":1},\"array\":[1,2]}",
                               &settings, &json, &err),
                     0);
    assert_true(settings.flag);
    assert_int_equal(settings.number, -5);
    assert_string_equal(settings.string, "x");
    assert_int_equal(settings.word, 0);
    assert_int_equal(cJSON_GetArraySize(settings.object), 1);
    assert_int_equal(cJSON_GetArraySize(settings.array), 2);
    free(settings.string);
}

static void read_when_members_are_left_out_or_null_keeps_what_was_there(void **state)
{
    struct settings settings;
    struct error err = {0};
    auto_json cJSON *json = NULL;

    (void)state;
    assert_int_equal(read_text("{\"object\":{},\"string\":null}", &settings, &json, &err), 0);
    assert_false(settings.flag);
    assert_int_equal(settings.number, 7);
    assert_string_equal(settings.string, "before");
    assert_int_equal(settings.word, 1);
    assert_null(settings.array);
    free(settings.string);
}

static void read_when_a_member_is_wrong_names_it_and_what_is_allowed(void **state)
{
    static const struct {
        const char *text, *why;
    } bad[] = {
        {"{}", "member \"object\" is missing"},
        {"{\"object\":{},\"flag\":1}", "\"flag\" must be true or false"},
        {"{\"object\":{},\"flag\":null}", "\"flag\" must be true or false"},
        {"{\"object\":[]}", "\"object\" must be an object"},
        {"{\"object\":{},\"array\":{}}", "\"array\" must be an array"},
        {"{\"object\":{},\"string\":1}", "\"string\" must be a string, or null"},
        {"{\"object\":{},\"word\":\"Running\"}",
         "\"word\" must be one of \"running\", \"standby\""},
        {"{\"object\":{},\"word\":0}", "\"word\" must be one of \"running\", \"standby\""},
        {"{\"object\":{},\"object\":{}}", "member \"object\" is given twice"},
        {"{\"object\":{},\"\\u006fbject\":{}}", "member \"object\" is given twice"},
        {"{\"Object\":{}}", "unknown member \"Object\" (known are: flag, number, string, word, "
                            "object, array)"},
        {"{\"a\\nb\\u009bc\xC3\xA4\":0}", "unknown member \"a?b??c\xC3\xA4\" (known are: flag, "
                                          "number, string, word, object, array)"},
    };

    (void)state;
    for (size_t i = 0; i < array_length(bad); i++) {
        struct settings settings;
        struct error err = {0};
        auto_json cJSON *json = NULL;
        assert_int_equal(read_text(bad[i].text, &settings, &json, &err), -EINVAL);
        assert_string_equal(err.text, bad[i].why);
        free(settings.string);
    }
}

static void read_when_a_number_is_not_whole_or_out_of_range_is_refused(void **state)
{
    static const char *const bad[] = {"-6",    "30001", "1.5",   "\"5\"",
                                      "1e400", "true",  "-1e19", "9223372036854775808"};
    static const char *const good[] = {"-5", "30000", "2500.0", "3e4", "-0"};

    (void)state;
    for (size_t i = 0; i < array_length(bad) + array_length(good); i++) {
        bool is_bad = i < array_length(bad);
        const char *number = is_bad ? bad[i] : good[i - array_length(bad)];
        char text[64];
        snprintf(text, sizeof text, "{\"object\":{},\"number\":%s}", number);
        struct settings settings;
        struct error err = {0};
        auto_json cJSON *json = NULL;
        assert_int_equal(read_text(text, &settings, &json, &err), is_bad ? -EINVAL : 0);
        if (is_bad)
            assert_string_equal(err.text, "\"number\" must be a whole number from -5 to 30000");
        free(settings.string);
    }
}

static void read_when_a_number_is_beyond_what_a_double_can_tell_is_refused(void **state)
{
    int64_t number = 0;
    const struct json_field field = {"n", JSON_INTEGER, .min = INT64_MIN, .max = INT64_MAX};
    static const struct {
        const char *text;
        int result;
    } cases[] = {{"{\"n\":9007199254740992}", 0},
                 {"{\"n\":-9007199254740992}", 0},
                 {"{\"n\":9007199254740994}", -EINVAL},
                 {"{\"n\":-9223372036854775808}", -EINVAL}};

    (void)state;
    for (size_t i = 0; i < array_length(cases); i++) {
        auto_json cJSON *json = NULL;
        assert_int_equal(json_parse(cases[i].text, strlen(cases[i].text), &json, NULL), 0);
        assert_int_equal(json_read(json, &field, 1, &number, NULL), cases[i].result);
    }
}

static void read_when_a_members_name_is_endless_cuts_it_between_characters(void **state)
{
    char text[400] = "{\"x";
    struct error err = {0};
    auto_json cJSON *json = NULL;
    struct settings settings;

    (void)state;
    for (size_t i = 3; i < 303; i += 2)
        memcpy(text + i, "\xC3\xA4", 2);
    memcpy(text + 303, "\":0}", 5);
    assert_int_equal(read_text(text, &settings, &json, &err), -EINVAL);
    free(settings.string);
    assert_true(utf8_valid(err.text, strlen(err.text)));
    assert_non_null(strstr(err.text, "\xC3\xA4…\" (known are"));
    assert_true(strlen(err.text) < 200);
}

static void read_when_it_is_no_object_is_refused(void **state)
{
    auto_json cJSON *json = cJSON_CreateArray();
    struct error err = {0};

    (void)state;
    assert_int_equal(json_read(json, fields, 0, NULL, &err), -EINVAL);
    assert_int_equal(json_read(NULL, fields, 0, NULL, &err), -EINVAL);
}

static void parse_when_text_is_wrong_gives_line_and_column(void **state)
{
    cJSON *json = NULL;
    struct error err = {0};

    (void)state;
    assert_int_equal(json_parse("{\"a\":\n  x}", 10, &json, &err), -EINVAL);
    assert_string_equal(err.text, "line 2, column 3: a value is expected here");
    assert_int_equal(json_parse("{\"a\":", 5, &json, &err), -EINVAL);
    assert_string_equal(err.text, "line 1, column 6: the JSON object ends too early");
    assert_int_equal(json_parse("", 0, &json, &err), -EINVAL);
    assert_null(json);
}

static void parse_when_a_nul_is_escaped_is_refused(void **state)
{
    static const char *const bad[] = {"{\"a\":\"\\u0000\"}", "{\"\\u0000\":1}",
                                      "{\"a\":[{\"b\":\"x\\\\\\u0000\"}]}"};
    static const char *const good[] = {"{\"a\":\"\\\\u0000\"}", "{\"a\":\"\\u00000\\u0001\"}"};
    struct error err = {0};

    (void)state;
    for (size_t i = 0; i < array_length(bad); i++) {
        cJSON *json = NULL;
        assert_int_equal(json_parse(bad[i], strlen(bad[i]), &json, &err), -EINVAL);
        assert_null(json);
        assert_non_null(strstr(err.text, "\\u0000"));
    }
    auto_json cJSON *json = NULL;
    assert_int_equal(json_parse(good[0], strlen(good[0]), &json, &err), 0);
    assert_string_equal(cJSON_GetObjectItemCaseSensitive(json, "a")->valuestring, "\\u0000");
    cJSON *none = NULL;
    assert_int_equal(json_parse(good[1], strlen(good[1]), &none, &err), -EINVAL);
}

static void parse_when_the_text_is_not_ended_by_a_nul_stays_inside(void **state)
{
    static const char text[] = {'{', '"', 'a', '"', ':', '1', '}'};
    auto_free char *copy = malloc(sizeof text); /* so that sanitizers see a read beyond */
    auto_json cJSON *json = NULL;

    (void)state;
    assert_non_null(copy);
    memcpy(copy, text, sizeof text);
    assert_int_equal(json_parse(copy, sizeof text, &json, NULL), 0);
    assert_true(cJSON_HasObjectItem(json, "a"));
}

static void print_when_called_indents_by_two_spaces_and_ends_with_a_newline(void **state)
{
    static const char text[] = "{\"a\":{\"b\":\"x\\ty\"},\"offset\":159322112,\"c\":[1,2]}";
    auto_json cJSON *json = NULL;

    (void)state;
    assert_int_equal(json_parse(text, strlen(text), &json, NULL), 0);
    auto_free char *printed = json_print(json);
    assert_string_equal(printed, "{\n  \"a\": {\n    \"b\": \"x\\ty\"\n  },\n"
                                 "  \"offset\": 159322112,\n  \"c\": [1, 2]\n}\n");
}

#define NINES "999999999"

static void text_that_is_json_and_cannot_be_read_is_told_with_its_place(void **state)
{
    static const struct {
        const char *text, *why;
    } bad[] = {
        {"{\"a\":\n \"x\\ud800\"}", "line 2, column 4: half of a \\u surrogate pair"},
        {"{\"\\udc00\":1}", "line 1, column 3: half of a \\u surrogate pair"},
        {"{\"\\ud800\\n\":1}", "line 1, column 3: half of a \\u surrogate pair"},
        {"{\"\\ud800\\ud800\":1}", "line 1, column 3: half of a \\u surrogate pair"},
        {"{\"a\":[\n\"\\\"\\u0000\"]}", "line 2, column 4: \\u0000 is not allowed"},
        {"{\"a\":-" NINES NINES NINES NINES NINES NINES NINES "}",
         "line 1, column 6: a number of over 63 characters"},
    };
    static const char *const good[] = {
        "{\"\\ud83d\\ude00\":\"\\\\ud800\"}",
        "{\"a\":" NINES NINES NINES NINES NINES NINES NINES "}",
        "{\"a\":\"" NINES NINES NINES NINES NINES NINES NINES NINES "\"}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cJSON *json = NULL;
        struct error err;
        assert_int_equal(json_parse(bad[i].text, strlen(bad[i].text), &json, &err), -EINVAL);
        if (!strstr(err.text, bad[i].why))
            fail_msg("%s: %s", bad[i].text, err.text);
    }
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        cJSON *json = NULL;
        assert_int_equal(json_parse(good[i], strlen(good[i]), &json, NULL), 0);
        cJSON_Delete(json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(read_when_all_members_are_given_sets_them),
        cmocka_unit_test(read_when_members_are_left_out_or_null_keeps_what_was_there),
        cmocka_unit_test(read_when_a_member_is_wrong_names_it_and_what_is_allowed),
        cmocka_unit_test(read_when_a_number_is_not_whole_or_out_of_range_is_refused),
        cmocka_unit_test(read_when_a_number_is_beyond_what_a_double_can_tell_is_refused),
        cmocka_unit_test(read_when_a_members_name_is_endless_cuts_it_between_characters),
        cmocka_unit_test(read_when_it_is_no_object_is_refused),
        cmocka_unit_test(parse_when_text_is_wrong_gives_line_and_column),
        cmocka_unit_test(parse_when_a_nul_is_escaped_is_refused),
        cmocka_unit_test(parse_when_the_text_is_not_ended_by_a_nul_stays_inside),
        cmocka_unit_test(print_when_called_indents_by_two_spaces_and_ends_with_a_newline),
        cmocka_unit_test(text_that_is_json_and_cannot_be_read_is_told_with_its_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
