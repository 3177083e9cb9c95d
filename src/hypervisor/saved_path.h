/* SPDX-License-Identifier: MIT */
/* saved_path: which paths that a saved state names can be made up for a VMM that is shut in, and
 * what is needed for that. Relative ones lead from the VMM's working directory. */
#ifndef HYPEFS_HYPERVISOR_SAVED_PATH_H
#define HYPEFS_HYPERVISOR_SAVED_PATH_H

#include <stdbool.h>

#include "util/error.h"

bool saved_path_is_relative(const char *path);

/* Why nothing can be put there: to follow "it". NULL: something can. */
const char *saved_path_refuse(const char *path);

/* A relative one becomes an empty file of that directory, at which another can be shown; what is
 * there already stays. Errors of mkdir(2) and open(2). */
int saved_path_make(int directory_fd, const char *path, struct error *err);

#endif
