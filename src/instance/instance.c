/* SPDX-License-Identifier: MIT */
#include "instance/instance.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>

#include "hypervisor/disks.h"
#include "instance/config.h"
#include "instance/internal.h"
#include "store/notes.h"
#include "util/cleanup.h"
#include "util/json.h"

const char *const instance_state_names[INSTANCE_STATES + 1] = {
    "created", "running", "paused", "standby", "stopped", "waiting", NULL};

struct instance *instance_create(struct instances *table, const char *id)
{
    struct instance *instance = calloc(1, sizeof *instance);
    if (!instance)
        return NULL;
    instance->table = table;
    instance->references = 1;
    instance->cancel_fd = -1;
    strncpy(instance->id, id, sizeof instance->id - 1);
    store_time_now(instance->created_at);
    store_random_hex(instance->uuid, 16);
    return instance;
}

void instance_tell(const struct instance *instance, enum instance_happening what,
                   enum instance_state from)
{
    const struct instances_setup *setup = &instance->table->setup;
    if (setup->happened)
        setup->happened(setup->listener, instance, what, from);
}

int instance_set_directory(struct instance *instance, int fd, struct error *err)
{
    return image_create(fd, "instances", instance->id, &instance->table->setup.snapshots->scans,
                        &instance->image, err);
}

static void instance_free(struct instance *instance)
{
    image_unref(instance->image);
    if (instance->mapped) {
        snapshot_leave(instance->mapped);
        snapshot_unref(instance->mapped);
    }
    vmm_close(instance->vmm);
    machine_finish(&instance->machine);
    cJSON_Delete(instance->fork);
    free(instance->config);
    free(instance);
}

/* With the lock held. The id is free. */
static int insert(struct instance *instance, struct error *err)
{
    instance->serial = ++instance->table->last_serial;
    HASH_ADD_STR(instance->table->by_id, id, instance);
    if (!instance->hh.tbl)
        return error_set(err, ENOMEM, "out of memory");
    instance->references++;
    return 0;
}

int instance_insert(struct instance *instance, struct error *err)
{
    pthread_mutex_lock(&instance->table->lock);
    int r = insert(instance, err);
    pthread_mutex_unlock(&instance->table->lock);
    return r;
}

struct instance *instances_find(struct instances *instances, const char *id)
{
    pthread_mutex_lock(&instances->lock);
    struct instance *instance;
    HASH_FIND_STR(instances->by_id, id, instance);
    if (instance && instance->published)
        instance->references++;
    else
        instance = NULL;
    pthread_mutex_unlock(&instances->lock);
    return instance;
}

struct instance *instance_ref(struct instance *instance)
{
    pthread_mutex_lock(&instance->table->lock);
    instance->references++;
    pthread_mutex_unlock(&instance->table->lock);
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

static struct snapshot_name *list(struct instances *instances, const char *source_uuid,
                                  size_t *ret_count)
{
    pthread_mutex_lock(&instances->lock);
    struct snapshot_name *names = calloc(HASH_COUNT(instances->by_id) + 1, sizeof *names);
    size_t count = 0;
    for (struct instance *i = instances->by_id; i && names; i = i->hh.next) {
        if (!i->published || (source_uuid && strcmp(i->source_uuid, source_uuid) != 0))
            continue;
        memcpy(names[count].id, i->id, sizeof i->id);
        names[count++].serial = i->serial;
    }
    pthread_mutex_unlock(&instances->lock);
    *ret_count = count;
    return names;
}

struct snapshot_name *instances_list(struct instances *instances, size_t *ret_count)
{
    return list(instances, NULL, ret_count);
}

struct snapshot_name *instances_forks(struct instances *instances, const char *uuid,
                                      size_t *ret_count)
{
    return list(instances, uuid, ret_count);
}

/* With the lock held. */
static int take(struct instance *instance, const struct machine *machine, struct error *err)
{
    struct instance *other;
    HASH_FIND_STR(instance->table->by_id, instance->id, other);
    if (other)
        return error_set(err, EEXIST, "there is an instance %s already", instance->id);
    int r = machine ? instance_take_taps_locked(instance, machine, err) : 0;
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
        instance_let_go(instance);
    }
    pthread_mutex_unlock(&instance->table->lock);
    if (reserved)
        instance_unref(instance);
    instance_unref(instance);
}

