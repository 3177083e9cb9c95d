/* SPDX-License-Identifier: MIT */
#include "fs/stream.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#include "util/thread.h"

/* Takes the next lines in: 0, also at the end; -EAGAIN, or FS_LATER with the waiter queued. */
static int next_lines(struct stream *stream, struct handle *handle, size_t size,
                      struct waiter *waiter)
{
    char *text = NULL;
    size_t taken = 0;
    bool ended = event_ring_ended(stream->events); /* nothing is told after that */
    int r = event_ring_take(stream->events, &handle->reader,
                            size < EVENT_RING_TAKE_MAX ? size : EVENT_RING_TAKE_MAX, &text, &taken);
    if (r == 0 && taken == 0 && !ended)
        r = waiter->nonblocking ? -EAGAIN : FS_LATER;
    if (r == FS_LATER)
        waiter_begin(stream->waiters, stream, NULL, waiter);
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

int stream_read(struct stream *stream, struct handle *handle, size_t size, off_t offset,
                struct waiter *waiter, char **ret, size_t *ret_size)
{
    off_t behind = handle->content_at + (off_t)handle->content_size;
    if (offset < handle->content_at || offset > behind)
        return -ESPIPE;
    int r = offset == behind ? next_lines(stream, handle, size, waiter) : 0;
    if (r != 0)
        return r;
    r = handle_answer(handle, (size_t)(offset - handle->content_at), size, ret, ret_size);
    if (r == 0)
        handle->served = (size_t)(offset - handle->content_at) + *ret_size;
    return r;
}

unsigned stream_readiness(struct stream *stream, const struct handle *handle)
{
    struct event_ring *events = stream->events;
    bool ended = event_ring_ended(events);
    bool pending =
        handle->served < handle->content_size || event_ring_pending(events, &handle->reader);
    return (pending || ended ? POLLIN | POLLRDNORM : 0U) | (ended && !pending ? POLLHUP : 0U);
}

/* Who adds a line may hold any locks: so readers are woken from here. */
static void *wake_readers(void *argument)
{
    struct stream *stream = argument;
    uint64_t seen = 0;
    while (event_ring_wait(stream->events, &seen)) {
        objects_lock(stream->waiters->objects);
        waiters_answer(stream->waiters, stream, 0);
        object_changed(&stream->object);
        objects_unlock(stream->waiters->objects);
    }
    return NULL;
}

int stream_open(struct stream *stream, struct waiters *waiters, struct event_ring *events,
                struct error *err)
{
    object_init(&stream->object, waiters->objects, OBJECT_EVENTS, 0, NULL);
    stream->events = events;
    stream->waiters = waiters;
    return thread_start(wake_readers, stream, &stream->thread, err);
}

void stream_end(struct stream *stream)
{
    event_ring_end(stream->events);
    waiters_answer(stream->waiters, stream, 0);
    object_changed(&stream->object);
}

void stream_close(struct stream *stream)
{
    event_ring_end(stream->events);
    pthread_join(stream->thread, NULL);
}
