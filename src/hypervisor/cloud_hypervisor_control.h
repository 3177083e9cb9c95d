/* SPDX-License-Identifier: MIT */
/* cloud_hypervisor_control: which Cloud Hypervisor it is, starting it, and calling its API
 * (vmm/src/api/openapi/cloud-hypervisor.yaml in its sources), which accepts members that it does
 * not know, and checks little of those that it does. For its backend; one thread at a time per
 * struct vmm. */
#ifndef HYPEFS_HYPERVISOR_CLOUD_HYPERVISOR_CONTROL_H
#define HYPEFS_HYPERVISOR_CLOUD_HYPERVISOR_CONTROL_H

#include <cjson/cJSON.h>

#include "hypervisor/hypervisor.h"
#include "hypervisor/programs.h"

/* Finds the program and its version. EOPNOTSUPP: that is too old. */
int cloud_hypervisor_find(const struct vmm_context *context, struct program *ret,
                          struct error *err);

/* Can VMs of that version (NULL: not known) write to overlays, and be saved then? */
bool cloud_hypervisor_has_overlays(const char *version);

/* Starts it and waits until it says that it is this version. Its output is the guest's serial
 * console and goes to console.log; what it says itself goes to vmm.log. After a failure *ret may be
 * a VMM, to be abandoned. */
int cloud_hypervisor_start(const struct vmm_context *context, const struct machine *machine,
                           const char *image, const struct program *program, struct vmm **ret,
                           struct error *err);

/* A PUT with a body (taken; NULL: no memory for it), and one without. */
int cloud_hypervisor_put(const struct vmm_context *context, struct vmm *vmm, const char *path,
                         cJSON *body, struct error *err);
int cloud_hypervisor_put_bare(const struct vmm_context *context, struct vmm *vmm, const char *path,
                              struct error *err);

#endif
