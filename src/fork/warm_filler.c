/* SPDX-License-Identifier: MIT */
/* The filler. Its functions are called with the lock held, but where something else is said. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <utlist.h>

#include "fork/load.h"
#include "fork/warm_internal.h"
#include "util/meminfo.h"
#include "util/process.h"
#include "util/thread.h"
#include "util/timing.h"

enum {
    RETRY_MAX_MS = 300000, /* at most, until there is a commit or a write */
    SHORT_PERCENT = 5,     /* of the memory available: all are ended; */
    ENOUGH_PERCENT = 10,   /* and loaded again */
};

/* It was told, and will not be again until there is a commit or a write. */
static void put_off(struct warm_source *source)
{
    source->retry_ms = source->retry_ms == 0                 ? timing_ms(TIMING_RETRY)
                       : source->retry_ms > RETRY_MAX_MS / 2 ? RETRY_MAX_MS
                                                             : source->retry_ms * 2;
    source->retry_at_ms = process_now_ms() + source->retry_ms;
}

static void complain_once(const struct warm_pool *pool, const struct warm_source *source,
                          const char *text)
{
    if (source->retry_ms == 0)
        warm_complain(pool, text);
}

/* Those that have ended by themselves go to `list`: one failure, however many they are. */
static void drop_ended(struct warm_pool *pool, struct warm_source *source, struct warm_vm **list)
{
    struct warm_vm *vm, *next;
    struct error text;
    unsigned before = source->count;
    LL_FOREACH_SAFE (source->ready, vm, next)
        if (!warm_is_alive(vm))
            warm_drop_one(source, vm, list);
    if (source->count == before)
        return;
    error_set(&text, EIO, "a VM that was loaded ahead from %s has ended by itself",
              warm_label(source->snapshot).text);
    complain_once(pool, source, text.text);
    put_off(source);
}

/* Those loaded from an image that was changed since: no commit can take them. */
static void drop_outdated(struct warm_source *source, struct warm_vm **list)
{
    struct warm_vm *vm, *next;
    char image[IMAGE_KEY_SIZE];
    bool known = source->ready && warm_image(source->snapshot, image, NULL) == 0;
    LL_FOREACH_SAFE (source->ready, vm, next)
        if (!known || strcmp(vm->image, image) != 0)
            warm_drop_one(source, vm, list);
}

/* Without the lock. */
static void look_at_memory(struct warm_pool *pool)
{
    int percent = 0;
    struct error why;
    bool unknown = meminfo_available(pool->setup.meminfo, &percent, &why) < 0;
    bool was_short = pool->memory_short;
    if (unknown && !pool->memory_unknown)
        warm_complain(pool, why.text);
    pool->memory_unknown = unknown;
    pool->memory_short = !unknown && percent < (was_short ? ENOUGH_PERCENT : SHORT_PERCENT);
    if (pool->memory_short && !was_short) {
        error_set(&why, ENOMEM,
                  "memory is short: no VM is loaded ahead until %d %% of it is available",
                  ENOUGH_PERCENT);
        warm_complain(pool, why.text);
    }
}

/* Of one source; false if there is nothing that has to go. Lets go of the lock if so. */
static bool tidy(struct warm_pool *pool, struct warm_source *source)
{
    struct warm_vm *list = NULL;
    struct snapshot *snapshot = source->snapshot;
    bool removed = snapshot_is_removed(snapshot);
    drop_ended(pool, source, &list);
    drop_outdated(source, &list);
    if (pool->memory_short)
        warm_drop(source, 0, &list);
    if (source->forgotten || (!list && !removed))
        return false;
    snapshot_ref(snapshot);
    warm_end_dropped(pool, source, list);
    if (removed) /* by somebody else's hand */
        warm_forget_source(pool, source);
    pthread_mutex_unlock(&pool->lock);
    if (!removed)
        warm_tell(pool, snapshot);
    snapshot_unref(snapshot);
    pthread_mutex_lock(&pool->lock);
    return true;
}

/* Lets go of the lock meanwhile. */
static void look_around(struct warm_pool *pool)
{
    pthread_mutex_unlock(&pool->lock);
    look_at_memory(pool);
    pthread_mutex_lock(&pool->lock);
    struct warm_source *source = pool->sources;
    while (source)
        source = tidy(pool, source) ? pool->sources : source->next;
}

