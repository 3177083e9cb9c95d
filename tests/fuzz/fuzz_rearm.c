/* SPDX-License-Identifier: MIT */
/* Any "delivered" of a fork.json, with an image that has a frame that was consumed, two that were
 * not, one of them not aligned, one of the network, and two declared ones, of which one was
 * consumed and has a reply. Whatever they say, at most payloads and replies vanish. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "mailbox/rearm.h"
#include "util/cleanup.h"
#include "util/json.h"

enum { SIZE = 6 * FRAME_SIZE, S = 77, ODD = 2 * FRAME_SIZE + 1000 };

static const struct place {
    enum frame_kind kind;
    uint32_t offset, sequence;
    bool declared;
} places[] = {{FRAME_FORK, 0, 0},
              {FRAME_FORK, FRAME_SIZE, 1},
              {FRAME_FORK, ODD, 1},
              {FRAME_FORK, 3 * FRAME_SIZE, 0, true},
              {FRAME_NETWORK, 4 * FRAME_SIZE, 1},
              {FRAME_FORK, 5 * FRAME_SIZE, S, true}};

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
        if (places[i].sequence == 0 && !places[i].declared)
            continue;
        frame_store_u32(frame + layout->length,
                        (sizeof payload - 1) | (places[i].sequence ? 0 : FRAME_DECLARED));
        if (places[i].declared)
            frame_store_u32(frame + FRAME_TAKEN, places[i].sequence ? 5 : S);
        memcpy(frame + layout->payload, payload, sizeof payload - 1);
    }
}

/* May that byte become that? It is behind the marker of a frame, or the one that says that it is
 * declared. */
static bool may_become(size_t at, uint8_t byte)
{
    for (size_t i = 0; i < array_length(places); i++) {
        const struct frame_layout *layout = &frame_layouts[places[i].kind];
        size_t end = places[i].declared ? FRAME_TAIL : FRAME_SIZE;
        if (at < places[i].offset + layout->sequence || at >= places[i].offset + end)
            continue;
        bool declares = at == places[i].offset + layout->length + 3;
        if (byte == 0 || (byte == 0x80 && declares))
            return true;
    }
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
        MUST(after[i] == before[i] || may_become(i, after[i]));
    return r == 0;
}
