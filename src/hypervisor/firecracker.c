/* SPDX-License-Identifier: MIT */
/* The backend for Firecracker. docs/hypervisors.md says what is done to it, and why. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hypervisor/confine.h"
#include "hypervisor/drives.h"
#include "hypervisor/firecracker_control.h"
#include "hypervisor/firecracker_drives.h"
#include "hypervisor/firecracker_program.h"
#include "hypervisor/firecracker_save.h"
#include "hypervisor/firecracker_vsock.h"
#include "hypervisor/machine.h"
#include "hypervisor/memory.h"
#include "hypervisor/vmm_api.h"
#include "hypervisor/vmm_process.h"
#include "util/cleanup.h"
#include "util/json.h"

enum {
    MIB_SHIFT = 20,
    PATH_SIZE = 128,
};

static const char memory_name[] = "memory";
static const char state_name[] = "state";

static int start(const struct vmm_context *context, const struct machine *machine,
                 const char *image, const struct program *program, struct vmm **ret,
                 struct error *err)
{
    struct arguments confined = {0};
    int r = machine_check_taps(machine, err);
    if (r == 0 && image)
        r = context->confine ? firecracker_make_paths(context, machine, err)
                             : firecracker_check_paths(machine, err);
    if (r == 0 && context->confine)
        confine_begin(&confined, context, machine, image, program->path);
    if (r == 0 && image && context->confine)
        r = firecracker_vsock_show(context, machine, program->version, &confined, err);
    if (r == 0)
        r = firecracker_start(machine->hypervisor, context, &confined, program->path, ret, err);
    arguments_finish(&confined);
    return r;
}

/* ---- requests ---- */

static int send_words(const struct vmm_context *context, struct vmm *vmm, const char *method,
                      const char *path, const char *name, const char *value, struct error *err)
{
    cJSON *body = cJSON_CreateObject();
    json_add_string(body, name, value);
    struct vmm_api_call call = {.method = method, .path = path, .body = body};
    return vmm_api_call(context, vmm, &call, NULL, err);
}

/* ---- booting ---- */

static int configure_machine(const struct vmm_context *context, struct vmm *vmm,
                             const struct machine *machine, struct error *err)
{
    cJSON *body = cJSON_CreateObject();
    json_add_number(body, "vcpu_count", machine->vcpus);
    json_add_number(body, "mem_size_mib", (double)(machine->memory_bytes >> MIB_SHIFT));
    struct vmm_api_call call = {.method = "PUT", .path = "/machine-config", .body = body};
    return vmm_api_call(context, vmm, &call, NULL, err);
}

/* To reboot, Linux asks devices that these VMs do not have, for a long time, before the keyboard
 * controller, at which Firecracker ends; so Firecracker's own default has this, too. */
static void add_cmdline(cJSON *body, const char *cmdline)
{
    auto_free char *text = NULL;
    bool told = strstr(cmdline, "reboot=");
    if (asprintf(&text, "%s%s", cmdline, told ? "" : " reboot=k") < 0)
        text = NULL; /* so that the tree is not whole */
    json_add_string(body, "boot_args", text);
}

static int configure_boot(const struct vmm_context *context, struct vmm *vmm,
                          const struct machine *machine, struct error *err)
{
    cJSON *body = cJSON_CreateObject();
    json_add_string(body, "kernel_image_path", machine->kernel ? machine->kernel : "");
    if (machine->initrd)
        json_add_string(body, "initrd_path", machine->initrd);
    if (machine->cmdline)
        add_cmdline(body, machine->cmdline);
    struct vmm_api_call call = {.method = "PUT", .path = "/boot-source", .body = body};
    return vmm_api_call(context, vmm, &call, NULL, err);
}

