/* SPDX-License-Identifier: MIT */
/* handoff_mailboxes: the payloads of fork mailboxes, and the acks that were asked for. */
#include <errno.h>
#include <stdio.h>

#include "fork/internal.h"

static bool wants_acks(const struct fork_request *request)
{
    for (size_t i = 0; i < request->count; i++)
        if (fork_waits_for_datagram(&request->mailboxes[i]))
            return true;
    return false;
}

static int prepare_mailbox(struct fork *fork, struct fork_mailbox *mailbox, struct error *err)
{
    int r = 0;
    mailbox->ack = (struct ack_wait){.mailbox = mailbox->name};
    if (fork_waits_for_datagram(mailbox))
        r = handoff_append_ack(fork, mailbox, err);
    if (r == 0 && fork->request->options.identity)
        r = identity_append(fork, mailbox, err);
    return r < 0 ? r : handoff_add(fork, FRAME_FORK, mailbox, err);
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

static int no_ack(struct fork *fork, struct fork_mailbox *mailbox, struct error *err)
{
    char what[sizeof "mailbox " + FRAME_NAME_MAX];
    struct error missing = {0};
    snprintf(what, sizeof what, "mailbox %s", mailbox->name);
    missing_ack_text(fork, mailbox, mailbox->ack_timeout_ms, what, &missing);
    return error_set(err, ETIMEDOUT, "%s", missing.text);
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
    for (size_t i = 0; i < fork->request->count; i++) {
        const struct fork_mailbox *mailbox = &fork->request->mailboxes[i];
        double deadline = deadline_of(fork, mailbox);
        if (!is_waited_for(mailbox))
            continue;
        if (mailbox->ack.state == ACK_REFUSED)
            return "the guest refused a mailbox";
        if (fork->looked_at_ms >= deadline)
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
        if (fork->looked_at_ms >= deadline)
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
