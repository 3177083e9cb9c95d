/* SPDX-License-Identifier: MIT */
/* machine: what hypervisor.h declares as struct machine, and what there is to know of the host's
 * CPU. This header is for the backends. Pure but for what asks the host. Any thread. */
#ifndef HYPEFS_HYPERVISOR_MACHINE_H
#define HYPEFS_HYPERVISOR_MACHINE_H

#include <stdbool.h>

#include "hypervisor/hypervisor.h"

/* Has the first CPU in a /proc/cpuinfo of x86 the flag? */
bool machine_cpuinfo_has(const char *cpuinfo, const char *flag);

/* One word (owned) for the CPU's model and flags in a /proc/cpuinfo, whatever its clock. */
int machine_cpuinfo_hash(const char *cpuinfo, char **ret, struct error *err);

/* That of this host. */
int machine_host_cpu(char **ret, struct error *err);

/* The slot check of a VMM that has one board, runs VMs with KVM, and knows taps and raw disks only.
 */
int machine_check_plain(const struct machine *machine, struct error *err);

/* EIO if it was saved under KVM, on another CPU than this host's. */
int machine_check_host_cpu(const struct machine *machine, struct error *err);

/* The disk with that id, or NULL. */
const struct machine_disk *machine_find_disk(const struct machine *machine, const char *id);

/* Each disk and interface gets an id, "disk0" or "net0" and so on; a disk keeps one that it has and
 * that no other disk has, for it may have copies that are known by it. */
int machine_name_devices(struct machine *machine, struct error *err);

/* How fast this host's time stamp counter runs, measured in 20 ms; 0 if it is not steady. */
unsigned machine_host_tsc_khz(void);

/* EIO unless the host has the machine's taps: a privileged VMM would make them, leading nowhere. */
int machine_check_taps(const struct machine *machine, struct error *err);
/* After a start that failed: names those that are other interfaces, of which VMMs do not say so. */
void machine_explain_taps(const struct machine *machine, struct error *err);

#endif
