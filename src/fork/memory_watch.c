/* SPDX-License-Identifier: MIT */
#include "fork/memory_watch.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include <utlist.h>

#include "util/process.h"
#include "util/text.h"
#include "util/thread.h"

static const double interval_min_ms = 2, interval_max_ms = 16, age_share = 8, rest_per_round = 4;

struct memory_watch {
    pthread_t thread;
    pthread_mutex_t lock; /* guards all that follows, and what is in the list */
    pthread_cond_t changed;
    struct watched *list;
    double joined_ms; /* when the newest did */
    bool stop;
};

static void look(struct watched *watched)
{
    bool news = false;
    for (size_t i = 0; i < watched->count && !watched->gone; i++) {
        struct watched_frame *frame = &watched->frames[i];
        if (frame->consume->state != CONSUME_PENDING)
            continue;
        watched->gone = consume_look(&watched->io, frame->consume, NULL) < 0;
        frame->at_ms = process_now_ms();
        news = news || frame->consume->state != CONSUME_PENDING;
    }
    if (news)
        eventfd_write(watched->event_fd, 1);
}

/* When is the next look due, after one from `begun_ms` to `ended_ms`? */
static double due_ms(const struct memory_watch *watch, double begun_ms, double ended_ms)
{
    double ms = (ended_ms - watch->joined_ms) / age_share;
    if (ms > interval_max_ms)
        ms = interval_max_ms;
    double due = ms > interval_min_ms          ? ended_ms + ms
                 : watch->joined_ms > ended_ms ? watch->joined_ms + interval_min_ms
                                               : ended_ms + interval_min_ms;
    double rested = ended_ms + (ended_ms - begun_ms) * rest_per_round;
    return due > rested ? due : rested;
}

/* With the lock held. Who joins meanwhile may have the next look earlier, and never later. */
static void rest(struct memory_watch *watch, double begun_ms, double ended_ms)
{
    double until_ms = due_ms(watch, begun_ms, ended_ms);
    int code = 0;
    while (!watch->stop && code == 0) {
        int64_t ns = (int64_t)(until_ms * 1e6);
        const struct timespec until = {.tv_sec = (time_t)(ns / 1000000000),
                                       .tv_nsec = (long)(ns % 1000000000)};
        code = pthread_cond_clockwait(&watch->changed, &watch->lock, CLOCK_MONOTONIC, &until);
        double due = due_ms(watch, begun_ms, ended_ms);
        until_ms = due < until_ms ? due : until_ms;
    }
}

static void *run(void *argument)
{
    struct memory_watch *watch = argument;
    struct watched *watched;
    pthread_mutex_lock(&watch->lock);
    while (!watch->stop) {
        if (!watch->list) {
            pthread_cond_wait(&watch->changed, &watch->lock);
            continue;
        }
        double begun_ms = process_now_ms();
        DL_FOREACH (watch->list, watched)
            look(watched);
        rest(watch, begun_ms, process_now_ms());
    }
    pthread_mutex_unlock(&watch->lock);
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

int memory_watch_add(struct memory_watch *watch, struct watched *watched, struct error *err)
{
    watched->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (watched->event_fd < 0)
        return error_errno(err, errno, "cannot wait for acks by memory");
    pthread_mutex_lock(&watch->lock);
    DL_APPEND(watch->list, watched);
    watch->joined_ms = process_now_ms();
    pthread_cond_broadcast(&watch->changed);
    pthread_mutex_unlock(&watch->lock);
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

void memory_watch_look(struct memory_watch *watch, struct watched *watched)
{
    pthread_mutex_lock(&watch->lock);
    look(watched);
    pthread_mutex_unlock(&watch->lock);
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
    snprintf(wait->reason, sizeof wait->reason, "%s", frame->consume->reason);
    text_make_printable(wait->reason, strlen(wait->reason), ' ');
}

void memory_watch_receive(struct memory_watch *watch, struct watched *watched, double since_ms)
{
    eventfd_t count;
    eventfd_read(watched->event_fd, &count);
    pthread_mutex_lock(&watch->lock);
    for (size_t i = 0; i < watched->count; i++)
        if (watched->frames[i].wait->state == ACK_WAITING)
            answer(&watched->frames[i], since_ms);
    pthread_mutex_unlock(&watch->lock);
}
