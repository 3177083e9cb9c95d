/* SPDX-License-Identifier: MIT */
/*
 * qemu: the QEMU backend. Everything else about it is in hypervisor.h's table.
 *
 * In the directory of an instance it uses the names qmp.sock, vmm.log, console.log, memory and
 * base.
 */
#ifndef HYPEFS_HYPERVISOR_QEMU_H
#define HYPEFS_HYPERVISOR_QEMU_H

#include "hypervisor/hypervisor.h"

extern const struct hypervisor qemu_hypervisor;

/* qemu_save.c: its slot `save`. */
int qemu_save(const struct vmm_context *context, struct vmm *vmm, struct machine *machine,
              const struct vmm_save *save, struct error *err);

#endif
