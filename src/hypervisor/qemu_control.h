/* SPDX-License-Identifier: MIT */
/* qemu_control: talking to a running QEMU through the socket in its directory. For the QEMU backend
 * only; one thread at a time per struct vmm. */
#ifndef HYPEFS_HYPERVISOR_QEMU_CONTROL_H
#define HYPEFS_HYPERVISOR_QEMU_CONTROL_H

#include <cjson/cJSON.h>

#include "hypervisor/hypervisor.h"
#include "hypervisor/qmp.h"

/* In the directory of an instance. */
#define QEMU_SOCKET_NAME "qmp.sock"

/* A QEMU that listens at the other end of that descriptor, which is taken: awaits its greeting. */
int qemu_control_open(const struct vmm_context *context, struct vmm *vmm, int fd,
                      struct error *err);

/* Closes the connection, if there is one. */
void qemu_control_release(struct vmm *vmm);

/* As qmp_execute(); connects first if need be, and closes the connection after a failure. */
int qemu_control_execute(const struct vmm_context *context, struct vmm *vmm, const char *command,
                         cJSON *arguments, int send_fd, cJSON **ret, struct error *err);

/* The same with `arguments`: ENOMEM if they are not whole (json.h), NULL too. */
int qemu_control_execute_with(const struct vmm_context *context, struct vmm *vmm,
                              const char *command, cJSON *arguments, int send_fd, cJSON **ret,
                              struct error *err);

/* The same with one string as the argument and nothing to return. */
int qemu_control_execute_string(const struct vmm_context *context, struct vmm *vmm,
                                const char *command, const char *name, const char *value,
                                int send_fd, struct error *err);

/* qemu_save.c: the slot save. */
int qemu_save(const struct vmm_context *context, struct vmm *vmm, struct machine *machine,
              const struct vmm_save *save, struct error *err);

#endif
