/* SPDX-License-Identifier: MIT */
#include "instance/instance.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <utlist.h>

#include "hypervisor/disks.h"
#include "instance/internal.h"
#include "store/notes.h"

const char *const instance_state_names[INSTANCE_STATES + 1] = {
    "created", "running", "paused", "standby", "stopped", "waiting", NULL};

const char *const instance_source_words[STORE_KINDS] = {"snapshot", "instance"};

void instance_source_path(const struct instance_source *source, char ret[INSTANCE_SOURCE_PATH_SIZE])
{
    snprintf(ret, INSTANCE_SOURCE_PATH_SIZE, "%s/%s", store_kind_names[source->kind], source->id);
}

struct instance *instance_create(struct instances *table, const char *id)
{
    struct instance *instance = calloc(1, sizeof *instance);
    if (!instance)
        return NULL;
    instance->table = table;
    instance->references = 1;
    instance->life = 1;
    instance->cancel_fd = instance->entry_fd = -1;
    strncpy(instance->id, id, sizeof instance->id - 1);
    store_time_now(instance->created_at);
    store_random_hex(instance->uuid, 16);
    return instance;
}

void instance_notify(const struct instance *instance, enum instance_event what,
                     enum instance_state from)
{
    const struct instances_setup *setup = &instance->table->setup;
    if (setup->on_event)
        setup->on_event(setup->listener, instance, what, from);
}

int instance_open_run(struct instance *instance, struct error *err)
{
    struct stat own, run;
    int fd = store_open_run(instance->entry_fd, err);
    if (fd < 0)
        return fd;
    instance->has_run =
        fstat(instance->entry_fd, &own) == 0 && fstat(fd, &run) == 0 && own.st_ino != run.st_ino;
    return image_create(fd, "instances", instance->id, &instance->table->setup.snapshots->scans,
                        &instance->image, err);
}

/* The VMM may have taken the right away from the directory in which it works. */
int instance_open_entry(const struct instance *instance, struct error *err)
{
    const int flags = O_DIRECTORY | O_RDONLY | O_NOFOLLOW | O_CLOEXEC;
    const int run_fd = instance->image->directory_fd;
    const char *path = instance->has_run ? ".." : ".";
    int fd = openat(run_fd, path, flags);
    if (fd < 0 && errno == EACCES && fchmod(run_fd, 0700) == 0)
        fd = openat(run_fd, path, flags);
    return fd >= 0 ? fd
                   : error_errno(err, errno, "cannot open instances/%s in the store", instance->id);
}

int instance_keep_entry(struct instance *instance, struct error *err)
{
    int r = instance->entry_fd >= 0 ? 0 : instance_open_entry(instance, err);
    if (r > 0)
        instance->entry_fd = r;
    return r < 0 ? r : 0;
}

void instance_rest(struct instance *instance)
{
    if (instance->entry_fd >= 0 && !instance->vmm && !instance->ending)
        close(steal_fd(&instance->entry_fd));
}

int instance_set_directory(struct instance *instance, int fd, struct error *err)
{
    struct stat st = {0};
    fstat(fd, &st);
    instance->entry_fd = fd;
    instance->directory = file_id_of(&st);
    return instance_open_run(instance, err);
}

void instance_finish_transit(struct transit *transit)
{
    machine_finish(&transit->booted);
    disks_finish(&transit->saved);
    image_index_unref(transit->index);
}

static void instance_free(struct instance *instance)
{
    if (instance->ending)
        instance_finish_transit(instance->ending);
    free(instance->ending);
    image_unref(instance->image);
    cleanup_close(&instance->entry_fd);
    if (instance->mapped) {
        snapshot_leave(instance->mapped);
        snapshot_unref(instance->mapped);
    }
    image_index_unref(instance->base_index);
    image_index_unref(instance->list);
    cJSON_Delete(instance->delivered);
    cJSON_Delete(instance->lasts);
    vmm_close(instance->vmm);
    machine_finish(&instance->machine);
    cJSON_Delete(instance->fork);
    free(instance->config);
    free(instance->files);
    free(instance->recorded);
    free(instance);
}

/* ---- forks by their source: each of 10,000 snapshots may be asked for its own ---- */

static size_t fork_list(const char *uuid)
{
    size_t hash = 5381;
    for (; *uuid; uuid++)
        hash = hash * 33 + (unsigned char)*uuid;
    return hash % INSTANCE_FORK_LISTS;
}

struct instance *instance_forks(const struct instances *table, const char *uuid)
{
    return table->forks[fork_list(uuid)];
}

static void list_fork(struct instance *instance)
{
    struct instance **list = &instance->table->forks[fork_list(instance->source.uuid)];
    if (instance->source.uuid[0])
        DL_APPEND2(*list, instance, prev_fork, next_fork);
}

void instance_withdraw(struct instance *instance)
{
    struct instance **list = &instance->table->forks[fork_list(instance->source.uuid)];
    instance->published = false;
    if (instance->source.uuid[0])
        DL_DELETE2(*list, instance, prev_fork, next_fork);
}

/* With the lock held. The id is free. */
static int insert(struct instance *instance, struct error *err)
{
    instance->serial = ++instance->table->last_serial;
    HASH_ADD_STR(instance->table->by_id, id, instance);
    if (!instance->hh.tbl)
        return error_set(err, ENOMEM, "out of memory");
    instance->references++;
    if (instance->published) /* it was loaded */
        list_fork(instance);
    return 0;
}

int instance_insert(struct instance *instance, struct error *err)
{
    auto_lock(&instance->table->lock);
    return insert(instance, err);
}

