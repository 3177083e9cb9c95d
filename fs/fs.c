/* SPDX-License-Identifier: MIT */
#include "fs/fs.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <utlist.h>

#include "fs/internal.h"
#include "util/cleanup.h"
#include "util/stack.h"

void fs_lock(struct fs *fs)
{
    pthread_mutex_lock(&fs->lock);
}

void fs_unlock(struct fs *fs)
{
    struct waiter *answers = steal_pointer(fs->answers);
    void **wakes = steal_pointer(fs->wakes);
    size_t wake_count = fs->wake_count;
    void (*wake)(void *) = fs->setup.wake; /* fs may be gone when the last job has unlocked it */
    fs->wake_count = 0;
    pthread_mutex_unlock(&fs->lock);
    stack_wipe(); /* of whatever texts were handled with the lock */

    for (size_t i = 0; i < wake_count; i++)
        wake(wakes[i]);
    free(wakes);
    while (answers) {
        struct waiter *waiter = answers;
        DL_DELETE(answers, waiter);
        waiter->done(waiter, waiter->result);
    }
}

void object_init(struct object *object, enum object_kind kind, uint64_t serial,
                 void (*destroy)(struct object *object))
{
    *object = (struct object){.kind = kind, .references = 1, .serial = serial, .destroy = destroy};
    clock_gettime(CLOCK_REALTIME, &object->changed);
}

struct object *object_ref(struct object *object)
{
    object->references++;
    return object;
}

void object_unref(struct object *object)
{
    if (!object || --object->references > 0)
        return;
    markers_free(object);
    object->destroy(object);
}

static void queue_wake(struct fs *fs, struct handle *handle)
{
    void **longer = realloc(fs->wakes, (fs->wake_count + 1) * sizeof *longer);
    if (!longer)
        return; /* the next change tries again */
    fs->wakes = longer;
    fs->wakes[fs->wake_count++] = steal_pointer(handle->poll);
}

void fs_changed(struct fs *fs, struct object *object)
{
    struct handle *handle;
    clock_gettime(CLOCK_REALTIME, &object->changed);
    DL_FOREACH (fs->handles, handle)
        if (handle->place.object == object && handle->poll)
            queue_wake(fs, handle);
}

static void source_destroy(struct object *object)
{
    struct source *source = (struct source *)object;
    snapshot_unref(source->snapshot);
    free(source);
}

/* With the draft that is always there, and the records of the forks in the store. To be closed,
 * also after a failure, which is one of memory. */
static int forks_open(struct fs *fs, struct forks *forks, struct object *owner, const char *uuid)
{
    size_t count;
    forks->owner = owner;
    if (!draft_create(fs, forks, "new"))
        return -ENOMEM;
    auto_free struct snapshot_name *names = instances_list(fs->setup.instances, uuid, &count);
    int r = names ? 0 : -ENOMEM;
    for (size_t i = 0; i < count && r == 0; i++) {
        struct instance *instance = instances_find(fs->setup.instances, names[i].id);
        r = instance ? draft_load_record(fs, forks, instance) : 0;
        instance_unref(instance);
    }
    return r;
}

/* What has forks is removed: its drafts go with it. */
static void forks_close(struct fs *fs, struct forks *forks)
{
    while (forks->drafts)
        draft_remove(fs, forks->drafts);
    forks->owner->removed = true;
    fs_changed(fs, forks->owner);
    fs_changed(fs, &fs->root);
    waiters_answer(fs, NULL, 0);
    object_unref(forks->owner);
}

int fs_source(struct fs *fs, const char *id, struct source **ret)
{
    struct source *source;
    struct snapshot *snapshot = snapshots_find(fs->setup.snapshots, id);
    if (!snapshot)
        return -ENOENT;
    HASH_FIND(hh, fs->sources, &snapshot->serial, sizeof snapshot->serial, source);
    if (source) {
        snapshot_unref(snapshot);
        *ret = source;
        return 0;
    }
    source = calloc(1, sizeof *source);
    if (!source) {
        snapshot_unref(snapshot);
        return -ENOMEM;
    }
    object_init(&source->object, OBJECT_SNAPSHOT, snapshot->serial, source_destroy);
    source->fs = fs;
    source->snapshot = snapshot;
    int r = forks_open(fs, &source->forks, &source->object, snapshot->uuid);
    if (r == 0)
        HASH_ADD(hh, fs->sources, object.serial, sizeof source->object.serial, source);
    if (r < 0 || !source->hh.tbl) {
        forks_close(fs, &source->forks);
        return -ENOMEM;
    }
    *ret = source;
    return 0;
}

