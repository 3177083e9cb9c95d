/* SPDX-License-Identifier: MIT */
#include "mailbox/scan.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/json.h"

/* What both magics begin with: one pass over the image finds either. */
static const char prefix[] = {'H', 'Y', 'P', 'E', 'M', 'A', 'N', '_'};

/* So many of the first bytes of each magic are capital letters or '_'. */
enum { LETTERS = sizeof "HYPEMAN_FORK_MAILBOX_V" - 1 };

static bool all_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

/* Is there nothing in the payload area that a guest or a host would not have put there? `length` is
 * without FRAME_DECLARED. */
static bool area_clean(const uint8_t *area, size_t capacity, uint32_t length)
{
    struct json_check check;
    size_t used = length;

    if (length == FRAME_REFUSED) {
        used = strnlen((const char *)area, capacity);
        if (used > FRAME_REASON_MAX)
            return false;
    } else if (length > capacity) {
        return false;
    } else if (length > 0 && json_check((const char *)area, length, &check) != JSON_COMPLETE) {
        return false;
    }
    return all_zero(area + used, capacity - used);
}

static int append(struct scan *scan, const struct candidate *candidate)
{
    if (scan->count == SCAN_CANDIDATES_MAX) {
        scan->truncated = true;
        return 0;
    }
    if ((scan->count & (scan->count - 1)) == 0) {
        size_t room = scan->count ? scan->count * 2 : 1;
        void *grown = reallocarray(scan->candidates, room, sizeof *scan->candidates);
        if (!grown)
            return -ENOMEM;
        scan->candidates = grown;
    }
    scan->candidates[scan->count++] = *candidate;
    return 0;
}

/* Is there room for a payload field, be it empty, at `at` in a piece of that size? */
static bool fits(enum frame_kind kind, size_t at, size_t size)
{
    return at <= size && size - at >= frame_layouts[kind].payload;
}

static int add_magic(const uint8_t *bytes, size_t size, size_t at, enum frame_kind kind,
                     uint64_t offset, struct scan *scan)
{
    const struct frame_layout *layout = &frame_layouts[kind];
    struct candidate found = {.offset = offset + at, .page_aligned = at == 0};

    if (!fits(kind, at, size) || !frame_decode_marker(kind, bytes + at, size - at, &found.marker)) {
        scan->noise++;
        return 0;
    }
    const uint8_t *frame = bytes + at;
    uint32_t length = frame_load_u32(frame + layout->length);
    found.declared = at == 0 && size == FRAME_SIZE && frame_is_declared(kind, frame);
    if (found.declared && length != FRAME_REFUSED)
        length &= ~FRAME_DECLARED;
    found.capacity = (uint32_t)(size - at - layout->payload);
    if (found.declared)
        found.capacity = (uint32_t)frame_capacity(kind, true);
    found.pending = frame_load_u32(frame + layout->sequence) != 0;
    found.clean = area_clean(frame + layout->payload, found.capacity, length);
    return append(scan, &found);
}

