/* SPDX-License-Identifier: MIT */
/* steps: what the transitions do to the VMM and its files. Each is run by the owner of the
 * instance, without the lock, and either arrives or leaves all as it was. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "hypervisor/disks.h"
#include "instance/config.h"
#include "instance/internal.h"
#include "util/cleanup.h"
#include "util/fault.h"

static int nothing_to_boot(const struct instance *instance, struct error *err)
{
    if (instance->source[0])
        return error_set(err, EOPNOTSUPP,
                         "this fork has nothing to boot from: give its config a \"kernel\"");
    return error_set(err, EINVAL,
                     "nothing to boot: write {\"kernel\":\"/path\", …} to config first");
}

/* As the config says: what is known of a machine that ran, or of a snapshot's, tells no kernel. */
static int machine_to_boot(const struct instance *instance, struct machine *ret, struct error *err)
{
    struct machine machine;
    if (!instance->config)
        return nothing_to_boot(instance, err);
    int r = config_parse(instance->config, strlen(instance->config), &machine, err);
    if (r < 0)
        return r;
    r = machine.kernel ? disks_keep(&machine, &instance->machine, err)
                       : nothing_to_boot(instance, err);
    if (r < 0)
        machine_finish(&machine);
    else
        *ret = machine;
    return r;
}

/* A VMM that is on no record is ended by the next start of the daemon: then rather at once. */
static int boot_on_record(struct instance *instance, struct machine *machine, struct vmm **ret,
                          struct error *err)
{
    struct vmm_context context = instance_context(
        instance, machine->hypervisor, instance->image->directory_fd, instance->cancel_fd);
    struct vmm *vmm;
    int r = vmm_boot(&context, machine, &vmm, err);
    if (r < 0) {
        instance_drop_image(instance); /* its memory, if there was any yet */
        return r;
    }
    vmm_release(vmm);
    const struct instance_next next = {INSTANCE_RUNNING, machine, vmm, false, INTENT_NONE};
    r = instance_record_as(instance, &next, err);
    if (r < 0) {
        vmm_stop(vmm, NULL);
        vmm_close(vmm);
        instance_drop_socket(instance, machine->hypervisor);
        instance_drop_image(instance);
        return error_prefix(err, r, "the VM's record cannot be written, so the VM was ended again");
    }
    *ret = vmm;
    return 0;
}

int instance_boot(struct instance *instance, struct error *err)
{
    struct machine machine;
    struct vmm *vmm = NULL;
    int r = machine_to_boot(instance, &machine, err);
    if (r < 0)
        return r;
    r = instance_take_taps(instance, &machine, err);
    if (r == 0)
        r = instance_take_disks(instance, &machine, err);
    if (r == 0)
        r = boot_on_record(instance, &machine, &vmm, err);
    if (r < 0) {
        instance_drop_taps(instance);
        instance_drop_disks(instance);
        machine_finish(&machine);
        return r;
    }
    pthread_mutex_lock(&instance->table->lock);
    struct machine old = instance->machine;
    instance->machine = machine;
    instance->vmm = vmm;
    instance->loaded = false;
    instance->exit = (struct vmm_exit){0};
    instance_reach(instance, INSTANCE_RUNNING);
    pthread_mutex_unlock(&instance->table->lock);
    machine_finish(&old);
    return 0;
}

void instance_forget_vmm(struct instance *instance)
{
    struct vmm_exit exit;
    vmm_reap(instance->vmm, &exit);
    instance_note_disks(instance);
    pthread_mutex_lock(&instance->table->lock);
    struct vmm *vmm = steal_pointer(instance->vmm);
    struct snapshot *mapped = steal_pointer(instance->mapped);
    instance->loaded = false;
    instance->exit = exit;
    store_time_now(instance->exit_at);
    pthread_mutex_unlock(&instance->table->lock);
    instance_drop_taps(instance);
    instance_drop_disks(instance);
    instance_drop_socket(instance, vmm->hypervisor);
    vmm_close(vmm);
    if (mapped) {
        snapshot_leave(mapped);
        snapshot_unref(mapped);
    }
}

void instance_drop_socket(struct instance *instance, const struct hypervisor *hypervisor)
{
    hypervisor_drop_sockets(hypervisor, instance->image->directory_fd);
}

/* ---- holding ---- */

bool instance_must_go_on(const struct instance *instance)
{
    return instance->vmm && instance->state == INSTANCE_RUNNING && instance->intent != INTENT_NONE;
}

/* Whoever is to be stopped need not go on; who is left behind by the daemon must. */
static int cancel_of_going_on(struct instance *instance)
{
    pthread_mutex_lock(&instance->table->lock);
    int fd = instance->table->stopping ? -1 : instance->cancel_fd;
    pthread_mutex_unlock(&instance->table->lock);
    return fd;
}

