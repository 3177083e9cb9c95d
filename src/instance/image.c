/* SPDX-License-Identifier: MIT */
/*
 * image: the files that a save makes of a VM, and which disks belong to them.
 *
 * Files of an instance's directory, besides those of store.h: memory and state where its VMM works,
 * base beside the records.
 *   memory     of a VM that was booted: what it runs on. Else, with state: the image in standby.
 *   base       the image that a VM was loaded from, a hard link; as long as that VM lives
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "hypervisor/disks.h"
#include "instance/internal.h"
#include "mailbox/rearm.h"
#include "util/fault.h"
#include "util/json.h"
#include "util/plain_file.h"
#include "util/sparse.h"

static void remove_from(struct instance *instance, int directory_fd, const char *name)
{
    struct error why;
    fault_point(FAULT_UNLINK);
    if (unlinkat(directory_fd, name, 0) < 0 && errno != ENOENT) {
        error_errno(&why, errno, "%s of the instance %s cannot be removed from the store", name,
                    instance->id);
        instances_warn(instance->table, "%s", why.text);
    }
    fault_point(FAULT_UNLINKED);
}

void instance_remove_file(struct instance *instance, const char *name)
{
    remove_from(instance, instance->image->directory_fd, name);
}

void instance_remove_base(struct instance *instance)
{
    remove_from(instance, instance->entry_fd, "base");
}

void instance_remove_image(struct instance *instance)
{
    static const char *const names[] = {"memory", "state", "mailboxes.json"};
    for (size_t i = 0; i < array_length(names); i++)
        instance_remove_file(instance, names[i]);
    instance_remove_base(instance);
}

void instance_remove_saved(struct instance *instance)
{
    instance_remove_file(instance, "state");
    instance_remove_file(instance, "mailboxes.json");
    if (instance->loaded || !instance->vmm->hypervisor->shares_memory)
        instance_remove_file(instance, "memory");
    disks_drop_copies(&instance->machine, instance->image->directory_fd);
}

static int sync_file(int directory_fd, const char *name, struct error *err)
{
    auto_close int fd = -1;
    int r = plain_file_open(directory_fd, name, O_RDONLY, name, &fd, err);
    if (r < 0)
        return r;
    fault_point(FAULT_SYNC);
    if (fsync(fd) < 0)
        return error_errno(err, errno, "cannot write %s in the store", name);
    fault_point(FAULT_SYNCED);
    return 0;
}

static int arm_again(int directory_fd, const cJSON *delivered, struct page_set *written,
                     struct error *err)
{
    auto_close int fd = -1;
    int r = plain_file_open(directory_fd, "memory", O_RDWR, "the memory image", &fd, err);
    return r == 0 ? rearm_image(fd, delivered, written, err) : r;
}

static bool is_not_cancelled(void *context, uint64_t done, uint64_t size)
{
    (void)done, (void)size;
    return !atomic_load(&((struct instance *)context)->cancelled);
}

int instance_dig_image(struct instance *instance, int directory_fd, struct error *err)
{
    auto_close int fd = -1;
    if (instance->loaded || instance->machine.hypervisor->shares_memory)
        return 0;
    int r = plain_file_open(directory_fd, "memory", O_RDWR, "the memory image", &fd, err);
    return r == 0 ? sparse_dig(fd, is_not_cancelled, instance, err) : r;
}

int instance_finish_image(const cJSON *delivered, struct instance_carried *carried,
                          int directory_fd, struct error *err)
{
    struct page_set *written = carried->index ? &carried->written : NULL;
    int r = cJSON_GetArraySize(delivered) > 0 ? arm_again(directory_fd, delivered, written, err) : 0;
    if (r == 0)
        r = image_seal(directory_fd, err);
    if (r == 0)
        r = sync_file(directory_fd, "state", err);
    return r == 0 ? sync_file(directory_fd, "memory", err) : r;
}

void instance_set_base_index(struct instance *instance, struct image_index *index)
{
    struct image_index *before = instance->base_index;
    instance->base_index = index ? image_index_ref(index) : NULL;
    image_index_unref(before);
}

int instance_carry_index(struct instance *instance, struct vmm_save *save,
                         struct instance_carried *ret, struct error *err)
{
    struct stat st;
    struct error why;
    *ret = (struct instance_carried){.base_fd = -1};
    pthread_mutex_lock(&instance->table->lock);
    if (instance->base_index)
        ret->index = image_index_ref(instance->base_index);
    pthread_mutex_unlock(&instance->table->lock);
    if (!ret->index)
        return 0;
    int r = plain_file_open(instance->entry_fd, "base", O_RDONLY, "base", &ret->base_fd, err);
    if (r < 0)
        return r;
    if (fstat(ret->base_fd, &st) < 0 || !image_index_is_of(ret->index, ret->base_fd)) {
        instance_finish_carried(ret);
        return 0;
    }
    if (page_set_create((uint64_t)st.st_size, &ret->written, &why) == 0) {
        save->written = &ret->written;
        return 0;
    }
    instances_warn(instance->table, "all of the image of %s will be scanned: %s", instance->id,
                   why.text);
    instance_finish_carried(ret);
    return 0;
}

bool instance_is_carried(const struct instance_carried *carried)
{
    return carried->written.complete;
}

void instance_finish_carried(struct instance_carried *carried)
{
    image_index_unref(steal_pointer(carried->index));
    page_set_finish(&carried->written);
    cleanup_close(&carried->base_fd);
    carried->base_fd = -1;
}

int instance_scan_saved(const struct instance_carried *carried, int directory_fd,
                        const atomic_bool *stop, struct image_index **ret, struct error *err)
{
    if (!instance_is_carried(carried))
        return image_scan(directory_fd, stop, ret, err);
    const struct scan_base base = {
        .fd = carried->base_fd, .found = &carried->index->scan, .changed = &carried->written};
    return image_scan_changed(directory_fd, &base, stop, ret, err);
}

/* On record before the VM may write to them. */
static int record_disks(struct instance *instance, struct machine *machine, struct error *err)
{
    struct machine own = *machine;
    int r = disks_copy(&own, err);
    if (r < 0)
        return r;
    r = disks_keep_lower(&own, &instance->machine, err);
    if (r == 0)
        instance_swap_disks(instance, &own);
    disks_finish(&own);
    if (r < 0)
        return r;
    return machine->disk_count > 0 ? instance_record(instance, err) : 0;
}

