/* SPDX-License-Identifier: MIT */
/*
 * file: open files: opening, reading, polling and closing them. Their content is generated, a log
 * of the store, collected or a stream: their file_type says it (entry.h). What is written to them
 * is file_write.c's.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "fs/forkable.h"
#include "fs/node.h"
#include "fs/state.h"
#include "util/cleanup.h"

static bool wants_write(int flags)
{
    return (flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC;
}

static int open_document(struct handle *handle, const struct place *place)
{
    struct document *document = place_document(place);
    int r = place->entry->file->may_write(place);
    if (r == 0 && handle->flags & O_TRUNC) {
        r = document_begin(document);
        place->entry->file->changed(place, false);
    } else if (r == 0) {
        handle->text = place_text(place, &handle->size);
        r = handle->text ? 0 : -ENOMEM;
    }
    handle->opener_pid = waiter_process(handle->opener_tid);
    return r;
}

static int open_log(struct handle *handle, const struct place *place)
{
    const struct instance *instance = forkable_at(place)->of.instance;
    struct error err;
    auto_close int fd = instance_open_entry(instance, &err);
    if (fd < 0)
        return fd;
    handle->log_fd =
        openat(fd, place->entry->file->log, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    return handle->log_fd < 0 ? -errno : 0;
}

/* With the lock held. */
static int open_place(const struct place *place, int flags, pid_t tid, struct handle **ret)
{
    const struct file_type *type = place->entry->file;
    int r = 0;
    if (!type)
        return S_ISDIR(place->entry->mode) ? -EISDIR : -EINVAL;
    if (wants_write(flags) && (place->entry->mode & 0222) == 0)
        return -EACCES;
    struct handle *handle = handle_create(flags);
    if (!handle)
        return -ENOMEM;
    handle->opener_tid = tid;
    if (type->log)
        r = open_log(handle, place);
    else if (type->document && wants_write(flags))
        r = open_document(handle, place);
    else if (type->list || type->objects)
        handle->opener_pid = waiter_process(tid);
    if (r < 0) {
        handle_destroy(handle);
        return r;
    }
    if (type->stream)
        event_ring_join(fs_of(place)->setup.events, &handle->reader);
    handle_register(handle, place);
    *ret = handle;
    return 0;
}

int fs_open_file(struct fs *fs, uint64_t node, int flags, pid_t tid, struct waiter *waiter,
                 struct handle **ret)
{
    auto_place struct place place = {0};
    int r = place_acquire_named(fs, node, waiter, &place);
    return r == 0 ? open_place(&place, flags, tid, ret) : r;
}

int fs_create(struct fs *fs, uint64_t parent, const char *name, int flags, pid_t tid,
              uint64_t *ret_node, struct stat *ret, struct handle **ret_handle)
{
    int r = fs_create_node(fs, parent, name, flags, tid, ret_node, ret);
    if (r < 0)
        return r;
    r = fs_open_file(fs, *ret_node, flags, tid, NULL, ret_handle);
    if (r > 0)
        r = -EBUSY;
    if (r < 0)
        fs_forget(fs, *ret_node, 1);
    return r;
}

/* Of one that is opened for writing, what this open file holds. */
static int generate(struct handle *handle)
{
    size_t size = handle->size;
    const bool holds = handle->text && handle->place.entry->file->document;
    char *text = holds ? document_copy(handle->text, size) : place_text(&handle->place, &size);
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

/* With the lock held. */
static int read_content(struct handle *handle, size_t size, off_t offset, struct waiter *waiter,
                        char **ret, size_t *ret_size)
{
    const struct file_type *type = handle->place.entry->file;
    bool anew = !handle->content || (offset == 0 && !handle->kept);
    if (!type->text) { /* a command: nothing to read */
        *ret = NULL;
        *ret_size = 0;
        return 0;
    }
    int r = anew && type->ready ? type->ready(&handle->place, waiter) : 0;
    if (r == 0 && anew)
        r = generate(handle);
    if (r != 0)
        return r == -ESTALE ? -ENODEV : r;
    size_t at = (size_t)offset < handle->content_size ? (size_t)offset : handle->content_size;
    return handle_answer(handle, at, size, ret, ret_size);
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
    objects_lock(&fs->objects);
    int r = handle->place.object->removed ? -ENODEV : 0;
    if (r == 0 && is_stream(handle))
        r = stream_read(&fs->stream, handle, size, offset, waiter, ret, ret_size);
    else if (r == 0 && handle->log_fd < 0)
        r = read_content(handle, size, offset, waiter, ret, ret_size);
    objects_unlock(&fs->objects);
    return r == 0 && handle->log_fd >= 0 ? read_log(handle, size, offset, ret, ret_size) : r;
}

static unsigned readiness(struct fs *fs, const struct handle *handle)
{
    const struct place *place = &handle->place;
    size_t size = 0;
    if (place->object->removed)
        return POLLERR | POLLHUP;
    if (is_stream(handle))
        return stream_readiness(&fs->stream, handle);
    if (!place->entry->file || !place->entry->file->pollable)
        return POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM;
    auto_free char *text = place_text(place, &size);
    bool same = text && handle->content && size == handle->content_size &&
                (size == 0 || memcmp(text, handle->content, size) == 0);
    unsigned writable = place->entry->mode & 0222 ? POLLOUT | POLLWRNORM : 0;
    return writable | (same ? 0 : POLLIN | POLLRDNORM | POLLPRI);
}

unsigned fs_poll(struct fs *fs, struct handle *handle, void *poll)
{
    objects_lock(&fs->objects);
    void *before = handle->poller.poll;
    if (poll)
        handle->poller.poll = poll;
    unsigned mask = readiness(fs, handle);
    objects_unlock(&fs->objects);
    if (poll && before)
        fs->setup.release(before);
    return mask;
}

void fs_release(struct fs *fs, struct handle *handle)
{
    objects_lock(&fs->objects);
    if (is_stream(handle))
        event_ring_leave(fs->setup.events);
    job_unref(handle->check);
    job_unref(handle->retry);
    handle_unregister(handle);
    objects_unlock(&fs->objects);
    if (handle->poller.poll)
        fs->setup.release(handle->poller.poll);
    handle_destroy(handle);
}
