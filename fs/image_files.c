/* SPDX-License-Identifier: MIT */
/*
 * image_files: what is known of a memory image, in the directory of a snapshot, or of an instance
 * with a VM or in standby: mailboxes/, `network` and what `accept` says.
 */
#include <errno.h>
#include <string.h>

#include "fs/delivery.h"
#include "fs/forkable.h"
#include "fs/handle.h"
#include "fs/state.h"
#include "fs/tables.h"
#include "instance/live.h"
#include "util/json.h"

static bool is_live(const struct place *place)
{
    return place->object->kind == OBJECT_INSTANCE &&
           instance_state(forkable_at(place)->of.instance) != INSTANCE_STANDBY;
}

/* The list of candidates, or FS_LATER with the waiter queued. Who is not patient waits for a kept
 * list to be read, and for no scan. */
static int index_of(const struct place *place, bool patient, struct waiter *waiter,
                    struct image_index **ret)
{
    int r = forkable_index(forkable_at(place), ret);
    if (r != -IMAGE_READING && !(patient && r == -IMAGE_SCANNING))
        return r;
    if (!waiter)
        return FS_MUST_WAIT;
    int begun = is_live(place) ? delivery_search(place) : 0;
    if (begun < 0)
        return begun;
    waiter_begin(&fs_of(place)->waiters, NULL, NULL, waiter);
    return FS_LATER;
}

static void index_cleanup(struct image_index **index)
{
    image_index_unref(*index);
}
#define auto_index __attribute__((cleanup(index_cleanup)))

int image_ready(const struct place *place, struct waiter *waiter)
{
    auto_index struct image_index *index = NULL;
    int r = index_of(place, false, waiter, &index);
    return r == FS_LATER ? r : 0; /* else it says null */
}

static const char *name_of(const struct place *place)
{
    return place->mailbox ? place->mailbox->name : "";
}

static char *mailbox_text(const struct place *place)
{
    auto_index struct image_index *index = NULL;
    if (forkable_index(forkable_at(place), &index) < 0) /* it is gone: nothing is in it any more */
        return strdup("");
    auto_json cJSON *json = scan_describe(&index->scan, name_of(place));
    cJSON *last = place->object->kind == OBJECT_INSTANCE
                      ? instance_last(forkable_at(place)->of.instance, name_of(place))
                      : NULL;
    if (last)
        json_add(json, "last", last);
    if (place->object->kind == OBJECT_INSTANCE &&
        instance_is_delivering(forkable_at(place)->of.instance, name_of(place)))
        json_add_bool(json, "busy", true);
    return json_print(json);
}

static int mailbox_ready(const struct place *place, struct waiter *waiter)
{
    auto_index struct image_index *index = NULL;
    int r = index_of(place, true, waiter, &index);
    const bool is_another = r == -ENOENT || (r == 0 && !forkable_index_has(index, name_of(place)));
    return is_another ? -ESTALE : r; /* an image, or none */
}

static const struct file_type mailbox_type = {.text = mailbox_text, .ready = mailbox_ready};
static const struct entry mailbox_entry = {NULL, S_IFREG | 0400, 4, .file = &mailbox_type};
static const struct entry network_entry = {NULL, S_IFREG | 0400, 14, .file = &mailbox_type};
/* Those of an instance take payloads. */
static const struct file_type live_type = {
    .text = mailbox_text, .ready = mailbox_ready, .command = delivery_command, .objects = true};
static const struct entry live_mailbox_entry = {NULL, S_IFREG | 0600, 4, .command = true,
                                                .file = &live_type};
static const struct entry live_network_entry = {NULL, S_IFREG | 0600, 14, .command = true,
                                                .file = &live_type};
static const char network_name[] = "network";

static const struct entry *entry_of(const struct place *directory, const struct entry *known,
                                    const struct entry *live)
{
    return directory->object->kind == OBJECT_INSTANCE ? live : known;
}

static int mailboxes_find(const struct place *directory, const char *name, struct waiter *waiter,
                          struct place *ret)
{
    auto_index struct image_index *index = NULL;
    int r = index_of(directory, true, waiter, &index);
    if (r != 0)
        return r;
    if (!forkable_index_has(index, name))
        return -ENOENT;
    *ret =
        (struct place){directory->object, entry_of(directory, &mailbox_entry, &live_mailbox_entry),
                       object_mailbox_file(directory->object, name)};
    return ret->mailbox ? 0 : -ENOMEM;
}

static int mailboxes_list(const struct place *directory, struct waiter *waiter,
                          struct handle *handle)
{
    auto_index struct image_index *index = NULL;
    int r = index_of(directory, true, waiter, &index);
    if (r != 0)
        return r;
    const struct scan *scan = &index->scan;
    for (size_t i = scan_next_name(scan, 0); i < scan->count && r == 0;
         i = scan_next_name(scan, i + 1)) {
        const char *name = scan->candidates[i].marker.name;
        const struct mailbox_file *mailbox = object_mailbox_file(directory->object, name);
        r = mailbox ? handle_list(handle, name, directory->object,
                                  entry_of(directory, &mailbox_entry, &live_mailbox_entry), mailbox)
                    : -ENOMEM;
    }
    return r;
}

const struct directory mailboxes_directory = {.find = mailboxes_find, .list = mailboxes_list};

int network_find(const struct place *directory, const char *name, struct waiter *waiter,
                 struct place *ret)
{
    auto_index struct image_index *index = NULL;
    int r = strcmp(name, network_name) == 0 ? index_of(directory, true, waiter, &index) : -ENOENT;
    if (r != 0)
        return r;
    *ret = (struct place){.object = directory->object,
                          .entry = entry_of(directory, &network_entry, &live_network_entry)};
    return forkable_index_has(index, "") ? 0 : -ENOENT;
}

/* Does not wait for a scan: the rest of the directory is there. */
int network_list(const struct place *directory, struct waiter *waiter, struct handle *handle)
{
    auto_index struct image_index *index = NULL;
    int r = index_of(directory, false, waiter, &index);
    if (r != 0)
        return r == FS_LATER ? r : 0;
    return forkable_index_has(index, "")
               ? handle_list(handle, network_name, directory->object,
                             entry_of(directory, &network_entry, &live_network_entry), NULL)
               : 0;
}

char *accept_text(const struct place *place)
{
    auto_index struct image_index *index = NULL;
    forkable_index(forkable_at(place), &index);
    return index && index->accepted ? json_print(index->accepted) : strdup("");
}