static void unit_destroy(struct object *object)
{
    struct unit *unit = (struct unit *)object;
    document_finish(&unit->config);
    free(unit->error);
    instance_unref(unit->instance);
    free(unit);
}

int fs_unit(struct fs *fs, const char *id, struct unit **ret)
{
    struct unit *unit;
    struct instance *instance = instances_find(fs->setup.instances, id);
    if (!instance)
        return -ENOENT;
    HASH_FIND(hh, fs->units, &instance->serial, sizeof instance->serial, unit);
    if (unit) {
        instance_unref(instance);
        *ret = unit;
        return 0;
    }
    unit = calloc(1, sizeof *unit);
    if (!unit) {
        instance_unref(instance);
        return -ENOMEM;
    }
    object_init(&unit->object, OBJECT_INSTANCE, instance->serial, unit_destroy);
    unit->fs = fs;
    unit->instance = instance;
    int r = forks_open(fs, &unit->forks, &unit->object, instance->uuid);
    if (r == 0)
        HASH_ADD(hh, fs->units, object.serial, sizeof unit->object.serial, unit);
    if (r < 0 || !unit->hh.tbl) {
        forks_close(fs, &unit->forks);
        return -ENOMEM;
    }
    *ret = unit;
    return 0;
}

void fs_forget_source(struct fs *fs, struct source *source)
{
    if (source->object.removed)
        return;
    HASH_DEL(fs->sources, source);
    forks_close(fs, &source->forks);
}

void fs_forget_unit(struct fs *fs, struct unit *unit)
{
    if (unit->object.removed)
        return;
    HASH_DEL(fs->units, unit);
    forks_close(fs, &unit->forks);
}

void fs_forget_instance(struct fs *fs, uint64_t serial)
{
    struct unit *unit;
    HASH_FIND(hh, fs->units, &serial, sizeof serial, unit);
    if (unit)
        fs_forget_unit(fs, unit);
}

void fs_instance_changed(struct fs *fs, const char *id)
{
    if (!fs)
        return;
    fs_lock(fs);
    struct unit *unit;
    if (fs_unit(fs, id, &unit) == 0)
        fs_changed(fs, &unit->object);
    fs_unlock(fs);
}

void fs_snapshot_changed(struct fs *fs, const char *id)
{
    if (!fs)
        return;
    fs_lock(fs);
    struct source *source;
    if (fs_source(fs, id, &source) == 0)
        fs_changed(fs, &source->object);
    fs_unlock(fs);
}

void fs_image_scanned(struct fs *fs)
{
    struct source *source, *next;
    if (!fs)
        return;
    fs_lock(fs);
    waiters_answer(fs, NULL, 0);
    HASH_ITER (hh, fs->sources, source, next)
        fs_changed(fs, &source->object);
    fs_unlock(fs);
}

static void root_destroy(struct object *object)
{
    (void)object; /* lies in struct fs */
}

int fs_open(const struct fs_setup *setup, struct fs **ret, struct error *err)
{
    struct fs *fs = calloc(1, sizeof *fs);
    if (!fs)
        return error_set(err, ENOMEM, "out of memory");
    fs->setup = *setup;
    pthread_mutex_init(&fs->lock, NULL);
    object_init(&fs->root, OBJECT_ROOT, 0, root_destroy);
    fs->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int r = fs->stop_fd < 0 ? error_errno(err, errno, "cannot make an event descriptor")
                            : jobs_open(fs, err);
    if (r == 0 && (r = stream_start(fs, err)) < 0)
        jobs_close(fs);
    if (r < 0) {
        if (fs->stop_fd >= 0)
            close(fs->stop_fd);
        free(fs);
        return r;
    }
    *ret = fs;
    return 0;
}

void fs_close(struct fs *fs)
{
    struct handle *handle, *next_handle;
    struct source *source, *next_source;
    struct unit *unit, *next_unit;
    struct node *node, *next_node;
    if (!fs)
        return;
    stream_join(fs);
    jobs_close(fs);
    DL_FOREACH_SAFE (fs->handles, handle, next_handle)
        fs_release(fs, handle);
    fs_lock(fs);
    HASH_ITER (hh, fs->nodes, node, next_node)
        node_drop(fs, node);
    HASH_ITER (hh, fs->sources, source, next_source)
        fs_forget_source(fs, source);
    HASH_ITER (hh, fs->units, unit, next_unit)
        fs_forget_unit(fs, unit);
    fs_unlock(fs);
    refusals_finish(&fs->refusals);
    close(fs->stop_fd);
    pthread_mutex_destroy(&fs->lock);
    free(fs);
}
