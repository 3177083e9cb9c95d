/* SPDX-License-Identifier: MIT */
/* stale: what a hypefs that was killed leaves at its mountpoint. */
#ifndef HYPEFS_CLI_STALE_H
#define HYPEFS_CLI_STALE_H

#include "util/error.h"

/*
 * If a hypefs is mounted there whose daemon is gone, unmounts it (with umount2, or by fusermount3
 * when not root). EBUSY if one is mounted there that answers.
 */
int stale_clear(const char *mountpoint, struct error *err);

#endif
