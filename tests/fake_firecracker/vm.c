/* SPDX-License-Identifier: MIT */
/* vm: memory, drives and taps, and their saved state. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "fake.h"
#include "util/cleanup.h"
#include "util/sparse.h"
#include "util/json.h"

enum { MAGIC_SIZE = 8, STATE_MAX = 65536, VSOCK_BACKLOG = 8 };
static const uint64_t magic = UINT64_C(0x0710198486640000);
static const uint64_t low_end = UINT64_C(3) << 30; /* where the guest's devices begin */
static const uint64_t slot_bytes = 16 * FAKE_PAGE; /* that are not plugged in */

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

/* ---- devices ---- */

int vm_open_drive(struct fake_drive *drive, const char *path)
{
    int fd = open(path, (drive->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    if (fd < 0)
        return -1;
    if (drive->fd >= 0)
        close(drive->fd);
    drive->fd = fd;
    snprintf(drive->path, sizeof drive->path, "%s", path);
    return 0;
}

int vm_open_tap(struct fake_interface *interface)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    interface->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    snprintf(request.ifr_name, sizeof request.ifr_name, "%.15s", interface->tap);
    return interface->fd < 0 ? -1 : ioctl(interface->fd, TUNSETIFF, &request);
}

static int open_vsock(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%.100s", path);
    return fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0
               ? -1
               : listen(fd, VSOCK_BACKLOG);
}

/* ---- memory ---- */

static void add_region(struct fake *fake, uint64_t size, bool plugged)
{
    uint64_t offset = 0;
    for (size_t i = 0; i < fake->region_count; i++)
        offset += fake->regions[i].size;
    fake->regions[fake->region_count++] =
        (struct fake_region){.offset = offset, .size = size, .plugged = plugged};
}

void vm_lay_out(struct fake *fake, uint64_t size)
{
    uint64_t rest = size > slot_bytes ? size - slot_bytes : size;
    uint64_t low = rest < low_end ? rest : low_end;
    fake->region_count = 0;
    add_region(fake, low, true);
    if (rest > low)
        add_region(fake, rest - low, true);
    if (size > rest)
        add_region(fake, size - rest, false);
}

/* As the real one: privately, a mapping for each region, what is not plugged in without access. */
static int map_regions(struct fake *fake)
{
    for (size_t i = 0; i < fake->region_count; i++) {
        struct fake_region *region = &fake->regions[i];
        int flags = MAP_PRIVATE | MAP_NORESERVE | (fake->memory_fd < 0 ? MAP_ANONYMOUS : 0);
        void *address = mmap(NULL, region->size, PROT_READ | PROT_WRITE, flags, fake->memory_fd,
                             fake->memory_fd < 0 ? 0 : (off_t)region->offset);
        if (address == MAP_FAILED ||
            (!region->plugged && mprotect(address, region->size, PROT_NONE) < 0))
            return -1;
        region->address = address;
    }
    return 0;
}

uint8_t *vm_address(const struct fake *fake, uint64_t offset)
{
    for (size_t i = 0; i < fake->region_count; i++) {
        const struct fake_region *region = &fake->regions[i];
        if (region->plugged && offset >= region->offset && offset - region->offset < region->size)
            return region->address + (offset - region->offset);
    }
    return NULL;
}

/* ---- boot ---- */

/* Of one that is paused. */
void vm_resume(struct fake *fake)
{
    fake->state = FAKE_RUNNING;
    guest_start(fake);
    pthread_cond_signal(&fake->resumed);
    pthread_mutex_unlock(&fake->running);
}

int vm_boot(struct fake *fake, char fault[static FAKE_TEXT_SIZE])
{
    vm_lay_out(fake, fake->memory_bytes);
    if (map_regions(fake) < 0)
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

/* What was loaded differs from its image in the mailboxes only: nothing else runs here. */
static int write_memory(const struct fake *fake, int fd)
{
    uint64_t pages[FAKE_MAILBOXES_MAX];
    size_t count = guest_pages(fake, pages);
    struct stat file;
    if (fake->memory_fd >= 0 && (fstat(fake->memory_fd, &file) < 0 ||
                                 sparse_copy(fake->memory_fd, fd, &file, NULL, NULL, NULL) < 0))
        return -1;
    if (ftruncate(fd, (off_t)fake->memory_bytes) < 0)
        return -1;
    for (size_t i = 0; i < count; i++)
        if (pwrite(fd, vm_address(fake, pages[i]), FAKE_PAGE, (off_t)pages[i]) != FAKE_PAGE)
            return -1;
    return 0;
}

/* A memory file that is there is written over, as the real one does with one of the right size. */
int vm_create(struct fake *fake, const char *state, const char *memory,
              char fault[static FAKE_TEXT_SIZE])
{
    auto_close int memory_fd = open(memory, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (memory_fd < 0 || write_memory(fake, memory_fd) < 0)
        return failed(fault, "Create snapshot error: Cannot create memory file");
    auto_close int state_fd = open(state, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (state_fd < 0 || write_state(fake, state_fd) < 0)
        return failed(fault, "Create snapshot error: Cannot perform open on the snapshot backing "
                             "file");
    return 0;
}

/* ---- load ---- */

static const char *text_of(const cJSON *json, const char *name)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, name));
    return text ? text : "";
}

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
        add_region(fake, (uint64_t)cJSON_GetObjectItem(item, "size")->valuedouble,
                   cJSON_IsTrue(cJSON_GetObjectItem(item, "plugged")));
    if (fake->region_count == 0)
        vm_lay_out(fake, fake->memory_bytes);
    for (size_t i = 0; i < fake->region_count; i++)
        size += fake->regions[i].size;
    if (size != fake->memory_bytes || map_regions(fake) < 0)
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
        snprintf(drive->id, sizeof drive->id, "%s", text_of(item, "drive_id"));
        if (vm_open_drive(drive, text_of(item, "path_on_host")) < 0) {
            snprintf(what, sizeof what,
                     "Failed to build microVM from snapshot: Block: Error manipulating the backing "
                     "file: %s (os error %d) %s",
                     strerror(errno), errno, text_of(item, "path_on_host"));
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
        *interface = (struct fake_interface){.fd = -1};
        snprintf(interface->id, sizeof interface->id, "%s", text_of(item, "iface_id"));
        snprintf(interface->tap, sizeof interface->tap, "%s", text_of(item, "host_dev_name"));
        snprintf(interface->mac, sizeof interface->mac, "%s", text_of(item, "guest_mac"));
        cJSON_ArrayForEach (override, overrides)
            if (strcmp(text_of(override, "iface_id"), interface->id) == 0)
                snprintf(interface->tap, sizeof interface->tap, "%s",
                         text_of(override, "host_dev_name"));
        if (vm_open_tap(interface) < 0)
            return cannot_load(fault, "Failed to build microVM from snapshot: Net: Open tap device "
                                      "failed");
    }
    cJSON_ArrayForEach (override, overrides) {
        size_t i = 0;
        while (i < fake->interface_count &&
               strcmp(fake->interfaces[i].id, text_of(override, "iface_id")) != 0)
            i++;
        if (i == fake->interface_count)
            return cannot_load(fault, "Unknown Network Device.");
    }
    return 0;
}

