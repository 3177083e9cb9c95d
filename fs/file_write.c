/* SPDX-License-Identifier: MIT */
/*
 * file_write: what is written to open files. Bytes of a collected file take effect when the file is
 * flushed; a write to a command file is one command. What a text or command means is said by the
 * file's type (entry.h).
 */
#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <utlist.h>

#include "fs/forkable.h"
#include "fs/group.h"
#include "fs/node.h"
#include "fs/state.h"
#include "util/cleanup.h"
#include "util/json.h"

static bool scratch(const struct place *place)
{
    return place->object->kind == OBJECT_STAGED && ((const struct staged *)place->object)->scratch;
}

/* The open file stays refused until it is truncated to 0. Returns -err->code. */
static int handle_refuse(struct handle *handle, const struct error *err)
{
    const struct file_type *type = handle->place.entry->file;
    handle->refused = err->code;
    document_refuse(place_document(&handle->place), err->text);
    type->changed(&handle->place, false);
    return -err->code;
}

static void release_check(struct handle *handle)
{
    job_unref(steal_pointer(handle->check));
}

/* What the text names is checked by a job, because it may have to wait. */
struct files_check {
    struct job job;
    char *text; /* owned */
};

static int files_check_run(struct job *job)
{
    const struct files_check *check = (const struct files_check *)job;
    return job->place.entry->file->check_files(&job->place, check->text, strlen(check->text),
                                               &job->error);
}

/* Nobody's any more where the handle was written to or closed since. With nobody who waits for it,
 * the write got EINTR, and so does the flush, whatever came of the check. */
static void files_check_finish(struct job *job)
{
    const struct objects *objects = job->place.object->objects;
    struct handle *handle;
    DL_SEARCH_SCALAR(objects->handles, handle, check, job);
    if (!handle || !waiters_have(&objects->fs->waiters, job))
        return;
    release_check(handle);
    if (handle->place.object->removed)
        job->result = -ENODEV;
    else if (job->result < 0)
        handle_refuse(handle, &job->error);
}

static void files_check_destroy(struct job *job)
{
    free(((struct files_check *)job)->text);
}

static const struct job_type files_check_job = {
    .run = files_check_run, .finish = files_check_finish, .destroy = files_check_destroy};

static int check_files(struct fs *fs, struct handle *handle, struct waiter *waiter,
                       struct error *err)
{
    struct files_check *check =
        job_create(&fs->jobs, &files_check_job, sizeof *check, &handle->place);
    if (!check)
        return error_set(err, ENOMEM, "out of memory");
    check->text = strndup(handle->text, handle->size);
    if (!check->text) {
        job_unref(&check->job);
        return error_set(err, ENOMEM, "out of memory");
    }
    int r = job_start(&check->job, err);
    if (r < 0)
        return r;
    handle->check = &check->job;
    waiter_begin(&fs->waiters, handle->check, handle, waiter);
    return FS_LATER;
}

/* As place_check(). An editor's scratch file may hold anything. */
static int check_text(const struct handle *handle, struct error *err)
{
    return scratch(&handle->place) ? 1
                                   : place_check(&handle->place, handle->text, handle->size, err);
}

/* realloc() would leave a copy behind. */
static int grow(struct handle *handle, size_t size)
{
    if (handle->text && size <= handle->size)
        return 0;
    char *longer = malloc(size + 1);
    if (!longer)
        return -ENOMEM;
    memcpy(longer, handle->text ? handle->text : "", handle->size);
    free_wiped(handle->text, handle->size);
    handle->text = longer;
    handle->size = size;
    return 0;
}

/* Does a write end neither at the end of a line nor at that of a program's buffer? */
static bool stops_short(const char *bytes, size_t size)
{
    enum { BUFFER_MIN = 4096 };
    return size > 0 && size < BUFFER_MIN && bytes[size - 1] != '\n';
}

