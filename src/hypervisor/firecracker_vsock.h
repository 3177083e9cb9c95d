/* SPDX-License-Identifier: MIT */
/* firecracker_vsock: where the socket behind a fork's vsock is. Since 1.16 a load says so; before,
 * it is where the saved state names it, which a VMM that is shut in takes for its own directory.
 * For the Firecracker backend only. */
#ifndef HYPEFS_HYPERVISOR_FIRECRACKER_VSOCK_H
#define HYPEFS_HYPERVISOR_FIRECRACKER_VSOCK_H

#include "hypervisor/firecracker_control.h"

/* In the VMM's directory. */
#define FIRECRACKER_VSOCK_NAME "vsock.sock"

/* For hypefs-vmm, behind all else of a load: the folder that the state names is the VMM's own.
 * EOPNOTSUPP: there it cannot be. */
int firecracker_vsock_show(const struct vmm_context *context, const struct machine *machine,
                           const char *version, struct arguments *confined, struct error *err);

/* Adds to a load what says it. */
void firecracker_vsock_add(const struct firecracker *firecracker, const struct machine *machine,
                           cJSON *body);

/* Before a load: removes what an earlier VM has left in the VMM's directory. EBUSY: the socket is
 * in use, or is in the way elsewhere. */
int firecracker_vsock_clear(const struct vmm_context *context,
                            const struct firecracker *firecracker, const struct machine *machine,
                            struct error *err);

#endif