/* What is root is said in the command line: with is_root_device Firecracker would add to it. */
static int configure_drive(const struct vmm_context *context, struct vmm *vmm,
                           const struct machine_disk *disk, const char *id, struct error *err)
{
    char path[PATH_SIZE];
    auto_free char *file = NULL;
    snprintf(path, sizeof path, "/drives/%s", id);
    int r = drive_path(context, disk, &file, err);
    if (r < 0)
        return r;
    cJSON *body = cJSON_CreateObject();
    json_add_string(body, "drive_id", id);
    json_add_string(body, "path_on_host", file);
    json_add_bool(body, "is_root_device", false);
    json_add_bool(body, "is_read_only", disk->readonly);
    struct vmm_api_call call = {.method = "PUT", .path = path, .body = body};
    return vmm_api_call(context, vmm, &call, NULL, err);
}

static int configure_interface(const struct vmm_context *context, struct vmm *vmm,
                               const struct machine_interface *interface, const char *id,
                               struct error *err)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "/network-interfaces/%s", id);
    cJSON *body = cJSON_CreateObject();
    json_add_string(body, "iface_id", id);
    json_add_string(body, "host_dev_name", interface->tap);
    if (interface->mac)
        json_add_string(body, "guest_mac", interface->mac);
    struct vmm_api_call call = {.method = "PUT", .path = path, .body = body};
    return vmm_api_call(context, vmm, &call, NULL, err);
}

/* Gives what it configures its id, which a fork will need. */
static int configure(const struct vmm_context *context, struct vmm *vmm, struct machine *machine,
                     struct error *err)
{
    int r = configure_machine(context, vmm, machine, err);
    if (r == 0)
        r = configure_boot(context, vmm, machine, err);
    if (r == 0)
        r = machine_name_devices(machine, err);
    for (size_t i = 0; i < machine->disk_count && r == 0; i++)
        r = configure_drive(context, vmm, &machine->disks[i], machine->disks[i].id, err);
    for (size_t i = 0; i < machine->interface_count && r == 0; i++)
        r = configure_interface(context, vmm, &machine->interfaces[i], machine->interfaces[i].id,
                                err);
    return r;
}

static int record(const struct vmm *vmm, struct machine *machine, struct error *err)
{
    const struct firecracker *firecracker = vmm->state;
    char *copy = strdup(firecracker->version);
    if (!copy)
        return error_set(err, ENOMEM, "no memory for a version");
    free(machine->version);
    machine->version = copy;
    machine->accel = ACCEL_KVM;
    return 0;
}

static int boot(const struct vmm_context *context, struct machine *machine, struct vmm **ret,
                struct error *err)
{
    struct program program;
    struct vmm *vmm = NULL;
    int r = firecracker_find_program(context, &program, err);
    if (r == 0)
        r = start(context, machine, NULL, &program, &vmm, err);
    if (r < 0)
        return r;
    r = configure(context, vmm, machine, err);
    if (r == 0)
        r = send_words(context, vmm, "PUT", "/actions", "action_type", "InstanceStart", err);
    if (r == 0)
        r = record(vmm, machine, err);
    if (r < 0)
        return vmm_abandon(context, &firecracker_hypervisor, vmm, r, err);
    *ret = vmm;
    return 0;
}

/* ---- restoring ---- */

/* The saved state names the taps that it was on. */
static int add_network(const struct firecracker *firecracker, const struct machine *machine,
                       cJSON *body, struct error *err)
{
    cJSON *overrides = NULL;
    for (size_t i = 0; i < machine->interface_count; i++) {
        const struct machine_interface *interface = &machine->interfaces[i];
        if (!interface->replaced)
            continue;
        if (!firecracker_is_at_least(firecracker, 1, 12))
            return error_set(err, EOPNOTSUPP,
                             "a fork on another tap needs Firecracker 1.12, and this one is %s: "
                             "leave out the option \"tap\", or use a newer one",
                             firecracker->version);
        if (!interface->id)
            return error_set(err, EOPNOTSUPP,
                             "a fork on another tap needs the id of the interface, which the "
                             "snapshot does not have: import it again with --config");
        if (!overrides)
            overrides = json_add_array(body, "network_overrides");
        cJSON *item = cJSON_CreateObject();
        json_add_string(item, "iface_id", interface->id);
        json_add_string(item, "host_dev_name", interface->tap);
        json_append(overrides, item);
    }
    return 0;
}

