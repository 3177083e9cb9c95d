/* SPDX-License-Identifier: MIT */
/*
 * qemu: the QEMU backend. Everything else about it is in hypervisor.h's table.
 *
 * In the directory of an instance it uses the names qmp.sock, vmm.log, console.log and memory.
 */
#ifndef HYPEFS_HYPERVISOR_QEMU_H
#define HYPEFS_HYPERVISOR_QEMU_H

#include "hypervisor/hypervisor.h"

extern const struct hypervisor qemu_hypervisor;

#endif
