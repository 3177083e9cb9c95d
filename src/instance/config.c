/* SPDX-License-Identifier: MIT */
#include "instance/config.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/json.h"

struct config {
    int64_t memory_mib, vcpus, console_max_bytes;
    int hypervisor, board, accel;
    char *kernel, *initrd, *cmdline;
    const cJSON *disks, *network;
};

struct disk_config {
    char *path;
    int format;
    bool readonly;
};

struct network_config {
    int mode;
    bool restrict_;
    char *tap, *mac;
};

static const char *const format_words[] = {"raw", "qcow2", NULL};

static const struct json_field config_fields[] = {
    {JSON_MEMBER(struct config, hypervisor), .kind = JSON_WORD, .words = hypervisor_names},
    {JSON_MEMBER(struct config, memory_mib), .kind = JSON_INTEGER, .min = 1,
     .max = CONFIG_MEMORY_MIB_MAX},
    {JSON_MEMBER(struct config, vcpus), .kind = JSON_INTEGER, .min = 1, .max = CONFIG_VCPUS_MAX},
    {JSON_MEMBER(struct config, kernel), .kind = JSON_STRING, .nullable = true},
    {JSON_MEMBER(struct config, initrd), .kind = JSON_STRING, .nullable = true},
    {JSON_MEMBER(struct config, cmdline), .kind = JSON_STRING, .nullable = true},
    {JSON_MEMBER(struct config, disks), .kind = JSON_ARRAY},
    {JSON_MEMBER(struct config, network), .kind = JSON_OBJECT},
    {"machine", JSON_WORD, .offset = offsetof(struct config, board), .words = machine_board_names},
    {JSON_MEMBER(struct config, accel), .kind = JSON_WORD, .words = machine_accel_names},
    {JSON_MEMBER(struct config, console_max_bytes), .kind = JSON_INTEGER,
     .min = MACHINE_LOG_MAX_LEAST, .max = MACHINE_LOG_MAX_MOST},
};

static const struct json_field disk_fields[] = {
    {JSON_MEMBER(struct disk_config, path), .kind = JSON_STRING, .required = true},
    {JSON_MEMBER(struct disk_config, format), .kind = JSON_WORD, .words = format_words,
     .required = true},
    {JSON_MEMBER(struct disk_config, readonly), .kind = JSON_BOOL},
};

static const struct json_field network_fields[] = {
    {JSON_MEMBER(struct network_config, mode), .kind = JSON_WORD, .words = machine_network_names},
    {"restrict", JSON_BOOL, .offset = offsetof(struct network_config, restrict_)},
    {JSON_MEMBER(struct network_config, tap), .kind = JSON_STRING, .nullable = true},
    {JSON_MEMBER(struct network_config, mac), .kind = JSON_STRING, .nullable = true},
};

static int check_path(const char *name, const char *path, struct error *err)
{
    if (path && path[0] != '/')
        return error_set(err, EINVAL, "\"%s\" must be an absolute path", name);
    return 0;
}

static int read_disk(const cJSON *json, struct machine_disk *ret, struct error *err)
{
    struct disk_config disk = {0};
    int r = cJSON_IsObject(json)
                ? json_read(json, disk_fields, array_length(disk_fields), &disk, err)
                : error_set(err, EINVAL, "a disk must be an object");
    if (r == 0)
        r = check_path("path", disk.path, err);
    if (r == 0 && !(ret->format = strdup(format_words[disk.format])))
        r = error_set(err, ENOMEM, "out of memory");
    if (r < 0) {
        free(disk.path);
        return r;
    }
    ret->path = disk.path;
    ret->readonly = disk.readonly;
    return 0;
}

static int read_disks(const cJSON *json, struct machine *machine, struct error *err)
{
    int count = json ? cJSON_GetArraySize(json) : 0;
    if (count == 0)
        return 0;
    if (count > CONFIG_DISKS_MAX)
        return error_set(err, EINVAL, "\"disks\": at most %d", CONFIG_DISKS_MAX);
    machine->disks = calloc((size_t)count, sizeof *machine->disks);
    if (!machine->disks)
        return error_set(err, ENOMEM, "out of memory");
    for (int i = 0; i < count; i++) {
        int r = read_disk(cJSON_GetArrayItem(json, i), &machine->disks[i], err);
        if (r < 0)
            return error_prefix(err, r, "disk %d", i);
        machine->disk_count++;
    }
    return 0;
}

