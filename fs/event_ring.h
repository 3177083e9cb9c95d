/* SPDX-License-Identifier: MIT */
/*
 * event_ring: what happens, as lines of JSON, for those who read at the time. The last lines are
 * kept for all readers together, so who is slow costs no memory: it loses the oldest and is told
 * how many. Nothing is kept while nobody reads.
 *
 * Lock: its own, which may be taken with any other held; nothing is called with it held. So lines
 * stand in the order in which things happened under the locks of those who tell.
 */
#ifndef HYPEFS_FS_EVENT_RING_H
#define HYPEFS_FS_EVENT_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cjson/cJSON.h>

#include "util/error.h"

enum {
    EVENT_RING_LINES_MAX = 8192,
    EVENT_RING_BYTES_MAX = 2 * 1024 * 1024,
    EVENT_RING_TAKE_MAX = 64 * 1024, /* less than the kernel ever splits a read into */
};

struct event_ring;

struct event_ring_reader {
    uint64_t next; /* the line that it gets next, as they are counted */
};

int event_ring_create(struct event_ring **ret, struct error *err);
void event_ring_destroy(struct event_ring *events);

/* Is there anybody to tell? */
bool event_ring_wanted(struct event_ring *events);
/* One line: the time, and these members behind it. Takes the object; a line for which there is no
 * memory is lost. */
void event_ring_add(struct event_ring *events, cJSON *members);
/* No more lines are waited for. */
void event_ring_end(struct event_ring *events);
bool event_ring_ended(struct event_ring *events);

/* From here on lines are kept for the reader, until it leaves. */
void event_ring_join(struct event_ring *events, struct event_ring_reader *ret);
void event_ring_leave(struct event_ring *events);
/* Whole lines of at most `max` bytes together, but at least one; {"event":"lost",…} when some are
 * lost. *ret_size is 0 when there is none. *ret is owned. */
int event_ring_take(struct event_ring *events, struct event_ring_reader *reader, size_t max,
                    char **ret, size_t *ret_size);
bool event_ring_pending(struct event_ring *events, const struct event_ring_reader *reader);

/* Waits until there are other lines than at the last call; false when they have ended. *seen is 0
 * at the first call. */
bool event_ring_wait(struct event_ring *events, uint64_t *seen);

#endif
