/* SPDX-License-Identifier: MIT */
/* Any page of a guest's memory, and any list of candidates in the store. */
#include <errno.h>
#include <string.h>

#include "fuzz.h"
#include "mailbox/deliver.h"
#include "mailbox/scan.h"
#include "util/cleanup.h"
#include "util/json.h"

enum { OFFSET = 16 * FRAME_SIZE };

struct page {
    uint8_t *bytes;
    size_t size;
};

static void check_candidate(const struct page *page, const struct candidate *candidate)
{
    const struct frame_layout *layout = &frame_layouts[candidate->marker.kind];
    size_t at = (size_t)(candidate->offset - OFFSET);
    uint8_t marker[FRAME_MARKER_MAX];

    size_t tail = candidate->declared ? FRAME_SIZE - FRAME_TAIL : 0;

    MUST(candidate->offset >= OFFSET &&
         at + layout->payload + candidate->capacity + tail == page->size);
    MUST(candidate->page_aligned == (at == 0));
    MUST(!candidate->declared || (at == 0 && page->size == FRAME_SIZE && !candidate->pending));
    MUST(candidate->pending == (frame_load_u32(page->bytes + at + layout->sequence) != 0));
    MUST(frame_encode_marker(&candidate->marker, marker) > 0);
    MUST(memcmp(marker, page->bytes + at, layout->sequence) == 0);
}

static void check_index(const struct scan *scan, uint64_t image_size)
{
    struct scan again;
    auto_json cJSON *json = scan_to_json(scan);
    auto_json cJSON *declared = scan_declared_to_json(scan);

    MUST(json && scan_from_json(json, image_size, &again, NULL) == 0);
    MUST(declared && scan_declared_from_json(declared, &again, NULL) == 0);
    MUST(again.count == scan->count && again.noise == scan->noise);
    for (size_t i = 0; i < scan->count; i++) {
        const struct candidate *a = &scan->candidates[i], *b = &again.candidates[i];
        MUST(frame_marker_equal(&a->marker, &b->marker) && a->offset == b->offset);
        MUST(a->capacity == b->capacity && a->page_aligned == b->page_aligned);
        MUST(a->pending == b->pending && a->clean == b->clean && a->declared == b->declared);
    }
    scan_finish(&again);
}

static int read_page(void *context, uint64_t offset, void *bytes, size_t size, struct error *err)
{
    const struct page *page = context;
    (void)err;
    MUST(offset >= OFFSET && offset - OFFSET + size <= page->size);
    memcpy(bytes, page->bytes + (offset - OFFSET), size);
    return 0;
}

static int write_page(void *context, uint64_t offset, const void *bytes, size_t size,
                      struct error *err)
{
    const struct page *page = context;
    (void)err;
    MUST(offset >= OFFSET && offset - OFFSET + size <= page->size);
    memcpy(page->bytes + (offset - OFFSET), bytes, size);
    return 0;
}

static void deliver(struct page *page, const struct scan *scan, const struct candidate *candidate)
{
    const struct memory_io io = {read_page, write_page, page};
    struct delivery delivery = {.kind = candidate->marker.kind,
                                .name = candidate->marker.name,
                                .token = candidate->marker.token,
                                .token_size = candidate->marker.token_size,
                                .payload = "{}",
                                .payload_size = 2};
    auto_json cJSON *shown = scan_describe(scan, candidate->marker.name);

    MUST(shown);
    if (deliver_locate(scan, &delivery, NULL) < 0)
        return;
    MUST(delivery.target_count > 0 && !delivery.targets[0]->pending);
    int r = deliver_preflight(&io, &delivery, 1, NULL);
    if (r < 0) /* an earlier candidate's payload stands in this one's frame */
        return;
    MUST(deliver_write(&io, &delivery, 1, NULL) == 0);
    MUST(deliver_preflight(&io, &delivery, 1, NULL) < 0);
}

static bool check_page(const uint8_t *data, size_t size)
{
    struct scan scan = {.data_bytes = size};
    struct page page = {malloc(size ? size : 1), size};

    MUST(page.bytes);
    memcpy(page.bytes, data, size);
    MUST(scan_page(page.bytes, size, OFFSET, &scan) == 0);
    for (size_t i = 0; i < scan.count; i++) {
        MUST(i == 0 || scan.candidates[i - 1].offset < scan.candidates[i].offset);
        check_candidate(&page, &scan.candidates[i]);
    }
    check_index(&scan, OFFSET + size);
    for (size_t i = 0; i < scan.count; i++)
        deliver(&page, &scan, &scan.candidates[i]);
    bool found = scan.count > 0;
    scan_finish(&scan);
    free(page.bytes);
    return found;
}

/* A scan passes over whole pages in which it suspects nothing. */
static void check_pages(const uint8_t *data, size_t size)
{
    static uint8_t bytes[2 * FRAME_SIZE];
    struct scan scan = {0}, wanted = {0};

    memset(bytes, 0, sizeof bytes);
    memcpy(bytes + FRAME_SIZE, data, size);
    MUST(scan_pages(bytes, sizeof bytes, OFFSET, &scan) == 0);
    MUST(scan_page(bytes + FRAME_SIZE, FRAME_SIZE, OFFSET + FRAME_SIZE, &wanted) == 0);
    MUST(scan.count == wanted.count && scan.noise == wanted.noise);
    for (size_t i = 0; i < scan.count; i++)
        MUST(scan.candidates[i].offset == wanted.candidates[i].offset);
    scan_finish(&scan);
    scan_finish(&wanted);
}

/* Of which candidates are declared, in an index that has three: one is pending, and one no page. */
static bool check_declared(const cJSON *json)
{
    struct candidate candidates[] = {
        {.offset = 0, .page_aligned = true, .capacity = FRAME_CAPACITY, .pending = true},
        {.offset = FRAME_SIZE, .page_aligned = true, .capacity = FRAME_CAPACITY},
        {.offset = 2 * FRAME_SIZE + 16, .capacity = FRAME_CAPACITY - 16},
    };
    struct scan scan = {.candidates = candidates, .count = 3};
    struct error err = {0};
    int r = scan_declared_from_json(json_get(json, "declared"), &scan, &err);
    MUST(r == 0 || (r == -EINVAL && *err.text));
    for (size_t i = 0; i < 3; i++)
        MUST(!candidates[i].declared || (i == 1 && candidates[i].capacity == FRAME_CAPACITY - 8));
    return r == 0 && json_get(json, "declared");
}

static bool check_stored(const uint8_t *data, size_t size)
{
    const uint64_t image_size = 1 << 20;
    auto_json cJSON *json = NULL;
    struct error err = {0};
    struct scan scan;

    if (json_parse((const char *)data, size, &json, &err) < 0)
        return false;
    bool declared = check_declared(json);
    int r = scan_from_json(json, image_size, &scan, &err);
    if (r < 0) {
        MUST(err.code == -r && *err.text);
        return declared;
    }
    check_index(&scan, image_size);
    scan_finish(&scan);
    return true;
}

bool fuzz(const uint8_t *data, size_t size)
{
    bool found = check_page(data, size < FRAME_SIZE ? size : FRAME_SIZE);
    check_pages(data, size < FRAME_SIZE ? size : FRAME_SIZE);
    bool stored = check_stored(data, size);
    return found || stored;
}
