/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "test.h"
#include "util/error.h"

static void error_set_when_called_keeps_code_and_text(void **state)
{
    struct error err = {0};

    (void)state;
    assert_int_equal(error_set(&err, EFBIG, "%d of %d", 5, 4), -EFBIG);
    assert_int_equal(err.code, EFBIG);
    assert_string_equal(err.text, "5 of 4");
}

static void error_errno_when_called_adds_the_systems_words(void **state)
{
    struct error err = {0};

    (void)state;
    assert_int_equal(error_errno(&err, ENOENT, "open %s", "x"), -ENOENT);
    assert_string_equal(err.text, "open x: No such file or directory");
}

static void error_prefix_when_called_puts_words_before_and_keeps_the_code(void **state)
{
    struct error err = {0};

    (void)state;
    error_set(&err, EIO, "short read");
    assert_int_equal(error_prefix(&err, -EIO, "image %s", "m"), -EIO);
    assert_int_equal(error_prefix(&err, 7, "scan"), 7);
    assert_int_equal(err.code, EIO);
    assert_string_equal(err.text, "scan: image m: short read");
}

static void error_functions_when_err_is_null_return_the_number(void **state)
{
    (void)state;
    assert_int_equal(error_set(NULL, EINVAL, "x"), -EINVAL);
    assert_int_equal(error_errno(NULL, EPERM, "x"), -EPERM);
    assert_int_equal(error_prefix(NULL, -EIO, "x"), -EIO);
}

static void error_texts_when_too_long_are_cut_and_ended(void **state)
{
    struct error err = {0};
    char longer[2 * ERROR_TEXT_SIZE];

    (void)state;
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    error_set(&err, EINVAL, "%s", longer);
    assert_int_equal(strlen(err.text), ERROR_TEXT_SIZE - 1);
    error_errno(&err, EINVAL, "%s", longer);
    assert_int_equal(strlen(err.text), ERROR_TEXT_SIZE - 1);
    error_prefix(&err, -EINVAL, "%s", longer);
    assert_int_equal(strlen(err.text), ERROR_TEXT_SIZE - 1);
    error_set(&err, EINVAL, "%s", "tail");
    error_prefix(&err, -EINVAL, "%s", longer + sizeof longer - ERROR_TEXT_SIZE + 4);
    assert_int_equal(strlen(err.text), ERROR_TEXT_SIZE - 1);
    assert_string_equal(err.text + ERROR_TEXT_SIZE - 5, ": ta");
}

static void error_texts_when_cut_end_with_a_whole_character(void **state)
{
    struct error err = {0};
    char longer[2 * ERROR_TEXT_SIZE];

    (void)state;
    for (size_t before = 0; before < 3; before++) {
        memset(longer, 'a', before);
        for (size_t i = before; i + 3 < sizeof longer; i += 3)
            memcpy(longer + i, "\xE2\x82\xAC", 4);
        error_set(&err, EINVAL, "%s", longer);
        assert_int_equal((strlen(err.text) - before) % 3, 0);
        assert_true(strlen(err.text) > ERROR_TEXT_SIZE - 4);
        error_prefix(&err, 0, "a%s", "");
        assert_int_equal((strlen(err.text) - before) % 3, 0);
    }
}

/* By a precision, say: not at the end of the text. */
static void error_texts_when_words_in_them_were_cut_are_utf8(void **state)
{
    static const struct {
        const char *words, *shown;
    } cases[] = {
        {"a\xC3\xA4", "a\xC3\xA4"},
        {"a\xC3", "a?"},
        {"a\xE2\x82", "a??"},
        {"\xF0\x9F\x98", "???"},
        {"\xC3\xE2\x82\xAC", "?\xE2\x82\xAC"},
        {"\xC0\xAF", "??"},
    };
    struct error err = {0};
    char wanted[64];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        error_set(&err, EIO, "%s; and", cases[i].words);
        snprintf(wanted, sizeof wanted, "%s; and", cases[i].shown);
        assert_string_equal(err.text, wanted);
        error_set(&err, EIO, "x");
        error_prefix(&err, 0, "%s", cases[i].words);
        snprintf(wanted, sizeof wanted, "%s: x", cases[i].shown);
        assert_string_equal(err.text, wanted);
        error_append(&err, "%s.", cases[i].words);
        snprintf(wanted, sizeof wanted, "%s: x%s.", cases[i].shown, cases[i].shown);
        assert_string_equal(err.text, wanted);
    }
    error_set(&err, EIO, "%.2s", "a\xC3\xA4"); /* at the end it is left out */
    assert_string_equal(err.text, "a");
    error_set(&err, EIO, "%.3s", "a\xE2\x82\xAC");
    assert_string_equal(err.text, "a");
}

static void error_name_when_known_is_the_macros_name(void **state)
{
    (void)state;
    assert_string_equal(error_name(EKEYREJECTED), "EKEYREJECTED");
    assert_string_equal(error_name(ENOTUNIQ), "ENOTUNIQ");
    assert_string_equal(error_name(99999), "E?");
}

static void error_texts_when_words_would_move_a_terminal_are_escaped(void **state)
{
    static const char words[] = "\x1b[2J\n\xC2\x9B\xE2\x80\xAE",
                      shown[] = "\\u001b[2J\\u000a\\u009b\\u202e";
    struct error err = {0};
    char wanted[128];
    (void)state;
    error_set(&err, EIO, "%s", words);
    assert_string_equal(err.text, shown);
    error_append(&err, " %s", words);
    error_prefix(&err, 0, "%s", words);
    snprintf(wanted, sizeof wanted, "%s: %s %s", shown, shown, shown);
    assert_string_equal(err.text, wanted);
    error_errno(&err, ENOENT, "%s", words);
    snprintf(wanted, sizeof wanted, "%s: No such file or directory", shown);
    assert_string_equal(err.text, wanted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_set_when_called_keeps_code_and_text),
        cmocka_unit_test(error_errno_when_called_adds_the_systems_words),
        cmocka_unit_test(error_prefix_when_called_puts_words_before_and_keeps_the_code),
        cmocka_unit_test(error_functions_when_err_is_null_return_the_number),
        cmocka_unit_test(error_texts_when_too_long_are_cut_and_ended),
        cmocka_unit_test(error_texts_when_cut_end_with_a_whole_character),
        cmocka_unit_test(error_texts_when_words_in_them_were_cut_are_utf8),
        cmocka_unit_test(error_texts_when_words_would_move_a_terminal_are_escaped),
        cmocka_unit_test(error_name_when_known_is_the_macros_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
