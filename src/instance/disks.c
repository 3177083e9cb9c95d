/* SPDX-License-Identifier: MIT */
/*
 * disks: who has which file of a user's, and what is frozen. A file that is written to is one
 * instance's from before a VMM is booted that writes to it until that has ended, by which time it
 * may be frozen: then it is nobody's, for ever, as long as anything in the store was saved with it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/disks.h"
#include "instance/internal.h"
#include "store/own.h"
#include "util/json.h"

static bool is_written_to(const struct machine_disk *disk)
{
    return !disk->readonly && !disk->key[0];
}

/* By its place, or as it was when it was frozen. */
static bool is_frozen_in(const struct stat *file, const char *path, const char *key)
{
    char now[FILE_KEY_SIZE];
    struct stat frozen;
    file_key(file, now);
    return strcmp(now, key) == 0 ||
           (stat(path, &frozen) == 0 && file_id_equal(file_id_of(&frozen), file_id_of(file)));
}

static int frozen(const char *path, const char *kind, const char *id, struct error *err)
{
    return error_set(
        err, EBUSY,
        "disk %s is frozen: the %s %s was saved with it; make it \"readonly\", or boot "
        "a copy of it",
        path, kind, id);
}

static bool is_frozen_by_json(const struct stat *file, const cJSON *machine)
{
    const cJSON *disk, *disks = json_get(machine, "disks");
    cJSON_ArrayForEach (disk, disks) {
        const char *key = json_get_text(disk, "key");
        const char *path = json_get_text(disk, "path");
        if (key && path && is_frozen_in(file, path, key))
            return true;
    }
    return false;
}

static int check_snapshots(struct snapshots *snapshots, const struct stat *file, const char *path,
                           struct error *err)
{
    size_t count;
    auto_free struct snapshot_name *names = snapshots_list(snapshots, &count);
    if (!names)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < count; i++) {
        struct snapshot *snapshot = snapshots_find(snapshots, names[i].id);
        bool found = snapshot && is_frozen_by_json(file, snapshot_machine(snapshot));
        snapshot_unref(snapshot);
        if (found)
            return frozen(path, "snapshot", names[i].id, err);
    }
    return 0;
}

/* A VM that boots next does not mind what a disk is that it only reads. */
static bool has_memory(const struct instance *instance)
{
    return instance->state != INSTANCE_CREATED && instance->state != INSTANCE_STOPPED;
}

/* With the lock held. */
static int check_instance(const struct instance *other, struct instance_file file,
                          const struct stat *st, const char *path, struct error *err)
{
    /* A fork that is made still has frozen disks only of its source. */
    for (size_t i = 0; file.written && other->published && i < other->machine.disk_count; i++) {
        const struct machine_disk *disk = &other->machine.disks[i];
        if (disk->key[0] && (!disk->readonly || has_memory(other)) &&
            is_frozen_in(st, disk->path, disk->key))
            return frozen(path, "instance", other->id, err);
    }
    for (size_t i = 0; i < other->file_count; i++)
        if (file_id_equal(other->files[i].id, file.id) && (file.written || other->files[i].written))
            return error_set(err, EBUSY,
                             "disk %s is in use by the instance %s, which %s: stop that instance, "
                             "or give another disk",
                             path, other->id,
                             other->files[i].written ? "writes to it" : "reads it");
    return 0;
}

/* Of one VM, and by whatever name: one of both would be written to behind the other's back. */
static int check_own(const struct instance *instance, struct instance_file file, const char *path,
                     struct error *err)
{
    for (size_t i = 0; i < instance->file_count; i++)
        if (file_id_equal(instance->files[i].id, file.id) &&
            (file.written || instance->files[i].written))
            return error_set(
                err, EINVAL,
                "the file %s is two disks of this instance, and one of them is written "
                "to: give each disk a file of its own, or make both \"readonly\"",
                path);
    return 0;
}

static int add_file(struct instance *instance, struct instance_file file, struct error *err)
{
    struct instance_file *longer =
        reallocarray(instance->files, instance->file_count + 1, sizeof file);
    if (!longer)
        return error_set(err, ENOMEM, "out of memory");
    longer[instance->file_count++] = file;
    instance->files = longer;
    return 0;
}

