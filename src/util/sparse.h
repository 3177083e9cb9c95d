/* SPDX-License-Identifier: MIT */
/* sparse: large files with holes, such as memory images: where their data is, and copies of them
 * that have holes wherever there are zeros. No state; any thread. */
#ifndef HYPEFS_UTIL_SPARSE_H
#define HYPEFS_UTIL_SPARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "util/error.h"

enum { SPARSE_BLOCK = 4096 };

/* The next bytes at or behind `at` of a file of `size` bytes that are no hole, in whole blocks but
 * for the file's end; both are `size` when there are none. Moves the file's offset. */
int sparse_next(int fd, uint64_t at, uint64_t size, uint64_t *ret_start, uint64_t *ret_end,
                struct error *err);

/* Writes whole blocks, at a multiple of their size, over what is there; zeros become holes. */
int sparse_put(int fd, const uint8_t *bytes, size_t size, uint64_t at, struct error *err);

/* Called now and then with bytes of the file done. False: stop. */
typedef bool sparse_progress(void *context, uint64_t done, uint64_t size);

/* Copies `from` into the new file `to` (no fsync): as a reflink where the file system can, else the
 * data, of which blocks of zeros become holes. `known` is what fstat() told of `from` when it was
 * looked at: EIO if it has another size or mtime when the copy is complete, for then the copy may
 * be a bit of both. ECANCELED if `progress` (may be NULL) said so. */
int sparse_copy(int from, int to, const struct stat *known, sparse_progress *progress,
                void *context, struct error *err);

/* Blocks of zeros of the file become holes, where the file system has such. ECANCELED as above. */
int sparse_dig(int fd, sparse_progress *progress, void *context, struct error *err);

#endif
