/* SPDX-License-Identifier: MIT */
/* firecracker_drives: the drives that a VM can write to. Firecracker knows no overlays, so a save
 * freezes a copy of each (disk_copy_name()), and each VM that comes from the save writes to a copy
 * of that, the file "drive-ID" in its own directory. Those that can only be read are shared. For
 * the Firecracker backend only. */
#ifndef HYPEFS_HYPERVISOR_FIRECRACKER_DRIVES_H
#define HYPEFS_HYPERVISOR_FIRECRACKER_DRIVES_H

#include "hypervisor/hypervisor.h"

/* Before a load: makes the VM's own copies, which Firecracker opens if the state names them. */
int firecracker_copy_drives(const struct vmm_context *context, const struct machine *machine,
                            const char *image, struct error *err);

/* Loaded, paused, not resumed since: puts the copies in the place of what the state names.
 * EOPNOTSUPP: there is a drive that can be written to, and no frozen copy of it. */
int firecracker_place_drives(const struct vmm_context *context, struct vmm *vmm,
                             const struct machine *machine, struct error *err);

/* After a failed load: names the files that must exist because another tool's state names them. */
void firecracker_explain_drives(const struct machine *machine, struct error *err);

/* The file that a VM which boots gets for a drive (owned). One that can be written to is "drive-ID"
 * in its directory: a link to the user's file, unless the instance ran on a copy, or was saved. */
int firecracker_drive_path(const struct vmm_context *context, const struct machine_disk *disk,
                           char **ret, struct error *err);

/* Of a paused VM: copies its drives, as opened, into that directory, and tells `machine`. */
int firecracker_freeze_drives(const struct vmm_context *context, const struct vmm *vmm,
                              struct machine *machine, const char *directory, struct error *err);

#endif
