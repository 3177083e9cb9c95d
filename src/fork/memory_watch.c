/* SPDX-License-Identifier: MIT */
#include "fork/memory_watch.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <utlist.h>

#include "util/cleanup.h"
#include "util/process.h"
#include "util/text.h"
#include "util/thread.h"

/* The kernel adds up to 50 us to each rest. */
static const double fresh_ms = 10, fresh_interval_ms = 0.05;
static const double interval_min_ms = 2, interval_max_ms = 16, age_share = 8, rest_per_round = 4,
                    search_rest = 49;

struct memory_watch {
    pthread_t thread;
    pthread_mutex_t lock; /* guards all that follows, and what is in the list */
    pthread_cond_t changed;
    struct watched *list;
    double happened_ms;               /* to any of them, last */
    bool fresh;                       /* one of them is */
    double all_ended_ms, all_took_ms; /* the last look at all of them */
    double search_due_ms;             /* the next search for frames that have moved */
    bool stop;
};

/* With the lock held: it is looked at often for a while. */
static void freshen(struct memory_watch *watch, struct watched *watched)
{
    watched->happened_ms = watch->happened_ms = process_now_ms();
    watch->fresh = true;
}

/* With the lock held. */
static void check(struct memory_watch *watch, struct watched *watched)
{
    bool news = false, pending = false;
    for (size_t i = 0; i < watched->count && !watched->gone; i++) {
        struct watched_frame *frame = &watched->frames[i];
        if (frame->consume->state != CONSUME_PENDING)
            continue;
        watched->gone = consume_refresh(&watched->io, frame->consume, NULL) < 0;
        frame->at_ms = process_now_ms();
        news = news || frame->consume->state != CONSUME_PENDING;
        pending = pending || frame->consume->state == CONSUME_PENDING;
    }
    if (news)
        eventfd_write(watched->event_fd, 1);
    if (news && pending)
        freshen(watch, watched);
}

/* When are all to be looked at again? */
static double all_due_ms(const struct memory_watch *watch, double now_ms)
{
    double ms = (now_ms - watch->happened_ms) / age_share,
           rest = watch->all_took_ms * rest_per_round;
    ms = ms < interval_min_ms ? interval_min_ms : ms > interval_max_ms ? interval_max_ms : ms;
    return watch->all_ended_ms + (ms > rest ? ms : rest);
}

/* With the lock held. */
static void check_those_due(struct memory_watch *watch, double begun_ms)
{
    struct watched *watched;
    bool all = begun_ms >= all_due_ms(watch, begun_ms);
    watch->fresh = false;
    DL_FOREACH (watch->list, watched) {
        bool fresh = begun_ms - watched->happened_ms < fresh_ms;
        watch->fresh = watch->fresh || fresh;
        if (all || fresh)
            check(watch, watched);
    }
    if (!all)
        return;
    watch->all_ended_ms = process_now_ms();
    watch->all_took_ms = watch->all_ended_ms - begun_ms;
}

/* When is the next look due, after one from `begun_ms` to `ended_ms`? */
static double due_ms(const struct memory_watch *watch, double begun_ms, double ended_ms)
{
    double due = all_due_ms(watch, ended_ms), rest = (ended_ms - begun_ms) * rest_per_round;
    if (watch->fresh && due > ended_ms + fresh_interval_ms)
        due = ended_ms + fresh_interval_ms;
    return due > ended_ms + rest ? due : ended_ms + rest;
}

/* With the lock held. Who joins meanwhile may have the next look earlier, and never later. */
static void rest(struct memory_watch *watch, double begun_ms, double ended_ms)
{
    double until_ms = due_ms(watch, begun_ms, ended_ms);
    int code = 0;
    while (!watch->stop && code == 0) {
        code = thread_wait_until(&watch->changed, &watch->lock, until_ms);
        double due = due_ms(watch, begun_ms, ended_ms);
        until_ms = due < until_ms ? due : until_ms;
    }
}

