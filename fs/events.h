/* SPDX-License-Identifier: MIT */
/*
 * events: what happens, as lines of JSON, for those who read at the time. The last lines are kept
 * for all readers together, so who is slow costs no memory: it loses the oldest and is told how
 * many. Nothing is kept while nobody reads.
 *
 * Lock: its own, which may be taken with any other held; nothing is called with it held. So lines
 * stand in the order in which things happened under the locks of those who tell.
 */
#ifndef HYPEFS_FS_EVENTS_H
#define HYPEFS_FS_EVENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cjson/cJSON.h>

#include "util/error.h"

enum {
    EVENTS_LINES_MAX = 8192,
    EVENTS_BYTES_MAX = 2 * 1024 * 1024,
    EVENTS_TAKE_MAX = 64 * 1024, /* less than the kernel ever splits a read into */
};

struct events;

struct events_reader {
    uint64_t next; /* the line that it gets next, as they are counted */
};

int events_create(struct events **ret, struct error *err);
void events_destroy(struct events *events);

/* Is there anybody to tell? */
bool events_wanted(struct events *events);
/* One line: the time, and these members behind it. Takes the object; a line for which there is no
 * memory is lost. */
void events_add(struct events *events, cJSON *members);
/* No more lines are waited for. */
void events_end(struct events *events);
bool events_ended(struct events *events);

/* From here on lines are kept for the reader, until it leaves. */
void events_join(struct events *events, struct events_reader *ret);
void events_leave(struct events *events);
/* Whole lines of at most `max` bytes together, but at least one; {"event":"lost",…} when some are
 * lost. *ret_size is 0 when there is none. *ret is owned. */
int events_take(struct events *events, struct events_reader *reader, size_t max, char **ret,
                size_t *ret_size);
bool events_pending(struct events *events, const struct events_reader *reader);

/* Waits until there are other lines than at the last call; false when they have ended. *seen is 0
 * at the first call. */
bool events_wait(struct events *events, uint64_t *seen);

#endif
