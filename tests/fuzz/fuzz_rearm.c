/* SPDX-License-Identifier: MIT */
/* Any "delivered" of a fork.json, with an image that has a frame that was consumed, two that were
 * not, one of them not aligned, and one of the network. Whatever they say, at most payloads vanish.
 */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "mailbox/rearm.h"
#include "util/cleanup.h"
#include "util/json.h"

enum { SIZE = 5 * FRAME_SIZE, ODD = 2 * FRAME_SIZE + 1000 };

static const struct place {
    enum frame_kind kind;
    uint32_t offset, sequence;
} places[] = {{FRAME_FORK, 0, 0},
              {FRAME_FORK, FRAME_SIZE, 1},
              {FRAME_FORK, ODD, 1},
              {FRAME_NETWORK, 4 * FRAME_SIZE, 1}};

static void make_image(uint8_t *image)
{
    static const char payload[] = "{\"a\":1}";
    for (size_t i = 0; i < array_length(places); i++) {
        const struct frame_layout *layout = &frame_layouts[places[i].kind];
        struct frame_marker marker = {.kind = places[i].kind, .token = "token", .token_size = 5};
        uint8_t *frame = image + places[i].offset;
        if (places[i].kind == FRAME_FORK)
            strcpy(marker.name, "box");
        MUST(frame_encode_marker(&marker, frame) > 0);
        frame_store_u32(frame + layout->sequence, places[i].sequence);
        if (places[i].sequence == 0)
            continue;
        frame_store_u32(frame + layout->length, sizeof payload - 1);
        memcpy(frame + layout->payload, payload, sizeof payload - 1);
    }
}

/* Is that byte behind the marker of a frame? */
static bool may_vanish(size_t at)
{
    for (size_t i = 0; i < array_length(places); i++)
        if (at >= places[i].offset + frame_layouts[places[i].kind].sequence &&
            at < places[i].offset + FRAME_SIZE)
            return true;
    return false;
}

bool fuzz(const uint8_t *data, size_t size)
{
    static uint8_t before[SIZE], after[SIZE];
    auto_json cJSON *record = NULL;
    struct error err = {0};
    if (json_parse((const char *)data, size, &record, NULL) < 0)
        return false;
    auto_close int fd = memfd_create("image", MFD_CLOEXEC);
    make_image(before);
    MUST(fd >= 0 && pwrite(fd, before, SIZE, 0) == SIZE);
    int r = rearm_image(fd, cJSON_GetObjectItemCaseSensitive(record, "delivered"), NULL, &err);
    MUST(r == 0 || (err.code == -r && err.text[0]));
    MUST(lseek(fd, 0, SEEK_END) == SIZE && pread(fd, after, SIZE, 0) == SIZE);
    for (size_t i = 0; i < SIZE; i++)
        MUST(after[i] == before[i] || (after[i] == 0 && may_vanish(i)));
    return r == 0;
}
