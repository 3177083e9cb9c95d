/* SPDX-License-Identifier: MIT */
#include "fs/event.h"

#include <stdio.h>
#include <string.h>

#include "util/json.h"

/* NULL when nobody reads. */
static cJSON *begin(struct event_ring *events, const char *event)
{
    cJSON *line = event_ring_wanted(events) ? cJSON_CreateObject() : NULL;
    if (line)
        json_add_string(line, "event", event);
    return line;
}

static void add_text(cJSON *line, const char *name, const char *text)
{
    json_add(line, name, text && text[0] ? cJSON_CreateString(text) : cJSON_CreateNull());
}

static void add_source(cJSON *line, const struct instance *instance)
{
    char text[INSTANCE_SOURCE_PATH_SIZE] = "";
    if (instance->source.id[0])
        instance_source_path(&instance->source, text);
    add_text(line, "source", text);
}

void event_instance(void *listener, const struct instance *instance, enum instance_event what,
                    enum instance_state from)
{
    static const char *const names[] = {
        [INSTANCE_MADE] = "instance-made",        [INSTANCE_STATE] = "state",
        [INSTANCE_VMM_ENDED] = "vmm-ended",       [INSTANCE_REMOVED] = "instance-removed",
        [INSTANCE_CONSOLE_CUT] = "log-shortened", [INSTANCE_LOG_CUT] = "log-shortened",
    };
    cJSON *line = begin(listener, names[what]);
    if (!line)
        return;
    json_add_string(line, "instance", instance->id);
    if (what == INSTANCE_MADE)
        add_source(line, instance);
    if (what == INSTANCE_STATE)
        json_add_string(line, "from", instance_state_names[from]);
    if (what == INSTANCE_MADE || what == INSTANCE_STATE)
        json_add_string(line, "state", instance_state_names[instance->state]);
    if (what == INSTANCE_CONSOLE_CUT || what == INSTANCE_LOG_CUT)
        add_text(line, "file",
                 instance_logs[what == INSTANCE_CONSOLE_CUT ? INSTANCE_CONSOLE : INSTANCE_VMM_LOG]
                     .shown);
    if (what == INSTANCE_VMM_ENDED)
        json_add(line, "exit", instance_exit(instance));
    event_ring_add(listener, line);
}

void event_snapshot(void *listener, const char *id, bool removed)
{
    cJSON *line = begin(listener, removed ? "snapshot-removed" : "snapshot-published");
    if (!line)
        return;
    json_add_string(line, "snapshot", id);
    event_ring_add(listener, line);
}

/* Why a fork that was made may not be reached: by the network's status and message. */
static void add_degraded_network(cJSON *line, const cJSON *network)
{
    const cJSON *message = json_get(network, "message");
    const cJSON *status = json_get(network, "status");
    if (!cJSON_IsString(message) || !cJSON_IsString(status))
        return;
    cJSON *degraded = json_add_object(line, "network");
    json_add_string(degraded, "status", status->valuestring);
    json_add_string(degraded, "message", message->valuestring);
}

void event_commit(const struct event_commit *commit, const char *event, const char *step,
                  const cJSON *result)
{
    const cJSON *error = json_get(result, "error");
    bool failed = cJSON_IsObject(error);
    cJSON *line = begin(commit->events, event ? event : failed ? "commit-failed" : "committed");
    if (!line)
        return;
    add_text(line, "instance", commit->instance);
    json_add_string(line, "source", commit->source);
    if (step)
        json_add_string(line, "phase", step);
    if (failed)
        json_add(line, "error", cJSON_Duplicate(error, true));
    add_degraded_network(line, json_get(result, "network"));
    event_ring_add(commit->events, line);
}

static cJSON *add_error(cJSON *line, const struct error *err)
{
    cJSON *error = json_add_object(line, "error");
    json_add_string(error, "code", error_name(err->code));
    json_add_string(error, "message", err->text);
    return error;
}

void event_command_failed(struct event_ring *events, const char *file,
                          const struct instance *instance, const char *written,
                          const struct error *err)
{
    char event[32];
    snprintf(event, sizeof event, "%s-failed", file);
    cJSON *line = begin(events, event);
    if (!line)
        return;
    json_add_string(line, "instance", instance->id);
    json_add_string(line, file, written);
    add_error(line, err);
    event_ring_add(events, line);
}

void event_delivery(struct event_ring *events, const struct instance *instance, const char *mailbox,
                    const char *step, double frozen_ms, const struct error *err)
{
    cJSON *line = begin(events, err ? "delivery-failed" : "delivered");
    if (!line)
        return;
    json_add_string(line, "instance", instance->id);
    add_text(line, "mailbox", mailbox);
    if (frozen_ms > 0)
        json_add(line, "frozen_ms", json_milliseconds(frozen_ms));
    if (err)
        json_add_string(add_error(line, err), "phase", step);
    event_ring_add(events, line);
}
