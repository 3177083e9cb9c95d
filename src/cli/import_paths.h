/* SPDX-License-Identifier: MIT */
/* import_paths: the files of the host that an imported machine names, and whether it may have them.
 * What names them came with the snapshot, perhaps from a stranger. */
#ifndef HYPEFS_CLI_IMPORT_PATHS_H
#define HYPEFS_CLI_IMPORT_PATHS_H

#include "hypervisor/import.h"

enum { IMPORT_ALLOWED_MAX = 64 };

/* Folders that the user allows: with what lies below them. */
struct import_allowed {
    const char *folders[IMPORT_ALLOWED_MAX];
    size_t count;
};

/* EPERM unless each disk lies, wherever links lead, below the folder of the configuration or one
 * that is allowed. `config_path` is NULL if there are no disks. */
int import_paths_check(const struct import *import, const char *config_path,
                       const struct import_allowed *allowed, struct error *err);

/* Tells them on stdout, a line each. */
void import_paths_print(const struct import *import);

#endif
