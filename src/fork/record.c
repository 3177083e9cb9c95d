/* SPDX-License-Identifier: MIT */
/* record: a fork's outcome as JSON. Never holds a payload or a token. A reply is in the result that
 * is shown, and in the record that goes to the store only if it is to be kept. */
#include <stdio.h>
#include <string.h>

#include "fork/internal.h"
#include "mailbox/rearm.h"
#include "util/json.h"

const char *const fork_step_names[FORK_STEPS] = {
    [FORK_VALIDATE] = "validate", [FORK_LOCATE] = "locate", [FORK_QUEUED] = "queued",
    [FORK_LOAD] = "load",         [FORK_PATCH] = "patch",   [FORK_RESUME] = "resume",
    [FORK_NETWORK] = "network",   [FORK_ACK] = "ack",       [FORK_PUBLISH] = "publish",
};

struct instance_source fork_source_id(const struct fork_source *source)
{
    struct instance_source ret = {.kind = source->instance ? STORE_INSTANCES : STORE_SNAPSHOTS};
    snprintf(ret.id, sizeof ret.id, "%s",
             source->instance ? source->instance->id : source->snapshot->id);
    snprintf(ret.uuid, sizeof ret.uuid, "%s",
             source->instance ? source->instance->uuid : source->snapshot->uuid);
    return ret;
}

static void add_if(cJSON *json, const char *name, bool known, cJSON *item)
{
    if (!known) {
        cJSON_Delete(item);
        item = cJSON_CreateNull();
    }
    json_add(json, name, item);
}

/* By the guest, as far as its memory told when the commit ended. */
static cJSON *consumed_result(const struct fork_mailbox *mailbox)
{
    enum consume_state state = mailbox->consume.state;
    bool known = mailbox->delivered && mailbox->known && state != CONSUME_UNKNOWN;
    return known ? cJSON_CreateBool(state != CONSUME_PENDING) : cJSON_CreateNull();
}

static void add_place(cJSON *json, const struct fork_mailbox *mailbox)
{
    add_if(json, "offset", mailbox->located, cJSON_CreateNumber((double)mailbox->offset));
    add_if(json, "copies", mailbox->located, cJSON_CreateNumber((double)mailbox->copies));
    add_if(json, "payload_bytes", mailbox->delivered,
           cJSON_CreateNumber((double)mailbox->payload_size));
}

static void add_ack(cJSON *json, const struct fork_mailbox *mailbox)
{
    add_if(json, "ack", mailbox->wait_for_ack, cJSON_CreateString(fork_ack_words[mailbox->how]));
    add_if(json, "ack_text", mailbox->ack.text[0], cJSON_CreateString(mailbox->ack.text));
    add_if(json, "ack_ms", mailbox->wait_for_ack && mailbox->ack.state != ACK_WAITING,
           json_milliseconds(mailbox->ack.ms));
    json_add(json, "consumed", consumed_result(mailbox));
    const struct consume *consume = &mailbox->consume;
    add_if(json, "reply", consume->reply,
           consume->reply ? json_verbatim(consume->reply) : cJSON_CreateNull());
    add_if(json, "reply_error", consume->reply_error[0], cJSON_CreateString(consume->reply_error));
}

static cJSON *mailbox_result(const struct fork_mailbox *mailbox)
{
    cJSON *json = cJSON_CreateObject();
    json_add_string(json, "name", mailbox->name);
    add_place(json, mailbox);
    add_if(json, "acked", mailbox->wait_for_ack, cJSON_CreateBool(mailbox->ack.state == ACK_OK));
    add_ack(json, mailbox);
    return json;
}

/* "applied", "degraded", "delivered" (nobody waited for the ack), or null: none was staged, or it
 * did not come so far. */
static cJSON *network_result(const struct fork_network *network)
{
    const struct fork_mailbox *mailbox = &network->mailbox;
    if (!network->staged)
        return cJSON_CreateNull();
    cJSON *json = cJSON_CreateObject();
    const char *status = network->degraded[0]           ? "degraded"
                         : mailbox->ack.state == ACK_OK ? "applied"
                                                        : "delivered";
    add_if(json, "status", mailbox->delivered, cJSON_CreateString(status));
    add_place(json, mailbox);
    add_ack(json, mailbox);
    add_if(json, "message", network->degraded[0], cJSON_CreateString(network->degraded));
    return json;
}

