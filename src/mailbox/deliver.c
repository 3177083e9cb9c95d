/* SPDX-License-Identifier: MIT */
#include "mailbox/deliver.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>

/* Says which mailbox the error is about; `r` is the return value. */
static int about(const struct delivery *delivery, int r, struct error *err)
{
    if (delivery->kind == FRAME_NETWORK)
        return error_prefix(err, r, "the resume-network mailbox");
    return error_prefix(err, r, "mailbox \"%.64s\"", delivery->name);
}

static bool is_named(const struct candidate *candidate, const struct delivery *delivery)
{
    return candidate->marker.kind == delivery->kind &&
           strcmp(candidate->marker.name, delivery->name) == 0;
}

static bool has_token(const struct candidate *candidate, const void *token, size_t size)
{
    return candidate->marker.token_size == size &&
           memcmp(candidate->marker.token, token, size) == 0;
}

static bool is_meant(const struct candidate *candidate, const struct delivery *delivery)
{
    return is_named(candidate, delivery) &&
           (delivery->token_size == 0 ||
            has_token(candidate, delivery->token, delivery->token_size));
}

static int none(const struct scan *scan, const struct delivery *delivery, struct error *err)
{
    for (size_t i = 0; i < scan->count; i++)
        if (is_named(&scan->candidates[i], delivery))
            return error_set(err, EKEYREJECTED,
                             "it is there, but not with the token given: use the token in the "
                             "source's mailboxes/ or network");
    return error_set(
        err, ENOENT,
        "it is not in the memory image%s: its software must have armed it before the VM was saved",
        scan->truncated ? ", or behind the first 4096 frames in it" : "");
}

/* Counts those that are meant, by alignment: all must have one token, used or not. */
static int count(const struct scan *scan, const struct delivery *delivery, size_t by_alignment[2],
                 struct error *err)
{
    const struct candidate *first = NULL;

    for (size_t i = 0; i < scan->count; i++) {
        const struct candidate *candidate = &scan->candidates[i];
        if (!is_meant(candidate, delivery))
            continue;
        first = first ? first : candidate;
        if (!has_token(candidate, first->marker.token, first->marker.token_size))
            return error_set(err, ENOTUNIQ,
                             "it is there with several tokens, and none was given: give the "
                             "\"token\" of the one in use");
        by_alignment[candidate->page_aligned]++;
    }
    return 0;
}

/* Takes the candidates that are meant and page-aligned; if there are none, the unaligned ones. */
static int collect(const struct scan *scan, struct delivery *delivery, struct error *err)
{
    size_t by_alignment[2] = {0, 0};

    int r = count(scan, delivery, by_alignment, err);
    if (r < 0)
        return r;
    bool aligned = by_alignment[true] > 0;
    if (!aligned && by_alignment[false] == 0)
        return none(scan, delivery, err);
    for (size_t i = 0; i < scan->count; i++) {
        const struct candidate *candidate = &scan->candidates[i];
        if (!is_meant(candidate, delivery) || candidate->page_aligned != aligned)
            continue;
        if (delivery->target_count < DELIVER_COPIES_MAX)
            delivery->targets[delivery->target_count++] = candidate;
    }
    if (by_alignment[aligned] > DELIVER_COPIES_MAX)
        return error_set(err, ENOTUNIQ, "%zu copies of it are in the memory image, %d are allowed",
                         by_alignment[aligned], DELIVER_COPIES_MAX);
    if (scan->truncated)
        return error_set(err, ENOTUNIQ,
                         "the memory image has more than %d frames, not all of which are known: "
                         "which one is in use cannot be told",
                         SCAN_CANDIDATES_MAX);
    if (!aligned && delivery->target_count > 1)
        return error_set(err, ENOTUNIQ,
                         "%zu copies of it, and none begins at a page: "
                         "which one is in use cannot be told",
                         delivery->target_count);
    return 0;
}

static int check_candidate(const struct delivery *delivery, const struct candidate *candidate,
                           struct error *err)
{
    if (candidate->pending)
        return error_set(err, EBUSY,
                         "it is pending: its guest had not taken an earlier payload when it was "
                         "saved; make a snapshot when it has");
    if (!candidate->page_aligned && !candidate->clean)
        return error_set(err, EBUSY,
                         "it does not begin at a page, and its page holds other data after it");
    if (delivery->payload_size > candidate->capacity)
        return error_set(err, EFBIG, "the payload has %zu bytes, there is room for %" PRIu32,
                         delivery->payload_size, candidate->capacity);
    return 0;
}

int deliver_locate(const struct scan *scan, struct delivery *delivery, struct error *err)
{
    struct delivery found = *delivery;

    found.target_count = 0;
    int r = collect(scan, &found, err);
    for (size_t i = 0; r == 0 && i < found.target_count; i++)
        r = check_candidate(&found, found.targets[i], err);
    if (r < 0)
        return about(delivery, r, err);
    *delivery = found;
    return 0;
}

typedef int step(const struct memory_io *io, struct delivery *delivery, size_t copy,
                 struct error *err);

static int for_each_target(const struct memory_io *io, struct delivery *deliveries, size_t count,
                           step *act, struct error *err)
{
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < deliveries[i].target_count; k++) {
            int r = act(io, &deliveries[i], k, err);
            if (r < 0)
                return about(&deliveries[i], r, err);
        }
    return 0;
}