static int take(struct instance *instance, const struct stat *st, const struct machine_disk *disk,
                struct error *err)
{
    struct instances *table = instance->table;
    const struct instance_file file = {file_id_of(st), is_written_to(disk)};
    int r = file.written ? check_snapshots(table->setup.snapshots, st, disk->path, err) : 0;
    auto_lock(&table->lock);
    if (r == 0)
        r = check_own(instance, file, disk->path, err);
    for (struct instance *other = table->by_id; other && r == 0; other = other->hh.next)
        if (other != instance)
            r = check_instance(other, file, st, disk->path, err);
    return r == 0 ? add_file(instance, file, err) : r;
}

int instance_acquire_disks(struct instance *instance, const struct machine *machine,
                           struct error *err)
{
    struct stat file;
    int r = 0;
    snapshots_refresh(instance->table->setup.snapshots);
    for (size_t i = 0; i < machine->disk_count && r == 0; i++) {
        const struct machine_disk *disk = &machine->disks[i];
        /* What is not there, or no file, is refused at the boot in its own words. */
        if (stat(disk->path, &file) < 0 || !S_ISREG(file.st_mode))
            continue;
        r = store_check_disk(instance->table->setup.store, disk->path, &file, err);
        if (r == 0 && !disk->key[0])
            r = take(instance, &file, disk, err);
    }
    if (r < 0)
        instance_release_disks(instance);
    return r;
}

void instance_adopt_disks(struct instance *instance)
{
    struct stat file;
    struct error why;
    for (size_t i = 0; i < instance->machine.disk_count; i++) {
        const struct machine_disk *disk = &instance->machine.disks[i];
        struct file_id id = instance->vmm->disks[i];
        if (id.inode == 0 && stat(disk->path, &file) == 0) /* the record tells of none */
            id = file_id_of(&file);
        const struct instance_file taken = {id, is_written_to(disk)};
        if (!disk->key[0] && id.inode != 0 && add_file(instance, taken, &why) < 0)
            instances_warn(instance->table,
                           "instance %s: it is not known that the disk %s is in use: %s",
                           instance->id, disk->path, why.text);
    }
}

void instance_release_disks(struct instance *instance)
{
    auto_lock(&instance->table->lock);
    instance->file_count = 0;
    free(steal_pointer(instance->files));
}

void instance_swap_disks(struct instance *instance, struct machine *machine)
{
    auto_lock(&instance->table->lock);
    disks_swap(&instance->machine, machine);
}

static bool has_top(const struct instance *instance, size_t index)
{
    char name[DISK_NAME_SIZE];
    disk_layer_name(index, disk_top(&instance->machine.disks[index]), name);
    return instance->image &&
           faccessat(instance->image->directory_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* With the lock held: is there an overlay over the disks of `machine`, which `fork` was made with?
 */
static bool is_overlaid(const struct instance *fork, const struct machine *machine)
{
    for (size_t i = 0; i < fork->machine.disk_count; i++) {
        const struct machine_disk *disk = &fork->machine.disks[i];
        unsigned below = i < machine->disk_count ? machine->disks[i].layers : 0;
        if (disk->key[0] && (disk->layers > below || has_top(fork, i)))
            return true;
    }
    return false;
}

const struct instance *instances_overlay_locked(const struct instances *table, const char *uuid,
                                                const struct machine *machine)
{
    const struct instance *fork = instance_forks(table, uuid);
    for (; fork; fork = fork->next_fork)
        if (strcmp(fork->source.uuid, uuid) == 0 && is_overlaid(fork, machine))
            return fork;
    return NULL;
}

int instances_check_overlays(struct instances *instances, struct snapshot *snapshot,
                             struct error *err)
{
    struct machine machine = {0};
    const cJSON *json = snapshot_machine(snapshot);
    int r = json ? machine_from_json(json, &machine, err) : -EINVAL;
    if (r < 0)
        return r == -ENOMEM ? r : 0; /* one that is no machine nobody can have forked */
    pthread_mutex_lock(&instances->lock);
    const struct instance *fork = instances_overlay_locked(instances, snapshot->uuid, &machine);
    r = fork ? error_set(err, EBUSY,
                         "the disks of the snapshot %s are needed by those of its fork %s: remove "
                         "the fork first",
                         snapshot->id, fork->id)
             : 0;
    pthread_mutex_unlock(&instances->lock);
    machine_finish(&machine);
    return r;
}