static int load_vsock(struct fake *fake, const cJSON *state, const cJSON *override, char *fault)
{
    const char *path = override ? text_of(override, "uds_path") : text_of(state, "vsock");
    if (override && !text_of(state, "vsock")[0])
        return cannot_load(fault, "Unknown Vsock Device.");
    if (!path[0])
        return 0;
    snprintf(fake->vsock, sizeof fake->vsock, "%s", path);
    if (open_vsock(path) < 0)
        return cannot_load(fault, "Failed to build microVM from snapshot: Vsock: Error binding to "
                                  "the host-side Unix socket: Address in use (os error 98)");
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
    if (cJSON_GetArraySize(backend) != 2 || strcmp(text_of(backend, "backend_type"), "File") != 0) {
        snprintf(fault, FAKE_TEXT_SIZE,
                 "this fake takes {\"backend_type\":\"File\",\"backend_path\"}");
        return -1;
    }
    return 0;
}

int vm_load(struct fake *fake, const cJSON *body, char fault[static FAKE_TEXT_SIZE])
{
    auto_json cJSON *state = NULL;
    const cJSON *backend = cJSON_GetObjectItem(body, "mem_backend");
    unsigned major = 0, minor = 0;
    if (check_backend(backend, fault) < 0 ||
        read_state(text_of(body, "snapshot_path"), &state, fault) < 0)
        return -1;
    sscanf(text_of(state, "version"), "%u.%u", &major, &minor);
    if (major != fake->major || minor != fake->minor)
        return cannot_load(fault, "Failed to get snapshot state from file: Failed to load snapshot "
                                  "state from file: Invalid snapshot version");
    if (load_memory(fake, state, text_of(backend, "backend_path"), fault) < 0 ||
        load_drives(fake, state, fault) < 0 ||
        load_interfaces(fake, state, cJSON_GetObjectItem(body, "network_overrides"), fault) < 0 ||
        load_vsock(fake, state, cJSON_GetObjectItem(body, "vsock_override"), fault) < 0)
        return -1;
    fake->pmem = cJSON_DetachItemFromObject(state, "pmem");
    pthread_mutex_lock(&fake->running);
    fake->state = FAKE_PAUSED;
    if (cJSON_IsTrue(cJSON_GetObjectItem(body, "resume_vm")))
        vm_resume(fake);
    return 0;
}
