/* SPDX-License-Identifier: MIT */
/*
 * deliver: decides which frames a payload may be written to, and writes it.
 *
 * Three steps, each for all deliveries of a fork before the next begins, so that nothing is written
 * when one of several cannot be delivered:
 *   deliver_locate     from the kept candidates alone: exactly one name, one token, safe places
 *   deliver_preflight  in the memory to be patched: the same marker, still armed, everywhere
 *   deliver_write      payload, then length, then the sequence: 1, or a random one into declared
 *                      frames; read back
 * The memory is behind two functions, so that this module knows neither files nor VMMs.
 */
#ifndef HYPEFS_MAILBOX_DELIVER_H
#define HYPEFS_MAILBOX_DELIVER_H

#include "mailbox/scan.h"

enum {
    DELIVER_COPIES_MAX = 64,    /* frames that one payload is written to */
    DELIVER_MAILBOXES_MAX = 16, /* deliveries in one fork */
};

struct memory_io {
    /* Both: exactly `size` bytes at `offset` of the image, or -errno with a text. */
    int (*read)(void *context, uint64_t offset, void *bytes, size_t size, struct error *err);
    int (*write)(void *context, uint64_t offset, const void *bytes, size_t size, struct error *err);
    void *context;
};

struct delivery {
    /* Set by the caller, borrowed. */
    enum frame_kind kind;
    const char *name;     /* "" for FRAME_NETWORK */
    const uint8_t *token; /* with token_size 0: any, if there is but one */
    size_t token_size;
    const char *payload;
    size_t payload_size;

    /* Set by deliver_locate(), borrowed from the scan. */
    const struct candidate *targets[DELIVER_COPIES_MAX];
    size_t target_count;

    /* Set by deliver_preflight(). */
    bool declared[DELIVER_COPIES_MAX]; /* by target, as the memory says now */
    uint32_t sequence;                 /* for these: random, and none of them has taken it; stays
                                          the same at the next preflight if it can */
    bool pinned;                       /* one of these says that its page never moves */
};

/* What is written into that copy. */
static inline uint32_t deliver_sequence(const struct delivery *delivery, size_t copy)
{
    return delivery->declared[copy] ? delivery->sequence : 1;
}

/* ENOENT no such mailbox; EKEYREJECTED not with that token; ENOTUNIQ several tokens and none given,
 * over DELIVER_COPIES_MAX copies, or several unaligned ones; EBUSY pending, or unaligned and not
 * clean; EFBIG over the capacity. The text never has a token or a payload. */
int deliver_locate(const struct scan *scan, struct delivery *delivery, struct error *err);

/* EIO if a marker is not there any more, EBUSY if one is pending, EFBIG. */
int deliver_preflight(const struct memory_io *io, struct delivery *deliveries, size_t count,
                      struct error *err);

/* Payload, length and sequence into the frame at that offset, which was checked. */
int deliver_write_frame(const struct memory_io *io, const struct delivery *delivery,
                        uint64_t offset, uint32_t sequence, struct error *err);

/* After a preflight of the same memory. EIO if what is read back is not what was written. */
int deliver_write(const struct memory_io *io, struct delivery *deliveries, size_t count,
                  struct error *err);

#endif
