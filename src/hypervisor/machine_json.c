/* SPDX-License-Identifier: MIT */
/* machine_json: struct machine as snapshot.json and instance.json have it. */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/disks.h"
#include "hypervisor/machine.h"
#include "hypervisor/saved_path.h"
#include "util/cleanup.h"
#include "util/json.h"

enum {
    WORD_MAX = 80, /* of a recorded type, CPU model, version, of an id */
    VCPUS_MAX = 1024,
};
static const int64_t MEMORY_MIN = 4096, MEMORY_MAX = (int64_t)1 << 46;

static const char *const format_names[] = {"raw", "qcow2", NULL};

static void add_disk(cJSON *disks, const struct machine_disk *disk)
{
    cJSON *object = cJSON_CreateObject();
    json_add_text(object, "id", disk->id);
    json_add_text(object, "path", disk->path);
    json_add_text(object, "format", disk->format);
    json_add_bool(object, "readonly", disk->readonly);
    json_add_text(object, "frozen", disk->frozen);
    if (disk->pmem)
        json_add_bool(object, "pmem", true);
    if (disk->lower)
        json_add_string(object, "lower", disk->lower);
    if (disk->saved_path)
        json_add_string(object, "saved_path", disk->saved_path);
    if (disk->key[0]) {
        json_add_string(object, "key", disk->key);
        json_add_number(object, "layers", disk->layers);
    }
    json_append(disks, object);
}

static void add_interface(cJSON *interfaces, const struct machine_interface *interface)
{
    cJSON *object = cJSON_CreateObject();
    json_add_text(object, "id", interface->id);
    json_add_text(object, "tap", interface->tap);
    json_add_text(object, "mac", interface->mac);
    if (interface->replaced)
        json_add_bool(object, "replaced", true);
    json_append(interfaces, object);
}

static void add_boot(cJSON *json, const struct machine *machine)
{
    cJSON *boot = json_add_object(json, "boot");
    json_add_text(boot, "kernel", machine->kernel);
    json_add_text(boot, "initrd", machine->initrd);
    json_add_text(boot, "cmdline", machine->cmdline);
}

static void add_network(cJSON *json, const struct machine *machine)
{
    cJSON *network = json_add_object(json, "network");
    json_add_text(network, "mode", machine_network_names[machine->network]);
    json_add_bool(network, "restrict", machine->network_restrict);
    cJSON *interfaces = json_add_array(network, "interfaces");
    for (size_t i = 0; i < machine->interface_count; i++)
        add_interface(interfaces, &machine->interfaces[i]);
}

cJSON *machine_to_json(const struct machine *machine)
{
    cJSON *json = cJSON_CreateObject();
    json_add_number(json, "memory_bytes", (double)machine->memory_bytes);
    json_add_number(json, "vcpus", machine->vcpus);
    json_add_text(json, "machine", machine_board_names[machine->board]);
    json_add_text(json, "accel", machine_accel_names[machine->accel]);
    add_network(json, machine);
    cJSON *disks = json_add_array(json, "disks");
    for (size_t i = 0; i < machine->disk_count; i++)
        add_disk(disks, &machine->disks[i]);
    json_add_text(json, "type", machine->type);
    json_add_text(json, "cpu", machine->cpu);
    json_add_text(json, "host_cpu", machine->host_cpu);
    json_add_text(json, "version", machine->version);
    if (machine->console_max_bytes)
        json_add_number(json, "console_max_bytes", (double)machine->console_max_bytes);
    if (machine->vsock)
        json_add_string(json, "vsock", machine->vsock);
    if (machine->huge_pages)
        json_add_bool(json, "huge_pages", true);
    if (machine->in_firmware)
        add_boot(json, machine);
    return json;
}

/* These become part of a VMM's options, of the paths of its API, of names of files. */
static int check_word_of(const char *name, const char *word, size_t max, struct error *err)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    if (!word)
        return 0;
    size_t length = strlen(word);
    if (length == 0 || length > max || word[0] == '.' || strspn(word, allowed) != length)
        return error_set(err, EINVAL, "%s is not a word of letters, digits, '.', '_' and '-'",
                         name);
    return 0;
}

static int check_word(const char *name, const char *word, struct error *err)
{
    return check_word_of(name, word, WORD_MAX, err);
}

struct stored_disk {
    struct machine_disk disk;
    int format;
    char *key;
    int64_t layers;
};

