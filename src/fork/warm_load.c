/* SPDX-License-Identifier: MIT */
/* warm_load: one VM of a snapshot, as the pool handles it, and the threads that load such. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utlist.h>

#include "fork/load.h"
#include "fork/warm_internal.h"
#include "util/process.h"
#include "util/timing.h"

enum { RETRY_MAX_MS = 300000 }; /* at most, until there is a commit or a write */

struct warm_load {
    struct warm_pool *pool;
    struct warm_source *source; /* which stays as long as its `threads` has this one */
    int cancel_fd;              /* readable: it is not wanted any more */
    bool cancelled;
    int retry_ms; /* of the source when it began */
    struct warm_load *next;
};

void warm_tell(const struct warm_pool *pool, const struct snapshot *snapshot)
{
    if (pool->setup.on_change)
        pool->setup.on_change(pool->setup.context, snapshot->id);
}

void warm_discard(struct warm_vm *vm)
{
    load_discard(&vm->entry, vm->vmm);
    free(vm);
}

bool warm_is_alive(const struct warm_vm *vm)
{
    return process_poll(&vm->vmm->pidfd, 1, 0) == 0;
}

int warm_image(const struct snapshot *snapshot, char ret[IMAGE_KEY_SIZE], struct error *err)
{
    struct stat st;
    auto_close int fd = image_open(snapshot->image, err);
    if (fd < 0)
        return fd;
    if (fstatat(fd, "memory", &st, AT_SYMLINK_NOFOLLOW) < 0)
        return error_errno(err, errno, "cannot stat the memory image");
    image_key(fd, &st, ret);
    return 0;
}

void warm_wake(struct warm_pool *pool)
{
    pool->stirred = true;
    pthread_cond_signal(&pool->wake);
}

void warm_put_off(struct warm_source *source)
{
    source->retry_ms = source->retry_ms == 0                 ? timing_ms(TIMING_RETRY)
                       : source->retry_ms > RETRY_MAX_MS / 2 ? RETRY_MAX_MS
                                                             : source->retry_ms * 2;
    source->retry_at_ms = process_now_ms() + source->retry_ms;
}

void warm_retry(struct warm_source *source)
{
    source->retry_ms = 0;
    source->retry_at_ms = 0;
}

static int check_image(const struct snapshot *snapshot, struct error *err)
{
    auto_close int fd = image_open(snapshot->image, err);
    return fd < 0 ? fd : image_check(fd, err);
}

static int load(const struct warm_load *load, struct warm_vm **ret, struct error *err)
{
    char name[STORE_ID_MAX + 16];
    struct machine machine = {0};
    const struct snapshot *snapshot = load->source->snapshot;
    struct instances *instances = load->pool->setup.instances;
    struct warm_vm *vm = calloc(1, sizeof *vm);
    if (!vm)
        return error_set(err, ENOMEM, "out of memory");
    vm->entry.fd = -1;
    snprintf(name, sizeof name, "the snapshot %s", snapshot->id);
    int r = warm_image(snapshot, vm->image, err);
    if (r == 0)
        r = check_image(snapshot, err);
    if (r == 0)
        r = load_machine(snapshot_json(snapshot), name, &machine, err);
    if (r == 0)
        r = load_entry(instances->setup.store, snapshot, name, &machine, DISKS_OF_FORK, &vm->entry,
                       err);
    if (r == 0) {
        struct vmm_context context = instances_context(
            instances, NULL, machine.hypervisor, vm->entry.run_fd, vm->entry.fd, load->cancel_fd);
        r = load_vm(&context, snapshot, name, &machine, &vm->vmm, err);
    }
    machine_finish(&machine);
    if (r == 0)
        *ret = vm;
    else
        warm_discard(vm);
    return r;
}

/* It is told, and will not be again until there is a commit or a write. */
static void note_failure(const struct warm_pool *pool, struct warm_source *source,
                         const struct error *why)
{
    if (source->retry_ms == 0)
        instances_warn(pool->setup.instances, "no VM can be loaded ahead from the snapshot %s: %s",
                       source->snapshot->id, why->text);
    warm_put_off(source);
}

/* True: the pool has it. */
static bool take_in(const struct warm_load *load, struct warm_vm *vm, const struct error *why)
{
    struct warm_source *source = load->source;
    auto_lock(&load->pool->lock);
    source->loading--;
    if (load->pool->stopping || source->removing || source->count >= source->wanted)
        return false;
    if (!vm) {
        /* Several that fail together are one failure. */
        if (!load->cancelled && source->retry_ms == load->retry_ms &&
            !snapshot_is_removed(source->snapshot))
            note_failure(load->pool, source, why);
        return false;
    }
    LL_APPEND(source->ready, vm);
    source->count++;
    return true;
}

/* With the lock held. */
static void end(struct warm_load *load)
{
    struct warm_pool *pool = load->pool;
    LL_DELETE(pool->loads, load);
    load->source->threads--;
    pthread_cond_broadcast(&pool->idle);
    warm_wake(pool);
    if (load->cancel_fd >= 0)
        close(load->cancel_fd);
    free(load);
}

static void *run(void *argument)
{
    struct warm_load *mine = argument;
    struct warm_pool *pool = mine->pool;
    struct warm_vm *vm = NULL;
    struct error why = {0};
    load(mine, &vm, &why);
    turns_release(pool->setup.instances->setup.turns);
    if (take_in(mine, vm, &why))
        warm_tell(pool, mine->source->snapshot);
    else if (vm)
        warm_discard(vm);
    auto_lock(&pool->lock);
    end(mine);
    return NULL;
}

static int begin(struct warm_pool *pool, struct warm_source *source, struct error *err)
{
    struct warm_load *load = calloc(1, sizeof *load);
    if (!load)
        return error_set(err, ENOMEM, "out of memory");
    *load = (struct warm_load){.pool = pool,
                               .source = source,
                               .cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                               .retry_ms = source->retry_ms};
    LL_PREPEND(pool->loads, load);
    source->loading++;
    source->threads++;
    int r = load->cancel_fd < 0 ? error_errno(err, errno, "cannot make an event descriptor")
                                : thread_detach(run, load, err);
    if (r < 0) {
        source->loading--;
        end(load);
    }
    return r;
}

void warm_begin_load(struct warm_pool *pool, struct warm_source *source)
{
    struct error why;
    if (begin(pool, source, &why) == 0)
        return;
    note_failure(pool, source, &why);
    turns_release(pool->setup.instances->setup.turns);
}

void warm_cancel_loads(struct warm_pool *pool, const struct warm_source *source, unsigned keep)
{
    struct warm_load *load;
    LL_FOREACH (pool->loads, load) {
        if ((source && load->source != source) || load->cancelled)
            continue;
        if (keep > 0) {
            keep--;
            continue;
        }
        load->cancelled = true;
        eventfd_write(load->cancel_fd, 1);
    }
}
