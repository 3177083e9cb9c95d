/* SPDX-License-Identifier: MIT */
/*
 * stream: `events`, the one file that waits. Each open file has its own place among the lines
 * (event_ring.h). What a read took is kept until the next: shells and head(1) seek back to behind
 * the line that they wanted. Not what the lines say (event.h).
 *
 * Lock: objects.lock, but for stream_open() and stream_close().
 */
#ifndef HYPEFS_FS_STREAM_H
#define HYPEFS_FS_STREAM_H

#include "fs/handle.h"
#include "fs/waiter.h"

struct stream {
    struct object object;
    struct event_ring *events;
    struct waiters *waiters;
    pthread_t thread; /* wakes readers */
};

int stream_open(struct stream *stream, struct waiters *waiters, struct event_ring *events,
                struct error *err);
/* Readers get what there is, and then the end. */
void stream_end(struct stream *stream);
void stream_close(struct stream *stream);

/* As fs_read(). */
int stream_read(struct stream *stream, struct handle *handle, size_t size, off_t offset,
                struct waiter *waiter, char **ret, size_t *ret_size);
/* The mask of poll(2). */
unsigned stream_readiness(struct stream *stream, const struct handle *handle);

#endif
