/* SPDX-License-Identifier: MIT */
#include "test.h"
#include "util/hex.h"

static void digit_is_one_of_either_case_and_nothing_else(void **state)
{
    (void)state;
    int digits = 0;
    for (int c = -128; c < 128; c++)
        digits += hex_digit((char)c) >= 0;
    assert_int_equal(digits, 22);
    assert_int_equal(hex_digit('0'), 0);
    assert_int_equal(hex_digit('9'), 9);
    assert_int_equal(hex_digit('a'), 10);
    assert_int_equal(hex_digit('F'), 15);
}

static void encode_is_lower_case_and_decode_takes_it_back(void **state)
{
    static const uint8_t bytes[] = {0, 1, 0x7F, 0xAB, 0xFF};
    char text[2 * sizeof bytes + 1];
    uint8_t back[sizeof bytes];
    size_t size = 0;
    (void)state;
    hex_encode(bytes, sizeof bytes, text);
    assert_string_equal(text, "00017fabff");
    assert_true(hex_decode(text, back, sizeof back, &size));
    assert_int_equal(size, sizeof bytes);
    assert_memory_equal(back, bytes, sizeof bytes);
    assert_true(hex_decode("aBCd", back, sizeof back, &size));
    assert_int_equal(size, 2);
    assert_int_equal(back[1], 0xCD);
    hex_encode(bytes, 0, text);
    assert_string_equal(text, "");
    assert_true(hex_decode("", back, 0, &size));
    assert_int_equal(size, 0);
}

static void decode_when_it_is_no_such_text_is_refused(void **state)
{
    static const char *const texts[] = {"0", "0g", "g0", "00 ", " 000", "0x00", "00000000", "--"};
    uint8_t bytes[3];
    size_t size = 77;
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_false(hex_decode(texts[i], bytes, sizeof bytes, &size));
    assert_int_equal(size, 77);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(digit_is_one_of_either_case_and_nothing_else),
        cmocka_unit_test(encode_is_lower_case_and_decode_takes_it_back),
        cmocka_unit_test(decode_when_it_is_no_such_text_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
