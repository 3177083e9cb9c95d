/* SPDX-License-Identifier: MIT */
/*
 * file: open files. Four kinds: generated (their content is made by a read), live (a log of the
 * store), collected (the bytes written take effect when the file is flushed) and commands (each
 * write is one command). What a file means is said by its file_type.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#include "fs/internal.h"
#include "util/cleanup.h"
#include "util/json.h"

void handle_register(struct fs *fs, struct handle *handle, const struct place *place)
{
    handle->place = *place;
    object_ref(place->object);
    DL_APPEND(fs->handles, handle);
}

static bool scratch(const struct place *place)
{
    return place->object->kind == OBJECT_STAGED &&
           draft_scratch_name(((const struct staged *)place->object)->name);
}

static bool wants_write(int flags)
{
    return (flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC;
}

pid_t process_of(pid_t tid)
{
    char path[48], status[1024];
    snprintf(path, sizeof path, "/proc/%d/status", (int)tid);
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd >= 0 ? read(fd, status, sizeof status - 1) : -1;
    if (size <= 0)
        return 0;
    status[size] = 0;
    const char *at = strstr(status, "\nTgid:");
    return at ? (pid_t)strtol(at + 6, NULL, 10) : 0;
}

static int open_document(struct fs *fs, struct handle *handle, const struct place *place)
{
    struct document *document = place->entry->file->document(place);
    int r = place->entry->file->may_write(fs, place);
    if (r == 0 && handle->flags & O_TRUNC) {
        r = document_begin(document);
        place->entry->file->changed(fs, place);
    } else if (r == 0) {
        handle->text = place->entry->file->text(fs, place, &handle->size);
        r = handle->text ? 0 : -ENOMEM;
    }
    handle->opener_pid = process_of(handle->opener_tid);
    return r;
}

static int open_log(struct handle *handle, const struct place *place)
{
    const struct unit *unit = (const struct unit *)place->object;
    handle->log_fd = openat(unit->instance->image->directory_fd, place->entry->file->log,
                            O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    return handle->log_fd < 0 ? -errno : 0;
}

static void handle_free(struct handle *handle)
{
    if (handle->log_fd >= 0)
        close(handle->log_fd);
    free_wiped(handle->text, handle->size);
    free_wiped(handle->content, handle->content_size);
    free(handle->names);
    free(handle);
}

/* With the lock held. */
static int open_place(struct fs *fs, const struct place *place, int flags, pid_t tid,
                      struct handle **ret)
{
    const struct file_type *type = place->entry->file;
    int r = 0;
    if (!type)
        return S_ISDIR(place->entry->mode) ? -EISDIR : -EINVAL;
    if (wants_write(flags) && (place->entry->mode & 0222) == 0)
        return -EACCES;
    struct handle *handle = calloc(1, sizeof *handle);
    if (!handle)
        return -ENOMEM;
    handle->flags = flags;
    handle->opener_tid = tid;
    handle->log_fd = -1;
    if (type->log)
        r = open_log(handle, place);
    else if (type->document && wants_write(flags))
        r = open_document(fs, handle, place);
    if (r < 0) {
        handle_free(handle);
        return r;
    }
    if (type->stream)
        stream_open(fs, handle);
    handle_register(fs, handle, place);
    *ret = handle;
    return 0;
}

int fs_open_file(struct fs *fs, uint64_t node, int flags, pid_t tid, struct handle **ret)
{
    struct place place;
    int r = place_take(fs, node, &place);
    if (r < 0)
        return r;
    r = open_place(fs, &place, flags, tid, ret);
    place_give(fs, &place);
    return r;
}

int fs_create(struct fs *fs, uint64_t parent, const char *name, int flags, pid_t tid,
              uint64_t *ret_node, struct stat *ret, struct handle **ret_handle)
{
    int r = fs_create_node(fs, parent, name, flags, tid, ret_node, ret);
    if (r < 0)
        return r;
    r = fs_open_file(fs, *ret_node, flags, tid, ret_handle);
    if (r < 0)
        fs_forget(fs, *ret_node, 1);
    return r;
}

