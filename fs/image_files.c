/* SPDX-License-Identifier: MIT */
/*
 * image_files: what is known of a memory image, in the directory of a snapshot or of an instance in
 * standby: mailboxes/, `network` and what `accept` says.
 */
#include <errno.h>
#include <string.h>

#include "fs/forkable.h"
#include "fs/handle.h"
#include "fs/state.h"
#include "fs/tables.h"
#include "util/cleanup.h"
#include "util/json.h"

/* What is known of the image now. An instance that has left standby has none, whatever lies there:
 * it is the memory of a VM that runs, or of one that ended. */
static int index_now(const struct place *place, struct image_index **ret)
{
    const struct fork_source *of = &forkable_at(place)->of;
    if (of->snapshot)
        return image_index(of->snapshot->image, ret, NULL);
    return instance_is_standby(of->instance) ? image_index(of->instance->image, ret, NULL)
                                             : -ENOENT;
}

/* The list of candidates, or FS_LATER with the waiter queued. Who is not patient waits for a kept
 * list to be read, and for no scan. */
static int index_of(const struct place *place, bool patient, struct waiter *waiter,
                    struct image_index **ret)
{
    int r = index_now(place, ret);
    if (r != -IMAGE_READING && !(patient && r == -IMAGE_SCANNING))
        return r;
    if (!waiter)
        return -EBUSY;
    waiter_begin(&fs_of(place)->waiters, NULL, NULL, waiter);
    return FS_LATER;
}

int image_ready(const struct place *place, struct waiter *waiter)
{
    struct image_index *index = NULL;
    int r = index_of(place, false, waiter, &index);
    image_index_unref(index);
    return r == FS_LATER ? r : 0; /* else it says null */
}

/* Reads each candidate once and no more: a guest may have planted thousands, and every name of a
 * walk comes here. */
static bool has_marker(const struct scan *scan, const char *name)
{
    for (size_t i = 0; i < scan->count; i++)
        if (scan->candidates[i].marker.kind == FRAME_FORK &&
            strcmp(scan->candidates[i].marker.name, name) == 0)
            return true;
    return false;
}

/* The markers of that name; "" for those of resume-network, which have none. */
static char *marker_text(const struct place *place)
{
    struct image_index *index;
    if (index_now(place, &index) < 0) /* it is gone: nothing is in it any more */
        return strdup("");
    auto_json cJSON *json = scan_describe(&index->scan, place->marker ? place->marker->name : "");
    image_index_unref(index);
    return json_print(json);
}

static int marker_ready(const struct place *place, struct waiter *waiter)
{
    struct image_index *index = NULL;
    int r = index_of(place, true, waiter, &index);
    if (r == 0 && place->marker && !has_marker(&index->scan, place->marker->name))
        r = -ENODEV; /* the image is another one */
    image_index_unref(index);
    return r;
}

static const struct file_type marker_file = {.text = marker_text, .ready = marker_ready};
static const struct entry marker_entry = {NULL, S_IFREG | 0400, 4, .file = &marker_file};

static int mailboxes_find(const struct place *directory, const char *name, struct waiter *waiter,
                          struct place *ret)
{
    struct image_index *index;
    int r = index_of(directory, true, waiter, &index);
    if (r != 0)
        return r;
    bool there = has_marker(&index->scan, name);
    image_index_unref(index);
    if (!there)
        return -ENOENT;
    const struct marker *marker = object_marker(directory->object, name);
    if (!marker)
        return -ENOMEM;
    *ret = (struct place){.object = directory->object, .entry = &marker_entry, .marker = marker};
    return 0;
}

static int mailboxes_list(const struct place *directory, struct waiter *waiter,
                          struct handle *handle)
{
    struct image_index *index;
    int r = index_of(directory, true, waiter, &index);
    if (r != 0)
        return r;
    const struct scan *scan = &index->scan;
    for (size_t i = scan_next_name(scan, 0); i < scan->count && r == 0;
         i = scan_next_name(scan, i + 1)) {
        const struct marker *marker =
            object_marker(directory->object, scan->candidates[i].marker.name);
        r = marker ? handle_list(handle, marker->name, directory->object->kind,
                                 directory->object->serial, &marker_entry, marker)
                   : -ENOMEM;
    }
    image_index_unref(index);
    return r;
}

const struct directory mailboxes_directory = {.find = mailboxes_find, .list = mailboxes_list};

/* network: the resume-network markers; there only if the image has one. */

static const struct entry network_entry = {NULL, S_IFREG | 0400, 6, .file = &marker_file};
static const char network_name[] = "network";

static bool has_network(const struct image_index *index)
{
    for (size_t i = 0; i < index->scan.count; i++)
        if (index->scan.candidates[i].marker.kind == FRAME_NETWORK)
            return true;
    return false;
}

int network_find(const struct place *directory, const char *name, struct waiter *waiter,
                 struct place *ret)
{
    struct image_index *index;
    int r = strcmp(name, network_name) == 0 ? index_of(directory, true, waiter, &index) : -ENOENT;
    if (r != 0)
        return r;
    if (has_network(index))
        *ret = (struct place){.object = directory->object, .entry = &network_entry};
    else
        r = -ENOENT;
    image_index_unref(index);
    return r;
}

/* Does not wait for a scan: the rest of the directory is there. */
int network_list(const struct place *directory, struct waiter *waiter, struct handle *handle)
{
    struct image_index *index;
    int r = index_of(directory, false, waiter, &index);
    if (r != 0)
        return r == FS_LATER ? r : 0;
    if (has_network(index))
        r = handle_list(handle, network_name, directory->object->kind, directory->object->serial,
                        &network_entry, NULL);
    image_index_unref(index);
    return r;
}

char *accept_text(const struct place *place)
{
    struct image_index *index = NULL;
    index_now(place, &index);
    char *text = index && index->accepted ? json_print(index->accepted) : strdup("");
    image_index_unref(index);
    return text;
}
