/* SPDX-License-Identifier: MIT */
#include "mailbox/scan.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/json.h"
#include "util/sparse.h"

/* What both magics begin with: one pass over the image finds either. */
static const char prefix[] = {'H', 'Y', 'P', 'E', 'M', 'A', 'N', '_'};

/* Small enough to be in the processor's cache when it is looked at. */
enum { CHUNK_SIZE = 64 * FRAME_SIZE };
static_assert((int)FRAME_SIZE == (int)SPARSE_BLOCK, "what is no hole begins and ends with a page");

/* 512 TiB: offsets up to here keep all their digits in JSON. */
#define IMAGE_MAX (INT64_C(1) << 49)

static bool all_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

/* Is there nothing in the payload area that a guest or a host would not have put there? */
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
    found.capacity = (uint32_t)(size - at - layout->payload);
    found.pending = frame_load_u32(frame + layout->sequence) != 0;
    found.clean =
        area_clean(frame + layout->payload, found.capacity, frame_load_u32(frame + layout->length));
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

/* memmem() for the prefix. Nearly all of an image has none, so most of it is only looked at for its
 * first and last byte at that distance, many places at once: as fast as memory is read. */
static const uint8_t *find_prefix(const uint8_t *bytes, size_t size)
{
    enum { PLACES = 64, LAST = sizeof prefix - 1 };
    size_t at = 0;
    for (; size - at >= PLACES + LAST; at += PLACES) {
        const uint8_t *place = bytes + at;
        uint8_t maybe = 0;
        for (size_t i = 0; i < PLACES; i++)
            maybe |= (uint8_t)((place[i] == (uint8_t)prefix[0]) &
                               (place[i + LAST] == (uint8_t)prefix[LAST]));
        const uint8_t *hit = maybe ? memmem(place, PLACES + LAST, prefix, sizeof prefix) : NULL;
        if (hit)
            return hit;
    }
    return memmem(bytes + at, size - at, prefix, sizeof prefix);
}

static int scan_chunk(const uint8_t *bytes, size_t size, uint64_t offset, struct scan *scan)
{
    for (size_t at = 0; at < size; at += FRAME_SIZE) {
        const uint8_t *hit = find_prefix(bytes + at, size - at);
        if (!hit)
            return 0;
        at = (size_t)(hit - bytes) / FRAME_SIZE * FRAME_SIZE;
        size_t page = size - at < FRAME_SIZE ? size - at : FRAME_SIZE;
        int r = scan_page(bytes + at, page, offset + at, scan);
        if (r < 0)
            return r;
    }
    return 0;
}

static int became_shorter(struct error *err)
{
    return error_set(err, EIO, "the image became shorter while it was read");
}

static int read_whole(int fd, uint8_t *bytes, size_t size, uint64_t offset, struct error *err)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = pread(fd, bytes + done, size - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_errno(err, errno, "cannot read the image at byte %" PRIu64, offset + done);
        if (n == 0)
            return became_shorter(err);
        done += (size_t)n;
    }
    return 0;
}

static int scan_data(int fd, uint64_t size, scan_progress *progress, void *context,
                     struct scan *scan, struct error *err)
{
    auto_free uint8_t *chunk = malloc(CHUNK_SIZE);
    uint64_t at = 0, end = 0;

    if (!chunk)
        return error_errno(err, ENOMEM, "cannot scan the image");
    while (at < size) {
        if (at >= end) {
            int r = sparse_next(fd, at, size, &at, &end, err);
            if (r < 0)
                return r;
        }
        size_t part = end - at < CHUNK_SIZE ? (size_t)(end - at) : CHUNK_SIZE;
        int r = read_whole(fd, chunk, part, at, err);
        if (r < 0)
            return r;
        r = scan_chunk(chunk, part, at, scan);
        if (r < 0)
            return error_errno(err, -r, "cannot scan the image");
        at += part;
        scan->data_bytes += part;
        if (progress && !progress(context, at, size))
            return error_set(err, ECANCELED, "the scan was cancelled");
    }
    return 0;
}

int scan_image(int fd, scan_progress *progress, void *context, struct scan *ret, struct error *err)
{
    struct scan scan = {0};
    struct stat st;

    if (fstat(fd, &st) < 0)
        return error_errno(err, errno, "cannot stat the image");
    if (!S_ISREG(st.st_mode))
        return error_set(err, EINVAL, "not a regular file");
    if (st.st_size > IMAGE_MAX)
        return error_set(err, EFBIG, "larger than 512 TiB");
    off_t size = st.st_size;
    int r = scan_data(fd, (uint64_t)size, progress, context, &scan, err);
    if (r == 0 && (fstat(fd, &st) < 0 || st.st_size < size))
        r = became_shorter(err);
    if (r == 0 && scan_mark_first(&scan) < 0)
        r = error_errno(err, ENOMEM, "cannot scan the image");
    if (r < 0) {
        scan_finish(&scan);
        return r;
    }
    *ret = scan;
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
