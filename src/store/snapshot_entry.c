/* SPDX-License-Identifier: MIT */
#include "store/snapshot_entry.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "store/format.h"
#include "util/cleanup.h"
#include "util/json.h"

/* Names (owned) of mailboxes with a payload that is not consumed; "network" for the network's. */
static cJSON *undelivered(const struct scan *scan)
{
    cJSON *names = cJSON_CreateArray();
    for (size_t i = 0; i < scan->count; i++) {
        const struct candidate *candidate = &scan->candidates[i];
        const char *name =
            candidate->marker.kind == FRAME_FORK ? candidate->marker.name : "network";
        bool known = false;
        const cJSON *item;
        if (!candidate->pending)
            continue;
        cJSON_ArrayForEach (item, names)
            if (strcmp(item->valuestring, name) == 0)
                known = true;
        if (!known)
            json_append(names, cJSON_CreateString(name));
    }
    return names;
}

int snapshot_check_version(const cJSON *json, struct error *err)
{
    return format_check_version(json, "snapshot.json", FORMAT_SECOND_VERSION, err);
}

int snapshot_entry_describe(const struct store_entry *entry, const cJSON *given,
                            const struct scan *scan, struct error *err)
{
    char uuid[33], now[STORE_TIME_SIZE];
    auto_json cJSON *json = cJSON_Duplicate(given, true);
    if (!json)
        return error_set(err, ENOMEM, "out of memory");
    store_random_hex(uuid, 16);
    store_time_now(now);
    json_add_number(json, "version", format_machine_version(json_get(given, "machine")));
    json_add_string(json, "uuid", uuid);
    json_add_string(json, "created_at", now);
    json_add(json, "undelivered", undelivered(scan));
    return store_stage_json(entry->fd, "snapshot.json", json, err);
}

int snapshot_entry_begin(const struct store *store, snapshot_fill *fill, void *context,
                         struct store_entry *ret, struct error *err)
{
    int r = store_entry_create(store, STORE_SNAPSHOTS, ret, err);
    return r < 0 ? r : fill(context, ret, err);
}

bool snapshot_exists(const struct store *store, const char *id)
{
    return faccessat(store->kind_fd[STORE_SNAPSHOTS], id, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

int snapshot_import(const struct store *store, const struct snapshot_import *import,
                    size_t *ret_frames, struct error *err)
{
    struct store_entry entry = {.fd = -1};
    struct image_index *index = NULL;
    int r = store_check_id(import->id, err);
    if (r == 0)
        r = snapshot_entry_begin(store, import->fill, import->context, &entry, err);
    if (r == 0)
        r = image_seal(entry.fd, err);
    if (r == 0)
        r = image_scan_with(entry.fd, import->progress, import->context, &index, err);
    if (r == 0)
        r = snapshot_entry_describe(&entry, import->json, &index->scan, err);
    if (r == 0)
        r = store_entry_publish(&entry, import->id, true, err);
    if (r == 0)
        *ret_frames = index->scan.count;
    image_index_unref(index);
    store_entry_discard(&entry);
    return r;
}

void snapshot_entry_tell_undelivered(const char *id, const cJSON *json,
                                     void (*warn)(void *context, const char *text), void *context)
{
    const cJSON *name;
    struct error text;
    cJSON_ArrayForEach (name, json_get(json, "undelivered")) {
        error_set(&text, EBUSY,
                  "the snapshot %s holds a payload in mailbox %s that its guest has not taken", id,
                  cJSON_IsString(name) ? name->valuestring : "(unnamed)");
        warn(context, text.text);
    }
}
