/* SPDX-License-Identifier: MIT */
/* handoff_mailboxes: the payloads of fork mailboxes, and the acks that were asked for. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "fork/internal.h"
#include "util/process.h"

/* "ack_port" and, if the ack is to be trusted, "ack_key". */
static int append_members(struct fork *fork, struct fork_mailbox *mailbox, struct error *err)
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

static bool wants_acks(const struct fork_request *request)
{
    for (size_t i = 0; i < request->count; i++)
        if (fork_waits_for_datagram(&request->mailboxes[i]))
            return true;
    return false;
}

/* Its answer is looked for in the frames, from the resume on. */
static void watch(struct fork *fork, struct fork_mailbox *mailbox)
{
    fork->watched.frames[fork->watched.count++] =
        (struct watched_frame){.consume = &mailbox->consume, .wait = &mailbox->ack};
}

static int prepare_mailbox(struct fork *fork, struct fork_mailbox *mailbox, struct error *err)
{
    bool by_datagram = fork_waits_for_datagram(mailbox);
    int r = 0;
    mailbox->ack = (struct ack_wait){.mailbox = mailbox->name};
    if (by_datagram)
        r = append_members(fork, mailbox, err);
    if (r == 0 && fork->request->options.identity)
        r = identity_append(fork, mailbox, err);
    if (r == 0)
        r = handoff_add(fork, FRAME_FORK, mailbox, err);
    if (r == 0 && mailbox->wait_for_ack && !by_datagram)
        watch(fork, mailbox);
    return r;
}

static int prepare(struct fork *fork, struct error *err)
{
    struct fork_request *request = fork->request;
    int r = 0;
    if (wants_acks(request)) {
        r = handoff_open_socket(fork, err);
        if (r < 0)
            return r;
        fork->acks_wanted = true;
    }
    if (request->options.identity)
        identity_make(&fork->identity);
    for (size_t i = 0; i < request->count && r == 0; i++) {
        fork->failed_mailbox = request->mailboxes[i].name;
        r = prepare_mailbox(fork, &request->mailboxes[i], err);
    }
    if (r == 0)
        fork->failed_mailbox = NULL;
    return r;
}

static int no_ack(const struct fork *fork, const struct fork_mailbox *mailbox, struct error *err)
{
    if (mailbox->ack.lost)
        return error_set(err, ETIMEDOUT,
                         "no ack for mailbox %s within %d ms: the guest has put the memory of all "
                         "its copies to another use: was its software still there when the VM was "
                         "saved?",
                         mailbox->name, mailbox->ack_timeout_ms);
    if (mailbox->how == FORK_ACK_MEMORY)
        return error_set(err, ETIMEDOUT,
                         "mailbox %s was not consumed within %d ms: is its software running in "
                         "the guest?",
                         mailbox->name, mailbox->ack_timeout_ms);
    if (mailbox->ack.text[0])
        return error_set(err, ETIMEDOUT,
                         "no ack for mailbox %s within %d ms; the last that the guest said of it: "
                         "%s",
                         mailbox->name, mailbox->ack_timeout_ms, mailbox->ack.text);
    return error_set(err, ETIMEDOUT,
                     "no ack for mailbox %s within %d ms (%u other datagrams came): is its "
                     "software running in the guest, and can it reach the ack address?",
                     mailbox->name, mailbox->ack_timeout_ms, fork->ignored);
}

static bool is_waited_for(const struct fork_mailbox *mailbox)
{
    return mailbox->wait_for_ack && mailbox->ack.state != ACK_OK;
}

static double deadline_of(const struct fork *fork, const struct fork_mailbox *mailbox)
{
    return fork->resumed_at_ms + mailbox->ack_timeout_ms;
}

const char *handoff_mailboxes_failure(const struct fork *fork, double *deadline_ms)
{
    double now = process_now_ms();
    for (size_t i = 0; i < fork->request->count; i++) {
        const struct fork_mailbox *mailbox = &fork->request->mailboxes[i];
        double deadline = deadline_of(fork, mailbox);
        if (!is_waited_for(mailbox))
            continue;
        if (mailbox->ack.state == ACK_REFUSED)
            return "the guest refused a mailbox";
        if (now >= deadline)
            return "a mailbox was not acked in time";
        if (deadline < *deadline_ms)
            *deadline_ms = deadline;
    }
    return "";
}

/* 1: all have acked; 0: some are waited for, until *ret_deadline_ms; -errno. */
static int look(struct fork *fork, double *ret_deadline_ms, struct error *err)
{
    int done = 1;
    for (size_t i = 0; i < fork->request->count; i++) {
        struct fork_mailbox *mailbox = &fork->request->mailboxes[i];
        if (!is_waited_for(mailbox))
            continue;
        double deadline = deadline_of(fork, mailbox);
        fork->failed_mailbox = mailbox->name;
        if (mailbox->ack.state == ACK_REFUSED)
            return error_set(err, EREMOTEIO, "the guest could not apply mailbox %s: %s",
                             mailbox->name,
                             mailbox->ack.reason[0] ? mailbox->ack.reason : "no reason given");
        if (process_now_ms() >= deadline)
            return no_ack(fork, mailbox, err);
        if (done || deadline < *ret_deadline_ms)
            *ret_deadline_ms = deadline;
        done = 0;
    }
    fork->failed_mailbox = NULL;
    return done;
}

static int after_resume(struct fork *fork, struct error *err)
{
    return handoff_wait(fork, look, err);
}

static void close_mailboxes(struct fork *fork)
{
    if (fork->acks_wanted)
        handoff_close_socket(fork);
}

const struct handoff handoff_mailboxes = {
    .phase = FORK_ACK, .prepare = prepare, .after_resume = after_resume, .close = close_mailboxes};