int instance_go_on_until(struct instance *instance, int cancel_fd, struct error *err)
{
    struct vmm_context context = instance_own_context(instance);
    context.cancel_fd = cancel_fd;
    int r = vmm_resume(&context, instance->vmm, err);
    vmm_release(instance->vmm);
    if (r < 0)
        return r;
    instance_set_intent(instance, INTENT_NONE);
    return 0;
}

int instance_go_on(struct instance *instance, struct error *err)
{
    return instance_go_on_until(instance, cancel_of_going_on(instance), err);
}

/* A failure that is told with that of the VM's going on, which counts for more. */
static int went_on(int r, struct error *why, int resumed, const struct error *resume_error,
                   struct error *err)
{
    if (r == 0 && resumed < 0)
        return error_set(err, resume_error->code, "the VM does not go on: %s", resume_error->text);
    if (resumed < 0)
        error_append(why, "; and the VM does not go on: %s", resume_error->text);
    if (r < 0 && err)
        *err = *why;
    return r;
}

/* On record first: whoever finds it there lets the VM go on. */
static int intend(struct instance *instance, enum instance_intent intent, const struct vmm *vmm,
                  bool loaded, struct error *err)
{
    const struct instance_next next = {INSTANCE_RUNNING, &instance->machine, vmm, loaded, intent};
    int r = instance_record_as(instance, &next, err);
    if (r == 0)
        instance_set_intent(instance, intent);
    return r;
}

int instance_hold_and(struct instance *instance, enum instance_intent intent, held *work,
                      void *context, struct error *err)
{
    struct vmm_context vmm_context = instance_own_context(instance);
    struct error why = {0}, resume_error = {0};
    if (instance->state == INSTANCE_PAUSED) {
        int done = work(instance, context, err);
        if (done == HELD_ENDED)
            return 0;
        vmm_release(instance->vmm);
        return done;
    }
    int r = intend(instance, intent, instance->vmm, instance->loaded, err);
    if (r < 0)
        return r;
    r = vmm_pause(&vmm_context, instance->vmm, &why);
    if (r == 0)
        r = work(instance, context, &why);
    if (r == HELD_ENDED)
        return 0;
    return went_on(r, &why, instance_go_on(instance, &resume_error), &resume_error, err);
}

/* ---- pausing ---- */

static int record_as(struct instance *instance, enum instance_state state, struct error *err)
{
    const struct instance_next next = {state, &instance->machine, instance->vmm, instance->loaded,
                                       INTENT_NONE};
    return instance_record_as(instance, &next, err);
}

static int stay_paused(struct instance *instance, void *context, struct error *err)
{
    (void)context;
    int r = record_as(instance, INSTANCE_PAUSED, err);
    if (r < 0)
        return r;
    vmm_release(instance->vmm);
    instance_set_state(instance, INSTANCE_PAUSED);
    return HELD_ENDED;
}

int instance_pause(struct instance *instance, struct error *err)
{
    return instance_hold_and(instance, INTENT_PAUSE, stay_paused, NULL, err);
}

/* A VMM may have done what it then did not answer. */
static int pause_again(struct instance *instance, int r, struct error *err)
{
    struct vmm_context context = instance_own_context(instance);
    struct error why;
    if (r != -ECANCELED && vmm_pause(&context, instance->vmm, &why) < 0)
        error_append(err, "; and it is not known whether the VM runs: %s", why.text);
    vmm_release(instance->vmm);
    return r;
}

int instance_unpause(struct instance *instance, struct error *err)
{
    int r = intend(instance, INTENT_RESUME, instance->vmm, instance->loaded, err);
    if (r == 0 && (r = instance_go_on(instance, err)) < 0)
        r = pause_again(instance, r, err);
    if (r == 0)
        instance_set_state(instance, INSTANCE_RUNNING);
    else
        instance_set_intent(instance, INTENT_NONE); /* on record at the end */
    return r;
}

/* ---- standby, and back ---- */

/* A VMM that shared the image may have touched it still when it ended: then it is scanned again. */
static int end_saved(struct instance *instance, const struct image_index *index, struct error *err)
{
    struct image_index *last;
    int r = vmm_stop(instance->vmm, err);
    if (r < 0 || image_is(instance->image->directory_fd, index))
        return r;
    struct error why;
    if (image_scan(instance->image->directory_fd, NULL, &last, &why) == 0)
        image_index_unref(last);
    return 0; /* else `info` says it: the VM is gone */
}

/* From the record on the image counts, and what is left of the VMM does not. */
static int record_and_end(struct instance *instance, const struct machine *saved,
                          const struct image_index *index, struct error *err)
{
    const struct instance_next next = {INSTANCE_STANDBY, saved, NULL, false, INTENT_NONE};
    int r = instance_record_as(instance, &next, err);
    if (r == 0)
        r = end_saved(instance, index, err);
    if (r < 0) /* before its image goes; and a record that did not get to the disk is there, too */
        instance_record(instance, NULL);
    return r;
}