/* A memory that was on hugetlbfs would else be loaded through userfaultfd only. */
static int add_huge_pages(const struct firecracker *firecracker, const struct machine *machine,
                          cJSON *body, struct error *err)
{
    if (!machine->huge_pages)
        return 0;
    if (!firecracker_is_at_least(firecracker, 1, 17))
        return error_set(err, EOPNOTSUPP,
                         "the saved state is of a VM with huge_pages \"2M\", which needs "
                         "Firecracker 1.17 to be forked, and this one is %s: use a newer one",
                         firecracker->version);
    json_add_string(body, "huge_pages", "None");
    return 0;
}

static int load_state(const struct vmm_context *context, struct vmm *vmm,
                      const struct machine *machine, const char *image, struct error *err)
{
    const struct firecracker *firecracker = vmm->state;
    int r = firecracker_vsock_clear(context, firecracker, machine, err);
    if (r < 0)
        return r;
    auto_free char *state = NULL, *memory = NULL;
    if (asprintf(&state, "%s/%s", image, state_name) < 0 ||
        asprintf(&memory, "%s/%s", image, memory_name) < 0)
        return error_set(err, ENOMEM, "no memory for a path");
    cJSON *body = firecracker_load_request(state, memory);
    firecracker_vsock_add(firecracker, machine, body);
    r = add_network(firecracker, machine, body, err);
    if (r == 0)
        r = add_huge_pages(firecracker, machine, body, err);
    if (r < 0) {
        cJSON_Delete(body);
        return r;
    }
    struct vmm_api_call call = {.method = "PUT", .path = "/snapshot/load", .body = body};
    return vmm_api_call(context, vmm, &call, NULL, err);
}

static int check_format(const struct vmm_context *context, const char *image,
                        const struct program *program, struct error *err)
{
    auto_free char *path = NULL;
    if (asprintf(&path, "%s/%s", image, state_name) < 0)
        return error_set(err, ENOMEM, "no memory for a path");
    return firecracker_check_format(context, path, program, err);
}

static int load(const struct vmm_context *context, const struct machine *machine, const char *image,
                struct vmm **ret, struct error *err)
{
    struct program program;
    struct vmm *vmm = NULL;
    int r = firecracker_find_program(context, &program, err);
    if (r == 0)
        r = check_format(context, image, &program, err);
    if (r == 0)
        r = drives_copy(context, machine, image, err);
    if (r == 0)
        r = start(context, machine, image, &program, &vmm, err);
    if (r < 0)
        return r;
    r = load_state(context, vmm, machine, image, err);
    if (r < 0 && r != -ECANCELED)
        firecracker_explain_drives(context, machine, err);
    if (r == 0)
        r = firecracker_place_drives(context, vmm, machine, err);
    if (r == 0 && (r = memory_reach(context, vmm, image, err)) < 0)
        r = vmm_explain(context, vmm, 0, r, err);
    if (r < 0)
        return vmm_abandon(context, &firecracker_hypervisor, vmm, r, err);
    *ret = vmm;
    return 0;
}

/* ---- a VM's life ---- */

static int resume(const struct vmm_context *context, struct vmm *vmm, struct error *err)
{
    return send_words(context, vmm, "PATCH", "/vm", "state", "Resumed", err);
}

static int pause_guest(const struct vmm_context *context, struct vmm *vmm, struct error *err)
{
    return send_words(context, vmm, "PATCH", "/vm", "state", "Paused", err);
}

static const char *const sockets[] = {VMM_API_SOCKET_NAME, FIRECRACKER_VSOCK_NAME, NULL};

const struct hypervisor firecracker_hypervisor = {
    .name = "firecracker",
    .title = "Firecracker",
    .sockets = sockets,
    .copies_disks = true,
    .kill_only = true,
    .default_network = NETWORK_NONE,
    .check = machine_check_plain,
    .boot = boot,
    .load = load,
    .resume = resume,
    .pause = pause_guest,
    .prepare = memory_prepare,
    .save = firecracker_save,
    .release = firecracker_release,
};
