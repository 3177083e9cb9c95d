/* SPDX-License-Identifier: MIT */
/* qemu_save: a paused VM as files. QEMU writes the state of its devices; guest memory is hypefs's
 * (memory.h). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hypervisor/disks.h"
#include "hypervisor/memory.h"
#include "hypervisor/opened.h"
#include "hypervisor/qemu_control.h"
#include "hypervisor/qemu_disks.h"
#include "hypervisor/vmm_process.h"
#include "util/cleanup.h"
#include "util/json.h"

enum { PATH_SIZE = 128 };

/* What QEMU writes, in its own directory: it sees no other. */
static const char written_name[] = "state.tmp";

/* Of a PC. */
static const uint64_t CR0_PAGING = 0x80000000, FIRMWARE_END = 0x100000, ROM_BEGIN = 0xff000000,
                      SEGMENTS_BEGIN = 0xf0000;

/* Without "live": false QEMU lets go of the disks of a paused VM, and ends with an assertion when
 * it is asked once more; there may be a next time even where the VM is to end. */
static int write_state(const struct vmm_context *context, struct vmm *vmm, struct error *err)
{
    cJSON *arguments = cJSON_CreateObject();
    json_add_string(arguments, "filename", written_name);
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
    /* QEMU would write into an older file. */
    int r = vmm_remove_old(context, written_name, err);
    if (r < 0)
        return r;
    off_t from = vmm_log_size(context);
    r = write_state(context, vmm, err);
    return r < 0 ? vmm_explain(context, vmm, from, r, err)
                 : vmm_take_file(context, written_name, path, err);
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
    char state[PATH_SIZE];
    auto_close int memory = -1;
    bool ends = strcmp(save->directory, ".") == 0;
    snprintf(state, sizeof state, "%s/state", save->directory);
    /* A record may be older than what the VM writes to, which must not be taken for new. */
    int r = disks_are_written(machine) ? qemu_disks_find(context, vmm, machine, err) : 0;
    if (r == 0)
        r = check_files(context, vmm, machine, err);
    if (r == 0)
        r = find_firmware(context, vmm, machine, err);
    if (r == 0 && save->shared && machine->in_firmware)
        r = error_set(err, EAGAIN, "the VM is in its firmware, which a load begins again");
    if (r == 0)
        r = memory_open(context, vmm, save, &memory, err);
    if (r == 0 && !ends)
        r = qemu_disks_switch(context, vmm, machine, err);
    if (r == 0)
        r = save_state(context, vmm, state, err);
    if (r == 0)
        r = memory_save(context, vmm, save, memory, err);
    if (r == 0) {
        if (ends) {
            disks_freeze(machine);
            /* What was left behind under that name is not what a boot may go on with. */
            disks_drop_tops(machine, context->directory_fd);
        }
        return 0;
    }
    unlinkat(context->directory_fd, state, 0);
    unlinkat(context->directory_fd, written_name, 0);
    memory_discard(context, save);
    return r;
}
