/* SPDX-License-Identifier: MIT */
#include "fork/warm_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utlist.h>

#include "fork/load.h"
#include "hypervisor/disks.h"
#include "util/json.h"
#include "util/process.h"

static const char file_name[] = "warm.json", wanted_name[] = "wanted", auto_name[] = "auto";

static struct warm_source *find_or_add(struct warm_pool *pool, struct snapshot *snapshot)
{
    struct warm_source *source = warm_find(pool, snapshot);
    if (source || !(source = calloc(1, sizeof *source)))
        return source;
    source->snapshot = snapshot_ref(snapshot);
    LL_PREPEND(pool->sources, source);
    return source;
}

/* ---- how many ---- */

static int check(const struct snapshot *snapshot, struct error *err)
{
    struct machine machine = {0};
    char name[STORE_ID_MAX + 16];
    snprintf(name, sizeof name, "the snapshot %s", snapshot->id);
    int r = load_machine(snapshot_json(snapshot), name, &machine, err);
    if (r == 0 && machine.network == NETWORK_TAP)
        r = error_set(err, EOPNOTSUPP,
                      "%s is on a tap, which a VM that is loaded ahead would not have to itself",
                      name);
    machine_finish(&machine);
    return r;
}

/* 0 takes the file away: a full store must keep nobody from having the memory back. Version 0.1
 * only knows the number. */
static int save(const struct snapshot *snapshot, const struct warm_wish *wish, struct error *err)
{
    auto_json cJSON *json = cJSON_CreateObject();
    auto_close int directory_fd = image_open(snapshot->image, err);
    if (directory_fd < 0)
        return directory_fd;
    if (!wish->automatic && wish->number == 0) {
        int r = unlinkat(directory_fd, file_name, 0) == 0 ? fsync(directory_fd) : -1;
        return r == 0 || errno == ENOENT
                   ? 0
                   : error_errno(err, errno, "cannot remove %s from the store", file_name);
    }
    json_add_number(json, wanted_name, wish->automatic ? 0 : wish->number);
    if (wish->automatic && wish->number > 0)
        json_add_number(json, auto_name, wish->number);
    else if (wish->automatic)
        json_add(json, auto_name, cJSON_CreateTrue());
    return store_write_json(directory_fd, file_name, json, err);
}

/* A whole number from `least` to WARM_MAX. */
static bool read_number(const cJSON *json, unsigned least, unsigned *ret)
{
    const double number = cJSON_IsNumber(json) ? json->valuedouble : -1;
    if (!(number >= least && number <= WARM_MAX) || number != (unsigned)number)
        return false;
    *ret = (unsigned)number;
    return true;
}

int warm_read_wish(const struct snapshot *snapshot, struct warm_wish *ret, struct error *err)
{
    auto_json cJSON *json = NULL;
    struct warm_wish wish = {0};
    auto_close int fd = image_open(snapshot->image, err);
    int r = fd < 0 ? fd : store_read_json(fd, file_name, &json, err);
    *ret = wish;
    if (r < 0)
        return r == -ENOENT ? 0 : error_prefix(err, r, "the snapshot %s", snapshot->id);
    const cJSON *automatic = json_get(json, auto_name);
    wish.automatic = automatic;
    if (automatic && !cJSON_IsTrue(automatic) && !read_number(automatic, 1, &wish.number))
        return error_set(err, EINVAL,
                         "the snapshot %s: %s: \"%s\" is neither true nor a whole number from 1 to "
                         "%d",
                         snapshot->id, file_name, auto_name, WARM_MAX);
    if (!automatic && !read_number(json_get(json, wanted_name), 0, &wish.number))
        return error_set(err, EINVAL,
                         "the snapshot %s: %s: \"%s\" is not a whole number from 0 to %d",
                         snapshot->id, file_name, wanted_name, WARM_MAX);
    *ret = wish;
    return 0;
}

