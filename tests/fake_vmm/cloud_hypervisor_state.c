/* SPDX-License-Identifier: MIT */
/* cloud_hypervisor_state: how a Cloud Hypervisor boots, and what it saves and restores. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cloud_hypervisor.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/text_file.h"

enum { TEXT_MAX = 1 << 20, FEATURES = 1 << 5 | 1 << 21 | 1 };
static const uint64_t low_end = UINT64_C(3) << 30, high_begin = UINT64_C(4) << 30;

/* More than a double can hold: it must come back as it is. Of the clock, which is KVM's struct,
 * only the flags are used here. */
#define EXACT "\"exact\":9007199254740993"
#define CLOCK "\"clock\":{\"Kvm\":[1,2,3,4,5,6,7,8,14,0,0,0,0,0,0,0]}"
enum { CLOCK_FLAGS = 8 };

static int failed(char *fault, const char *what)
{
    snprintf(fault, FAKE_TEXT_SIZE, "%.300s: %s (os error %d)", what, strerror(errno), errno);
    return -1;
}

static const cJSON *zone_of(const cJSON *config)
{
    const cJSON *zones = json_get(json_get(config, "memory"), "zones");
    return zones ? zones->child : NULL;
}

/* ---- devices, of fake->config ---- */

static int open_disks(struct fake *fake, char *fault)
{
    const cJSON *item;
    cJSON_ArrayForEach (item, json_get(fake->config, "disks")) {
        struct fake_drive *drive = &fake->drives[fake->drive_count++];
        *drive =
            (struct fake_drive){.readonly = cJSON_IsTrue(json_get(item, "readonly")), .fd = -1};
        snprintf(drive->id, sizeof drive->id, "%s", fake_text(item, "id"));
        const bool overlay = cJSON_IsTrue(json_get(item, "backing_files"));
        if (strcmp(fake_text(item, "image_type"), overlay ? "Qcow2" : "Raw") != 0) {
            snprintf(fault, FAKE_TEXT_SIZE, "the image type of %s would be guessed", drive->id);
            return -1;
        }
        if (vm_open_drive(drive, fake_text(item, "path")) < 0)
            return failed(fault, "Cannot open disk path");
        if (overlay && overlay_open(drive) < 0)
            return failed(fault, "no overlay, or one that does not name the format below");
    }
    return 0;
}

static int open_nets(struct fake *fake, char *fault)
{
    const cJSON *item;
    cJSON_ArrayForEach (item, json_get(fake->config, "net")) {
        if (json_get(item, "host_mac")) {
            snprintf(fault, FAKE_TEXT_SIZE, "the address of another tap would be set");
            return -1;
        }
        struct fake_interface *net = &fake->interfaces[fake->interface_count++];
        *net = (struct fake_interface){.fd = -1};
        snprintf(net->id, sizeof net->id, "%s", fake_text(item, "id"));
        snprintf(net->tap, sizeof net->tap, "%s", fake_text(item, "tap"));
        /* As v53.0 does, and sets it at a restore. */
        cJSON_AddStringToObject((cJSON *)(uintptr_t)item, "host_mac", "02:00:00:00:00:99");
        if (vm_open_tap(net) < 0)
            return failed(fault,
                          "Failed to open taps: Open tap device failed: Failed to create tap");
    }
    return 0;
}

static int open_devices(struct fake *fake, char *fault)
{
    const char *socket = fake_text(json_get(fake->config, "vsock"), "socket");
    if (open_disks(fake, fault) < 0 || open_nets(fake, fault) < 0)
        return -1;
    return !socket[0] || vm_open_vsock(socket) == 0
               ? 0
               : failed(fault, "Cannot create virtio-vsock backend: Error binding socket");
}

/* ---- boot ---- */

int cloud_hypervisor_boot(struct fake *fake, char fault[static FAKE_TEXT_SIZE])
{
    const cJSON *payload = json_get(fake->config, "payload"), *zone = zone_of(fake->config);
    auto_close int kernel = open(fake_text(payload, "kernel"), O_RDONLY | O_CLOEXEC);
    if (kernel < 0)
        return failed(fault, "Cannot open kernel file");
    const char *initramfs = json_get_text(payload, "initramfs");
    if (initramfs && access(initramfs, R_OK) < 0)
        return failed(fault, "Cannot open initramfs file");
    fake->memory_bytes = json_get_count(zone, "size");
    fake->shared = cJSON_IsTrue(json_get(zone, "shared"));
    fake->memory_fd = open(fake_text(zone, "file"), O_RDWR | O_CLOEXEC);
    vm_lay_out(fake, fake->memory_bytes, false);
    if (fake->memory_fd < 0 || vm_map_regions(fake) < 0)
        return failed(fault, "Failed to create shared file");
    if (open_devices(fake, fault) < 0)
        return -1;
    snprintf(fake->boot_args, sizeof fake->boot_args, "%s", fake_text(payload, "cmdline"));
    guest_plant(fake);
    fake->state = FAKE_RUNNING;
    guest_start(fake);
    return 0;
}