/* Firmware is taken for such by its registers only, and a guest that looks the same loses what it
 * had done. */
static void warn_of_firmware(const struct instance *instance)
{
    instances_warn(instance->table,
                   "%s was saved before its firmware had read its kernel: what was saved starts "
                   "again from the kernel when it is run",
                   instance->id);
}

int instance_prepare_image(struct instance *instance, struct vmm_save *save, struct error *err)
{
    struct vmm_context context = instance_context(instance);
    save->loaded = instance->loaded;
    return vmm_prepare(&context, instance->vmm, save, err);
}

int instance_write_image(struct instance *instance, const struct vmm_save *save,
                         struct machine *ret, struct error *err)
{
    struct vmm_context context = instance_context(instance);
    struct machine machine = instance->machine;
    int r = disks_copy(&machine, err);
    if (r < 0)
        return r;
    instance_warn_of_taps(instance);
    r = instance_rearm(instance, err);
    if (r == 0)
        r = vmm_save(&context, instance->vmm, &machine, save, err);
    if (r == 0 && machine.in_firmware)
        warn_of_firmware(instance);
    if (strcmp(save->directory, ".") != 0) {
        int recorded = record_disks(instance, &machine, r < 0 ? NULL : err);
        r = r < 0 ? r : recorded;
    }
    if (r < 0)
        disks_finish(&machine);
    else
        *ret = machine;
    return r;
}

int instance_find_disks(struct instance *instance, struct vmm *vmm, struct error *err)
{
    struct vmm_context context = instance_context(instance);
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

void instance_refresh_disks(struct instance *instance)
{
    struct error why;
    if (instance_find_disks(instance, NULL, &why) < 0)
        instances_warn(instance->table,
                       "cannot find out which files the disks of %s are now: those in its record "
                       "are used: %s",
                       instance->id, why.text);
}
