/* SPDX-License-Identifier: MIT */
/*
 * qemu_arguments: the command line of a QEMU, from a machine.
 *
 * Nothing that a user chose gets into an option string that QEMU takes apart at commas: such values
 * are members of JSON or arguments of their own. A restored VM is told exactly what the booted one
 * was told, for QEMU checks next to nothing when it loads a state. There is no device by which a
 * guest could give memory back (balloon, free page reporting, virtio-mem): that would punch holes
 * into the memory image. Any thread.
 */
#ifndef HYPEFS_HYPERVISOR_QEMU_ARGUMENTS_H
#define HYPEFS_HYPERVISOR_QEMU_ARGUMENTS_H

#include <stdbool.h>

#include "hypervisor/hypervisor.h"
#include "hypervisor/programs.h"
#include "util/arguments.h"

#define QEMU_SANDBOX "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

/* How a machine is to be started. */
struct qemu_start {
    const struct program *program;
    const char *type;    /* the machine type: a word, no commas in it */
    const char *memory;  /* path of the guest's memory file */
    const char *console; /* and of that to which its console is appended: a word */
    const char *image;   /* the directory that it is loaded from; NULL: it is booted */
    bool restore;        /* paused, over a private memory; its state comes by QMP, if it has one */
    int qmp_fd;          /* a listening socket */
    int tap_fd;          /* of the machine's tap, if it is on one */
};

/* EOPNOTSUPP or EINVAL for a disk or
 * a network that this backend does not take, EIO for a disk or a tap that is not there. */
int qemu_arguments_create(const struct machine *machine, const struct qemu_start *start,
                          struct arguments *ret, struct error *err);

#endif
