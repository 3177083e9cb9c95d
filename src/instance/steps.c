/* SPDX-License-Identifier: MIT */
/* steps: what the transitions do to the VMM and its files, and how each step is undone. All are run
 * by the owner of the instance, without the lock. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>

#include "hypervisor/disks.h"
#include "instance/config.h"
#include "instance/internal.h"
#include "util/json.h"
#include "util/fault.h"
#include "util/process.h"

/* A VM stands still for its successor's answers: what takes longer is given up. */
enum { BESIDE_MS = 10000 };

static bool is_cancelled(void *context)
{
    return atomic_load(&((struct instance *)context)->cancelled);
}

/* A VMM that is to start or load waits for its turn. */
static int take_turn(struct transit *transit, struct error *err)
{
    const struct turns_caller caller = {.is_over = is_cancelled,
                                        .context = transit->instance,
                                        .user = transit->user,
                                        .source = transit->instance->uuid};
    int r = turns_acquire(transit->instance->table->setup.turns, &caller);
    transit->has_turn = r == 0;
    /* Those before it may have taken it. */
    return r < 0 ? error_set(err, -r, "cancelled")
                 : limits_check_memory(&transit->instance->table->setup.limits, err);
}

/* Before it waits for that, so that whoever asks knows at once. */
static int check_limits(struct transit *transit, struct error *err)
{
    struct instance *instance = transit->instance;
    int r = limits_check_memory(&instance->table->setup.limits, err);
    return r == 0 ? instance_acquire_vm(instance, err) : r;
}

static void release_vm(struct transit *transit)
{
    instance_release_vm(transit->instance);
}

/* ---- booting ---- */

static int nothing_to_boot(const struct instance *instance, struct error *err)
{
    if (instance->source.id[0])
        return error_set(err, EOPNOTSUPP,
                         "this fork has nothing to boot from: give its config a \"kernel\"");
    return error_set(err, EINVAL,
                     "nothing to boot: write {\"kernel\":\"/path\", …} to config first");
}

/* As the config says: what is known of a machine that ran, or of a snapshot's, tells no kernel. */
static int read_config(struct transit *transit, struct error *err)
{
    const struct instance *instance = transit->instance;
    struct machine machine;
    if (!instance->config)
        return nothing_to_boot(instance, err);
    int r = config_parse(instance->config, strlen(instance->config), &machine, err);
    if (r < 0)
        return r;
    r = machine.kernel ? disks_keep(&machine, &instance->machine, err)
                       : nothing_to_boot(instance, err);
    transit->booted = machine;
    transit->next.machine = &transit->booted;
    return r;
}

/* One that comes out of standby has frozen disks, which are nobody's. */
static int acquire(struct transit *transit, struct error *err)
{
    int r = instance_acquire_taps(transit->instance, transit->next.machine, err);
    return r == 0 && transit->next.machine == &transit->booted
               ? instance_acquire_disks(transit->instance, &transit->booted, err)
               : r;
}

static void unacquire(struct transit *transit)
{
    instance_release_taps(transit->instance);
    instance_release_disks(transit->instance);
}

static int boot(struct transit *transit, struct error *err)
{
    struct instance *instance = transit->instance;
    struct vmm_context context =
        instances_context(instance->table, instance->id, transit->booted.hypervisor,
                          instance->image->directory_fd, instance->entry_fd, instance->cancel_fd);
    transit->next.loaded = false;
    int r = vmm_boot(&context, &transit->booted, &transit->vmm, err);
    if (r == 0)
        vmm_release(transit->vmm);
    return r;
}

/* One that is in no record the next start of the daemon would end: then rather at once. */
static void end_started(struct transit *transit)
{
    if (!transit->vmm) /* a start that failed has dropped its sockets itself */
        return;
    vmm_stop(transit->vmm, NULL);
    vmm_close(steal_pointer(transit->vmm));
    hypervisor_drop_sockets(transit->next.machine->hypervisor,
                            transit->instance->image->directory_fd);
}

