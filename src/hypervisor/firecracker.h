/* SPDX-License-Identifier: MIT */
/* firecracker: the backend for Firecracker. docs/hypervisors.md says what is done to it, and why.
 */
#ifndef HYPEFS_HYPERVISOR_FIRECRACKER_H
#define HYPEFS_HYPERVISOR_FIRECRACKER_H

#include "hypervisor/hypervisor.h"

extern const struct hypervisor firecracker_hypervisor;

#endif
