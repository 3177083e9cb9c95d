/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "test.h"
#include "util/cleanup.h"
#include "util/sparse.h"

enum { BLOCKS = 700 }; /* more than are read at once */

/* Two files without names; on tmpfs, where there are holes and no reflinks. */
struct files {
    int from, to;
    struct stat known;
    uint64_t told; /* by the progress */
    int stop_after;
    void (*meanwhile)(struct files *files);
};

static int setup(void **state)
{
    struct files *files = calloc(1, sizeof *files);
    if (!files)
        return -1;
    files->from = memfd_create("from", MFD_CLOEXEC);
    files->to = memfd_create("to", MFD_CLOEXEC);
    *state = files;
    return files->from < 0 || files->to < 0 ? -1 : 0;
}

static int teardown(void **state)
{
    struct files *files = *state;
    close(files->from);
    close(files->to);
    free(files);
    return 0;
}

static void put(int fd, const char *text, uint64_t at)
{
    assert_int_equal(pwrite(fd, text, strlen(text), (off_t)at), strlen(text));
}

/* Data, zeros that are written, and holes, in files of any size. */
static void fill(struct files *files, uint64_t size)
{
    static const uint8_t zeros[3 * SPARSE_BLOCK];
    assert_int_equal(ftruncate(files->from, (off_t)size), 0);
    put(files->from, "first", 0);
    assert_int_equal(pwrite(files->from, zeros, sizeof zeros, SPARSE_BLOCK), sizeof zeros);
    put(files->from, "later", 10 * SPARSE_BLOCK + 17);
    put(files->from, "far", (BLOCKS - 2) * SPARSE_BLOCK);
    put(files->from, "last", size - 4);
    assert_int_equal(fstat(files->from, &files->known), 0);
}

static void assert_same(const struct files *files)
{
    struct stat from, to;
    assert_int_equal(fstat(files->from, &from), 0);
    assert_int_equal(fstat(files->to, &to), 0);
    assert_int_equal(from.st_size, to.st_size);
    auto_free uint8_t *a = malloc((size_t)from.st_size), *b = malloc((size_t)from.st_size);
    assert_int_equal(pread(files->from, a, (size_t)from.st_size, 0), from.st_size);
    assert_int_equal(pread(files->to, b, (size_t)from.st_size, 0), from.st_size);
    assert_memory_equal(a, b, (size_t)from.st_size);
}

static int64_t blocks_of(int fd)
{
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    return st.st_blocks * 512 / SPARSE_BLOCK;
}

static bool count(void *context, uint64_t done, uint64_t size)
{
    struct files *files = context;
    assert_true(done >= files->told && done <= size);
    files->told = done;
    if (files->meanwhile)
        files->meanwhile(files);
    return files->stop_after == 0 || --files->stop_after > 0;
}

static void copy_when_there_are_zeros_has_holes(void **state)
{
    struct files *files = *state;
    fill(files, BLOCKS * SPARSE_BLOCK);
    assert_int_equal(blocks_of(files->from), 7);
    assert_int_equal(sparse_copy(files->from, files->to, &files->known, count, files, NULL), 0);
    assert_same(files);
    assert_int_equal(blocks_of(files->to), 4);
    assert_int_equal(files->told, BLOCKS * SPARSE_BLOCK);
}

static void copy_when_the_size_is_odd_is_whole(void **state)
{
    static const uint64_t sizes[] = {5, 4095, 4097, 300 * 4096 + 1, 256 * 4096 + 2};
    struct files *files = *state;
    for (size_t i = 0; i < array_length(sizes); i++) {
        assert_int_equal(ftruncate(files->from, 0), 0);
        assert_int_equal(ftruncate(files->to, 0), 0);
        assert_int_equal(ftruncate(files->from, (off_t)sizes[i]), 0);
        put(files->from, "last", sizes[i] - 4);
        assert_int_equal(fstat(files->from, &files->known), 0);
        assert_int_equal(sparse_copy(files->from, files->to, &files->known, NULL, NULL, NULL), 0);
        assert_same(files);
    }
}

static void copy_when_all_is_a_hole_is_one(void **state)
{
    struct files *files = *state;
    assert_int_equal(ftruncate(files->from, 1 << 30), 0);
    assert_int_equal(fstat(files->from, &files->known), 0);
    assert_int_equal(sparse_copy(files->from, files->to, &files->known, count, files, NULL), 0);
    assert_int_equal(blocks_of(files->to), 0);
    assert_int_equal(lseek(files->to, 0, SEEK_END), 1 << 30);
}

static void copy_when_told_to_stop_is_cancelled(void **state)
{
    struct files *files = *state;
    fill(files, BLOCKS * SPARSE_BLOCK);
    files->stop_after = 1;
    assert_int_equal(sparse_copy(files->from, files->to, &files->known, count, files, NULL),
                     -ECANCELED);
}

static void cut(struct files *files)
{
    assert_int_equal(ftruncate(files->from, SPARSE_BLOCK), 0);
}

static void grow(struct files *files)
{
    assert_int_equal(ftruncate(files->from, 2 * BLOCKS * SPARSE_BLOCK), 0);
}

static void touch(struct files *files)
{
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1}};
    assert_int_equal(futimens(files->from, times), 0);
}

