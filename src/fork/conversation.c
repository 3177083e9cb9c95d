/* SPDX-License-Identifier: MIT */
#include "fork/conversation.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fork/internal.h"
#include "instance/live.h"
#include "mailbox/live.h"
#include "mailbox/rearm.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/process.h"
#include "util/timing.h"

/* A guest's kernel may move a page at any time: a list of frames is true for a while only. */
enum { LIST_MS = 10000, PENDING_MS = 1000, LOOK_MS = 2, REARM_MS = 100, TRIES = 5 };

struct conversation {
    const struct conversation_setup *setup;
    struct instance *instance;
    struct fork_network *request;
    struct fork_mailbox *mailbox; /* of the request */
    enum frame_kind kind;

    struct instance_view view;
    bool seen;           /* it was there once: what the view says of its life stays */
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
    unsigned ignored; /* datagrams */
    double let_go_ms; /* process_now_ms(): it goes on with the payload */
    int timeout_ms;
    struct conversation_outcome *outcome;
};

/* ---- locate ---- */

static void forget_view(struct conversation *conversation)
{
    instance_view_finish(&conversation->view);
}

static int see(struct conversation *conversation, struct error *err)
{
    if (conversation->view.memory)
        return 0;
    int r = instance_view(conversation->instance, &conversation->view, err);
    if (r == 0) {
        conversation->io = live_memory_io(conversation->view.memory);
        conversation->seen = true;
    }
    return r;
}

static int search(struct conversation *conversation, struct error *err)
{
    conversation->searched = true;
    return instance_search(conversation->instance, &conversation->view, err);
}

static int find_in_list(struct conversation *conversation, struct error *err)
{
    const struct fork_mailbox *mailbox = conversation->mailbox;
    struct image_index *list = instance_list(conversation->instance, NULL);
    scan_finish(&conversation->found);
    conversation->delivery = (struct delivery){.kind = conversation->kind,
                                               .name = mailbox->name,
                                               .token = mailbox->token,
                                               .token_size = mailbox->token_size,
                                               .payload = mailbox->payload,
                                               .payload_size = mailbox->payload_size};
    int r = list
                ? live_refresh(&conversation->io, &list->scan, conversation->kind, mailbox->name,
                               &conversation->found, err)
                : error_set(err, ESTALE, "the VM of %s is another one", conversation->instance->id);
    image_index_unref(list);
    if (r < 0)
        return r;
    r = deliver_locate(&conversation->found, &conversation->delivery, err);
    conversation->pending = r == -EBUSY;
    return r;
}

static int not_there(const struct conversation *conversation, struct error *err)
{
    const char *name = conversation->mailbox->name;
    return error_set(
        err, ENOENT,
        "%s%s is not in the memory of %s any more: does its software run in the guest?",
        name[0] ? "mailbox " : "the resume-network mailbox", name, conversation->instance->id);
}

/* Where it goes to. What an older list does not have, a search may find. */
static int locate(struct conversation *conversation, struct error *err)
{
    double at_ms;
    conversation->outcome->step = FORK_LOCATE;
    conversation->pending = false;
    int r = see(conversation, err);
    if (r < 0)
        return r;
    image_index_unref(instance_list(conversation->instance, &at_ms));
    if (at_ms == 0 || process_now_ms() - at_ms > LIST_MS)
        r = search(conversation, err);
    if (r == 0)
        r = find_in_list(conversation, err);
    if (r < 0 && r != -EBUSY && r != -EFBIG && r != -ESTALE && !conversation->searched) {
        r = search(conversation, err);
        if (r == 0)
            r = find_in_list(conversation, err);
    }
    return r == -ENOENT ? not_there(conversation, err) : r;
}

/* ---- patch ---- */

/* And finds out which frames are declared: both are on record before anything is written. */
static int choose_sequence(struct conversation *conversation, struct error *err)
{
    int r = deliver_preflight(&conversation->io, &conversation->delivery, 1, err);
    conversation->pending = r == -EBUSY;
    return r == -EIO ? error_set(err, EAGAIN, "its frames move too fast") : r;
}

/* Both are called while the VMM stands still. */
static int rearm(void *context, struct error *err)
{
    struct conversation *conversation = context;
    struct instance *instance = conversation->instance;
    const uint64_t size = conversation->view.memory->size;
    auto_json cJSON *records = instance_deliveries(instance);
    auto_json cJSON *left = instance_left_behind(instance, conversation->mailbox->name);
    int r = rearm_memory(&conversation->io, size, records, err);
    return r == 0 ? rearm_withdraw(&conversation->io, size, left, err) : r;
}