static int collect(struct fs *fs, struct handle *handle, const char *bytes, size_t size,
                   off_t offset, bool append, struct waiter *waiter)
{
    const size_t max = scratch(&handle->place) ? DRAFT_SCRATCH_MAX : DOCUMENT_MAX;
    size_t at = append ? handle->size : (size_t)offset, end;
    struct error err = {0};
    int r = handle->place.entry->file->may_write(&handle->place);
    if (r < 0)
        return r;
    if (handle->refused) {
        handle->dirty = true;
        return -handle->refused;
    }
    if (offset < 0 || at > handle->size)
        return -EINVAL;
    release_check(handle);
    handle->dirty = true;
    if (__builtin_add_overflow(at, size, &end) || end > max) {
        error_set(&err, EFBIG, "more than %zu bytes", max);
        return handle_refuse(handle, &err);
    }
    r = grow(handle, end);
    if (r < 0)
        return r;
    memcpy(handle->text + at, bytes, size);
    r = check_text(handle, &err);
    if (r == 0 && handle->place.entry->file->in_lines && stops_short(bytes, size))
        r = error_set(
            &err, EINVAL,
            "the JSON object is not complete at the end of this write: write all of it at "
            "once, or line by line");
    if (r > 0 && handle->place.entry->file->check_files)
        r = check_files(fs, handle, waiter, &err);
    else if (r > 0)
        r = 0;
    return r < 0 ? handle_refuse(handle, &err) : r;
}

/* One command, without the white space around it. What is too long or holds a NUL stays a text that
 * is no id and no state, so that the command itself refuses it. Returns owned; NULL without memory.
 */
static char *read_command(const char *bytes, size_t size, size_t max)
{
    while (size > 0 && isspace((unsigned char)bytes[0])) {
        bytes++;
        size--;
    }
    while (size > 0 && isspace((unsigned char)bytes[size - 1]))
        size--;
    char *text = document_copy(bytes, size < max ? size : max);
    for (size_t i = 0; text && i < size && i < max; i++)
        text[i] = text[i] ? text[i] : '?';
    return text;
}

/* Was that text the last, or is it the end of a list that was the last? Programs whose write failed
 * repeat that write, and no more. */
static bool is_again(const struct handle *handle, const char *text)
{
    const char *last = handle->command;
    return last && (strcmp(last, text) == 0 ||
                    (handle->last_write > 0 && (handle->failed || handle->retry) &&
                     strcmp(last + handle->last_write, text) == 0));
}

static void free_text(char *text)
{
    free_wiped(text, text ? strlen(text) : 0);
}

/* Takes `text`. */
static int command(struct fs *fs, struct handle *handle, char *text, size_t last_write,
                   struct waiter *waiter)
{
    int r = FS_LATER;
    if (!text)
        return -ENOMEM;
    bool again = is_again(handle, text);
    if (again)
        free_text(text);
    if (again && handle->failed)
        return handle->failed;
    struct job *job = steal_pointer(handle->retry);
    if (!again) {
        job_unref(steal_pointer(job));
        free_text(handle->command);
        handle->command = text;
        handle->last_write = last_write;
    }
    handle->failed = 0;
    handle->kept = false;
    if (!job)
        r = handle->place.entry->file->command(&handle->place, handle->command, waiter, &job);
    if (r == FS_LATER && job->done)
        handle_command_ended(handle, r = job->result);
    else if (r == FS_LATER)
        waiter_begin(&fs->waiters, job, handle, waiter);
    else if (r != -EBUSY && r != -EAGAIN) /* others are under way: it may be possible later */
        handle_command_ended(handle, r);
    job_unref(job);
    return r;
}

/* Has the writer's buffer come to its end there, and not its text? A buffer is whole blocks; that
 * of dash is written before the word for which it has no room. A line ends its text. */
static bool goes_on(const char *bytes, size_t size)
{
    enum { BLOCK = 4096 };
    size_t beyond = size % BLOCK;
    return size > 0 && bytes[size - 1] != '\n' &&
           (beyond == 0 || beyond >= BLOCK - (STORE_ID_MAX + 1));
}

/* What was collected of a list is all of it. */
static int run_list(struct fs *fs, struct handle *handle, size_t last_size, struct waiter *waiter)
{
    char *text = read_command(handle->text, handle->size, SIZE_MAX);
    size_t size = text ? strlen(text) : 0, before = 0;
    while (before < handle->size && isspace((unsigned char)handle->text[before]))
        before++;
    size_t last = handle->size - last_size;
    last = last > before ? last - before : 0;
    while (last < size && isspace((unsigned char)text[last]))
        last++;
    if (last > size) /* there was only white space in it, which is left out */
        last = size;
    free(steal_pointer(handle->text));
    handle->size = 0;
    return command(fs, handle, text, last, waiter);
}

