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
    /* A declared frame has a tail, too. */
    size_t size = before->page_aligned
                      ? FRAME_SIZE
                      : (size_t)(before->offset - start) +
                            frame_layouts[before->marker.kind].payload + before->capacity;
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
static bool is_ours(const struct delivery *delivery, size_t copy, const uint8_t *frame, size_t size)
{
    const struct frame_layout *layout = &frame_layouts[delivery->kind];
    const struct candidate *target = delivery->targets[copy];
    struct frame_marker marker;
    bool same = frame_decode_marker(delivery->kind, frame, size, &marker) &&
                frame_marker_equal(&marker, &target->marker) &&
                frame_load_u32(frame + layout->sequence) == deliver_sequence(delivery, copy) &&
                frame_load_u32(frame + layout->length) == delivery->payload_size &&
                memcmp(frame + layout->payload, delivery->payload, delivery->payload_size) == 0;
    explicit_bzero(&marker, sizeof marker);
    return same;
}

/* How much of a copy is looked at: of a declared one its tail, too. */
static size_t size_of(const struct delivery *delivery, size_t copy)
{
    return delivery->declared[copy]
               ? FRAME_SIZE
               : frame_layouts[delivery->kind].payload + delivery->payload_size;
}

static int is_at_work(const struct memory_io *io, const struct delivery *delivery, size_t copy,
                      bool *ret, struct error *err)
{
    uint8_t frame[FRAME_SIZE];
    if (!delivery->declared[copy])
        return 0;
    int r = io->read(io->context, delivery->targets[copy]->offset, frame, sizeof frame, err);
    if (r == 0 && is_ours(delivery, copy, frame, sizeof frame) &&
        frame_load_u32(frame + FRAME_TAKEN) == delivery->sequence)
        *ret = true;
    explicit_bzero(frame, sizeof frame);
    return r;
}

/* If it holds the payload, or, `begun`, a part of it. */
static int withdraw(const struct memory_io *io, const struct delivery *delivery, size_t copy,
                    bool begun, struct error *err)
{
    const struct frame_layout *layout = &frame_layouts[delivery->kind];
    const uint64_t offset = delivery->targets[copy]->offset;
    const size_t size = size_of(delivery, copy);
    uint8_t frame[FRAME_SIZE], armed[FRAME_SIZE] = {0};
    int r = io->read(io->context, offset, frame, size, err);
    if (delivery->declared[copy])
        frame_store_u32(armed + layout->length, FRAME_DECLARED);
    if (r == 0 && (is_ours(delivery, copy, frame, size) ||
                   (begun && frame_load_u32(frame + layout->sequence) == 0)))
        r = io->write(io->context, offset + layout->sequence, armed + layout->sequence,
                      layout->payload + delivery->payload_size - layout->sequence, err);
    explicit_bzero(frame, sizeof frame);
    return r;
}

int live_withdraw(const struct memory_io *io, struct consume *consume, bool *ret_at_work,
                  struct error *err)
{
    const struct delivery *delivery = consume->delivery;
    int r = consume_refresh(io, consume, err);
    *ret_at_work = false;
    if (r < 0 || consume->state != CONSUME_PENDING)
        return r;
    for (size_t i = 0; i < delivery->target_count && r == 0; i++)
        if (!consume->dropped[i])
            r = is_at_work(io, delivery, i, ret_at_work, err);
    for (size_t i = 0; i < delivery->target_count && r == 0 && !*ret_at_work; i++)
        if (!consume->dropped[i])
            r = withdraw(io, delivery, i, false, err);
    return r;
}

void live_undo(const struct memory_io *io, const struct delivery *delivery)
{
    for (size_t i = 0; i < delivery->target_count; i++)
        withdraw(io, delivery, i, true, NULL);
}
