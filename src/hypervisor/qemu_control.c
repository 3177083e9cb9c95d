/* SPDX-License-Identifier: MIT */
#include "hypervisor/qemu_control.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "util/cleanup.h"
#include "util/json.h"
#include "util/process.h"
#include "util/text.h"
#include "util/unix_socket.h"

enum {
    COMMAND_MS = 60000, /* saving flushes disks; what takes longer will not come at all */
    LAST_WORDS_MAX = 400,
    STATUS_SIZE = 64,
    END_MS = 2000,
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
                               .deadline_ms = process_now_ms() + timeout_ms};
}

int qemu_control_ended(struct vmm *vmm, int r, struct error *err)
{
    if (r != -ESRCH)
        return r;
    process_poll(&vmm->pidfd, 1, process_now_ms() + END_MS);
    return error_set(err, EIO, "QEMU has ended");
}

off_t qemu_control_log_size(const struct vmm_context *context)
{
    struct stat file;
    return fstatat(context->directory_fd, QEMU_LOG_NAME, &file, AT_SYMLINK_NOFOLLOW) < 0
               ? 0
               : file.st_size;
}

/* The end of what vmm.log got since it had `from` bytes, as one line. */
static void read_last_words(const struct vmm_context *context, off_t from,
                            char ret[static LAST_WORDS_MAX + 1])
{
    ret[0] = '\0';
    auto_close int fd = openat(context->directory_fd, QEMU_LOG_NAME,
                               O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat file;
    if (fd < 0 || fstat(fd, &file) < 0 || file.st_size <= from)
        return;
    if (file.st_size - from > LAST_WORDS_MAX)
        from = file.st_size - LAST_WORDS_MAX;
    ssize_t got = pread(fd, ret, LAST_WORDS_MAX, from);
    size_t size = got > 0 ? (size_t)got : 0;
    while (size > 0 && (unsigned char)ret[size - 1] <= ' ')
        size--;
    ret[size] = '\0';
    /* The first character may have been cut. */
    size_t cut = 0;
    while (cut < size && ((unsigned char)ret[cut] & 0xC0) == 0x80)
        cut++;
    memmove(ret, ret + cut, size - cut + 1);
    text_make_printable(ret, size - cut, ' ');
}

int qemu_control_explain(const struct vmm_context *context, struct vmm *vmm, off_t from, int r,
                         struct error *err)
{
    if (!err || r == -ECANCELED)
        return r;
    struct vmm_exit exit;
    vmm_reap(vmm, &exit);
    char words[LAST_WORDS_MAX + 1], how[STATUS_SIZE] = "";
    read_last_words(context, from, words);
    if (exit.ended && exit.signal)
        snprintf(how, sizeof how, " (signal %d%s)", exit.signal,
                 exit.signal == SIGBUS ? ": is the disk of the store full?" : "");
    else if (exit.ended && exit.code >= 0)
        snprintf(how, sizeof how, " (status %d)", exit.code);
    error_append(err, "%s%s%s", how, words[0] ? ": " : "", words);
    return r;
}

static int connect_control(const struct vmm_context *context, struct vmm *vmm, struct qemu *qemu,
                           struct error *err)
{
    int fd;
    struct error why;
    if (unix_socket_connect(context->directory_fd, QEMU_SOCKET_NAME, &fd, &why) < 0)
        return error_set(err, EIO, "%s", why.text);
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

int qemu_control_execute_string(const struct vmm_context *context, struct vmm *vmm,
                                const char *command, const char *name, const char *value,
                                int send_fd, struct error *err)
{
    cJSON *arguments = cJSON_CreateObject();
    if (!cJSON_AddStringToObject(arguments, name, value)) {
        cJSON_Delete(arguments);
        return error_set(err, ENOMEM, "no memory for a command to QEMU");
    }
    return qemu_control_execute(context, vmm, command, arguments, send_fd, NULL, err);
}
