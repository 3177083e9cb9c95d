/* SPDX-License-Identifier: MIT */
/*
 * frame: the 4096 bytes that a guest and the host agree on.
 *
 * Fork mailbox, version 1 (frame_layouts[FRAME_FORK])
 *     0     24  magic "HYPEMAN_FORK_MAILBOX_V1", NUL
 *     24    n   name, [A-Za-z0-9._:-]{1,64}, not "." or ".."
 *     24+n  1   NUL
 *     25+n  t   token, 1 to 128 bytes, no NUL, not all white space
 *     …         zeros up to 256
 *     256   4   sequence, u32 little-endian: 0 armed, otherwise a payload is there
 *     260   4   length of the payload, u32 little-endian
 *     264       payload, a JSON object in UTF-8, at most 3832 bytes
 *
 * Resume-network mailbox, version 1 (frame_layouts[FRAME_NETWORK])
 *     0     34  magic "HYPEMAN_RESUME_NETWORK_MAILBOX_V1", NUL
 *     34    t   token, 1 to 30 bytes; zeros up to 64
 *     64    4   sequence; 68: length; 72: payload, at most 4024 bytes
 *
 * The marker is what stands before the zeros: magic, name, NUL, token. It ends where the sequence
 * field begins at the latest: a network token of 30 bytes has no zero behind it. The host writes
 * payload, then length, then sequence = 1. The guest reads it, acts, zeroes payload and length,
 * then stores sequence = 0. A refusal: the reason (at most 512 bytes) in a zeroed payload area,
 * length = FRAME_REFUSED, then sequence = 0; it stays until the next delivery and counts as armed.
 *
 * A declared frame is a page, and armed with length = FRAME_DECLARED | n, where the first n bytes
 * of the payload area are a reply, a JSON object. Its last 8 bytes are the tail, which is no part
 * of the payload area:
 *     4088  2   number of parts, u16 little-endian: 0
 *     4090  2   flags, u16 little-endian: FRAME_PINNED
 *     4092  4   taken: the sequence that the guest took last, at first 0
 * The host writes a random sequence from FRAME_SEQUENCE_MIN to FRAME_SEQUENCE_MAX into it. The
 * guest stores that into `taken` before it reads the payload, and applies a sequence only once. A
 * guest that finds sequence 1 has a host that knows plain frames only, and leaves `taken` as it is.
 *
 * Pure, no allocation, libc only: the guest library is built from this file too. All sizes in
 * bytes.
 */
#ifndef HYPEFS_MAILBOX_FRAME_H
#define HYPEFS_MAILBOX_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FRAME_SIZE = 4096, /* one page, on every architecture that hypefs knows */
    FRAME_NAME_MAX = 64,
    FRAME_TOKEN_MAX = 128,
    FRAME_MARKER_MAX = 256,
    FRAME_REASON_MAX = 512,
    FRAME_CAPACITY = 3832, /* payload bytes of a fork mailbox */
    FRAME_TAIL = 4088,     /* of a declared frame */
    FRAME_FLAGS = 4090,
    FRAME_TAKEN = 4092,
    FRAME_PINNED = 1, /* a flag: the page never moves */
    FRAME_SEQUENCE_MIN = 2,
    FRAME_SEQUENCE_MAX = 0x7FFFFFFF,
};
#define FRAME_REFUSED UINT32_C(0xFFFFFFFF)
#define FRAME_DECLARED UINT32_C(0x80000000)

enum frame_kind { FRAME_FORK, FRAME_NETWORK, FRAME_KINDS };

struct frame_layout {
    const char *magic; /* magic_size bytes, the NUL counted */
    size_t magic_size;
    size_t token_max;
    size_t sequence; /* offset; the length field is 4 bytes behind it */
    size_t length;
    size_t payload;
    bool named;
};

extern const struct frame_layout frame_layouts[FRAME_KINDS];

struct frame_marker {
    enum frame_kind kind;
    char name[FRAME_NAME_MAX + 1]; /* "" for FRAME_NETWORK */
    uint8_t token[FRAME_TOKEN_MAX];
    size_t token_size;
};

bool frame_name_valid(const char *name, size_t size);
bool frame_token_valid(enum frame_kind kind, const void *token, size_t size);

/* Writes the marker and the zeros up to the sequence field. `bytes` has room for
 * frame_layouts[kind].sequence. Returns the marker's size, or 0 if name or token is not valid. */
size_t frame_encode_marker(const struct frame_marker *marker, uint8_t *bytes);

/* Reads a marker of that kind at bytes[0..size). False unless there are at least
 * frame_layouts[kind].sequence bytes, with magic, a valid name and token and only zeros behind. */
bool frame_decode_marker(enum frame_kind kind, const uint8_t *bytes, size_t size,
                         struct frame_marker *ret);

bool frame_marker_equal(const struct frame_marker *a, const struct frame_marker *b);

/* Is the page, which is an armed frame of that kind, a declared one? A refusal has no room for
 * FRAME_DECLARED: by what was taken before. */
bool frame_is_declared(enum frame_kind kind, const uint8_t page[FRAME_SIZE]);

/* Does an armed frame say by that length that it has a reply, or that it is declared? */
static inline bool frame_length_declares(uint32_t length)
{
    return length & FRAME_DECLARED && length != FRAME_REFUSED;
}

/* Payload bytes of a frame that is a page. */
static inline size_t frame_capacity(enum frame_kind kind, bool declared)
{
    return (size_t)(declared ? FRAME_TAIL : FRAME_SIZE) - frame_layouts[kind].payload;
}

static inline uint32_t frame_load_u32(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
           (uint32_t)bytes[3] << 24;
}

static inline void frame_store_u32(uint8_t *bytes, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
}

#endif
