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

#include "hypervisor/http.h"
#include "hypervisor/opened.h"
#include "hypervisor/vmm_process.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/limit.h"
#include "util/process.h"
#include "util/text.h"

enum { START_MS = 30000, RETRY_MIN_MS = 1, RETRY_MAX_MS = 16, QUOTE_MAX = 200 };

static const char peer[] = "Firecracker";

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

/* ---- calls ---- */

/* Its words, as they are but for what a terminal could be harmed by. */
static int refused(const struct http_reply *reply, struct error *err)
{
    auto_json cJSON *json = NULL;
    const char *fault = NULL;
    char words[ERROR_TEXT_SIZE];
    if (json_parse(reply->body, reply->size, &json, NULL) == 0)
        fault = json_get_text(json, "fault_message");
    if (fault)
        snprintf(words, sizeof words, "%s", fault);
    else
        snprintf(words, sizeof words, "%s refuses it (status %d) and does not say why: %.*s", peer,
                 reply->status, QUOTE_MAX, reply->body);
    text_make_printable(words, strlen(words), ' ');
    return error_set(err, EIO, "%s", words);
}

static int interpret(const struct http_reply *reply, cJSON **ret, struct error *err)
{
    struct error why;
    if (reply->status < 200 || reply->status > 299)
        return refused(reply, err);
    if (ret && json_parse(reply->body, reply->size, ret, &why) < 0)
        return error_set(err, EIO, "the answer of %s is no JSON object: %s", peer, why.text);
    return 0;
}

/* ECONNREFUSED where there is no socket (yet). *ret_told: Firecracker itself has answered. */
static int request(const struct http_request *request, const struct process_limits *limits,
                   cJSON **ret, bool *ret_told, struct error *err)
{
    struct http_reply reply = {0};
    int r = http_call(request, limits, &reply, err);
    *ret_told = r == 0;
    if (r == 0)
        r = interpret(&reply, ret, err);
    free(reply.body);
    return r;
}

int firecracker_call(const struct vmm_context *context, struct vmm *vmm,
                     const struct firecracker_call *call, cJSON **ret, struct error *err)
{
    bool get = strcmp(call->method, "GET") == 0, told = false;
    auto_json cJSON *json = call->body;
    auto_free char *body = json ? json_print_line(json) : NULL;
    if (!get && !body)
        return error_set(err, ENOMEM, "no memory for a request to %s", peer);
    struct http_request http = {.peer = peer,
                                .directory_fd = context->directory_fd,
                                .socket = FIRECRACKER_SOCKET_NAME,
                                .method = call->method,
                                .path = call->path,
                                .body = body};
    off_t from = vmm_log_size(context);
    struct process_limits limits =
        vmm_limits(context, vmm, call->timeout_ms > 0 ? call->timeout_ms : FIRECRACKER_ANSWER_MS);
    int r = request(&http, &limits, ret, &told, err);
    if (r == -ECONNREFUSED) {
        if (process_poll(&vmm->pidfd, 1, process_now_ms() + FIRECRACKER_END_MS) > 0)
            error_set(err, EIO, "%s has ended", peer);
        else if (err)
            err->code = EIO;
        r = -EIO;
    }
    if (r == 0)
        return 0;
    error_prefix(err, r, "%s %s", call->method, call->path);
    return told ? vmm_find_limit(context, r, err) : vmm_explain(context, vmm, from, r, err);
}

/* ---- starting ---- */

