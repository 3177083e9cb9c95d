/* SPDX-License-Identifier: MIT */
/*
 * strays: processes that an earlier daemon started in a directory of the store and could not put on
 * record before it was killed. They have the mark of process.h; others there (a shell, tail -f
 * vmm.log) are left alone. No start is missed: until its exec, from when on it has the mark, a
 * child holds the lock of the store, by which the next daemon waits for it.
 *
 * A process may be in a directory of a network file system that hangs. So only those with the mark
 * are asked for their directory, and only for its device and inode, which the kernel knows.
 */
#ifndef HYPEFS_STORE_STRAYS_H
#define HYPEFS_STORE_STRAYS_H

#include <stddef.h>
#include <sys/types.h>

#include "util/error.h"

/* The processes with the mark and the directories they are in, as they were at strays_find(). */
struct strays {
    struct stray *items; /* owned */
    size_t count;
};

/* Leaves out those that may not be read: they are not ours. `ret` is to be finished in any case. */
int strays_find(struct strays *ret, struct error *err) __attribute__((warn_unused_result));
void strays_finish(struct strays *strays);

/* Kills those that are in the directory, but for `keep` (0: all), and waits until they are gone.
 * EIO and others, with the pid, if one may still run. */
int strays_end(const struct strays *strays, int directory_fd, pid_t keep, struct error *err)
    __attribute__((warn_unused_result));

/* Was that process started by a daemon, and is it in the directory? 1; 0: it was not, is elsewhere
 * or has ended; -errno: it may not be looked at. */
int strays_is_in(pid_t pid, int directory_fd);

#endif
