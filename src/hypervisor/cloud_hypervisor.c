/* SPDX-License-Identifier: MIT */
/* The backend for Cloud Hypervisor. docs/hypervisors.md says what is done to it, and why. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/cloud_hypervisor_control.h"
#include "hypervisor/cloud_hypervisor_state.h"
#include "hypervisor/drives.h"
#include "hypervisor/guest_memory.h"
#include "hypervisor/machine.h"
#include "hypervisor/memory.h"
#include "hypervisor/opened.h"
#include "hypervisor/vmm_api.h"
#include "hypervisor/vmm_process.h"
#include "util/cleanup.h"
#include "util/directory.h"
#include "util/json.h"
#include "util/text_file.h"

enum { PATH_SIZE = 128 };

/* Of an instance, with what Cloud Hypervisor writes at a save, and reads at a restore. A start of
 * the daemon removes it, as all that ends so. */
#define FOLDER "saved.tmp"
static const char folder_name[] = FOLDER, folder_url[] = "file://" FOLDER;
static const char config_path[] = FOLDER "/config.json", state_path[] = FOLDER "/state.json",
                  ranges_path[] = FOLDER "/memory-ranges";

/* ---- booting ---- */

static void add_memory(cJSON *config, const struct machine *machine)
{
    cJSON *memory = json_add_object(config, "memory"), *zone = cJSON_CreateObject();
    json_add_number(memory, "size", 0);
    json_add_string(zone, "id", "ram");
    json_add_number(zone, "size", (double)machine->memory_bytes);
    json_add_string(zone, "file", "memory");
    json_add_bool(zone, "shared", true);
    json_append(json_add_array(memory, "zones"), zone);
}

static void add_payload(cJSON *config, const struct machine *machine)
{
    cJSON *payload = json_add_object(config, "payload");
    json_add_string(payload, "kernel", CLOUD_HYPERVISOR_KERNEL_NAME);
    if (machine->initrd)
        json_add_string(payload, "initramfs", machine->initrd);
    if (machine->cmdline)
        json_add_string(payload, "cmdline", machine->cmdline);
}

/* The format is named: a guest may write a header of another into its disk. */
static int add_disks(const struct vmm_context *context, cJSON *config,
                     const struct machine *machine, struct error *err)
{
    cJSON *disks = json_add_array(config, "disks");
    for (size_t i = 0; i < machine->disk_count; i++) {
        auto_free char *path = NULL;
        int r = drive_path(context, &machine->disks[i], &path, err);
        if (r < 0)
            return r;
        cJSON *disk = cJSON_CreateObject();
        json_add_string(disk, "id", machine->disks[i].id);
        json_add_string(disk, "path", path);
        json_add_bool(disk, "readonly", machine->disks[i].readonly);
        cloud_hypervisor_set_format(disk, &machine->disks[i]);
        json_append(disks, disk);
    }
    return 0;
}

static void add_interfaces(cJSON *config, const struct machine *machine)
{
    cJSON *nets = json_add_array(config, "net");
    for (size_t i = 0; i < machine->interface_count; i++) {
        const struct machine_interface *interface = &machine->interfaces[i];
        cJSON *net = cJSON_CreateObject();
        json_add_string(net, "id", interface->id);
        json_add_string(net, "tap", interface->tap);
        if (interface->mac)
            json_add_string(net, "mac", interface->mac);
        json_append(nets, net);
    }
}

static int describe(const struct vmm_context *context, const struct machine *machine, cJSON **ret,
                    struct error *err)
{
    auto_json cJSON *config = cJSON_CreateObject();
    cJSON *cpus = json_add_object(config, "cpus");
    json_add_number(cpus, "boot_vcpus", machine->vcpus);
    json_add_number(cpus, "max_vcpus", machine->vcpus);
    add_memory(config, machine);
    add_payload(config, machine);
    json_add_string(json_add_object(config, "serial"), "mode", "Tty");
    json_add_string(json_add_object(config, "console"), "mode", "Off");
    add_interfaces(config, machine);
    int r = add_disks(context, config, machine, err);
    if (r == 0)
        *ret = steal_pointer(config);
    return r;
}

/* Cloud Hypervisor boots a VM again by itself when its guest reboots. It needs the kernel then, and
 * finds none; as it has opened the kernel when vm.boot returns, the link to it is removed. */
