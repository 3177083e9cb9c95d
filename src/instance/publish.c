/* SPDX-License-Identifier: MIT */
/* publish: a snapshot of an instance, for everybody to see or for one fork only. */
#include <errno.h>
#include <unistd.h>

#include "hypervisor/disks.h"
#include "instance/internal.h"
#include "util/directory.h"
#include "util/fault.h"
#include "util/json.h"

static cJSON *describe(struct instance *instance, const struct machine *machine)
{
    cJSON *json = cJSON_CreateObject();
    auto_lock(&instance->table->lock);
    json_add_string(json, "kind", "standby");
    json_add_string(json, "hypervisor", instance->machine.hypervisor->name);
    if (instance->machine.version)
        json_add_string(json, "hypervisor_version", instance->machine.version);
    json_add_number(json, "memory_bytes", (double)instance->machine.memory_bytes);
    json_add_string(json, "source_instance", instance->id);
    json_add(json, "machine", machine_to_json(machine));
    return json;
}

cJSON *instance_describe(struct instance *instance)
{
    return describe(instance, &instance->machine);
}

/* An image that is being taken. */
struct taking {
    struct instance *instance;
    bool for_fork, from_running;
    bool switched; /* the VM goes on in a VMM that was loaded from the image */
    cJSON *json;   /* described when the instance holds still */
    const struct store_entry *entry;
    char path[STORE_HIDDEN_SIZE + 32]; /* of the entry's directory, from where the VMM works */
    struct vmm_save save;
};

static int link_image(const struct instance *instance, int directory_fd, struct error *err)
{
    static const char *const names[] = {"memory", "state"};
    for (size_t i = 0; i < array_length(names); i++) {
        if (linkat(instance->image->directory_fd, names[i], directory_fd, names[i], 0) < 0)
            return error_errno(err, errno, "cannot link the instance's %s into the snapshot",
                               names[i]);
        fault_point(FAULT_LINKED);
    }
    int r = disks_link(&instance->machine, instance->image->directory_fd, directory_fd,
                       DISKS_OF_IMAGE, err);
    if (r < 0)
        return r;
    /* What was found in it when it was saved. If that cannot be had, the image is scanned again. */
    linkat(instance->image->directory_fd, "mailboxes.json", directory_fd, "mailboxes.json", 0);
    return 0;
}

/* An instance_work, of a VM that runs. */
static int prepare(struct instance *instance, void *context, struct error *err)
{
    struct taking *taking = context;
    return instance_prepare_image(instance, &taking->save, err);
}

static int write_copy(struct taking *taking, struct error *err)
{
    struct instance *instance = taking->instance;
    struct machine machine;
    taking->save.loaded = instance->loaded;
    int r = instance_write_image(instance, &taking->save, &machine, err);
    if (r < 0)
        return r;
    cJSON_Delete(taking->json);
    taking->json = describe(instance, &machine);
    r = disks_link(&machine, instance->image->directory_fd, taking->entry->fd, DISKS_OF_RUNNING,
                   err);
    disks_finish(&machine);
    return r;
}

/* An instance_work. */
static int take(struct instance *instance, void *context, struct error *err)
{
    struct taking *taking = context;
    if (instance->state != INSTANCE_STANDBY)
        return write_copy(taking, err);
    cJSON_Delete(taking->json);
    taking->json = instance_describe(instance);
    return link_image(instance, taking->entry->fd, err);
}

/* May its VM go on in another VMM, for which nothing that is open between it and the world breaks?
 * One that was loaded has written only to some of its memory, which is quickly copied. */
static bool may_switch(const struct instance *instance)
{
    const struct machine *machine = &instance->machine;
    const struct hypervisor *hypervisor = machine->hypervisor;
    const bool has_tap = machine->network == NETWORK_TAP;
    return instance->state == INSTANCE_RUNNING && !instance->loaded && !instance->cannot_switch &&
           hypervisor->shares_memory && !machine->vsock &&
           (machine->network == NETWORK_NONE || (has_tap && hypervisor->takes_taps)) &&
           !(hypervisor->copies_disks && disks_are_written(machine));
}

/* *ret_goes_on: it failed, and the VM goes on as before. What has failed once would fail again: the
 * memory of this VM is copied from now on. */
static int switch_vmm(struct taking *taking, double *ret_paused_ms, bool *ret_goes_on,
                      struct error *err)
{
    struct instance *instance = taking->instance;
    bool saved;
    taking->save.shared = true;
    int r = instance_switch(instance, take, taking->path, taking, ret_paused_ms, &saved, err);
    taking->save.shared = false;
    *ret_goes_on = r < 0 && r != -ECANCELED && r != -ESHUTDOWN && (saved || r == -EAGAIN);
    instance->cannot_switch = *ret_goes_on && saved && r != -EAGAIN; /* no user for it, just now */
    return r;
}

static int copy_memory(struct taking *taking, double *ret_paused_ms, struct error *err)
{
    return instance_copy(taking->instance, prepare, take, taking, ret_paused_ms, err);
}

/* Whoever finds no turn to load a VMM copies, rather than wait. */
static int switch_or_copy(struct taking *taking, struct instance_pause *ret, struct error *err)
{
    struct instance *instance = taking->instance;
    struct turns *turns = instance->table->setup.turns;
    struct error why = {0};
    double more_ms = 0;
    bool goes_on = false;
    if (!turns_try(turns))
        return copy_memory(taking, &ret->ms, err);
    int r = switch_vmm(taking, &ret->ms, &goes_on, &why);
    turns_release(turns);
    ret->switched = r == 0;
    if (r == 0)
        return 0;
    if (!goes_on)
        return error_set(err, -r, "%s", why.text);
    instances_warn(instance->table,
                   "%s cannot go on in another VMM, so its memory is copied to save it: %s",
                   instance->id, why.text);
    r = directory_empty(taking->entry->fd, err);
    if (r == 0)
        r = copy_memory(taking, &more_ms, err);
    ret->ms += more_ms;
    return r;
}

