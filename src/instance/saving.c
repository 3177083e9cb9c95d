/* SPDX-License-Identifier: MIT */
/*
 * saving: a VM's memory and state as an image, and what keeps a daemon that is killed meanwhile
 * from leaving the VM paused.
 *
 * Files of an instance's directory, besides those of store.h:
 *   memory     of a VM that was booted: what it runs on. Else, with state: the image in standby.
 *   base       the image that a VM was loaded from, a hard link; as long as that VM lives
 *   hold       while a VM that runs is paused for some work of ours: it is to go on
 *   restoring  while a VM comes out of standby: until it runs, memory and state are the instance
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "hypervisor/disks.h"
#include "instance/internal.h"
#include "mailbox/rearm.h"
#include "util/cleanup.h"
#include "util/fault.h"
#include "util/process.h"

const char instance_hold[] = "hold", instance_restoring[] = "restoring";

int instance_mark(struct instance *instance, const char *name, struct error *err)
{
    auto_close int fd =
        openat(instance->image->directory_fd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_errno(err, errno, "cannot write %s in the store", name);
    fault_point(FAULT_MARKED);
    return 0;
}

void instance_unmark(struct instance *instance, const char *name)
{
    struct instances *table = instance->table;
    struct error why;
    fault_point(FAULT_UNLINK);
    if (unlinkat(instance->image->directory_fd, name, 0) < 0 && errno != ENOENT) {
        error_errno(&why, errno, "%s of the instance %s cannot be removed from the store", name,
                    instance->id);
        table->setup.complain(table->setup.context, why.text);
    }
    fault_point(FAULT_UNLINKED);
}

static void drop(struct instance *instance, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        instance_unmark(instance, names[i]);
}

void instance_drop_image(struct instance *instance)
{
    static const char *const names[] = {"memory", "state",       "mailboxes.json",
                                        "base",   instance_hold, instance_restoring};
    drop(instance, names, array_length(names));
}

void instance_drop_saved(struct instance *instance)
{
    static const char *const names[] = {"state", "mailboxes.json", "memory"};
    bool shared = !instance->loaded && instance->vmm->hypervisor->shares_memory;
    drop(instance, names, array_length(names) - shared);
    disks_drop_copies(&instance->machine, instance->image->directory_fd);
}

static int sync_file(int directory_fd, const char *name, struct error *err)
{
    auto_close int fd = openat(directory_fd, name, O_RDONLY | O_CLOEXEC);
    fault_point(FAULT_SYNC);
    if (fd < 0 || fsync(fd) < 0)
        return error_errno(err, errno, "cannot write %s in the store", name);
    fault_point(FAULT_SYNCED);
    return 0;
}

const cJSON *instance_delivered(const struct instance *instance)
{
    return instance->loaded ? cJSON_GetObjectItemCaseSensitive(instance->fork, "delivered") : NULL;
}

static int arm_again(int directory_fd, const cJSON *delivered, struct error *err)
{
    auto_close int fd = openat(directory_fd, "memory", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    return fd >= 0 ? rearm_image(fd, delivered, err)
                   : error_errno(err, errno, "cannot open the memory image");
}

int instance_finish_image(const cJSON *delivered, int directory_fd, struct error *err)
{
    int r = delivered ? arm_again(directory_fd, delivered, err) : 0;
    if (r == 0)
        r = image_seal(directory_fd, err);
    if (r == 0)
        r = sync_file(directory_fd, "state", err);
    return r == 0 ? sync_file(directory_fd, "memory", err) : r;
}

struct vmm_context instance_own_context(const struct instance *instance)
{
    return instance_context(instance, instance->machine.hypervisor, instance->image->directory_fd,
                            instance->cancel_fd);
}

/* Whoever is to be stopped need not go on; who is left behind by the daemon must. */
static int cancel_of_going_on(struct instance *instance)
{
    pthread_mutex_lock(&instance->table->lock);
    int fd = instance->table->stopping ? -1 : instance->cancel_fd;
    pthread_mutex_unlock(&instance->table->lock);
    return fd;
}

