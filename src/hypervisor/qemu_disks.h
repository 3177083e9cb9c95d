/* SPDX-License-Identifier: MIT */
/* qemu_disks: the chains of disks.h for QEMU. A file of a chain is the node "disk0" (the user's) or
 * "disk0.1" and so on. Formats are named, headers are never probed, and what is frozen is opened
 * for reading only. For the QEMU backend only; one thread at a time per struct vmm. */
#ifndef HYPEFS_HYPERVISOR_QEMU_DISKS_H
#define HYPEFS_HYPERVISOR_QEMU_DISKS_H

#include "hypervisor/hypervisor.h"

enum { QEMU_NODE_SIZE = 32 };

/* The name of the node of a file of the disk with that index; layer 0: the user's. */
void qemu_disk_node(size_t index, unsigned layer, char ret[QEMU_NODE_SIZE]);

/* Can QEMU be given the user's files? EIO: one is missing, or not as it was. EINVAL: no regular
 * file, or no qcow2 that stands alone. EOPNOTSUPP: VMs that are restored would all write to it. */
int qemu_disks_check(const struct machine *machine, bool restore, struct error *err);

/* Makes the tops for a VM that is about to start, in the context's directory; one that is booted
 * goes on with those that are there. Needs qemu-img: EIO. */
int qemu_disks_make(const struct vmm_context *context, const struct machine *machine, bool restore,
                    struct error *err);

/* Lets a paused VM write into new tops, and freezes what it wrote to before, which `machine` tells.
 * After a failure all is as it was; only a VMM that does not answer may have done it. */
int qemu_disks_switch(const struct vmm_context *context, struct vmm *vmm, struct machine *machine,
                      struct error *err);

/* The slot find_disks. */
int qemu_disks_find(const struct vmm_context *context, struct vmm *vmm, struct machine *machine,
                    struct error *err);

#endif
