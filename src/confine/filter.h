/* SPDX-License-Identifier: MIT */
/* filter: which system calls are refused to a VMM: those that reach into the kernel where a VMM has
 * nothing to do. It is a list of what is refused, and not of what is allowed, because each VMM has
 * its own. For the program hypefs-vmm. */
#ifndef HYPEFS_CONFINE_FILTER_H
#define HYPEFS_CONFINE_FILTER_H

#include <stdbool.h>

/* For this thread, and whatever it runs, for ever; it has no_new_privs. `alone`: it has no
 * namespaces, and what they would keep from it is refused, too. -1 and errno. */
int filter_install(bool alone);

#endif
