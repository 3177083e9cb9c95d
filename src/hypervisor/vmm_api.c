/* SPDX-License-Identifier: MIT */
#include "hypervisor/vmm_api.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/http.h"
#include "hypervisor/vmm_process.h"
#include "hypervisor/vmm_spawn.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/process.h"
#include "util/text.h"

enum { START_MS = 30000, RETRY_MIN_MS = 1, RETRY_MAX_MS = 16, QUOTE_MAX = 200 };

/* ---- answers ---- */

/* What a refusal's body says: an object with Firecracker's member, or Cloud Hypervisor's list of
 * texts, from what was asked to the cause. False: it is something else. */
static bool read_words(const struct http_reply *reply, char ret[static ERROR_TEXT_SIZE])
{
    auto_json cJSON *json = cJSON_ParseWithLength(reply->body, reply->size);
    const char *fault = json_get_text(json, "fault_message");
    const cJSON *item;
    size_t size = 0;
    ret[0] = '\0';
    if (fault)
        snprintf(ret, ERROR_TEXT_SIZE, "%s", fault);
    if (cJSON_IsArray(json))
        cJSON_ArrayForEach (item, json) {
            const char *text = cJSON_GetStringValue(item);
            if (text && size < ERROR_TEXT_SIZE)
                size += (size_t)snprintf(ret + size, ERROR_TEXT_SIZE - size, "%s%s",
                                         size > 0 ? ": " : "", text);
        }
    return ret[0];
}

/* What came of a request. */
struct outcome {
    bool told;  /* the VMM itself has answered, */
    bool words; /* with a refusal in words of its own */
};

/* Its words, as they are but for what a terminal could be harmed by. */
static int refused(const char *peer, const struct http_reply *reply, struct outcome *outcome,
                   struct error *err)
{
    char words[ERROR_TEXT_SIZE];
    outcome->words = read_words(reply, words);
    if (!outcome->words)
        snprintf(words, sizeof words, "%s refuses it (status %d) and does not say why: %.*s", peer,
                 reply->status, QUOTE_MAX, reply->body);
    text_make_printable(words, strlen(words), ' ');
    return error_set(err, EIO, "%s", words);
}

static int interpret(const char *peer, const struct http_reply *reply, cJSON **ret,
                     struct outcome *outcome, struct error *err)
{
    struct error why;
    if (reply->status < 200 || reply->status > 299)
        return refused(peer, reply, outcome, err);
    if (ret && json_parse(reply->body, reply->size, ret, &why) < 0)
        return error_set(err, EIO, "the answer of %s is no JSON object: %s", peer, why.text);
    return 0;
}

/* ECONNREFUSED where there is no socket (yet). */
static int request(const struct http_request *request, const struct process_limits *limits,
                   cJSON **ret, struct outcome *outcome, struct error *err)
{
    struct http_reply reply = {0};
    int r = http_call(request, limits, &reply, err);
    *outcome = (struct outcome){.told = r == 0};
    if (r == 0)
        r = interpret(request->peer, &reply, ret, outcome, err);
    free(reply.body);
    return r;
}

/* ---- calls ---- */

static bool is_expected(const struct vmm_api_call *call, const struct error *refusal)
{
    return call->refusal[0] && strstr(refusal->text, call->refusal[0]) &&
           (!call->refusal[1] || strstr(refusal->text, call->refusal[1]));
}

int vmm_api_call(const struct vmm_context *context, struct vmm *vmm, struct vmm_api_call *call,
                 cJSON **ret, struct error *err)
{
    const char *peer = vmm->hypervisor->title;
    struct outcome outcome = {0};
    auto_json cJSON *json = call->body;
    auto_free char *body = json ? json_print_line(json) : NULL;
    if (!call->bare && !body)
        return error_set(err, ENOMEM, "no memory for a request to %s", peer);
    struct http_request http = {.peer = peer,
                                .directory_fd = context->directory_fd,
                                .socket = VMM_API_SOCKET_NAME,
                                .method = call->method,
                                .path = call->path,
                                .body = body};
    off_t from = vmm_log_size(context);
    struct process_limits limits =
        vmm_limits(context, vmm, call->timeout_ms > 0 ? call->timeout_ms : VMM_API_ANSWER_MS);
    struct error why = {0};
    int r = request(&http, &limits, ret, &outcome, &why);
    call->refused = r < 0 && outcome.words && is_expected(call, &why);
    if (r == 0 || call->refused)
        return 0;
    if (err)
        *err = why;
    r = vmm_ended(vmm, r, err);
    error_prefix(err, r, "%s %s", call->method, call->path);
    return outcome.told ? vmm_find_limit(context, r, err) : vmm_explain(context, vmm, from, r, err);
}

/* ---- starting ---- */

int vmm_api_spawn(const struct hypervisor *hypervisor, const struct vmm_context *context,
                  char *const *arguments, const struct arguments *confine, struct vmm **ret,
                  struct error *err)
{
    auto_close int log = -1, console = -1;
    int r = vmm_log_open(context, VMM_LOG_NAME, &log, err);
    if (r == 0)
        r = vmm_log_open(context, VMM_CONSOLE_NAME, &console, err);
    if (r < 0)
        return r;
    hypervisor_drop_sockets(hypervisor, context->directory_fd);
    struct vmm_spawn spawn = {
        .arguments = arguments, .confine = confine, .output_fd = console, .error_fd = log};
    return vmm_spawn(hypervisor, context, &spawn, ret, err);
}

/* The first answer: there is no socket before, and nothing that tells of it but trying. */
static int await_answer(const struct vmm_context *context, const struct vmm *vmm, const char *path,
                        cJSON **ret, struct outcome *outcome, struct error *err)
{
    const char *peer = vmm->hypervisor->title;
    struct http_request http = {.peer = peer,
                                .directory_fd = context->directory_fd,
                                .socket = VMM_API_SOCKET_NAME,
                                .method = "GET",
                                .path = path};
    struct process_limits limits = vmm_start_limits(context, vmm, START_MS);
    for (int pause_ms = RETRY_MIN_MS;; pause_ms *= 2) {
        int r = request(&http, &limits, ret, outcome, err);
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
        if (process_now_ms() > process_deadline(&limits))
            return error_set(err, EIO, "%s does not listen at its socket %s", peer,
                             VMM_API_SOCKET_NAME);
    }
}

int vmm_api_greet(const struct vmm_context *context, struct vmm *vmm, const char *path, cJSON **ret,
                  struct error *err)
{
    struct outcome outcome = {0};
    int r = await_answer(context, vmm, path, ret, &outcome, err);
    if (r == 0)
        return 0;
    return outcome.told ? vmm_find_limit(context, r, err) : vmm_explain(context, vmm, 0, r, err);
}
