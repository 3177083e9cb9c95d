/* SPDX-License-Identifier: MIT */
/*
 * forks: how a fork becomes an instance: when its commit has succeeded, or in two steps, if an ack
 * may be waited for for long. Then it is shown first, as waiting, by this table alone: in the store
 * it stays hidden until it is published, and so, when the daemon is killed, a leftover.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "instance/internal.h"
#include "util/fault.h"
#include "util/json.h"

/* Its directory, with its logs, and its source. */
static int furnish(struct instance *instance, const struct instance_fork *fork, struct error *err)
{
    int fd = fcntl(fork->entry->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return error_errno(err, errno, "cannot publish the fork %s", instance->id);
    int r = instance_set_directory(instance, fd, err);
    if (r < 0)
        return r;
    instance->source = fork->source;
    r = instance_make_logs(fd, err);
    return r == 0 && *fork->vmm ? instance_begin_unsynced(instance, err) : r;
}

/* With the lock held. */
static void set_vm(struct instance *instance, const struct instance_fork *fork)
{
    instance->machine = *fork->machine;
    instance->vmm = *fork->vmm;
    instance->loaded = *fork->vmm != NULL;
    instance_set_base_index(instance, *fork->vmm ? fork->index : NULL);
}

int instance_show_fork(struct instance *instance, const struct instance_fork *fork,
                       struct error *err)
{
    struct instances *table = instance->table;
    auto_close int cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (cancel_fd < 0)
        return error_errno(err, errno, "cannot make an event descriptor");
    int r = furnish(instance, fork, err);
    const struct instance_next next = {INSTANCE_WAITING, fork->machine, *fork->vmm, true,
                                       INTENT_NONE};
    if (r == 0)
        r = instance_record_as(instance, &next, err);
    if (r < 0)
        return r;
    fault_point(FAULT_SHOWN);
    pthread_mutex_lock(&table->lock);
    set_vm(instance, fork);
    instance->state = INSTANCE_WAITING;
    instance->busy = true;
    instance->cancel_fd = steal_fd(&cancel_fd);
    instance_publish(instance);
    pthread_mutex_unlock(&table->lock);
    table->setup.on_change(table->setup.context, instance->id);
    return 0;
}

bool instance_withdraw_fork(struct instance *instance, struct machine *machine)
{
    if (!instance)
        return false;
    auto_lock(&instance->table->lock);
    if (instance->state != INSTANCE_WAITING)
        return false;
    instance_withdraw(instance);
    instance->vmm = NULL;
    *machine = (struct machine){0};
    instance_notify(instance, INSTANCE_REMOVED, instance->state);
    return true;
}

/* All that can fail: nobody sees it yet, or it is waiting. */
static int put_on_record(struct instance *instance, struct instance_fork *fork, struct error *err)
{
    const struct instance_next next = {*fork->vmm ? INSTANCE_RUNNING : INSTANCE_STANDBY,
                                       fork->machine, *fork->vmm, *fork->vmm != NULL, INTENT_NONE};
    int r = instance->state == INSTANCE_WAITING ? 0 : furnish(instance, fork, err);
    if (r < 0)
        return r;
    if (*fork->vmm)
        machine_settle(fork->machine);
    r = (*fork->vmm ? store_cache_json : store_stage_json)(fork->entry->fd, "fork.json",
                                                           *fork->record, err);
    if (r == 0)
        r = instance_record_as(instance, &next, err);
    return r == 0 ? store_entry_publish(fork->entry, instance->id, !*fork->vmm, err) : r;
}

int instance_publish_fork(struct instance *instance, struct instance_fork *fork, struct error *err)
{
    struct instances *table = instance->table;
    bool waited = instance->state == INSTANCE_WAITING;
    struct error why = {0};
    int r = put_on_record(instance, fork, err);
    if (r < 0)
        return r;
    if (!*fork->vmm)
        instance_release_taps(instance); /* taken again when it runs */
    pthread_mutex_lock(&table->lock);
    set_vm(instance, fork);
    instance->mapped = fork->mapped ? snapshot_ref(fork->mapped) : NULL;
    instance->fork = *fork->record;
    /* In one step: the end of its VMM is told once, and must find it idle. */
    r = instance->vmm ? instance_watch(instance, &why) : 0;
    instance->state = instance->vmm ? INSTANCE_RUNNING : INSTANCE_STANDBY;
    if (waited)
        instance_notify(instance, INSTANCE_STATE, INSTANCE_WAITING);
    else
        instance_publish(instance);
    instance_release_owner(instance);
    pthread_mutex_unlock(&table->lock);
    *fork->vmm = NULL;
    *fork->machine = (struct machine){0};
    *fork->record = NULL;
    if (r < 0)
        instances_warn(table, "%s", why.text);
    if (waited)
        table->setup.on_change(table->setup.context, instance->id);
    return 0;
}

bool instance_describe_unfinished(enum store_kind kind, int directory_fd, struct error *ret)
{
    auto_json cJSON *json = NULL;
    if (kind != STORE_INSTANCES || store_read_json(directory_fd, "instance.json", &json, NULL) < 0)
        return false;
    const char *id = json_get_text(json, "id");
    const char *state = json_get_text(json, "state");
    if (!id || !state || !store_id_valid(id))
        return false;
    bool waiting = strcmp(state, instance_state_names[INSTANCE_WAITING]) == 0;
    error_set(ret, ECANCELED, "the instance %s %s when the previous daemon ended: it was destroyed",
              id, waiting ? "waited for its ack" : "was being made");
    return true;
}
