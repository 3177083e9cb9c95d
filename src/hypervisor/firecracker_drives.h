/* SPDX-License-Identifier: MIT */
/*
 * firecracker_drives: the drives of a VM that was loaded. Firecracker has opened the files that the
 * saved state names, which all forks of it share. Those that can only be read stay; in the place of
 * each one that can be written to comes the fork's own copy of what was on it at the save. For the
 * Firecracker backend only.
 */
#ifndef HYPEFS_HYPERVISOR_FIRECRACKER_DRIVES_H
#define HYPEFS_HYPERVISOR_FIRECRACKER_DRIVES_H

#include "hypervisor/hypervisor.h"

/* Loaded, paused, not resumed since. `image` as for load. EOPNOTSUPP: there is one that can be
 * written to, and no frozen copy of it. */
int firecracker_place_drives(const struct vmm_context *context, struct vmm *vmm,
                             const struct machine *machine, const char *image, struct error *err);

#endif
