/* SPDX-License-Identifier: MIT */
/* vmm_spawn: how a VMM's process is started, shut in or not. For the backends. Any thread. */
#ifndef HYPEFS_HYPERVISOR_VMM_SPAWN_H
#define HYPEFS_HYPERVISOR_VMM_SPAWN_H

#include "hypervisor/hypervisor.h"
#include "util/arguments.h"

/* Starts `arguments` in the context's directory, with these descriptors for stdout and stderr (-1:
 * the same), and `inherit_fds` open under their own numbers; shut in, if the context says so, with
 * what `confine` (confine.h) names. EIO. */
struct vmm_spawn {
    char *const *arguments;
    const struct arguments *confine;
    int output_fd, error_fd;
    const int *inherit_fds;
    size_t inherit_count;
    const char *const *environment; /* as in struct process_spec */
};
int vmm_spawn(const struct hypervisor *hypervisor, const struct vmm_context *context,
              const struct vmm_spawn *spawn, struct vmm **ret, struct error *err);

#endif