static int generate(struct fs *fs, struct handle *handle)
{
    size_t size = 0;
    char *text;
    if (handle->text) { /* opened for writing: what this open file holds */
        text = malloc(handle->size + 1);
        size = handle->size;
        if (text)
            memcpy(text, handle->text, size);
    } else {
        text = handle->place.entry->file->text(fs, &handle->place, &size);
    }
    if (!text)
        return -ENOMEM;
    free_wiped(handle->content, handle->content_size);
    handle->content = text;
    handle->content_size = size;
    return 0;
}

static int read_log(struct handle *handle, size_t size, off_t offset, char **ret, size_t *ret_size)
{
    char *bytes = malloc(size + 1);
    ssize_t n = bytes ? pread(handle->log_fd, bytes, size, offset) : -1;
    if (n < 0) {
        int code = bytes ? errno : ENOMEM;
        free(bytes);
        return -code;
    }
    *ret = bytes;
    *ret_size = (size_t)n;
    return 0;
}

int content_give(const struct handle *handle, size_t at, size_t size, char **ret, size_t *ret_size)
{
    size_t n = size < handle->content_size - at ? size : handle->content_size - at;
    *ret = malloc(n + 1);
    if (!*ret)
        return -ENOMEM;
    if (n > 0)
        memcpy(*ret, handle->content + at, n);
    *ret_size = n;
    return 0;
}

/* With the lock held. */
static int read_content(struct fs *fs, struct handle *handle, size_t size, off_t offset,
                        struct waiter *waiter, char **ret, size_t *ret_size)
{
    const struct file_type *type = handle->place.entry->file;
    bool anew = !handle->content || offset == 0;
    if (!type->text) { /* a command: nothing to read */
        *ret = NULL;
        *ret_size = 0;
        return 0;
    }
    int r = anew && type->ready ? type->ready(fs, &handle->place, waiter) : 0;
    if (r == 0 && anew)
        r = generate(fs, handle);
    if (r != 0)
        return r;
    size_t at = (size_t)offset < handle->content_size ? (size_t)offset : handle->content_size;
    return content_give(handle, at, size, ret, ret_size);
}

/* A directory is not. */
static bool is_stream(const struct handle *handle)
{
    const struct file_type *type = handle->place.entry->file;
    return type && type->stream;
}

int fs_read(struct fs *fs, struct handle *handle, size_t size, off_t offset, struct waiter *waiter,
            char **ret, size_t *ret_size)
{
    fs_lock(fs);
    int r = handle->place.object->removed ? -ENODEV : 0;
    if (r == 0 && is_stream(handle))
        r = stream_read(fs, handle, size, offset, waiter, ret, ret_size);
    else if (r == 0 && handle->log_fd < 0)
        r = read_content(fs, handle, size, offset, waiter, ret, ret_size);
    fs_unlock(fs);
    return r == 0 && handle->log_fd >= 0 ? read_log(handle, size, offset, ret, ret_size) : r;
}