static int boot_vm(const struct vmm_context *context, struct vmm *vmm,
                   const struct machine *machine, struct error *err)
{
    cJSON *config = NULL;
    int r = describe(context, machine, &config, err);
    if (r == 0)
        r = vmm_new_link(context, machine->kernel, CLOUD_HYPERVISOR_KERNEL_NAME, err);
    if (r == 0)
        r = cloud_hypervisor_put(context, vmm, "/api/v1/vm.create", steal_pointer(config), err);
    cJSON_Delete(config);
    if (r == 0)
        r = cloud_hypervisor_put_bare(context, vmm, "/api/v1/vm.boot", err);
    if (unlinkat(context->directory_fd, CLOUD_HYPERVISOR_KERNEL_NAME, 0) < 0 && r == 0)
        r = error_errno(err, errno, "the link %s cannot be removed", CLOUD_HYPERVISOR_KERNEL_NAME);
    return r;
}

static int record(const struct program *program, struct machine *machine, struct error *err)
{
    auto_free char *version = strdup(program->version), *host_cpu = NULL;
    int r = version ? machine_host_cpu(&host_cpu, err)
                    : error_set(err, ENOMEM, "no memory for a version");
    if (r < 0)
        return r;
    free(machine->version);
    free(machine->host_cpu);
    machine->version = steal_pointer(version);
    machine->host_cpu = steal_pointer(host_cpu);
    machine->accel = ACCEL_KVM;
    return 0;
}

static int boot(const struct vmm_context *context, struct machine *machine, struct vmm **ret,
                struct error *err)
{
    struct program program;
    struct vmm *vmm = NULL;
    auto_close int memory = -1;
    if (!machine->kernel)
        return error_set(err, EINVAL,
                         "\"kernel\": Cloud Hypervisor needs one: give its path in config");
    int r = cloud_hypervisor_find(context, &program, err);
    if (r == 0)
        r = machine_name_devices(machine, err);
    if (r == 0)
        r = memory_create(context, machine->memory_bytes, &memory, err);
    if (r < 0)
        return r;
    off_t from = vmm_log_size(context);
    r = cloud_hypervisor_start(context, machine, NULL, &program, &vmm, err);
    if (r == 0)
        r = boot_vm(context, vmm, machine, err);
    if (r == 0 && (r = guest_memory_check(vmm->pid, memory, err)) < 0)
        r = vmm_explain(context, vmm, from, vmm_ended(vmm, r, err), err);
    if (r == 0)
        r = record(&program, machine, err);
    if (r < 0) {
        unlinkat(context->directory_fd, "memory", 0);
        return vmm_abandon(context, &cloud_hypervisor_hypervisor, vmm, r, err);
    }
    *ret = vmm;
    return 0;
}

/* ---- restoring ---- */

/* A new one. */
static int make_folder(const struct vmm_context *context, struct error *err)
{
    int r = directory_remove(context->directory_fd, folder_name, err);
    if (r == 0 && mkdirat(context->directory_fd, folder_name, 0700) < 0)
        r = error_errno(err, errno, "the directory %s cannot be made", folder_name);
    return r;
}

static int write_text(const struct vmm_context *context, const char *path, const char *text,
                      struct error *err)
{
    auto_close int fd = -1;
    if (!text)
        return error_set(err, ENOMEM, "no memory for %s", path);
    int r = vmm_new_file(context, path, &fd, err);
    if (r < 0)
        return r;
    r = text_file_write(fd, text, strlen(text));
    return r < 0 ? error_errno(err, -r, "%s cannot be written", path) : 0;
}

static int write_json(const struct vmm_context *context, const char *path, const cJSON *json,
                      struct error *err)
{
    auto_free char *text = json_print_line(json);
    return write_text(context, path, text, err);
}

/* It gets all it needs in a folder of its own, in which it looks for names of its own. */
static int prepare_restore(const struct vmm_context *context, const struct machine *machine,
                           const char *image, struct error *err)
{
    struct cloud_hypervisor_state state = {0};
    auto_free char *path = NULL;
    if (asprintf(&path, "%s/state", image) < 0)
        return error_set(err, ENOMEM, "no memory for a path");
    unlinkat(context->directory_fd, CLOUD_HYPERVISOR_KERNEL_NAME, 0); /* of an earlier boot */
    int r = cloud_hypervisor_state_read(context->directory_fd, path, &state, err);
    if (r == 0)
        r = cloud_hypervisor_state_place(&state, machine, image, err);
    if (r == 0)
        r = make_folder(context, err);
    if (r == 0)
        r = write_json(context, config_path, state.config, err);
    if (r == 0)
        r = write_json(context, state_path, state.state, err);
    cloud_hypervisor_state_finish(&state);
    return r;
}

