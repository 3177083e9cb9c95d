/* SPDX-License-Identifier: MIT */
/* mountpoint: the directory that the tree is to cover, looked at before anything is made. */
#ifndef HYPEFS_CLI_MOUNTPOINT_H
#define HYPEFS_CLI_MOUNTPOINT_H

#include "util/error.h"

/*
 * Clears a stale mount of ours, and puts the mountpoint's real path into `ret` (owned). Both paths
 * are absolute; the store's need not be there yet. ENOTDIR; ENOTEMPTY: something would be covered;
 * EINVAL: the mountpoint is the store, or one of them lies in the other; EBUSY: of stale_clear().
 * Another mount that is being started there is waited for. `ret_lock` lets others wait for this one,
 * until it is given to mountpoint_unlock(); -1: the file system has no locks on directories, or
 * somebody has it for long. Starts processes, as stale_clear() does.
 */
int mountpoint_prepare(const char *path, const char *store, char **ret, int *ret_lock,
                       struct error *err);
/* Also for the processes that were forked meanwhile. */
void mountpoint_unlock(int lock);

#endif