/* A VM that runs goes on when it is written; how long it stood still is told. */
static int take_image(struct taking *taking, struct error *err)
{
    struct instance *instance = taking->instance;
    const enum instance_state state = instance->state;
    struct instance_pause pause = {0};
    int r = taking->for_fork ? instance_check_fork(instance, taking->from_running, err) : 0;
    if (r == 0)
        r = may_switch(instance) ? switch_or_copy(taking, &pause, err)
                                 : copy_memory(taking, &pause.ms, err);
    if (r == 0 && state != INSTANCE_STANDBY)
        r = instance_dig_image(instance, taking->entry->fd, err);
    if (r < 0 || state != INSTANCE_RUNNING)
        return r;
    json_add(taking->json, "pause_ms", json_milliseconds(pause.ms));
    json_add_bool(taking->json, "switched", pause.switched);
    taking->switched = pause.switched;
    instances_warn(instance->table, "%s was paused for %.1f ms to be saved", instance->id,
                   pause.ms);
    auto_lock(&instance->table->lock);
    instance->last_pause = pause;
    return 0;
}

/* So that the store finds one, and does not scan the image. */
static int keep_list(const struct instance *instance, const struct instance_carried *carried,
                     int directory_fd, struct error *err)
{
    struct image_index *index;
    int r = instance_scan_saved(carried, directory_fd,
                                &instance->table->setup.snapshots->scans.stop, &index, err);
    if (r == 0)
        image_index_unref(index);
    return r;
}

/* A snapshot_fill. The instance is kept from changing only while its files are needed. */
static int fill(void *context, const struct store_entry *entry, struct error *err)
{
    struct taking *taking = context;
    struct instance *instance = taking->instance;
    int r = instance_begin(instance, taking->for_fork ? BEGIN_WAITING : BEGIN_OR_FAIL, err);
    if (r < 0)
        return r;
    auto_json cJSON *delivered = NULL;
    struct instance_carried carried;
    struct error why;
    taking->entry = entry;
    snprintf(taking->path, sizeof taking->path, "%s../../snapshots/%s",
             instance->has_run ? "../" : "", entry->name);
    taking->save.directory = taking->path;
    r = instance_carry_index(instance, &taking->save, &carried, err);
    if (r == 0)
        r = take_image(taking, err);
    delivered = instance_delivered(instance, taking->switched ? SAVED_AND_MAPPED : SAVED);
    instance_end(instance);
    if (r == 0)
        r = instance_finish_image(delivered, &carried, entry->fd, err);
    if (r == 0 && instance_is_carried(&carried) &&
        keep_list(instance, &carried, entry->fd, &why) < 0) {
        if (why.code == ESHUTDOWN)
            r = error_set(err, ESHUTDOWN, "%s", why.text);
        else /* the store finds the list, too */
            instances_warn(instance->table, "the image of %s is scanned later: %s", instance->id,
                           why.text);
    }
    instance_finish_carried(&carried);
    return r;
}

/* What the VM runs on is scanned when it runs on it already. If that takes long, the next save
 * scans all of what it makes. */
static void know_base(const struct taking *taking, struct snapshot *snapshot)
{
    struct instance *instance = taking->instance;
    struct image_index *index;
    if (!taking->switched || !snapshot || image_index(snapshot->image, &index, NULL) < 0)
        return;
    pthread_mutex_lock(&instance->table->lock);
    if (instance->loaded && !instance->base_index)
        instance_set_base_index(instance, index);
    pthread_mutex_unlock(&instance->table->lock);
    image_index_unref(index);
}

int instance_snapshot(struct instance *instance, const char *id, struct error *err)
{
    struct taking taking = {.instance = instance};
    int r =
        snapshots_publish(instance->table->setup.snapshots, id, &taking.json, fill, &taking, err);
    struct snapshot *snapshot =
        r == 0 && taking.switched ? snapshots_find(instance->table->setup.snapshots, id) : NULL;
    know_base(&taking, snapshot);
    snapshot_unref(snapshot);
    cJSON_Delete(taking.json);
    return r;
}

int instance_check_fork(struct instance *instance, bool from_running, struct error *err)
{
    enum instance_state state = instance_state(instance);
    if (state == INSTANCE_STANDBY)
        return 0;
    if (state == INSTANCE_WAITING)
        return error_set(
            err, EBUSY,
            "the instance %s is a fork that waits for its ack: wait until that has come",
            instance->id);
    if (state != INSTANCE_RUNNING && state != INSTANCE_PAUSED)
        return error_set(err, EOPNOTSUPP,
                         "the instance %s is %s, and has no memory to fork from: write running to "
                         "its state first",
                         instance->id, instance_state_names[state]);
    if (!from_running)
        return error_set(err, EOPNOTSUPP,
                         "the instance %s is %s: write {\"from_running\": true} to options to have "
                         "it paused for a copy of its memory, or standby to its state",
                         instance->id, instance_state_names[state]);
    return 0;
}

int instance_snapshot_private(struct instance *instance, bool from_running,
                              struct store_entry *entry, struct snapshot **ret, struct error *err)
{
    struct taking taking = {.instance = instance, .for_fork = true, .from_running = from_running};
    int r = snapshots_make_private(instance->table->setup.snapshots, &taking.json, fill, &taking,
                                   entry, ret, err);
    if (r == 0)
        know_base(&taking, *ret);
    cJSON_Delete(taking.json);
    return r;
}
