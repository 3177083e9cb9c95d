/* SPDX-License-Identifier: MIT */
/*
 * drives: the disks that a VM can write to, of VMMs with `copies_disks`. A save freezes a copy of
 * each (disk_copy_name()), and each VM that comes from the save writes to a copy of that, the file
 * "drive-ID" in its own directory. Those that can only be read are shared.
 *
 * Where that copy would have all of a disk's data once more, and the VMM knows overlays, the first
 * save makes the frozen copy an empty overlay over the raw file lower-ID, which all have by hard
 * links from then on: so only what was written since is copied. For backends.
 */
#ifndef HYPEFS_HYPERVISOR_DRIVES_H
#define HYPEFS_HYPERVISOR_DRIVES_H

#include "hypervisor/hypervisor.h"

/* Before a load: makes the VM's own copies. */
int drives_copy(const struct vmm_context *context, const struct machine *machine, const char *image,
                struct error *err);

/* Would a VM that boots get the user's own file for it? */
bool drive_is_users(const struct vmm_context *context, const struct machine_disk *disk);

/* The file that a VM which boots gets for a drive (owned). One that can be written to is "drive-ID"
 * in its directory: a link to the user's file, unless the instance ran on a copy, or was saved. */
int drive_path(const struct vmm_context *context, const struct machine_disk *disk, char **ret,
               struct error *err);

struct drives_save {
    const char *directory; /* as that of struct vmm_save */
    bool overlays;         /* its VMM knows them */
};

/* Of a paused VM: copies its drives, as opened, into that directory, and tells `machine`. */
int drives_freeze(const struct vmm_context *context, const struct vmm *vmm, struct machine *machine,
                  const struct drives_save *save, struct error *err);

/* Puts "the drive ID: " before the text of a failure. Returns r. */
int drive_prefix(const struct machine_disk *disk, int r, struct error *err);

#endif
