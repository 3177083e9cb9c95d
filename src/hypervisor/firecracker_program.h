/* SPDX-License-Identifier: MIT */
/* firecracker_program: which Firecracker is run, and which saved states it loads. For the
 * Firecracker backend only. */
#ifndef HYPEFS_HYPERVISOR_FIRECRACKER_PROGRAM_H
#define HYPEFS_HYPERVISOR_FIRECRACKER_PROGRAM_H

#include "hypervisor/programs.h"

/* The context's, or that of PATH. EIO. */
int firecracker_find_program(const struct vmm_context *context, struct program *ret,
                             struct error *err);

/* EOPNOTSUPP if the program does not load the state at the path from the context's directory: both
 * versions are named. */
int firecracker_check_format(const struct vmm_context *context, const char *path,
                             const struct program *program, struct error *err);

#endif
