/* SPDX-License-Identifier: MIT */
#include "mailbox/consume.h"

#include <string.h>

static bool has_marker(const struct consume *consume, size_t copy, const uint8_t *frame)
{
    struct frame_marker now;
    enum frame_kind kind = consume->delivery->kind;
    return frame_decode_marker(kind, frame, frame_layouts[kind].sequence, &now) &&
           frame_marker_equal(&now, &consume->delivery->targets[copy]->marker);
}

static void take(struct consume *consume, const uint8_t *frame, size_t size)
{
    const struct frame_layout *layout = &frame_layouts[consume->delivery->kind];
    size_t room = size - layout->payload;
    consume->state = CONSUME_APPLIED;
    if (frame_load_u32(frame + layout->length) != FRAME_REFUSED)
        return;
    consume->state = CONSUME_REFUSED;
    size_t max = room < FRAME_REASON_MAX ? room : FRAME_REASON_MAX;
    memcpy(consume->reason, frame + layout->payload, max);
    consume->reason[max] = '\0';
}

static int look_at_frame(const struct memory_io *io, struct consume *consume, size_t copy,
                         uint8_t frame[FRAME_SIZE], struct error *err)
{
    const struct candidate *target = consume->delivery->targets[copy];
    const struct frame_layout *layout = &frame_layouts[consume->delivery->kind];
    size_t size = layout->payload + target->capacity;
    int r = io->read(io->context, target->offset, frame, layout->length, err);
    if (r < 0)
        return r;
    consume->dropped[copy] = !has_marker(consume, copy, frame);
    if (consume->dropped[copy] || frame_load_u32(frame + layout->sequence) != 0)
        return 0;
    /* Sequence and marker were not read at one moment: the page may have gone between. */
    r = io->read(io->context, target->offset, frame, size, err);
    if (r < 0)
        return r;
    consume->dropped[copy] = !has_marker(consume, copy, frame);
    if (!consume->dropped[copy])
        take(consume, frame, size);
    return 0;
}

/* The page may be another program's by now, with anything in it. */
static int look_at_copy(const struct memory_io *io, struct consume *consume, size_t copy,
                        struct error *err)
{
    uint8_t frame[FRAME_SIZE];
    int r = look_at_frame(io, consume, copy, frame, err);
    explicit_bzero(frame, sizeof frame);
    return r;
}

int consume_refresh(const struct memory_io *io, struct consume *consume, struct error *err)
{
    bool any = false;
    int r = 0;
    for (size_t i = 0; i < consume->delivery->target_count && r == 0; i++) {
        if (consume->state == CONSUME_PENDING && !consume->dropped[i])
            r = look_at_copy(io, consume, i, err);
        any = any || !consume->dropped[i];
    }
    if (r == 0 && !any && consume->state == CONSUME_PENDING)
        consume->state = CONSUME_UNKNOWN;
    return r;
}
