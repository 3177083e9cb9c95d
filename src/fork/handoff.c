/* SPDX-License-Identifier: MIT */
/*
 * handoff: how payloads get into a clone's memory, and how it is known that they were taken: of the
 * resume-network mailbox, and then of the fork mailboxes, for a fork's network is there before its
 * software is told who it is. The network's ack is waited for only so long: a network that comes up
 * late is not a lost fork, it is degraded.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fork/internal.h"
#include "util/fault.h"
#include "util/process.h"
#include "util/text.h"
#include "util/timing.h"

/* ---- before the VM is loaded ---- */

/* Why no datagram of the guest leaves it; NULL: none is known. */
static const char *why_mute(const struct machine *machine)
{
    if (machine->network == NETWORK_NONE)
        return "it has no network (\"mode\": \"none\")";
    return machine->network_restrict ? "its network lets nothing out (\"restrict\": true)" : NULL;
}

int handoff_check_ack(const struct machine *machine, const struct fork_mailbox *mailbox,
                      const char *what, const char *or_else, struct error *err)
{
    const char *why = why_mute(machine);
    if (!why || mailbox->how == FORK_ACK_MEMORY)
        return 0;
    return error_set(err, EINVAL,
                     "%s: \"ack\": \"%s\" comes by the network, and this VM can send none: %s. "
                     "Use \"ack\": \"memory\"%s",
                     what, fork_ack_words[mailbox->how], why, or_else);
}

int handoff_check(struct fork *fork, struct error *err)
{
    const struct fork_request *request = fork->request;
    int r = 0;
    for (size_t i = 0; i < request->count && r == 0; i++) {
        const struct fork_mailbox *mailbox = &request->mailboxes[i];
        char what[sizeof "mailbox \"\"" + FRAME_NAME_MAX];
        snprintf(what, sizeof what, "mailbox \"%s\"", mailbox->name);
        if (mailbox->wait_for_ack &&
            (r = handoff_check_ack(&fork->machine, mailbox, what, "", err)) < 0)
            fork->failed_mailbox = mailbox->name;
    }
    if (r == 0 && request->network.staged && request->options.wait_for_network)
        r = handoff_check_ack(&fork->machine, &request->network.mailbox, "network",
                              ", or the option \"wait_for_network\": false", err);
    return r;
}

/* As soon as one of them is to be acked by datagram. */
static int open_socket(struct fork *fork, struct error *err)
{
    return fork->socket.fd >= 0 ? 0
                                : ack_socket_open(fork_ack_address(fork), fork->engine->ack_ports,
                                                  &fork->socket, err);
}

int handoff_append_ack(struct fork_mailbox *mailbox, uint16_t port, struct error *err)
{
    char members[FORK_ACK_PORT_MAX + FORK_ACK_KEY_MAX + 1];
    int used = snprintf(members, sizeof members, "\"ack_port\":%" PRIu16, port);
    if (mailbox->how == FORK_ACK_KEYED) {
        store_random_hex(mailbox->ack_key, ACK_KEY_SIZE / 2);
        mailbox->ack.key = mailbox->ack_key;
        snprintf(members + used, sizeof members - (size_t)used, ",\"ack_key\":\"%s\"",
                 mailbox->ack_key);
    }
    int r = fork_append(mailbox, members, err);
    explicit_bzero(members, sizeof members);
    return r;
}

/* Completes the payload and finds its frames in the image. A mailbox that is to ack by memory is
 * watched from the resume on. */
static int prepare(struct fork *fork, enum frame_kind kind, struct fork_mailbox *mailbox,
                   struct error *err)
{
    struct delivery *delivery = &fork->deliveries[fork->count];
    bool by_datagram = fork_waits_for_datagram(mailbox);
    fork->failed_mailbox = NULL;
    int r = by_datagram ? open_socket(fork, err) : 0;
    if (r < 0)
        return r;
    fork->failed_mailbox = kind == FRAME_FORK ? mailbox->name : NULL;
    if (by_datagram)
        r = handoff_append_ack(mailbox, fork->socket.port, err);
    if (r == 0 && kind == FRAME_FORK && fork->request->options.identity)
        r = identity_append(fork, mailbox, err);
    if (r < 0)
        return r;
    *delivery = (struct delivery){.kind = kind,
                                  .name = mailbox->name,
                                  .token = mailbox->token,
                                  .token_size = mailbox->token_size,
                                  .payload = mailbox->payload,
                                  .payload_size = mailbox->payload_size};
    r = deliver_locate(&fork->index->scan, delivery, err);
    if (r < 0)
        return r;
    mailbox->located = true;
    mailbox->offset = delivery->targets[0]->offset;
    mailbox->copies = delivery->target_count;
    mailbox->consume = (struct consume){.delivery = delivery};
    fork->mailboxes[fork->count++] = mailbox;
    if (mailbox->wait_for_ack && mailbox->how == FORK_ACK_MEMORY)
        fork->watched.frames[fork->watched.count++] =
            (struct watched_frame){.consume = &mailbox->consume, .wait = &mailbox->ack};
    return 0;
}

