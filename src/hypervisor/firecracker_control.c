/* SPDX-License-Identifier: MIT */
#include "hypervisor/firecracker_control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/opened.h"
#include "hypervisor/vmm_api.h"
#include "hypervisor/vmm_process.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/limit.h"
#include "util/process.h"
#include "util/text.h"

bool firecracker_parse_version(const char *text, struct firecracker *ret)
{
    struct firecracker parsed = {0};
    int end = 0;
    text += *text == 'v';
    if (sscanf(text, "%4u.%4u.%*4u%n", &parsed.major, &parsed.minor, &end) != 2 || end == 0)
        return false;
    snprintf(parsed.version, sizeof parsed.version, "%.31s", text);
    text_make_printable(parsed.version, strlen(parsed.version), '?');
    memcpy(ret->version, parsed.version, sizeof ret->version);
    ret->major = parsed.major;
    ret->minor = parsed.minor;
    return true;
}

bool firecracker_is_at_least(const struct firecracker *firecracker, unsigned major, unsigned minor)
{
    return firecracker->major > major ||
           (firecracker->major == major && firecracker->minor >= minor);
}

void firecracker_release(struct vmm *vmm)
{
    free(steal_pointer(vmm->state));
}

/* ---- starting ---- */

/* Firecracker opens its log once more and writes from the beginning of the file on. */
static int empty_log(const struct vmm_context *context, struct error *err)
{
    auto_close int log = -1;
    int r = vmm_log_open(context, VMM_LOG_NAME, &log, err);
    if (r == 0 && ftruncate(log, 0) < 0)
        r = error_errno(err, errno, "%s cannot be emptied", VMM_LOG_NAME);
    return r;
}

static int spawn(const struct hypervisor *hypervisor, const struct vmm_context *context,
                 const struct arguments *confine, const char *program, struct vmm **ret,
                 struct error *err)
{
    char log[VMM_LOG_PATH_SIZE];
    vmm_log_path(context, VMM_LOG_NAME, log);
    const char *arguments[] = {program,     "--api-sock", VMM_API_SOCKET_NAME, "--log-path",
                               log,         "--level",    "Warning",           "--id",
                               context->id, NULL};
    if (!context->id)
        arguments[array_length(arguments) - 3] = NULL;
    int r = empty_log(context, err);
    return r == 0 ? vmm_api_spawn(hypervisor, context, (char *const *)(uintptr_t)arguments, confine,
                                  ret, err)
                  : r;
}

static int greet(const struct vmm_context *context, struct vmm *vmm, struct error *err)
{
    auto_json cJSON *answer = NULL;
    int r = vmm_api_greet(context, vmm, "/version", &answer, err);
    if (r < 0)
        return r;
    const char *version = json_get_text(answer, "firecracker_version");
    struct firecracker *firecracker = calloc(1, sizeof *firecracker);
    if (!firecracker)
        return error_set(err, ENOMEM, "no memory for a VMM's state");
    vmm->state = firecracker;
    if (version && firecracker_parse_version(version, firecracker))
        return 0;
    return error_set(err, EIO, "GET /version: Firecracker answers without a version");
}

/* An opened_visit: makes the VMM's descriptor append, if the kernel lets us have it. */
static int make_append(pid_t pid, const char *descriptor, void *context)
{
    const struct vmm *vmm = context;
    (void)pid;
    auto_close int fd = pidfd_getfd(vmm->pidfd, (int)strtol(descriptor, NULL, 10), 0);
    if (fd < 0)
        return limit_is(errno) ? -errno : 0;
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_APPEND) == 0 ? 0 : -errno;
}

/* Firecracker opens its log without O_APPEND: when that is cut (logs.c), it would go on behind a
 * hole. Where the kernel does not let us at its descriptors, it does. */
static int append_log(const struct vmm_context *context, struct vmm *vmm, struct error *err)
{
    struct stat log;
    int r = 0;
    if (fstatat(context->entry_fd, VMM_LOG_NAME, &log, AT_SYMLINK_NOFOLLOW) == 0)
        r = opened_walk(vmm->pid, file_id_of(&log), make_append, vmm);
    return r == 0 || r == -EACCES || r == -ESRCH /* the next call says it */
               ? 0
               : error_io(err, -r, "%s cannot be made to append", VMM_LOG_NAME);
}

int firecracker_start(const struct hypervisor *hypervisor, const struct vmm_context *context,
                      const struct arguments *confine, const char *program, struct vmm **ret,
                      struct error *err)
{
    struct vmm *vmm = NULL;
    int r = spawn(hypervisor, context, confine, program, &vmm, err);
    if (r == 0)
        r = greet(context, vmm, err);
    if (r == 0)
        r = append_log(context, vmm, err);
    if (r < 0)
        return vmm_abandon(context, hypervisor, vmm, r, err);
    *ret = vmm;
    return 0;
}

cJSON *firecracker_load_request(const char *state, const char *memory)
{
    cJSON *body = cJSON_CreateObject();
    json_add_string(body, "snapshot_path", state);
    json_add_bool(body, "resume_vm", false);
    cJSON *backend = json_add_object(body, "mem_backend");
    json_add_string(backend, "backend_type", "File");
    json_add_string(backend, "backend_path", memory);
    return body;
}
