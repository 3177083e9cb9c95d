/* SPDX-License-Identifier: MIT */
/*
 * firecracker_ask: what a saved state has, of which nobody has the configuration: a Firecracker
 * loads it, and is asked before its guest runs. It is shut in, and sees nothing of this host but
 * the two files: what the state names is made up for it. For imports.
 */
#ifndef HYPEFS_HYPERVISOR_FIRECRACKER_ASK_H
#define HYPEFS_HYPERVISOR_FIRECRACKER_ASK_H

#include "hypervisor/hypervisor.h"

/* `memory`, `state`: absolute paths. The context is that of an instance that nobody sees, and shuts
 * VMMs in, in namespaces. `ret` (owned): what GET /vm/config answers, as the state has it. EIO:
 * with Firecracker's words; EOPNOTSUPP: this Firecracker does not load it. Nothing runs any more.
 */
int firecracker_ask(const struct vmm_context *context, const char *memory, const char *state,
                    cJSON **ret, struct error *err);

#endif