static int check_record(const struct machine *machine, const struct program *program,
                        struct error *err)
{
    if (machine->version && strcmp(program->version, machine->version) != 0)
        return error_set(err, EOPNOTSUPP,
                         "the snapshot was saved by Cloud Hypervisor %s, and the program here is "
                         "%s",
                         machine->version, program->version);
    return machine_check_host_cpu(machine, err);
}

static int restore(const struct vmm_context *context, struct vmm *vmm, const char *image,
                   struct error *err)
{
    cJSON *body = cJSON_CreateObject();
    json_add_string(body, "source_url", folder_url);
    json_add_bool(body, "resume", false);
    int r = cloud_hypervisor_put(context, vmm, "/api/v1/vm.restore", body, err);
    return r == 0 ? memory_reach(context, vmm, image, err) : r;
}

static int load(const struct vmm_context *context, const struct machine *machine, const char *image,
                struct vmm **ret, struct error *err)
{
    struct program program;
    struct vmm *vmm = NULL;
    int r = cloud_hypervisor_find(context, &program, err);
    if (r == 0)
        r = check_record(machine, &program, err);
    if (r == 0)
        r = drives_copy(context, machine, image, err);
    if (r == 0)
        r = prepare_restore(context, machine, image, err);
    if (r == 0)
        r = cloud_hypervisor_start(context, machine, image, &program, &vmm, err);
    if (r == 0)
        r = restore(context, vmm, image, err);
    directory_remove(context->directory_fd, folder_name, NULL);
    if (r < 0)
        return vmm_abandon(context, &cloud_hypervisor_hypervisor, vmm, r, err);
    *ret = vmm;
    return 0;
}

/* ---- a VM's life ---- */

/* It refuses to do what it has done already, as it thinks, with `refusal`. */
static int change(const struct vmm_context *context, struct vmm *vmm, const char *path,
                  const char *refusal, bool *ret_refused, struct error *err)
{
    struct vmm_api_call call = {.method = "PUT", .path = path, .bare = true, .refusal = {refusal}};
    int r = vmm_api_call(context, vmm, &call, NULL, err);
    *ret_refused = call.refused;
    return r;
}

static int pause_guest(const struct vmm_context *context, struct vmm *vmm, struct error *err)
{
    bool paused;
    return change(context, vmm, "/api/v1/vm.pause", "InvalidStateTransition(Paused, Paused)",
                  &paused, err);
}

/* An answer to an earlier resume may not have come. Or a pause has failed halfway: then the VM
 * counts as running, and its processors stand still, until it is paused and resumed. */
static int resume(const struct vmm_context *context, struct vmm *vmm, struct error *err)
{
    static const char path[] = "/api/v1/vm.resume",
                      refusal[] = "InvalidStateTransition(Running, Running)";
    bool runs;
    int r = change(context, vmm, path, refusal, &runs, err);
    if (r < 0 || !runs)
        return r;
    r = pause_guest(context, vmm, err);
    return r == 0 ? change(context, vmm, path, refusal, &runs, err) : r;
}

/* ---- saving ---- */

/* Cloud Hypervisor would write all of a memory that is mapped privately. It does so last, into a
 * new file; where that is in the way, it has written all else, and says so. */
static int write_state(const struct vmm_context *context, struct vmm *vmm, struct error *err)
{
    auto_close int blocker = -1;
    int r = make_folder(context, err);
    if (r == 0)
        r = vmm_new_file(context, ranges_path, &blocker, err);
    if (r < 0)
        return r;
    cJSON *body = cJSON_CreateObject();
    json_add_string(body, "destination_url", folder_url);
    struct vmm_api_call call = {.method = "PUT",
                                .path = "/api/v1/vm.snapshot",
                                .body = body,
                                .refusal = {"memory-ranges", "os error 17"}};
    return vmm_api_call(context, vmm, &call, NULL, err);
}

/* Formats that a restore would find in a disk, where they begin a file or its last sector; it
 * refuses a disk then whose format was named as another. */
