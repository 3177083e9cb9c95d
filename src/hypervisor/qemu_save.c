/* SPDX-License-Identifier: MIT */
/* qemu_save: a paused VM as files. QEMU writes the state of its devices; guest memory is copied
 * from the files that it maps, with the pages laid over that the VM has written to by itself. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/disks.h"
#include "hypervisor/guest_memory.h"
#include "hypervisor/opened.h"
#include "hypervisor/qemu_control.h"
#include "hypervisor/qemu_disks.h"
#include "hypervisor/vmm_process.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/sparse.h"

enum { PATH_SIZE = 128 };

/* Of a PC. */
static const uint64_t CR0_PAGING = 0x80000000, FIRMWARE_END = 0x100000, ROM_BEGIN = 0xff000000,
                      SEGMENTS_BEGIN = 0xf0000;

static void path_of(const struct vmm_save *save, const char *name, char ret[PATH_SIZE])
{
    snprintf(ret, PATH_SIZE, "%s/%s", save->directory, name);
}

/* Without "live": false QEMU lets go of the disks of a paused VM, and ends with an assertion when
 * it is asked once more; there may be a next time even where the VM is to end. */
static int write_state(const struct vmm_context *context, struct vmm *vmm, const char *path,
                       struct error *err)
{
    cJSON *arguments = cJSON_CreateObject();
    json_add_string(arguments, "filename", path);
    json_add_bool(arguments, "live", false);
    return qemu_control_execute_with(context, vmm, "xen-save-devices-state", arguments, -1, NULL,
                                     err);
}

/* The number behind the first `name` in what QEMU prints of a CPU, after `skip` other numbers. */
static uint64_t register_of(const char *registers, const char *name, int skip)
{
    const char *found = strstr(registers, name);
    char *end = (char *)(uintptr_t)(found ? found + strlen(name) : "");
    uint64_t value = strtoull(end, &end, 16);
    while (skip-- > 0)
        value = strtoull(end, &end, 16);
    return value;
}

/* Is that CPU in the firmware, or in a kernel's code for real mode, which calls the firmware?
 * Neither uses paging. Both lie below 1 MiB and at the end of the 4 GiB; but a part of the firmware
 * runs at the end of memory, with segments that are described in the last 64 KiB below 1 MiB. Other
 * kernels lie higher, and have segments described elsewhere. SMM may serve any kernel. */
static bool tells_firmware(const char *registers)
{
    uint64_t segments = register_of(registers, "GDT=", 0);
    uint64_t code = register_of(registers, "CS =", 1) + register_of(registers, "EIP=", 0);
    if (register_of(registers, "CR0=", 0) & CR0_PAGING || register_of(registers, "SMM=", 0) != 0)
        return false;
    return code < FIRMWARE_END || code >= ROM_BEGIN ||
           (segments >= SEGMENTS_BEGIN && segments < FIRMWARE_END);
}

/* The state of firmware is of no use to a load: neither the ROM that it runs from nor the kernel
 * that it is about to read is in it. A machine without a kernel was loaded from a state. */
static int find_firmware(const struct vmm_context *context, struct vmm *vmm,
                         struct machine *machine, struct error *err)
{
    machine->in_firmware = false;
    if (!machine->kernel)
        return 0;
    auto_json cJSON *answer = NULL;
    cJSON *arguments = cJSON_CreateObject();
    json_add_string(arguments, "command-line", "info registers"); /* of the first CPU */
    int r = qemu_control_execute_with(context, vmm, "human-monitor-command", arguments, -1, &answer,
                                      err);
    if (r < 0)
        return r;
    const char *registers = cJSON_GetStringValue(answer);
    if (!registers || !strstr(registers, "CR0="))
        return error_set(err, EIO, "QEMU does not say what its CPU's registers are");
    machine->in_firmware = tells_firmware(registers);
    return 0;
}

static int save_state(const struct vmm_context *context, struct vmm *vmm, const char *path,
                      struct error *err)
{
    /* QEMU would write into an older file, which may be a snapshot's too by a hard link. */
    if (unlinkat(context->directory_fd, path, 0) < 0 && errno != ENOENT)
        return error_errno(err, errno, "the old %s cannot be removed", path);
    off_t from = vmm_log_size(context);
    int r = write_state(context, vmm, path, err);
    return r < 0 ? vmm_explain(context, vmm, from, r, err) : 0;
}