/* The next of which there is to be one more; NULL: none now. */
static struct warm_source *choose(const struct warm_pool *pool)
{
    struct warm_source *source, *ret = NULL;
    double now_ms = process_now_ms();
    if (pool->commits > 0 || pool->memory_short)
        return NULL;
    LL_FOREACH (pool->sources, source)
        if (source->count < source->wanted && source->retry_at_ms <= now_ms &&
            (!ret || source->count < ret->count))
            ret = source;
    return ret;
}

/* Without the lock. */
static int load(struct warm_pool *pool, const struct snapshot *snapshot, struct warm_vm **ret,
                struct error *err)
{
    const struct warm_label label = warm_label(snapshot);
    struct machine machine = {0};
    struct warm_vm *vm = calloc(1, sizeof *vm);
    if (!vm)
        return error_set(err, ENOMEM, "out of memory");
    vm->entry.fd = -1;
    int r = warm_image(snapshot, vm->image, err);
    if (r == 0)
        r = image_check(snapshot->image->directory_fd, err);
    if (r == 0)
        r = load_machine(snapshot_json(snapshot), label.text, &machine, err);
    if (r == 0)
        r = load_entry(pool->setup.instances->setup.store, snapshot, label.text, &machine, false,
                       &vm->entry, err);
    if (r == 0) {
        struct vmm_context context = instances_context(pool->setup.instances, machine.hypervisor,
                                                       vm->entry.fd, pool->cancel_fd);
        r = load_vm(&context, snapshot, label.text, &machine, &vm->vmm, err);
    }
    machine_finish(&machine);
    if (r == 0)
        *ret = vm;
    else
        warm_discard(vm);
    return r;
}

static bool is_wanted(const struct warm_pool *pool, const struct warm_source *source)
{
    return !pool->stopping && source->count < source->wanted;
}

/* Lets go of the lock meanwhile; the source stays, for who removes it waits. It has a turn. */
static void load_one(struct warm_pool *pool, struct warm_source *source)
{
    struct warm_vm *vm = NULL;
    struct error why = {0};
    pool->loading = source;
    pthread_mutex_unlock(&pool->lock);
    int r = load(pool, source->snapshot, &vm, &why);
    loads_give(pool->setup.instances->setup.loads);
    pthread_mutex_lock(&pool->lock);
    if (r == 0 && is_wanted(pool, source)) {
        LL_APPEND(source->ready, vm);
        source->count++;
        vm = NULL;
    } else if (r < 0 && is_wanted(pool, source) && !snapshot_is_removed(source->snapshot)) {
        error_prefix(&why, r, "no VM can be loaded ahead from %s",
                     warm_label(source->snapshot).text);
        complain_once(pool, source, why.text);
        put_off(source);
    }
    pthread_mutex_unlock(&pool->lock);
    if (vm)
        warm_discard(vm);
    else if (r == 0)
        warm_tell(pool, source->snapshot);
    pthread_mutex_lock(&pool->lock);
    eventfd_read(pool->cancel_fd, &(eventfd_t){0});
    pool->loading = NULL;
    pthread_cond_broadcast(&pool->idle);
}

static bool has_nothing_to_do(const struct warm_pool *pool)
{
    const struct warm_source *source;
    LL_FOREACH (pool->sources, source)
        if (source->wanted > 0)
            return false;
    return true;
}

static void rest(struct warm_pool *pool)
{
    if (has_nothing_to_do(pool))
        pthread_cond_wait(&pool->wake, &pool->lock);
    else
        thread_wait_until(&pool->wake, &pool->lock, process_now_ms() + timing_ms(TIMING_LOOK));
}

void *warm_fill(void *argument)
{
    struct warm_pool *pool = argument;
    pthread_mutex_lock(&pool->lock);
    while (!pool->stopping) {
        if (!has_nothing_to_do(pool))
            look_around(pool);
        struct warm_source *source = choose(pool);
        if (source && !pool->stopping && loads_try(pool->setup.instances->setup.loads))
            load_one(pool, source);
        else if (!pool->stopping)
            rest(pool);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}
