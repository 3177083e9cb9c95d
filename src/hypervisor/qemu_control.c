/* SPDX-License-Identifier: MIT */
#include "hypervisor/qemu_control.h"

#include <errno.h>
#include <stdlib.h>

#include "hypervisor/vmm_process.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/limit.h"
#include "util/unix_socket.h"

enum {
    GREETING_MS = 30000,
    COMMAND_MS = 60000, /* saving flushes disks; what takes longer will not come at all */
};

void qemu_control_release(struct vmm *vmm)
{
    qmp_close(steal_pointer(vmm->state));
}

static int open_within(struct process_limits limits, struct vmm *vmm, int fd, struct error *err)
{
    struct qmp *qmp;
    int r = qmp_open(fd, &limits, &qmp, err);
    if (r == 0)
        vmm->state = qmp;
    return r;
}

int qemu_control_open(const struct vmm_context *context, struct vmm *vmm, int fd, struct error *err)
{
    return open_within(vmm_start_limits(context, vmm, GREETING_MS), vmm, fd, err);
}

static int connect_control(const struct vmm_context *context, struct vmm *vmm, struct error *err)
{
    int fd;
    struct error why;
    int r = unix_socket_connect(context->directory_fd, QEMU_SOCKET_NAME, &fd, &why);
    if (r == 0)
        return open_within(vmm_limits(context, vmm, GREETING_MS), vmm, fd, err);
    const bool gone = r == -ECONNREFUSED || r == -ENOENT;
    r = error_set(err, gone ? ECONNREFUSED : -limit_or_io(r), "%s", why.text);
    return vmm_ended(vmm, r, err);
}

int qemu_control_execute(const struct vmm_context *context, struct vmm *vmm, const char *command,
                         cJSON *arguments, int send_fd, cJSON **ret, struct error *err)
{
    auto_json cJSON *owned = arguments;
    int r = vmm->state ? 0 : connect_control(context, vmm, err);
    if (r < 0)
        return r;
    struct process_limits wait = vmm_limits(context, vmm, COMMAND_MS);
    r = qmp_execute(vmm->state, &wait, command, steal_pointer(owned), send_fd, ret, err);
    if (r < 0)
        qemu_control_release(vmm);
    return r;
}

int qemu_control_execute_with(const struct vmm_context *context, struct vmm *vmm,
                              const char *command, cJSON *arguments, int send_fd, cJSON **ret,
                              struct error *err)
{
    if (json_is_whole(arguments))
        return qemu_control_execute(context, vmm, command, arguments, send_fd, ret, err);
    cJSON_Delete(arguments);
    return error_set(err, ENOMEM, "no memory for a command to QEMU");
}

int qemu_control_execute_string(const struct vmm_context *context, struct vmm *vmm,
                                const char *command, const char *name, const char *value,
                                int send_fd, struct error *err)
{
    cJSON *arguments = cJSON_CreateObject();
    json_add_string(arguments, name, value);
    return qemu_control_execute_with(context, vmm, command, arguments, send_fd, NULL, err);
}
