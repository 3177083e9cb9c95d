/* SPDX-License-Identifier: MIT */
/* firecracker_drives: how a Firecracker gets the copies of drives.h, for the state that it loads
 * names other files. For the Firecracker backend only. */
#ifndef HYPEFS_HYPERVISOR_FIRECRACKER_DRIVES_H
#define HYPEFS_HYPERVISOR_FIRECRACKER_DRIVES_H

#include <limits.h>

#include "hypervisor/disks.h"
#include "hypervisor/firecracker_control.h"

/* Loaded, paused, not resumed since: puts the copies in the place of what the state names.
 * EOPNOTSUPP: there is a drive that can be written to, and no frozen copy of it. */
int firecracker_place_drives(const struct vmm_context *context, struct vmm *vmm,
                             const struct machine *machine, struct error *err);

/* What a saved state names by paths at which the host has another file, or none: arguments to be
 * put before those of the VMM, for src/bind/bind.c; NULL at the end. There may be none. */
struct firecracker_binds {
    const char *arguments[FIRECRACKER_BEFORE_MAX + 1];
    char program[PATH_MAX], copies[MACHINE_DISKS_MAX][DISK_COPY_SIZE];
};
/* Borrows the machine's paths. EIO: that program is not there. */
int firecracker_find_binds(const struct machine *machine, struct firecracker_binds *ret,
                           struct error *err);

/* After a failed load of what has no saved_path, of an import by an older hypefs: names the files
 * that must exist because another tool's state names them. */
void firecracker_explain_drives(const struct machine *machine, struct error *err);

#endif
