/* SPDX-License-Identifier: MIT */
/*
 * internal: what the guest library's files share with each other and with its tests. Not installed.
 *
 * The library needs libc only and links statically; nothing of the host's util layer is in it.
 */
#ifndef HYPEFS_GUEST_INTERNAL_H
#define HYPEFS_GUEST_INTERNAL_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "guest/hypefs-guest.h"
#include "mailbox/frame.h"

enum { GUEST_KEY_MAX = 64 };

/* A fork mailbox as it lies in memory; frame.h has the specification. Numbers are little-endian. */
struct guest_frame {
    uint8_t marker[256];
    uint32_t sequence;
    uint32_t length;
    uint8_t payload[FRAME_CAPACITY];
};
_Static_assert(sizeof(struct guest_frame) == FRAME_SIZE, "a frame is one page");

struct hypefs_mailbox {
    volatile struct guest_frame *frame; /* the host writes here while the VM is paused */
    bool in_hand;                       /* the rest is valid while this is set */
    uint16_t ack_port;                  /* 0: no ack is wanted */
    char ack_key[GUEST_KEY_MAX + 1];    /* "": none */
    size_t payload_size;
    char payload[FRAME_CAPACITY + 1];
    char name[FRAME_NAME_MAX + 1]; /* always valid */
};

/* A refusal in the frame, then armed; nothing is in hand after it. `reason` is clean. */
void guest_mailbox_refuse(struct hypefs_mailbox *box, const char *reason);

struct guest_span {
    const char *text;
    size_t size;
};

/*
 * The value of a member of the object text[0..size), as written; of several with that name the
 * last. Only the object's own members count, not those of objects inside it. `name` is compared
 * with the bytes between the quotes, escapes are not resolved. The text is known to be JSON: of
 * another text the answer may be anything inside it.
 */
bool guest_member_find(const char *text, size_t size, const char *name, struct guest_span *ret);

/* Takes ack_port and ack_key from the payload; a member that is not as the host makes it counts as
 * not there. */
void guest_answer_prepare(struct hypefs_mailbox *box);

/* The gateway of the default route with the lowest metric in a file like /proc/net/route. */
bool guest_gateway_read(FILE *routes, struct in_addr *ret);

/* Makes a reason fit for frames and datagrams: see hypefs_mailbox_fail(). `ret` has room for
 * FRAME_REASON_MAX bytes and a NUL. */
void guest_reason_clean(const char *reason, char *ret);

#endif
