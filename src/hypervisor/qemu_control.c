/* SPDX-License-Identifier: MIT */
#include "hypervisor/qemu_control.h"

#include <errno.h>
#include <stdlib.h>

#include "util/cleanup.h"
#include "util/json.h"
#include "util/limit.h"
#include "util/process.h"
#include "util/unix_socket.h"

enum {
    COMMAND_MS = 60000, /* saving flushes disks; what takes longer will not come at all */
};

void qemu_control_release(struct vmm *vmm)
{
    struct qemu *qemu = vmm->state;
    if (qemu) {
        qmp_close(qemu->qmp);
        guest_memory_destroy(qemu->memory);
        free(qemu);
    }
    vmm->state = NULL;
    if (vmm->memory_fd >= 0)
        close(steal_fd(&vmm->memory_fd));
}

int qemu_control_state(struct vmm *vmm, struct qemu **ret, struct error *err)
{
    if (!vmm->state)
        vmm->state = calloc(1, sizeof(struct qemu));
    if (!vmm->state)
        return error_set(err, ENOMEM, "no memory for a VMM's state");
    *ret = vmm->state;
    return 0;
}

struct qmp_limits qemu_control_limits(const struct vmm_context *context, const struct vmm *vmm,
                                      int timeout_ms)
{
    return (struct qmp_limits){.pidfd = vmm->pidfd,
                               .cancel_fd = context->cancel_fd,
                               .deadline_ms =
                                   process_now_ms() +
                                   (context->answer_ms > 0 ? context->answer_ms : timeout_ms)};
}

static int connect_control(const struct vmm_context *context, struct vmm *vmm, struct qemu *qemu,
                           struct error *err)
{
    int fd;
    struct error why;
    int r = unix_socket_connect(context->directory_fd, QEMU_SOCKET_NAME, &fd, &why);
    if (r < 0)
        return error_set(err, -limit_or_io(r), "%s", why.text);
    struct qmp_limits wait = qemu_control_limits(context, vmm, QEMU_GREETING_MS);
    return qmp_open(fd, &wait, &qemu->qmp, err);
}

int qemu_control_execute(const struct vmm_context *context, struct vmm *vmm, const char *command,
                         cJSON *arguments, int send_fd, cJSON **ret, struct error *err)
{
    auto_json cJSON *owned = arguments;
    struct qemu *qemu;
    int r = qemu_control_state(vmm, &qemu, err);
    if (r < 0)
        return r;
    if (!qemu->qmp)
        r = connect_control(context, vmm, qemu, err);
    if (r == 0) {
        struct qmp_limits wait = qemu_control_limits(context, vmm, COMMAND_MS);
        r = qmp_execute(qemu->qmp, &wait, command, steal_pointer(owned), send_fd, ret, err);
    }
    if (r == 0)
        return 0;
    qmp_close(qemu->qmp);
    qemu->qmp = NULL;
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
