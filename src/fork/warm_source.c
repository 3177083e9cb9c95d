/* SPDX-License-Identifier: MIT */
/* warm_source: the VMs of one snapshot, as the pool and the filler handle them. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <utlist.h>

#include "fork/load.h"
#include "fork/warm_internal.h"
#include "util/process.h"

struct warm_label warm_label(const struct snapshot *snapshot)
{
    struct warm_label label;
    snprintf(label.text, sizeof label.text, "the snapshot %s", snapshot->id);
    return label;
}

void warm_complain(const struct warm_pool *pool, const char *text)
{
    const struct instances_setup *setup = &pool->setup.instances->setup;
    setup->complain(setup->context, text);
}

void warm_tell(const struct warm_pool *pool, const struct snapshot *snapshot)
{
    if (pool->setup.changed)
        pool->setup.changed(pool->setup.context, snapshot->id);
}

void warm_discard(struct warm_vm *vm)
{
    load_discard(&vm->entry, vm->vmm);
    free(vm);
}

/* They end side by side: there may be many, and somebody waits. */
void warm_end_dropped(struct warm_pool *pool, struct warm_source *source, struct warm_vm *list)
{
    struct warm_vm *vm, *next;
    unsigned count;
    LL_COUNT(list, vm, count);
    if (count == 0)
        return;
    pthread_mutex_unlock(&pool->lock);
    LL_FOREACH (list, vm)
        pidfd_send_signal(vm->vmm->pidfd, SIGKILL, NULL, 0);
    LL_FOREACH_SAFE (list, vm, next)
        warm_discard(vm);
    pthread_mutex_lock(&pool->lock);
    source->leaving -= count;
    pthread_cond_broadcast(&pool->idle);
}

bool warm_is_alive(const struct warm_vm *vm)
{
    return process_poll(&vm->vmm->pidfd, 1, 0) == 0;
}

int warm_image(const struct snapshot *snapshot, char ret[IMAGE_KEY_SIZE], struct error *err)
{
    struct stat st;
    if (fstatat(snapshot->image->directory_fd, "memory", &st, AT_SYMLINK_NOFOLLOW) < 0)
        return error_errno(err, errno, "cannot stat the memory image");
    image_key(snapshot->image->directory_fd, &st, ret);
    return 0;
}

/* ---- with the lock held ---- */

struct warm_source *warm_find(const struct warm_pool *pool, const struct snapshot *snapshot)
{
    struct warm_source *source = pool->sources;
    while (source && source->snapshot != snapshot)
        source = source->next;
    return source;
}

void warm_leave(struct warm_source *source, struct warm_vm *vm)
{
    LL_DELETE(source->ready, vm);
    source->count--;
    source->leaving++;
}

void warm_drop_one(struct warm_source *source, struct warm_vm *vm, struct warm_vm **list)
{
    warm_leave(source, vm);
    LL_PREPEND(*list, vm);
}

/* The oldest. */
void warm_drop(struct warm_source *source, unsigned keep, struct warm_vm **list)
{
    while (source->count > keep)
        warm_drop_one(source, source->ready, list);
}

/* Who comes second waits for the first. */
void warm_forget_source(struct warm_pool *pool, struct warm_source *source)
{
    struct snapshot *snapshot = source->snapshot;
    struct warm_vm *list = NULL;
    if (source->forgotten) {
        while (warm_find(pool, snapshot))
            pthread_cond_wait(&pool->idle, &pool->lock);
        return;
    }
    source->forgotten = true;
    source->wanted = 0;
    if (pool->loading == source)
        eventfd_write(pool->cancel_fd, 1);
    warm_drop(source, 0, &list);
    warm_end_dropped(pool, source, list);
    while (pool->loading == source || source->leaving > 0)
        pthread_cond_wait(&pool->idle, &pool->lock);
    LL_DELETE(pool->sources, source);
    free(source);
    pthread_cond_broadcast(&pool->idle);
    snapshot_unref(snapshot);
}
