/* SPDX-License-Identifier: MIT */
#include "mailbox/moved.h"

#include <string.h>

bool moved_is_possible(const struct delivery *delivery)
{
    bool declared = false;
    for (size_t i = 0; i < delivery->target_count; i++)
        declared = declared || delivery->declared[i];
    return declared && !delivery->pinned;
}

/* Which of the copies is there? target_count: none. */
static size_t find_copy(const struct delivery *delivery, uint64_t offset)
{
    size_t i = 0;
    while (i < delivery->target_count && delivery->targets[i]->offset != offset)
        i++;
    return i;
}

enum moved_page moved_judge(const struct delivery *delivery, const uint8_t page[FRAME_SIZE])
{
    const struct frame_layout *layout = &frame_layouts[delivery->kind];
    struct frame_marker marker;
    if (memcmp(page, layout->magic, sizeof(uint64_t)) != 0 ||
        !frame_is_declared(delivery->kind, page) ||
        !frame_decode_marker(delivery->kind, page, FRAME_SIZE, &marker) ||
        !frame_marker_equal(&marker, &delivery->targets[0]->marker))
        return MOVED_OTHER;
    return frame_load_u32(page + FRAME_TAKEN) == delivery->sequence ? MOVED_TAKEN : MOVED_ARMED;
}

int moved_write(const struct memory_io *io, const struct delivery *delivery, uint64_t offset,
                bool *ret_written, struct error *err)
{
    uint8_t page[FRAME_SIZE];
    *ret_written = false;
    int r = io->read(io->context, offset, page, sizeof page, err);
    if (r == 0 && moved_judge(delivery, page) == MOVED_ARMED) {
        r = deliver_write_frame(io, delivery, offset, delivery->sequence, err);
        *ret_written = r == 0;
    }
    explicit_bzero(page, sizeof page);
    return r;
}

bool moved_has_room(const struct delivery *delivery, uint64_t offset)
{
    return find_copy(delivery, offset) < DELIVER_COPIES_MAX;
}

void moved_add(struct delivery *delivery, struct consume *consume, uint64_t offset,
               struct candidate *ret)
{
    const size_t copy = find_copy(delivery, offset);
    if (copy == delivery->target_count) {
        *ret = (struct candidate){.marker = delivery->targets[0]->marker,
                                  .offset = offset,
                                  .capacity = (uint32_t)frame_capacity(delivery->kind, true),
                                  .page_aligned = true,
                                  .declared = true};
        delivery->targets[delivery->target_count++] = ret;
    }
    delivery->declared[copy] = true;
    consume->dropped[copy] = false;
    if (consume->state == CONSUME_UNKNOWN)
        consume->state = CONSUME_PENDING;
}
