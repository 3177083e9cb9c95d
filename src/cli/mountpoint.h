/* SPDX-License-Identifier: MIT */
/* mountpoint: the directory that the tree is to cover, checked before anything is made; and what a
 * hypefs that was killed has left mounted there. */
#ifndef HYPEFS_CLI_MOUNTPOINT_H
#define HYPEFS_CLI_MOUNTPOINT_H

#include "util/error.h"

/* Is the last thing mounted there of a type that begins so? The path is as the kernel names it. 1,
 * 0 or -errno: it is not known. */
int mountpoint_has(const char *path, const char *type, struct error *err);

/*
 * If a hypefs is mounted there whose daemon is gone, unmounts it (with umount2, or by fusermount3
 * when not root). EBUSY if one is mounted there whose daemon lives, also if it does not answer.
 * Starts a process: no other thread may run yet.
 */
int mountpoint_clear(const char *mountpoint, struct error *err);

/*
 * Clears a stale mount of ours, and puts the mountpoint's real path into `ret` (owned). Both paths
 * are absolute; the store's need not be there yet. ENOTDIR; ENOTEMPTY: something would be covered;
 * EINVAL: the mountpoint is the store, or one of them lies in the other; EBUSY: of
 * mountpoint_clear(). Another mount that is being started there is waited for. `ret_lock` lets
 * others wait for this one, until it is given to mountpoint_unlock(); -1: the file system has no
 * locks on directories, or somebody has it for long. Starts processes, as mountpoint_clear() does.
 */
int mountpoint_prepare(const char *path, const char *store, char **ret, int *ret_lock,
                       struct error *err);
/* Also for the processes that were forked meanwhile. */
void mountpoint_unlock(int lock);

#endif
