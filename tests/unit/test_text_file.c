/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "test.h"
#include "util/cleanup.h"
#include "util/text_file.h"

static void text_when_written_is_read_back(void **state)
{
    auto_close int fd = memfd_create("text", MFD_CLOEXEC);
    auto_free char *text = NULL;
    size_t size = 0;
    (void)state;
    assert_int_equal(text_file_write(fd, "one", 3), 0);
    assert_int_equal(text_file_write(fd, " two", 4), 0);
    assert_int_equal(text_file_read(fd, 7, &text, &size), 0);
    assert_int_equal(size, 7);
    assert_string_equal(text, "one two");
}

static void text_when_it_cannot_be_had_says_why(void **state)
{
    auto_close int fd = memfd_create("text", MFD_CLOEXEC), folder = open("/", O_RDONLY | O_CLOEXEC);
    auto_close int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    char *text = NULL;
    size_t size = 0;
    (void)state;
    assert_int_equal(text_file_write(fd, "12345678", 8), 0);
    assert_int_equal(text_file_read(fd, 7, &text, &size), -EFBIG);
    assert_int_equal(text_file_read(folder, 7, &text, &size), -EINVAL);
    assert_int_equal(text_file_read(-1, 7, &text, &size), -EBADF);
    assert_int_equal(text_file_write(full, "x", 1), -ENOSPC);
    assert_null(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_when_written_is_read_back),
        cmocka_unit_test(text_when_it_cannot_be_had_says_why),
    };
    return cmocka_run_group_tests_name("text_file", tests, NULL, NULL);
}