int handoff_prepare(struct fork *fork, struct error *err)
{
    struct fork_request *request = fork->request;
    struct fork_network *network = &request->network;
    int r = 0;
    if (network->staged) {
        network->mailbox.wait_for_ack = request->options.wait_for_network;
        network->mailbox.ack = (struct ack_wait){.mac = network->mac, .ip = network->ipv4};
        r = prepare(fork, FRAME_NETWORK, &network->mailbox, err);
    }
    if (request->options.identity)
        identity_make(&fork->identity);
    for (size_t i = 0; i < request->count && r == 0; i++) {
        request->mailboxes[i].ack = (struct ack_wait){.mailbox = request->mailboxes[i].name};
        r = prepare(fork, FRAME_FORK, &request->mailboxes[i], err);
    }
    if (r == 0)
        fork->failed_mailbox = NULL;
    return r;
}

/* ---- while its guest runs ---- */

static int no_ack(struct fork *fork, struct fork_mailbox *mailbox, struct error *err)
{
    char what[sizeof "mailbox " + FRAME_NAME_MAX];
    struct error missing = {0};
    snprintf(what, sizeof what, "mailbox %s", mailbox->name);
    missing_ack_text(fork, mailbox, mailbox->ack_timeout_ms, what, &missing);
    return error_set(err, ETIMEDOUT, "%s", missing.text);
}

/* The first that was refused or is late; NULL: none, and *deadline_ms is lowered to when one that
 * is waited for will be late. */
static struct fork_mailbox *find_failed(struct fork *fork, double *deadline_ms)
{
    for (size_t i = 0; i < fork->request->count; i++) {
        struct fork_mailbox *mailbox = &fork->request->mailboxes[i];
        double deadline = fork->resumed_at_ms + mailbox->ack_timeout_ms;
        if (!mailbox->wait_for_ack || mailbox->ack.state == ACK_OK)
            continue;
        if (mailbox->ack.state == ACK_REFUSED || fork->checked_at_ms >= deadline)
            return mailbox;
        if (deadline < *deadline_ms)
            *deadline_ms = deadline;
    }
    return NULL;
}

/* 1: all have acked; 0: some are waited for, until *ret_deadline_ms; -errno. */
static int check_mailboxes(struct fork *fork, double *ret_deadline_ms, struct error *err)
{
    *ret_deadline_ms = INFINITY;
    struct fork_mailbox *failed = find_failed(fork, ret_deadline_ms);
    if (!failed)
        return *ret_deadline_ms == INFINITY;
    fork->failed_mailbox = failed->name;
    if (failed->ack.state != ACK_REFUSED)
        return no_ack(fork, failed, err);
    return error_set(err, EREMOTEIO, "the guest could not apply mailbox %s: %s", failed->name,
                     failed->ack.reason[0] ? failed->ack.reason : "no reason given");
}

static void degrade(struct fork_network *network, const char *reason)
{
    snprintf(network->degraded, sizeof network->degraded,
             "the guest could not apply its network: %.900s",
             reason[0] ? reason : "no reason given");
    text_make_utf8(network->degraded);
}

/* 1: its ack has come, or is not waited for any more. A mailbox that fails ends the commit, or
 * keeps a fork that has failed: either way nothing is left to wait for. */