static int check_chain(struct stored_disk *stored, struct error *err)
{
    struct machine_disk *disk = &stored->disk;
    if (!stored->key)
        return stored->layers == 0 ? 0 : error_set(err, EINVAL, "layers need a key");
    size_t length = strlen(stored->key);
    if (length == 0 || length >= sizeof disk->key || disk->frozen)
        return error_set(err, EINVAL, "key is not that of a disk without a copy");
    if (disk->readonly && stored->layers > 0)
        return error_set(err, EINVAL, "layers are for writable disks");
    memcpy(disk->key, stored->key, length + 1);
    disk->layers = (unsigned)stored->layers;
    return 0;
}

static int check_lower(const struct machine_disk *disk, struct error *err)
{
    char name[DISK_COPY_SIZE];
    disk_lower_name(disk, name);
    if (!disk->lower || (disk->id && disk->frozen && strcmp(disk->lower, name) == 0))
        return 0;
    return error_set(err, EINVAL, "lower is not the name of the file below a frozen disk");
}

static int check_disk(struct stored_disk *stored, struct error *err)
{
    struct machine_disk *disk = &stored->disk;
    int r = check_word("id", disk->id, err);
    if (r == 0)
        r = check_word_of("frozen", disk->frozen, DISK_COPY_SIZE - 1, err);
    if (r == 0)
        r = check_lower(disk, err);
    if (r == 0 && disk->path[0] != '/')
        r = error_set(err, EINVAL, "path is not absolute");
    const bool is_relative = disk->saved_path && saved_path_is_relative(disk->saved_path);
    const char *why = r == 0 && is_relative ? saved_path_refuse(disk->saved_path) : NULL;
    if (why)
        r = error_set(err, EINVAL, "nothing can be put at the saved_path, for it %s", why);
    if (r == 0 && disk->readonly && disk->frozen)
        r = error_set(err, EINVAL, "frozen is for writable disks");
    if (r == 0 && disk->pmem && !disk->readonly)
        r = error_set(err, EINVAL, "pmem is for read-only disks");
    if (r == 0)
        r = check_chain(stored, err);
    if (r == 0 && !(disk->format = strdup(format_names[stored->format])))
        r = error_set(err, ENOMEM, "no memory for a machine's description");
    return r;
}

/* In all of these: what was read is in the item, after a failure too. */
static int read_disk(const cJSON *json, void *item, struct error *err)
{
#define FIELD(member) offsetof(struct stored_disk, member)
    static const struct json_field fields[] = {
        {"id", JSON_STRING, FIELD(disk.id), .nullable = true},
        {"path", JSON_STRING, FIELD(disk.path), .required = true},
        {"format", JSON_WORD, FIELD(format), .required = true, .words = format_names},
        {"readonly", JSON_BOOL, FIELD(disk.readonly), .required = true},
        {"pmem", JSON_BOOL, FIELD(disk.pmem)},
        {"frozen", JSON_STRING, FIELD(disk.frozen), .nullable = true},
        {"lower", JSON_STRING, FIELD(disk.lower), .nullable = true},
        {"saved_path", JSON_STRING, FIELD(disk.saved_path), .nullable = true},
        {"key", JSON_STRING, FIELD(key), .nullable = true},
        {"layers", JSON_INTEGER, FIELD(layers), .max = DISK_LAYERS_MAX},
    };
#undef FIELD
    struct stored_disk stored = {0};
    int r = json_read(json, fields, array_length(fields), &stored, err);
    if (r == 0)
        r = check_disk(&stored, err);
    free(stored.key);
    *(struct machine_disk *)item = stored.disk;
    return r;
}

static int read_interface(const cJSON *json, void *item, struct error *err)
{
    static const struct json_field fields[] = {
        {"id", JSON_STRING, offsetof(struct machine_interface, id), .nullable = true},
        {"tap", JSON_STRING, offsetof(struct machine_interface, tap), .required = true},
        {"mac", JSON_STRING, offsetof(struct machine_interface, mac), .nullable = true},
        {"replaced", JSON_BOOL, offsetof(struct machine_interface, replaced)},
    };
    struct machine_interface *interface = item;
    int r = json_read(json, fields, array_length(fields), interface, err);
    if (r == 0)
        r = check_word("id", interface->id, err);
    if (r == 0 && !machine_tap_valid(interface->tap))
        r = error_set(err, EINVAL, "tap is not the name of an interface");
    if (r == 0 && interface->mac && !machine_mac_valid(interface->mac))
        r = error_set(err, EINVAL, "mac is not a unicast MAC address");
    return r;
}

struct stored_network {
    int mode;
    bool restricted;
    const cJSON *interfaces;
};