static int write_payload(void *context, struct error *err)
{
    struct conversation *conversation = context;
    const struct delivery recorded = conversation->delivery;
    int r = choose_sequence(conversation, err);
    for (size_t i = 0; i < recorded.target_count && r == 0; i++)
        if (deliver_sequence(&conversation->delivery, i) != deliver_sequence(&recorded, i))
            r = error_set(err, EAGAIN, "its frames are armed anew");
    if (r < 0)
        return r;
    conversation->written = true;
    return deliver_write(&conversation->io, &conversation->delivery, 1, err);
}

static int freeze(struct conversation *conversation, int (*work)(void *, struct error *),
                  struct error *err)
{
    double ms = 0;
    int r =
        instance_freeze(conversation->instance, &conversation->view, work, conversation, &ms, err);
    if (work == write_payload && r == 0)
        conversation->outcome->frozen_ms = ms;
    return r;
}

static int patch(struct conversation *conversation, struct error *err)
{
    struct instance *instance = conversation->instance;
    struct fork_mailbox *mailbox = conversation->mailbox;
    auto_json cJSON *before = NULL, *failed = NULL;
    conversation->outcome->step = FORK_PATCH;
    int r = choose_sequence(conversation, err);
    if (r < 0)
        return r;
    cJSON *record = rearm_record(&conversation->delivery);
    json_add_bool(record, "waited", mailbox->wait_for_ack);
    r = instance_record_delivery(instance, mailbox->name, record, &before, err);
    if (r == 0)
        r = freeze(conversation, write_payload, err);
    conversation->let_go_ms = process_now_ms();
    if (r < 0 && !conversation->written && before) /* which counts again */
        instance_record_delivery(instance, mailbox->name, steal_pointer(before), &failed, NULL);
    if (r < 0)
        return r;
    mailbox->located = mailbox->delivered = true;
    mailbox->offset = conversation->delivery.targets[0]->offset;
    mailbox->copies = conversation->delivery.target_count;
    mailbox->consume = (struct consume){.delivery = &conversation->delivery};
    return 0;
}

/* ---- until it is written ---- */

static int is_stopping(struct conversation *conversation, double deadline_ms, struct error *err)
{
    const int fds[] = {conversation->setup->cancel_fd, conversation->view.memory->pidfd};
    int r = process_poll(fds, array_length(fds), deadline_ms);
    return r > 0 && r & 1 ? error_set(err, ESHUTDOWN, "the daemon is stopping") : 0;
}

/* Why it was EBUSY is in `err` already, in words for an image, unless an earlier payload is there.
 */
static int in_the_way(const struct conversation *conversation, struct error *err)
{
    const struct scan *found = &conversation->found;
    bool pending = false;
    for (size_t i = 0; i < found->count; i++)
        pending = pending || found->candidates[i].pending;
    if (!pending)
        return -EBUSY;
    return error_set(
        err, EBUSY, "%s%s: the guest has not taken an earlier payload: wait until it has",
        conversation->mailbox->name[0] ? "mailbox " : "the network", conversation->mailbox->name);
}

/* An earlier payload is there. Perhaps in copies only that nobody will take; else its guest has a
 * while to take it. */
static int await_armed(struct conversation *conversation, double begun_ms, struct error *err)
{
    const double now_ms = process_now_ms();
    if (now_ms >= conversation->rearm_ms) {
        conversation->rearm_ms = now_ms + REARM_MS;
        return freeze(conversation, rearm, err);
    }
    if (conversation->view.paused || now_ms >= begun_ms + PENDING_MS)
        return in_the_way(conversation, err);
    return is_stopping(conversation, now_ms + LOOK_MS, err);
}

static int deliver(struct conversation *conversation, struct error *err)
{
    const double begun_ms = process_now_ms();
    int r = -ESTALE;
    for (int moved = 0; moved < TRIES;) {
        r = locate(conversation, err);
        if (r == 0)
            r = patch(conversation, err);
        if (r == -EBUSY && conversation->pending) {
            r = await_armed(conversation, begun_ms, err);
            if (r < 0 && r != -ESTALE)
                return r;
        } else if (r == -EAGAIN && !conversation->written) {
            conversation->searched = false;
            moved++;
            r = search(conversation, err);
        }
        if (r == -ESTALE)
            forget_view(conversation);
        else if (r < 0 || conversation->written)
            return r;
    }
    return error_set(err, EIO, "the guest's memory does not stay as it was found");
}

