/* SPDX-License-Identifier: MIT */
#include "fs/fs.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fs/forkable.h"
#include "fs/node.h"
#include "fs/state.h"
#include "fs/tables.h"

/* But for its threads. */
static void finish(struct fs *fs)
{
    if (fs->stop_fd >= 0)
        close(fs->stop_fd);
    refusals_finish(&fs->refusals);
    pthread_cond_destroy(&fs->waiters.interrupted);
    pthread_mutex_destroy(&fs->objects.lock);
    free(fs);
}

static int open_threads(struct fs *fs, struct error *err)
{
    if (fs->stop_fd < 0)
        return error_errno(err, errno, "cannot make an event descriptor");
    int r = jobs_open(&fs->jobs, &fs->waiters, err);
    if (r == 0 && (r = stream_open(&fs->stream, &fs->waiters, fs->setup.events, err)) < 0)
        jobs_close(&fs->jobs);
    return r;
}

int fs_open(const struct fs_setup *setup, struct fs **ret, struct error *err)
{
    struct fs *fs = calloc(1, sizeof *fs);
    if (!fs)
        return error_set(err, ENOMEM, "out of memory");
    fs->setup = *setup;
    fs->objects.fs = fs;
    fs->objects.wake = setup->wake;
    fs->objects.end_nodes = object_end_nodes;
    fs->objects.expire_nodes = object_expire_nodes;
    pthread_mutex_init(&fs->objects.lock, NULL);
    pthread_cond_init(&fs->waiters.interrupted, NULL);
    fs->waiters.objects = &fs->objects;
    object_init(&fs->root, &fs->objects, OBJECT_ROOT, 0, NULL);
    fs->root_entry = &root_entry;
    fs->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int r = open_threads(fs, err);
    if (r < 0)
        finish(fs);
    else
        *ret = fs;
    return r;
}

void fs_stop(struct fs *fs)
{
    objects_lock(&fs->objects);
    fs->jobs.stopping = true;
    eventfd_write(fs->stop_fd, 1);
    objects_unlock(&fs->objects);
    instances_stop(fs->setup.instances);
    snapshots_stop(fs->setup.snapshots);
    objects_lock(&fs->objects);
    while (fs->jobs.count > 0)
        pthread_cond_wait(&fs->jobs.idle, &fs->objects.lock);
    waiters_answer(&fs->waiters, NULL, -ESHUTDOWN);
    stream_end(&fs->stream);
    objects_unlock(&fs->objects);
}

void fs_close(struct fs *fs)
{
    struct forkable *forkable, *next;
    if (!fs)
        return;
    stream_close(&fs->stream);
    jobs_close(&fs->jobs);
    while (fs->objects.handles)
        fs_release(fs, fs->objects.handles);
    objects_lock(&fs->objects);
    nodes_discard(fs);
    HASH_ITER (hh, fs->snapshots, forkable, next)
        forkable_remove(forkable);
    HASH_ITER (hh, fs->instances, forkable, next)
        forkable_remove(forkable);
    objects_unlock(&fs->objects);
    finish(fs);
}

void fs_interrupt(struct fs *fs, const void *key)
{
    objects_lock(&fs->objects);
    waiters_interrupt(&fs->waiters, key);
    objects_unlock(&fs->objects);
}

void fs_refresh(struct fs *fs)
{
    forkables_refresh(fs);
}

void fs_changed(struct fs *fs, enum object_kind kind, const char *id)
{
    struct forkable *forkable;
    objects_lock(&fs->objects);
    if (!id)
        object_touched(&fs->root);
    else if (forkable_find(fs, kind, id, &forkable) == 0)
        object_changed(&forkable->object);
    objects_unlock(&fs->objects);
}

void fs_instance_vanished(struct fs *fs, const char *id, uint64_t serial)
{
    struct error why;
    struct forkable *instance;
    objects_lock(&fs->objects);
    if (forkable_find(fs, OBJECT_INSTANCE, id, &instance) == 0 &&
        instance->object.serial == serial) {
        object_ref(&instance->object);
        if (instance_files_remove(instance, instance_remove_vanished, &why) == 0)
            object_changed(&fs->root);
        object_unref(&instance->object);
    }
    objects_unlock(&fs->objects);
}

void fs_image_scanned(struct fs *fs)
{
    struct forkable *snapshot, *next;
    objects_lock(&fs->objects);
    waiters_answer(&fs->waiters, NULL, 0);
    HASH_ITER (hh, fs->snapshots, snapshot, next)
        object_changed(&snapshot->object);
    objects_unlock(&fs->objects);
}
