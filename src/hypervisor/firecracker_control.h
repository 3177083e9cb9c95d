/* SPDX-License-Identifier: MIT */
/* firecracker_control: starting a Firecracker, and calling its API
 * (src/firecracker/swagger/firecracker.yaml in its sources) through the socket in its directory. It
 * refuses unknown members. One thread at a time per struct vmm. */
#ifndef HYPEFS_HYPERVISOR_FIRECRACKER_CONTROL_H
#define HYPEFS_HYPERVISOR_FIRECRACKER_CONTROL_H

#include <stdbool.h>
#include <cjson/cJSON.h>

#include "hypervisor/hypervisor.h"

/* In the directory of an instance. */
#define FIRECRACKER_SOCKET_NAME "vmm.sock"

enum {
    FIRECRACKER_VERSION_SIZE = 32,
    FIRECRACKER_ANSWER_MS = 60000, /* what takes longer will not come at all */
    FIRECRACKER_SAVE_MS = 600000,  /* it writes all of the guest's memory */
    FIRECRACKER_END_MS = 200,      /* from when its descriptors are closed to its end */
};

/* What struct vmm's state is for Firecracker, from the start to the release. */
struct firecracker {
    char version[FIRECRACKER_VERSION_SIZE]; /* as it says itself */
    unsigned major, minor;
};

/* "1.12.0", with or without a "v" before and anything behind: is it one? `ret` is set then. */
bool firecracker_parse_version(const char *text, struct firecracker *ret);
bool firecracker_is_at_least(const struct firecracker *firecracker, unsigned major, unsigned minor);

/* Starts `program` and waits for its version. Its output is the guest's serial console and goes to
 * console.log; what it says itself goes to vmm.log. EIO, and nothing is left. */
int firecracker_start(const struct hypervisor *hypervisor, const struct vmm_context *context,
                      const char *program, struct vmm **ret, struct error *err);

struct firecracker_call {
    const char *method, *path;
    cJSON *body;    /* taken on every path; NULL: none, or no memory for it where there is one */
    int timeout_ms; /* 0: FIRECRACKER_ANSWER_MS */
};
/* Calls and waits for the answer. `ret` (NULL: not wanted) is owned: the object that a GET returns.
 * EIO: Firecracker's own words when it refuses; else how it has failed, and the last it said. */
int firecracker_call(const struct vmm_context *context, struct vmm *vmm,
                     const struct firecracker_call *call, cJSON **ret, struct error *err);

/* Frees the state. */
void firecracker_release(struct vmm *vmm);

#endif
