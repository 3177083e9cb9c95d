/* SPDX-License-Identifier: MIT */
#include "mailbox/consume.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/json.h"

static bool has_marker(const struct consume *consume, size_t copy, const uint8_t *frame)
{
    struct frame_marker now;
    enum frame_kind kind = consume->delivery->kind;
    return frame_decode_marker(kind, frame, frame_layouts[kind].sequence, &now) &&
           frame_marker_equal(&now, &consume->delivery->targets[copy]->marker);
}

/* Of a plain frame that is not known. */
static bool has_taken(const struct consume *consume, size_t copy, const uint8_t *page)
{
    const struct delivery *delivery = consume->delivery;
    return !delivery->declared[copy] ||
           (frame_load_u32(page + frame_layouts[delivery->kind].sequence) == 0 &&
            frame_load_u32(page + FRAME_TAKEN) == delivery->sequence);
}

static void take_reply(struct consume *consume, const uint8_t *area, size_t size)
{
    const size_t room = frame_capacity(consume->delivery->kind, true);
    struct json_check check;
    char *error = consume->reply_error;
    if (size > room) {
        snprintf(error, CONSUME_ERROR_MAX, "the guest's reply has %zu bytes: a mailbox takes %zu",
                 size, room);
    } else if (json_check((const char *)area, size, &check) != JSON_COMPLETE) {
        snprintf(error, CONSUME_ERROR_MAX,
                 "the guest's reply is not a JSON object in UTF-8: at byte %zu, %s", check.offset,
                 check.why[0] ? check.why : "it is not closed");
    } else if (!(consume->reply = strndup((const char *)area, size))) {
        snprintf(error, CONSUME_ERROR_MAX, "out of memory for the guest's reply");
    }
}

static void take(struct consume *consume, const uint8_t *frame, size_t size)
{
    const struct frame_layout *layout = &frame_layouts[consume->delivery->kind];
    const uint8_t *area = frame + layout->payload;
    size_t room = size - layout->payload;
    uint32_t length = frame_load_u32(frame + layout->length);
    consume->state = CONSUME_APPLIED;
    if (size == FRAME_SIZE && frame_length_declares(length) && length != FRAME_DECLARED)
        take_reply(consume, area, length & ~FRAME_DECLARED);
    if (length != FRAME_REFUSED)
        return;
    consume->state = CONSUME_REFUSED;
    size_t max = room < FRAME_REASON_MAX ? room : FRAME_REASON_MAX;
    memcpy(consume->reason, area, max);
    consume->reason[max] = '\0';
}

/* Is it what it was when the rest of the page was read? */
static int check_again(const struct memory_io *io, const struct consume *consume, size_t copy,
                       bool *ret, struct error *err)
{
    uint8_t frame[FRAME_SIZE];
    int r =
        io->read(io->context, consume->delivery->targets[copy]->offset, frame, sizeof frame, err);
    *ret = r == 0 && has_marker(consume, copy, frame) && has_taken(consume, copy, frame);
    explicit_bzero(frame, sizeof frame);
    return r;
}

static int look_at_frame(const struct memory_io *io, struct consume *consume, size_t copy,
                         uint8_t frame[FRAME_SIZE], struct error *err)
{
    const struct candidate *target = consume->delivery->targets[copy];
    const struct frame_layout *layout = &frame_layouts[consume->delivery->kind];
    bool declared = consume->delivery->declared[copy], same = true;
    size_t size = declared ? FRAME_SIZE : layout->payload + target->capacity;
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
    if (consume->dropped[copy] || !has_taken(consume, copy, frame))
        return 0;
    if (declared)
        r = check_again(io, consume, copy, &same, err);
    if (r == 0 && same)
        take(consume, frame, size);
    return r;
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

void consume_finish(struct consume *consume)
{
    char *reply = steal_pointer(consume->reply);
    free_wiped(reply, reply ? strlen(reply) : 0);
}
