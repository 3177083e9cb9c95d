/* SPDX-License-Identifier: MIT */
#include "hypervisor/qemu_arguments.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "hypervisor/disks.h"
#include "hypervisor/machine.h"
#include "hypervisor/qemu_disks.h"
#include "hypervisor/qemu_readonly.h"
#include "util/cleanup.h"
#include "util/json.h"

static const struct board {
    const char *options;     /* behind the machine type */
    const char *block, *net; /* device models */
    bool generation;         /* tells the guest, at each load, that it is a clone */
} boards[MACHINE_BOARDS] = {
    /* Without ACPI Linux does not find the virtio-mmio devices. */
    [MACHINE_MICROVM] = {",acpi=on", "virtio-blk-device", "virtio-net-device", false},
    [MACHINE_Q35] = {"", "virtio-blk-pci", "virtio-net-pci", true},
};

/* Takes the object. */
static void add_json(struct arguments *list, const char *option, cJSON *object)
{
    arguments_add(list, option);
    arguments_take(list, json_print_line(object));
    cJSON_Delete(object);
}

static void add_memory(struct arguments *list, const struct machine *machine,
                       const struct qemu_start *start)
{
    cJSON *memory = cJSON_CreateObject();
    json_add_string(memory, "qom-type", "memory-backend-file");
    json_add_string(memory, "id", "ram");
    json_add_number(memory, "size", (double)machine->memory_bytes);
    json_add_string(memory, "mem-path", start->memory);
    json_add_bool(memory, "share", !start->restore);
    json_add_bool(memory, "merge", false);
    json_add_bool(memory, "dump", false);
    json_add_bool(memory, "reserve", false);
    if (start->restore && qemu_readonly_is_option(start->program)) {
        json_add_bool(memory, "readonly", true);
        json_add_string(memory, "rom", "off");
    }
    add_json(list, "-object", memory);
}

static cJSON *describe_netdev(const struct machine *machine, int tap_fd)
{
    char number[16];
    cJSON *netdev = cJSON_CreateObject();
    json_add_string(netdev, "type", machine_network_names[machine->network]);
    json_add_string(netdev, "id", "net0");
    if (machine->network == NETWORK_TAP) {
        snprintf(number, sizeof number, "%d", tap_fd);
        json_add_string(netdev, "fd", number);
    } else {
        json_add_bool(netdev, "restrict", machine->network_restrict);
    }
    return netdev;
}

static void add_network(struct arguments *list, const struct machine *machine, int tap_fd)
{
    if (machine->network == NETWORK_NONE)
        return;
    const char *mac = machine->network == NETWORK_TAP ? machine->interfaces[0].mac : NULL;
    add_json(list, "-netdev", describe_netdev(machine, tap_fd));

    /* After a restore that announces nothing, resetting a device that could have announced itself
     * ends QEMU 7.2 with a segmentation fault: its timer is gone. Guests reset theirs at reboot. */
    cJSON *device = cJSON_CreateObject();
    json_add_string(device, "driver", boards[machine->board].net);
    json_add_string(device, "netdev", "net0");
    if (mac)
        json_add_string(device, "mac", mac);
    json_add_bool(device, "guest_announce", false);
    if (machine->board == MACHINE_Q35)
        json_add_string(device, "romfile", "");
    add_json(list, "-device", device);
}

/* One file of a disk: the user's, or an overlay over the one before it. */
static void add_layer(struct arguments *list, const struct machine_disk *disk, size_t index,
                      unsigned layer)
{
    char node[QEMU_NODE_SIZE], below[QEMU_NODE_SIZE], name[DISK_NAME_SIZE];
    const char *format = layer > 0 ? "qcow2" : disk->format;
    const char *driver = layer == 0 && disk_is_block_device(disk->path) ? "host_device" : "file";
    bool readonly = disk->readonly || layer < disk_top(disk);
    qemu_disk_node(index, layer, node);
    disk_layer_name(index, layer, name);
    cJSON *block = cJSON_CreateObject();
    json_add_string(block, "driver", format);
    json_add_string(block, "node-name", node);
    json_add_bool(block, "read-only", readonly);
    if (layer > 0) {
        qemu_disk_node(index, layer - 1, below);
        json_add_string(block, "backing", below);
    } else if (strcmp(format, "qcow2") == 0) {
        json_add_null(block, "backing");
    }
    cJSON *file = json_add_object(block, "file");
    json_add_string(file, "driver", driver);
    json_add_string(file, "filename", layer > 0 ? name : disk->path);
    add_json(list, "-blockdev", block);
}

static void add_disk(struct arguments *list, const struct machine *machine, size_t index)
{
    const struct machine_disk *disk = &machine->disks[index];
    char node[QEMU_NODE_SIZE];
    for (unsigned layer = 0; layer <= disk_top(disk); layer++)
        add_layer(list, disk, index, layer);
    qemu_disk_node(index, disk_top(disk), node);
    cJSON *device = cJSON_CreateObject();
    json_add_string(device, "driver", boards[machine->board].block);
    json_add_string(device, "drive", node);
    add_json(list, "-device", device);
}

