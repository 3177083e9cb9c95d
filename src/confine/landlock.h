/* SPDX-License-Identifier: MIT */
/*
 * landlock: what the program may do with files, as Linux's Landlock enforces it (landlock(7)): a
 * wall behind that of the file system that it sees, or in the place of that, where there can be
 * none. For the program hypefs-vmm.
 */
#ifndef HYPEFS_CONFINE_LANDLOCK_H
#define HYPEFS_CONFINE_LANDLOCK_H

#include <stdbool.h>

/* Rights, to be added up. Those of directories are of what is in them. */
enum {
    LANDLOCK_MAY_READ = 1,
    LANDLOCK_MAY_RUN = 2,
    LANDLOCK_MAY_WRITE = 4,
    LANDLOCK_MAY_MAKE = 8,     /* directories, files, links, sockets, FIFOs; and remove them */
    LANDLOCK_MAY_CONTROL = 16, /* of a device: its ioctls */
};

/* The version of this kernel's Landlock; 0: it has none, or it is off. */
int landlock_version(void);

/* In this order. All but the first end the process if they fail. `has_network`: it may use TCP, and
 * abstract sockets of others. */
void landlock_begin(bool has_network);
/* Nothing, if there is no such file. */
void landlock_allow(const char *path, int rights);
/* For this thread, and whatever it runs, for ever; it has no_new_privs. */
void landlock_end(void);

#endif