static bool has_too_many(const struct warm_pool *pool, const struct snapshot *snapshot)
{
    const struct warm_source *source = warm_find(pool, snapshot);
    return source && source->count + source->loading > source->wanted;
}

static int want(struct warm_pool *pool, struct snapshot *snapshot, const struct warm_wish *wish,
                struct error *err)
{
    struct warm_vm *surplus = NULL;
    int r = 0;
    auto_lock(&pool->lock);
    struct warm_source *source = find_or_add(pool, snapshot);
    if (!source) {
        r = error_set(err, ENOMEM, "out of memory");
    } else if (source->removing) { /* somebody took it out of the store */
        r = error_set(err, ENODEV, "the snapshot %s is removed", snapshot->id);
    } else {
        source->wish = *wish;
        warm_follow(source);
        warm_retry(source);
        warm_shrink(pool, source, &surplus);
        warm_wake(pool);
        warm_end_dropped(pool, source, surplus);
        while (has_too_many(pool, snapshot))
            pthread_cond_wait(&pool->idle, &pool->lock);
    }
    return r;
}

/* Returns when nothing of it is left here, whoever else removes it. */
static void want_none(struct warm_pool *pool, const struct snapshot *snapshot)
{
    auto_lock(&pool->lock);
    struct warm_source *source = warm_find(pool, snapshot);
    if (source)
        warm_remove_source(pool, source);
}

int warm_set(struct warm_pool *pool, struct snapshot *snapshot, const struct warm_wish *wish,
             struct error *err)
{
    int r = check(snapshot, err);
    if (r == 0)
        r = snapshot_use(snapshot, err); /* it is not removed meanwhile */
    if (r < 0)
        return r;
    pthread_mutex_lock(&pool->writing);
    r = save(snapshot, wish, err);
    if (r == 0 && !wish->automatic && wish->number == 0)
        want_none(pool, snapshot);
    else if (r == 0)
        r = want(pool, snapshot, wish, err);
    pthread_mutex_unlock(&pool->writing);
    snapshot_leave(snapshot);
    if (r == 0)
        warm_tell(pool, snapshot);
    return r;
}

struct warm_count warm_count(struct warm_pool *pool, const struct snapshot *snapshot)
{
    struct warm_count count = {0};
    auto_lock(&pool->lock);
    const struct warm_source *source = warm_find(pool, snapshot);
    if (source)
        count = (struct warm_count){.wish = source->wish,
                                    .wanted = source->wanted,
                                    .ready = source->count + source->leaving};
    return count;
}

void warm_forget(struct warm_pool *pool, const struct snapshot *snapshot)
{
    auto_lock(&pool->lock);
    const struct warm_source *source = warm_find(pool, snapshot);
    if (source)
        warm_cancel_loads(pool, source, 0);
    warm_wake(pool);
}

/* ---- commits ---- */

void warm_begin(struct warm_pool *pool)
{
    if (!pool)
        return;
    auto_lock(&pool->lock);
    pool->commits++;
}

void warm_end(struct warm_pool *pool)
{
    if (!pool)
        return;
    auto_lock(&pool->lock);
    if (--pool->commits == 0)
        warm_wake(pool);
}

/* Would it be the same if it was loaded now? Not if the image was replaced; and a disk that was
 * changed is a reason for the commit to fail, which loading anew finds and tells. */
static bool is_fit(const struct warm_vm *vm, const struct snapshot *snapshot,
                   const struct machine *machine)
{
    char image[IMAGE_KEY_SIZE];
    struct stat st;
    if (!warm_is_alive(vm) || process_is_stopped(vm->vmm->pid) ||
        warm_image(snapshot, image, NULL) < 0 || strcmp(image, vm->image) != 0)
        return false;
    for (size_t i = 0; i < machine->disk_count; i++) {
        const struct machine_disk *disk = &machine->disks[i];
        if (disk->key[0] && (stat(disk->path, &st) < 0 || disk_check_key(disk, &st, NULL) < 0))
            return false;
    }
    return true;
}

