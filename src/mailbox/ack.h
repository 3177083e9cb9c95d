/* SPDX-License-Identifier: MIT */
/*
 * ack: the guest's datagrams that say what became of its payloads.
 *
 * A datagram is at most 1024 bytes of UTF-8 without control characters; surrounding white space is
 * dropped; fields are key=value, separated by white space, in any order. Keys compare without case,
 * values exactly.
 *
 *     stage=applied mailbox=NAME            the payload is in use
 *     stage=failed mailbox=NAME reason=WORD the guest cannot use it
 *     stage=OTHER mailbox=NAME              progress, no ack
 *
 * Further fields are allowed. A word without "=", a key given twice, or a datagram without stage
 * makes the whole datagram invalid: counted and ignored. Who can reach the port can forge an ack.
 */
#ifndef HYPEFS_MAILBOX_ACK_H
#define HYPEFS_MAILBOX_ACK_H

#include <netinet/in.h>

#include "mailbox/frame.h"
#include "util/error.h"

enum {
    ACK_DATAGRAM_MAX = 1024,
    ACK_TIMEOUT_DEFAULT_MS = 5000,
    ACK_TIMEOUT_MAX_MS = 30000,
};

enum ack_stage { ACK_APPLIED, ACK_FAILED, ACK_PROGRESS };

/* Spans of the datagram; a field that is not there is NULL with size 0. */
struct ack_field {
    const char *text;
    size_t size;
};

struct ack_message {
    enum ack_stage stage;
    struct ack_field text; /* the whole datagram, trimmed */
    struct ack_field stage_text, mailbox, reason, mac, ip, key;
};

/* False: invalid, to be ignored. Pure. `ret` points into the datagram. */
bool ack_parse(const char *datagram, size_t size, struct ack_message *ret);

struct ack_socket {
    int fd;        /* CLOEXEC, non-blocking */
    uint16_t port; /* host order */
};

/* Is it an IPv4 or IPv6 address in numbers? */
bool ack_address_valid(const char *address);

/* A UDP socket bound to that address (in numbers) and a free port. EINVAL: it is none, or not one
 * of this host. */
int ack_socket_open(const char *address, struct ack_socket *ret, struct error *err);
void ack_socket_close(struct ack_socket *socket);

/* One mailbox that an ack is wanted from. */
struct ack_wait {
    const char *mailbox; /* borrowed */
    int timeout_ms;      /* from the resume */

    /* Set by ack_receive(). */
    enum { ACK_WAITING, ACK_OK, ACK_REFUSED } state;
    double ms;                         /* from the resume to the ack */
    char text[ACK_DATAGRAM_MAX + 1];   /* the answer, trimmed; until then the last progress */
    char reason[ACK_DATAGRAM_MAX + 1]; /* ACK_REFUSED */
};

/*
 * Reads all datagrams that are there and updates the waits; never blocks. `since_resume_ms` is put
 * into `ms`. `*ignored` grows by the datagrams that were invalid, or for nobody here.
 */
void ack_receive(const struct ack_socket *socket, struct ack_wait *waits, size_t count,
                 double since_resume_ms, unsigned *ignored);

#endif
