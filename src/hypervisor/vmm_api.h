/* SPDX-License-Identifier: MIT */
/* vmm_api: calls of a VMM that is controlled by an HTTP API at the socket "vmm.sock" in its
 * directory. What the calls mean is up to the backend. One thread at a time per struct vmm. */
#ifndef HYPEFS_HYPERVISOR_VMM_API_H
#define HYPEFS_HYPERVISOR_VMM_API_H

#include <cjson/cJSON.h>

#include "hypervisor/hypervisor.h"
#include "util/arguments.h"

/* In the directory of an instance. */
#define VMM_API_SOCKET_NAME "vmm.sock"

enum {
    VMM_API_ANSWER_MS = 60000, /* what takes longer will not come at all */
    VMM_API_SAVE_MS = 600000,  /* for what writes all of the guest's memory */
};

struct vmm_api_call {
    const char *method, *path;
    cJSON *body;    /* taken on every path; NULL: no memory for it, or there is none: */
    bool bare;      /* a GET, or a call without a body */
    int timeout_ms; /* 0: VMM_API_ANSWER_MS */
    /* A refusal that has these words (the second may be NULL) is a success, and sets `refused`.
     * NULL: none is. What the VMM logs does not count. */
    const char *refusal[2];
    bool refused;
};

/* Calls and waits for the answer. `ret` (NULL: not wanted) is owned: the object that a GET returns.
 * EIO: the VMM's own words when it refuses; else how it has failed, and the last it said. */
int vmm_api_call(const struct vmm_context *context, struct vmm *vmm, struct vmm_api_call *call,
                 cJSON **ret, struct error *err);

/* Starts `arguments` in the context's directory, with `confine` as in struct vmm_spawn: its output
 * is the guest's serial console and goes to console.log, what it says itself to vmm.log. It binds
 * to its sockets, and would not where there are such: they are removed before. EIO. */
int vmm_api_spawn(const struct hypervisor *hypervisor, const struct vmm_context *context,
                  char *const *arguments, const struct arguments *confine, struct vmm **ret,
                  struct error *err);

/* Of a VMM that was just started: GETs `path` as soon as it listens. EIO, as above. */
int vmm_api_greet(const struct vmm_context *context, struct vmm *vmm, const char *path, cJSON **ret,
                  struct error *err);

#endif
