/* SPDX-License-Identifier: MIT */
/* conversation_ack: waits until a payload was taken, and takes it back if it was not. */
#include <errno.h>

#include "fork/conversation_internal.h"
#include "mailbox/live.h"
#include "mailbox/rearm.h"
#include "util/cleanup.h"
#include "util/fault.h"
#include "util/json.h"
#include "util/process.h"

static int not_taken(const struct conversation *conversation, struct error *err)
{
    const struct fork_mailbox *mailbox = conversation->mailbox;
    const bool is_network = !mailbox->name[0];
    error_set(err, ETIMEDOUT,
              "no ack for %s%s within %d ms: ", is_network ? "the network" : "mailbox ",
              mailbox->name, conversation->timeout_ms);
    if (mailbox->consume.state == CONSUME_UNKNOWN && conversation->moved.target_count > 0)
        error_append(err,
                     "the guest's kernel has moved its mailbox, so whether it was taken is not "
                     "known; what is left of it is withdrawn. To do: deliver it again, if the "
                     "guest does not mind");
    else if (mailbox->consume.state == CONSUME_UNKNOWN)
        error_append(err, "the guest uses the memory of all its copies for something else: does "
                          "its software still run?");
    else if (conversation->at_work)
        error_append(err, "it was taken, and the guest is still at work on it. To do: a longer "
                          "\"ack_timeout_ms\"");
    else if (mailbox->consume.state == CONSUME_PENDING)
        error_append(err,
                     "it was not taken, and is withdrawn: does its software run in the guest, "
                     "and does it look at its mailbox? %s",
                     is_network ? "Software other than hypefs-guest may look there only after its "
                                  "VM was loaded anew"
                                : "To do: a longer \"ack_timeout_ms\"");
    else
        error_append(err,
                     "the payload was taken nevertheless; %u other datagrams came. To do: \"ack\": "
                     "\"memory\", which needs no network",
                     conversation->ignored);
    return -ETIMEDOUT;
}

static int refused(const struct fork_mailbox *mailbox, struct error *err)
{
    return error_set(err, EREMOTEIO, "the guest could not apply %s%s: %s",
                     mailbox->name[0] ? "mailbox " : "its network", mailbox->name,
                     mailbox->ack.reason[0] ? mailbox->ack.reason : "no reason given");
}

static bool by_memory(const struct conversation *conversation)
{
    return conversation->mailbox->how == FORK_ACK_MEMORY;
}

static int watch(struct conversation *conversation, struct error *err)
{
    struct fork_mailbox *mailbox = conversation->mailbox;
    if (!by_memory(conversation))
        return 0;
    conversation->watched =
        (struct watched){.io = conversation->io,
                         .frames = {{.consume = &mailbox->consume, .wait = &mailbox->ack}},
                         .count = 1,
                         .event_fd = -1};
    return memory_watch_add(conversation->setup->watch, &conversation->watched, err);
}

void conversation_unwatch(struct conversation *conversation)
{
    memory_watch_remove(conversation->setup->watch, &conversation->watched);
}

static bool is_target(const struct delivery *delivery, uint64_t offset)
{
    for (size_t i = 0; i < delivery->target_count; i++)
        if (delivery->targets[i]->offset == offset)
            return true;
    return false;
}

/* Frames of the same mailbox that were not there, or not known, when it was written: where a
 * guest's kernel has moved one meanwhile, the payload may lie, too, or have been taken. */
static void find_moved(struct conversation *conversation)
{
    const struct delivery *delivery = &conversation->delivery;
    struct delivery *moved = &conversation->moved;
    struct error why;
    image_index_unref(steal_pointer(conversation->list));
    *moved = *delivery;
    moved->target_count = 0;
    if (conversation_search(conversation, &why) < 0)
        return;
    conversation->list = instance_list(conversation->instance, NULL);
    for (size_t i = 0; conversation->list && i < conversation->list->scan.count; i++) {
        const struct candidate *candidate = &conversation->list->scan.candidates[i];
        if (candidate->page_aligned && moved->target_count < DELIVER_COPIES_MAX &&
            frame_marker_equal(&candidate->marker, &delivery->targets[0]->marker) &&
            !is_target(delivery, candidate->offset)) {
            moved->declared[moved->target_count] = candidate->declared;
            moved->targets[moved->target_count++] = candidate;
        }
    }
}

/* A declared frame that has moved says itself whether the payload was taken. */
static int withdraw_declared(struct conversation *conversation, struct error *err)
{
    struct consume *consume = &conversation->mailbox->consume;
    struct consume moved = {.delivery = &conversation->moved};
    int r = live_withdraw(&conversation->io, &moved, &conversation->at_work, err);
    if (r < 0 || moved.state == CONSUME_UNKNOWN)
        return r;
    consume_finish(consume);
    moved.delivery = consume->delivery;
    *consume = moved;
    return 0;
}

