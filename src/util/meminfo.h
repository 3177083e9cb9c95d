/* SPDX-License-Identifier: MIT */
/* meminfo: how much of the host's memory is left. No state; any thread. */
#ifndef HYPEFS_UTIL_MEMINFO_H
#define HYPEFS_UTIL_MEMINFO_H

#include "util/error.h"

/* MemAvailable in percent of MemTotal, by a file as /proc/meminfo is. EIO, EINVAL. */
int meminfo_available(const char *path, int *ret_percent, struct error *err);

#endif