void instance_publish(struct instance *instance)
{
    instance->published = true;
    instance_tell(instance, INSTANCE_MADE, instance->state);
    pthread_cond_broadcast(&instance->table->idle);
    store_notes_remove(instance->table->setup.store->notes, STORE_INSTANCES, instance->id);
}

int instance_make_logs(int directory_fd, struct error *err)
{
    for (size_t i = 0; i < INSTANCE_LOGS; i++) {
        const char *name = instance_logs[i].name;
        auto_close int fd = openat(directory_fd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0)
            return error_errno(err, errno, "cannot make %s in the store", name);
    }
    return 0;
}

int instances_create(struct instances *instances, const char *id, struct error *err)
{
    struct store_entry entry = {.fd = -1};
    struct instance *instance = NULL;
    int r = instances_reserve(instances, id, NULL, &instance, err);
    if (r == 0)
        r = config_parse("{}", 2, &instance->machine, err);
    if (r == 0)
        r = store_entry_create(instances->setup.store, STORE_INSTANCES, &entry, err);
    if (r == 0)
        r = instance_make_logs(entry.fd, err);
    if (r == 0)
        r = instance_save(instance, entry.fd, err);
    int fd = r == 0 ? fcntl(entry.fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (r == 0 && fd < 0)
        r = error_errno(err, errno, "cannot make the instance %s", id);
    if (r == 0)
        r = instance_set_directory(instance, fd, err);
    if (r == 0)
        r = store_entry_publish(&entry, id, err);
    if (r == 0) {
        pthread_mutex_lock(&instances->lock);
        instance_publish(instance);
        pthread_mutex_unlock(&instances->lock);
    }
    store_entry_discard(&entry);
    instance_abandon(instance);
    return r;
}

struct vmm_context instances_context(const struct instances *instances,
                                     const struct hypervisor *hypervisor, int directory_fd,
                                     int cancel_fd)
{
    const struct instances_setup *setup = &instances->setup;
    const char *binary = NULL;
    for (size_t i = 0; i < setup->binary_count; i++)
        if (strcmp(setup->binaries[i].hypervisor, hypervisor->name) == 0)
            binary = setup->binaries[i].path;
    return (struct vmm_context){.binary = binary,
                                .programs = setup->programs,
                                .directory_fd = directory_fd,
                                .cancel_fd = cancel_fd};
}

struct vmm_context instance_context(const struct instance *instance,
                                    const struct hypervisor *hypervisor, int directory_fd,
                                    int cancel_fd)
{
    struct vmm_context context =
        instances_context(instance->table, hypervisor, directory_fd, cancel_fd);
    context.id = instance->id;
    return context;
}

char *instance_config(struct instance *instance)
{
    pthread_mutex_lock(&instance->table->lock);
    char *text = instance->config ? strdup(instance->config) : NULL;
    auto_json cJSON *json = text ? NULL : config_to_json(&instance->machine);
    pthread_mutex_unlock(&instance->table->lock);
    return text ? text : json_print(json);
}

/* With the lock held. */
static int config_writable(const struct instance *instance, struct error *err)
{
    if (instance->removed)
        return error_set(err, ENODEV, "the instance %s is removed", instance->id);
    if (instance->busy && !instance->settling)
        return instance_busy(instance, err);
    if (instance->state != INSTANCE_CREATED && instance->state != INSTANCE_STOPPED)
        return error_set(err, EBUSY,
                         "config cannot be changed while the instance is %s: write stopped to "
                         "state first",
                         instance_state_names[instance->state]);
    return 0;
}

int instance_check_config_writable(struct instance *instance, struct error *err)
{
    pthread_mutex_lock(&instance->table->lock);
    int r = config_writable(instance, err);
    pthread_mutex_unlock(&instance->table->lock);
    return r;
}

/* With the lock held. What was there goes to where the new came from. */
static void swap_config(struct instance *instance, struct machine *machine, char **text)
{
    struct machine old_machine = instance->machine;
    char *old_text = instance->config;
    instance->machine = *machine;
    instance->config = *text;
    *machine = old_machine;
    *text = old_text;
}

int instance_set_config(struct instance *instance, const char *text, size_t size, struct error *err)
{
    struct instances *table = instance->table;
    struct machine machine = {0};
    auto_free char *copy = strndup(text, size);
    int r =
        copy ? config_parse(text, size, &machine, err) : error_set(err, ENOMEM, "out of memory");
    if (r < 0)
        return r;
    pthread_mutex_lock(&table->lock);
    instance_settle(instance);
    r = config_writable(instance, err);
    if (r == 0)
        r = disks_keep(&machine, &instance->machine, err);
    if (r == 0) {
        instance->busy = true;
        swap_config(instance, &machine, &copy);
    }
    pthread_mutex_unlock(&table->lock);
    if (r == 0) {
        r = instance_save(instance, instance->image->directory_fd, err);
        if (r == 0)
            disks_tidy(&instance->machine, instance->image->directory_fd);
        pthread_mutex_lock(&table->lock);
        if (r < 0)
            swap_config(instance, &machine, &copy);
        instance->busy = false;
        pthread_cond_broadcast(&table->idle);
        pthread_mutex_unlock(&table->lock);
    }
    machine_finish(&machine);
    return r;
}

enum instance_state instance_state(struct instance *instance)
{
    pthread_mutex_lock(&instance->table->lock);
    enum instance_state state = instance->state;
    pthread_mutex_unlock(&instance->table->lock);
    return state;
}

bool instance_is_standby(struct instance *instance)
{
    return instance_state(instance) == INSTANCE_STANDBY;
}

/* With the lock held: a VMM that maps the memory of the instance, which has none itself. */
static const struct instance *mapped_by(const struct instance *instance)
{
    for (const struct instance *other = instance->table->by_id; other; other = other->hh.next)
        if (other->published && other->vmm && other->loaded &&
            strcmp(other->source_uuid, instance->uuid) == 0 &&
            instance_shares_file(other, "base", instance->image->directory_fd, "memory"))
            return other;
    return NULL;
}

int instance_remove(struct instance *instance, struct error *err)
{
    struct instances *table = instance->table;
    const struct instance *user;
    struct error why;
    char hidden[32] = ""; /* of none: others took it out of the store, and there is nothing left */
    int r = 0;
    pthread_mutex_lock(&table->lock);
    instance_settle(instance);
    if (instance->removed)
        r = error_set(err, ENODEV, "the instance %s is removed", instance->id);
    else if (instance->busy)
        r = instance_busy(instance, err);
    else if (instance->vmm)
        r = error_set(err, EBUSY, "the instance %s is %s: write stopped to its state first",
                      instance->id, instance_state_names[instance->state]);
    else if ((user = instances_overlay_locked(table, instance->uuid, &instance->machine)))
        r = error_set(err, EBUSY,
                      "the disks of %s lie below those of its fork %s: remove that first",
                      instance->id, user->id);
    else if ((user = mapped_by(instance)))
        r = error_set(err, EBUSY,
                      "the memory of %s is in use by its fork %s: stop that first, or put it into "
                      "standby",
                      instance->id, user->id);
    else if ((r = store_unpublish(table->setup.store, STORE_INSTANCES, instance->id, hidden,
                                  err)) == -ENOENT)
        r = 0;
    if (r == 0) {
        HASH_DEL(table->by_id, instance);
        instance->removed = true;
        instance_tell(instance, INSTANCE_REMOVED, instance->state);
    }
    pthread_mutex_unlock(&table->lock);
    if (r < 0)
        return r;
    store_notes_tidy(table->setup.store, STORE_INSTANCES); /* of its record */
    image_remove(instance->image);
    if (hidden[0] && store_erase(table->setup.store, STORE_INSTANCES, hidden, &why) < 0)
        table->setup.complain(table->setup.context, why.text);
    instance_unref(instance);
    return 0;
}