static bool has(const struct instance *instance, const char *name)
{
    return faccessat(instance->image->directory_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static int go_on(struct instance *instance, int cancel_fd, struct error *err)
{
    struct vmm_context context = instance_own_context(instance);
    context.cancel_fd = cancel_fd;
    int r = vmm_resume(&context, instance->vmm, err);
    vmm_release(instance->vmm);
    if (r < 0)
        return r;
    instance_unmark(instance, instance_hold);
    if (has(instance, instance_restoring)) { /* of a daemon that was killed */
        instance_drop_saved(instance);
        instance_unmark(instance, instance_restoring);
    }
    return 0;
}

int instance_go_on(struct instance *instance, struct error *err)
{
    return go_on(instance, cancel_of_going_on(instance), err);
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

int instance_hold_and(struct instance *instance, held *work, void *context, struct error *err)
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
    int r = instance_mark(instance, instance_hold, err);
    if (r < 0)
        return r;
    r = vmm_pause(&vmm_context, instance->vmm, &why);
    if (r == 0)
        r = work(instance, context, &why);
    if (r == HELD_ENDED)
        return 0;
    return went_on(r, &why, instance_go_on(instance, &resume_error), &resume_error, err);
}

/* On record before the VM may write to them. */
static int record_disks(struct instance *instance, struct machine *machine, struct error *err)
{
    struct machine own = *machine;
    int r = disks_copy(&own, err);
    if (r < 0)
        return r;
    instance_swap_disks(instance, &own);
    disks_finish(&own);
    return machine->disk_count > 0 ? instance_save(instance, instance->image->directory_fd, err)
                                   : 0;
}

int instance_write_image(struct instance *instance, const char *directory, struct machine *ret,
                         struct error *err)
{
    struct vmm_context context = instance_own_context(instance);
    const struct vmm_save save = {.directory = directory, .loaded = instance->loaded};
    struct machine machine = instance->machine;
    int r = disks_copy(&machine, err);
    if (r < 0)
        return r;
    instance_complain_of_taps(instance);
    r = vmm_save(&context, instance->vmm, &machine, &save, err);
    if (strcmp(directory, ".") != 0) {
        int recorded = record_disks(instance, &machine, r < 0 ? NULL : err);
        r = r < 0 ? r : recorded;
    }
    if (r < 0)
        disks_finish(&machine);
    else
        *ret = machine;
    return r;
}

bool instance_is_kept(const struct instance *instance)
{
    return has(instance, instance_restoring) && has(instance, "memory") && has(instance, "state");
}

static bool may_write_elsewhere(const struct instance *instance)
{
    return instance->vmm && instance->vmm->hypervisor->find_disks &&
           disks_are_written(&instance->machine);
}

int instance_find_disks(struct instance *instance, struct vmm *vmm, struct error *err)
{
    struct vmm_context context = instance_own_context(instance);
    struct machine machine = instance->machine;
    if (!machine.hypervisor->find_disks) /* its VMs write to what is on record */
        return 0;
    int r = disks_copy(&machine, err);
    if (r < 0)
        return r;
    r = vmm_find_disks(&context, vmm, &machine, err);
    if (r == 0)
        instance_swap_disks(instance, &machine);
    disks_finish(&machine);
    return r;
}

void instance_note_disks(struct instance *instance)
{
    struct instances *table = instance->table;
    struct error why;
    if (instance_find_disks(instance, NULL, &why) == 0)
        return;
    error_prefix(&why, 0,
                 "it is not known which files the disks of %s are now, and those on record count",
                 instance->id);
    table->setup.complain(table->setup.context, why.text);
}

/* Of all disks together: it grows whenever one gets another top, and never shrinks. */
static unsigned count_tops(const struct machine *machine)
{
    unsigned count = 0;
    for (size_t i = 0; i < machine->disk_count; i++)
        count += disk_top(&machine->disks[i]);
    return count;
}

/* A save may have been cut short between what the VM writes to and the record of it; or the store
 * had no room for that. */
static int mend_record(struct instance *instance, struct error *err)
{
    if (!may_write_elsewhere(instance))
        return 0;
    unsigned recorded = count_tops(&instance->machine);
    int r = instance_find_disks(instance, instance->vmm, err);
    vmm_release(instance->vmm);
    if (r == 0 && count_tops(&instance->machine) != recorded)
        r = instance_save(instance, instance->image->directory_fd, err);
    if (r == 0)
        disks_tidy(&instance->machine, instance->image->directory_fd);
    return r;
}

bool instance_must_go_on(const struct instance *instance)
{
    return instance->vmm && instance->state == INSTANCE_RUNNING &&
           (has(instance, instance_restoring) || has(instance, instance_hold));
}

bool instance_must_settle(const struct instance *instance)
{
    return instance_must_go_on(instance) || may_write_elsewhere(instance);
}

const char *instance_unsettled(const struct instance *instance)
{
    return instance_must_go_on(instance) ? "is paused, for what was done with it was cut short"
                                         : "may write to other disks than its record says";
}

int instance_settle_vmm(struct instance *instance, struct error *err)
{
    int r = mend_record(instance, err);
    if (r == 0 && instance_must_go_on(instance))
        r = go_on(instance, instance->cancel_fd, err);
    if (r < 0)
        return error_prefix(err, r, "%s %s", instance->id, instance_unsettled(instance));
    instance_drop_saved(instance);
    return 0;
}

void instance_tidy(struct instance *instance)
{
    static const char *const leftovers[] = {"base", instance_hold, instance_restoring};
    store_tidy_entry(instance->image->directory_fd);
    if (instance_must_go_on(instance))
        return;
    if (instance->vmm) { /* a mark of a paused one: that was to be so, or to end, and did neither */
        instance_unmark(instance, instance_hold);
        if (!has(instance, instance_restoring))
            instance_drop_saved(instance);
    } else if (instance->state == INSTANCE_STANDBY) {
        disks_drop_tops(&instance->machine, instance->image->directory_fd);
        drop(instance, leftovers, array_length(leftovers));
    } else {
        instance_drop_image(instance);
        disks_tidy(&instance->machine, instance->image->directory_fd);
    }
}