static void unboot(struct transit *transit)
{
    end_started(transit);
    instance_remove_image(transit->instance); /* its memory */
}

/* ---- holding ---- */

bool instance_must_resume(const struct instance *instance)
{
    return instance->vmm && instance->state == INSTANCE_RUNNING && instance->intent != INTENT_NONE;
}

int instance_resume(struct instance *instance, int cancel_fd, struct error *err)
{
    struct vmm_context context = instance_context(instance);
    context.cancel_fd = cancel_fd;
    int r = vmm_resume(&context, instance->vmm, err);
    vmm_release(instance->vmm);
    if (r == 0)
        instance_set_intent(instance, INTENT_NONE);
    return r;
}

static int go_on(struct transit *transit, struct error *err)
{
    return instance_resume(transit->instance, transit->instance->cancel_fd, err);
}

/* In the record first: whoever finds it there lets the VM go on. */
static int record_intent(struct transit *transit, struct error *err)
{
    struct instance *instance = transit->instance;
    const enum instance_intent intent = transit->transition->intent;
    const struct instance_next next = {INSTANCE_RUNNING, &instance->machine,
                                       transit->vmm ? transit->vmm : instance->vmm,
                                       transit->next.loaded, intent};
    int r = instance_record_as(instance, &next, err);
    if (r == 0)
        instance_set_intent(instance, intent);
    return r;
}

/* Also of a VM that is paused on record: another program may have let it go on. */
static int pause_vm(struct transit *transit, struct error *err)
{
    struct vmm_context context = instance_context(transit->instance);
    return vmm_pause(&context, transit->instance->vmm, err);
}

static int hold(struct transit *transit, struct error *err)
{
    int r = record_intent(transit, err);
    if (r == 0)
        r = pause_vm(transit, err);
    transit->held_at_ms = process_now_ms();
    return r;
}

/* It goes on. */
static void note_pause(struct transit *transit)
{
    transit->paused_ms = process_now_ms() - transit->held_at_ms;
}

/* Whoever is to be stopped need not go on; who is left behind by the daemon must. */
static void unhold(struct transit *transit)
{
    struct instance *instance = transit->instance;
    pthread_mutex_lock(&instance->table->lock);
    int fd = instance->table->stopping ? -1 : instance->cancel_fd;
    pthread_mutex_unlock(&instance->table->lock);
    if (!instance->intent)
        return;
    if (instance_resume(instance, fd, &transit->why) < 0)
        error_prefix(&transit->why, 0, "the VM does not go on");
    else
        note_pause(transit);
}

/* A loaded VMM is not the instance's yet. */
static int resume(struct transit *transit, struct error *err)
{
    struct vmm_context context = instance_context(transit->instance);
    int r = record_intent(transit, err);
    if (r < 0 || !transit->vmm)
        return r < 0 ? r : go_on(transit, err);
    r = vmm_resume(&context, transit->vmm, err);
    vmm_release(transit->vmm);
    return r;
}

/* It is not known whether the VM runs. A save must not take it for one that stands still, so it is
 * one that runs and has to be told to go on: by the next write to `state`, or the next daemon. */
static void leave_to_go_on(struct instance *instance)
{
    pthread_mutex_lock(&instance->table->lock);
    const enum instance_intent intent = instance->intent;
    instance_set_state(instance, INSTANCE_RUNNING);
    instance->intent = intent;
    pthread_mutex_unlock(&instance->table->lock);
}

/* A VMM may have done what it then did not answer, or may do it yet. The record loses the intent at
 * the end. A VMM that is not the instance's yet is ended anyway. */
static void pause_again(struct transit *transit)
{
    struct instance *instance = transit->instance;
    const bool may_run = instance->intent && !transit->vmm;
    if (!may_run || pause_vm(transit, &transit->why) == 0) {
        instance_set_intent(instance, INTENT_NONE);
        return;
    }
    error_prefix(&transit->why, 0,
                 "it is not known whether the VM runs: write running or paused to its state again");
    leave_to_go_on(instance);
}

