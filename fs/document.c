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

int handle_refuse(struct fs *fs, struct handle *handle, const struct error *err)
{
    const struct file_type *type = handle->place.entry->file;
    handle->refused = err->code;
    document_refuse(type->document(&handle->place), err->text);
    type->changed(fs, &handle->place);
    return -err->code;
}

/* ---- looks at what a text names ---- */

static int run_look(struct job *job)
{
    return job->place.entry->file->look(job->fs, job->document, strlen(job->document), &job->error);
}

/* Nobody's any more where the handle was written to or closed since, by a write that got EINTR. */
static void finish_look(struct job *job)
{
    struct handle *handle;
    DL_FOREACH (job->fs->handles, handle)
        if (handle->retry == job)
            break;
    if (!handle)
        return;
    document_forget_look(handle);
    if (handle->place.object->removed)
        job->result = -ENODEV;
    else if (job->result < 0)
        handle_refuse(job->fs, handle, &job->error);
}

int document_look(struct fs *fs, struct handle *handle, struct waiter *waiter, struct error *err)
{
    struct job *job = job_create(fs, handle->place.object);
    if (!job || !(job->document = strndup(handle->text, handle->size))) {
        job_unref(job);
        return error_set(err, ENOMEM, "out of memory");
    }
    job->run = run_look;
    job->finish = finish_look;
    job->place = handle->place;
    int r = job_start(job_ref(job), err);
    if (r < 0) {
        job_unref(job);
        return r;
    }
    handle->retry = job;
    job_wait(fs, job, handle, waiter);
    return FS_LATER;
}

void document_forget_look(struct handle *handle)
{
    job_unref(steal_pointer(handle->retry));
}

int document_end_look(struct handle *handle, struct error *err)
{
    if (!handle->retry)
        return 0;
    document_forget_look(handle);
    return error_set(err, EINTR, "the write was interrupted: write it again");
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
