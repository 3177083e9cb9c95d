/* SPDX-License-Identifier: MIT */
/* Any bytes as what the kernel says of a process's memory: lines of /proc/PID/maps, all of which
 * must be understood, and entries of /proc/PID/pagemap. */
#include <errno.h>
#include <string.h>

#include "fuzz.h"
#include "hypervisor/mappings.h"
#include "util/cleanup.h"

enum { RUN_MAX = 64 };

static bool read_lines(char *text, struct mappings *ret)
{
    char *line, *rest = text;
    while ((line = strsep(&rest, "\n")) && (*line || rest)) {
        struct mapping mapping;
        if (!mapping_parse(line, &mapping))
            return false;
        MUST(mapping.start < mapping.end);
        if (mappings_add(ret, &mapping) < 0)
            return false;
    }
    return ret->count > 0;
}

/* What is translated lies in a usable mapping, at its place there, and in no other. */
static void check_translation(const struct mappings *mappings, uint64_t offset, size_t size)
{
    struct error err = {0};
    uint64_t address, end;
    if (mappings_translate(mappings, offset, size, &address, &err) < 0) {
        MUST(err.code == EIO && err.text[0]);
        return;
    }
    size_t found = 0;
    MUST(!__builtin_add_overflow(address, size, &end));
    for (size_t i = 0; i < mappings->count; i++) {
        const struct mapping *mapping = &mappings->items[i];
        found += mapping->usable && address >= mapping->start && end <= mapping->end &&
                 address - mapping->start == offset - mapping->offset;
    }
    MUST(found >= 1);
}

static void check_pagemap(const uint8_t *data, size_t size)
{
    size_t count = size / sizeof(uint64_t);
    auto_free uint64_t *entries = malloc(count * sizeof(uint64_t) + 1);
    MUST(entries);
    memcpy(entries, data, count * sizeof(uint64_t));
    for (size_t i = 0, run; i < count; i += run) {
        bool written;
        run = pagemap_run(entries + i, count - i, RUN_MAX, &written);
        MUST(run >= 1 && run <= count - i && (!written || run <= RUN_MAX));
    }
}

bool fuzz(const uint8_t *data, size_t size)
{
    struct mappings mappings = {0};
    auto_free char *text = strndup((const char *)data, size);
    MUST(text);
    bool taken = read_lines(text, &mappings);
    for (size_t i = 0; i < mappings.count; i++) {
        const struct mapping *mapping = &mappings.items[i];
        uint64_t length = mapping->end - mapping->start;
        check_translation(&mappings, mapping->offset, 1);
        check_translation(&mappings, mapping->offset, (size_t)length);
        check_translation(&mappings, mapping->offset + length - 1, 2);
        check_translation(&mappings, mapping->offset - 1, 4096);
    }
    mappings_finish(&mappings);
    check_pagemap(data, size);
    return taken;
}
