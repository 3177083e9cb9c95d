/* SPDX-License-Identifier: MIT */
#include "fs/handle.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "util/cleanup.h"

struct handle *handle_create(int flags)
{
    struct handle *handle = calloc(1, sizeof *handle);
    if (handle) {
        handle->flags = flags;
        handle->log_fd = -1;
    }
    return handle;
}

void handle_destroy(struct handle *handle)
{
    if (!handle)
        return;
    if (handle->log_fd >= 0)
        close(handle->log_fd);
    free_wiped(handle->text, handle->size);
    free_wiped(handle->content, handle->content_size);
    free(handle->names);
    free_wiped(handle->command, handle->command ? strlen(handle->command) : 0);
    free(handle);
}

void handle_register(struct handle *handle, const struct place *place)
{
    handle->place = *place;
    object_ref(place->object);
    DL_APPEND(place->object->pollers, &handle->poller);
    DL_APPEND(place->object->objects->handles, handle);
}

void handle_unregister(struct handle *handle)
{
    DL_DELETE(handle->place.object->objects->handles, handle);
    DL_DELETE(handle->place.object->pollers, &handle->poller);
    object_unref(handle->place.object);
}

int handle_list(struct handle *handle, const char *name, const struct object *object,
                const struct entry *entry, const struct mailbox_file *mailbox)
{
    enum { BLOCK = 32 };
    if (handle->name_count % BLOCK == 0) {
        struct listed *longer =
            realloc(handle->names, (handle->name_count + BLOCK) * sizeof *longer);
        if (!longer)
            return -ENOMEM;
        handle->names = longer;
    }
    struct listed *listed = &handle->names[handle->name_count++];
    *listed = (struct listed){.ino = entry_ino(object, entry, mailbox), .mode = entry->mode};
    strncpy(listed->name, name, sizeof listed->name - 1);
    return 0;
}

void handle_keep(struct handle *handle, char *text)
{
    size_t size = text ? strlen(text) : 0;
    if (!text)
        text = place_text(&handle->place, &size);
    if (!text)
        return;
    free_wiped(handle->content, handle->content_size);
    handle->content = text;
    handle->content_size = size;
    handle->kept = true;
}

void handle_command_ended(struct handle *handle, int result)
{
    const struct file_type *type = handle->place.entry->file;
    if (result < 0 && type->once)
        handle->failed = result;
    if (result < 0 && type->objects)
        handle->refused = -result;
}

int handle_answer(const struct handle *handle, size_t at, size_t size, char **ret, size_t *ret_size)
{
    size_t n = size < handle->content_size - at ? size : handle->content_size - at;
    *ret = document_copy(handle->content ? handle->content + at : "", n);
    if (!*ret)
        return -ENOMEM;
    *ret_size = n;
    return 0;
}

void handles_wipe(const struct object *object)
{
    struct handle *handle;
    DL_FOREACH (object->objects->handles, handle)
        if (handle->place.object == object) {
            free_wiped(steal_pointer(handle->text), handle->size);
            free_wiped(steal_pointer(handle->content), handle->content_size);
            handle->size = handle->content_size = 0;
        }
}
