/* SPDX-License-Identifier: MIT */
/* Firecracker's configuration (firecracker.yaml): members that a fork does not need are ignored. */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/disks.h"
#include "hypervisor/import.h"
#include "util/cleanup.h"
#include "util/json.h"

enum { MIB = 1 << 20, VCPUS_MAX = 32, MEMORY_MIB_MAX = 1 << 26, DRIVES_MAX = 64 };

struct drive {
    char *id, *path;
    bool readonly;
};

static int complete_disk(struct machine_disk *disk, struct error *err)
{
    disk->format = strdup("raw");
    return disk->format ? 0 : error_set(err, ENOMEM, "out of memory");
}

static int read_drive(const cJSON *json, void *item, struct error *err)
{
    static const struct json_field fields[] = {
        {"drive_id", JSON_STRING, offsetof(struct drive, id), .required = true},
        {"path_on_host", JSON_STRING, offsetof(struct drive, path), .nullable = true},
        {"is_read_only", JSON_BOOL, offsetof(struct drive, readonly), .nullable = true},
    };
    struct drive drive = {0};
    struct machine_disk *ret = item;
    int r = json_read_known(json, fields, array_length(fields), &drive, err);
    *ret = (struct machine_disk){.id = drive.id, .path = drive.path, .readonly = drive.readonly};
    if (r < 0)
        return r;
    if (!drive.path)
        return error_set(err, EOPNOTSUPP,
                         "the drive %.64s has no path_on_host: a vhost-user drive cannot be forked",
                         drive.id);
    return complete_disk(ret, err);
}

/* To one that can be written to, all clones would write: Firecracker, which can be told of another
 * file for a drive, cannot be for this. */
static int read_pmem(const cJSON *json, void *item, struct error *err)
{
    static const struct json_field fields[] = {
        {"id", JSON_STRING, offsetof(struct machine_disk, id), .required = true},
        {"path_on_host", JSON_STRING, offsetof(struct machine_disk, path), .required = true},
        {"read_only", JSON_BOOL, offsetof(struct machine_disk, readonly), .nullable = true},
    };
    struct machine_disk *ret = item;
    int r = json_read_known(json, fields, array_length(fields), ret, err);
    ret->pmem = true;
    if (r == 0 && !ret->readonly)
        r = error_set(err, EOPNOTSUPP,
                      "the pmem device %.64s is not read_only, and cannot be forked", ret->id);
    return r < 0 ? r : complete_disk(ret, err);
}

static int read_interface(const cJSON *json, void *item, struct error *err)
{
    static const struct json_field fields[] = {
        {"iface_id", JSON_STRING, offsetof(struct machine_interface, id), .required = true},
        {"host_dev_name", JSON_STRING, offsetof(struct machine_interface, tap), .required = true},
        {"guest_mac", JSON_STRING, offsetof(struct machine_interface, mac), .nullable = true},
    };
    return json_read_known(json, fields, array_length(fields), item, err);
}

struct machine_config {
    int64_t vcpus, memory_mib;
    char *huge_pages;
};

/* Memory that can be plugged in while the VM runs; it is in the memory file from the start. */
static int read_hotplug(const cJSON *json, int64_t *ret_mib, struct error *err)
{
    static const struct json_field fields[] = {
        {"total_size_mib", JSON_INTEGER, 0, .required = true, .min = 1, .max = MEMORY_MIB_MAX}};
    int r = json ? json_read_known(json, fields, array_length(fields), ret_mib, err) : 0;
    return r < 0 ? error_prefix(err, r, "memory-hotplug") : 0;
}

/* The memory file is the same, of whatever pages the memory was. */
static int read_huge_pages(const char *text, struct machine *machine, struct error *err)
{
    machine->huge_pages = strcmp(text, "2M") == 0;
    if (machine->huge_pages || strcmp(text, "None") == 0 || strcmp(text, "Transparent") == 0)
        return 0;
    return error_set(err, EOPNOTSUPP, "machine-config: huge_pages \"%.20s\" is not known", text);
}

