/* SPDX-License-Identifier: MIT */
/* idmap: files of one user that are another's where they are seen through a mount (idmapped
 * mounts; mount_setattr(2)). On the disk they stay whose they are. For the program hypefs-vmm, as
 * root. */
#ifndef HYPEFS_CONFINE_IDMAP_H
#define HYPEFS_CONFINE_IDMAP_H

#include <stdbool.h>
#include <sys/types.h>

struct ids {
    uid_t uid;
    gid_t gid;
};

/* Of a process, which is a directory of the host's /proc: the only ones in its user namespace are
 * `inside`, and outside of it they are `outside`. False and errno. */
bool idmap_write(int process, struct ids inside, struct ids outside);

/* The detached mount `tree`: what is owned by `from` is owned by `to` there, and what is made there
 * by `to` is owned by `from` on the disk. False, and nothing has changed: that file system cannot
 * do it. */
bool idmap_set(int tree, struct ids from, struct ids to);

#endif