/* A list may come in several writes. One that is too long is refused as what it is so far, and what
 * is written after that is not taken for another. */
static int write_list(struct fs *fs, struct handle *handle, const char *bytes, size_t size,
                      struct waiter *waiter)
{
    size_t before = handle->size;
    if (handle->refused)
        return -handle->refused;
    if (size == 0)
        return 0;
    int r = grow(handle, before + size);
    if (r < 0)
        return r;
    memcpy(handle->text + before, bytes, size);
    bool too_long = handle->size > GROUP_TEXT_MAX;
    if (goes_on(bytes, size) && !too_long)
        return 0;
    if (too_long)
        handle->refused = EFBIG;
    return run_list(fs, handle, size, waiter);
}

/* ---- files that take JSON objects ---- */

static bool is_opener(const struct handle *handle, pid_t tid)
{
    return tid == handle->opener_tid || waiter_process(tid) == handle->opener_pid;
}

/* What was collected so far is nothing; and what comes is nothing either, with an errno. */
static void drop_text(struct handle *handle, int refused)
{
    free_wiped(steal_pointer(handle->text), handle->size);
    handle->size = 0;
    handle->refused = refused;
}

static int refuse_text(struct handle *handle, int code, const char *why)
{
    forkable_note(forkable_at(&handle->place), why);
    drop_text(handle, code);
    return -code;
}

/* The object is a command; of what was collected, the part from `before` on was written last. */
static int run_object(struct fs *fs, struct handle *handle, struct json_span object, size_t before,
                      struct waiter *waiter)
{
    char *text = document_copy(handle->text + object.start, object.end - object.start);
    size_t last = before > object.start ? before - object.start : 0;
    while (text && last > 0 && isspace((unsigned char)text[last]))
        last++;
    drop_text(handle, 0);
    return command(fs, handle, text, last, waiter);
}

/* The same text again is the end of a wait that a signal has ended, or another command. */
static bool is_joining(const struct handle *handle, const char *bytes, size_t size)
{
    if (!handle->retry)
        return false;
    char *text = read_command(bytes, size, SIZE_MAX);
    bool joins = text && is_again(handle, text);
    free_text(text);
    return joins;
}

static int write_object(struct fs *fs, struct handle *handle, const char *bytes, size_t size,
                        struct waiter *waiter)
{
    const size_t before = handle->size;
    struct json_span object;
    struct error err = {0};
    if (handle->refused)
        return -handle->refused;
    if (is_joining(handle, bytes, size))
        return command(fs, handle, read_command(bytes, size, SIZE_MAX), 0, waiter);
    if (size > DOCUMENT_MAX - before)
        return refuse_text(handle, EFBIG, "what was written to a mailbox is over 16 KiB");
    int r = size > 0 ? grow(handle, before + size) : 0;
    if (r < 0 || size == 0)
        return r;
    memcpy(handle->text + before, bytes, size);
    handle->text[handle->size] = '\0';
    r = text_check(handle->text, handle->size, &object, &err);
    if (r > 0)
        return run_object(fs, handle, object, before, waiter);
    return r < 0 ? refuse_text(handle, EINVAL, err.text) : 0;
}

/* Of who was killed it may end anywhere. */
static int flush_object(struct handle *handle, pid_t tid)
{
    if (handle->size == 0 || !is_opener(handle, tid) || waiter_was_killed(tid))
        return 0;
    if (handle->place.object->removed)
        return -ENODEV;
    if (strspn(handle->text, " \t\r\n") >= handle->size) {
        drop_text(handle, 0);
        return 0;
    }
    return refuse_text(
        handle, EINVAL,
        "what was written to a mailbox is unfinished: its JSON object is not closed");
}

int fs_write(struct fs *fs, struct handle *handle, const char *bytes, size_t size, off_t offset,
             bool append, struct waiter *waiter)
{
    objects_lock(&fs->objects);
    int r;
    if (handle->place.object->removed)
        r = -ENODEV;
    else if (handle->place.entry->file->objects)
        r = write_object(fs, handle, bytes, size, waiter);
    else if (handle->place.entry->file->list)
        r = write_list(fs, handle, bytes, size, waiter);
    else if (handle->place.entry->file->command)
        r = command(fs, handle, read_command(bytes, size, STORE_ID_MAX + 1), 0, waiter);
    else
        r = collect(fs, handle, bytes, size, offset, append, waiter);
    objects_unlock(&fs->objects);
    return r;
}