/* A commit would take one. */
static void note_demand(struct warm_pool *pool, const struct snapshot *snapshot)
{
    auto_lock(&pool->lock);
    struct warm_source *source = warm_find(pool, snapshot);
    if (!source || source->removing || !source->wish.automatic)
        return;
    demand_add(&source->demand, process_now_ms());
    warm_follow(source);
    warm_wake(pool);
}

static struct warm_vm *pop(struct warm_pool *pool, const struct snapshot *snapshot,
                           struct warm_source **ret)
{
    auto_lock(&pool->lock);
    struct warm_source *source = *ret = warm_find(pool, snapshot);
    struct warm_vm *vm = source ? source->ready : NULL;
    if (source)
        warm_retry(source);
    if (vm)
        warm_leave(source, vm);
    return vm;
}

/* What pop() gave was taken or has ended. */
static void has_left(struct warm_pool *pool, struct warm_source *source)
{
    auto_lock(&pool->lock);
    source->leaving--;
    pthread_cond_broadcast(&pool->idle);
}

bool warm_acquire(struct warm_pool *pool, const struct snapshot *snapshot,
                  const struct machine *machine, struct store_entry *ret_entry,
                  struct vmm **ret_vmm)
{
    struct warm_source *source;
    struct warm_vm *vm;
    bool taken = false;
    if (pool)
        note_demand(pool, snapshot);
    while (pool && !taken && (vm = pop(pool, snapshot, &source))) {
        taken = is_fit(vm, snapshot, machine);
        if (taken) {
            *ret_entry = vm->entry;
            *ret_vmm = vm->vmm;
            free(vm);
        } else {
            warm_discard(vm);
        }
        has_left(pool, source);
        warm_tell(pool, snapshot);
    }
    return taken;
}

/* ---- the pool ---- */

/* What the store says; what cannot be read there is told, and nothing is loaded. */
static void open_source(struct warm_pool *pool, struct snapshot *snapshot)
{
    struct warm_wish wish;
    struct error why = {0};
    int r = warm_read_wish(snapshot, &wish, &why);
    if (r == 0 && !wish.automatic && wish.number == 0)
        return;
    if (r == 0)
        r = check(snapshot, &why);
    if (r == 0)
        r = want(pool, snapshot, &wish, &why);
    if (r < 0)
        instances_warn(pool->setup.instances, "%s", why.text);
}

int warm_open(const struct warm_setup *setup, struct warm_pool *ret, struct error *err)
{
    struct snapshots *snapshots = setup->instances->setup.snapshots;
    size_t count = 0;
    *ret = (struct warm_pool){.setup = *setup};
    pthread_mutex_init(&ret->writing, NULL);
    pthread_mutex_init(&ret->lock, NULL);
    pthread_cond_init(&ret->wake, NULL);
    pthread_cond_init(&ret->idle, NULL);
    auto_free struct snapshot_name *names = snapshots_list(snapshots, &count);
    if (!names)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < count; i++) {
        struct snapshot *snapshot = snapshots_find(snapshots, names[i].id);
        if (snapshot)
            open_source(ret, snapshot);
        snapshot_unref(snapshot);
    }
    auto_lock(&ret->lock);
    int r = thread_start(warm_fill, ret, &ret->filler, err);
    ret->open = r == 0;
    return r;
}

void warm_close(struct warm_pool *pool)
{
    if (!pool->setup.instances)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    warm_cancel_loads(pool, NULL, 0);
    warm_wake(pool);
    pthread_mutex_unlock(&pool->lock);
    if (pool->open)
        pthread_join(pool->filler, NULL);
    pthread_mutex_lock(&pool->lock);
    while (pool->sources)
        warm_remove_source(pool, pool->sources);
    pthread_mutex_unlock(&pool->lock);
    pthread_cond_destroy(&pool->wake);
    pthread_cond_destroy(&pool->idle);
    pthread_mutex_destroy(&pool->lock);
    pthread_mutex_destroy(&pool->writing);
    pool->setup.instances = NULL;
}
