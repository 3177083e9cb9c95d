/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "util/copy.h"
#include "vmm_fixture.h"

enum { MIB = 1 << 20, SIZE = 16 * MIB, DATA_AT = 5 * MIB };

static int make(const struct fixture *fixture, const char *name)
{
    int fd = openat(fixture->base_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    return fd;
}

static void assert_same(int a, int b)
{
    static char left[MIB], right[MIB];
    for (off_t offset = 0; offset < SIZE; offset += MIB) {
        assert_int_equal(pread(a, left, MIB, offset), MIB);
        assert_int_equal(pread(b, right, MIB, offset), MIB);
        assert_memory_equal(left, right, MIB);
    }
}

static void copy_when_the_file_has_holes_leaves_them_out(void **state)
{
    struct fixture *fixture = *state;
    auto_close int from = make(fixture, "from"), to = make(fixture, "to");
    struct error err = {0};
    struct stat file;
    assert_int_equal(ftruncate(from, SIZE), 0);
    assert_int_equal(pwrite(from, "begin", 5, 0), 5);
    for (int i = 0; i < 3; i++) /* more than one chunk */
        assert_int_equal(pwrite(from, "data", 4, DATA_AT + i * MIB), 4);
    assert_int_equal(copy_file(from, to, -1, &err), 0);
    assert_int_equal(fstat(to, &file), 0);
    assert_int_equal(file.st_size, SIZE);
    assert_true(file.st_blocks * 512 < SIZE / 2);
    assert_same(from, to);
    /* What is written to one does not show in the other. */
    assert_int_equal(pwrite(to, "other", 5, 0), 5);
    char text[5];
    assert_int_equal(pread(from, text, 5, 0), 5);
    assert_memory_equal(text, "begin", 5);
}

static void copy_of_an_empty_file_is_empty(void **state)
{
    struct fixture *fixture = *state;
    auto_close int from = make(fixture, "from"), to = make(fixture, "to");
    struct error err = {0};
    struct stat file;
    assert_int_equal(copy_file(from, to, -1, &err), 0);
    assert_int_equal(fstat(to, &file), 0);
    assert_int_equal(file.st_size, 0);
}

static void copy_when_it_cannot_be_written_says_so(void **state)
{
    struct fixture *fixture = *state;
    auto_close int from = make(fixture, "from"), made = make(fixture, "to");
    auto_close int to = openat(fixture->base_fd, "to", O_RDONLY | O_CLOEXEC);
    struct error err = {0};
    assert_int_equal(write(from, "x", 1), 1);
    assert_int_equal(copy_file(from, to, -1, &err), -EBADF);
    assert_non_null(strstr(err.text, "copying failed"));
    (void)made;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(copy_when_the_file_has_holes_leaves_them_out),
        WITH(copy_of_an_empty_file_is_empty),
        WITH(copy_when_it_cannot_be_written_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