/* The bytes collected so far take effect, as far as they go. */
static int take_effect(struct handle *handle, pid_t tid)
{
    const struct file_type *type = handle->place.entry->file;
    struct document *document = place_document(&handle->place);
    struct error err = {0};
    bool checked = !handle->check;
    release_check(handle);
    int complete = checked ? check_text(handle, &err)
                           : error_set(&err, EINTR, "the write was interrupted: write it again");
    if (complete < 0)
        return handle_refuse(handle, &err);
    int r = document_set(document, handle->text ? handle->text : "", handle->size);
    if (r < 0)
        return r;
    if (!complete) {
        document->unfinished = true;
        type->changed(&handle->place, false);
        return is_opener(handle, tid) ? -EINVAL : 0;
    }
    if (type->apply && type->apply(&handle->place, &err) < 0)
        return handle_refuse(handle, &err);
    document_accept(document);
    type->changed(&handle->place, true);
    return 0;
}

int fs_flush(struct fs *fs, struct handle *handle, struct waiter *waiter)
{
    objects_lock(&fs->objects);
    int r = 0;
    if (handle->place.entry->file->objects) {
        r = flush_object(handle, waiter->tid);
        objects_unlock(&fs->objects);
        return r;
    }
    if (handle->place.entry->file->list) {
        /* Of who was killed it may end within an id. */
        if (handle->size > 0 && is_opener(handle, waiter->tid) && !waiter_was_killed(waiter->tid))
            r = handle->place.object->removed ? -ENODEV : run_list(fs, handle, 0, waiter);
        objects_unlock(&fs->objects);
        return r;
    }
    if (handle->dirty && handle->place.object->removed)
        r = -ENODEV;
    else if (handle->dirty)
        r = handle->place.entry->file->may_write(&handle->place);
    /* With a write under way it is of a copy of the descriptor, as each exec() closes some. */
    bool dirty = handle->dirty && !(handle->check && waiters_have(&fs->waiters, handle->check));
    if (dirty) /* taking effect may release the lock, and more be written */
        handle->dirty = false;
    if (r == 0 && dirty)
        r = handle->refused ? -handle->refused : take_effect(handle, waiter->tid);
    objects_unlock(&fs->objects);
    return r;
}

static int truncate_handle(struct handle *handle, size_t size)
{
    if (size > handle->size)
        return -EINVAL;
    release_check(handle);
    int r = size == 0 ? document_begin(place_document(&handle->place)) : 0;
    if (r < 0)
        return r;
    if (handle->text) /* freeing wipes no more than what is left */
        explicit_bzero(handle->text + size, handle->size - size);
    handle->dirty = size > 0 && (handle->dirty || size < handle->size);
    handle->refused = size == 0 ? 0 : handle->refused;
    handle->size = size;
    handle->place.entry->file->changed(&handle->place, false);
    return 0;
}

/* truncate(2): as if it had been opened, cut and closed. */
static int truncate_document(const struct place *place, size_t size)
{
    struct handle handle = {.place = *place, .log_fd = -1};
    int r;
    handle.text = place_text(place, &handle.size);
    if (!handle.text)
        return -ENOMEM;
    r = truncate_handle(&handle, size);
    if (r == 0 && handle.dirty)
        r = take_effect(&handle, 0);
    free_wiped(handle.text, handle.size);
    return r;
}

int fs_truncate(struct fs *fs, uint64_t node, struct handle *handle, off_t size)
{
    auto_place struct place place = {0};
    int r = place_acquire(fs, node, &place);
    if (r < 0)
        return r == -ESTALE && handle ? -ENODEV : r;
    const struct file_type *type = place.entry->file;
    if (!type || (place.entry->mode & 0222) == 0)
        r = -EACCES;
    else if ((type->list || type->objects) && handle && size == 0)
        drop_text(handle, 0);
    else if (type->document && (r = type->may_write(&place)) == 0)
        r = handle ? truncate_handle(handle, (size_t)size)
                   : truncate_document(&place, (size_t)size);
    return r;
}
