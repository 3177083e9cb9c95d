/* SPDX-License-Identifier: MIT */
/*
 * ack: the guest's datagrams that say what became of its payloads.
 *
 * A datagram is at most 1024 bytes of UTF-8 without control characters; surrounding white space is
 * dropped; fields are key=value, separated by white space, in any order. Keys compare without case,
 * values exactly.
 *
 *     stage=applied mailbox=NAME            the payload is in use
 *     stage=applied mac=MAC ip=ADDRESS      the same of the resume-network mailbox
 *     stage=failed mailbox=NAME reason=WORD the guest cannot use it (or mac= and ip=)
 *     stage=OTHER mailbox=NAME              progress, no ack
 *
 * Further fields are allowed. A word without "=", one of our keys given twice, or a datagram
 * without stage makes the whole datagram invalid: counted and ignored. Who can reach the port can
 * forge an ack, unless the wait has a key: then only datagrams with key=KEY count.
 */
#ifndef HYPEFS_MAILBOX_ACK_H
#define HYPEFS_MAILBOX_ACK_H

#include <netinet/in.h>

#include "mailbox/frame.h"
#include "util/error.h"

enum {
    ACK_DATAGRAM_MAX = 1024,
    ACK_TIMEOUT_DEFAULT_MS = 5000,
    ACK_TIMEOUT_MAX_MS = 30000, /* for a datagram */
    ACK_MEMORY_TIMEOUT_MAX_MS = 86400000,
    ACK_KEY_SIZE = 32,    /* hex digits */
    ACK_PORT_REST_S = 60, /* a port is not bound again for that long after its socket's close */
    ACK_BUFFER_SIZE = 4 << 20, /* bytes asked for: what comes while nobody reads is not lost */
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

/* Ports that were used lately must rest: a late ack is not another fork's. Locked inside. */
struct ack_ports;
int ack_ports_create(struct ack_ports **ret, struct error *err);
void ack_ports_destroy(struct ack_ports *ports);

struct ack_socket {
    int fd;        /* CLOEXEC, non-blocking */
    uint16_t port; /* host order */
    struct ack_ports *ports;
};

/* EINVAL unless a guest could find this host by it: an IPv4 or IPv6 address in numbers, neither the
 * one for any nor that of a group. The text begins with `what`. */
int ack_address_check(const char *what, const char *address, struct error *err);

/* A UDP socket bound to that address (in numbers) and a free port that has rested. `ports`
 * (borrowed until the close) may be NULL: any port. EINVAL if it is no address of this host or a
 * network's broadcast address, EAGAIN if all ports are taken or rest. */
int ack_socket_open(const char *address, struct ack_ports *ports, struct ack_socket *ret,
                    struct error *err);
void ack_socket_close(struct ack_socket *socket);

/* One mailbox that an ack is wanted from. Texts are borrowed. */
struct ack_wait {
    const char *mailbox;  /* NULL: the resume-network mailbox, known by the next two */
    const char *mac, *ip; /* compared without case, and exactly */
    const char *key;      /* NULL: none is needed */

    /* Set by ack_receive(). */
    enum { ACK_WAITING, ACK_OK, ACK_REFUSED } state;
    bool lost;                         /* waiting, but nothing is left that could answer */
    double ms;                         /* from the resume to the ack */
    char text[ACK_DATAGRAM_MAX + 1];   /* the answer or last progress, trimmed, without its key */
    char reason[ACK_DATAGRAM_MAX + 1]; /* ACK_REFUSED */
};

/* Reads the datagrams that are there and updates the waits; never blocks. `since_resume_ms` is put
 * into `ms`. `*ignored` grows by the datagrams that were invalid, or for nobody here. */
void ack_receive(const struct ack_socket *socket, struct ack_wait *const *waits, size_t count,
                 double since_resume_ms, unsigned *ignored);

#endif