/* ---- ack ---- */

static int not_taken(const struct conversation *conversation, struct error *err)
{
    const struct fork_mailbox *mailbox = conversation->mailbox;
    const char *network = mailbox->name[0] ? "" : "the network";
    error_set(err, ETIMEDOUT,
              "no ack for %s%s within %d ms: ", mailbox->name[0] ? "mailbox " : network,
              mailbox->name, conversation->timeout_ms);
    if (mailbox->consume.state == CONSUME_UNKNOWN)
        error_append(err, "the guest uses the memory of all its copies for something else: does "
                          "its software still run?");
    else if (conversation->at_work)
        error_append(err, "it was taken, and the guest is still at work on it. To do: a longer "
                          "\"ack_timeout_ms\"");
    else if (mailbox->consume.state == CONSUME_PENDING)
        error_append(err, "it was not taken, and is withdrawn: does its software run in the guest, "
                          "and does it look at its mailbox? To do: a longer \"ack_timeout_ms\"");
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

static void unwatch(struct conversation *conversation)
{
    memory_watch_remove(conversation->setup->watch, &conversation->watched);
}

/* A work of freeze(). */
static int withdraw(void *context, struct error *err)
{
    struct conversation *conversation = context;
    return live_withdraw(&conversation->io, &conversation->mailbox->consume,
                         &conversation->at_work, err);
}

/* The VM is there no more. */
static int explain_end(const struct conversation *conversation, struct error *err)
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
    unwatch(conversation);
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
    return explain_end(conversation, err);
}

/* At the deadline nothing comes later: it is taken back, unless the last look tells that it was
 * taken. */
static int give_up(struct conversation *conversation, struct error *err)
{
    struct fork_mailbox *mailbox = conversation->mailbox;
    unwatch(conversation);
    int r = freeze(conversation, withdraw, err);
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

static int await_ack(struct conversation *conversation, struct error *err)
{
    enum { SOCKET, MEMORY, PROCESS, CANCEL, COUNT };
    struct fork_mailbox *mailbox = conversation->mailbox;
    const double deadline_ms = conversation->let_go_ms + conversation->timeout_ms;
    conversation->outcome->step = FORK_ACK;
    int r = watch(conversation, err);
    while (r >= 0) {
        const double now_ms = process_now_ms();
        receive(conversation);
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
            return error_errno(err, -r, "cannot wait for the ack");
        if (r & 1 << CANCEL)
            return error_set(err, ESHUTDOWN, "the daemon is stopping");
        if (r & 1 << PROCESS && !(r & (1 << SOCKET | 1 << MEMORY)))
            r = follow(conversation, err);
    }
    return r;
}

/* ---- all of it ---- */

/* The network's is waited for where it can come. */
static int check_wait(struct conversation *conversation, struct error *err)
{
    struct fork_mailbox *mailbox = conversation->mailbox;
    const char *what = mailbox->name[0] ? "the mailbox" : "the network";
    conversation->outcome->step = FORK_VALIDATE;
    int r = see(conversation, err);
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
    if ((r != -EIO && r != -EOPNOTSUPP && r != -ENODEV) || !conversation->seen)
        return r;
    instance_view(conversation->instance, &now, &why); /* when what is under way has ended */
    instance_view_finish(&now);
    return instance_was_ended(conversation->instance, &conversation->view)
               ? explain_end(conversation, err)
               : r;
}

static int run(struct conversation *conversation, struct error *err)
{
    int r = prepare(conversation, err);
    if (r == 0)
        r = explain_failure(conversation, deliver(conversation, err), err);
    if (r == 0 && conversation->mailbox->wait_for_ack)
        r = await_ack(conversation, err);
    unwatch(conversation);
    keep(conversation);
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
    *turn = (struct instance_turn){.kind = conversation.kind, .name = request->mailbox.name};
    *ret = (struct conversation_outcome){.step = FORK_QUEUED};
    int r = instance_begin_turn(instance, turn, err);
    if (r < 0) {
        turn->name = NULL;
        return r;
    }
    r = run(&conversation, err);
    ack_socket_close(&conversation.socket);
    scan_finish(&conversation.found);
    instance_view_finish(&conversation.view);
    return r;
}
