/* SPDX-License-Identifier: MIT */
#include "hypervisor/overlay.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* QEMU's docs/interop/qcow2.txt. Numbers are big-endian; what is not named here is 0. */
enum {
    SECTOR = 512,
    CLUSTER_BITS = 16,
    CLUSTER = 1 << CLUSTER_BITS,
    ENTRIES = CLUSTER / 8, /* of a cluster of offsets */
    VERSION = 3,
    REFCOUNT_ORDER = 4, /* 16 bits for each cluster */
    HEADER_END = 104,
    EXTENSION_FORMAT = (int)0xE2792ACA, /* of the file below: it is never guessed */
    NAME = 128,                         /* where that file's name is, after the extensions */
    HEADER_SIZE = 256,
};

/* Where in the header what is. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,
    AT_NAME = 8,
    AT_NAME_LENGTH = 16,
    AT_CLUSTER_BITS = 20,
    AT_SIZE = 24,
    AT_TABLE_ENTRIES = 36,
    AT_TABLE = 40,
    AT_REFCOUNTS = 48,
    AT_REFCOUNTS_CLUSTERS = 56,
    AT_INCOMPATIBLE = 72,
    AT_REFCOUNT_ORDER = 96,
    AT_HEADER_END = 100,
};

enum { DIRTY = 1 }; /* of the incompatible features: it was not closed */

/* The file's clusters, in order: header, table of refcounts, refcounts, table of the clusters. */
enum { REFCOUNTS = 1, FIRST_REFCOUNTS = 2, TABLE = 3 };

static void put(uint8_t *bytes, size_t at, size_t size, uint64_t number)
{
    for (size_t i = 0; i < size; i++)
        bytes[at + i] = (uint8_t)(number >> (8 * (size - 1 - i)));
}

static uint64_t count(uint64_t size, uint64_t unit)
{
    return size / unit + (size % unit != 0);
}

static uint64_t table_entries(uint64_t size)
{
    return count(size, (uint64_t)CLUSTER * ENTRIES);
}

/* More than one cluster for the table would do as well, but such disks are of many TiB. */
bool overlay_fits(uint64_t size, const char *below)
{
    return size > 0 && table_entries(size) <= ENTRIES && strlen(below) <= HEADER_SIZE - NAME;
}

static void describe(uint64_t size, const char *below, uint8_t ret[static HEADER_SIZE])
{
    static const uint8_t magic[] = {'Q', 'F', 'I', 0xfb};
    static const char format[] = "raw";
    memset(ret, 0, HEADER_SIZE);
    memcpy(ret + AT_MAGIC, magic, sizeof magic);
    put(ret, AT_VERSION, 4, VERSION);
    put(ret, AT_NAME, 8, NAME);
    put(ret, AT_NAME_LENGTH, 4, strlen(below));
    put(ret, AT_CLUSTER_BITS, 4, CLUSTER_BITS);
    put(ret, AT_SIZE, 8, count(size, SECTOR) * SECTOR);
    put(ret, AT_TABLE_ENTRIES, 4, table_entries(size));
    put(ret, AT_TABLE, 8, TABLE * CLUSTER);
    put(ret, AT_REFCOUNTS, 8, REFCOUNTS * CLUSTER);
    put(ret, AT_REFCOUNTS_CLUSTERS, 4, 1);
    put(ret, AT_REFCOUNT_ORDER, 4, REFCOUNT_ORDER);
    put(ret, AT_HEADER_END, 4, HEADER_END);
    put(ret, HEADER_END, 4, (uint32_t)EXTENSION_FORMAT);
    put(ret, HEADER_END + 4, 4, strlen(format));
    memcpy(ret + HEADER_END + 8, format, strlen(format));
    memcpy(ret + NAME, below, strlen(below));
}

static int write_at(int fd, const uint8_t *bytes, size_t size, off_t at, struct error *err)
{
    ssize_t done = pwrite(fd, bytes, size, at);
    if (done < 0)
        return error_errno(err, errno, "the overlay cannot be written");
    return (size_t)done == size ? 0 : error_set(err, ENOSPC, "the overlay cannot be written");
}

int overlay_create(int fd, uint64_t size, const char *below, struct error *err)
{
    uint8_t header[HEADER_SIZE], offset[8], counts[2 * (TABLE + 1)];
    if (!overlay_fits(size, below))
        return error_set(err, EINVAL, "the overlay would be too large");
    describe(size, below, header);
    put(offset, 0, sizeof offset, FIRST_REFCOUNTS * CLUSTER);
    for (size_t i = 0; i < sizeof counts; i += 2)
        put(counts, i, 2, 1);
    if (ftruncate(fd, (off_t)(TABLE + 1) * CLUSTER) < 0)
        return error_errno(err, errno, "the overlay cannot be written");
    int r = write_at(fd, header, sizeof header, 0, err);
    if (r == 0)
        r = write_at(fd, offset, sizeof offset, REFCOUNTS * CLUSTER, err);
    return r == 0 ? write_at(fd, counts, sizeof counts, FIRST_REFCOUNTS * CLUSTER, err) : r;
}

/* All but what a VMM that writes to the file changes of it, which `expected` gets: where the
 * refcounts are, whether it was closed, and whether the format is there. */
static bool is_ours(const uint8_t *header, uint8_t *expected)
{
    static const uint8_t no_format[8] = {0};
    uint8_t *features = expected + AT_INCOMPATIBLE + 7;
    uint8_t known[HEADER_SIZE];
    memcpy(expected + AT_REFCOUNTS, header + AT_REFCOUNTS, 8 + 4);
    *features = header[AT_INCOMPATIBLE + 7] & DIRTY;
    memcpy(known, expected, sizeof known);
    if (memcmp(header + HEADER_END, no_format, sizeof no_format) == 0)
        memset(known + HEADER_END, 0, sizeof no_format);
    return memcmp(header, known, sizeof known) == 0;
}

int overlay_mend(int fd, uint64_t size, const char *below, bool whole, struct error *err)
{
    uint8_t expected[HEADER_SIZE], header[HEADER_SIZE];
    ssize_t got = pread(fd, header, sizeof header, 0);
    if (got < 0)
        return error_io(err, errno, "the overlay cannot be read");
    if (!overlay_fits(size, below))
        return error_set(err, EIO, "the overlay's lower file is not as it was");
    describe(size, below, expected);
    if (got != sizeof header || !is_ours(header, expected))
        return error_set(err, EIO, "the overlay is not as hypefs made it: its VMM has changed it");
    if (whole)
        expected[AT_INCOMPATIBLE + 7] = 0;
    return write_at(fd, expected, sizeof expected, 0, err);
}
