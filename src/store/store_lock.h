/* SPDX-License-Identifier: MIT */
/* store_lock: the file STORE/lock, by which one daemon has a store, and which holds its pid. */
#ifndef HYPEFS_STORE_STORE_LOCK_H
#define HYPEFS_STORE_STORE_LOCK_H

#include <sys/types.h>

#include "util/error.h"

/* Returns the descriptor that has the lock. EBUSY, with its pid, if another daemon keeps it. */
int store_lock_take(int store_fd, const char *path, struct error *err);

/* Who has the lock; 0 if nobody has it, or that is not known. A daemon that takes it at this moment
 * waits. */
pid_t store_lock_owner(int store_fd);

/* The file holds nothing then. */
void store_lock_give(int fd);

#endif
