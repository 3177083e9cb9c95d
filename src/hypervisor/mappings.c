/* SPDX-License-Identifier: MIT */
#include "hypervisor/mappings.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAPPINGS_MAX = 4096 };

bool mapping_parse(const char *line, struct mapping *ret)
{
    char flags[5];
    struct mapping mapping;
    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64, &mapping.start,
               &mapping.end, flags, &mapping.offset, &mapping.file.major, &mapping.file.minor,
               &mapping.file.inode) != 7 ||
        mapping.end <= mapping.start)
        return false;
    const bool writable = flags[0] == 'r' && flags[1] == 'w' && flags[2];
    mapping.usable = writable && flags[3] == 'p';
    mapping.shared = writable && flags[3] == 's';
    *ret = mapping;
    return true;
}

bool mapping_is_of(const struct mapping *mapping, const struct mapped_file *file)
{
    return mapping->file.inode == file->inode && mapping->file.major == file->major &&
           mapping->file.minor == file->minor;
}

int mappings_add(struct mappings *mappings, const struct mapping *mapping)
{
    if (mappings->count == MAPPINGS_MAX)
        return -E2BIG;
    struct mapping *items = reallocarray(mappings->items, mappings->count + 1, sizeof *items);
    if (!items)
        return -ENOMEM;
    mappings->items = items;
    mappings->items[mappings->count++] = *mapping;
    return 0;
}

void mappings_finish(struct mappings *mappings)
{
    free(mappings->items);
    *mappings = (struct mappings){0};
}

int mappings_translate(const struct mappings *mappings, uint64_t offset, size_t size, uint64_t *ret,
                       struct error *err)
{
    uint64_t end;
    if (__builtin_add_overflow(offset, size, &end))
        return error_set(err, EIO, "offset %" PRIu64 " is in no memory image", offset);
    const struct mapping *over = NULL;
    size_t count = 0;
    for (size_t i = 0; i < mappings->count; i++) {
        const struct mapping *mapping = &mappings->items[i];
        uint64_t mapping_end;
        if (!__builtin_add_overflow(mapping->offset, mapping->end - mapping->start, &mapping_end) &&
            mapping->offset < end && offset < mapping_end) {
            over = offset >= mapping->offset && end <= mapping_end ? mapping : NULL;
            count++;
        }
    }
    if (count != 1 || !over)
        return error_set(err, EIO, "bytes %" PRIu64 " to %" PRIu64 " of the memory image lie in %s",
                         offset, end,
                         count == 0   ? "no mapping of the VMM"
                         : count == 1 ? "a mapping of the VMM in part only"
                                      : "more than one mapping of the VMM");
    if (!over->usable)
        return error_set(err, EIO,
                         "the VMM's mapping over offset %" PRIu64
                         " of the memory image is not private and writable",
                         offset);
    *ret = over->start + (offset - over->offset);
    return 0;
}

/* An entry of /proc/PID/pagemap: the kernel's Documentation/admin-guide/mm/pagemap.rst. */
static const uint64_t page_is_file = UINT64_C(1) << 61, page_is_swapped = UINT64_C(1) << 62,
                      page_is_present = UINT64_C(1) << 63;

static bool is_written(uint64_t entry)
{
    return entry & (page_is_present | page_is_swapped) && !(entry & page_is_file);
}

size_t pagemap_run(const uint64_t *entries, size_t count, size_t max, bool *ret_written)
{
    bool written = is_written(entries[0]);
    size_t run = 1;
    while (run < count && (!written || run < max) && is_written(entries[run]) == written)
        run++;
    *ret_written = written;
    return run;
}
