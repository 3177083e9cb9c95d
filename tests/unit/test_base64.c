/* SPDX-License-Identifier: MIT */
#include "util/base64.h"

#include <string.h>

#include "test.h"

/* RFC 4648, 10. */
static const struct {
    const char *bytes, *text;
} known[] = {{"", ""},
             {"f", "Zg=="},
             {"fo", "Zm8="},
             {"foo", "Zm9v"},
             {"foob", "Zm9vYg=="},
             {"fooba", "Zm9vYmE="},
             {"foobar", "Zm9vYmFy"}};

static void bytes_become_text_and_bytes_again(void **state)
{
    char text[16];
    uint8_t bytes[16];
    size_t size;
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        base64_encode((const uint8_t *)known[i].bytes, strlen(known[i].bytes), text);
        assert_string_equal(text, known[i].text);
        assert_int_equal(base64_length(strlen(known[i].bytes)), strlen(text));
        assert_true(base64_decode(text, strlen(text), bytes, &size));
        assert_int_equal(size, strlen(known[i].bytes));
        assert_memory_equal(bytes, known[i].bytes, size);
    }
}

static void every_byte_has_its_text(void **state)
{
    uint8_t bytes[256], decoded[256];
    char text[400];
    size_t size;
    (void)state;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)i;
    base64_encode(bytes, sizeof bytes, text);
    assert_true(base64_decode(text, strlen(text), decoded, &size));
    assert_int_equal(size, sizeof bytes);
    assert_memory_equal(decoded, bytes, size);
    /* In place, as the agent does. */
    assert_true(base64_decode(text, strlen(text), (uint8_t *)text, &size));
    assert_memory_equal(text, bytes, sizeof bytes);
}

static void text_that_nothing_becomes_is_refused(void **state)
{
    static const char *const wrong[] = {"Z",    "Zg",   "Zg=",  "Zg==Zg==", "Z===",
                                        "====", "Zh==", "Zm9=", "Zm8\n",    "Zm 8",
                                        "Zm9-", "=Zm8", "Zm=v", "Zg==\n",   "Zg==Zm8="};
    uint8_t bytes[16];
    size_t size;
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (base64_decode(wrong[i], strlen(wrong[i]), bytes, &size))
            fail_msg("%s was taken", wrong[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_become_text_and_bytes_again),
        cmocka_unit_test(every_byte_has_its_text),
        cmocka_unit_test(text_that_nothing_becomes_is_refused),
    };
    return cmocka_run_group_tests_name("base64", tests, NULL, NULL);
}
