/* SPDX-License-Identifier: MIT */
/*
 * watch: one thread that notices VMMs that end by themselves (pidfds in an epoll set, one shot
 * each), and what others put into snapshots/ of the store or take out of it (inotify). Once a
 * second it looks at logs (logs.c), for instances that others took out of the store (vanished.c),
 * and for snapshots, in case the file system tells nothing. An instance in transition is left to
 * its owner, who looks at the VMM at the end.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "instance/internal.h"
#include "util/process.h"
#include "util/timing.h"

enum { EVENTS_SIZE = 4096 };
static const uint64_t stop_serial = 0, snapshots_serial = UINT64_MAX; /* of no instance */

static struct instance *find_serial(struct instances *table, uint64_t serial)
{
    auto_lock(&table->lock);
    struct instance *instance = table->by_id;
    while (instance && instance->serial != serial)
        instance = instance->hh.next;
    if (instance)
        instance->references++;
    return instance;
}

static void ended(struct instances *table, uint64_t serial)
{
    struct instance *instance = find_serial(table, serial);
    if (instance && instance_begin_ended(instance))
        instance_end(instance);
    instance_unref(instance);
}

static void snapshots_changed(struct instances *table)
{
    if (table->setup.on_snapshots)
        table->setup.on_snapshots(table->setup.context);
}

/* Takes all events. Is one of them of what is not hidden? Each fork of an instance makes and
 * removes a hidden entry, and looking for changes takes as long as there are many snapshots. */
static bool has_change(int fd)
{
    _Alignas(struct inotify_event) char events[EVENTS_SIZE];
    bool found = false;
    for (ssize_t size; (size = read(fd, events, sizeof events)) > 0;)
        for (ssize_t at = 0; at < size;) {
            const struct inotify_event *event = (const void *)(events + at);
            found = found || event->len == 0 || event->name[0] != '.';
            at += (ssize_t)(sizeof *event + event->len);
        }
    return found;
}

static void handle(struct instances *table, uint64_t serial)
{
    if (serial != snapshots_serial)
        ended(table, serial);
    else if (has_change(table->inotify_fd))
        snapshots_changed(table);
}

static void *run(void *argument)
{
    struct instances *table = argument;
    double look = process_now_ms() + timing_ms(TIMING_LOOK);
    for (;;) {
        struct epoll_event event;
        double wait = look - process_now_ms();
        int n = epoll_wait(table->epoll_fd, &event, 1, wait > 0 ? (int)wait + 1 : 0);
        if (n < 0 && errno != EINTR)
            return NULL;
        if (n == 1 && event.data.u64 == stop_serial)
            return NULL;
        if (n == 1)
            handle(table, event.data.u64);
        if (process_now_ms() < look)
            continue;
        instances_shorten_logs(table);
        instances_find_vanished(table);
        instances_sync_due(table);
        snapshots_changed(table);
        look = process_now_ms() + timing_ms(TIMING_LOOK);
    }
}

/* A host may have no more of these, and a file system none: then looking once a second is all. */
static void watch_snapshots(struct instances *table)
{
    const uint32_t changes = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO;
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = snapshots_serial};
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", table->setup.store->kind_fd[STORE_SNAPSHOTS]);
    table->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (table->inotify_fd >= 0 && inotify_add_watch(table->inotify_fd, path, changes) >= 0)
        epoll_ctl(table->epoll_fd, EPOLL_CTL_ADD, table->inotify_fd, &event);
}

int instances_watch(struct instances *table, struct error *err)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = stop_serial};
    table->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    table->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (table->epoll_fd < 0 || table->stop_fd < 0 ||
        epoll_ctl(table->epoll_fd, EPOLL_CTL_ADD, table->stop_fd, &event) < 0)
        return error_errno(err, errno, "cannot watch VMMs");
    watch_snapshots(table);
    int r = thread_start(run, table, &table->watch, err);
    table->watched = r == 0;
    return r;
}

void instances_unwatch(struct instances *table)
{
    if (!table->watched)
        return;
    eventfd_write(table->stop_fd, 1);
    pthread_join(table->watch, NULL);
    table->watched = false;
}
