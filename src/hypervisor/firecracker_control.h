/* SPDX-License-Identifier: MIT */
/* firecracker_control: starting a Firecracker, and which version it is. Its API, for vmm_api.h, is
 * in its sources (src/firecracker/swagger/firecracker.yaml); it refuses unknown members. One thread
 * at a time per struct vmm. */
#ifndef HYPEFS_HYPERVISOR_FIRECRACKER_CONTROL_H
#define HYPEFS_HYPERVISOR_FIRECRACKER_CONTROL_H

#include <stdbool.h>

#include "hypervisor/hypervisor.h"
#include "util/arguments.h"

enum { FIRECRACKER_VERSION_SIZE = 32 };

/* What struct vmm's state is for Firecracker, from the start to the release. */
struct firecracker {
    char version[FIRECRACKER_VERSION_SIZE]; /* as it says itself */
    unsigned major, minor;
};

/* "1.12.0", with or without a "v" before and anything behind: is it one? `ret` is set then. */
bool firecracker_parse_version(const char *text, struct firecracker *ret);
bool firecracker_is_at_least(const struct firecracker *firecracker, unsigned major, unsigned minor);

/* Starts `program`, with `confine` as in struct vmm_spawn, and waits for its version. Its output is
 * the guest's serial console and goes to console.log; what it says itself goes to vmm.log. EIO, and
 * nothing is left. */
int firecracker_start(const struct hypervisor *hypervisor, const struct vmm_context *context,
                      const struct arguments *confine, const char *program, struct vmm **ret,
                      struct error *err);

/* The body of a load of that state and that memory, which does not let the VM run. Owned. */
cJSON *firecracker_load_request(const char *state, const char *memory);

/* Frees the state. */
void firecracker_release(struct vmm *vmm);

#endif