static int check_network(struct fork *fork, double *ret_deadline_ms, struct error *err)
{
    struct fork_network *network = &fork->request->network;
    const struct ack_wait *ack = &network->mailbox.ack;
    (void)err;
    *ret_deadline_ms = fork->resumed_at_ms + timing_ms(TIMING_NETWORK);
    bool late = fork->checked_at_ms >= *ret_deadline_ms;
    const struct fork_mailbox *failed = find_failed(fork, ret_deadline_ms);
    if (ack->state == ACK_REFUSED)
        degrade(network, ack->reason);
    else if (ack->state == ACK_WAITING && failed)
        snprintf(network->degraded, sizeof network->degraded,
                 "the wait for its ack was ended, because %s",
                 failed->ack.state == ACK_REFUSED ? "the guest refused a mailbox"
                                                  : "a mailbox was not acked in time");
    else if (ack->state == ACK_WAITING && !late)
        return 0;
    else if (ack->state == ACK_WAITING) {
        struct error missing = {0};
        missing_ack_text(fork, &network->mailbox, timing_ms(TIMING_NETWORK), "the network",
                         &missing);
        memcpy(network->degraded, missing.text, sizeof network->degraded);
    }
    return 1;
}

/* Datagrams are matched against the mailboxes that wait for one, the network's too. */
static void receive(struct fork *fork)
{
    struct ack_wait *waits[FORK_DELIVERIES_MAX];
    size_t count = 0;
    for (size_t i = 0; i < fork->count; i++)
        if (fork_waits_for_datagram(fork->mailboxes[i]))
            waits[count++] = &fork->mailboxes[i]->ack;
    ack_receive(&fork->socket, waits, count, process_now_ms() - fork->resuming_at_ms,
                &fork->ignored);
}

/* Its guest writes for as long as it is waited for, which may be a day. Returns when the next look
 * at that is due, if it is before the deadline, and else the deadline. */
static double keep_logs_short(struct fork *fork, double deadline_ms)
{
    if (fork->checked_at_ms >= fork->logs_due_ms) {
        instance_shorten_logs(fork->instance, fork->entry.fd, machine_log_max(&fork->machine));
        fork->logs_due_ms = fork->checked_at_ms + timing_ms(TIMING_LOOK);
    }
    return fork->logs_due_ms < deadline_ms ? fork->logs_due_ms : deadline_ms;
}

int handoff_await(struct fork *fork, struct error *err)
{
    enum { SOCKET, MEMORY, PROCESS, CANCEL, STOPPED, COUNT };
    int (*check)(struct fork *, double *, struct error *) =
        fork->step == FORK_NETWORK ? check_network : check_mailboxes;
    double deadline_ms = 0;
    if (fork->step == FORK_NETWORK && !fork->request->network.mailbox.wait_for_ack)
        return 0;
    fault_point(FAULT_ACK);
    for (;;) {
        fork->checked_at_ms = process_now_ms();
        if (fork->socket.fd >= 0)
            receive(fork);
        /* At a deadline the last look is our own: the watch may have been stopped with us. */
        if (deadline_ms > 0 && fork->checked_at_ms >= deadline_ms)
            search_last(fork);
        if (fork->watched.event_fd >= 0 && fork->checked_at_ms >= deadline_ms)
            memory_watch_check(fork->engine->watch, &fork->watched);
        if (fork->watched.event_fd >= 0)
            memory_watch_receive(fork->engine->watch, &fork->watched, fork->resuming_at_ms);
        int r = check(fork, &deadline_ms, err);
        if (r != 0) {
            fault_point(FAULT_ACKED);
            return r < 0 ? r : 0;
        }
        const int fds[COUNT] = {fork->socket.fd, fork->watched.event_fd, fork->vmm->pidfd,
                                fork->engine->cancel_fd, fork->instance->cancel_fd};
        double until_ms = keep_logs_short(fork, turn_limit(fork, deadline_ms));
        r = search_moved(fork, &until_ms, err);
        if (r < 0)
            return r;
        r = process_poll(fds, COUNT, until_ms);
        if (r < 0)
            return error_errno(err, -r, "cannot wait for acks");
        if (r & 1 << CANCEL)
            return error_set(err, ECANCELED, "cancelled");
        if (r & 1 << STOPPED)
            return error_set(err, ECANCELED,
                             "stopped was written to the fork's state while its ack was waited "
                             "for");
        if (r & 1 << PROCESS && !(r & (1 << SOCKET | 1 << MEMORY)))
            return error_set(err, EIO,
                             "the VM ended before its guest acked: did the guest shut "
                             "down, reboot or crash?");
    }
}
