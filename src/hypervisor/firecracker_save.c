/* SPDX-License-Identifier: MIT */
#include "hypervisor/firecracker_save.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "hypervisor/drives.h"
#include "hypervisor/firecracker_control.h"
#include "hypervisor/memory.h"
#include "hypervisor/vmm_api.h"
#include "hypervisor/vmm_process.h"
#include "util/cleanup.h"
#include "util/json.h"

enum { PATH_SIZE = 128, MIB = 1024 * 1024 };

static const char memory_name[] = "memory", state_name[] = "state";

/* What Firecracker writes, in its own directory: it sees no other. */
static const char written_memory[] = "memory.tmp", written_state[] = "state.tmp";

static int create_snapshot(const struct vmm_context *context, struct vmm *vmm, const char *type,
                           const char *memory, struct vmm_api_call *call, struct error *err)
{
    /* Firecracker would write into an older file. */
    int r = vmm_remove_old(context, written_state, err);
    if (r < 0)
        return r;
    cJSON *body = cJSON_CreateObject();
    json_add_string(body, "snapshot_type", type);
    json_add_string(body, "snapshot_path", written_state);
    json_add_string(body, "mem_file_path", memory);
    call->method = "PUT";
    call->path = "/snapshot/create";
    call->body = body;
    call->timeout_ms = VMM_API_SAVE_MS;
    return vmm_api_call(context, vmm, call, NULL, err);
}

/* What is swapped out would look to Firecracker as if it had never been written. */
static bool may_swap(void)
{
    char line[256];
    auto_fclose FILE *swaps = fopen("/proc/swaps", "re");
    return !swaps || !fgets(line, sizeof line, swaps) || fgets(line, sizeof line, swaps);
}

/* How much of the VMM's memory is there, its guest's and its own; 0: not known. */
static uint64_t resident_bytes(pid_t pid)
{
    char path[48];
    unsigned long long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    auto_fclose FILE *file = fopen(path, "re");
    if (!file || fscanf(file, "%*u %llu", &pages) != 1)
        return 0;
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Firecracker would write until the disk is full, and others would find it so. */
static int check_room(const struct vmm_context *context, uint64_t needed, struct error *err)
{
    struct statvfs store;
    if (fstatvfs(context->directory_fd, &store) < 0)
        return 0;
    const uint64_t room = (uint64_t)store.f_bavail * store.f_frsize;
    if (room >= needed)
        return 0;
    return error_set(err, ENOSPC,
                     "Firecracker needs up to %" PRIu64
                     " MiB of room to write the VM's memory, and the store has %" PRIu64
                     " MiB: make room, and try again",
                     needed / MIB, room / MIB);
}

/* A booted VM's memory is no file's: Firecracker writes it, zeros too. From 1.13 on, "Diff" leaves
 * out what was never touched. */
static int save_booted(const struct vmm_context *context, struct vmm *vmm,
                       const struct machine *machine, const char *state, const char *memory,
                       struct error *err)
{
    struct firecracker version;
    const bool diff = machine->version && firecracker_parse_version(machine->version, &version) &&
                      firecracker_is_at_least(&version, 1, 13) && !may_swap();
    struct vmm_api_call call = {0};
    int r = vmm_remove_old(context, written_memory, err);
    if (r == 0)
        r = check_room(context, diff ? resident_bytes(vmm->pid) : machine->memory_bytes, err);
    if (r == 0)
        r = create_snapshot(context, vmm, diff ? "Diff" : "Full", written_memory, &call, err);
    if (r == 0)
        r = vmm_take_file(context, written_state, state, err);
    if (r == 0)
        r = vmm_take_file(context, written_memory, memory, err);
    return r;
}

/* Firecracker writes the state first. Told to write the memory into a directory, it then says that
 * it cannot. */
static int save_state(const struct vmm_context *context, struct vmm *vmm, const char *state,
                      struct error *err)
{
    struct vmm_api_call call = {.refusal = {"memory backing file", "os error 21"}};
    int r = create_snapshot(context, vmm, "Full", ".", &call, err);
    if (r == 0 && !call.refused)
        r = error_set(err, EIO, "Firecracker has written memory into a directory");
    return r < 0 ? r : vmm_take_file(context, written_state, state, err);
}

/* What a loaded VM has written is hypefs's to add to its image. */
static int save_loaded(const struct vmm_context *context, struct vmm *vmm, const char *state,
                       const struct vmm_save *save, struct error *err)
{
    auto_close int base = -1;
    int r = memory_open(context, vmm, save, &base, err);
    if (r == 0)
        r = save_state(context, vmm, state, err);
    return r == 0 ? memory_save(context, vmm, save, base, err) : r;
}

int firecracker_save(const struct vmm_context *context, struct vmm *vmm, struct machine *machine,
                     const struct vmm_save *save, struct error *err)
{
    char state[PATH_SIZE], memory[PATH_SIZE];
    snprintf(state, sizeof state, "%s/%s", save->directory, state_name);
    snprintf(memory, sizeof memory, "%s/%s", save->directory, memory_name);
    int r = save->loaded ? save_loaded(context, vmm, state, save, err)
                         : save_booted(context, vmm, machine, state, memory, err);
    if (r == 0)
        r = drives_freeze(context, vmm, machine, &(struct drives_save){save->directory, false},
                          err);
    if (r < 0) {
        const char *const names[] = {state, memory, written_state, written_memory};
        for (size_t i = 0; i < array_length(names); i++)
            unlinkat(context->directory_fd, names[i], 0);
    }
    return r;
}
