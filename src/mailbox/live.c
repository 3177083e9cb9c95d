/* SPDX-License-Identifier: MIT */
#include "mailbox/live.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Adds the candidate as it is now, if it is there. */
static int look_again(const struct memory_io *io, const struct candidate *before, struct scan *ret,
                      struct error *err)
{
    uint8_t page[FRAME_SIZE];
    uint64_t start = before->offset / FRAME_SIZE * FRAME_SIZE;
    size_t size = (size_t)(before->offset - start) + frame_layouts[before->marker.kind].payload +
                  before->capacity;
    struct scan now = {0};
    int r = io->read(io->context, start, page, size, err);
    if (r < 0)
        return r;
    r = scan_page(page, size, start, &now) < 0 ? error_set(err, ENOMEM, "out of memory") : 0;
    for (size_t i = 0; i < now.count && r == 0; i++)
        if (now.candidates[i].offset == before->offset &&
            frame_marker_equal(&now.candidates[i].marker, &before->marker))
            ret->candidates[ret->count++] = now.candidates[i];
    scan_finish(&now);
    explicit_bzero(page, sizeof page);
    return r;
}

int live_refresh(const struct memory_io *io, const struct scan *list, enum frame_kind kind,
                 const char *name, struct scan *ret, struct error *err)
{
    struct scan found = {.truncated = list->truncated};
    int r = 0;
    found.candidates = calloc(list->count + 1, sizeof *found.candidates);
    if (!found.candidates)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < list->count && r == 0; i++) {
        const struct frame_marker *marker = &list->candidates[i].marker;
        if (marker->kind == kind && strcmp(marker->name, name) == 0)
            r = look_again(io, &list->candidates[i], &found, err);
    }
    if (r < 0)
        scan_finish(&found);
    else
        *ret = found;
    return r;
}

/* Does the copy hold the payload, as it was written? */
static bool is_ours(const struct delivery *delivery, const struct candidate *target,
                    const uint8_t *frame, size_t size)
{
    const struct frame_layout *layout = &frame_layouts[delivery->kind];
    struct frame_marker marker;
    bool same = frame_decode_marker(delivery->kind, frame, size, &marker) &&
                frame_marker_equal(&marker, &target->marker) &&
                frame_load_u32(frame + layout->sequence) == 1 &&
                frame_load_u32(frame + layout->length) == delivery->payload_size &&
                memcmp(frame + layout->payload, delivery->payload, delivery->payload_size) == 0;
    explicit_bzero(&marker, sizeof marker);
    return same;
}

static int withdraw(const struct memory_io *io, const struct delivery *delivery,
                    const struct candidate *target, struct error *err)
{
    static const uint8_t zeros[FRAME_SIZE];
    const struct frame_layout *layout = &frame_layouts[delivery->kind];
    const size_t size = layout->payload + delivery->payload_size;
    uint8_t frame[FRAME_SIZE];
    int r = io->read(io->context, target->offset, frame, size, err);
    if (r == 0 && is_ours(delivery, target, frame, size))
        r = io->write(io->context, target->offset + layout->sequence, zeros,
                      size - layout->sequence, err);
    explicit_bzero(frame, sizeof frame);
    return r;
}

int live_withdraw(const struct memory_io *io, struct consume *consume, struct error *err)
{
    const struct delivery *delivery = consume->delivery;
    int r = consume_refresh(io, consume, err);
    for (size_t i = 0; i < delivery->target_count && r == 0 && consume->state == CONSUME_PENDING;
         i++)
        if (!consume->dropped[i])
            r = withdraw(io, delivery, delivery->targets[i], err);
    return r;
}