static uint32_t random_sequence(void)
{
    uint32_t sequence = 0;
    while (sequence < FRAME_SEQUENCE_MIN)
        if (getrandom(&sequence, sizeof sequence, 0) == sizeof sequence)
            sequence &= FRAME_SEQUENCE_MAX;
        else
            sequence = 0;
    return sequence;
}

/* The candidate may come from an index that does not know what is declared. */
static int check_found(struct delivery *delivery, size_t copy, const struct candidate *found,
                       const uint8_t *page, struct error *err)
{
    delivery->declared[copy] = found->declared;
    if (found->declared && page[FRAME_FLAGS] & FRAME_PINNED)
        delivery->pinned = true;
    while (found->declared && frame_load_u32(page + FRAME_TAKEN) == delivery->sequence)
        delivery->sequence = random_sequence();
    return check_candidate(delivery, found, err);
}

/* Does the page in memory still show what the kept scan says? */
static int check_page(const struct memory_io *io, struct delivery *delivery, size_t copy,
                      struct error *err)
{
    uint8_t page[FRAME_SIZE];
    const struct candidate *target = delivery->targets[copy];
    const size_t payload = frame_layouts[delivery->kind].payload;
    uint64_t start = target->offset / FRAME_SIZE * FRAME_SIZE;
    /* A frame that was found to be declared has a tail, too. */
    size_t size = target->declared ? FRAME_SIZE
                                   : (size_t)(target->offset - start) + payload + target->capacity;
    const struct candidate *same = NULL;
    struct scan now = {0};

    assert(size <= sizeof page);
    int r = io->read(io->context, start, page, size, err);
    if (r < 0)
        return r;
    r = scan_page(page, size, start, &now);
    for (size_t i = 0; i < now.count; i++)
        if (now.candidates[i].offset == target->offset &&
            frame_marker_equal(&now.candidates[i].marker, &target->marker))
            same = &now.candidates[i];
    if (r < 0)
        error_errno(err, -r, "cannot read its page");
    else if (same)
        r = check_found(delivery, copy, same, page, err);
    else
        r = error_set(err, EIO, "its marker is not there any more: the image has changed");
    scan_finish(&now);
    explicit_bzero(page, sizeof page);
    return r;
}

int deliver_preflight(const struct memory_io *io, struct delivery *deliveries, size_t count,
                      struct error *err)
{
    for (size_t i = 0; i < count; i++) {
        deliveries[i].pinned = false;
        if (deliveries[i].sequence == 0)
            deliveries[i].sequence = random_sequence();
    }
    return for_each_target(io, deliveries, count, check_page, err);
}

/* In this order, so that a guest that sees the sequence finds the rest in place. */
int deliver_write_frame(const struct memory_io *io, const struct delivery *delivery,
                        uint64_t offset, uint32_t sequence, struct error *err)
{
    const struct frame_layout *layout = &frame_layouts[delivery->kind];
    uint8_t length_bytes[4], sequence_bytes[4];

    frame_store_u32(length_bytes, (uint32_t)delivery->payload_size);
    frame_store_u32(sequence_bytes, sequence);
    int r = io->write(io->context, offset + layout->payload, delivery->payload,
                      delivery->payload_size, err);
    if (r == 0)
        r = io->write(io->context, offset + layout->length, length_bytes, sizeof length_bytes, err);
    if (r == 0)
        r = io->write(io->context, offset + layout->sequence, sequence_bytes, sizeof sequence_bytes,
                      err);
    return r;
}

static int write_copy(const struct memory_io *io, struct delivery *delivery, size_t copy,
                      struct error *err)
{
    const struct candidate *target = delivery->targets[copy];
    assert(delivery->payload_size <= target->capacity);
    return deliver_write_frame(io, delivery, target->offset, deliver_sequence(delivery, copy), err);
}

static int verify_frame(const struct memory_io *io, struct delivery *delivery, size_t copy,
                        struct error *err)
{
    const struct frame_layout *layout = &frame_layouts[delivery->kind];
    const struct candidate *target = delivery->targets[copy];
    size_t size = layout->payload + delivery->payload_size;
    uint8_t frame[FRAME_SIZE];
    struct frame_marker marker;

    int r = io->read(io->context, target->offset, frame, size, err);
    if (r == 0 && (!frame_decode_marker(delivery->kind, frame, size, &marker) ||
                   !frame_marker_equal(&marker, &target->marker) ||
                   frame_load_u32(frame + layout->sequence) != deliver_sequence(delivery, copy) ||
                   frame_load_u32(frame + layout->length) != delivery->payload_size ||
                   memcmp(frame + layout->payload, delivery->payload, delivery->payload_size) != 0))
        r = error_set(err, EIO, "what was written is not what is read back");
    explicit_bzero(frame, sizeof frame);
    explicit_bzero(&marker, sizeof marker);
    return r;
}

/* All are read back after the last write: frames that overlap are noticed. */
int deliver_write(const struct memory_io *io, struct delivery *deliveries, size_t count,
                  struct error *err)
{
    int r = for_each_target(io, deliveries, count, write_copy, err);
    return r < 0 ? r : for_each_target(io, deliveries, count, verify_frame, err);
}