static const struct {
    const char *name, *magic;
    bool last;
} formats[] = {{"qcow2", "QFI\xfb", false},
               {"VHDX", "vhdxfile", false},
               {"VMDK", "KDMV", false},
               {"VMDK", "# Disk Descriptor", false},
               {"VHD", "conectix", true}};

static int check_disk(const struct vmm_context *context, const struct vmm *vmm,
                      const struct machine *machine, size_t index, struct error *err)
{
    enum { SECTOR = 512 };
    char sectors[2][SECTOR] = {{0}};
    auto_close int fd = -1;
    struct stat file;
    int r = opened_open(context, vmm, machine, index, &fd, err);
    if (r < 0)
        return r;
    if (fstat(fd, &file) < 0 || pread(fd, sectors[0], SECTOR, 0) < 0 ||
        (file.st_size >= SECTOR && pread(fd, sectors[1], SECTOR, file.st_size - SECTOR) < 0))
        return error_io(err, errno, "the disk %s cannot be read", machine->disks[index].path);
    for (size_t i = 0; i < array_length(formats); i++)
        if (memcmp(sectors[formats[i].last], formats[i].magic, strlen(formats[i].magic)) == 0)
            return error_set(err, EIO,
                             "the guest has written the signature of a %s file to its raw disk %s: "
                             "with that Cloud Hypervisor could not load the VM again; overwrite "
                             "it in the guest",
                             formats[i].name, machine->disks[index].path);
    return 0;
}

static int check_disks(const struct vmm_context *context, const struct vmm *vmm,
                       const struct machine *machine, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < machine->disk_count && r == 0; i++)
        if (!machine->disks[i].readonly && !machine->disks[i].lower &&
            strcmp(machine->disks[i].format, "raw") == 0)
            r = check_disk(context, vmm, machine, i, err);
    return r;
}

/* What it has written, as an image has it. */
static int keep_state(const struct vmm_context *context, const struct machine *machine,
                      const char *path, struct error *err)
{
    struct cloud_hypervisor_state state = {0};
    auto_free char *text = NULL;
    int r =
        cloud_hypervisor_state_take(context->directory_fd, config_path, state_path, &state, err);
    if (r < 0)
        return vmm_find_limit(context, r, err);
    cloud_hypervisor_state_forget_overlays(&state, machine);
    r = cloud_hypervisor_state_normalize(&state, machine->memory_bytes, err);
    if (r == 0)
        text = cloud_hypervisor_state_print(&state);
    if (r == 0)
        r = write_text(context, path, text, err);
    cloud_hypervisor_state_finish(&state);
    return r;
}

static int save(const struct vmm_context *context, struct vmm *vmm, struct machine *machine,
                const struct vmm_save *save, struct error *err)
{
    char state[PATH_SIZE];
    auto_close int memory = -1;
    snprintf(state, sizeof state, "%s/state", save->directory);
    int r = vmm_remove_old(context, state, err);
    if (r < 0)
        return r;
    r = memory_open(context, vmm, save, &memory, err);
    if (r == 0)
        r = check_disks(context, vmm, machine, err);
    if (r == 0)
        r = write_state(context, vmm, err);
    if (r == 0)
        r = keep_state(context, machine, state, err);
    directory_remove(context->directory_fd, folder_name, NULL);
    if (r == 0)
        r = memory_save(context, vmm, save, memory, err);
    const struct drives_save drives = {save->directory,
                                       cloud_hypervisor_has_overlays(machine->version)};
    if (r == 0)
        r = drives_freeze(context, vmm, machine, &drives, err);
    if (r < 0) {
        unlinkat(context->directory_fd, state, 0);
        memory_discard(context, save);
    }
    return r;
}

static void release(struct vmm *vmm)
{
    (void)vmm; /* each call has a connection of its own */
}

static const char *const sockets[] = {VMM_API_SOCKET_NAME, VMM_API_SOCKET_NAME ".lock",
                                      CLOUD_HYPERVISOR_VSOCK_NAME, NULL};

const struct hypervisor cloud_hypervisor_hypervisor = {
    .name = "cloud-hypervisor",
    .title = "Cloud Hypervisor",
    .sockets = sockets,
    .shares_memory = true,
    .copies_disks = true,
    .kill_only = true,
    .default_network = NETWORK_NONE,
    .check = machine_check_plain,
    .boot = boot,
    .load = load,
    .resume = resume,
    .pause = pause_guest,
    .prepare = memory_prepare,
    .save = save,
    .release = release,
};
