/* SPDX-License-Identifier: MIT */
#include "frames.h"

#include <stdlib.h>

void frames_put(uint8_t *frame, enum frame_kind kind, const char *name, const char *token,
                uint32_t sequence, const char *payload)
{
    const struct frame_layout *layout = &frame_layouts[kind];
    struct frame_marker marker = {.kind = kind, .token_size = strlen(token)};

    assert(strlen(name) < sizeof marker.name && marker.token_size <= sizeof marker.token);
    memcpy(marker.name, name, strlen(name));
    memcpy(marker.token, token, marker.token_size);
    size_t size = frame_encode_marker(&marker, frame);
    assert(size > 0);
    (void)size;
    frame_store_u32(frame + layout->sequence, sequence);
    frame_store_u32(frame + layout->length, (uint32_t)strlen(payload));
    memcpy(frame + layout->payload, payload, strlen(payload));
}

void frames_arm(uint8_t *frame, const char *name, const char *token)
{
    frames_put(frame, FRAME_FORK, name, token, 0, "");
}

bool frames_is_empty(const uint8_t *page, enum frame_kind kind, uint32_t taken)
{
    const struct frame_layout *layout = &frame_layouts[kind];
    for (size_t i = layout->payload; i < FRAME_FLAGS; i++)
        if (page[i] != 0)
            return false;
    return frame_load_u32(page + layout->sequence) == 0 &&
           frame_load_u32(page + layout->length) == 0x80000000 && page[FRAME_FLAGS] <= 1 &&
           page[FRAME_FLAGS + 1] == 0 && frame_load_u32(page + FRAME_TAKEN) == taken;
}

const char *frames_reply(const uint8_t *page, enum frame_kind kind)
{
    const struct frame_layout *layout = &frame_layouts[kind];
    const char *reply = (const char *)page + layout->payload;
    size_t size = strlen(reply);
    for (size_t i = layout->payload + size; i < FRAME_FLAGS; i++)
        if (page[i] != 0)
            return NULL;
    bool armed = frame_load_u32(page + layout->sequence) == 0 &&
                 frame_load_u32(page + layout->length) == (0x80000000 | (uint32_t)size);
    return armed ? reply : NULL;
}

void frames_declare(uint8_t *page, enum frame_kind kind, const char *reply, uint32_t taken)
{
    const struct frame_layout *layout = &frame_layouts[kind];
    frame_store_u32(page + layout->length, 0x80000000 | (uint32_t)strlen(reply));
    memcpy(page + layout->payload, reply, strlen(reply));
    frame_store_u32(page + FRAME_TAKEN, taken);
}

char *frames_payload(size_t size)
{
    char *payload = malloc(size + 1);
    assert(payload);
    memset(payload, 'a', size);
    memcpy(payload, "{\"x\":\"", 6);
    memcpy(payload + size - 2, "\"}", 3);
    return payload;
}
