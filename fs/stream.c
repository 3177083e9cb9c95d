/* SPDX-License-Identifier: MIT */
/*
 * stream: `events`, the one file that waits. Each open file has its own place among the lines
 * (events.h). What a read took is kept until the next: shells and head(1) seek back to behind the
 * line that they wanted.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "fs/internal.h"
#include "util/cleanup.h"
#include "util/thread.h"

void stream_open(struct fs *fs, struct handle *handle)
{
    event_ring_join(fs->setup.events, &handle->reader);
}

/* Takes the next lines in: 0, also at the end; -EAGAIN, or FS_LATER with the waiter queued. */
static int next_lines(struct fs *fs, struct handle *handle, size_t size, struct waiter *waiter)
{
    char *text = NULL;
    size_t taken = 0;
    bool ended = event_ring_ended(fs->setup.events); /* nothing is told after that */
    int r = event_ring_take(fs->setup.events, &handle->reader,
                            size < EVENT_RING_TAKE_MAX ? size : EVENT_RING_TAKE_MAX, &text, &taken);
    if (r == 0 && taken == 0 && !ended)
        r = waiter->nonblocking ? -EAGAIN : FS_LATER;
    if (r == FS_LATER)
        stream_wait(fs, handle, waiter);
    if (r != 0) {
        free(text);
        return r;
    }
    free(handle->content);
    handle->content_at += (off_t)handle->content_size;
    handle->content = text;
    handle->content_size = taken;
    handle->served = 0;
    return 0;
}

int stream_read(struct fs *fs, struct handle *handle, size_t size, off_t offset,
                struct waiter *waiter, char **ret, size_t *ret_size)
{
    off_t behind = handle->content_at + (off_t)handle->content_size;
    if (offset < handle->content_at || offset > behind)
        return -ESPIPE;
    int r = offset == behind ? next_lines(fs, handle, size, waiter) : 0;
    if (r != 0)
        return r;
    r = content_give(handle, (size_t)(offset - handle->content_at), size, ret, ret_size);
    if (r == 0)
        handle->served = (size_t)(offset - handle->content_at) + *ret_size;
    return r;
}

unsigned stream_readiness(struct fs *fs, const struct handle *handle)
{
    struct event_ring *events = fs->setup.events;
    bool ended = event_ring_ended(events);
    bool pending =
        handle->served < handle->content_size || event_ring_pending(events, &handle->reader);
    return (pending || ended ? POLLIN | POLLRDNORM : 0U) | (ended && !pending ? POLLHUP : 0U);
}

/* Who tells of something holds any locks: so readers are woken from here. */
static void *wake_readers(void *argument)
{
    struct fs *fs = argument;
    uint64_t seen = 0;
    while (event_ring_wait(fs->setup.events, &seen)) {
        fs_lock(fs);
        readers_answer(fs);
        fs_changed(fs, &fs->stream);
        fs_unlock(fs);
    }
    return NULL;
}

static void stream_destroy(struct object *object)
{
    (void)object; /* lies in struct fs */
}

int stream_start(struct fs *fs, struct error *err)
{
    object_init(&fs->stream, OBJECT_EVENTS, 0, stream_destroy);
    return thread_start(wake_readers, fs, &fs->stream_thread, err);
}

void stream_end(struct fs *fs)
{
    event_ring_end(fs->setup.events);
    readers_answer(fs);
    fs_changed(fs, &fs->stream);
}

void stream_join(struct fs *fs)
{
    event_ring_end(fs->setup.events);
    pthread_join(fs->stream_thread, NULL);
}

static const struct file_type events_file = {.stream = true};
static const struct entry events_entry = {NULL, S_IFREG | 0400, 1, .file = &events_file};
static const char events_name[] = "events";

int root_find(struct fs *fs, const struct place *directory, const char *name, struct waiter *waiter,
              struct place *ret)
{
    (void)directory;
    (void)waiter;
    if (strcmp(name, events_name) != 0)
        return -ENOENT;
    *ret = (struct place){.object = &fs->stream, .entry = &events_entry};
    return 0;
}

int root_list(struct fs *fs, const struct place *directory, struct waiter *waiter,
              struct handle *handle)
{
    (void)directory;
    (void)waiter;
    return listing_add(handle, events_name, &fs->stream, &events_entry, NULL);
}