/* A work, at the deadline. */
static int withdraw(void *context, struct error *err)
{
    struct conversation *conversation = context;
    struct consume *consume = &conversation->mailbox->consume;
    int r = live_withdraw(&conversation->io, consume, &conversation->at_work, err);
    const bool is_known = consume->state != CONSUME_PENDING && consume->state != CONSUME_UNKNOWN;
    if (r < 0 || is_known || conversation->at_work || conversation->moved.target_count == 0)
        return r;
    if (conversation->delivery.declared[0])
        return withdraw_declared(conversation, err);
    if (consume->state != CONSUME_PENDING)
        return 0;
    auto_json cJSON *records = cJSON_CreateArray();
    json_append(records, rearm_record(&conversation->moved));
    consume->state = CONSUME_UNKNOWN;
    return rearm_withdraw(&conversation->io, conversation->view.memory->size, records, err);
}

/* The VM is there no more. */
int conversation_explain_end(const struct conversation *conversation, struct error *err)
{
    struct instance *instance = conversation->instance;
    if (instance_was_ended(instance, &conversation->view))
        return error_set(err, ECANCELED,
                         "%s was stopped, or put into standby, before its guest took the payload",
                         instance->id);
    return error_set(err, EIO,
                     "the VM ended before its guest took the payload: did the guest shut down, "
                     "reboot or crash?");
}

/* Its VMM has ended. The VM may have gone on in another one, with all that was in its memory. */
static int follow(struct conversation *conversation, struct error *err)
{
    struct instance *instance = conversation->instance;
    struct instance_view now = {0};
    struct error why;
    conversation_unwatch(conversation);
    int r = instance_view(instance, &now, &why);
    if (r == 0 && now.life == conversation->view.life) {
        instance_view_finish(&conversation->view);
        conversation->view = now;
        conversation->io = live_memory_io(now.memory);
        return watch(conversation, err);
    }
    instance_view_finish(&now);
    if (r == -ESHUTDOWN)
        return error_set(err, ESHUTDOWN, "%s", why.text);
    return conversation_explain_end(conversation, err);
}

/* At the deadline nothing comes later: it is taken back, unless the last look tells that it was
 * taken. */
static int give_up(struct conversation *conversation, struct error *err)
{
    struct fork_mailbox *mailbox = conversation->mailbox;
    conversation_unwatch(conversation);
    find_moved(conversation);
    int r = conversation_freeze(conversation, withdraw, err);
    if (r == -ESTALE || (r < 0 && process_poll(&conversation->view.memory->pidfd, 1, 0) > 0))
        return r = follow(conversation, err), r == 0 ? give_up(conversation, err) : r;
    if (r < 0)
        return r;
    mailbox->known = true;
    if (!by_memory(conversation) || mailbox->consume.state == CONSUME_PENDING ||
        mailbox->consume.state == CONSUME_UNKNOWN)
        return not_taken(conversation, err);
    mailbox->ack.ms = process_now_ms() - conversation->let_go_ms;
    mailbox->ack.state = mailbox->consume.state == CONSUME_REFUSED ? ACK_REFUSED : ACK_OK;
    if (mailbox->ack.state == ACK_OK)
        return 0;
    memory_watch_explain(&mailbox->consume, &mailbox->ack);
    return refused(mailbox, err);
}

static void receive(struct conversation *conversation)
{
    struct ack_wait *wait = &conversation->mailbox->ack;
    if (conversation->socket.fd >= 0)
        ack_receive(&conversation->socket, &wait, 1, process_now_ms() - conversation->let_go_ms,
                    &conversation->ignored);
    if (conversation->watched.event_fd >= 0)
        memory_watch_receive(conversation->setup->watch, &conversation->watched,
                             conversation->let_go_ms);
}

/* It cannot be waited for any more: what was not taken is not to be taken later. */
static int withdraw_after(struct conversation *conversation, int r, struct error *err)
{
    struct error why;
    conversation_unwatch(conversation);
    if (conversation_freeze(conversation, withdraw, &why) < 0)
        return error_append(err, " (and it cannot be withdrawn: %s)", why.text), r;
    return error_append(err, " (it is withdrawn, unless the guest has taken it)"), r;
}

int conversation_await(struct conversation *conversation, struct error *err)
{
    enum { SOCKET, MEMORY, PROCESS, CANCEL, COUNT };
    struct fork_mailbox *mailbox = conversation->mailbox;
    const double deadline_ms = conversation->let_go_ms + conversation->timeout_ms;
    conversation->outcome->step = FORK_ACK;
    fault_point(FAULT_ACK);
    int r = watch(conversation, err);
    if (r < 0)
        return withdraw_after(conversation, r, err);
    while (r >= 0) {
        const double now_ms = process_now_ms();
        receive(conversation);
        if (mailbox->ack.state != ACK_WAITING)
            fault_point(FAULT_ACKED);
        if (mailbox->ack.state == ACK_OK)
            return 0;
        if (mailbox->ack.state == ACK_REFUSED)
            return refused(mailbox, err);
        if (now_ms >= deadline_ms)
            return give_up(conversation, err);
        const int fds[COUNT] = {conversation->socket.fd, conversation->watched.event_fd,
                                conversation->view.memory->pidfd, conversation->setup->cancel_fd};
        r = process_poll(fds, COUNT, deadline_ms);
        if (r < 0)
            return withdraw_after(conversation, error_errno(err, -r, "cannot wait for the ack"),
                                  err);
        if (r & 1 << CANCEL)
            return error_set(err, ESHUTDOWN, "the daemon is stopping");
        if (r & 1 << PROCESS && !(r & (1 << SOCKET | 1 << MEMORY)))
            r = follow(conversation, err);
    }
    return r;
}