/* ---- the saved state ---- */

static cJSON *component(cJSON *data)
{
    cJSON *node = cJSON_CreateObject();
    cJSON_AddObjectToObject(node, "snapshots");
    cJSON *holder = cJSON_AddObjectToObject(node, "snapshot_data");
    auto_free char *text = cJSON_PrintUnformatted(data);
    cJSON_AddStringToObject(holder, "state", text);
    cJSON_Delete(data);
    return node;
}

static uint64_t address_of(const struct fake_region *region)
{
    return region->offset < low_end ? region->offset : region->offset - low_end + high_begin;
}

/* What is shared with a file that has a name is left out of what is to be copied. */
static cJSON *describe_memory(const struct fake *fake)
{
    cJSON *data = cJSON_CreateObject();
    cJSON *ranges = cJSON_AddArrayToObject(cJSON_AddObjectToObject(data, "memory_ranges"), "data");
    cJSON *mappings = cJSON_AddArrayToObject(data, "guest_ram_mappings");
    for (size_t i = 0; i < fake->region_count; i++) {
        const struct fake_region *region = &fake->regions[i];
        cJSON *mapping = cJSON_CreateObject(), *range = cJSON_CreateObject();
        cJSON_AddNumberToObject(mapping, "slot", (double)i);
        cJSON_AddNumberToObject(mapping, "gpa", (double)address_of(region));
        cJSON_AddNumberToObject(mapping, "size", (double)region->size);
        cJSON_AddStringToObject(mapping, "zone_id", fake_text(zone_of(fake->config), "id"));
        cJSON_AddBoolToObject(mapping, "virtio_mem", false);
        cJSON_AddNumberToObject(mapping, "file_offset", (double)region->offset);
        cJSON_AddItemToArray(mappings, mapping);
        cJSON_AddNumberToObject(range, "gpa", (double)address_of(region));
        cJSON_AddNumberToObject(range, "length", (double)region->size);
        if (fake->shared)
            cJSON_Delete(range);
        else
            cJSON_AddItemToArray(ranges, range);
    }
    cJSON_AddNumberToObject(data, "boot_ram", (double)fake->memory_bytes);
    return data;
}

static cJSON *describe(const struct fake *fake)
{
    cJSON *root = cJSON_CreateObject(), *parts = cJSON_AddObjectToObject(root, "snapshots");
    cJSON *devices = cJSON_AddObjectToObject(parts, "device-manager");
    cJSON *nodes = cJSON_AddObjectToObject(devices, "snapshots");
    cJSON_AddNullToObject(devices, "snapshot_data");
    for (size_t i = 0; i < fake->interface_count; i++) {
        cJSON *net = cJSON_CreateObject();
        cJSON_AddNumberToObject(net, "acked_features", FEATURES);
        cJSON_AddItemToObject(nodes, fake->interfaces[i].id, component(net));
    }
    cJSON_AddItemToObject(parts, "memory-manager", component(describe_memory(fake)));
    cJSON *holder = cJSON_AddObjectToObject(root, "snapshot_data");
    cJSON_AddStringToObject(holder, "state", "{" CLOCK "," EXACT ",\"common_cpuid\":[]}");
    return root;
}

/* With one write, of which a full disk takes a part, and nobody looks. */
static int write_new(const char *folder, const char *name, const cJSON *json, char *fault)
{
    char path[PATH_MAX];
    auto_free char *text = cJSON_PrintUnformatted(json);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    auto_close int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0)
        return failed(fault, "Error creating VM snapshot file");
    const char *cut = getenv("FAKE_VMM_CUT");
    size_t size = strlen(text);
    return write(fd, text, cut && strcmp(cut, name) == 0 ? size / 2 : size) < 0
               ? failed(fault, "Error writing VM snapshot")
               : 0;
}

