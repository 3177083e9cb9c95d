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
#include "mailbox/consume.h"
#include "mailbox/deliver.h"
#include "mailbox/frame.h"
#include "store/snapshot.h"
#include "util/error.h"
#include "util/json.h"

enum fork_ack { FORK_ACK_MEMORY, FORK_ACK_UDP, FORK_ACK_KEYED };
extern const char *const fork_ack_words[]; /* what "ack" may be */

/* What a mount asks of requests, and how they are acked that do not say it. */
struct fork_rules {
    bool require_token;
    enum fork_ack ack;
};

/* One mailbox of a fork: what is asked for, and what became of it. */
struct fork_mailbox {
    char name[FRAME_NAME_MAX + 1]; /* "" for the resume-network mailbox */
    uint8_t token[FRAME_TOKEN_MAX];
    size_t token_size; /* 0: none given */
    char *payload;     /* owned; as delivered once it is composed */
    size_t payload_size;
    bool wait_for_ack;
    enum fork_ack how; /* if wait_for_ack, as the next */
    int ack_timeout_ms;
    char ack_key[ACK_KEY_SIZE + 1]; /* "" but for FORK_ACK_KEYED, once it is composed */

    bool located, delivered;
    uint64_t offset; /* of the first frame */
    size_t copies;
    struct ack_wait ack; /* if wait_for_ack */
    bool known;          /* whether it was consumed: else that is not known */
    struct consume consume;
};

/* Or else, if it waits, its frames are looked at. */
static inline bool fork_waits_for_datagram(const struct fork_mailbox *mailbox)
{
    return mailbox->wait_for_ack && mailbox->how != FORK_ACK_MEMORY;
}

/* The identity that a fork gets in the network. */
struct fork_network {
    struct fork_mailbox mailbox;
    bool staged;
    char mac[18], ipv4[16];         /* as written; the guest repeats them in its ack */
    char degraded[ERROR_TEXT_SIZE]; /* why the network is not known to be up; "" */
};

struct fork_options {
    bool standby;      /* target_state */
    bool from_running; /* an instance that runs may be paused for a copy of its memory */
    bool wait_for_network;
    bool keep;                  /* on_ack_failure */
    bool identity;              /* payloads get a member "fork" */
    bool keep_reply;            /* in the record */
    char *tap;                  /* owned; the fork's in place of the source's; NULL: that */
    cJSON *taps;                /* owned; the same by the ids of interfaces; NULL: those */
    char *ack_address;          /* owned; NULL: the mount's */
    uint64_t console_max_bytes; /* 0: as of the source */
};

struct fork_request {
    char id[STORE_ID_MAX + 1]; /* of the new instance; "" if it is not known */
    struct fork_mailbox mailboxes[DELIVER_MAILBOXES_MAX];
    size_t count;
    struct fork_network network;
    struct fork_options options;
    char *options_text; /* owned; as written; kept in the record */

    /* What was staged is no request: validate fails with this. Code 0: it is one. */
    struct error refused;
    char refused_mailbox[FRAME_NAME_MAX + 1]; /* whose fault it is, or "" */
};

void fork_request_finish(struct fork_request *request);
/* The same for another fork. ENOMEM. */
int fork_request_copy(const struct fork_request *request, struct fork_request *ret,
                      struct error *err);

/*
 * Reads a staged text that json_check() found complete (`object` is its span) into `ret`; the name
 * is not touched. EINVAL: not a request nor a payload, a member's value, a token needed but not
 * given, a payload with a member that is to be appended. EFBIG: the payload, with what is to be
 * appended, is over FRAME_CAPACITY. Texts name members, never the payload's or the token's bytes.
 * `ret` may be NULL: only check.
 */
int fork_parse_mailbox(const char *text, struct json_span object, const struct fork_rules *rules,
                       struct fork_mailbox *ret, struct error *err);

enum {
    FORK_GENERATION_SIZE = 32, /* hex digits */
    FORK_SEED_SIZE = 64,
    FORK_TIME_SIZE = 19, /* digits: ns since 1970, until 2286 */
};

/* Bytes that the members that are appended take with their commas, at the most. */
enum {
    FORK_ACK_PORT_MAX = 17,
    FORK_ACK_KEY_MAX = 13 + ACK_KEY_SIZE,
    FORK_IDENTITY_MAX = 51 + STORE_ID_MAX + FORK_GENERATION_SIZE + FORK_SEED_SIZE + FORK_TIME_SIZE,
};

/* Has the payload at that span room for what will be appended to it, and no such member yet?
 * EINVAL, EFBIG. */
int fork_check_payload(const char *text, struct json_span payload,
                       const struct fork_mailbox *mailbox, bool identity, struct error *err);

/* Puts `members` (of which no comma begins or ends the text) before the payload's last }. */
int fork_append(struct fork_mailbox *mailbox, const char *members, struct error *err);

/*
 * Reads the text of a staged `network`, strictly: {"interface_name", "mac", "ipv4", "prefix"} and
 * perhaps "gateway", "ack", "token" or "token_hex"; makes the payload of it. `ret` may be NULL:
 * only check.
 */
int fork_parse_network(const char *text, size_t size, const struct fork_rules *rules,
                       struct fork_network *ret, struct error *err);

/* The text of `options`. EINVAL, EOPNOTSUPP. `ret` may be NULL: only check. */
int fork_parse_options(const char *text, size_t size, struct fork_options *ret, struct error *err);
extern const char fork_options_default[]; /* the text when nothing was written */

#endif