/* Everything that can fail is done while the VM could still go on. */
static int save(struct instance *instance, struct machine *ret, struct error *err)
{
    const int directory_fd = instance->image->directory_fd;
    struct machine machine;
    struct image_index *index = NULL;
    int r = instance_write_image(instance, ".", &machine, err);
    if (r < 0)
        return r;
    r = instance_finish_image(instance_delivered(instance), directory_fd, err);
    if (r == 0)
        r = image_scan(directory_fd, &instance->cancelled, &index, err);
    if (r == 0)
        r = record_and_end(instance, &machine, index, err);
    image_index_unref(index);
    if (r < 0) {
        disks_finish(&machine);
        return r;
    }
    disks_renew_keys(&machine, &instance->machine, instance->vmm); /* on record at the end */
    *ret = machine;
    return 0;
}

static int save_and_end(struct instance *instance, void *context, struct error *err)
{
    struct machine saved;
    (void)context;
    int r = save(instance, &saved, err);
    if (r < 0) {
        instance_drop_saved(instance);
        return r;
    }
    instance_swap_disks(instance, &saved);
    disks_finish(&saved);
    instance_forget_vmm(instance);
    instance_drop_file(instance, "base");
    pthread_mutex_lock(&instance->table->lock);
    instance->exit = (struct vmm_exit){0};
    instance_reach(instance, INSTANCE_STANDBY);
    pthread_mutex_unlock(&instance->table->lock);
    return HELD_ENDED;
}

int instance_standby(struct instance *instance, struct error *err)
{
    return instance_hold_and(instance, INTENT_STANDBY, save_and_end, NULL, err);
}

/* The VMM is loaded, and paused. From the record on it counts. */
static int restore_on_record(struct instance *instance, struct vmm *vmm, struct error *err)
{
    struct vmm_context context = instance_own_context(instance);
    int r = intend(instance, INTENT_RESTORE, vmm, true, err);
    if (r == 0)
        r = vmm_resume(&context, vmm, err);
    vmm_release(vmm);
    return r;
}

/* That it is the one that was saved. */
static int check_image(struct instance *instance, struct error *err)
{
    struct image_index *index = NULL;
    int r = image_index_wait(instance->image, &instance->cancelled, &index, err);
    image_index_unref(index);
    return r;
}

static int load_own(struct instance *instance, struct vmm **ret, struct error *err)
{
    const int directory_fd = instance->image->directory_fd;
    struct vmm_context context = instance_own_context(instance);
    char path[STORE_ID_MAX + 8];
    snprintf(path, sizeof path, "../%s", instance->id);
    instance_drop_file(instance, "base");
    int r = check_image(instance, err);
    if (r < 0)
        return r;
    if (linkat(directory_fd, "memory", directory_fd, "base", 0) < 0)
        return error_io(err, errno, "cannot link the memory image as base");
    fault_point(FAULT_LINKED);
    return vmm_load(&context, &instance->machine, path, ret, err);
}

int instance_restore(struct instance *instance, struct error *err)
{
    struct vmm *vmm = NULL;
    int r = instance_take_taps(instance, &instance->machine, err);
    if (r < 0)
        return r;
    r = load_own(instance, &vmm, err);
    if (r == 0)
        r = restore_on_record(instance, vmm, err);
    if (r < 0) {
        if (vmm)
            vmm_stop(vmm, NULL);
        vmm_close(vmm);
        instance_drop_socket(instance, instance->machine.hypervisor);
        instance_drop_taps(instance);
        instance_drop_file(instance, "base");
        instance_set_intent(instance, INTENT_NONE); /* on record at the end */
        disks_drop_tops(&instance->machine, instance->image->directory_fd);
        return r;
    }
    pthread_mutex_lock(&instance->table->lock);
    machine_settle_taps(&instance->machine);
    instance->vmm = vmm;
    instance->loaded = true;
    instance_reach(instance, INSTANCE_RUNNING);
    pthread_mutex_unlock(&instance->table->lock);
    instance_drop_saved(instance);
    return 0;
}

/* ---- stopping ---- */

/* On record before the image goes: a record of standby must not outlive its image. Only a disk that
 * is full does not count, for dropping the image is what makes room on it. */
static int record_stop(struct instance *instance, struct error *err)
{
    const struct instance_next next = {.state = INSTANCE_STOPPED, .machine = &instance->machine};
    int r = instance_record_as(instance, &next, err);
    return r == -ENOSPC || r == -EDQUOT ? 0 : r;
}

int instance_end_vmm(struct instance *instance, struct error *err)
{
    int r = instance->vmm ? vmm_stop(instance->vmm, err) : record_stop(instance, err);
    if (r < 0)
        return r;
    if (instance->vmm)
        instance_forget_vmm(instance);
    instance_set_state(instance, INSTANCE_STOPPED);
    instance_drop_image(instance);
    return 0;
}
