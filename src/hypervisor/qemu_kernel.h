/* SPDX-License-Identifier: MIT */
/* qemu_kernel: QEMU starts a file that is no kernel all the same, and its VM does nothing. */
#ifndef HYPEFS_HYPERVISOR_QEMU_KERNEL_H
#define HYPEFS_HYPERVISOR_QEMU_KERNEL_H

#include "util/error.h"

/*
 * EINVAL for a file that is none of what QEMU boots with -kernel: Linux's boot protocol (a
 * bzImage), an ELF file (a vmlinux with PVH), or one with a multiboot header. 0 for what cannot be
 * read: QEMU says why.
 */
int qemu_kernel_check(const char *path, struct error *err);

#endif
