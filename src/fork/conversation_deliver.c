/* SPDX-License-Identifier: MIT */
/* conversation_deliver: finds the frames of a VM that runs, and writes the payload. */
#include <errno.h>

#include "fork/conversation_internal.h"
#include "mailbox/live.h"
#include "mailbox/rearm.h"
#include "util/cleanup.h"
#include "util/fault.h"
#include "util/json.h"
#include "util/process.h"

/* A guest's kernel may move a page at any time: a list of frames is true for a while only. */
enum { LIST_MS = 10000, PENDING_MS = 1000, LOOK_MS = 2, REARM_MS = 100, TRIES = 5 };

/* ---- locate ---- */

static void forget_view(struct conversation *conversation)
{
    instance_view_finish(&conversation->view);
}

int conversation_see(struct conversation *conversation, struct error *err)
{
    if (conversation->view.memory)
        return 0;
    int r = instance_view(conversation->instance, &conversation->view, err);
    if (r == 0) {
        conversation->io = live_memory_io(conversation->view.memory);
        conversation->seen = true;
        conversation->pid = conversation->view.memory->pid;
    }
    return r;
}

int conversation_search(struct conversation *conversation, struct error *err)
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
    int r = conversation_see(conversation, err);
    if (r < 0)
        return r;
    image_index_unref(instance_list(conversation->instance, &at_ms));
    if (at_ms == 0 || process_now_ms() - at_ms > LIST_MS)
        r = conversation_search(conversation, err);
    if (r == 0)
        r = find_in_list(conversation, err);
    if (r < 0 && r != -EBUSY && r != -EFBIG && r != -ESTALE && !conversation->searched) {
        r = conversation_search(conversation, err);
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
    return r == -EIO ? error_set(err, EBADMSG, "its frames have moved") : r;
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
            r = error_set(err, EBADMSG, "its frames are armed anew");
    if (r < 0)
        return r;
    fault_point(FAULT_PATCH);
    conversation->written = true;
    r = deliver_write(&conversation->io, &conversation->delivery, 1, err);
    fault_point(FAULT_PATCHED);
    if (r < 0) /* what was written so far is not to be taken */
        live_undo(&conversation->io, &conversation->delivery);
    return r;
}

int conversation_freeze(struct conversation *conversation, int (*work)(void *, struct error *),
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
        r = conversation_freeze(conversation, write_payload, err);
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
static int await_armed(struct conversation *conversation, double *begun_ms, struct error *err)
{
    const double now_ms = process_now_ms();
    *begun_ms = *begun_ms > 0 ? *begun_ms : now_ms;
    const bool is_first = conversation->rearm_ms == 0;
    if (!is_first && (conversation->view.paused || now_ms >= *begun_ms + PENDING_MS))
        return in_the_way(conversation, err);
    if (now_ms >= conversation->rearm_ms) {
        conversation->rearm_ms = now_ms + REARM_MS;
        return conversation_freeze(conversation, rearm, err);
    }
    return is_stopping(conversation, now_ms + LOOK_MS, err);
}

int conversation_deliver(struct conversation *conversation, struct error *err)
{
    double begun_ms = 0; /* when it was found in the way first */
    int r = -ESTALE;
    for (int moved = 0; moved < TRIES;) {
        r = locate(conversation, err);
        if (r == 0)
            r = patch(conversation, err);
        if (r == -EBUSY && conversation->pending) {
            r = await_armed(conversation, &begun_ms, err);
            if (r < 0 && r != -ESTALE)
                return r;
        } else if (r == -EBADMSG) {
            conversation->searched = false;
            moved++;
            r = conversation_search(conversation, err);
        }
        if (r == -ESTALE)
            forget_view(conversation);
        else if (r < 0 || conversation->written)
            return r;
    }
    return error_set(err, EIO, "the guest's memory does not stay as it was found");
}
