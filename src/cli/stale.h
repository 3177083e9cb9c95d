/* SPDX-License-Identifier: MIT */
/* stale: what a hypefs that was killed leaves at its mountpoint. */
#ifndef HYPEFS_CLI_STALE_H
#define HYPEFS_CLI_STALE_H

#include "util/error.h"

/* Is the last thing mounted there of a type that begins so? The path is as the kernel names it. 1,
 * 0 or -errno: it is not known. */
int stale_is_mounted(const char *path, const char *type, struct error *err);

/*
 * If a hypefs is mounted there whose daemon is gone, unmounts it (with umount2, or by fusermount3
 * when not root). EBUSY if one is mounted there whose daemon lives, also if it does not answer.
 * Starts a process: no other thread may run yet.
 */
int stale_clear(const char *mountpoint, struct error *err);

#endif