/* ---- standby, and back ---- */

/* Everything that can fail is done while the VM could still go on. */
static int save(struct transit *transit, struct error *err)
{
    struct instance *instance = transit->instance;
    const int directory_fd = instance->image->directory_fd;
    struct vmm_save where = {.directory = ".", .loaded = instance->loaded};
    /* Who waits still reads what its VM has in a file. */
    const bool is_mapped = !instance->loaded && instance->vmm->hypervisor->shares_memory;
    auto_json cJSON *delivered =
        instance_delivered(instance, is_mapped ? SAVED_AND_MAPPED : SAVED_AND_ENDS);
    struct instance_carried carried;
    int r = instance_carry_index(instance, &where, &carried, err);
    if (r == 0)
        r = instance_write_image(instance, &where, &transit->saved, err);
    if (r == 0)
        r = instance_dig_image(instance, directory_fd, err);
    if (r == 0)
        r = instance_finish_image(delivered, &carried, directory_fd, err);
    if (r == 0)
        r = instance_scan_saved(&carried, directory_fd, &instance->cancelled, &transit->index, err);
    instance_finish_carried(&carried);
    transit->next =
        (struct instance_next){INSTANCE_STANDBY, &transit->saved, NULL, false, INTENT_NONE};
    return r;
}

/* The record first: one of standby may be on the disk, although its write has failed. As long as
 * that is so, the image must stay; the next save or the next start removes it. */
static void unsave(struct transit *transit)
{
    if (instance_record(transit->instance, &transit->why) == 0)
        instance_remove_saved(transit->instance);
    else
        error_prefix(&transit->why, 0, "the saved memory stays in the store");
}

static int prepare(struct transit *transit, struct error *err)
{
    return transit->prepare(transit->instance, transit->context, err);
}

static int copy(struct transit *transit, struct error *err)
{
    return transit->work(transit->instance, transit->context, err);
}

/* What a VM is loaded from, however long the file keeps its own name. */
static int link_base(struct instance *instance, const char *image, struct error *err)
{
    char path[STORE_HIDDEN_SIZE + 48];
    snprintf(path, sizeof path, "%s/memory", image);
    instance_remove_base(instance);
    if (linkat(instance->image->directory_fd, path, instance->entry_fd, "base", 0) < 0)
        return error_io(err, errno, "cannot link the memory image as base");
    fault_point(FAULT_LINKED);
    return 0;
}

static int load(struct transit *transit, struct error *err)
{
    struct instance *instance = transit->instance;
    struct vmm_context context = instance_context(instance);
    transit->next.loaded = true;
    int r = image_index_wait(instance->image, &instance->cancelled, &transit->index, err);
    if (r == 0)
        r = link_base(instance, ".", err);
    return r == 0 ? vmm_load(&context, &instance->machine, ".", &transit->vmm, err) : r;
}

static void unload(struct transit *transit)
{
    end_started(transit);
    instance_remove_base(transit->instance);
    disks_drop_tops(&transit->instance->machine, transit->instance->image->directory_fd);
}

/* ---- from one VMM to another ---- */

/* The VMM before can go on as long as it has its files. */
static int load_beside(struct transit *transit, struct error *err)
{
    struct instance *instance = transit->instance;
    struct vmm_context context = instance_context(instance);
    context.before = instance->vmm;
    context.answer_ms = BESIDE_MS;
    transit->is_saved = transit->next.loaded = true;
    int r = instance_hold_files(instance, err);
    if (r == 0)
        r = link_base(instance, transit->image, err);
    return r == 0 ? vmm_load(&context, &instance->machine, transit->image, &transit->vmm, err) : r;
}

/* The record first: it may name the VMM that is ended then, though it could not be written. */
static void unload_beside(struct transit *transit)
{
    struct instance *instance = transit->instance;
    if (instance_record(instance, &transit->why) < 0)
        error_prefix(&transit->why, 0, "the VM's record may be wrong");
    if (transit->vmm) /* it may run, and the VM goes on elsewhere */
        pidfd_send_signal(transit->vmm->pidfd, SIGKILL, NULL, 0);
    end_started(transit);
    instance_settle_held_files(instance, false);
    instance_remove_base(instance);
}