static int check_network(const struct network_config *network, struct error *err)
{
    if (network->mode != NETWORK_TAP)
        return network->tap || network->mac
                   ? error_set(err, EINVAL, "\"tap\" and \"mac\" are for \"mode\": \"tap\"")
                   : 0;
    if (!network->tap || !machine_tap_valid(network->tap))
        return error_set(
            err, EINVAL,
            "with \"mode\": \"tap\", \"tap\" must be the name of the host's interface: 1 to "
            "%d of A-Z, a-z, 0-9, \"_\", \".\" and \"-\"",
            MACHINE_TAP_MAX);
    if (network->mac && !machine_mac_valid(network->mac))
        return error_set(err, EINVAL,
                         "\"mac\" must be an address of one interface, such as 02:00:00:00:00:01");
    if (network->restrict_)
        return error_set(err, EINVAL, "\"restrict\" is for \"mode\": \"user\"");
    return 0;
}

static int add_interface(struct network_config *network, struct machine *machine, struct error *err)
{
    machine->interfaces = calloc(1, sizeof *machine->interfaces);
    if (!machine->interfaces)
        return error_set(err, ENOMEM, "out of memory");
    machine->interface_count = 1;
    machine->interfaces[0] = (struct machine_interface){.tap = steal_pointer(network->tap),
                                                        .mac = steal_pointer(network->mac)};
    return 0;
}

static int read_network(const cJSON *json, struct machine *machine, struct error *err)
{
    struct network_config network = {.mode = (int)machine->hypervisor->default_network};
    int r = json ? json_read(json, network_fields, array_length(network_fields), &network, err) : 0;
    if (r == 0)
        r = check_network(&network, err);
    if (r == 0 && network.mode == NETWORK_TAP)
        r = add_interface(&network, machine, err);
    free(network.tap);
    free(network.mac);
    if (r < 0)
        return error_prefix(err, r, "\"network\"");
    machine->network = (enum machine_network)network.mode;
    machine->network_restrict = network.restrict_;
    return 0;
}

static int interpret(struct config *config, struct machine *machine, struct error *err)
{
    machine->hypervisor = hypervisor_find(hypervisor_names[config->hypervisor]);
    machine->memory_bytes = (uint64_t)config->memory_mib << 20;
    machine->vcpus = (unsigned)config->vcpus;
    machine->console_max_bytes = (uint64_t)config->console_max_bytes;
    machine->board = (enum machine_board)config->board;
    machine->accel = (enum machine_accel)config->accel;
    machine->kernel = steal_pointer(config->kernel);
    machine->initrd = steal_pointer(config->initrd);
    machine->cmdline = steal_pointer(config->cmdline);
    int r = check_path("kernel", machine->kernel, err);
    if (r == 0)
        r = check_path("initrd", machine->initrd, err);
    if (r == 0)
        r = read_network(config->network, machine, err);
    if (r == 0)
        r = read_disks(config->disks, machine, err);
    return r < 0 ? r : vmm_check(machine, err);
}

int config_parse(const char *text, size_t size, struct machine *ret, struct error *err)
{
    struct config config = {.memory_mib = CONFIG_MEMORY_MIB_DEFAULT, .vcpus = 1};
    struct machine machine = {0};
    auto_json cJSON *json = NULL;
    int r = json_parse(text, size, &json, err);
    if (r == 0)
        r = json_read(json, config_fields, array_length(config_fields), &config, err);
    if (r == 0)
        r = interpret(&config, &machine, err);
    free(config.kernel);
    free(config.initrd);
    free(config.cmdline);
    if (r < 0) {
        machine_finish(&machine);
        return r;
    }
    *ret = machine;
    return 0;
}

cJSON *config_to_json(const struct machine *machine)
{
    cJSON *json = cJSON_CreateObject();
    json_add_string(json, "hypervisor", machine->hypervisor->name);
    json_add_number(json, "memory_mib", (double)(machine->memory_bytes >> 20));
    json_add_number(json, "vcpus", machine->vcpus);
    json_add_text(json, "kernel", machine->kernel);
    json_add_text(json, "initrd", machine->initrd);
    json_add_text(json, "cmdline", machine->cmdline);
    cJSON *disks = json_add_array(json, "disks");
    for (size_t i = 0; i < machine->disk_count; i++) {
        cJSON *disk = cJSON_CreateObject();
        json_add_string(disk, "path", machine->disks[i].path);
        json_add_string(disk, "format", machine->disks[i].format);
        json_add_bool(disk, "readonly", machine->disks[i].readonly);
        json_append(disks, disk);
    }
    cJSON *network = json_add_object(json, "network");
    json_add_string(network, "mode", machine_network_names[machine->network]);
    json_add_bool(network, "restrict", machine->network_restrict);
    if (machine->network == NETWORK_TAP) {
        json_add_text(network, "tap", machine->interfaces[0].tap);
        json_add_text(network, "mac", machine->interfaces[0].mac);
    }
    json_add_string(json, "machine", machine_board_names[machine->board]);
    json_add_string(json, "accel", machine_accel_names[machine->accel]);
    json_add_number(json, "console_max_bytes", (double)machine_log_max(machine));
    return json;
}
