/* SPDX-License-Identifier: MIT */
/* qemu_readonly: how a QEMU is made to open a shared memory image for reading only. From 8.2 on it
 * has options for that; an older one gets the library src/preload/readonly.c by its environment,
 * and only then. For the QEMU backend only. No state; any thread. */
#ifndef HYPEFS_HYPERVISOR_QEMU_READONLY_H
#define HYPEFS_HYPERVISOR_QEMU_READONLY_H

#include <limits.h>
#include <stdbool.h>

#include "hypervisor/programs.h"

/* Does this QEMU take `readonly` and `rom` for a memory backend? */
bool qemu_readonly_is_option(const struct program *program);

/* What the process of an older one is given; to be finished, after a failure too. */
struct qemu_readonly {
    char library[PATH_MAX]; /* "": none is needed */
    char *preload, *image;
    const char *environment[3]; /* as in struct process_spec */
};
/* `image` is the path that QEMU is told. EIO: the library is not installed. */
int qemu_readonly_prepare(const char *image, struct qemu_readonly *ret, struct error *err);
void qemu_readonly_finish(struct qemu_readonly *readonly);

#endif