/* What Linux must know of a machine that it boots on, as QEMU itself appends the devices of a
 * microvm without ACPI. Under TCG, whose processors may get no time of a busy host's, it finds out
 * the speed of its time stamp counter (that of the host's) by a timer, which it distrusts then: on
 * a microvm it is left without any clock, and hangs. Told the speed, it compares the counter with
 * the ticks of a timer, of which it misses some, and goes by these then: so it is told that the
 * counter, which is the host's, is right. And it panics when it has missed ticks of the timer that
 * it tries. To reboot it asks devices that a microvm does not have, for minutes, before it makes
 * the triple fault that works. A parameter that is given already stays as it is. */
static void add_cmdline(struct arguments *list, const struct machine *machine)
{
    const char *cmdline = machine->cmdline ? machine->cmdline : "";
    bool boots = machine->kernel != NULL, tcg = machine->accel == ACCEL_TCG;
    bool bare = machine->board == MACHINE_MICROVM;
    char speed[64] = "", told[128];
    const struct {
        const char *name, *text;
        bool wanted;
    } parameters[] = {{"tsc_early_khz=", speed, bare && tcg},
                      {"no_timer_check", " no_timer_check", tcg},
                      {"reboot=", " reboot=t", bare}};
    size_t size = 0;
    unsigned khz =
        boots && bare && tcg && !strstr(cmdline, parameters[0].name) ? machine_host_tsc_khz() : 0;
    if (khz > 0)
        snprintf(speed, sizeof speed, " %s%u%s", parameters[0].name, khz,
                 strstr(cmdline, "tsc=") ? "" : " tsc=reliable");
    told[0] = '\0';
    for (size_t i = 0; i < array_length(parameters); i++)
        if (boots && parameters[i].wanted && !strstr(cmdline, parameters[i].name))
            size += (size_t)snprintf(told + size, sizeof told - size, "%s", parameters[i].text);
    if (!machine->cmdline && !told[0])
        return;
    arguments_add(list, "-append");
    if (cmdline[0] || !told[0])
        arguments_add_format(list, "%s%s", cmdline, told);
    else
        arguments_add(list, told + 1);
}

static void add_boot(struct arguments *list, const struct machine *machine)
{
    if (machine->kernel) {
        arguments_add(list, "-kernel");
        arguments_add(list, machine->kernel);
    }
    if (machine->initrd) {
        arguments_add(list, "-initrd");
        arguments_add(list, machine->initrd);
    }
    add_cmdline(list, machine);
}

static void add_all(struct arguments *list, const struct machine *machine,
                    const struct qemu_start *start)
{
    static const char *const always[] = {
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-serial",
        "chardev:console",
        "-mon",
        "chardev=qmp,mode=control",
    };
    static const char *const restore[] = {
        "-incoming",
        "defer",
        "-global",
        "migration.send-configuration=off",
    };
    bool state = start->restore && !machine->in_firmware;
    arguments_add(list, start->program->path);
    if (start->program->sandbox) {
        arguments_add(list, "-sandbox");
        arguments_add(list, QEMU_SANDBOX);
    }
    arguments_add(list, "-chardev");
    arguments_add_format(list, "socket,id=qmp,fd=%d,server=on,wait=off", start->qmp_fd);
    arguments_add(list, "-chardev");
    arguments_add_format(list, "file,id=console,path=%s,append=on", start->console);
    for (size_t i = 0; i < array_length(always); i++)
        arguments_add(list, always[i]);
    arguments_add(list, "-machine");
    arguments_add_format(
        list, "%s%s,memory-backend=ram,suppress-vmdesc=on,dump-guest-core=off,mem-merge=off",
        start->type, boards[machine->board].options);
    arguments_add(list, "-accel");
    arguments_add(list, machine_accel_names[machine->accel]);
    arguments_add(list, "-cpu");
    arguments_add(list, machine->cpu);
    arguments_add(list, "-smp");
    arguments_add_format(list, "%u", machine->vcpus);
    add_memory(list, machine, start);
    for (size_t i = 0; i < machine->disk_count; i++)
        add_disk(list, machine, i);
    add_network(list, machine, start->tap_fd);
    if (boards[machine->board].generation) {
        arguments_add(list, "-device");
        arguments_add(list, "vmgenid,guid=auto");
    }
    if (start->restore)
        arguments_add(list, "-S");
    for (size_t i = 0; state && i < array_length(restore); i++)
        arguments_add(list, restore[i]);
    if (!state)
        add_boot(list, machine);
}

static int check_network(const struct machine *machine, struct error *err)
{
    if (machine->network != NETWORK_TAP)
        return 0;
    if (machine->interface_count > 1)
        return error_set(err, EOPNOTSUPP,
                         "the machine has %zu network interfaces: with QEMU it can have one",
                         machine->interface_count);
    return machine_check_taps(machine, err);
}

int qemu_arguments_create(const struct machine *machine, const struct qemu_start *start,
                          struct arguments *ret, struct error *err)
{
    int r = check_network(machine, err);
    if (r == 0)
        r = qemu_disks_check(machine, start->restore, err);
    if (r < 0)
        return r;
    *ret = (struct arguments){0};
    add_all(ret, machine, start);
    if (!ret->failed)
        return 0;
    arguments_finish(ret);
    return error_set(err, ENOMEM, "no memory for QEMU's arguments");
}
