/* SPDX-License-Identifier: MIT */
#include "fs/forkable.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/state.h"
#include "instance/live.h"
#include "store/notes.h"
#include "util/cleanup.h"

static struct forkable **table_of(struct fs *fs, enum object_kind kind)
{
    return kind == OBJECT_SNAPSHOT ? &fs->snapshots : &fs->instances;
}

void forkable_path(const struct forkable *forkable, char ret[INSTANCE_SOURCE_PATH_SIZE])
{
    const struct instance_source id = fork_source_id(&forkable->of);
    instance_source_path(&id, ret);
}

int forkable_index(const struct forkable *forkable, struct image_index **ret)
{
    const struct fork_source *of = &forkable->of;
    if (of->snapshot)
        return image_index(of->snapshot->image, ret, NULL);
    switch (instance_state(of->instance)) {
    case INSTANCE_STANDBY:
        return image_index(of->instance->image, ret, NULL);
    case INSTANCE_RUNNING:
    case INSTANCE_PAUSED:
    case INSTANCE_WAITING:
        *ret = instance_list(of->instance, NULL);
        return *ret ? 0 : -IMAGE_SCANNING;
    default:
        return -ENOENT;
    }
}

/* Reads each candidate once and no more: a guest may have planted thousands, and every name of
 * a walk comes here. */
bool forkable_index_has(const struct image_index *index, const char *name)
{
    for (size_t i = 0; i < index->scan.count; i++)
        if (strcmp(index->scan.candidates[i].marker.name, name) == 0)
            return true;
    return false;
}

bool forkable_has_mailbox(const struct forkable *forkable, const char *name)
{
    struct image_index *index = NULL;
    bool has = forkable_index(forkable, &index) == 0 && forkable_index_has(index, name);
    image_index_unref(index);
    return has;
}

static void release(struct fork_source *of)
{
    snapshot_unref(of->snapshot);
    instance_unref(of->instance);
}

static void forkable_destroy(struct object *object)
{
    struct forkable *forkable = (struct forkable *)object;
    document_finish(&forkable->config);
    free(forkable->error);
    release(&forkable->of);
    free(forkable);
}

/* The draft that is always there, and the records of the forks in the store. */
static int open_drafts(struct fs *fs, struct forkable *forkable)
{
    size_t count;
    forkable->drafts.owner = &forkable->object;
    if (!draft_create(&forkable->drafts, "new"))
        return -ENOMEM;
    auto_free struct snapshot_name *names =
        instances_list(fs->setup.instances, fork_source_id(&forkable->of).uuid, &count);
    int r = names ? 0 : -ENOMEM;
    for (size_t i = 0; i < count && r == 0; i++) {
        struct instance *instance = instances_find(fs->setup.instances, names[i].id);
        r = instance ? draft_load_record(&forkable->drafts, instance) : 0;
        instance_unref(instance);
    }
    return r;
}

static void close_drafts(struct forkable *forkable)
{
    struct fs *fs = forkable->object.objects->fs;
    while (forkable->drafts.by_id)
        draft_remove(forkable->drafts.by_id);
    object_remove(&forkable->object);
    object_changed(&fs->root);
    waiters_answer(&fs->waiters, NULL, 0);
    object_unref(&forkable->object);
}

/* Takes `of`, also when it fails. */
static int create(struct fs *fs, enum object_kind kind, struct fork_source *of, uint64_t serial,
                  struct forkable **ret)
{
    struct forkable **table = table_of(fs, kind), *forkable = calloc(1, sizeof *forkable);
    if (!forkable) {
        release(of);
        return -ENOMEM;
    }
    object_init(&forkable->object, &fs->objects, kind, serial, forkable_destroy);
    forkable->of = *of;
    int r = open_drafts(fs, forkable);
    if (r == 0)
        HASH_ADD(hh, *table, object.serial, sizeof serial, forkable);
    if (r < 0 || !forkable->hh.tbl) {
        close_drafts(forkable);
        return -ENOMEM;
    }
    *ret = forkable;
    return 0;
}

int forkable_find(struct fs *fs, enum object_kind kind, const char *id, struct forkable **ret)
{
    struct fork_source of = {0};
    struct forkable *forkable;
    if (kind == OBJECT_SNAPSHOT)
        of.snapshot = snapshots_find(fs->setup.snapshots, id);
    else
        of.instance = instances_find(fs->setup.instances, id);
    if (!of.snapshot && !of.instance)
        return -ENOENT;
    uint64_t serial = of.snapshot ? of.snapshot->serial : of.instance->serial;
    HASH_FIND(hh, *table_of(fs, kind), &serial, sizeof serial, forkable);
    if (!forkable)
        return create(fs, kind, &of, serial, ret);
    release(&of);
    *ret = forkable;
    return 0;
}

void forkable_remove(struct forkable *forkable)
{
    if (forkable->object.removed)
        return;
    HASH_DEL(*table_of(forkable->object.objects->fs, forkable->object.kind), forkable);
    close_drafts(forkable);
}

void forkable_remove_instance(struct fs *fs, uint64_t serial)
{
    struct forkable *instance;
    HASH_FIND(hh, fs->instances, &serial, sizeof serial, instance);
    if (instance)
        forkable_remove(instance);
}

void forkables_refresh(struct fs *fs)
{
    struct forkable *snapshot, *next;
    snapshots_refresh(fs->setup.snapshots);
    unsigned changes = atomic_load(&fs->setup.snapshots->changes);
    unsigned notes = store_notes_changes(fs->setup.snapshots->store->notes);
    objects_lock(&fs->objects);
    if (fs->changes != changes) {
        object_changed(&fs->root);
        HASH_ITER (hh, fs->snapshots, snapshot, next)
            if (snapshot_is_removed(snapshot->of.snapshot))
                forkable_remove(snapshot);
    }
    fs->changes = changes;
    if (fs->notes != notes)
        object_touched(&fs->root);
    fs->notes = notes;
    objects_names_only(&fs->objects);
    objects_unlock(&fs->objects);
}

void forkable_note_outcome(struct forkable *instance, uint64_t number, const char *text)
{
    if (number >= instance->failed) {
        instance->failed = number;
        free(instance->error);
        instance->error = text ? strdup(text) : NULL;
    }
}

void forkable_note(struct forkable *instance, const char *text)
{
    forkable_note_outcome(instance, ++instance->writes, text);
}
