/* SPDX-License-Identifier: MIT */
/*
 * block_device: what tells whether a block device of the host is as it was. Its mtime does not: so
 * the kernel is asked what is attached there, and how much was written to it. No state; any thread.
 */
#ifndef HYPEFS_HYPERVISOR_BLOCK_DEVICE_H
#define HYPEFS_HYPERVISOR_BLOCK_DEVICE_H

#include <sys/stat.h>

#include "util/error.h"
#include "util/file_key.h"

/* Its number, its size, the number that the kernel gave to what is attached there (since 5.15), and
 * the sectors that this host has written to it. The last two begin anew when the host starts. EIO.
 * `file` is what stat() tells of `path`. What waits to be written to it is written first. */
int block_device_key(const char *path, const struct stat *file, char ret[FILE_KEY_SIZE],
                     struct error *err);

#endif
