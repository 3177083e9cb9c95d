/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test.h"
#include "util/cleanup.h"
#include "util/meminfo.h"

/* 0 to 100, or -errno. */
static int available(const char *text)
{
    char path[] = "/tmp/hypefs-meminfo-XXXXXX";
    auto_close int fd = mkstemp(path);
    int percent = -1;
    struct error err = {0};
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    int r = meminfo_available(path, &percent, &err);
    assert_int_equal(unlink(path), 0);
    assert_true(r == 0 || strstr(err.text, path));
    return r < 0 ? r : percent;
}

static void available_of_a_host_is_a_part_of_its_total(void **state)
{
    (void)state;
    assert_int_equal(available("MemTotal: 2000 kB\nMemFree: 9 kB\nMemAvailable: 99 kB\n"), 4);
    assert_int_equal(available("MemTotal: 2000 kB\nMemAvailable: 100 kB\n"), 5);
    assert_int_equal(available("MemTotal: 2000 kB\nMemAvailable: 2000 kB\n"), 100);
    assert_int_equal(available("MemTotal: 2000 kB\nMemAvailable: 0 kB\n"), 0);
}

static void file_that_does_not_tell_is_refused(void **state)
{
    static const char *const texts[] = {"",
                                        "MemTotal: 1 kB\n",
                                        "MemAvailable: 1 kB\n",
                                        "MemTotal: 0 kB\nMemAvailable: 0 kB\n",
                                        "MemTotal: 1 kB\nMemAvailable: 2 kB\n",
                                        "MemTotal: x\nMemAvailable: 2 kB\n"};
    struct error err;
    int percent;
    (void)state;
    for (size_t i = 0; i < array_length(texts); i++)
        assert_int_equal(available(texts[i]), -EINVAL);
    assert_int_equal(meminfo_available("/nowhere", &percent, &err), -EIO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(available_of_a_host_is_a_part_of_its_total),
        cmocka_unit_test(file_that_does_not_tell_is_refused),
    };
    return cmocka_run_group_tests_name("meminfo", tests, NULL, NULL);
}
