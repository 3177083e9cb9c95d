/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "test.h"
#include "util/cleanup.h"
#include "util/text.h"

static void text_when_made_printable_has_no_controls_and_is_utf8(void **state)
{
    static const struct {
        const char *before, *after;
    } cases[] = {
        {"", ""},
        {"plain words", "plain words"},
        {"a\nb\tc\x1b[2J\x7F", "a?b?c?[2J?"},
        {"\xE2\x82\xAC stays", "\xE2\x82\xAC stays"},
        {"\xC2\x9B[2J \xC2\xA0", "??[2J \xC2\xA0"},
        {"\xE2\x82 cut", "?? cut"},
        {"\xE2\x82\xAC but \xFF", "??? but ?"},
    };
    (void)state;
    for (size_t i = 0; i < array_length(cases); i++) {
        char text[64];
        strcpy(text, cases[i].before);
        text_make_printable(text, strlen(text), '?');
        assert_string_equal(text, cases[i].after);
    }
}

static void text_when_made_utf8_has_whole_characters_only(void **state)
{
    static const struct {
        const char *before, *after;
    } cases[] = {
        {"", ""},
        {"\xE2\x82\xAC\n\x1b", "\xE2\x82\xAC\n\x1b"},
        {"cut \xE2\x82", "cut "},
        {"cut \xF0\x9F\x98", "cut "},
        {"\xC3", ""},
        {"\x82\xAC", "??"},
        {"\xE2\x82 and \xC3\xA4 and \xFF", "?? and \xC3\xA4 and "},
        {"\xED\xA0\x80!", "???"
                          "!"},
    };
    (void)state;
    for (size_t i = 0; i < array_length(cases); i++) {
        char text[64];
        strcpy(text, cases[i].before);
        text_make_utf8(text);
        assert_string_equal(text, cases[i].after);
    }
}

static void text_when_escaped_moves_no_terminal(void **state)
{
    static const struct {
        const char *before, *after;
    } cases[] = {
        {"", ""},
        {"plain words \xC3\xA4 \xE2\x82\xAC \xF0\x9F\x90\xA7", NULL},
        {"\x1b[2J\x07\x7F", "\\u001b[2J\\u0007\\u007f"},
        {"a\tb\nc\r", "a\\u0009b\nc\\u000d"},
        {"\xC2\x80\xC2\x9B\xC2\x9F\xC2\xA0", "\\u0080\\u009b\\u009f\xC2\xA0"},
        {"\xE2\x80\xA7\xE2\x80\xA8\xE2\x80\xA9\xE2\x80\xAA\xE2\x80\xAE\xE2\x80\xAF",
         "\xE2\x80\xA7\\u2028\\u2029\\u202a\\u202e\xE2\x80\xAF"},
        {"\xE2\x81\xA5\xE2\x81\xA6\xE2\x81\xA9\xE2\x81\xAA",
         "\xE2\x81\xA5\\u2066\\u2069\xE2\x81\xAA"},
        {"\xFF\x9B \xE2\x82", "?? ??"},
        {"\\u001b", NULL},
    };
    (void)state;
    for (size_t i = 0; i < array_length(cases); i++) {
        const char *wanted = cases[i].after ? cases[i].after : cases[i].before;
        auto_free char *once = text_escaped(cases[i].before, strlen(cases[i].before), "\n");
        auto_free char *twice = text_escaped(once, strlen(once), "\n");
        assert_string_equal(once, wanted);
        assert_string_equal(twice, wanted);
    }
    auto_free char *nul = text_escaped("a\0b", 3, "");
    assert_string_equal(nul, "a\\u0000b");
}

static void text_when_escaped_without_room_is_cut_between_characters(void **state)
{
    static const char text[] = "a\xE2\x82\xAC\x1b!", whole[] = "a\xE2\x82\xAC\\u001b!";
    (void)state;
    for (size_t room = 1; room <= sizeof whole; room++) {
        char ret[sizeof whole];
        assert_int_equal(text_escape(text, strlen(text), "", ret, room), strlen(whole));
        size_t length = room - 1 < 1 ? 0 : room - 1 < 4 ? 1 : room - 1 < 10 ? 4 : room - 1;
        assert_int_equal(strlen(ret), length);
        assert_memory_equal(ret, whole, length);
    }
    assert_int_equal(text_escape(text, strlen(text), "", NULL, 0), strlen(whole));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_when_made_printable_has_no_controls_and_is_utf8),
        cmocka_unit_test(text_when_escaped_moves_no_terminal),
        cmocka_unit_test(text_when_escaped_without_room_is_cut_between_characters),
        cmocka_unit_test(text_when_made_utf8_has_whole_characters_only),
    };
    return cmocka_run_group_tests_name("text", tests, NULL, NULL);
}
