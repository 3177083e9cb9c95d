/* SPDX-License-Identifier: MIT */
/* overlay: a disk in a qcow2 file over a raw one, as far as a guest needs it that writes to the
 * first cluster only. As the real one, it takes the name of the file below from the header, keeps
 * the mark of a file that was not closed for as long as it runs, and leaves out that file's format
 * where it finds the mark. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake.h"

enum { CLUSTER = 65536, NAME = 8, NAME_LENGTH = 16, TABLE = 40, REFCOUNTS = 48, FEATURES = 79 };
enum { EXTENSIONS = 104, HEADER = 512, NAME_MAX_SIZE = 128 };
static const uint64_t COPIED = UINT64_C(1) << 63;

static uint64_t read_number(const uint8_t *bytes, size_t size)
{
    uint64_t number = 0;
    for (size_t i = 0; i < size; i++)
        number = number << 8 | bytes[i];
    return number;
}

static int write_number(int fd, uint64_t number, size_t size, uint64_t at)
{
    uint8_t bytes[8];
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(number >> (8 * (size - 1 - i)));
    return pwrite(fd, bytes, size, (off_t)at) == (ssize_t)size ? 0 : -1;
}

int overlay_open(struct fake_drive *drive)
{
    static const uint8_t format[] = {0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 3, 'r', 'a', 'w'}, none[8];
    uint8_t header[HEADER];
    char name[NAME_MAX_SIZE] = "";
    if (pread(drive->fd, header, sizeof header, 0) != sizeof header ||
        memcmp(header, "QFI\xfb", 4) != 0 ||
        memcmp(header + EXTENSIONS, format, sizeof format) != 0)
        return -1;
    const uint64_t at = read_number(header + NAME, 8), size = read_number(header + NAME_LENGTH, 4);
    if (size >= sizeof name || at + size > sizeof header)
        return -1;
    memcpy(name, header + at, size);
    drive->lower_fd = open(name, O_RDONLY | O_CLOEXEC);
    if (drive->lower_fd < 0)
        return -1;
    if (header[FEATURES] & 1 && pwrite(drive->fd, none, sizeof none, EXTENSIONS) < 0)
        return -1;
    return write_number(drive->fd, header[FEATURES] | 1, 1, FEATURES);
}

/* The table of the second level and the cluster, at the end of the file, and their refcounts. */
static int allocate(struct fake_drive *drive, uint64_t table, uint64_t refcounts, uint64_t *ret)
{
    static uint8_t cluster[CLUSTER];
    struct stat file;
    uint8_t block[8];
    if (fstat(drive->fd, &file) < 0 || pread(drive->fd, block, sizeof block, (off_t)refcounts) < 0)
        return -1;
    const uint64_t second = ((uint64_t)file.st_size + CLUSTER - 1) / CLUSTER * CLUSTER;
    ssize_t size = pread(drive->lower_fd, cluster, sizeof cluster, 0);
    *ret = second + CLUSTER;
    for (uint64_t i = 0; i < 2; i++)
        if (write_number(drive->fd, 1, 2, read_number(block, 8) + 2 * (second / CLUSTER + i)) < 0)
            return -1;
    return size < 0 || write_number(drive->fd, second | COPIED, 8, table) < 0 ||
                   write_number(drive->fd, *ret | COPIED, 8, second) < 0 ||
                   pwrite(drive->fd, cluster, sizeof cluster, (off_t)*ret) < 0
               ? -1
               : 0;
}

int overlay_write(struct fake_drive *drive, const void *bytes, size_t size)
{
    uint8_t header[HEADER], entry[8], cluster[8];
    if (pread(drive->fd, header, sizeof header, 0) != sizeof header)
        return -1;
    const uint64_t table = read_number(header + TABLE, 8);
    if (pread(drive->fd, entry, sizeof entry, (off_t)table) != sizeof entry)
        return -1;
    uint64_t at, second = read_number(entry, 8) & ~COPIED;
    if (second == 0) {
        if (allocate(drive, table, read_number(header + REFCOUNTS, 8), &at) < 0)
            return -1;
    } else {
        if (pread(drive->fd, cluster, sizeof cluster, (off_t)second) != sizeof cluster)
            return -1;
        at = read_number(cluster, 8) & ~COPIED;
    }
    return pwrite(drive->fd, bytes, size, (off_t)at) == (ssize_t)size ? 0 : -1;
}
