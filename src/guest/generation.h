/* SPDX-License-Identifier: MIT */
/* generation: which fork this clone was made by, so that the seed and the time of a fork are
 * applied once, whichever of its payloads comes first, and to whichever process. Part of the agent
 * program, whose processes share it across fork(2). */
#ifndef HYPEFS_GUEST_GENERATION_H
#define HYPEFS_GUEST_GENERATION_H

#include "guest/hypefs-guest.h"

struct generation {
    int fd;     /* its lock */
    char *last; /* shared memory: that was applied last, or "" */
};

/* Errors of memfd_create(2) and mmap(2). What was made is the process's until its end. */
int generation_open(struct generation *ret);

/* To be called with each payload in hand, before all else: no two clones may be alike. 0, too, if
 * the host was not asked for it, or it was done. Errors of hypefs_identity_apply(). */
int generation_become(const struct generation *generation, const struct hypefs_mailbox *box);

#endif
