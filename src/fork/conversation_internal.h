/* SPDX-License-Identifier: MIT */
/* conversation_internal: a delivery to a VM that runs, shared by the files conversation*.c and
 * nobody else. */
#ifndef HYPEFS_FORK_CONVERSATION_INTERNAL_H
#define HYPEFS_FORK_CONVERSATION_INTERNAL_H

#include "fork/conversation.h"
#include "fork/internal.h"
#include "instance/live.h"

struct conversation {
    const struct conversation_setup *setup;
    struct instance *instance;
    struct fork_network *request;
    struct fork_mailbox *mailbox; /* of the request */
    enum frame_kind kind;

    struct instance_view view;
    bool seen;           /* it was there once: what the view says of its life stays */
    pid_t pid;           /* of its VMM */
    struct memory_io io; /* of its memory */
    struct scan found;   /* the frames of that name, as they were last */
    double rearm_ms;     /* process_now_ms(): if an earlier payload is there then, copies that
                            nobody will take are armed again */
    bool searched;       /* what is found comes from a search for this delivery */
    bool pending;        /* an earlier payload is there */
    struct delivery delivery;
    bool written;
    bool at_work; /* at the end: the guest has taken it, and not armed the frame again */

    struct ack_socket socket; /* for an ack by datagram; fd -1: none is to come */
    struct watched watched;
    struct image_index *list; /* of a search at the deadline, a reference; or NULL */
    struct delivery moved;    /* frames in that which were not written to */
    unsigned ignored;         /* datagrams */
    double let_go_ms;         /* process_now_ms(): it goes on with the payload */
    int timeout_ms;
    struct conversation_outcome *outcome;
};

/* conversation_deliver.c: from the search for its frames until it is written. */
int conversation_see(struct conversation *conversation, struct error *err);
int conversation_search(struct conversation *conversation, struct error *err);
/* Calls `work`, with the conversation, while the VM stands still. */
int conversation_freeze(struct conversation *conversation, int (*work)(void *, struct error *),
                        struct error *err);
int conversation_deliver(struct conversation *conversation, struct error *err);

/* conversation_ack.c: until it is taken, or withdrawn. */
int conversation_await(struct conversation *conversation, struct error *err);
void conversation_unwatch(struct conversation *conversation);
/* The VM is there no more: ECANCELED, if it was ended, else EIO. */
int conversation_explain_end(const struct conversation *conversation, struct error *err);

#endif