cJSON *fork_delivery_result(const struct fork_network *delivery)
{
    return delivery->staged ? network_result(delivery) : mailbox_result(&delivery->mailbox);
}

static cJSON *error_result(const struct fork *fork, const struct error *err)
{
    if (!err)
        return cJSON_CreateNull();
    cJSON *json = cJSON_CreateObject();
    json_add_string(json, "code", error_name(err->code));
    json_add_string(json, "phase", fork_step_names[fork->step]);
    if (fork->failed_mailbox)
        json_add_string(json, "mailbox", fork->failed_mailbox);
    else
        json_add_null(json, "mailbox");
    json_add_string(json, "message", err->text);
    return json;
}

cJSON *fork_result(const struct fork *fork, const struct error *err)
{
    char source[INSTANCE_SOURCE_PATH_SIZE];
    cJSON *json = cJSON_CreateObject();
    instance_source_path(&fork->source_id, source);
    json_add_string(json, "status", err ? "failed" : "committed");
    json_add_string(json, "source", source);
    add_if(json, "instance", fork->request->id[0], cJSON_CreateString(fork->request->id));
    json_add_bool(json, "warm", fork->warm);
    json_add(json, "error", error_result(fork, err));
    cJSON *mailboxes = json_add_array(json, "mailboxes");
    for (size_t i = 0; i < fork->request->count; i++)
        json_append(mailboxes, mailbox_result(&fork->request->mailboxes[i]));
    json_add(json, "network", network_result(&fork->request->network));
    cJSON *timings = json_add_object(json, "timings_ms");
    for (int step = 0; step < FORK_PUBLISH; step++)
        json_add(timings, fork_step_names[step], json_milliseconds(fork->step_ms[step]));
    json_add(timings, "total", json_milliseconds(fork->total_ms));
    return json;
}

/* As a text, for numbers and escapes would not stay as they are where it is read. */
static void keep_reply(cJSON *mailbox, bool keep)
{
    const cJSON *reply = json_get(mailbox, "reply");
    if (cJSON_IsRaw(reply))
        json_replace(mailbox, "reply",
                     keep ? cJSON_CreateString(reply->valuestring) : cJSON_CreateNull());
}

static cJSON *recorded_result(const cJSON *result, bool keep_replies)
{
    cJSON *copy = cJSON_Duplicate(result, true), *mailbox;
    cJSON_ArrayForEach (mailbox, cJSON_GetObjectItemCaseSensitive(copy, "mailboxes"))
        keep_reply(mailbox, keep_replies);
    keep_reply(cJSON_GetObjectItemCaseSensitive(copy, "network"), keep_replies);
    return copy;
}

/* The reply of a mailbox, if what the store says is one. */
static void show_reply(cJSON *mailbox)
{
    const char *text = json_get_text(mailbox, "reply");
    struct json_check check;
    if (!json_get(mailbox, "reply"))
        return;
    bool whole = text && json_check(text, strlen(text), &check) == JSON_COMPLETE;
    json_replace(mailbox, "reply", whole ? json_verbatim(text) : cJSON_CreateNull());
}

cJSON *fork_recorded_result(const cJSON *record)
{
    cJSON *copy = cJSON_Duplicate(json_get(record, "result"), true), *mailbox;
    cJSON_ArrayForEach (mailbox, cJSON_GetObjectItemCaseSensitive(copy, "mailboxes"))
        show_reply(mailbox);
    show_reply(cJSON_GetObjectItemCaseSensitive(copy, "network"));
    return copy;
}

cJSON *fork_record(const struct fork *fork, const cJSON *result)
{
    cJSON *json = cJSON_CreateObject();
    json_add_number(json, "version", 1);
    json_add_string(json, "options", fork->request->options_text);
    json_add(json, "result", recorded_result(result, fork->request->options.keep_reply));
    cJSON *delivered = json_add_array(json, "delivered");
    for (size_t i = 0; i < fork->count; i++)
        if (fork->mailboxes[i]->delivered)
            json_append(delivered, rearm_record(&fork->deliveries[i]));
    return json;
}
