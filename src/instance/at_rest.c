/* SPDX-License-Identifier: MIT */
/* at_rest: what is done to an instance that has no VMM: it is made, configured and removed. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "hypervisor/disks.h"
#include "instance/config.h"
#include "instance/internal.h"
#include "store/notes.h"
#include "util/json.h"

int instances_create(struct instances *instances, const char *id, struct error *err)
{
    struct store_entry entry = {.fd = -1};
    struct instance *instance = NULL;
    store_await_room(instances->setup.store, 0);
    int r = instances_reserve(instances, id, NULL, &instance, err);
    if (r == 0)
        r = config_parse("{}", 2, &instance->machine, err);
    if (r == 0)
        r = store_entry_create(instances->setup.store, STORE_INSTANCES, &entry, err);
    if (r == 0)
        r = instance_make_logs(entry.fd, err);
    int fd = r == 0 ? fcntl(entry.fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (r == 0 && fd < 0)
        r = error_errno(err, errno, "cannot make the instance %s", id);
    if (r == 0)
        r = instance_set_directory(instance, fd, err);
    if (r == 0)
        r = instance_record(instance, err);
    if (r == 0)
        r = store_entry_publish(&entry, id, true, err);
    if (r == 0) {
        pthread_mutex_lock(&instances->lock);
        instance_publish(instance);
        instance_rest(instance);
        pthread_mutex_unlock(&instances->lock);
    }
    store_entry_discard(&entry);
    instance_abandon(instance);
    return r;
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
    if (instance->busy && !instance->recording)
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
    auto_lock(&instance->table->lock);
    return config_writable(instance, err);
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
    instance_await_record(instance);
    r = config_writable(instance, err);
    if (r == 0)
        r = disks_keep(&machine, &instance->machine, err);
    if (r == 0)
        r = instance_keep_entry(instance, err);
    if (r == 0) {
        instance->busy = true;
        swap_config(instance, &machine, &copy);
    }
    pthread_mutex_unlock(&table->lock);
    if (r == 0) {
        r = instance_record(instance, err);
        if (r == 0)
            disks_tidy(&instance->machine, instance->image->directory_fd);
        pthread_mutex_lock(&table->lock);
        if (r < 0)
            swap_config(instance, &machine, &copy);
        instance_release_owner(instance);
        pthread_mutex_unlock(&table->lock);
    }
    machine_finish(&machine);
    return r;
}

/* With the lock held: a VMM that maps the memory of the instance, which has none itself. */
static const struct instance *mapped_by(const struct instance *instance)
{
    const struct instance *other = instance_forks(instance->table, instance->uuid);
    for (; other; other = other->next_fork)
        if (other->vmm && other->loaded && strcmp(other->source.uuid, instance->uuid) == 0 &&
            instance_maps(other, instance->image->directory_fd))
            return other;
    return NULL;
}

/* With the lock held. */
static int removable(struct instance *instance, struct error *err)
{
    const struct instance *user;
    if (instance->removed)
        return error_set(err, ENODEV, "the instance %s is removed", instance->id);
    if (instance->busy || instance->ending)
        return instance_busy(instance, err);
    if (instance->vmm)
        return error_set(err, EBUSY, "the instance %s is %s: write stopped to its state first",
                         instance->id, instance_state_names[instance->state]);
    if ((user = instances_overlay_locked(instance->table, instance->uuid, &instance->machine)))
        return error_set(
            err, EBUSY, "the disks of %s are needed by those of its fork %s: remove the fork first",
            instance->id, user->id);
    if ((user = mapped_by(instance)))
        return error_set(err, EBUSY,
                         "the memory of %s is in use by its fork %s: stop the fork first, or put "
                         "it into standby",
                         instance->id, user->id);
    return 0;
}

/* With the lock held: nobody can put the directory back unseen between the look that missed it and
 * this one. */
static int check_vanished(const struct instance *instance, struct error *err)
{
    int r = store_entry_check(instance->table->setup.store, STORE_INSTANCES, instance->id,
                              instance->directory, err);
    if (r == -ENOENT)
        return 0;
    return r < 0 ? r
                 : error_set(err, EEXIST, "the directory of the instance %s is there again",
                             instance->id);
}

/* `ret_hidden` stays empty if others took the directory out of the store. */
static int remove_from_table(struct instance *instance, bool vanished,
                             char ret_hidden[STORE_HIDDEN_SIZE], struct error *err)
{
    struct instances *table = instance->table;
    auto_lock(&table->lock);
    instance_await_record(instance);
    int r = removable(instance, err);
    if (r == 0 && vanished)
        r = check_vanished(instance, err);
    else if (r == 0 && (r = store_unpublish(table->setup.store, STORE_INSTANCES, instance->id,
                                            instance->directory, ret_hidden, err)) == -ENOENT)
        r = 0;
    if (r == 0) {
        HASH_DEL(table->by_id, instance);
        instance_withdraw(instance);
        instance->removed = true;
        instance_notify(instance, INSTANCE_REMOVED, instance->state);
    }
    return r;
}

static int remove_instance(struct instance *instance, bool vanished, struct error *err)
{
    const struct instances_setup *setup = &instance->table->setup;
    struct error why;
    char hidden[STORE_HIDDEN_SIZE] = "";
    int r = remove_from_table(instance, vanished, hidden, err);
    if (r < 0)
        return r;
    store_notes_tidy(setup->store, STORE_INSTANCES); /* of its record */
    image_remove(instance->image);
    if (hidden[0] && store_erase(setup->store, STORE_INSTANCES, hidden, &why) < 0)
        instances_warn(instance->table, "%s", why.text);
    instance_unref(instance);
    return 0;
}

int instance_remove(struct instance *instance, struct error *err)
{
    return remove_instance(instance, false, err);
}

int instance_remove_vanished(struct instance *instance, struct error *err)
{
    return remove_instance(instance, true, err);
}
