/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "hypervisor/firecracker_format.h"
#include "util/cleanup.h"

#define X86 "\x00\x00\x64\x86\x84\x19\x10\x07"
#define ARM "\x00\x00\xaa\xaa\x84\x19\x10\x07"
#define BYTES(text) (const uint8_t *)(text), sizeof(text) - 1

static void head_of_each_encoding_tells_the_format(void **state)
{
    static const struct {
        const uint8_t *bytes;
        size_t size;
        const char *architecture;
        unsigned major, minor;
    } cases[] = {
        {BYTES(X86 "\5\0\0\0\0\0\0\0"
                   "8.0.0 and so on"),
         "x86-64", 8, 0},
        {BYTES("\0" X86 "\6"
               "10.2.0 and so on"),
         "x86-64", 10, 2},
        {BYTES("\0" ARM "\6"
               "11.0.0"),
         "arm64", 11, 0},
        /* Heads that tell no format. */
        {BYTES(X86), "x86-64", 0, 0},
        {BYTES("\0" X86), "x86-64", 0, 0},
        {BYTES(X86 "{\"version\":\"1.7.0\"}"), "x86-64", 0, 0},
        {BYTES(X86 "\xff\xff\xff\xff\xff\xff\xff\xff"
                   "8.0.0"),
         "x86-64", 0, 0},
        {BYTES("\0" X86 "\6"
               "10."),
         "x86-64", 0, 0},
        {BYTES("\0" X86 "\3"
               "new"),
         "x86-64", 0, 0},
    };
    (void)state;
    for (size_t i = 0; i < array_length(cases); i++) {
        struct firecracker_head head;
        assert_true(firecracker_head_read(cases[i].bytes, cases[i].size, &head));
        assert_string_equal(head.architecture, cases[i].architecture);
        assert_false(head.old);
        assert_int_equal(head.format.major, cases[i].major);
        assert_int_equal(head.format.minor, cases[i].minor);
    }
}

static void what_is_no_head_is_none(void **state)
{
    struct firecracker_head head;
    (void)state;
    assert_false(firecracker_head_read(BYTES(""), &head));
    assert_false(firecracker_head_read(BYTES("\x00\x00\x64\x86\x84\x19\x10"), &head));
    assert_false(firecracker_head_read(BYTES("\1" X86 "\6"
                                             "10.0.0"),
                                       &head));
    assert_true(firecracker_head_read(BYTES("\x01\x00\x64\x86\x84\x19\x10\x07"), &head));
    assert_true(head.old);
}

static void format_fits_if_firecracker_says_so_or_nobody_knows(void **state)
{
    const struct firecracker_version none = {0}, ten = {10, 1};
    (void)state;
    assert_true(firecracker_format_fits(ten, firecracker_format_parse("v10.1.0")));
    assert_true(firecracker_format_fits(ten, firecracker_format_parse("v10.2.0")));
    assert_false(firecracker_format_fits(ten, firecracker_format_parse("v10.0.0")));
    assert_false(firecracker_format_fits(ten, firecracker_format_parse("11.1.0")));
    assert_true(firecracker_format_fits(ten, firecracker_format_parse("unknown option")));
    assert_true(firecracker_format_fits(none, ten));
}

static void releases_are_known_by_the_major_version(void **state)
{
    (void)state;
    assert_string_equal(firecracker_format_releases((struct firecracker_version){8, 0}),
                        "1.13 or 1.14");
    assert_string_equal(firecracker_format_releases((struct firecracker_version){10, 3}), "1.16");
    assert_null(firecracker_format_releases((struct firecracker_version){0}));
    assert_null(firecracker_format_releases((struct firecracker_version){7, 0}));
    assert_null(firecracker_format_releases((struct firecracker_version){UINT32_MAX, 0}));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(head_of_each_encoding_tells_the_format),
        cmocka_unit_test(what_is_no_head_is_none),
        cmocka_unit_test(format_fits_if_firecracker_says_so_or_nobody_knows),
        cmocka_unit_test(releases_are_known_by_the_major_version),
    };
    return cmocka_run_group_tests_name("firecracker_format", tests, NULL, NULL);
}