int cloud_hypervisor_save(const struct fake *fake, const char *folder,
                          char fault[static FAKE_TEXT_SIZE])
{
    char path[PATH_MAX], what[PATH_MAX + 64];
    auto_json cJSON *state = describe(fake);
    if (write_new(folder, "config.json", fake->config, fault) < 0 ||
        write_new(folder, "state.json", state, fault) < 0)
        return -1;
    if (fake->shared)
        return 0;
    snprintf(path, sizeof path, "%s/memory-ranges", folder);
    snprintf(what, sizeof what, "Error creating memory snapshot file \"%s\"", path);
    auto_close int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    return fd < 0 || vm_write_memory(fake, fd) < 0 ? failed(fault, what) : 0;
}

/* ---- restore ---- */

static int read_json(const char *folder, const char *name, cJSON **ret, char *fault)
{
    char path[PATH_MAX];
    auto_free char *text = NULL;
    size_t size = 0;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    int r = fd < 0 ? -errno : text_file_read(fd, TEXT_MAX, &text, &size);
    errno = -r;
    if (r < 0 || json_parse(text, size, ret, NULL) < 0)
        return failed(fault, "Error receiving VM config or state");
    return 0;
}

static cJSON *data_of(const cJSON *node)
{
    cJSON *data = NULL;
    const char *text = fake_text(json_get(node, "snapshot_data"), "state");
    return json_parse(text, strlen(text), &data, NULL) == 0 ? data : NULL;
}

/* What the real one does by itself when it resumes a VM that it has restored. */
static int tell_habits(const struct fake *fake, const cJSON *state, char *fault)
{
    const cJSON *nodes =
        json_get(json_get(json_get(state, "snapshots"), "device-manager"), "snapshots");
    const char *vm = fake_text(json_get(state, "snapshot_data"), "state");
    auto_json cJSON *data = data_of(state);
    if (!strstr(vm, EXACT)) {
        snprintf(fault, FAKE_TEXT_SIZE, "the state is not what was saved: %.200s", vm);
        return -1;
    }
    const cJSON *flags = cJSON_GetArrayItem(json_get(json_get(data, "clock"), "Kvm"), CLOCK_FLAGS);
    if (!flags || flags->valueint != 0)
        puts("the clock jumps");
    for (size_t i = 0; i < fake->interface_count; i++) {
        auto_json cJSON *net = data_of(json_get(nodes, fake->interfaces[i].id));
        if (!net || json_get_count(net, "acked_features") & (1U << 5 | 1U << 21))
            printf("%s announces its old address\n", fake->interfaces[i].id);
    }
    fflush(stdout);
    return 0;
}

static int restore_memory(struct fake *fake, const cJSON *state, bool *ret_damaged, char *fault)
{
    auto_json cJSON *memory = data_of(json_get(json_get(state, "snapshots"), "memory-manager"));
    const cJSON *mapping, *zone = zone_of(fake->config);
    struct stat file;
    if (cJSON_GetArraySize(json_get(json_get(memory, "memory_ranges"), "data")) > 0) {
        snprintf(fault, FAKE_TEXT_SIZE, "the memory would be copied");
        return -1;
    }
    fake->shared = cJSON_IsTrue(json_get(zone, "shared"));
    fake->memory_fd = open(fake_text(zone, "file"), (fake->shared ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (fake->memory_fd < 0 || fstat(fake->memory_fd, &file) < 0)
        return failed(fault, "Failed to create shared file");
    cJSON_ArrayForEach (mapping, json_get(memory, "guest_ram_mappings")) {
        struct fake_region *region = &fake->regions[fake->region_count];
        vm_add_region(fake, json_get_count(mapping, "size"), true);
        region->offset = json_get_count(mapping, "file_offset");
        fake->memory_bytes += region->size;
    }
    *ret_damaged = (uint64_t)file.st_size < fake->memory_bytes;
    return fake->region_count == 0 || vm_map_regions(fake) < 0
               ? failed(fault, "Cannot create guest memory")
               : 0;
}

int cloud_hypervisor_restore(struct fake *fake, const char *folder, bool *ret_damaged,
                             char fault[static FAKE_TEXT_SIZE])
{
    auto_json cJSON *state = NULL;
    if (read_json(folder, "config.json", &fake->config, fault) < 0 ||
        read_json(folder, "state.json", &state, fault) < 0 ||
        restore_memory(fake, state, ret_damaged, fault) < 0 || open_devices(fake, fault) < 0 ||
        tell_habits(fake, state, fault) < 0)
        return -1;
    fake->loaded = true;
    pthread_mutex_lock(&fake->running);
    fake->state = FAKE_PAUSED;
    return 0;
}
