/* SPDX-License-Identifier: MIT */
#include "mailbox/frame.h"

#include <assert.h>
#include <string.h>

enum { NETWORK_TOKEN_MAX = 30 };

static const char fork_magic[] = "HYPEMAN_FORK_MAILBOX_V1";
static const char network_magic[] = "HYPEMAN_RESUME_NETWORK_MAILBOX_V1";

/* The longest name and token leave room for the sequence field, in both layouts. */
static_assert(sizeof fork_magic + FRAME_NAME_MAX + 1 + FRAME_TOKEN_MAX <= 256, "fork marker");
static_assert(sizeof network_magic + NETWORK_TOKEN_MAX <= 64, "network marker");

const struct frame_layout frame_layouts[FRAME_KINDS] = {
    [FRAME_FORK] = {.magic = fork_magic,
                    .magic_size = sizeof fork_magic,
                    .token_max = FRAME_TOKEN_MAX,
                    .sequence = 256,
                    .length = 260,
                    .payload = 264,
                    .named = true},
    [FRAME_NETWORK] = {.magic = network_magic,
                       .magic_size = sizeof network_magic,
                       .token_max = NETWORK_TOKEN_MAX,
                       .sequence = 64,
                       .length = 68,
                       .payload = 72,
                       .named = false},
};

static bool name_char(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == ':' || c == '-';
}

bool frame_name_valid(const char *name, size_t size)
{
    if (size < 1 || size > FRAME_NAME_MAX)
        return false;
    for (size_t i = 0; i < size; i++)
        if (!name_char(name[i]))
            return false;
    bool dots = name[0] == '.' && (size == 1 || (size == 2 && name[1] == '.'));
    return !dots;
}

bool frame_token_valid(enum frame_kind kind, const void *token, size_t size)
{
    const uint8_t *bytes = token;
    bool visible = false;
    if (size < 1 || size > frame_layouts[kind].token_max)
        return false;
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] == 0)
            return false;
        if (bytes[i] != ' ' && (bytes[i] < '\t' || bytes[i] > '\r'))
            visible = true;
    }
    return visible;
}

size_t frame_encode_marker(const struct frame_marker *marker, uint8_t *bytes)
{
    const struct frame_layout *layout = &frame_layouts[marker->kind];
    size_t name_size = strnlen(marker->name, sizeof marker->name);
    size_t token_at = layout->magic_size + (layout->named ? name_size + 1 : 0);

    if (layout->named && !frame_name_valid(marker->name, name_size))
        return 0;
    if (!frame_token_valid(marker->kind, marker->token, marker->token_size))
        return 0;
    memset(bytes, 0, layout->sequence);
    memcpy(bytes, layout->magic, layout->magic_size);
    if (layout->named)
        memcpy(bytes + layout->magic_size, marker->name, name_size);
    memcpy(bytes + token_at, marker->token, marker->token_size);
    return token_at + marker->token_size;
}

bool frame_decode_marker(enum frame_kind kind, const uint8_t *bytes, size_t size,
                         struct frame_marker *ret)
{
    const struct frame_layout *layout = &frame_layouts[kind];
    struct frame_marker marker = {.kind = kind};
    size_t at = layout->magic_size;

    if (size < layout->sequence || memcmp(bytes, layout->magic, layout->magic_size) != 0)
        return false;
    if (layout->named) {
        size_t name_size = strnlen((const char *)bytes + at, FRAME_NAME_MAX + 1);
        if (!frame_name_valid((const char *)bytes + at, name_size))
            return false;
        memcpy(marker.name, bytes + at, name_size);
        at += name_size + 1;
    }
    marker.token_size = strnlen((const char *)bytes + at, layout->sequence - at);
    if (!frame_token_valid(kind, bytes + at, marker.token_size))
        return false;
    memcpy(marker.token, bytes + at, marker.token_size);
    for (at += marker.token_size; at < layout->sequence; at++)
        if (bytes[at] != 0)
            return false;
    *ret = marker;
    return true;
}

bool frame_marker_equal(const struct frame_marker *a, const struct frame_marker *b)
{
    return a->kind == b->kind && strcmp(a->name, b->name) == 0 && a->token_size == b->token_size &&
           memcmp(a->token, b->token, a->token_size) == 0;
}

bool frame_is_declared(enum frame_kind kind, const uint8_t page[FRAME_SIZE])
{
    const struct frame_layout *layout = &frame_layouts[kind];
    uint32_t length = frame_load_u32(page + layout->length);
    uint32_t taken = frame_load_u32(page + FRAME_TAKEN);
    if (frame_load_u32(page + layout->sequence) != 0)
        return false;
    /* A plain frame's refusal ends with zeros. */
    return frame_length_declares(length) ||
           (length == FRAME_REFUSED && taken >= FRAME_SEQUENCE_MIN && taken <= FRAME_SEQUENCE_MAX);
}
