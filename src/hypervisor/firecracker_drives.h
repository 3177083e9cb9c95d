/* SPDX-License-Identifier: MIT */
/* firecracker_drives: how a Firecracker gets the copies of drives.h, for the state that it loads
 * names other files. For the Firecracker backend only. */
#ifndef HYPEFS_HYPERVISOR_FIRECRACKER_DRIVES_H
#define HYPEFS_HYPERVISOR_FIRECRACKER_DRIVES_H

#include "hypervisor/disks.h"
#include "hypervisor/firecracker_control.h"

/* Loaded, paused, not resumed since: puts the copies in the place of what the state names.
 * EOPNOTSUPP: there is a drive that can be written to, and no frozen copy of it. */
int firecracker_place_drives(const struct vmm_context *context, struct vmm *vmm,
                             const struct machine *machine, struct error *err);

/* For a VMM that is not shut in. EOPNOTSUPP: the saved state names a path at which the host has
 * another file, or none. */
int firecracker_check_paths(const struct machine *machine, struct error *err);

/* For one that is: what it needs to see other files at relative paths. */
int firecracker_make_paths(const struct vmm_context *context, const struct machine *machine,
                           struct error *err);

/* After a failed load of what has no saved_path, of an import by an older hypefs: names the files
 * that must exist because another tool's state names them. */
void firecracker_explain_drives(const struct vmm_context *context, const struct machine *machine,
                                struct error *err);

#endif
