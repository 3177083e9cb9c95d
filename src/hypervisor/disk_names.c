/* SPDX-License-Identifier: MIT */
/* disk_names: what files of a machine's disks are called. */
#include <stdio.h>
#include <string.h>

#include "hypervisor/disks.h"
#include "util/cleanup.h"

void disk_layer_name(size_t index, unsigned layer, char ret[DISK_NAME_SIZE])
{
    snprintf(ret, DISK_NAME_SIZE, "disk%zu.%u.qcow2", index, layer);
}

void disk_copy_name(const struct machine_disk *disk, char ret[DISK_COPY_SIZE])
{
    snprintf(ret, DISK_COPY_SIZE, "frozen-%s", disk->id ? disk->id : "");
}

void disk_drive_name(const struct machine_disk *disk, char ret[DISK_COPY_SIZE])
{
    snprintf(ret, DISK_COPY_SIZE, "drive-%s", disk->id ? disk->id : "");
}

void disk_lower_name(const struct machine_disk *disk, char ret[DISK_COPY_SIZE])
{
    snprintf(ret, DISK_COPY_SIZE, "lower-%s", disk->id ? disk->id : "");
}

bool disk_owns_name(const char *name)
{
    static const char *const prefixes[] = {"frozen-", "drive-", "lower-"};
    size_t index;
    unsigned layer;
    int end = 0;
    for (size_t i = 0; i < array_length(prefixes); i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return sscanf(name, "disk%zu.%u.qcow2%n", &index, &layer, &end) == 2 && end > 0 && !name[end];
}
