/* SPDX-License-Identifier: MIT */
/*
 * machine: what hypervisor.h declares as struct machine, and what there is to know of the host's
 * CPU. This header is for the backends. Pure but for the reads of /proc/cpuinfo and /dev/kvm.
 */
#ifndef HYPEFS_HYPERVISOR_MACHINE_H
#define HYPEFS_HYPERVISOR_MACHINE_H

#include <stdbool.h>

#include "hypervisor/hypervisor.h"

/* Does the CPU described by a /proc/cpuinfo of x86 offer vmx or svm? */
bool machine_cpuinfo_virtualizes(const char *cpuinfo);

/* One word for the CPU's model and flags in a /proc/cpuinfo: equal for equal CPUs, whatever their
 * clock, load or microcode. Returns owned. */
int machine_cpuinfo_hash(const char *cpuinfo, char **ret, struct error *err);

/* That of this host. */
int machine_host_cpu(char **ret, struct error *err);

#endif
