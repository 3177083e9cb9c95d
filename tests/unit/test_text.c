/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_when_made_printable_has_no_controls_and_is_utf8),
        cmocka_unit_test(text_when_made_utf8_has_whole_characters_only),
    };
    return cmocka_run_group_tests_name("text", tests, NULL, NULL);
}
