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

char *frames_payload(size_t size)
{
    char *payload = malloc(size + 1);
    assert(payload);
    memset(payload, 'a', size);
    memcpy(payload, "{\"x\":\"", 6);
    memcpy(payload + size - 2, "\"}", 3);
    return payload;
}