static void copy_when_the_file_changes_meanwhile_fails(void **state)
{
    static const struct {
        void (*change)(struct files *files);
        const char *why;
    } changes[] = {{cut, "changed"}, {grow, "changed"}, {touch, "changed"}};
    struct files *files = *state;
    for (size_t i = 0; i < array_length(changes); i++) {
        struct error err = {0};
        fill(files, BLOCKS * SPARSE_BLOCK);
        files->told = 0;
        files->meanwhile = changes[i].change;
        assert_int_equal(sparse_copy(files->from, files->to, &files->known, count, files, &err),
                         -EIO);
        assert_non_null(strstr(err.text, changes[i].why));
    }
}

static void copy_when_it_cannot_be_written_says_so(void **state)
{
    struct files *files = *state;
    struct error err = {0};
    fill(files, BLOCKS * SPARSE_BLOCK);
    auto_close int full = open("/dev/full", O_RDWR | O_CLOEXEC);
    assert_true(sparse_copy(files->from, full, &files->known, NULL, NULL, &err) < 0);
    assert_non_null(strstr(err.text, "cannot make the copy"));
    auto_close int sealed = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE), 0);
    assert_int_equal(sparse_copy(files->from, sealed, &files->known, NULL, NULL, &err), -EPERM);
    assert_non_null(strstr(err.text, "cannot write the copy"));
}

/* A block at a time, into a file that has data everywhere. */
static void put_when_blocks_are_zeros_makes_holes_of_them(void **state)
{
    struct files *files = *state;
    uint8_t bytes[5 * SPARSE_BLOCK] = {0}, all[8 * SPARSE_BLOCK];
    memset(all, '-', sizeof all);
    assert_int_equal(pwrite(files->to, all, sizeof all, 0), sizeof all);
    memset(bytes + SPARSE_BLOCK, 'x', SPARSE_BLOCK);
    bytes[3 * SPARSE_BLOCK - 1] = 'y'; /* the last of the next one */
    assert_int_equal(sparse_put(files->to, bytes, sizeof bytes, SPARSE_BLOCK, NULL), 0);
    assert_int_equal(blocks_of(files->to), 5);
    memcpy(all + SPARSE_BLOCK, bytes, sizeof bytes);
    uint8_t found[sizeof all];
    assert_int_equal(pread(files->to, found, sizeof found, 0), sizeof found);
    assert_memory_equal(found, all, sizeof all);
    assert_int_equal(sparse_put(files->to, bytes + SPARSE_BLOCK, SPARSE_BLOCK, 0, NULL), 0);
    assert_int_equal(blocks_of(files->to), 5);
}

static void put_when_it_cannot_be_written_says_so(void **state)
{
    uint8_t bytes[SPARSE_BLOCK] = {1};
    struct error err = {0};
    (void)state;
    auto_close int sealed = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(sealed, SPARSE_BLOCK), 0);
    assert_int_equal(fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE), 0);
    assert_int_equal(sparse_put(sealed, bytes, sizeof bytes, 0, &err), -EPERM);
    assert_non_null(strstr(err.text, "cannot write"));
}

static void dig_when_there_are_zeros_makes_holes_of_them(void **state)
{
    struct files *files = *state;
    fill(files, BLOCKS * SPARSE_BLOCK);
    assert_int_equal(sparse_copy(files->from, files->to, &files->known, NULL, NULL, NULL), 0);
    assert_int_equal(blocks_of(files->from), 7);
    assert_int_equal(sparse_dig(files->from, count, files, NULL), 0);
    assert_int_equal(blocks_of(files->from), 4);
    assert_same(files);
    assert_int_equal(files->told, BLOCKS * SPARSE_BLOCK);
    /* A last block that is cut short is left as it is. */
    assert_int_equal(ftruncate(files->from, 0), 0);
    fill(files, 20 * SPARSE_BLOCK + 100);
    assert_int_equal(ftruncate(files->to, 0), 0);
    assert_int_equal(sparse_copy(files->from, files->to, &files->known, NULL, NULL, NULL), 0);
    assert_int_equal(sparse_dig(files->from, NULL, NULL, NULL), 0);
    assert_same(files);
}

static void dig_when_told_to_stop_is_cancelled(void **state)
{
    struct files *files = *state;
    fill(files, BLOCKS * SPARSE_BLOCK);
    files->stop_after = 1;
    assert_int_equal(sparse_dig(files->from, count, files, NULL), -ECANCELED);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(copy_when_there_are_zeros_has_holes),
        TEST(copy_when_the_size_is_odd_is_whole),
        TEST(copy_when_all_is_a_hole_is_one),
        TEST(copy_when_told_to_stop_is_cancelled),
        TEST(copy_when_the_file_changes_meanwhile_fails),
        TEST(copy_when_it_cannot_be_written_says_so),
        TEST(put_when_blocks_are_zeros_makes_holes_of_them),
        TEST(put_when_it_cannot_be_written_says_so),
        TEST(dig_when_there_are_zeros_makes_holes_of_them),
        TEST(dig_when_told_to_stop_is_cancelled),
    };
    return cmocka_run_group_tests_name("sparse", tests, NULL, NULL);
}
