/* SPDX-License-Identifier: MIT */
/* cloud_hypervisor_machine: what a saved state of Cloud Hypervisor has in common with a machine. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/cloud_hypervisor_state.h"
#include "hypervisor/disks.h"
#include "hypervisor/machine.h"
#include "util/cleanup.h"
#include "util/json.h"

static const char no_room[] = "no memory for a device state";

static int count_vcpus(const cJSON *config, unsigned *ret, struct error *err)
{
    uint64_t vcpus = json_get_count(json_get(config, "cpus"), "boot_vcpus");
    if (vcpus == 0 || vcpus > UINT16_MAX)
        return error_set(err, EIO, "\"cpus\" does not say how many processors the VM has");
    *ret = (unsigned)vcpus;
    return 0;
}

static int read_disk(const cJSON *json, void *item, struct error *err)
{
    struct machine_disk *ret = item;
    const char *id = json_get_text(json, "id"), *path = json_get_text(json, "path");
    const char *type = json_get_text(json, "image_type");
    bool qcow2 = type && strcmp(type, "Qcow2") == 0;
    if (!id || !path || path[0] != '/')
        return error_set(err, EOPNOTSUPP,
                         "a disk without an \"id\", or without an absolute \"path\", cannot be "
                         "forked");
    *ret = (struct machine_disk){.id = strdup(id),
                                 .path = strdup(path),
                                 .format = strdup(qcow2 ? "qcow2" : "raw"),
                                 .readonly = cJSON_IsTrue(json_get(json, "readonly"))};
    return ret->id && ret->path && ret->format ? 0 : error_set(err, ENOMEM, no_room);
}

static int read_interface(const cJSON *json, void *item, struct error *err)
{
    struct machine_interface *ret = item;
    const char *id = json_get_text(json, "id"), *tap = json_get_text(json, "tap");
    const char *mac = json_get_text(json, "mac");
    if (!id || !tap)
        return error_set(err, EOPNOTSUPP,
                         "a network device without an \"id\", or without a \"tap\" (it was made by "
                         "Cloud Hypervisor, or given as a descriptor), cannot be forked: write the "
                         "name of a tap into config.json");
    *ret = (struct machine_interface){
        .id = strdup(id), .tap = strdup(tap), .mac = mac ? strdup(mac) : NULL};
    return ret->id && ret->tap && (ret->mac || !mac) ? 0 : error_set(err, ENOMEM, no_room);
}

int cloud_hypervisor_state_tell(const struct cloud_hypervisor_state *state, struct machine *ret,
                                struct error *err)
{
    static const struct json_list disks = {"disks", MACHINE_DISKS_MAX, sizeof(struct machine_disk),
                                           read_disk},
                                  nets = {"net", MACHINE_INTERFACES_MAX,
                                          sizeof(struct machine_interface), read_interface};
    const cJSON *config = state->config;
    const char *socket = json_get_text(json_get(config, "vsock"), "socket");
    int r = count_vcpus(config, &ret->vcpus, err);
    if (r == 0 && cJSON_IsArray(json_get(config, "disks")))
        r = json_read_list(json_get(config, "disks"), &disks, &ret->disks, &ret->disk_count, err);
    if (r == 0 && cJSON_IsArray(json_get(config, "net")))
        r = json_read_list(json_get(config, "net"), &nets, &ret->interfaces, &ret->interface_count,
                           err);
    if (r == 0 && socket && !(ret->vsock = strdup(socket)))
        r = error_set(err, ENOMEM, no_room);
    ret->network = ret->interface_count > 0 ? NETWORK_TAP : NETWORK_NONE;
    return r;
}

void cloud_hypervisor_set_format(cJSON *item, const struct machine_disk *disk)
{
    const bool qcow2 = disk->lower || strcmp(disk->format, "qcow2") == 0;
    json_set(item, "image_type", cJSON_CreateString(qcow2 ? "Qcow2" : "Raw"));
    json_set(item, "backing_files", cJSON_CreateBool(disk->lower != NULL));
}

void cloud_hypervisor_state_forget_overlays(struct cloud_hypervisor_state *state,
                                            const struct machine *machine)
{
    cJSON *item, *items = (cJSON *)(uintptr_t)json_get(state->config, "disks");
    cJSON_ArrayForEach (item, items) {
        const struct machine_disk *disk = machine_find_disk(machine, json_get_text(item, "id"));
        if (!disk || !disk->lower)
            continue;
        json_set(item, "image_type", cJSON_CreateString("Raw"));
        json_set(item, "backing_files", cJSON_CreateFalse());
    }
}

static int place_disks(cJSON *config, const struct machine *machine, struct error *err)
{
    cJSON *item, *items = (cJSON *)(uintptr_t)json_get(config, "disks");
    char name[DISK_COPY_SIZE];
    if ((size_t)cJSON_GetArraySize(items) != machine->disk_count)
        return error_set(err, EIO, "the saved state has another number of disks than the snapshot");
    cJSON_ArrayForEach (item, items) {
        const struct machine_disk *disk = machine_find_disk(machine, json_get_text(item, "id"));
        if (!disk || disk->readonly != cJSON_IsTrue(json_get(item, "readonly")))
            return error_set(err, EIO, "the saved state has other disks than the snapshot");
        if (!disk->readonly && !disk->frozen)
            return error_set(err, EOPNOTSUPP,
                             "the disk %s can be written to and is not frozen: its forks would "
                             "share it",
                             disk->path);
        disk_drive_name(disk, name);
        json_set(item, "path", cJSON_CreateString(disk->readonly ? disk->path : name));
        if (disk->lower)
            cloud_hypervisor_set_format(item, disk);
    }
    return 0;
}

static const struct machine_interface *find_interface(const struct machine *machine, const char *id)
{
    for (size_t i = 0; i < machine->interface_count; i++)
        if (id && machine->interfaces[i].id && strcmp(machine->interfaces[i].id, id) == 0)
            return &machine->interfaces[i];
    return NULL;
}

static int place_interfaces(cJSON *config, const struct machine *machine, struct error *err)
{
    cJSON *item, *items = (cJSON *)(uintptr_t)json_get(config, "net");
    if ((size_t)cJSON_GetArraySize(items) != machine->interface_count)
        return error_set(err, EIO,
                         "the saved state has another number of interfaces than the snapshot");
    cJSON_ArrayForEach (item, items) {
        const struct machine_interface *interface =
            find_interface(machine, json_get_text(item, "id"));
        if (!interface)
            return error_set(err, EIO, "the saved state has other interfaces than the snapshot");
        json_set(item, "tap", cJSON_CreateString(interface->tap));
    }
    return 0;
}

static int place_memory(cJSON *config, const char *image, uint64_t memory_bytes, struct error *err)
{
    cJSON *zone = cJSON_GetArrayItem(json_get(json_get(config, "memory"), "zones"), 0);
    auto_free char *path = NULL;
    if (json_get_count(zone, "size") != memory_bytes)
        return error_set(err, EIO,
                         "the saved state is one of a memory of %" PRIu64
                         " bytes, and the memory image has %" PRIu64,
                         json_get_count(zone, "size"), memory_bytes);
    if (asprintf(&path, "%s/memory", image) < 0)
        return error_set(err, ENOMEM, no_room);
    json_set(zone, "file", cJSON_CreateString(path));
    return 0;
}

int cloud_hypervisor_state_place(struct cloud_hypervisor_state *state,
                                 const struct machine *machine, const char *image,
                                 struct error *err)
{
    unsigned vcpus = 0;
    int r = count_vcpus(state->config, &vcpus, err);
    if (r == 0 && vcpus != machine->vcpus)
        r = error_set(err, EIO, "the saved state is one of %u processors, and the snapshot has %u",
                      vcpus, machine->vcpus);
    if (r == 0)
        r = place_memory(state->config, image, machine->memory_bytes, err);
    if (r == 0)
        r = place_disks(state->config, machine, err);
    if (r == 0)
        r = place_interfaces(state->config, machine, err);
    cJSON *vsock = (cJSON *)(uintptr_t)json_get(state->config, "vsock");
    if (r == 0 && cJSON_IsObject(vsock))
        json_set(vsock, "socket", cJSON_CreateString(CLOUD_HYPERVISOR_VSOCK_NAME));
    return r;
}
