/* SPDX-License-Identifier: MIT */
/* programs: what backends know of their VMM's program by asking it, kept as long as its file is the
 * same (struct vmm_programs of hypervisor.h). For backends only. */
#ifndef HYPEFS_HYPERVISOR_PROGRAMS_H
#define HYPEFS_HYPERVISOR_PROGRAMS_H

#include <limits.h>
#include <stdbool.h>

#include "hypervisor/hypervisor.h"

enum { PROGRAM_VERSION_SIZE = 32 };

struct program {
    char path[PATH_MAX]; /* absolute */
    char version[PROGRAM_VERSION_SIZE];
    bool sandbox;                      /* can lock itself up */
    char format[PROGRAM_VERSION_SIZE]; /* of the states that it loads, as it prints it; "": unknown
                                        */
};

/* Runs ret->path to learn the other members. ECANCELED when cancel_fd becomes readable. */
typedef int program_probe(int cancel_fd, struct program *ret, struct error *err);

/* Looks for `binary` (in PATH if it has no slash), and probes it, unless that was done, without a
 * lock: two threads may both do it. EIO: it cannot be run. cancel_fd is the probe's. */
int programs_find(struct vmm_programs *programs, const char *binary, program_probe *probe,
                  int cancel_fd, struct program *ret, struct error *err);

#endif
