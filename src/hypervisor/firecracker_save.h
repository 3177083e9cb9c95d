/* SPDX-License-Identifier: MIT */
/* firecracker_save: a paused VM as files. Firecracker writes the state of its devices, and the
 * memory of a VM that was booted; that of one that was loaded is hypefs's (memory.h). */
#ifndef HYPEFS_HYPERVISOR_FIRECRACKER_SAVE_H
#define HYPEFS_HYPERVISOR_FIRECRACKER_SAVE_H

#include "hypervisor/hypervisor.h"

/* The slot save. */
int firecracker_save(const struct vmm_context *context, struct vmm *vmm, struct machine *machine,
                     const struct vmm_save *save, struct error *err);

#endif
