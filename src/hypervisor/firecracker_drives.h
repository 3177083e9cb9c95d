/* SPDX-License-Identifier: MIT */
/*
 * firecracker_drives: the drives that a VM can write to. Firecracker knows no overlays, so a save
 * freezes a copy of each (disk_copy_name()), and each VM that comes from the save writes to a copy
 * of that, the file "drive-ID" in its own directory. Those that can only be read are shared. For
 * the Firecracker backend only.
 */
#ifndef HYPEFS_HYPERVISOR_FIRECRACKER_DRIVES_H
#define HYPEFS_HYPERVISOR_FIRECRACKER_DRIVES_H

#include "hypervisor/hypervisor.h"

/* Before a load: the VM's own copies. The state of a VM that had such names them, and Firecracker
 * opens them at load. `image` as for load. */
int firecracker_copy_drives(const struct vmm_context *context, const struct machine *machine,
                            const char *image, struct error *err);

/* Loaded, paused, not resumed since: puts the copies in the place of what the state names.
 * EOPNOTSUPP: there is a drive that can be written to, and no frozen copy of it. */
int firecracker_place_drives(const struct vmm_context *context, struct vmm *vmm,
                             const struct machine *machine, struct error *err);

/* After a load that failed: a drive that the state of another tool names may have to be there, even
 * where there is a frozen copy of it. */
void firecracker_explain_drives(const struct machine *machine, struct error *err);

/* Which file a VM that is booted gets for a drive. One that can be written to is "drive-ID" in its
 * directory: a link to the user's file, unless the instance ran on a copy before, or was saved.
 * Returns owned. */
int firecracker_drive_path(const struct vmm_context *context, const struct machine_disk *disk,
                           char **ret, struct error *err);

/* Paused: what is on the drives now that the VMM has open, as copies in that directory, which
 * `machine` then tells. */
int firecracker_freeze_drives(const struct vmm_context *context, const struct vmm *vmm,
                              struct machine *machine, const char *directory, struct error *err);

#endif
