/* SPDX-License-Identifier: MIT */
/* warm_filler: the VMs of one snapshot, as the pool and the filler handle them; and the filler, the
 * thread that loads them. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
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

static void drop_one(struct warm_source *source, struct warm_vm *vm, struct warm_vm **list)
{
    warm_leave(source, vm);
    LL_PREPEND(*list, vm);
}

/* The oldest. */
void warm_drop(struct warm_source *source, unsigned keep, struct warm_vm **list)
{
    while (source->count > keep)
        drop_one(source, source->ready, list);
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

/* ---- the filler: called with the lock held, but where something else is said ---- */

/* It was told, and will not be again until there is a commit or a write. */
static void put_off(struct warm_source *source)
{
    source->retry_ms = source->retry_ms == 0                 ? timing_ms(TIMING_RETRY)
                       : source->retry_ms > RETRY_MAX_MS / 2 ? RETRY_MAX_MS
                                                             : source->retry_ms * 2;
    source->retry_at_ms = process_now_ms() + source->retry_ms;
}

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

static unsigned count_ready(const struct warm_pool *pool)
{
    const struct warm_source *source;
    unsigned count = 0;
    LL_FOREACH (pool->sources, source)
        count += source->count;
    return count;
}

/* Instances need the room. */
static void drop_surplus(const struct warm_pool *pool, struct warm_source *source,
                         struct warm_vm **list)
{
    unsigned count = count_ready(pool);
    unsigned surplus = count > pool->room ? count - pool->room : 0;
    if (surplus > 0)
        warm_drop(source, source->count > surplus ? source->count - surplus : 0, list);
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
    drop_surplus(pool, source, &list);
    if (source->removing || (!list && !removed))
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
    if (pool->commits > 0 || pool->memory_short || count_ready(pool) >= pool->room)
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
    char name[STORE_ID_MAX + 16];
    struct machine machine = {0};
    struct warm_vm *vm = calloc(1, sizeof *vm);
    if (!vm)
        return error_set(err, ENOMEM, "out of memory");
    vm->entry.fd = -1;
    snprintf(name, sizeof name, "the snapshot %s", snapshot->id);
    int r = warm_image(snapshot, vm->image, err);
    if (r == 0)
        r = image_check(snapshot->image->directory_fd, err);
    if (r == 0)
        r = load_machine(snapshot_json(snapshot), name, &machine, err);
    if (r == 0)
        r = load_entry(pool->setup.instances->setup.store, snapshot, name, &machine, DISKS_OF_FORK,
                       &vm->entry, err);
    if (r == 0) {
        struct vmm_context context =
            instances_context(pool->setup.instances, NULL, machine.hypervisor, vm->entry.run_fd,
                              vm->entry.fd, pool->cancel_fd);
        r = load_vm(&context, snapshot, name, &machine, &vm->vmm, err);
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
    turns_release(pool->setup.instances->setup.turns);
    pthread_mutex_lock(&pool->lock);
    if (r == 0 && is_wanted(pool, source)) {
        LL_APPEND(source->ready, vm);
        source->count++;
        vm = NULL;
    } else if (r < 0 && is_wanted(pool, source) && !snapshot_is_removed(source->snapshot)) {
        if (source->retry_ms == 0)
            instances_warn(pool->setup.instances,
                           "no VM can be loaded ahead from the snapshot %s: %s",
                           source->snapshot->id, why.text);
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

static void rest(struct warm_pool *pool)
{
    if (!pool->sources)
        pthread_cond_wait(&pool->wake, &pool->lock);
    else
        thread_wait_until(&pool->wake, &pool->lock, process_now_ms() + timing_ms(TIMING_LOOK));
}

void *warm_fill(void *argument)
{
    struct warm_pool *pool = argument;
    auto_lock(&pool->lock);
    while (!pool->stopping) {
        if (pool->sources)
            look_around(pool);
        struct warm_source *source = choose(pool);
        if (source && !pool->stopping && turns_try(pool->setup.instances->setup.turns))
            load_one(pool, source);
        else if (!pool->stopping)
            rest(pool);
    }
    return NULL;
}
