/* SPDX-License-Identifier: MIT */
/*
 * request: what a user staged for a fork, checked. Texts in, structs out; pure, any thread.
 *
 * A staged mailbox is one JSON object: a mailbox request (it has a member "payload"), or the
 * payload itself (it has none of a request's members). The payload is delivered byte for byte, from
 * its { to its }; what hypefs appends goes before the last }.
 */
#ifndef HYPEFS_FORK_REQUEST_H
#define HYPEFS_FORK_REQUEST_H

#include <stdbool.h>

#include "hypervisor/hypervisor.h"
#include "mailbox/ack.h"
#include "mailbox/deliver.h"
#include "mailbox/frame.h"
#include "store/snapshot.h"
#include "util/error.h"
#include "util/json.h"

/* One mailbox of a fork: what is asked for, and what became of it. */
struct fork_mailbox {
    char name[FRAME_NAME_MAX + 1];
    uint8_t token[FRAME_TOKEN_MAX];
    size_t token_size; /* 0: none given */
    char *payload;     /* owned; as delivered once it is composed */
    size_t payload_size;
    bool wait_for_ack;
    int ack_timeout_ms;

    bool located, delivered;
    uint64_t offset; /* of the first frame */
    size_t copies;
    struct ack_wait ack; /* if wait_for_ack */
};

struct fork_options {
    bool wait_for_network;
    bool from_running;
    bool keep;         /* on_ack_failure */
    char *tap;         /* owned; the fork's in place of the source's; NULL: that */
    char *ack_address; /* owned; NULL: the mount's */
};

struct fork_request {
    char id[STORE_ID_MAX + 1]; /* of the new instance; "" if it is not known */
    struct fork_mailbox mailboxes[DELIVER_MAILBOXES_MAX];
    size_t count;
    struct fork_options options;
    char *options_text; /* owned; as written; kept in the record */

    /* What was staged is no request: validate fails with this. Code 0: it is one. */
    struct error refused;
    char refused_mailbox[FRAME_NAME_MAX + 1]; /* whose fault it is, or "" */
};

void fork_request_finish(struct fork_request *request);

/*
 * Reads a staged text that json_check() found complete (`object` is its span) into `ret`; the name
 * is not touched. EINVAL: not a request nor a payload, a member's value, a token needed but not
 * given, a payload with a member that is to be appended. EFBIG: the payload, with what is to be
 * appended, is over FRAME_CAPACITY. EOPNOTSUPP: acks other than udp. Texts name members, never the
 * payload's or the token's bytes. `ret` may be NULL: only check.
 */
int fork_parse_mailbox(const char *text, struct json_span object, bool require_token,
                       struct fork_mailbox *ret, struct error *err);

/* Bytes that ,"ack_port":65535 takes: room is kept for the longest port. */
enum { FORK_ACK_PORT_MAX = 17 };

/* Puts ,"ack_port":PORT before the payload's last }. */
int fork_append_port(struct fork_mailbox *mailbox, uint16_t port, struct error *err);

/* The text of `options`. EINVAL, EOPNOTSUPP. `ret` may be NULL: only check. */
int fork_parse_options(const char *text, size_t size, struct fork_options *ret, struct error *err);
extern const char fork_options_default[]; /* the text when nothing was written */

#endif
