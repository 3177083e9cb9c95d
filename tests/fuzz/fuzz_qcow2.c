/* SPDX-License-Identifier: MIT */
/* Any bytes as a user's disk in the format qcow2: is it one that stands alone? */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "hypervisor/qemu_disks.h"
#include "util/cleanup.h"

bool fuzz(const uint8_t *data, size_t size)
{
    char path[64], format[] = "qcow2";
    auto_close int fd = memfd_create("disk", MFD_CLOEXEC);
    struct machine_disk disk = {.path = path, .format = format};
    struct machine machine = {.disks = &disk, .disk_count = 1};
    struct error err = {0};
    MUST(fd >= 0 && (size == 0 || write(fd, data, size) == (ssize_t)size));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int r = qemu_disks_check(&machine, false, &err);
    MUST(r == 0 || (r == -EINVAL && err.code == EINVAL && strstr(err.text, path)));
    return r == 0;
}
