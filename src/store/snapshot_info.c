/* SPDX-License-Identifier: MIT */
/* snapshot_info: a snapshot in words, for its `info` in the tree. */
#include "store/snapshot.h"
#include "util/cleanup.h"
#include "util/json.h"

static void describe_image(cJSON *info, const struct image_index *index)
{
    bool network = false;
    if (!index) {
        json_add_null(info, "mailboxes");
        json_add_null(info, "network_mailbox");
        json_add_null(info, "truncated");
        return;
    }
    const struct scan *scan = &index->scan;
    cJSON *names = json_add_array(info, "mailboxes");
    for (size_t i = scan_next_name(scan, 0); i < scan->count; i = scan_next_name(scan, i + 1))
        json_append(names, cJSON_CreateString(scan->candidates[i].marker.name));
    for (size_t i = 0; i < scan->count; i++)
        network |= scan->candidates[i].marker.kind == FRAME_NETWORK;
    json_add_bool(info, "network_mailbox", network);
    json_add_bool(info, "truncated", scan->truncated);
}

void snapshot_describe_trust(cJSON *info, const struct image_index *index, const struct error *why)
{
    json_add_text(info, "changed", why->code ? why->text : NULL);
    json_add_text(info, "accepted", json_get_text(index ? index->accepted : NULL, "at"));
}

/* Copies a member of snapshot.json into `info`, null where it is missing. */
static void copy_member(cJSON *info, const cJSON *json, const char *name)
{
    const cJSON *item = json_get(json, name);
    json_add(info, name, item ? cJSON_Duplicate(item, true) : cJSON_CreateNull());
}

cJSON *snapshot_info(struct snapshot *snapshot)
{
    static const char *const before[] = {"kind",         "hypervisor", "hypervisor_version",
                                         "memory_bytes", "created_at", "source_instance"};
    static const char *const after[] = {"undelivered", "pause_ms", "switched"};
    cJSON *info = cJSON_CreateObject();
    const cJSON *json = snapshot_json(snapshot);
    struct image_index *index = NULL;
    struct error why = {0};

    json_add_string(info, "id", snapshot->id);
    for (size_t i = 0; i < array_length(before); i++)
        copy_member(info, json, before[i]);
    image_index(snapshot->image, &index, &why);
    describe_image(info, index);
    for (size_t i = 0; i < array_length(after); i++)
        copy_member(info, json, after[i]);
    snapshot_describe_trust(info, index, &why);
    image_index_unref(index);
    return info;
}