static int read_network(const cJSON *json, struct machine *machine, struct error *err)
{
#define FIELD(member) offsetof(struct stored_network, member)
    static const struct json_field fields[] = {
        {"mode", JSON_WORD, FIELD(mode), .required = true, .words = machine_network_names},
        {"restrict", JSON_BOOL, FIELD(restricted), .required = true},
        {"interfaces", JSON_ARRAY, FIELD(interfaces)},
    };
#undef FIELD
    static const struct json_list interfaces = {"interfaces", MACHINE_INTERFACES_MAX,
                                                sizeof *machine->interfaces, read_interface};
    struct stored_network network = {0};
    int r = json_read(json, fields, array_length(fields), &network, err);
    if (r == 0)
        r = json_read_list(network.interfaces, &interfaces, &machine->interfaces,
                           &machine->interface_count, err);
    if (r == 0 && (network.mode == NETWORK_TAP) != (machine->interface_count > 0))
        r = error_set(err, EINVAL, "interfaces are for mode tap, which needs one");
    if (r < 0)
        return error_prefix(err, r, "network");
    machine->network = (enum machine_network)network.mode;
    machine->network_restrict = network.restricted;
    return 0;
}

static int read_boot(const cJSON *json, struct machine *machine, struct error *err)
{
    static const struct json_field fields[] = {
        {"kernel", JSON_STRING, offsetof(struct machine, kernel), .required = true},
        {"initrd", JSON_STRING, offsetof(struct machine, initrd), .nullable = true},
        {"cmdline", JSON_STRING, offsetof(struct machine, cmdline), .nullable = true},
    };
    if (!json)
        return 0;
    machine->in_firmware = true;
    int r = json_read(json, fields, array_length(fields), machine, err);
    if (r == 0 && (machine->kernel[0] != '/' || (machine->initrd && machine->initrd[0] != '/')))
        r = error_set(err, EINVAL, "a path is not absolute");
    return r < 0 ? error_prefix(err, r, "boot") : 0;
}

struct stored_machine {
    int64_t memory_bytes, vcpus, console_max_bytes;
    int board, accel;
    const cJSON *network, *disks, *boot;
    struct machine machine;
};

static int read_members(const cJSON *json, struct stored_machine *stored, struct error *err)
{
#define FIELD(member) offsetof(struct stored_machine, member)
    static const struct json_field fields[] = {
        {"memory_bytes", JSON_INTEGER, FIELD(memory_bytes), .required = true, .min = MEMORY_MIN,
         .max = MEMORY_MAX},
        {"vcpus", JSON_INTEGER, FIELD(vcpus), .required = true, .min = 0, .max = VCPUS_MAX},
        {"machine", JSON_WORD, FIELD(board), .required = true, .words = machine_board_names},
        {"accel", JSON_WORD, FIELD(accel), .required = true, .words = machine_accel_names},
        {"network", JSON_OBJECT, FIELD(network), .required = true},
        {"disks", JSON_ARRAY, FIELD(disks), .required = true},
        {"boot", JSON_OBJECT, FIELD(boot)},
        {"type", JSON_STRING, FIELD(machine.type), .nullable = true},
        {"cpu", JSON_STRING, FIELD(machine.cpu), .nullable = true},
        {"host_cpu", JSON_STRING, FIELD(machine.host_cpu), .nullable = true},
        {"version", JSON_STRING, FIELD(machine.version), .nullable = true},
        {"vsock", JSON_STRING, FIELD(machine.vsock), .nullable = true},
        {"huge_pages", JSON_BOOL, FIELD(machine.huge_pages)},
        {"console_max_bytes", JSON_INTEGER, FIELD(console_max_bytes), .min = MACHINE_LOG_MAX_LEAST,
         .max = MACHINE_LOG_MAX_MOST},
    };
#undef FIELD
    int r = json_read(json, fields, array_length(fields), stored, err);
    if (r == 0)
        r = check_word("type", stored->machine.type, err);
    if (r == 0)
        r = check_word("cpu", stored->machine.cpu, err);
    return r;
}

int machine_from_json(const cJSON *json, struct machine *ret, struct error *err)
{
    struct stored_machine stored = {0};
    struct machine *machine = &stored.machine;
    static const struct json_list disks = {"disks", MACHINE_DISKS_MAX, sizeof *machine->disks,
                                           read_disk};
    int r = read_members(json, &stored, err);
    if (r == 0)
        r = read_network(stored.network, machine, err);
    if (r == 0)
        r = json_read_list(stored.disks, &disks, &machine->disks, &machine->disk_count, err);
    if (r == 0)
        r = read_boot(stored.boot, machine, err);
    if (r < 0) {
        machine_finish(machine);
        return r;
    }
    machine->memory_bytes = (uint64_t)stored.memory_bytes;
    machine->vcpus = (unsigned)stored.vcpus;
    machine->console_max_bytes = (uint64_t)stored.console_max_bytes;
    machine->board = (enum machine_board)stored.board;
    machine->accel = (enum machine_accel)stored.accel;
    *ret = *machine;
    return 0;
}
