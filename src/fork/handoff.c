/* SPDX-License-Identifier: MIT */
/* handoff: the loop over the handoffs, and what they share. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "fork/internal.h"
#include "util/cleanup.h"
#include "util/process.h"

/* In this order: a fork's network is there before its software is told who it is. */
static const struct handoff *const handoffs[] = {&handoff_network, &handoff_mailboxes};

/* Why no datagram of the guest leaves it; NULL: none is known. */
static const char *why_mute(const struct machine *machine)
{
    if (machine->network == NETWORK_NONE)
        return "it has no network (\"mode\": \"none\")";
    return machine->network_restrict ? "its network lets nothing out (\"restrict\": true)" : NULL;
}

int handoffs_check(struct fork *fork, struct error *err)
{
    const struct fork_request *request = fork->request;
    const struct fork_mailbox *network = &request->network.mailbox;
    const char *why = why_mute(&fork->machine);
    for (size_t i = 0; why && i < request->count; i++)
        if (fork_waits_for_datagram(&request->mailboxes[i])) {
            fork->failed_mailbox = request->mailboxes[i].name;
            return error_set(err, EINVAL,
                             "mailbox \"%s\": \"ack\": \"%s\" comes by the network, and this VM "
                             "can send none: %s. Use \"ack\": \"memory\"",
                             request->mailboxes[i].name, fork_ack_words[request->mailboxes[i].how],
                             why);
        }
    if (why && request->network.staged && request->options.wait_for_network &&
        network->how != FORK_ACK_MEMORY)
        return error_set(
            err, EINVAL,
            "network: \"ack\": \"%s\" comes by the network, and this VM can send none: %s. Use "
            "\"ack\": \"memory\", or the option \"wait_for_network\": false",
            fork_ack_words[network->how], why);
    return 0;
}

int handoffs_prepare(struct fork *fork, struct error *err)
{
    int r = 0;
    while (r == 0 && fork->prepared < array_length(handoffs))
        r = handoffs[fork->prepared++]->prepare(fork, err);
    return r;
}

int handoffs_after_resume(struct fork *fork, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < array_length(handoffs) && r == 0; i++)
        if (handoffs[i]->phase == fork->phase)
            r = handoffs[i]->after_resume(fork, err);
    return r;
}

void handoffs_close(struct fork *fork)
{
    while (fork->prepared > 0)
        handoffs[--fork->prepared]->close(fork);
}

int handoff_open_socket(struct fork *fork, struct error *err)
{
    const char *address = fork->request->options.ack_address ? fork->request->options.ack_address
                                                             : fork->engine->ack_address;
    int r = fork->socket_users > 0
                ? 0
                : ack_socket_open(address, fork->engine->ack_ports, &fork->socket, err);
    if (r == 0)
        fork->socket_users++;
    return r;
}

void handoff_close_socket(struct fork *fork)
{
    if (--fork->socket_users == 0)
        ack_socket_close(&fork->socket);
}

int handoff_append_ack(struct fork *fork, struct fork_mailbox *mailbox, struct error *err)
{
    char members[FORK_ACK_PORT_MAX + FORK_ACK_KEY_MAX + 1];
    int used = snprintf(members, sizeof members, "\"ack_port\":%" PRIu16, fork->socket.port);
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

int handoff_add(struct fork *fork, enum frame_kind kind, struct fork_mailbox *mailbox,
                struct error *err)
{
    struct delivery *delivery = &fork->deliveries[fork->count];
    *delivery = (struct delivery){.kind = kind,
                                  .name = mailbox->name,
                                  .token = mailbox->token,
                                  .token_size = mailbox->token_size,
                                  .payload = mailbox->payload,
                                  .payload_size = mailbox->payload_size};
    int r = deliver_locate(&fork->index->scan, delivery, err);
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
    if (fork->looked_at_ms >= fork->logs_due_ms) {
        instance_shorten_logs(fork->instance, fork->entry.fd, machine_log_max(&fork->machine));
        fork->logs_due_ms = fork->looked_at_ms + INSTANCE_LOGS_MS;
    }
    return fork->logs_due_ms < deadline_ms ? fork->logs_due_ms : deadline_ms;
}

int handoff_wait(struct fork *fork,
                 int (*look)(struct fork *fork, double *ret_deadline_ms, struct error *err),
                 struct error *err)
{
    enum { SOCKET, MEMORY, PROCESS, CANCEL, STOPPED, COUNT };
    double deadline_ms = 0;
    for (;;) {
        fork->looked_at_ms = process_now_ms();
        if (fork->socket.fd >= 0)
            receive(fork);
        /* At a deadline the last look is our own: the watch may have been stopped with us. */
        if (fork->watched.event_fd >= 0 && fork->looked_at_ms >= deadline_ms)
            memory_watch_look(fork->engine->watch, &fork->watched);
        if (fork->watched.event_fd >= 0)
            memory_watch_receive(fork->engine->watch, &fork->watched, fork->resuming_at_ms);
        int r = look(fork, &deadline_ms, err);
        if (r != 0)
            return r < 0 ? r : 0;
        const int fds[COUNT] = {fork->socket.fd, fork->watched.event_fd, fork->vmm->pidfd,
                                fork->engine->cancel_fd, fork->instance->cancel_fd};
        double until_ms = keep_logs_short(fork, fork_limit_turn(fork, deadline_ms));
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
