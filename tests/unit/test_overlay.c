/* SPDX-License-Identifier: MIT */
/* overlay: what hypefs makes is a qcow2 for QEMU, too; and what a VMM may and may not change of it.
 */
#include "test.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hypervisor/overlay.h"
#include "util/cleanup.h"

static const char below[] = "lower-disk0";
static const uint64_t GIB = UINT64_C(1) << 30;

static int make(uint64_t size)
{
    struct error err = {0};
    int fd = memfd_create("overlay", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(overlay_create(fd, size, below, &err), 0);
    return fd;
}

static void change(int fd, off_t at, const char *bytes, size_t size)
{
    assert_int_equal(pwrite(fd, bytes, size, at), size);
}

static void assert_header(int fd, const char *expected, size_t size)
{
    char header[256];
    assert_true(size <= sizeof header);
    assert_int_equal(pread(fd, header, size, 0), size);
    assert_memory_equal(header, expected, size);
}

static void overlay_that_was_not_closed_is_mended(void **state)
{
    struct error err = {0};
    char header[256];
    auto_close int fd = make(GIB);
    (void)state;
    assert_int_equal(pread(fd, header, sizeof header, 0), sizeof header);
    change(fd, 79, "\1", 1);                        /* it is open */
    change(fd, 104, "\0\0\0\0\0\0\0\0", 8);         /* no format */
    change(fd, 48, "\0\0\0\0\0\7\0\0\0\0\0\2", 12); /* where the refcounts are */
    assert_int_equal(overlay_mend(fd, GIB, below, false, &err), 0);
    memcpy(header + 48, "\0\0\0\0\0\7\0\0\0\0\0\2", 12);
    header[79] = 1;
    assert_header(fd, header, sizeof header);
    assert_int_equal(overlay_mend(fd, GIB, below, true, &err), 0);
    header[79] = 0;
    assert_header(fd, header, sizeof header);
}

static void overlay_with_another_header_is_refused(void **state)
{
    static const struct {
        off_t at;
        const char *byte;
    } cases[] = {{0, "x"},   {7, "\2"},   {15, "\1"}, {19, "\1"}, {23, "\x09"}, {31, "\2"},
                 {35, "\1"}, {39, "\1"},  {47, "\1"}, {63, "\1"}, {79, "\4"},   {95, "\1"},
                 {99, "\3"}, {104, "\1"}, {112, "q"}, {128, "/"}, {139, "x"}};
    struct error err = {0};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        auto_close int fd = make(GIB);
        change(fd, cases[i].at, cases[i].byte, 1);
        assert_int_equal(overlay_mend(fd, GIB, below, true, &err), -EIO);
    }
    auto_close int other = make(GIB), empty = memfd_create("empty", MFD_CLOEXEC);
    assert_int_equal(overlay_mend(other, GIB + 512, below, true, &err), -EIO);
    assert_int_equal(overlay_mend(other, GIB, "lower-disk1", true, &err), -EIO);
    assert_int_equal(overlay_mend(empty, GIB, below, true, &err), -EIO);
    assert_int_equal(overlay_mend(other, GIB, below, true, &err), 0);
}

static void overlay_that_would_be_too_large_is_none(void **state)
{
    static const uint64_t most = UINT64_C(1) << 42;
    struct error err = {0};
    auto_close int fd = memfd_create("overlay", MFD_CLOEXEC);
    (void)state;
    assert_true(overlay_fits(most, below));
    assert_false(overlay_fits(most + 1, below));
    assert_false(overlay_fits(0, below));
    assert_int_equal(overlay_create(fd, most + 1, below, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(overlay_that_was_not_closed_is_mended),
        cmocka_unit_test(overlay_with_another_header_is_refused),
        cmocka_unit_test(overlay_that_would_be_too_large_is_none),
    };
    return cmocka_run_group_tests_name("overlay", tests, NULL, NULL);
}
