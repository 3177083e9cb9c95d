/* SPDX-License-Identifier: MIT */
/*
 * watch: one thread that notices VMMs that end by themselves (pidfds in an epoll set, one shot
 * each), and looks once a second at their logs (logs.c), and for instances that others took out of
 * the store (vanished.c). An instance in transition is left to its owner, who looks at the VMM at
 * the end.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "instance/internal.h"
#include "util/process.h"
#include "util/timing.h"

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
        if (n == 1 && event.data.u64 == 0)
            return NULL;
        if (n == 1)
            ended(table, event.data.u64);
        if (process_now_ms() < look)
            continue;
        instances_shorten_logs(table);
        instances_find_vanished(table);
        look = process_now_ms() + timing_ms(TIMING_LOOK);
    }
}

int instances_watch(struct instances *table, struct error *err)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0};
    table->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    table->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (table->epoll_fd < 0 || table->stop_fd < 0 ||
        epoll_ctl(table->epoll_fd, EPOLL_CTL_ADD, table->stop_fd, &event) < 0)
        return error_errno(err, errno, "cannot watch VMMs");
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
