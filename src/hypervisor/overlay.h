/* SPDX-License-Identifier: MIT */
/* overlay: qcow2 files with what was written over a raw file that lies beside them. A VMM that
 * reads from the overlay which file that is opens what stands there: so it must be known to be the
 * one. No state; any thread. For backends. */
#ifndef HYPEFS_HYPERVISOR_OVERLAY_H
#define HYPEFS_HYPERVISOR_OVERLAY_H

#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"

/* Can there be one over a file of `size` bytes called so? */
bool overlay_fits(uint64_t size, const char *below);

/* Makes an empty file one over the raw file `below`, of `size` bytes. */
int overlay_create(int fd, uint64_t size, const char *below, struct error *err);

/* EIO unless the file is one that was made so, whatever was written to it since. Its header becomes
 * what it was: Cloud Hypervisor leaves out the format of the file below where it writes it anew.
 * With `whole` also as of a file that was closed, which a paused VM's is. */
int overlay_mend(int fd, uint64_t size, const char *below, bool whole, struct error *err);

#endif
