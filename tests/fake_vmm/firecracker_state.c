/* SPDX-License-Identifier: MIT */
/* firecracker_state: how a Firecracker boots, and what it saves and loads. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "firecracker.h"
#include "util/cleanup.h"
#include "util/json.h"

enum { MAGIC_SIZE = 8, STATE_MAX = 65536 };
static const uint64_t magic = UINT64_C(0x0710198486640000);

static int failed(char *fault, const char *what)
{
    snprintf(fault, FAKE_TEXT_SIZE, "%s: %s (os error %d)", what, strerror(errno), errno);
    return -1;
}

static int cannot_load(char *fault, const char *what)
{
    snprintf(fault, FAKE_TEXT_SIZE, "Load snapshot error: Failed to restore from snapshot: %s",
             what);
    return -1;
}

int firecracker_boot(struct fake *fake, char fault[static FAKE_TEXT_SIZE])
{
    vm_lay_out(fake, fake->memory_bytes, false);
    if (vm_map_regions(fake) < 0)
        return failed(fault, "Start microvm error: Cannot allocate guest memory");
    guest_plant(fake);
    fake->state = FAKE_RUNNING;
    guest_start(fake);
    return 0;
}

/* ---- the saved state ---- */

static int write_state(const struct fake *fake, int fd)
{
    auto_json cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "version", fake->version);
    cJSON_AddNumberToObject(json, "memory_bytes", (double)fake->memory_bytes);
    cJSON_AddNumberToObject(json, "vcpus", fake->vcpus);
    cJSON *drives = cJSON_AddArrayToObject(json, "drives");
    for (size_t i = 0; i < fake->drive_count; i++) {
        cJSON *drive = cJSON_CreateObject();
        cJSON_AddStringToObject(drive, "drive_id", fake->drives[i].id);
        cJSON_AddStringToObject(drive, "path_on_host", fake->drives[i].path);
        cJSON_AddBoolToObject(drive, "is_read_only", fake->drives[i].readonly);
        cJSON_AddItemToArray(drives, drive);
    }
    cJSON *interfaces = cJSON_AddArrayToObject(json, "interfaces");
    for (size_t i = 0; i < fake->interface_count; i++) {
        cJSON *interface = cJSON_CreateObject();
        cJSON_AddStringToObject(interface, "iface_id", fake->interfaces[i].id);
        cJSON_AddStringToObject(interface, "host_dev_name", fake->interfaces[i].tap);
        cJSON_AddStringToObject(interface, "guest_mac", fake->interfaces[i].mac);
        cJSON_AddItemToArray(interfaces, interface);
    }
    if (fake->vsock[0])
        cJSON_AddStringToObject(json, "vsock", fake->vsock);
    if (fake->pmem)
        cJSON_AddItemToObject(json, "pmem", cJSON_Duplicate(fake->pmem, true));
    if (fake->huge_pages[0])
        cJSON_AddStringToObject(json, "huge_pages", fake->huge_pages);
    cJSON *regions = cJSON_AddArrayToObject(json, "regions");
    for (size_t i = 0; i < fake->region_count; i++) {
        cJSON *region = cJSON_CreateObject();
        cJSON_AddNumberToObject(region, "offset", (double)fake->regions[i].offset);
        cJSON_AddNumberToObject(region, "size", (double)fake->regions[i].size);
        cJSON_AddBoolToObject(region, "plugged", fake->regions[i].plugged);
        cJSON_AddItemToArray(regions, region);
    }
    auto_free char *text = cJSON_PrintUnformatted(json);
    uint8_t first[MAGIC_SIZE];
    for (size_t i = 0; i < MAGIC_SIZE; i++)
        first[i] = (uint8_t)(magic >> (8 * i));
    return write(fd, first, MAGIC_SIZE) == MAGIC_SIZE &&
                   write(fd, text, strlen(text)) == (ssize_t)strlen(text)
               ? 0
               : -1;
}

/* The state comes first. A memory file that is there is written over, as the real one does with one
 * of the right size. */