struct instance *instances_find(struct instances *instances, const char *id)
{
    auto_lock(&instances->lock);
    struct instance *instance;
    HASH_FIND_STR(instances->by_id, id, instance);
    if (instance && instance->published)
        instance->references++;
    else
        instance = NULL;
    return instance;
}

struct instance *instance_ref(struct instance *instance)
{
    auto_lock(&instance->table->lock);
    instance->references++;
    return instance;
}

void instance_unref(struct instance *instance)
{
    if (!instance)
        return;
    pthread_mutex_lock(&instance->table->lock);
    bool last = --instance->references == 0;
    pthread_mutex_unlock(&instance->table->lock);
    if (last)
        instance_free(instance);
}

struct snapshot_name *instances_list(struct instances *instances, const char *source_uuid,
                                     size_t *ret_count)
{
    struct instance *i;
    size_t count = 0, max = 0;
    pthread_mutex_lock(&instances->lock);
    struct instance *first =
        source_uuid ? instance_forks(instances, source_uuid) : instances->by_id;
    if (source_uuid)
        DL_COUNT2(first, i, max, next_fork);
    else
        max = HASH_COUNT(first);
    struct snapshot_name *names = calloc(max + 1, sizeof *names);
    for (i = first; i && names; i = source_uuid ? i->next_fork : i->hh.next) {
        if (!i->published || (source_uuid && strcmp(i->source.uuid, source_uuid) != 0))
            continue;
        memcpy(names[count].id, i->id, sizeof i->id);
        names[count++].serial = i->serial;
    }
    pthread_mutex_unlock(&instances->lock);
    *ret_count = count;
    return names;
}

/* With the lock held. What nobody is shown has its id, too. */
static int take(struct instance *instance, const struct machine *machine, struct error *err)
{
    const int kind_fd = instance->table->setup.store->kind_fd[STORE_INSTANCES];
    struct instance *other;
    struct stat st;
    HASH_FIND_STR(instance->table->by_id, instance->id, other);
    if (other)
        return error_set(err, EEXIST, "there is an instance %s already", instance->id);
    if (fstatat(kind_fd, instance->id, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return store_taken(kind_fd, instance->id, err);
    int r = machine ? instance_acquire_taps_locked(instance, machine, err) : 0;
    return r == 0 ? insert(instance, err) : r;
}

int instances_reserve(struct instances *instances, const char *id, const struct machine *machine,
                      struct instance **ret, struct error *err)
{
    int r = store_check_id(id, err);
    if (r < 0)
        return r;
    struct instance *instance = instance_create(instances, id);
    if (!instance)
        return error_set(err, ENOMEM, "out of memory");
    pthread_mutex_lock(&instances->lock);
    r = take(instance, machine, err);
    pthread_mutex_unlock(&instances->lock);
    if (r < 0)
        instance_free(instance);
    else
        *ret = instance;
    return r;
}

void instance_release_owner(struct instance *instance)
{
    instance->busy = instance->changing = instance->recording = false;
    if (instance->cancel_fd >= 0)
        close(steal_fd(&instance->cancel_fd));
    instance_rest(instance);
    pthread_cond_broadcast(&instance->table->idle);
}

void instance_abandon(struct instance *instance)
{
    if (!instance)
        return;
    struct instances *table = instance->table;
    pthread_mutex_lock(&table->lock);
    bool reserved = !instance->published && !instance->removed;
    if (reserved) {
        HASH_DEL(table->by_id, instance);
        instance->removed = true;
        instance_release_owner(instance);
    }
    pthread_mutex_unlock(&instance->table->lock);
    if (reserved)
        instance_unref(instance);
    instance_unref(instance);
}

void instance_publish(struct instance *instance)
{
    instance->published = true;
    list_fork(instance);
    instance_notify(instance, INSTANCE_MADE, instance->state);
    store_notes_remove(instance->table->setup.store->notes, STORE_INSTANCES, instance->id);
}

struct vmm_context instances_context(const struct instances *instances, const char *id,
                                     const struct hypervisor *hypervisor, int directory_fd,
                                     int entry_fd, int cancel_fd)
{
    const struct instances_setup *setup = &instances->setup;
    struct vmm_binary binary = {0};
    for (size_t i = 0; i < setup->binary_count; i++)
        if (strcmp(setup->binaries[i].hypervisor, hypervisor->name) == 0)
            binary = setup->binaries[i];
    return (struct vmm_context){.id = id,
                                .binary = binary.path,
                                .confine = binary.open ? NULL : setup->confine,
                                .programs = setup->programs,
                                .directory_fd = directory_fd,
                                .entry_fd = entry_fd,
                                .cancel_fd = cancel_fd};
}

struct vmm_context instance_context(const struct instance *instance)
{
    return instances_context(instance->table, instance->id, instance->machine.hypervisor,
                             instance->image->directory_fd, instance->entry_fd,
                             instance->cancel_fd);
}

enum instance_state instance_state(struct instance *instance)
{
    auto_lock(&instance->table->lock);
    return instance->state;
}

bool instance_maps(const struct instance *instance, int directory_fd)
{
    struct stat own, its;
    const char *base = instance->has_run ? "../base" : "base";
    return fstatat(instance->image->directory_fd, base, &own, AT_SYMLINK_NOFOLLOW) == 0 &&
           fstatat(directory_fd, "memory", &its, AT_SYMLINK_NOFOLLOW) == 0 &&
           own.st_ino == its.st_ino && own.st_dev == its.st_dev;
}

bool instance_has(const struct instance *instance, const char *name)
{
    return faccessat(instance->image->directory_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}
