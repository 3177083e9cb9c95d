/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "test.h"
#include "util/cleanup.h"
#include "util/error.h"
#include "util/limit.h"

/* What an errno's text names: the limit, and what raises it. */
static const struct {
    int code;
    const char *names[2];
} explained[] = {
    {EMFILE, {"RLIMIT_NOFILE", "LimitNOFILE="}},
    {ENFILE, {"fs.file-max", "sysctl"}},
    {EAGAIN, {"RLIMIT_NPROC", "TasksMax="}},
    {ENOMEM, {"RLIMIT_AS", "memory.max"}},
    {EFBIG, {"RLIMIT_FSIZE", "no files that large"}},
    {ENOSPC, {"inodes", "df -i"}},
    {EDQUOT, {"quota", "quota -s"}},
    {EROFS, {"read-only", "remount,rw"}},
    {EMLINK, {"hard links", "snapshot"}},
};

static void errno_of_a_limit_is_told_with_its_name_and_the_remedy(void **state)
{
    (void)state;
    for (size_t i = 0; i < array_length(explained); i++) {
        struct error err = {0};
        assert_int_equal(error_errno(&err, explained[i].code, "x"), -explained[i].code);
        assert_int_equal(err.code, explained[i].code);
        for (size_t j = 0; j < 2; j++)
            if (!strstr(err.text, explained[i].names[j]))
                fail_msg("%s is not in \"%s\"", explained[i].names[j], err.text);
        assert_true(limit_is(explained[i].code));
        assert_int_equal(limit_or_io(-explained[i].code), -explained[i].code);
        assert_int_equal(error_io(&err, explained[i].code, "x"), -explained[i].code);
        assert_int_equal(err.code, explained[i].code);
    }
}

static void errno_of_no_limit_is_told_as_it_is_or_as_damage(void **state)
{
    static const int codes[] = {ENOENT, EIO, EACCES, EINVAL, ENOTCONN};
    char text[LIMIT_TEXT_SIZE];
    struct error err;
    (void)state;
    for (size_t i = 0; i < array_length(codes); i++) {
        limit_explain(codes[i], text);
        assert_string_equal(text, "");
        assert_false(limit_is(codes[i]));
        assert_int_equal(limit_or_io(-codes[i]), -EIO);
        assert_int_equal(error_io(&err, codes[i], "x"), -EIO);
        assert_int_equal(err.code, EIO);
        assert_non_null(strstr(err.text, strerrordesc_np(codes[i])));
    }
}

static void limit_when_told_has_its_value(void **state)
{
    struct rlimit before, low;
    char text[LIMIT_TEXT_SIZE];
    (void)state;
    getrlimit(RLIMIT_NOFILE, &before);
    low = (struct rlimit){123, before.rlim_max};
    setrlimit(RLIMIT_NOFILE, &low);
    limit_explain(EMFILE, text);
    setrlimit(RLIMIT_NOFILE, &before);
    assert_non_null(strstr(text, " 123 files"));
}

static void text_when_handed_on_has_the_explanation_once(void **state)
{
    struct error err, outer;
    (void)state;
    error_set(&err, ENOMEM, "out of memory");
    error_set(&outer, err.code, "%s", err.text);
    const char *first = strstr(outer.text, "RLIMIT_AS");
    assert_non_null(first);
    assert_null(strstr(first + 1, "RLIMIT_AS"));
}

static void size_of_files_when_limited_has_the_value_and_the_remedy(void **state)
{
    struct rlimit before, low;
    char text[LIMIT_TEXT_SIZE];
    (void)state;
    getrlimit(RLIMIT_FSIZE, &before);
    low = (struct rlimit){1 << 30, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &low);
    limit_explain(EFBIG, text);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_non_null(strstr(text, " 1073741824 bytes"));
    assert_non_null(strstr(text, "LimitFSIZE="));
}

/* No value is named as the reason that is none. */
static void limit_when_there_is_none_says_so(void **state)
{
    static const int codes[] = {EFBIG, ENOMEM};
    char text[LIMIT_TEXT_SIZE];
    (void)state;
    for (size_t i = 0; i < array_length(codes); i++) {
        limit_explain(codes[i], text);
        assert_non_null(strstr(text, "has no limit"));
        assert_null(strstr(text, "unlimited"));
        assert_null(strstr(text, "raise"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errno_of_a_limit_is_told_with_its_name_and_the_remedy),
        cmocka_unit_test(errno_of_no_limit_is_told_as_it_is_or_as_damage),
        cmocka_unit_test(limit_when_told_has_its_value),
        cmocka_unit_test(size_of_files_when_limited_has_the_value_and_the_remedy),
        cmocka_unit_test(limit_when_there_is_none_says_so),
        cmocka_unit_test(text_when_handed_on_has_the_explanation_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