/* The record first: should the daemon end now, the next one lets the VM go on in the new VMM, and
 * ends the one before. That stands still, and is killed only when the VM goes on: nothing ends the
 * wait for that but its deadline, for nobody could tell where the VM is. */
static int replace(struct transit *transit, struct error *err)
{
    struct instance *instance = transit->instance;
    struct vmm *before = instance->vmm;
    struct vmm_context context = instance_context(instance);
    context.cancel_fd = -1;
    context.answer_ms = BESIDE_MS;
    int r = record_intent(transit, err);
    if (r == 0)
        r = vmm_resume(&context, transit->vmm, err);
    if (r < 0)
        return r;
    pidfd_send_signal(before->pidfd, SIGKILL, NULL, 0);
    pthread_mutex_lock(&instance->table->lock);
    instance->vmm = transit->vmm;
    instance->loaded = true;
    instance_set_base_index(instance, NULL); /* the image is not scanned yet */
    instance->intent = INTENT_NONE;
    pthread_mutex_unlock(&instance->table->lock);
    transit->vmm = before;
    note_pause(transit);
    return 0;
}

static int dismiss(struct transit *transit, struct error *err)
{
    struct instance *instance = transit->instance;
    struct error why;
    (void)err;
    if (vmm_stop(transit->vmm, &why) < 0)
        instances_warn(instance->table, "%s: %s", instance->id, why.text);
    vmm_close(steal_pointer(transit->vmm));
    instance_settle_held_files(instance, true);
    instance_remove_saved(instance);
    return 0;
}

/* ---- arriving, and stopping ---- */

/* Of standby, it comes before the image goes: a record of that must not outlive it. Only a disk
 * that is full does not count then, for removing the image is what makes room on it. */
static int record(struct transit *transit, struct error *err)
{
    if (transit->vmm)
        transit->next.vmm = transit->vmm;
    int r = instance_record_as(transit->instance, &transit->next, err);
    if (r < 0 && transit->next.state == INSTANCE_STOPPED && (r == -ENOSPC || r == -EDQUOT))
        return 0;
    return r < 0 && transit->vmm
               ? error_prefix(err, r,
                              "the VM's record cannot be written, so the VM was ended again")
               : r;
}

/* A VMM that does not end has got SIGKILL: nothing can be undone any more, and what was saved is
 * all that there is of the VM. The steps that follow come when it has ended. */
static int end_vmm(struct transit *transit, struct error *err)
{
    struct instance *instance = transit->instance;
    auto_free struct transit *ending = malloc(sizeof *ending);
    if (!ending)
        return error_set(err, ENOMEM, "out of memory");
    int r = vmm_stop(instance->vmm, err);
    if (r == 0)
        return 0;
    *ending = *transit;
    ending->next.machine = NULL; /* it may be a part of `transit` */
    pthread_mutex_lock(&instance->table->lock);
    instance->ending = steal_pointer(ending);
    pthread_mutex_unlock(&instance->table->lock);
    error_append(err, INSTANCE_WILL_BE, instance_state_names[transit->transition->to]);
    return r;
}

/* A VMM that shared the image may have touched it still when it ended: then it is scanned again. */
static void renew_saved(struct transit *transit)
{
    struct instance *instance = transit->instance;
    const int directory_fd = instance->image->directory_fd;
    struct image_index *last;
    struct error why;
    if (!image_is(directory_fd, transit->index) && image_scan(directory_fd, NULL, &last, &why) == 0)
        image_index_unref(last); /* else `info` says it: the VM is gone */
    disks_renew_keys(&transit->saved, &instance->machine, instance->vmm);
    instance_swap_disks(instance, &transit->saved);
}