int scan_page(const uint8_t *bytes, size_t size, uint64_t offset, struct scan *scan)
{
    assert(size <= FRAME_SIZE && offset % FRAME_SIZE == 0);
    for (size_t at = 0; at < size; at++) {
        const uint8_t *hit = memmem(bytes + at, size - at, prefix, sizeof prefix);
        if (!hit)
            return 0;
        at = (size_t)(hit - bytes);
        for (enum frame_kind kind = 0; kind < FRAME_KINDS; kind++) {
            const struct frame_layout *layout = &frame_layouts[kind];
            if (size - at < layout->magic_size || memcmp(hit, layout->magic, layout->magic_size))
                continue;
            int r = add_magic(bytes, size, at, kind, offset, scan);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

/* Sixteen bytes as four words. */
typedef uint32_t words __attribute__((vector_size(16)));

static words load(const uint8_t *bytes)
{
    words loaded;
    memcpy(&loaded, bytes, sizeof loaded);
    return loaded;
}

/* The first words of four times sixteen bytes. */
static words first_words(const uint8_t *bytes)
{
    words a = __builtin_shufflevector(load(bytes), load(bytes + 16), 0, 4, 1, 5);
    words b = __builtin_shufflevector(load(bytes + 32), load(bytes + 48), 0, 4, 1, 5);
    return __builtin_shufflevector(a, b, 0, 1, 4, 5);
}

/* Are the first six bytes capital letters or what stands among them? */
static bool begins_with_letters(const uint8_t *bytes)
{
    static const uint8_t mask_bytes[8] = {0xE0, 0xE0, 0xE0, 0xE0, 0xE0, 0xE0};
    static const uint8_t letter_bytes[8] = {0x40, 0x40, 0x40, 0x40, 0x40, 0x40};
    uint64_t word, mask, letters;
    memcpy(&word, bytes, sizeof word);
    memcpy(&mask, mask_bytes, sizeof mask);
    memcpy(&letters, letter_bytes, sizeof letters);
    return (word & mask) == letters;
}

/*
 * May a magic lie in the page? The first LETTERS bytes of each are capital letters or '_', and so
 * between 0x40 and 0x5F. Wherever one lies, several such bytes stand at the first multiple of
 * STRIDE in it. Four of them are looked for, many places at once, nearly as fast as the processor
 * gets at the bytes. In noise each 4096th place has four; there, six are looked for.
 */
static bool suspect(const uint8_t *page)
{
    enum { STRIDE = 16, BLOCK = 1024, AHEAD = 512, COMPARED = 6 };
    static_assert(STRIDE - 1 + COMPARED <= LETTERS, "so many from each multiple of STRIDE on");
    const words mask = {0xE0E0E0E0, 0xE0E0E0E0, 0xE0E0E0E0, 0xE0E0E0E0};
    const words letters = {0x40404040, 0x40404040, 0x40404040, 0x40404040};
    static const uint8_t none[sizeof(words)];

    for (const uint8_t *block = page; block < page + FRAME_SIZE; block += BLOCK) {
        words maybe = {0};
        for (size_t at = 0; at < BLOCK; at += 4 * STRIDE) {
            __builtin_prefetch((const void *)((uintptr_t)block + at + AHEAD));
            maybe |= (words)((first_words(block + at) & mask) == letters);
        }
        if (memcmp(&maybe, none, sizeof none) == 0)
            continue;
        for (size_t at = 0; at < BLOCK; at += STRIDE)
            if (begins_with_letters(block + at))
                return true;
    }
    return false;
}

int scan_pages(const uint8_t *bytes, size_t size, uint64_t offset, struct scan *scan)
{
    for (size_t at = 0; at < size; at += FRAME_SIZE) {
        size_t page = size - at < FRAME_SIZE ? size - at : FRAME_SIZE;
        if (page == FRAME_SIZE && !suspect(bytes + at))
            continue;
        int r = scan_page(bytes + at, page, offset + at, scan);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Of those that are not taken yet; NULL: all are. */
static const struct candidate *take_first(const struct scan parts[], size_t count, size_t taken[])
{
    const struct candidate *first = NULL;
    size_t from = 0;
    for (size_t i = 0; i < count; i++) {
        const struct candidate *next = parts[i].candidates + taken[i];
        if (taken[i] < parts[i].count && (!first || next->offset < first->offset)) {
            first = next;
            from = i;
        }
    }
    taken[from] += first != NULL;
    return first;
}

int scan_merge(const struct scan parts[], size_t count, struct scan *ret)
{
    size_t taken[SCAN_PARTS_MAX] = {0};
    const struct candidate *next;
    struct scan merged = {0};

    assert(count <= SCAN_PARTS_MAX);
    for (size_t i = 0; i < count; i++) {
        merged.truncated |= parts[i].truncated;
        merged.noise += parts[i].noise;
        merged.data_bytes += parts[i].data_bytes;
    }
    while ((next = take_first(parts, count, taken)))
        if (append(&merged, next) < 0) {
            scan_finish(&merged);
            return -ENOMEM;
        }
    *ret = merged;
    return 0;
}

void scan_finish(struct scan *scan)
{
    if (!scan)
        return;
    free(scan->candidates);
    *scan = (struct scan){0};
}

static int by_name(const void *a, const void *b)
{
    const struct candidate *one = *(struct candidate *const *)a;
    const struct candidate *other = *(struct candidate *const *)b;
    int r = strcmp(one->marker.name, other->marker.name);
    return r ? r : (one > other) - (one < other);
}

int scan_mark_first(struct scan *scan)
{
    auto_free struct candidate **sorted = calloc(scan->count + 1, sizeof *sorted);

    if (!sorted)
        return -ENOMEM;
    for (size_t i = 0; i < scan->count; i++)
        sorted[i] = &scan->candidates[i];
    qsort(sorted, scan->count, sizeof *sorted, by_name);
    for (size_t i = 0; i < scan->count; i++)
        sorted[i]->first =
            sorted[i]->marker.kind == FRAME_FORK &&
            (i == 0 || strcmp(sorted[i - 1]->marker.name, sorted[i]->marker.name) != 0);
    return 0;
}

size_t scan_next_name(const struct scan *scan, size_t from)
{
    while (from < scan->count && !scan->candidates[from].first)
        from++;
    return from;
}