/* On entry the machine has the size of its memory file. */
static int read_machine_config(const cJSON *json, int64_t hotplug_mib, struct machine *machine,
                               struct error *err)
{
#define FIELD(member) offsetof(struct machine_config, member)
    static const struct json_field fields[] = {
        {"vcpu_count", JSON_INTEGER, FIELD(vcpus), .required = true, .min = 1, .max = VCPUS_MAX},
        {"mem_size_mib", JSON_INTEGER, FIELD(memory_mib), .required = true, .min = 1,
         .max = MEMORY_MIB_MAX},
        {"huge_pages", JSON_STRING, FIELD(huge_pages), .nullable = true},
    };
#undef FIELD
    struct machine_config config = {0};
    if (!json)
        return 0;
    int r = json_read_known(json, fields, array_length(fields), &config, err);
    if (r < 0)
        error_prefix(err, r, "machine-config");
    else if (config.huge_pages)
        r = read_huge_pages(config.huge_pages, machine, err);
    free(config.huge_pages);
    machine->vcpus = (unsigned)config.vcpus;
    uint64_t bytes = (uint64_t)config.memory_mib * MIB;
    if (bytes != machine->memory_bytes) /* else it tells of both together already */
        bytes += (uint64_t)hotplug_mib * MIB;
    machine->memory_bytes = bytes;
    return r;
}

static int read_vsock(const cJSON *json, struct machine *machine, struct error *err)
{
    static const struct json_field fields[] = {
        {"uds_path", JSON_STRING, offsetof(struct machine, vsock), .required = true}};
    int r = json ? json_read_known(json, fields, array_length(fields), machine, err) : 0;
    return r < 0 ? error_prefix(err, r, "vsock") : 0;
}

/* Behind the drives: a file that the state names, too. */
static int add_pmem(const cJSON *json, struct machine *machine, struct error *err)
{
    static const struct json_list list = {"pmem", DRIVES_MAX, sizeof *machine->disks, read_pmem};
    struct machine own = {0};
    int r = json_read_list(json, &list, &own.disks, &own.disk_count, err);
    struct machine_disk *all =
        r < 0 ? NULL
              : reallocarray(machine->disks, machine->disk_count + own.disk_count + 1, sizeof *all);
    if (!all) {
        disks_finish(&own);
        return r < 0 ? r : error_set(err, ENOMEM, "out of memory");
    }
    for (size_t i = 0; i < own.disk_count; i++)
        all[machine->disk_count++] = own.disks[i];
    machine->disks = all;
    free(own.disks);
    return 0;
}

struct members {
    const cJSON *drives, *interfaces, *machine, *hotplug, *vsock, *pmem;
};

int import_read_firecracker(const cJSON *json, struct machine *ret, struct error *err)
{
#define FIELD(member) offsetof(struct members, member)
    static const struct json_field fields[] = {
        {"drives", JSON_ARRAY, FIELD(drives), .nullable = true},
        {"network-interfaces", JSON_ARRAY, FIELD(interfaces), .nullable = true},
        {"machine-config", JSON_OBJECT, FIELD(machine), .nullable = true},
        {"memory-hotplug", JSON_OBJECT, FIELD(hotplug), .nullable = true},
        {"vsock", JSON_OBJECT, FIELD(vsock), .nullable = true},
        {"pmem", JSON_ARRAY, FIELD(pmem), .nullable = true},
    };
#undef FIELD
    static const struct json_list drives = {"drives", DRIVES_MAX, sizeof *ret->disks, read_drive};
    static const struct json_list interfaces = {"network-interfaces", MACHINE_INTERFACES_MAX,
                                                sizeof *ret->interfaces, read_interface};
    struct members members = {0};
    int64_t hotplug_mib = 0;
    int r = json_read_known(json, fields, array_length(fields), &members, err);
    if (r == 0 && !members.drives && !members.machine)
        r = error_set(err, EINVAL,
                      "this is no configuration of Firecracker's: it has neither \"drives\" nor "
                      "\"machine-config\"");
    if (r == 0)
        r = json_read_list(members.drives, &drives, &ret->disks, &ret->disk_count, err);
    if (r == 0)
        r = add_pmem(members.pmem, ret, err);
    if (r == 0)
        r = json_read_list(members.interfaces, &interfaces, &ret->interfaces, &ret->interface_count,
                           err);
    ret->network = ret->interface_count > 0 ? NETWORK_TAP : NETWORK_NONE;
    if (r == 0)
        r = read_hotplug(members.hotplug, &hotplug_mib, err);
    if (r == 0)
        r = read_machine_config(members.machine, hotplug_mib, ret, err);
    return r < 0 ? r : read_vsock(members.vsock, ret, err);
}