static int release_vmm(struct transit *transit, struct error *err)
{
    struct instance *instance = transit->instance;
    const bool was_loaded = instance->loaded;
    struct vmm_exit exit;
    (void)err;
    if (transit->index) /* of the image that was saved */
        renew_saved(transit);
    vmm_reap(instance->vmm, &exit);
    instance_refresh_disks(instance);
    pthread_mutex_lock(&instance->table->lock);
    struct vmm *vmm = steal_pointer(instance->vmm);
    struct snapshot *mapped = steal_pointer(instance->mapped);
    if (transit->index)
        instance->machine.in_firmware = transit->saved.in_firmware;
    instance->loaded = false;
    instance_set_base_index(instance, NULL);
    const bool is_saved = transit->transition->to == INSTANCE_STANDBY;
    instance_forget_live(instance, transit->transition->by == BY_VMM, is_saved);
    instance->cannot_switch = false;
    instance->exit = exit;
    store_time_now(instance->exit_at);
    pthread_mutex_unlock(&instance->table->lock);
    unacquire(transit);
    instance_release_vm(instance);
    instance_settle_held_files(instance, was_loaded);
    if (!is_saved) /* what was not taken yet may be when it runs again */
        instance_remove_deliveries(instance);
    hypervisor_drop_sockets(vmm->hypervisor, instance->image->directory_fd);
    vmm_close(vmm);
    if (mapped)
        snapshot_leave(mapped);
    snapshot_unref(mapped);
    instance_remove_base(instance);
    return 0;
}

/* In one step: who sees the state sees the VMM. */
static int arrive(struct transit *transit, struct error *err)
{
    struct instance *instance = transit->instance;
    const struct transition *transition = transit->transition;
    (void)err;
    auto_lock(&instance->table->lock);
    if (transit->next.machine == &transit->booted) {
        struct machine before = instance->machine;
        instance->machine = transit->booted;
        transit->booted = before;
    }
    if (transit->vmm) {
        machine_settle(&instance->machine);
        instance->vmm = steal_pointer(transit->vmm);
        instance->loaded = transit->next.loaded;
        instance_set_base_index(instance, instance->loaded ? transit->index : NULL);
    }
    if (transition->to != INSTANCE_STOPPED)
        instance->exit = (struct vmm_exit){0};
    if (transition->by == BY_VMM)
        instance_notify(instance, INSTANCE_VMM_ENDED, instance->state);
    instance_set_state(instance, transition->to);
    return 0;
}

/* Snapshots that were made of it hold links of their own. */
static int remove_files(struct transit *transit, struct error *err)
{
    (void)err;
    if (transit->instance->vmm)
        instance_remove_saved(transit->instance);
    else
        instance_remove_image(transit->instance);
    return 0;
}

const struct step instance_steps[STEPS] = {
    [STEP_LIMITS] = {check_limits, release_vm},
    [STEP_TURN] = {take_turn, NULL},
    [STEP_CONFIG] = {read_config, NULL},
    [STEP_ACQUIRE] = {acquire, unacquire},
    [STEP_BOOT] = {boot, unboot},
    [STEP_PAUSE] = {pause_vm, NULL},
    [STEP_HOLD] = {hold, unhold},
    [STEP_RESUME] = {resume, pause_again},
    [STEP_GO_ON] = {go_on, NULL},
    [STEP_SAVE] = {save, unsave},
    [STEP_COPY] = {copy, NULL},
    [STEP_PREPARE] = {prepare, NULL},
    [STEP_LOAD] = {load, unload},
    [STEP_RECORD] = {record, NULL},
    [STEP_END] = {end_vmm, NULL},
    [STEP_RELEASE] = {release_vmm, NULL},
    [STEP_ARRIVE] = {arrive, NULL},
    [STEP_REMOVE] = {remove_files, NULL},
    [STEP_BESIDE] = {load_beside, unload_beside},
    [STEP_REPLACE] = {replace, NULL},
    [STEP_DISMISS] = {dismiss, NULL},
};
