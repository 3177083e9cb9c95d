/* SPDX-License-Identifier: MIT */
/*
 * place: what stat() tells of a place. Not what the kernel knows of it (node.h).
 *
 * Lock: called with objects.lock held.
 */
#ifndef HYPEFS_FS_PLACE_H
#define HYPEFS_FS_PLACE_H

#include "fs/entry.h"

/* -errno: its text cannot be made, or its log cannot be looked at. */
int place_stat(const struct place *place, struct stat *ret);

#endif
