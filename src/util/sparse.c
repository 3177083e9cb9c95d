/* SPDX-License-Identifier: MIT */
#include "util/sparse.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/fault.h"

enum { CHUNK_SIZE = 256 * SPARSE_BLOCK };

int sparse_next(int fd, uint64_t at, uint64_t size, uint64_t *ret_start, uint64_t *ret_end,
                struct error *err)
{
    off_t data = lseek(fd, (off_t)at, SEEK_DATA);
    off_t hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);

    if (hole < 0 && errno != ENXIO)
        return error_errno(err, errno, "cannot find the holes in the file");
    if (hole < 0 || (uint64_t)data >= size) {
        *ret_start = *ret_end = size;
        return 0;
    }
    *ret_start = (uint64_t)data / SPARSE_BLOCK * SPARSE_BLOCK;
    *ret_end = ((uint64_t)hole + SPARSE_BLOCK - 1) / SPARSE_BLOCK * SPARSE_BLOCK;
    if (*ret_end > size)
        *ret_end = size;
    return 0;
}

static bool all_zero(const uint8_t *bytes, size_t size)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0;
}

static int write_whole(int fd, const uint8_t *bytes, size_t size, uint64_t at, struct error *err)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = pwrite(fd, bytes + done, size - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_errno(err, errno, "cannot write the copy");
        done += (size_t)n;
    }
    return 0;
}

static int dig(int fd, size_t size, uint64_t at, const uint8_t *zeros, struct error *err)
{
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)size) == 0)
        return 0;
    return write_whole(fd, zeros, size, at, err); /* a file system without holes */
}

/* What lies at `at`; blocks that are zeros are left out of a file that has none there, else dug. */
static int write_data(int fd, const uint8_t *bytes, size_t size, uint64_t at, bool fresh,
                      struct error *err)
{
    int r = 0;
    for (size_t i = 0, run; i < size && r == 0; i += run) {
        bool zero = false;
        for (run = 0; i + run < size;) {
            size_t block = size - i - run < SPARSE_BLOCK ? size - i - run : SPARSE_BLOCK;
            bool this = all_zero(bytes + i + run, block);
            if (run > 0 && this != zero)
                break;
            zero = this;
            run += block;
        }
        if (!zero)
            r = write_whole(fd, bytes + i, run, at + i, err);
        else if (!fresh)
            r = dig(fd, run, at + i, bytes + i, err);
    }
    return r;
}

int sparse_put(int fd, const uint8_t *bytes, size_t size, uint64_t at, struct error *err)
{
    return write_data(fd, bytes, size, at, false, err);
}

/* At most `size` bytes; 0 only when a signal came first, so that `progress` is asked soon. */
static int read_some(int fd, uint8_t *bytes, size_t size, uint64_t at, size_t *ret,
                     struct error *err)
{
    ssize_t n = pread(fd, bytes, size, (off_t)at);
    if (n < 0 && errno != EINTR)
        return error_errno(err, errno, "cannot read it");
    if (n == 0)
        return error_set(err, EIO, "it became shorter while it was copied");
    *ret = n > 0 ? (size_t)n : 0;
    return 0;
}

static int dig_zeros(int fd, const uint8_t *bytes, size_t size, uint64_t at, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i + SPARSE_BLOCK <= size && r == 0; i += SPARSE_BLOCK)
        if (all_zero(bytes + i, SPARSE_BLOCK))
            r = dig(fd, SPARSE_BLOCK, at + i, bytes + i, err);
    return r;
}

/* The data of `from` goes to `to`; where that is the same file, only its zeros are dug out. */
static int work_through(int from, int to, uint64_t size, sparse_progress *progress, void *context,
                        struct error *err)
{
    auto_free uint8_t *chunk = malloc(CHUNK_SIZE);
    if (!chunk)
        return error_set(err, ENOMEM, "out of memory");
    for (uint64_t at = 0, end = 0; at < size;) {
        size_t part = 0;
        int r = at < end ? 0 : sparse_next(from, at, size, &at, &end, err);
        if (r == 0 && at < end)
            r = read_some(from, chunk, end - at < CHUNK_SIZE ? (size_t)(end - at) : CHUNK_SIZE, at,
                          &part, err);
        if (r == 0)
            r = from == to ? dig_zeros(to, chunk, part, at, err)
                           : write_data(to, chunk, part, at, true, err);
        if (r < 0)
            return r;
        at += part;
        if (progress && !progress(context, at, size))
            return error_set(err, ECANCELED, "the copy was cancelled");
    }
    return 0;
}

static int copy_data(int from, int to, uint64_t size, sparse_progress *progress, void *context,
                     struct error *err)
{
    if (ftruncate(to, (off_t)size) < 0)
        return error_errno(err, errno, "cannot make the copy as large as it is");
    return work_through(from, to, size, progress, context, err);
}

static bool same(const struct stat *a, const struct stat *b)
{
    return a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

int sparse_copy(int from, int to, const struct stat *known, sparse_progress *progress,
                void *context, struct error *err)
{
    struct stat now;
    fault_point(FAULT_COPY);
    /* Whatever keeps the file system from it, bytes can be copied. */
    int r = ioctl(to, FICLONE, from) == 0
                ? 0
                : copy_data(from, to, (uint64_t)known->st_size, progress, context, err);
    if (r < 0)
        return r;
    fault_point(FAULT_COPIED);
    if (fstat(from, &now) < 0)
        return error_errno(err, errno, "cannot stat it");
    if (!same(known, &now))
        return error_set(err, EIO, "it changed while it was copied");
    return 0;
}

int sparse_dig(int fd, sparse_progress *progress, void *context, struct error *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return error_errno(err, errno, "cannot stat the file");
    return work_through(fd, fd, (uint64_t)st.st_size, progress, context, err);
}
