/* SPDX-License-Identifier: MIT */
/* internal: what the guest library's files share with each other and with its tests. Not installed.
 * The library needs libc only, as do the host's files that it has (meson.build). */
#ifndef HYPEFS_GUEST_INTERNAL_H
#define HYPEFS_GUEST_INTERNAL_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include "guest/hypefs-guest.h"
#include "mailbox/frame.h"

enum {
    GUEST_KEY_MAX = 64,
    GUEST_WORD_MAX = 63, /* bytes of a MAC or IP address that is repeated to the host */
    GUEST_SUBJECT_MAX = sizeof " mac= ip=" - 1 + 2 * GUEST_WORD_MAX,
};
_Static_assert(GUEST_SUBJECT_MAX >= sizeof " mailbox=" - 1 + FRAME_NAME_MAX, "either subject");

/* What holds a page where it is. Zeroed: nothing. */
struct guest_pin {
    bool pinned;
    int fd; /* CLOEXEC */
};

/* Holds the page there until guest_unpin(), if the kernel lets it: neither compaction nor
 * move_pages(2) moves it then. */
void guest_pin(void *page, struct guest_pin *ret);
void guest_unpin(struct guest_pin *pin);

struct hypefs_mailbox {
    volatile uint8_t *frame; /* FRAME_SIZE bytes; the host writes here while the VM is paused */
    const struct frame_layout *layout;
    char name[FRAME_NAME_MAX + 1]; /* "": the network's */
    long rest_ns; /* between looks; 0: no payload came yet, to none that it was waited with */
    int64_t happened_ms;     /* of CLOCK_MONOTONIC: a payload was taken, or it was armed again */
    bool in_hand;            /* the payload is valid while this is set */
    uint32_t sequence;       /* of the payload in hand; 1: of a host that knows plain frames only */
    uint32_t taken, applied; /* sequences, the last of each; 0: none */
    struct guest_pin pin;
    size_t payload_size;
    char payload[FRAME_SIZE]; /* more than any layout's capacity, so that a NUL fits behind it */
    /* Read off the payload when it is answered (guest_answer_prepare): */
    uint16_t ack_port;                   /* 0: no ack is wanted */
    char ack_key[GUEST_KEY_MAX + 1];     /* "": none */
    char subject[GUEST_SUBJECT_MAX + 1]; /* in datagrams: " mailbox=NAME", " mac=MAC ip=IP" */
};

/* Payload bytes up to the tail, or of a host that does not know that there is one. */
static inline size_t guest_capacity(const struct hypefs_mailbox *box)
{
    return FRAME_TAIL - box->layout->payload;
}

static inline size_t guest_plain_capacity(const struct hypefs_mailbox *box)
{
    return FRAME_SIZE - box->layout->payload;
}

/* A refusal in the frame, then armed; nothing is in hand after it. `reason` is clean. */
void guest_mailbox_refuse(struct hypefs_mailbox *box, const char *reason);

/* Wipes the payload and arms the mailbox again, with a reply of at most guest_capacity() bytes. */
void guest_mailbox_rearm(struct hypefs_mailbox *box, const char *reply, size_t size);

struct guest_span {
    const char *text;
    size_t size;
};

/* The value of a member of the object text[0..size), as written; of several with that name the
 * last. Only the object's own members count, not those of objects inside it. Escapes in names are
 * not resolved. Of a text that is not JSON the answer may be anything inside it. */
bool guest_member_find(const char *text, size_t size, const char *name, struct guest_span *ret);

/* Copies a member that is a string of at most `max` visible ASCII characters, none of them escaped:
 * what a datagram can repeat as it is. `ret` has room for max + 1. False, and "" in `ret`, if it is
 * not there or is anything else. */
bool guest_member_word(const char *text, size_t size, const char *name, char *ret, size_t max);

/* Is it a number as JSON has it, of digits alone, and at most `max`? */
bool guest_number(struct guest_span value, int64_t max, int64_t *ret);

/* CLOCK_MONOTONIC. */
static inline int64_t guest_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Takes ack_port, ack_key and the subject from the payload, if they are as the host makes them. */
void guest_answer_prepare(struct hypefs_mailbox *box);

/* The gateway of the default route with the lowest metric in a file like /proc/net/route. */
bool guest_gateway_read(FILE *routes, struct in_addr *ret);

/* Makes a reason fit for frames and datagrams (hypefs_mailbox_fail()), FRAME_REASON_MAX at most. */
void guest_reason_clean(const char *reason, char *ret);

#endif
