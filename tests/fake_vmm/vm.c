/* SPDX-License-Identifier: MIT */
/* vm: memory, drives and taps of a VM that there is none of. */
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "fake.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/sparse.h"

enum { VSOCK_BACKLOG = 8 };
static const uint64_t low_end = UINT64_C(3) << 30; /* where the guest's devices begin */
static const uint64_t slot_bytes = 16 * FAKE_PAGE; /* that are not plugged in */

const char *fake_text(const cJSON *json, const char *name)
{
    const char *text = json_get_text(json, name);
    return text ? text : "";
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

int vm_open_vsock(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%.100s", path);
    return fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0
               ? -1
               : listen(fd, VSOCK_BACKLOG);
}

/* ---- memory ---- */

void vm_add_region(struct fake *fake, uint64_t size, bool plugged)
{
    uint64_t offset = 0;
    for (size_t i = 0; i < fake->region_count; i++)
        offset += fake->regions[i].size;
    fake->regions[fake->region_count++] =
        (struct fake_region){.offset = offset, .size = size, .plugged = plugged};
}

void vm_lay_out(struct fake *fake, uint64_t size, bool has_slot)
{
    uint64_t rest = has_slot && size > slot_bytes ? size - slot_bytes : size;
    uint64_t low = rest < low_end ? rest : low_end;
    fake->region_count = 0;
    vm_add_region(fake, low, true);
    if (rest > low)
        vm_add_region(fake, rest - low, true);
    if (size > rest)
        vm_add_region(fake, size - rest, false);
}

/* As the real ones: privately, unless it is shared, a mapping for each region, what is not plugged
 * in without access. */
int vm_map_regions(struct fake *fake)
{
    for (size_t i = 0; i < fake->region_count; i++) {
        struct fake_region *region = &fake->regions[i];
        int flags = (fake->shared ? MAP_SHARED : MAP_PRIVATE) | MAP_NORESERVE |
                    (fake->memory_fd < 0 ? MAP_ANONYMOUS : 0);
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

/* Of one that is paused. */
void vm_resume(struct fake *fake)
{
    fake->state = FAKE_RUNNING;
    fake->resumes++;
    guest_start(fake);
    pthread_cond_signal(&fake->resumed);
    pthread_mutex_unlock(&fake->running);
}

/* What was loaded differs from its image in the mailboxes only: nothing else runs here. */
int vm_write_memory(const struct fake *fake, int fd)
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
