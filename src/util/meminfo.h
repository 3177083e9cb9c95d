/* SPDX-License-Identifier: MIT */
/* meminfo: how much of the host's memory is left, and of what a cgroup v2 allows. No state; any
 * thread. */
#ifndef HYPEFS_UTIL_MEMINFO_H
#define HYPEFS_UTIL_MEMINFO_H

#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"

struct meminfo { /* bytes */
    uint64_t total, available;
};

/* MemTotal and MemAvailable, by a file as /proc/meminfo is. EIO, EINVAL. */
int meminfo_read(const char *path, struct meminfo *ret, struct error *err);
/* MemAvailable in percent of MemTotal. */
int meminfo_available(const char *path, int *ret_percent, struct error *err);

/* The limit (memory.max) that leaves least to who is in that cgroup: its own, or that of one above
 * it. What it can reclaim, the cache of files, is available; that is looked at only if else less
 * than `enough` is. `self` is a file as /proc/self/cgroup is, `root` where the cgroups are mounted:
 * /sys/fs/cgroup. False: there is no limit, or none that can be read. */
bool meminfo_cgroup(const char *self, const char *root, uint64_t enough, struct meminfo *ret);

#endif
