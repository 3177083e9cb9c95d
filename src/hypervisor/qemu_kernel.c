/* SPDX-License-Identifier: MIT */
#include "hypervisor/qemu_kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "util/cleanup.h"

enum { HEADER_SIZE = 8192, LINUX_MAGIC_AT = 0x202, MULTIBOOT_ALIGNMENT = 4 };

static bool has(const uint8_t *header, size_t size, size_t at, const char magic[static 4])
{
    return at + 4 <= size && memcmp(header + at, magic, 4) == 0;
}

static bool has_multiboot(const uint8_t *header, size_t size)
{
    for (size_t at = 0; at < size; at += MULTIBOOT_ALIGNMENT)
        if (has(header, size, at, "\x02\xb0\xad\x1b"))
            return true;
    return false;
}

int qemu_kernel_check(const char *path, struct error *err)
{
    uint8_t header[HEADER_SIZE];
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return 0;
    ssize_t got = pread(fd, header, sizeof header, 0);
    if (got < 0)
        return error_set(err, EINVAL,
                         "QEMU cannot boot the kernel %s, which cannot be read (%s): give another "
                         "in config",
                         path, strerrordesc_np(errno));
    const size_t size = (size_t)got;
    if (has(header, size, LINUX_MAGIC_AT, "HdrS") ||
        has(header, size, 0,
            "\x7f"
            "ELF") ||
        has_multiboot(header, size))
        return 0;
    return error_set(err, EINVAL,
                     "QEMU cannot boot the kernel %s, which is no bzImage of Linux, no ELF file "
                     "and has no multiboot header: give another in config",
                     path);
}
