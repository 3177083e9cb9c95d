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

/* How fast this host's time stamp counter runs, measured in 20 ms; 0 if it is not steady. */
unsigned machine_host_tsc_khz(void);

/* EIO unless the host has the machine's taps: a privileged VMM would make them, leading nowhere. */
int machine_check_taps(const struct machine *machine, struct error *err);

#endif
