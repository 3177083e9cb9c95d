/* SPDX-License-Identifier: MIT */
#include "hypervisor/block_device.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "util/cleanup.h"

enum { PATH_SIZE = 64, TEXT_SIZE = 512 };

/* One of the files that /sys has for it. */
static int read_text(const struct stat *device, const char *name, char ret[static TEXT_SIZE])
{
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u/%s", major(device->st_rdev),
             minor(device->st_rdev), name);
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, ret, TEXT_SIZE - 1);
    if (size < 0)
        return -errno;
    ret[size] = '\0';
    return 0;
}

/* A partition has that of its disk; 0: this kernel tells none. */
static uintmax_t sequence_of(const struct stat *device)
{
    char text[TEXT_SIZE];
    uintmax_t sequence = 0;
    if (read_text(device, "diskseq", text) < 0 && read_text(device, "../diskseq", text) < 0)
        return 0;
    return sscanf(text, "%20ju", &sequence) == 1 ? sequence : 0;
}

static int read_numbers(const struct stat *device, uintmax_t *ret_sectors, uintmax_t *ret_written)
{
    char text[TEXT_SIZE];
    int r = read_text(device, "size", text);
    if (r == 0 && sscanf(text, "%20ju", ret_sectors) != 1)
        r = -EIO;
    if (r == 0)
        r = read_text(device, "stat", text);
    if (r == 0 && sscanf(text, "%*u %*u %*u %*u %*u %*u %20ju", ret_written) != 1)
        r = -EIO;
    return r;
}

int block_device_key(const char *path, const struct stat *file, char ret[FILE_KEY_SIZE],
                     struct error *err)
{
    uintmax_t sectors = 0, written = 0;
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || sync_file_range(fd, 0, 0,
                                  SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                      SYNC_FILE_RANGE_WAIT_AFTER) < 0)
        return error_io(err, errno, "the block device %s", path);
    int r = read_numbers(file, &sectors, &written);
    if (r < 0)
        return error_io(err, -r, "/sys says nothing about the block device %s", path);
    snprintf(ret, FILE_KEY_SIZE, "device=%u:%u sectors=%ju sequence=%ju written=%ju",
             major(file->st_rdev), minor(file->st_rdev), sectors, sequence_of(file), written);
    return 0;
}