/* What can be known from the bytes so far. 1: complete and acceptable, 0: incomplete. */
static int look(struct fs *fs, struct handle *handle, struct error *err)
{
    struct json_check check;
    if (scratch(&handle->place))
        return 1;
    switch (json_check(handle->text, handle->size, &check)) {
    case JSON_INCOMPLETE:
        return 0;
    case JSON_INVALID:
        return error_set(err, EINVAL, "line %u, column %u: %s", check.line, check.column,
                         check.why);
    case JSON_COMPLETE:
        break;
    }
    int r = handle->place.entry->file->check(fs, &handle->place, handle->text, handle->size,
                                             check.object, err);
    return r < 0 ? r : 1;
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

static int collect(struct fs *fs, struct handle *handle, const char *bytes, size_t size,
                   off_t offset, bool append, struct waiter *waiter)
{
    const size_t max = scratch(&handle->place) ? FS_SCRATCH_MAX : FS_TEXT_MAX;
    size_t at = append ? handle->size : (size_t)offset, end;
    struct error err = {0};
    int r = handle->place.entry->file->may_write(fs, &handle->place);
    if (r < 0)
        return r;
    if (handle->refused) {
        handle->dirty = true;
        return -handle->refused;
    }
    if (offset < 0 || at > handle->size)
        return -EINVAL;
    document_forget_look(handle);
    handle->dirty = true;
    if (__builtin_add_overflow(at, size, &end) || end > max) {
        error_set(&err, EFBIG, "more than %zu bytes", max);
        return handle_refuse(fs, handle, &err);
    }
    r = grow(handle, end);
    if (r < 0)
        return r;
    memcpy(handle->text + at, bytes, size);
    r = look(fs, handle, &err);
    if (r == 0 && handle->place.entry->file->in_lines && document_stops_short(bytes, size))
        r = error_set(
            &err, EINVAL,
            "the JSON object is not complete at the end of this write: write all of it at "
            "once, or line by line");
    if (r > 0 && handle->place.entry->file->look)
        r = document_look(fs, handle, waiter, &err);
    else if (r > 0)
        r = 0;
    return r < 0 ? handle_refuse(fs, handle, &err) : r;
}

/* One command, white space around it dropped. What is too long or holds a NUL stays a text that is
 * no id and no state, so that the command itself refuses it. */
static void read_command(const char *bytes, size_t size, char ret[STORE_ID_MAX + 2])
{
    while (size > 0 && isspace((unsigned char)bytes[0])) {
        bytes++;
        size--;
    }
    while (size > 0 && isspace((unsigned char)bytes[size - 1]))
        size--;
    if (size > STORE_ID_MAX + 1)
        size = STORE_ID_MAX + 1;
    for (size_t i = 0; i < size; i++)
        ret[i] = bytes[i] ? bytes[i] : '?';
    ret[size] = 0;
}

void command_ended(struct handle *handle, int result)
{
    if (result < 0 && handle->place.entry->file->once)
        handle->failed = result;
}

static int command(struct fs *fs, struct handle *handle, const char *bytes, size_t size,
                   struct waiter *waiter)
{
    char text[STORE_ID_MAX + 2];
    struct job *job = steal_pointer(handle->retry);
    int r = FS_LATER;
    read_command(bytes, size, text);
    if (job && strcmp(text, handle->command) != 0) {
        job_unref(job);
        job = NULL;
    }
    if (handle->failed && strcmp(text, handle->command) == 0)
        return handle->failed;
    handle->failed = 0;
    memcpy(handle->command, text, sizeof text);
    if (!job)
        r = handle->place.entry->file->command(fs, &handle->place, text, waiter->tid, &job);
    if (r == FS_LATER && job->done)
        command_ended(handle, r = job->result);
    else if (r == FS_LATER)
        job_wait(fs, job, handle, waiter);
    else if (r != -EBUSY) /* another command is under way: this one may be possible later */
        command_ended(handle, r);
    job_unref(job);
    return r;
}

int fs_write(struct fs *fs, struct handle *handle, const char *bytes, size_t size, off_t offset,
             bool append, struct waiter *waiter)
{
    fs_lock(fs);
    int r;
    if (handle->place.object->removed)
        r = -ENODEV;
    else if (handle->place.entry->file->command)
        r = command(fs, handle, bytes, size, waiter);
    else
        r = collect(fs, handle, bytes, size, offset, append, waiter);
    fs_unlock(fs);
    return r;
}

/* The bytes collected so far take effect, as far as they go. */
static int take_effect(struct fs *fs, struct handle *handle, pid_t tid)
{
    const struct file_type *type = handle->place.entry->file;
    struct document *document = type->document(&handle->place);
    struct error err = {0};
    int complete = document_end_look(handle, &err);
    if (complete == 0)
        complete = look(fs, handle, &err);
    if (complete < 0)
        return handle_refuse(fs, handle, &err);
    int r = document_set(document, handle->text ? handle->text : "", handle->size);
    if (r < 0)
        return r;
    if (!complete) {
        document->unfinished = true;
        type->changed(fs, &handle->place);
        bool opener = tid == handle->opener_tid || process_of(tid) == handle->opener_pid;
        return opener ? -EINVAL : 0;
    }
    if (type->apply && type->apply(fs, &handle->place, handle->text, handle->size, &err) < 0)
        return handle_refuse(fs, handle, &err);
    document_mend(document);
    type->changed(fs, &handle->place);
    return 0;
}

int fs_flush(struct fs *fs, struct handle *handle, pid_t tid)
{
    fs_lock(fs);
    int r = 0;
    if (handle->dirty && handle->place.object->removed)
        r = -ENODEV;
    else if (handle->dirty)
        r = handle->place.entry->file->may_write(fs, &handle->place);
    /* With a write under way it is of a copy of the descriptor, as each exec() closes some. */
    bool dirty = handle->dirty && !(handle->retry && job_is_awaited(fs, handle->retry));
    if (dirty) /* taking effect may let go of the lock, and more be written */
        handle->dirty = false;
    if (r == 0 && dirty)
        r = handle->refused ? -handle->refused : take_effect(fs, handle, tid);
    fs_unlock(fs);
    return r;
}

static int truncate_handle(struct fs *fs, struct handle *handle, size_t size)
{
    if (size > handle->size)
        return -EINVAL;
    document_forget_look(handle);
    int r = size == 0 ? document_begin(handle->place.entry->file->document(&handle->place)) : 0;
    if (r < 0)
        return r;
    if (handle->text) /* freeing wipes no more than what is left */
        explicit_bzero(handle->text + size, handle->size - size);
    handle->dirty = size > 0 && (handle->dirty || size < handle->size);
    handle->refused = size == 0 ? 0 : handle->refused;
    handle->size = size;
    handle->place.entry->file->changed(fs, &handle->place);
    return 0;
}

/* truncate(2): as if it had been opened, cut and closed. */
static int truncate_document(struct fs *fs, const struct place *place, size_t size)
{
    struct handle handle = {.place = *place, .log_fd = -1};
    int r;
    handle.text = place->entry->file->text(fs, place, &handle.size);
    if (!handle.text)
        return -ENOMEM;
    r = truncate_handle(fs, &handle, size);
    if (r == 0 && handle.dirty)
        r = take_effect(fs, &handle, 0);
    free_wiped(handle.text, handle.size);
    return r;
}

int fs_truncate(struct fs *fs, uint64_t node, struct handle *handle, off_t size)
{
    struct place place;
    int r = place_take(fs, node, &place);
    if (r < 0)
        return r;
    const struct file_type *type = place.entry->file;
    if (!type || (place.entry->mode & 0222) == 0)
        r = -EACCES;
    else if (type->document && (r = type->may_write(fs, &place)) == 0)
        r = handle ? truncate_handle(fs, handle, (size_t)size)
                   : truncate_document(fs, &place, (size_t)size);
    place_give(fs, &place);
    return r;
}

static unsigned readiness(struct fs *fs, const struct handle *handle)
{
    const struct place *place = &handle->place;
    size_t size = 0;
    if (place->object->removed)
        return POLLERR | POLLHUP;
    if (is_stream(handle))
        return stream_readiness(fs, handle);
    if (!place->entry->file || !place->entry->file->pollable)
        return POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM;
    auto_free char *text = place->entry->file->text(fs, place, &size);
    bool same = text && handle->content && size == handle->content_size &&
                (size == 0 || memcmp(text, handle->content, size) == 0);
    unsigned writable = place->entry->mode & 0222 ? POLLOUT | POLLWRNORM : 0;
    return writable | (same ? 0 : POLLIN | POLLRDNORM | POLLPRI);
}

unsigned fs_poll(struct fs *fs, struct handle *handle, void *poll)
{
    fs_lock(fs);
    void *before = handle->poll;
    if (poll)
        handle->poll = poll;
    unsigned mask = readiness(fs, handle);
    fs_unlock(fs);
    if (poll && before)
        fs->setup.drop(before);
    return mask;
}

void fs_release(struct fs *fs, struct handle *handle)
{
    fs_lock(fs);
    DL_DELETE(fs->handles, handle);
    if (is_stream(handle))
        event_ring_leave(fs->setup.events);
    job_unref(handle->retry);
    object_unref(handle->place.object);
    fs_unlock(fs);
    if (handle->poll)
        fs->setup.drop(handle->poll);
    handle_free(handle);
}
