/* SPDX-License-Identifier: MIT */
/* warm_filler: the VMs of one snapshot, as the pool and the filler handle them; and the filler, the
 * thread that has them loaded. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <utlist.h>

#include "fork/warm_internal.h"
#include "util/meminfo.h"
#include "util/process.h"
#include "util/thread.h"
#include "util/timing.h"

enum {
    SHORT_PERCENT = 5,   /* of the memory available: all are ended; */
    ENOUGH_PERCENT = 10, /* and loaded again */
};

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

static void drop_one(struct warm_source *source, struct warm_vm *vm, struct warm_vm **list)
{
    warm_leave(source, vm);
    LL_PREPEND(*list, vm);
}

/* The oldest. */
static void drop(struct warm_source *source, unsigned keep, struct warm_vm **list)
{
    while (source->count > keep)
        drop_one(source, source->ready, list);
}

bool warm_follow(struct warm_source *source)
{
    const struct warm_wish *wish = &source->wish;
    unsigned wanted = wish->number;
    if (wish->automatic) {
        const unsigned most = wish->number > 0 ? wish->number : WARM_AUTO_MAX;
        wanted = demand_most(&source->demand, process_now_ms());
        wanted = wanted < most ? wanted : most;
    }
    const bool changed = wanted != source->wanted;
    source->wanted = wanted;
    return changed;
}

/* Those that are ready stay rather than those that are not yet. */
void warm_shrink(struct warm_pool *pool, struct warm_source *source, struct warm_vm **list)
{
    drop(source, source->wanted, list);
    if (source->count + source->loading > source->wanted)
        warm_cancel_loads(pool, source, source->wanted - source->count);
}

/* Who comes second waits for the first. */
void warm_remove_source(struct warm_pool *pool, struct warm_source *source)
{
    struct snapshot *snapshot = source->snapshot;
    struct warm_vm *list = NULL;
    if (source->removing) {
        while (warm_find(pool, snapshot))
            pthread_cond_wait(&pool->idle, &pool->lock);
        return;
    }
    source->removing = true;
    source->wanted = 0;
    warm_shrink(pool, source, &list);
    warm_end_dropped(pool, source, list);
    while (source->threads > 0 || source->leaving > 0)
        pthread_cond_wait(&pool->idle, &pool->lock);
    LL_DELETE(pool->sources, source);
    free(source);
    pthread_cond_broadcast(&pool->idle);
    snapshot_unref(snapshot);
}

/* ---- the filler: called with the lock held, but where something else is said ---- */

/* Those that have ended by themselves go to `list`: one failure, however many they are. */
static void drop_ended(struct warm_pool *pool, struct warm_source *source, struct warm_vm **list)
{
    struct warm_vm *vm, *next;
    unsigned before = source->count;
    LL_FOREACH_SAFE (source->ready, vm, next)
        if (!warm_is_alive(vm))
            drop_one(source, vm, list);
    if (source->count == before)
        return;
    if (source->retry_ms == 0)
        instances_warn(pool->setup.instances,
                       "a VM that was loaded ahead from the snapshot %s has ended by itself",
                       source->snapshot->id);
    warm_put_off(source);
}

/* Those loaded from an image that was changed since: no commit can take them. */
static void drop_outdated(struct warm_source *source, struct warm_vm **list)
{
    struct warm_vm *vm, *next;
    char image[IMAGE_KEY_SIZE];
    bool known = source->ready && warm_image(source->snapshot, image, NULL) == 0;
    LL_FOREACH_SAFE (source->ready, vm, next)
        if (!known || strcmp(vm->image, image) != 0)
            drop_one(source, vm, list);
}

/* What --min-free-memory says. To load again takes more than to end them. */
static bool is_below_limit(const struct warm_pool *pool, struct error *ret)
{
    struct instance_limits limits = pool->setup.instances->setup.limits;
    if (pool->memory_short)
        limits.min_free_memory += limits.min_free_memory / 4;
    return limits_check_memory(&limits, ret) < 0;
}

/* Without the lock. */
static void look_at_memory(struct warm_pool *pool)
{
    int percent = 0;
    struct error why;
    bool unknown = meminfo_available(pool->setup.meminfo, &percent, &why) < 0;
    bool was_short = pool->memory_short;
    if (unknown && !pool->memory_unknown)
        instances_warn(pool->setup.instances, "%s", why.text);
    pool->memory_unknown = unknown;
    bool below = is_below_limit(pool, &why);
    pool->memory_short =
        below || (!unknown && percent < (was_short ? ENOUGH_PERCENT : SHORT_PERCENT));
    if (below && !was_short)
        instances_warn(pool->setup.instances, "no VM is loaded ahead: %s", why.text);
    else if (pool->memory_short && !was_short)
        instances_warn(pool->setup.instances,
                       "memory is short: no VM is loaded ahead until %d %% of it is available",
                       ENOUGH_PERCENT);
}

static unsigned count_all(const struct warm_pool *pool)
{
    const struct warm_source *source;
    unsigned count = 0;
    LL_FOREACH (pool->sources, source)
        count += source->count + source->loading;
    return count;
}

/* Instances need the room. */
static void drop_surplus(const struct warm_pool *pool, struct warm_source *source,
                         struct warm_vm **list)
{
    unsigned count = count_all(pool);
    unsigned surplus = count > pool->room ? count - pool->room : 0;
    if (surplus > 0)
        drop(source, source->count > surplus ? source->count - surplus : 0, list);
}

/* Of one source; false if nothing of it changes. Lets go of the lock if so. */
static bool tidy(struct warm_pool *pool, struct warm_source *source)
{
    struct warm_vm *list = NULL;
    struct snapshot *snapshot = source->snapshot;
    bool removed = snapshot_is_removed(snapshot);
    if (source->removing)
        return false;
    bool changed = warm_follow(source);
    warm_shrink(pool, source, &list);
    drop_ended(pool, source, &list);
    drop_outdated(source, &list);
    if (pool->memory_short)
        drop(source, 0, &list);
    drop_surplus(pool, source, &list);
    if (!list && !removed && !changed)
        return false;
    snapshot_ref(snapshot);
    warm_end_dropped(pool, source, list);
    if (removed) /* by somebody else's hand */
        warm_remove_source(pool, source);
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
    pool->room = instances_room(pool->setup.instances);
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
    if (pool->stopping || pool->commits > 0 || pool->memory_short || count_all(pool) >= pool->room)
        return NULL;
    LL_FOREACH (pool->sources, source)
        if (source->count + source->loading < source->wanted && source->retry_at_ms <= now_ms &&
            (!ret || source->count + source->loading < ret->count + ret->loading))
            ret = source;
    return ret;
}

static void rest(struct warm_pool *pool)
{
    if (pool->stirred)
        return;
    if (!pool->sources)
        pthread_cond_wait(&pool->wake, &pool->lock);
    else
        thread_wait_until(&pool->wake, &pool->lock, process_now_ms() + timing_ms(TIMING_LOOK));
}

/* As many as there are turns for. */
static void begin_loads(struct warm_pool *pool)
{
    struct turns *turns = pool->setup.instances->setup.turns;
    struct warm_source *source;
    while ((source = choose(pool)) && turns_try_spare(turns))
        warm_begin_load(pool, source);
}

void *warm_fill(void *argument)
{
    struct warm_pool *pool = argument;
    auto_lock(&pool->lock);
    while (!pool->stopping) {
        pool->stirred = false;
        if (pool->sources)
            look_around(pool);
        begin_loads(pool);
        if (!pool->stopping)
            rest(pool);
    }
    return NULL;
}