static void *run(void *argument)
{
    struct memory_watch *watch = argument;
    auto_lock(&watch->lock);
    while (!watch->stop) {
        if (!watch->list) {
            pthread_cond_wait(&watch->changed, &watch->lock);
            continue;
        }
        double begun_ms = process_now_ms();
        check_those_due(watch, begun_ms);
        rest(watch, begun_ms, process_now_ms());
    }
    return NULL;
}

int memory_watch_create(struct memory_watch **ret, struct error *err)
{
    struct memory_watch *watch = calloc(1, sizeof *watch);
    if (!watch)
        return error_set(err, ENOMEM, "out of memory");
    pthread_mutex_init(&watch->lock, NULL);
    pthread_cond_init(&watch->changed, NULL);
    int r = thread_start(run, watch, &watch->thread, err);
    if (r < 0) {
        free(watch);
        return r;
    }
    *ret = watch;
    return 0;
}

void memory_watch_destroy(struct memory_watch *watch)
{
    if (!watch)
        return;
    pthread_mutex_lock(&watch->lock);
    watch->stop = true;
    pthread_cond_broadcast(&watch->changed);
    pthread_mutex_unlock(&watch->lock);
    pthread_join(watch->thread, NULL);
    pthread_cond_destroy(&watch->changed);
    pthread_mutex_destroy(&watch->lock);
    free(watch);
}

void memory_watch_freshen(struct memory_watch *watch, struct watched *watched)
{
    auto_lock(&watch->lock);
    freshen(watch, watched);
    pthread_cond_broadcast(&watch->changed);
}

int memory_watch_add(struct memory_watch *watch, struct watched *watched, struct error *err)
{
    watched->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (watched->event_fd < 0)
        return error_errno(err, errno, "cannot wait for acks by memory");
    pthread_mutex_lock(&watch->lock);
    DL_APPEND(watch->list, watched);
    pthread_mutex_unlock(&watch->lock);
    memory_watch_freshen(watch, watched);
    return 0;
}

void memory_watch_remove(struct memory_watch *watch, struct watched *watched)
{
    if (watched->event_fd < 0)
        return;
    pthread_mutex_lock(&watch->lock);
    DL_DELETE(watch->list, watched);
    pthread_mutex_unlock(&watch->lock);
    close(watched->event_fd);
    watched->event_fd = -1;
}

void memory_watch_check(struct memory_watch *watch, struct watched *watched)
{
    auto_lock(&watch->lock);
    check(watch, watched);
}

void memory_watch_explain(const struct consume *consume, struct ack_wait *wait)
{
    snprintf(wait->reason, sizeof wait->reason, "%s", consume->reason);
    text_make_printable(wait->reason, strlen(wait->reason), ' ');
}

void memory_watch_add_copy(struct memory_watch *watch, struct delivery *delivery,
                           struct consume *consume, uint64_t offset, struct candidate *ret)
{
    auto_lock(&watch->lock);
    moved_add(delivery, consume, offset, ret);
}

double memory_watch_search_due(struct memory_watch *watch)
{
    auto_lock(&watch->lock);
    return watch->search_due_ms;
}

void memory_watch_searched(struct memory_watch *watch, double took_ms)
{
    auto_lock(&watch->lock);
    double from_ms = process_now_ms();
    from_ms = watch->search_due_ms > from_ms ? watch->search_due_ms : from_ms;
    watch->search_due_ms = from_ms + took_ms * search_rest;
}

static void answer(const struct watched_frame *frame, double since_ms)
{
    struct ack_wait *wait = frame->wait;
    wait->lost = frame->consume->state == CONSUME_UNKNOWN;
    if (frame->consume->state == CONSUME_APPLIED)
        wait->state = ACK_OK;
    else if (frame->consume->state == CONSUME_REFUSED)
        wait->state = ACK_REFUSED;
    else
        return;
    wait->ms = frame->at_ms - since_ms;
    memory_watch_explain(frame->consume, wait);
}

void memory_watch_receive(struct memory_watch *watch, struct watched *watched, double since_ms)
{
    eventfd_t count;
    eventfd_read(watched->event_fd, &count);
    auto_lock(&watch->lock);
    for (size_t i = 0; i < watched->count; i++)
        if (watched->frames[i].wait->state == ACK_WAITING)
            answer(&watched->frames[i], since_ms);
}
