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

/* Is there a marker of that name, or with "" one of resume-network? Reads each candidate once and
 * no more: a guest may have planted thousands, and every name of a walk comes here. */
static bool has_marker(const struct image_index *index, const char *name)
{
    for (size_t i = 0; i < index->scan.count; i++)
        if (strcmp(index->scan.candidates[i].marker.name, name) == 0)
            return true;
    return false;
}

static const char *name_of(const struct place *place)
{
    return place->marker ? place->marker->name : "";
}

static char *marker_text(const struct place *place)
{
    auto_index struct image_index *index = NULL;
    if (index_now(place, &index) < 0) /* it is gone: nothing is in it any more */
        return strdup("");
    auto_json cJSON *json = scan_describe(&index->scan, name_of(place));
    return json_print(json);
}

static int marker_ready(const struct place *place, struct waiter *waiter)
{
    auto_index struct image_index *index = NULL;
    int r = index_of(place, true, waiter, &index);
    if (r == 0 && place->marker && !has_marker(index, name_of(place)))
        r = -ENODEV; /* the image is another one */
    return r;
}

static const struct file_type marker_file = {.text = marker_text, .ready = marker_ready};
static const struct entry marker_entry = {NULL, S_IFREG | 0400, 4, .file = &marker_file};
static const struct entry network_entry = {NULL, S_IFREG | 0400, 6, .file = &marker_file};
static const char network_name[] = "network";

static int mailboxes_find(const struct place *directory, const char *name, struct waiter *waiter,
                          struct place *ret)
{
    auto_index struct image_index *index = NULL;
    int r = index_of(directory, true, waiter, &index);
    if (r != 0)
        return r;
    if (!has_marker(index, name))
        return -ENOENT;
    *ret = (struct place){directory->object, &marker_entry, object_marker(directory->object, name)};
    return ret->marker ? 0 : -ENOMEM;
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
        const struct marker *marker = object_marker(directory->object, name);
        r = marker ? handle_list(handle, name, directory->object, &marker_entry, marker) : -ENOMEM;
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
    *ret = (struct place){.object = directory->object, .entry = &network_entry};
    return has_marker(index, "") ? 0 : -ENOENT;
}

/* Does not wait for a scan: the rest of the directory is there. */
int network_list(const struct place *directory, struct waiter *waiter, struct handle *handle)
{
    auto_index struct image_index *index = NULL;
    int r = index_of(directory, false, waiter, &index);
    if (r != 0)
        return r == FS_LATER ? r : 0;
    return has_marker(index, "")
               ? handle_list(handle, network_name, directory->object, &network_entry, NULL)
               : 0;
}

char *accept_text(const struct place *place)
{
    auto_index struct image_index *index = NULL;
    index_now(place, &index);
    return index && index->accepted ? json_print(index->accepted) : strdup("");
}