int firecracker_create(struct fake *fake, const char *state, const char *memory,
                       char fault[static FAKE_TEXT_SIZE])
{
    auto_close int state_fd = open(state, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (state_fd < 0 || write_state(fake, state_fd) < 0)
        return failed(fault, "Create snapshot error: Cannot perform open on the snapshot backing "
                             "file");
    auto_close int memory_fd = open(memory, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (memory_fd < 0)
        return failed(fault,
                      "Create snapshot error: Cannot perform open on the memory backing file");
    if (vm_write_memory(fake, memory_fd) < 0)
        return failed(fault,
                      "Create snapshot error: Cannot perform write on the memory backing file");
    return 0;
}

/* ---- load ---- */

static int read_state(const char *path, cJSON **ret, char *fault)
{
    static char text[STATE_MAX];
    uint64_t found = 0;
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text);
    if (size < 0)
        return cannot_load(fault, "Failed to get snapshot state from file: Failed to open snapshot "
                                  "file: No such file or directory (os error 2)");
    for (int i = 0; i < MAGIC_SIZE && i < size; i++)
        found |= (uint64_t)(uint8_t)text[i] << (8 * i);
    if (size < MAGIC_SIZE || found != magic ||
        json_parse(text + MAGIC_SIZE, (size_t)size - MAGIC_SIZE, ret, NULL) < 0)
        return cannot_load(fault, "Failed to get snapshot state from file: Failed to load snapshot "
                                  "state from file: Bad snapshot magic value");
    return 0;
}

static int load_memory(struct fake *fake, const cJSON *state, const char *path, char *fault)
{
    struct stat file;
    const cJSON *item;
    uint64_t size = 0;
    fake->memory_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fake->memory_fd < 0 || fstat(fake->memory_fd, &file) < 0)
        return cannot_load(fault, "Failed to load guest memory: Error creating guest memory from "
                                  "file: Failed to load guest memory: No such file or directory");
    fake->memory_bytes = (uint64_t)file.st_size;
    cJSON_ArrayForEach (item, cJSON_GetObjectItem(state, "regions"))
        vm_add_region(fake, (uint64_t)cJSON_GetObjectItem(item, "size")->valuedouble,
                      cJSON_IsTrue(cJSON_GetObjectItem(item, "plugged")));
    if (fake->region_count == 0)
        vm_lay_out(fake, fake->memory_bytes, true);
    for (size_t i = 0; i < fake->region_count; i++)
        size += fake->regions[i].size;
    if (size != fake->memory_bytes || vm_map_regions(fake) < 0)
        return cannot_load(fault, "Failed to load guest memory: Error creating guest memory from "
                                  "file: the size of the file is another");
    return 0;
}

static int load_drives(struct fake *fake, const cJSON *state, char *fault)
{
    const cJSON *item;
    cJSON_ArrayForEach (item, cJSON_GetObjectItem(state, "drives")) {
        struct fake_drive *drive = &fake->drives[fake->drive_count++];
        char what[FAKE_TEXT_SIZE / 2];
        *drive = (struct fake_drive){
            .readonly = cJSON_IsTrue(cJSON_GetObjectItem(item, "is_read_only")), .fd = -1};
        snprintf(drive->id, sizeof drive->id, "%s", fake_text(item, "drive_id"));
        if (vm_open_drive(drive, fake_text(item, "path_on_host")) < 0) {
            snprintf(what, sizeof what,
                     "Failed to build microVM from snapshot: Block: Error manipulating the backing "
                     "file: %s (os error %d) %s",
                     strerror(errno), errno, fake_text(item, "path_on_host"));
            return cannot_load(fault, what);
        }
    }
    return 0;
}

static int load_interfaces(struct fake *fake, const cJSON *state, const cJSON *overrides,
                           char *fault)
{
    const cJSON *item, *override;
    cJSON_ArrayForEach (item, cJSON_GetObjectItem(state, "interfaces")) {
        struct fake_interface *interface = &fake->interfaces[fake->interface_count++];
        char what[FAKE_TEXT_SIZE / 2];
        *interface = (struct fake_interface){.fd = -1};
        snprintf(interface->id, sizeof interface->id, "%s", fake_text(item, "iface_id"));
        snprintf(interface->tap, sizeof interface->tap, "%s", fake_text(item, "host_dev_name"));
        snprintf(interface->mac, sizeof interface->mac, "%s", fake_text(item, "guest_mac"));
        cJSON_ArrayForEach (override, overrides)
            if (strcmp(fake_text(override, "iface_id"), interface->id) == 0)
                snprintf(interface->tap, sizeof interface->tap, "%s",
                         fake_text(override, "host_dev_name"));
        if (vm_open_tap(interface) < 0) {
            if (interface->fd < 0)
                return cannot_load(fault, "Failed to build microVM from snapshot: Net: Open tap "
                                          "device failed: Couldn't open /dev/net/tun: No such file "
                                          "or directory (os error 2)");
            snprintf(what, sizeof what,
                     "Failed to build microVM from snapshot: Net: Open tap device failed: Error "
                     "while creating ifreq structure: %s (os error %d). Invalid TUN/TAP Backend "
                     "provided by %s. Check our documentation on setting up the network devices.",
                     strerror(errno), errno, interface->tap);
            return cannot_load(fault, what);
        }
    }
    cJSON_ArrayForEach (override, overrides) {
        size_t i = 0;
        while (i < fake->interface_count &&
               strcmp(fake->interfaces[i].id, fake_text(override, "iface_id")) != 0)
            i++;
        if (i == fake->interface_count)
            return cannot_load(fault, "Unknown Network Device.");
    }
    return 0;
}

