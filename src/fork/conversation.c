/* SPDX-License-Identifier: MIT */
#include "fork/conversation.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fork/conversation_internal.h"
#include "util/timing.h"

enum { VMMS_MAX = 5 }; /* in which a VM goes on, one after the other, during one delivery */

/* The network's is waited for where it can come. */
static int check_wait(struct conversation *conversation, struct error *err)
{
    struct fork_mailbox *mailbox = conversation->mailbox;
    const char *what = mailbox->name[0] ? "the mailbox" : "the network";
    conversation->outcome->step = FORK_VALIDATE;
    int r = conversation_see(conversation, err);
    if (r < 0)
        return r;
    if (conversation->kind == FRAME_NETWORK) {
        mailbox->wait_for_ack = !conversation->view.paused;
        mailbox->ack_timeout_ms = timing_ms(TIMING_NETWORK);
    }
    conversation->timeout_ms = mailbox->ack_timeout_ms;
    if (mailbox->wait_for_ack && conversation->view.paused)
        return error_set(err, EINVAL,
                         "the instance %s is paused, so nobody takes the payload: deliver it "
                         "without \"wait_for_ack\", or write running to its state first",
                         conversation->instance->id);
    return mailbox->wait_for_ack
               ? handoff_check_ack(&conversation->instance->machine, mailbox, what, "", err)
               : 0;
}

static int prepare(struct conversation *conversation, struct error *err)
{
    struct fork_mailbox *mailbox = conversation->mailbox;
    const struct conversation_setup *setup = conversation->setup;
    int r = check_wait(conversation, err);
    mailbox->ack = (struct ack_wait){.mailbox = mailbox->name[0] ? mailbox->name : NULL,
                                     .mac = conversation->request->mac,
                                     .ip = conversation->request->ipv4};
    if (r < 0 || !fork_waits_for_datagram(mailbox))
        return r;
    r = ack_socket_open(setup->ack_address, setup->ack_ports, &conversation->socket, err);
    return r == 0 ? handoff_append_ack(mailbox, conversation->socket.port, err) : r;
}

/* What is known of it at the end. */
static void keep(struct conversation *conversation)
{
    struct fork_mailbox *mailbox = conversation->mailbox;
    if (!mailbox->delivered)
        return;
    if (!mailbox->known)
        mailbox->known = consume_refresh(&conversation->io, &mailbox->consume, NULL) == 0;
    instance_set_last(conversation->instance, mailbox->name,
                      fork_delivery_result(conversation->request));
}

/* What fails while its VM is ended fails because of that, however it looks. */
static int explain_failure(struct conversation *conversation, int r, struct error *err)
{
    struct instance_view now = {0};
    struct error why;
    if ((r != -EIO && r != -EOPNOTSUPP && r != -ENODEV && r != -ECANCELED) || !conversation->seen)
        return r;
    /* When what is under way has ended. */
    const int viewed = instance_view(conversation->instance, &now, &why);
    const bool goes_on = viewed == 0 && now.life == conversation->view.life &&
                         now.memory->pid != conversation->pid && !conversation->written;
    instance_view_finish(&now);
    if (goes_on) /* in another VMM */
        return -ESTALE;
    return r == -ECANCELED || instance_was_ended(conversation->instance, &conversation->view)
               ? conversation_explain_end(conversation, err)
               : r;
}

/* Again, if the VM has gone on in another VMM meanwhile. */
static int deliver(struct conversation *conversation, struct error *err)
{
    int r = -ESTALE;
    for (int i = 0; i < VMMS_MAX && r == -ESTALE; i++) {
        r = explain_failure(conversation, conversation_deliver(conversation, err), err);
        if (r == -ESTALE)
            instance_view_finish(&conversation->view);
    }
    return r == -ESTALE ? error_set(err, EIO, "the VM goes from one VMM to another") : r;
}

static int run(struct conversation *conversation, struct error *err)
{
    int r = prepare(conversation, err);
    if (r == 0)
        r = deliver(conversation, err);
    if (r == 0 && conversation->mailbox->wait_for_ack)
        r = conversation_await(conversation, err);
    conversation_unwatch(conversation);
    keep(conversation);
    if (r != -ESHUTDOWN && r != -ECANCELED) /* after which it may be there yet, and is withdrawn */
        instance_delivery_ended(conversation->instance, conversation->mailbox->name);
    return r;
}

int conversation_run(const struct conversation_setup *setup, struct instance *instance,
                     struct fork_network *request, struct instance_turn *turn,
                     struct conversation_outcome *ret, struct error *err)
{
    struct conversation conversation = {.setup = setup,
                                        .instance = instance,
                                        .request = request,
                                        .mailbox = &request->mailbox,
                                        .kind = request->staged ? FRAME_NETWORK : FRAME_FORK,
                                        .socket = {.fd = -1},
                                        .watched = {.event_fd = -1},
                                        .outcome = ret};
    *ret = (struct conversation_outcome){.step = FORK_QUEUED};
    int r = instance_await_turn(instance, turn, err);
    if (r < 0)
        return r;
    r = run(&conversation, err);
    ack_socket_close(&conversation.socket);
    scan_finish(&conversation.found);
    image_index_unref(conversation.list);
    instance_view_finish(&conversation.view);
    return r;
}