/* The pages that the VM has written to are in QEMU's private mapping of the file `base` only. */
static int copy_written(const struct vmm_context *context, struct vmm *vmm, int base, int to,
                        struct error *err)
{
    auto_close int process = -1;
    struct guest_memory *memory;
    int r = guest_memory_open_process(vmm->pid, &process, err);
    if (r == 0)
        r = guest_memory_create(vmm->pid, process, base, &memory, err);
    if (r == 0) {
        r = guest_memory_copy_written(memory, vmm->pid, to, context->cancel_fd, err);
        guest_memory_destroy(memory);
    }
    return vmm_ended(vmm, "QEMU", r, err);
}

/* The file that the VM maps as its memory, or was loaded from, not whatever has got that name. */
static int open_memory(const struct vmm_context *context, const struct vmm *vmm, const char *name,
                       int *ret, struct error *err)
{
    auto_close int fd = openat(context->directory_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return error_io(err, errno, "the VM's memory file %s", name);
    int r = vmm_ended(vmm, "QEMU", guest_memory_check(vmm->pid, fd, err), err);
    if (r < 0)
        return error_prefix(err, r, "the file %s in the store is not the memory of the VM", name);
    *ret = steal_fd(&fd);
    return 0;
}

static int copy_file(const struct vmm_context *context, int from, const char *path,
                     struct error *err)
{
    struct stat known;
    auto_close int to = -1;
    if (fstat(from, &known) < 0)
        return error_errno(err, errno, "the VM's memory file");
    int r = vmm_new_file(context, path, &to, err);
    if (r == 0)
        r = sparse_copy(from, to, &known, vmm_copy_goes_on, (void *)(uintptr_t)context, err);
    return r < 0 ? error_prefix(err, r, "copying the VM's memory") : 0;
}

int qemu_prepare(const struct vmm_context *context, struct vmm *vmm, const struct vmm_save *save,
                 struct error *err)
{
    char memory[PATH_SIZE];
    auto_close int base = -1;
    path_of(save, "memory", memory);
    int r = open_memory(context, vmm, "base", &base, err);
    return r == 0 ? copy_file(context, base, memory, err) : r;
}

/* Adds to a copy of the file `base` what the VM has written. */
static int add_written(const struct vmm_context *context, struct vmm *vmm, int base,
                       const char *path, struct error *err)
{
    auto_close int to = openat(context->directory_fd, path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    return to >= 0 ? copy_written(context, vmm, base, to, err)
                   : error_errno(err, errno, "the copy of the VM's memory");
}

static int save_memory(const struct vmm_context *context, struct vmm *vmm, const char *path,
                       int from, const struct vmm_save *save, struct error *err)
{
    int r = save->prepared ? 0 : copy_file(context, from, path, err);
    return r == 0 && save->loaded ? add_written(context, vmm, from, path, err) : r;
}

/* All that the paths in the store have to name before anything is made of them. */
static int check_files(const struct vmm_context *context, const struct vmm *vmm,
                       const struct machine *machine, struct error *err)
{
    char name[DISK_NAME_SIZE];
    int r = disks_check_room(machine, err);
    for (size_t i = 0; i < machine->disk_count; i++)
        for (unsigned layer = 1; layer <= disk_top(&machine->disks[i]) && r == 0; layer++) {
            disk_layer_name(i, layer, name);
            r = opened_check_own(context, vmm, name, err);
        }
    return r;
}

int qemu_save(const struct vmm_context *context, struct vmm *vmm, struct machine *machine,
              const struct vmm_save *save, struct error *err)
{
    char state[PATH_SIZE], memory[PATH_SIZE];
    auto_close int own = -1;
    bool ends = strcmp(save->directory, ".") == 0, in_place = ends && !save->loaded;
    path_of(save, "state", state);
    path_of(save, "memory", memory);
    /* A record may be older than what the VM writes to, which must not be taken for new. */
    int r = disks_are_written(machine) ? qemu_disks_find(context, vmm, machine, err) : 0;
    if (r == 0)
        r = check_files(context, vmm, machine, err);
    if (r == 0)
        r = find_firmware(context, vmm, machine, err);
    if (r == 0)
        r = open_memory(context, vmm, save->loaded ? "base" : "memory", &own, err);
    if (r == 0 && !ends)
        r = qemu_disks_switch(context, vmm, machine, err);
    if (r == 0)
        r = save_state(context, vmm, state, err);
    if (r == 0 && !in_place)
        r = save_memory(context, vmm, memory, own, save, err);
    if (r == 0) {
        if (ends) {
            disks_freeze(machine);
            /* What was left behind under that name is not what a boot may go on with. */
            disks_drop_tops(machine, context->directory_fd);
        }
        return 0;
    }
    unlinkat(context->directory_fd, state, 0);
    if (!in_place)
        unlinkat(context->directory_fd, memory, 0);
    return r;
}
