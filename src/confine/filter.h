/* SPDX-License-Identifier: MIT */
/* filter: which system calls are refused to a VMM: those that reach into the kernel where a VMM has
 * nothing to do. It is a list of what is refused, and not of what is allowed, because each VMM has
 * its own. For the program hypefs-vmm. */
#ifndef HYPEFS_CONFINE_FILTER_H
#define HYPEFS_CONFINE_FILTER_H

enum filter_walls {
    FILTER_NAMESPACES,      /* the filter is one wall of several */
    FILTER_ALONE,           /* there are none, and what they would keep from it is refused, too */
    FILTER_ALONE_ON_NETWORK /* the same; but it is on the host's network by connections of its own
                             */
};

/* For this thread, and whatever it runs, for ever; it has no_new_privs. -1 and errno. */
int filter_install(enum filter_walls walls);

#endif
