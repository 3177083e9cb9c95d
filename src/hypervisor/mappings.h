/* SPDX-License-Identifier: MIT */
/* mappings: lines of /proc/PID/maps, and entries of /proc/PID/pagemap. Pure; any thread. */
#ifndef HYPEFS_HYPERVISOR_MAPPINGS_H
#define HYPEFS_HYPERVISOR_MAPPINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

/* A file as /proc/PID/maps names it. stat's device is another one on overlayfs and btrfs. */
struct mapped_file {
    unsigned major, minor;
    uint64_t inode;
};

struct mapping {
    uint64_t start, end; /* addresses */
    uint64_t offset;     /* of `start` in the file */
    bool usable;         /* private, readable and writable */
    bool shared;         /* the same, but not private */
    struct mapped_file file;
};

/* A line of /proc/PID/maps: is it one? */
bool mapping_parse(const char *line, struct mapping *ret);
bool mapping_is_of(const struct mapping *mapping, const struct mapped_file *file);

struct mappings {
    struct mapping *items; /* owned */
    size_t count;
};

/* -E2BIG, -ENOMEM. */
int mappings_add(struct mappings *mappings, const struct mapping *mapping);
void mappings_finish(struct mappings *mappings);

/* The address of `size` bytes (not 0) of the file. EIO unless one usable mapping has them all. */
int mappings_translate(const struct mappings *mappings, uint64_t offset, size_t size, uint64_t *ret,
                       struct error *err);

/* How many entries from the first on (of `count`, not 0) are alike: of pages that the process has
 * written to (*ret_written; then at most `max`), or of others. */
size_t pagemap_run(const uint64_t *entries, size_t count, size_t max, bool *ret_written);

#endif
