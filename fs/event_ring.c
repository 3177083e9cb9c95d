/* SPDX-License-Identifier: MIT */
#include "fs/event_ring.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "store/store.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/thread.h"

struct line {
    char *text; /* owned; ends with a newline; NULL: was lost */
    size_t size;
};

struct event_ring {
    pthread_mutex_t lock;
    pthread_cond_t more;
    atomic_uint readers;                     /* changed with the lock held */
    uint64_t oldest, next;                   /* lines are counted from 1; kept are [oldest, next) */
    size_t bytes;                            /* of these */
    struct line lines[EVENT_RING_LINES_MAX]; /* by their number, modulo */
    bool ended;
};

int event_ring_create(struct event_ring **ret, struct error *err)
{
    struct event_ring *events = calloc(1, sizeof *events);
    if (!events)
        return error_set(err, ENOMEM, "out of memory");
    pthread_mutex_init(&events->lock, NULL);
    pthread_cond_init(&events->more, NULL);
    events->oldest = events->next = 1;
    *ret = events;
    return 0;
}

static struct line *line_at(struct event_ring *events, uint64_t number)
{
    return &events->lines[number % EVENT_RING_LINES_MAX];
}

static void drop_oldest(struct event_ring *events)
{
    struct line *line = line_at(events, events->oldest++);
    events->bytes -= line->size;
    free(line->text);
    *line = (struct line){0};
}

void event_ring_destroy(struct event_ring *events)
{
    if (!events)
        return;
    while (events->oldest < events->next)
        drop_oldest(events);
    pthread_cond_destroy(&events->more);
    pthread_mutex_destroy(&events->lock);
    free(events);
}

bool event_ring_wanted(struct event_ring *events)
{
    return atomic_load(&events->readers) > 0;
}

/* {"time":"…", and the members. Returns the size, 0 without memory. */
static size_t write_line(const char *members, char **ret)
{
    char time[STORE_TIME_SIZE];
    store_time_now(time);
    int size = asprintf(ret, "{\"time\":\"%s\",%s\n", time, members + 1);
    return size > 0 ? (size_t)size : 0;
}

/* With the lock held. */
static void keep(struct event_ring *events, const char *members)
{
    struct line line = {0};
    line.size = members ? write_line(members, &line.text) : 0;
    if (line.size == 0) { /* it is lost, and so are those before it: readers are told */
        while (events->oldest < events->next)
            drop_oldest(events);
        events->oldest = ++events->next;
        return;
    }
    if (events->next - events->oldest == EVENT_RING_LINES_MAX)
        drop_oldest(events);
    *line_at(events, events->next++) = line;
    events->bytes += line.size;
    while (events->bytes > EVENT_RING_BYTES_MAX)
        drop_oldest(events);
}

void event_ring_add(struct event_ring *events, cJSON *members)
{
    auto_free char *text = members ? json_print_line(members) : NULL;
    cJSON_Delete(members);
    auto_lock(&events->lock);
    if (event_ring_wanted(events)) {
        keep(events, text);
        pthread_cond_broadcast(&events->more);
    }
}

void event_ring_end(struct event_ring *events)
{
    auto_lock(&events->lock);
    events->ended = true;
    pthread_cond_broadcast(&events->more);
}

bool event_ring_ended(struct event_ring *events)
{
    auto_lock(&events->lock);
    return events->ended;
}

void event_ring_join(struct event_ring *events, struct event_ring_reader *ret)
{
    auto_lock(&events->lock);
    ret->next = events->next;
    atomic_fetch_add(&events->readers, 1);
}

void event_ring_leave(struct event_ring *events)
{
    auto_lock(&events->lock);
    if (atomic_fetch_sub(&events->readers, 1) == 1)
        while (events->oldest < events->next)
            drop_oldest(events);
}

/* With the lock held: the lines [reader->next, *ret_end) that fit, and their size; one at least. */
static size_t fitting(struct event_ring *events, uint64_t from, size_t max, uint64_t *ret_end)
{
    size_t size = 0;
    uint64_t at = from;
    while (at < events->next && (at == from || size + line_at(events, at)->size <= max))
        size += line_at(events, at++)->size;
    *ret_end = at;
    return size;
}

/* With the lock held. */
static int take_lost(struct event_ring *events, struct event_ring_reader *reader, char **ret,
                     size_t *ret_size)
{
    char members[64];
    snprintf(members, sizeof members, "{\"event\":\"lost\",\"count\":%" PRIu64 "}",
             events->oldest - reader->next);
    *ret_size = write_line(members, ret);
    if (*ret_size == 0)
        return -ENOMEM;
    reader->next = events->oldest;
    return 0;
}

/* With the lock held. */
static int take_lines(struct event_ring *events, struct event_ring_reader *reader, size_t max,
                      char **ret, size_t *ret_size)
{
    uint64_t end;
    size_t size = fitting(events, reader->next, max, &end), used = 0;
    char *text = malloc(size + 1);
    if (!text)
        return -ENOMEM;
    for (; reader->next < end; reader->next++) {
        const struct line *line = line_at(events, reader->next);
        memcpy(text + used, line->text, line->size);
        used += line->size;
    }
    *ret = text;
    *ret_size = size;
    return 0;
}

int event_ring_take(struct event_ring *events, struct event_ring_reader *reader, size_t max,
                    char **ret, size_t *ret_size)
{
    auto_lock(&events->lock);
    return reader->next < events->oldest ? take_lost(events, reader, ret, ret_size)
                                         : take_lines(events, reader, max, ret, ret_size);
}

bool event_ring_pending(struct event_ring *events, const struct event_ring_reader *reader)
{
    auto_lock(&events->lock);
    return reader->next < events->next;
}

bool event_ring_wait(struct event_ring *events, uint64_t *seen)
{
    auto_lock(&events->lock);
    while (events->next == *seen && !events->ended)
        pthread_cond_wait(&events->more, &events->lock);
    *seen = events->next;
    bool ended = events->ended;
    return !ended;
}
