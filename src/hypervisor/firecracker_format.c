/* SPDX-License-Identifier: MIT */
#include "hypervisor/firecracker_format.h"

#include <stdio.h>
#include <string.h>

#include "util/cleanup.h"

enum { MAGIC_SIZE = 8, TEXT_MAX = 16 };

/* The magic is the state's first number, little-endian; its last 16 bits were a version before 1.7.
 */
static const struct {
    uint64_t magic;
    const char *name;
} architectures[] = {{UINT64_C(0x0710198486640000), "x86-64"},
                     {UINT64_C(0x07101984AAAA0000), "arm64"}};

#if defined(__aarch64__)
enum { HOST = 1 };
const char firecracker_host_architecture[] = "arm64";
#else
enum { HOST = 0 };
const char firecracker_host_architecture[] = "x86-64";
#endif

/* By the major version of the format, as the sources of the releases have it. */
static const char *const releases[] = {
    [1] = "1.7",  [2] = "1.8",          [3] = "1.9 or 1.10.0", [4] = "1.10.1", [5] = "1.11",
    [6] = "1.12", [8] = "1.13 or 1.14", [9] = "1.15",          [10] = "1.16",
};

static uint64_t read_number(const uint8_t *bytes)
{
    uint64_t value = 0;
    for (size_t i = MAGIC_SIZE; i-- > 0;)
        value = value << 8 | bytes[i];
    return value;
}

struct firecracker_version firecracker_format_parse(const char *text)
{
    struct firecracker_version version = {0};
    text += text[0] == 'v';
    if (sscanf(text, "%4u.%4u.", &version.major, &version.minor) != 2)
        version = (struct firecracker_version){0};
    return version;
}

/* A text behind its length. */
static struct firecracker_version read_version(const uint8_t *bytes, size_t size, uint64_t length)
{
    char text[TEXT_MAX + 1] = "";
    if (length > TEXT_MAX || length > size)
        return (struct firecracker_version){0};
    memcpy(text, bytes, (size_t)length);
    return firecracker_format_parse(text);
}

/* Up to 1.14 Firecracker wrote with bincode: the number, and the text's length as a number. Since
 * then it writes with bitcode, which puts the width of numbers before them, a zero for 64 bits, and
 * the length into one byte. */
bool firecracker_head_read(const uint8_t *bytes, size_t size, struct firecracker_head *ret)
{
    for (size_t i = 0; i < 2 * array_length(architectures); i++) {
        const size_t which = i / 2, at = i % 2, behind = at + MAGIC_SIZE;
        if (behind > size || (at == 1 && bytes[0]))
            continue;
        const uint64_t value = read_number(bytes + at);
        if ((value & ~UINT64_C(0xFFFF)) != architectures[which].magic)
            continue;
        *ret = (struct firecracker_head){.architecture = architectures[which].name,
                                         .native = which == HOST,
                                         .old = value != architectures[which].magic};
        if (at == 1 && behind < size)
            ret->format = read_version(bytes + behind + 1, size - behind - 1, bytes[behind]);
        else if (at == 0 && behind + MAGIC_SIZE <= size)
            ret->format = read_version(bytes + behind + MAGIC_SIZE, size - behind - MAGIC_SIZE,
                                       read_number(bytes + behind));
        return true;
    }
    return false;
}

static bool is_known(struct firecracker_version version)
{
    return version.major != 0 || version.minor != 0;
}

bool firecracker_format_fits(struct firecracker_version format, struct firecracker_version own)
{
    return !is_known(format) || !is_known(own) ||
           (format.major == own.major && format.minor <= own.minor);
}

const char *firecracker_format_releases(struct firecracker_version format)
{
    return format.major < array_length(releases) ? releases[format.major] : NULL;
}
