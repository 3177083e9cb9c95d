/* SPDX-License-Identifier: MIT */
/* qemu_record: what a boot records of a machine, and a load checks. QEMU checks next to nothing:
 * with another CPU model or half the memory it still reports success. Any thread. */
#ifndef HYPEFS_HYPERVISOR_QEMU_RECORD_H
#define HYPEFS_HYPERVISOR_QEMU_RECORD_H

#include "hypervisor/hypervisor.h"
#include "hypervisor/programs.h"

/* Before the start: resolves `accel`, chooses `cpu`. The other members of `ret` are not looked at,
 * and `ret` is to be freed with machine_finish(), after a failure too. */
int qemu_record_begin(enum machine_accel wanted, struct machine *ret, struct error *err);
/* The rest, from a QEMU that has greeted. */
int qemu_record_finish(const struct vmm_context *context, struct vmm *vmm, struct machine *ret,
                       struct error *err);
/* Moves the recorded members over; they replace those of an earlier boot. */
void qemu_record_put(struct machine *machine, struct machine *recorded);

/* That there is all that a load must know. EIO: a member is missing. */
int qemu_record_check_complete(const struct machine *machine, struct error *err);
/* Before a VMM is started. EIO: a member is missing, or another CPU; EOPNOTSUPP: the version. */
int qemu_record_check(const struct machine *machine, const struct program *program,
                      struct error *err);
/* What it says itself then: EOPNOTSUPP. */
int qemu_record_check_greeting(const struct machine *machine, const struct vmm *vmm,
                               struct error *err);

#endif