static int load_vsock(struct fake *fake, const cJSON *state, const cJSON *override, char *fault)
{
    const char *path = override ? fake_text(override, "uds_path") : fake_text(state, "vsock");
    if (override && !fake_text(state, "vsock")[0])
        return cannot_load(fault, "Unknown Vsock Device.");
    if (!path[0])
        return 0;
    snprintf(fake->vsock, sizeof fake->vsock, "%s", path);
    if (vm_open_vsock(path) < 0)
        return cannot_load(fault, "Failed to build microVM from snapshot: Vsock: Error binding to "
                                  "the host-side Unix socket: Address in use (os error 98)");
    return 0;
}

/* Mapped, and closed. */
static int load_pmem(struct fake *fake, const cJSON *state, char *fault)
{
    const cJSON *item;
    cJSON_ArrayForEach (item, cJSON_GetObjectItem(state, "pmem")) {
        const bool readonly = cJSON_IsTrue(cJSON_GetObjectItem(item, "read_only"));
        const int mode = readonly ? O_RDONLY : O_RDWR, access = readonly ? 0 : PROT_WRITE;
        char what[FAKE_TEXT_SIZE / 2];
        struct stat file;
        auto_close int fd = open(fake_text(item, "path_on_host"), mode | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &file) < 0 ||
            mmap(NULL, (size_t)file.st_size, PROT_READ | access, MAP_SHARED, fd, 0) == MAP_FAILED) {
            snprintf(what, sizeof what,
                     "Failed to build microVM from snapshot: Pmem: Error accessing backing file: "
                     "%s (os error %d)",
                     strerror(errno), errno);
            return cannot_load(fault, what);
        }
    }
    fake->pmem = cJSON_Duplicate(cJSON_GetObjectItem(state, "pmem"), true);
    return 0;
}

static int check_backend(const cJSON *backend, char *fault)
{
    if (!backend) {
        snprintf(fault, FAKE_TEXT_SIZE,
                 "An error occurred when deserializing the json body of a request: missing field: "
                 "either `mem_backend` or `mem_file_path` is required.");
        return -1;
    }
    if (cJSON_GetArraySize(backend) != 2 ||
        strcmp(fake_text(backend, "backend_type"), "File") != 0) {
        snprintf(fault, FAKE_TEXT_SIZE,
                 "this fake takes {\"backend_type\":\"File\",\"backend_path\"}");
        return -1;
    }
    return 0;
}

/* What the load says of it, or else the state. */
static int choose_pages(struct fake *fake, const cJSON *state, const char *wanted, char *fault)
{
    static const char *const variants[] = {"", "Snapshot", "None", "Transparent", "2M"};
    size_t i = 0;
    while (i < array_length(variants) && strcmp(variants[i], wanted) != 0)
        i++;
    if (i == array_length(variants)) {
        snprintf(fault, FAKE_TEXT_SIZE,
                 "An error occurred when deserializing the json body of a request: unknown variant "
                 "`%s`, expected one of `Snapshot`, `None`, `Transparent`, `2M`",
                 wanted);
        return -1;
    }
    const bool other = i >= 2;
    snprintf(fake->huge_pages, sizeof fake->huge_pages, "%s",
             other ? wanted : fake_text(state, "huge_pages"));
    return strcmp(fake->huge_pages, "2M") != 0
               ? 0
               : cannot_load(fault, "Failed to load guest memory: Error creating guest memory from "
                                    "file: Cannot restore hugetlbfs backed snapshot by mapping the "
                                    "memory file. Please use uffd.");
}

int firecracker_load(struct fake *fake, const cJSON *body, char fault[static FAKE_TEXT_SIZE])
{
    auto_json cJSON *state = NULL;
    const cJSON *backend = cJSON_GetObjectItem(body, "mem_backend");
    unsigned major = 0, minor = 0;
    if (check_backend(backend, fault) < 0 ||
        read_state(fake_text(body, "snapshot_path"), &state, fault) < 0)
        return -1;
    sscanf(fake_text(state, "version"), "%u.%u", &major, &minor);
    if (major != fake->major || minor != fake->minor)
        return cannot_load(fault, "Failed to get snapshot state from file: Failed to load snapshot "
                                  "state from file: Invalid snapshot version");
    if (choose_pages(fake, state, fake_text(body, "huge_pages"), fault) < 0 ||
        load_memory(fake, state, fake_text(backend, "backend_path"), fault) < 0 ||
        load_drives(fake, state, fault) < 0 ||
        load_interfaces(fake, state, cJSON_GetObjectItem(body, "network_overrides"), fault) < 0 ||
        load_vsock(fake, state, cJSON_GetObjectItem(body, "vsock_override"), fault) < 0 ||
        load_pmem(fake, state, fault) < 0)
        return -1;
    const cJSON *vcpus = cJSON_GetObjectItem(state, "vcpus");
    fake->vcpus = vcpus ? (unsigned)vcpus->valuedouble : 1;
    fake->loaded = true;
    pthread_mutex_lock(&fake->running);
    fake->state = FAKE_PAUSED;
    if (cJSON_IsTrue(cJSON_GetObjectItem(body, "resume_vm")))
        vm_resume(fake);
    return 0;
}
