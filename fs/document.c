/* SPDX-License-Identifier: MIT */
/* document: the text of a collected file, and its marks; which files are an editor's own. */
#include <errno.h>
#include <fnmatch.h>
#include <string.h>
#include <utlist.h>

#include "fs/internal.h"
#include "util/cleanup.h"

void document_finish(struct document *document)
{
    free_wiped(document->text, document->size);
    free(document->refused);
    *document = (struct document){0};
}

void document_refuse(struct document *document, const char *why)
{
    free(document->refused);
    document->refused = strdup(why);
}

void document_mend(struct document *document)
{
    document->unfinished = false;
    free(steal_pointer(document->refused));
}

int document_set(struct document *document, const char *text, size_t size)
{
    char *copy = malloc(size + 1);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, text, size);
    free_wiped(document->text, document->size);
    document->text = copy;
    document->size = size;
    return 0;
}

int document_begin(struct document *document)
{
    int r = document_set(document, "", 0);
    if (r == 0) {
        document_mend(document);
        document->unfinished = true;
    }
    return r;
}

/* The kernel lets one write at a time through to a file: the text stays what it is. */
int document_look(struct fs *fs, struct handle *handle, struct error *err)
{
    auto_free char *text = strndup(handle->text, handle->size);
    if (!text)
        return error_set(err, ENOMEM, "out of memory");
    fs_unlock(fs);
    int r = handle->place.entry->file->look(fs, text, strlen(text), err);
    fs_lock(fs);
    return r == 0 && handle->place.object->removed ? error_set(err, ENODEV, "it was removed") : r;
}

void handles_wipe(struct fs *fs, const struct object *object)
{
    struct handle *handle;
    DL_FOREACH (fs->handles, handle)
        if (handle->place.object == object) {
            free_wiped(steal_pointer(handle->text), handle->size);
            free_wiped(steal_pointer(handle->content), handle->content_size);
            handle->size = handle->content_size = 0;
        }
}

bool draft_scratch_name(const char *name)
{
    static const char *const patterns[] = {".*.sw?", ".*.sw?x", "*~", "4913"};
    for (size_t i = 0; i < array_length(patterns); i++)
        if (fnmatch(patterns[i], name, 0) == 0)
            return true;
    return false;
}

bool document_stops_short(const char *bytes, size_t size)
{
    enum { BUFFER_MIN = 4096 };
    return size > 0 && size < BUFFER_MIN && bytes[size - 1] != '\n';
}