static int spawn(const struct hypervisor *hypervisor, const struct vmm_context *context,
                 const char *program, struct vmm **ret, struct error *err)
{
    char *arguments[] = {(char *)(uintptr_t)program,
                         (char[]){"--api-sock"},
                         (char[]){FIRECRACKER_SOCKET_NAME},
                         (char[]){"--log-path"},
                         (char[]){VMM_LOG_NAME},
                         (char[]){"--level"},
                         (char[]){"Warning"},
                         context->id ? (char[]){"--id"} : NULL,
                         (char *)(uintptr_t)context->id,
                         NULL};
    auto_close int log = -1, console = -1;
    int r = vmm_log_open(context, VMM_LOG_NAME, &log, err);
    if (r == 0)
        r = vmm_log_open(context, VMM_CONSOLE_NAME, &console, err);
    if (r < 0)
        return r;
    /* Firecracker opens its log once more and writes from the beginning of the file on. */
    if (ftruncate(log, 0) < 0)
        return error_errno(err, errno, "%s cannot be emptied", VMM_LOG_NAME);
    /* It binds to them, and would not where there is one. */
    hypervisor_drop_sockets(hypervisor, context->directory_fd);
    struct vmm_spawn spawn = {
        .arguments = arguments, .output_fd = console, .error_fd = log, .inherit_fd = -1};
    return vmm_spawn(hypervisor, context, &spawn, ret, err);
}

/* The first answer: there is no socket before, and nothing that tells of it but trying. */
static int ask_version(const struct vmm_context *context, const struct vmm *vmm, cJSON **ret,
                       bool *ret_told, struct error *err)
{
    static const char path[] = "/version";
    struct http_request http = {.peer = peer,
                                .directory_fd = context->directory_fd,
                                .socket = FIRECRACKER_SOCKET_NAME,
                                .method = "GET",
                                .path = path};
    struct process_limits limits = vmm_limits(context, vmm, START_MS);
    for (int pause_ms = RETRY_MIN_MS;; pause_ms *= 2) {
        int r = request(&http, &limits, ret, ret_told, err);
        if (r != -ECONNREFUSED)
            return r < 0 ? error_prefix(err, r, "GET %s", path) : 0;
        if (pause_ms > RETRY_MAX_MS)
            pause_ms = RETRY_MAX_MS;
        int fds[] = {vmm->pidfd, context->cancel_fd};
        int ready = process_poll(fds, array_length(fds), process_now_ms() + pause_ms);
        if (ready < 0)
            return error_errno(err, -ready, "waiting for %s", peer);
        if (ready & 2)
            return error_set(err, ECANCELED, "given up while waiting for %s", peer);
        if (ready & 1)
            return error_set(err, EIO, "%s has ended before it listened at its socket", peer);
        if (process_now_ms() > limits.deadline_ms)
            return error_set(err, EIO, "%s does not listen at its socket %s", peer,
                             FIRECRACKER_SOCKET_NAME);
    }
}

static int greet(const struct vmm_context *context, struct vmm *vmm, struct error *err)
{
    auto_json cJSON *answer = NULL;
    bool told = false;
    int r = ask_version(context, vmm, &answer, &told, err);
    if (r < 0)
        return told ? vmm_find_limit(context, r, err) : vmm_explain(context, vmm, 0, r, err);
    const char *version = json_get_text(answer, "firecracker_version");
    struct firecracker *firecracker = calloc(1, sizeof *firecracker);
    if (!firecracker)
        return error_set(err, ENOMEM, "no memory for a VMM's state");
    vmm->state = firecracker;
    if (version && firecracker_parse_version(version, firecracker))
        return 0;
    return error_set(err, EIO, "GET /version: %s answers without a version", peer);
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
    if (fstatat(context->directory_fd, VMM_LOG_NAME, &log, AT_SYMLINK_NOFOLLOW) == 0)
        r = opened_walk(vmm->pid, file_id_of(&log), make_append, vmm);
    return r == 0 || r == -EACCES || r == -ESRCH /* the next call says it */
               ? 0
               : error_io(err, -r, "%s cannot be made to append", VMM_LOG_NAME);
}

int firecracker_start(const struct hypervisor *hypervisor, const struct vmm_context *context,
                      const char *program, struct vmm **ret, struct error *err)
{
    struct vmm *vmm = NULL;
    int r = spawn(hypervisor, context, program, &vmm, err);
    if (r == 0)
        r = greet(context, vmm, err);
    if (r == 0)
        r = append_log(context, vmm, err);
    if (r < 0)
        return vmm_abandon(context, hypervisor, vmm, r, err);
    *ret = vmm;
    return 0;
}
