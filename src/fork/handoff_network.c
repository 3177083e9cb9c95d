/* SPDX-License-Identifier: MIT */
/*
 * handoff_network: the fork's identity in the network, in the resume-network mailbox. Its ack is
 * waited for, but only for so long: a network that comes up late is not a lost fork, it is
 * degraded.
 */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "fork/internal.h"
#include "util/text.h"

enum { NETWORK_WAIT_MS = 5000 };

static int prepare(struct fork *fork, struct error *err)
{
    struct fork_network *network = &fork->request->network;
    struct fork_mailbox *mailbox = &network->mailbox;
    int r = 0;
    if (!network->staged)
        return 0;
    mailbox->wait_for_ack = fork->request->options.wait_for_network;
    mailbox->ack = (struct ack_wait){.mac = network->mac, .ip = network->ipv4};
    if (fork_waits_for_datagram(mailbox)) {
        r = handoff_open_socket(fork, err);
        if (r < 0)
            return r;
        network->uses_socket = true;
        r = handoff_append_ack(fork, mailbox, err);
    }
    return r < 0 ? r : handoff_add(fork, FRAME_NETWORK, mailbox, err);
}

static void degrade(struct fork_network *network, const char *reason)
{
    snprintf(network->degraded, sizeof network->degraded,
             "the guest could not apply its network: %.900s",
             reason[0] ? reason : "no reason given");
    text_make_utf8(network->degraded);
}

/* A mailbox that fails ends the commit, or keeps a fork that has failed: either way nothing is left
 * to wait for. */
static int look(struct fork *fork, double *ret_deadline_ms, struct error *err)
{
    struct fork_network *network = &fork->request->network;
    const struct ack_wait *ack = &network->mailbox.ack;
    (void)err;
    *ret_deadline_ms = fork->resumed_at_ms + NETWORK_WAIT_MS;
    bool late = fork->looked_at_ms >= *ret_deadline_ms;
    const char *failure = handoff_mailboxes_failure(fork, ret_deadline_ms);
    if (ack->state == ACK_REFUSED)
        degrade(network, ack->reason);
    else if (ack->state == ACK_WAITING && failure[0])
        snprintf(network->degraded, sizeof network->degraded,
                 "the wait for its ack was ended, because %s", failure);
    else if (ack->state == ACK_WAITING && !late)
        return 0;
    else if (ack->state == ACK_WAITING) {
        struct error missing = {0};
        missing_ack_text(fork, &network->mailbox, NETWORK_WAIT_MS, "the network", &missing);
        memcpy(network->degraded, missing.text, sizeof network->degraded);
    }
    return 1;
}

static int after_resume(struct fork *fork, struct error *err)
{
    return fork->request->network.mailbox.wait_for_ack ? handoff_wait(fork, look, err) : 0;
}

static void close_network(struct fork *fork)
{
    if (fork->request->network.uses_socket)
        handoff_close_socket(fork);
}

const struct handoff handoff_network = {.phase = FORK_NETWORK,
                                        .prepare = prepare,
                                        .after_resume = after_resume,
                                        .close = close_network};
