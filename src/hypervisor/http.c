/* SPDX-License-Identifier: MIT */
#include "hypervisor/http.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/unix_socket.h"
#include "util/process.h"

enum { SOCKET_PATH_SIZE = 108, URL_SIZE = 256, END_MS = 200, POLL_SLICE_MS = 60 * 60 * 1000 };
enum { STATUS_MIN = 100 };

/* CURLE_TOO_LARGE of libcurl 8.6 and later, which an older one's headers do not have. */
enum { TOO_LARGE = 100 };

/* No TLS and nothing of Windows: VMMs listen at sockets of this host. */
int http_open(struct error *err)
{
    return curl_global_init(CURL_GLOBAL_NOTHING) == CURLE_OK
               ? 0
               : error_set(err, EIO, "libcurl cannot be used");
}

void http_close(void)
{
    curl_global_cleanup();
}

/* A request under way. */
struct call {
    int socket_fd; /* a place */
    const struct http_request *request;
    CURL *easy;
    CURLM *multi;
    struct curl_slist *headers;
    struct http_reply reply;
    size_t header_size; /* trailers and earlier replies' too */
    bool whole_header;  /* up to its empty line */
    bool other_version; /* than HTTP/1 */
    bool too_long, no_memory;
};

static void finish(struct call *call)
{
    if (call->multi && call->easy)
        curl_multi_remove_handle(call->multi, call->easy);
    curl_easy_cleanup(call->easy);
    curl_multi_cleanup(call->multi);
    curl_slist_free_all(call->headers);
    free(call->reply.body);
    cleanup_close(&call->socket_fd);
}

/* libcurl's callback: what it does not get all of, it reports as a failure. */
static size_t collect(char *bytes, size_t one, size_t size, void *context)
{
    struct call *call = context;
    struct http_reply *reply = &call->reply;
    (void)one;
    call->too_long = size > HTTP_REPLY_MAX - reply->size;
    if (call->too_long)
        return 0;
    char *body = realloc(reply->body, reply->size + size + 1);
    call->no_memory = !body;
    if (!body)
        return 0;
    memcpy(body + reply->size, bytes, size);
    reply->body = body;
    reply->size += size;
    body[reply->size] = '\0';
    return size;
}

/* A line of the header. libcurl takes a connection that is closed between two of them for the end
 * of a reply without a body. An empty line is the last, or that of a reply before the final one.
 * libcurl keeps lines, and has no limit for those behind the body. */
static size_t watch_header(char *line, size_t one, size_t size, void *context)
{
    static const char version[] = "HTTP/1.";
    struct call *call = context;
    (void)one;
    call->header_size += size;
    call->other_version |= size >= sizeof version - 1 && memcmp(line, "HTTP/", 5) == 0 &&
                           memcmp(line, version, sizeof version - 1) != 0;
    call->whole_header = size > 0 && (line[0] == '\r' || line[0] == '\n');
    return call->header_size <= HTTP_HEADER_MAX ? size : 0;
}

/* Nothing of the environment (proxies) and of other places has a say. */
static bool set_up(struct call *call)
{
    const struct http_request *request = call->request;
    char path[SOCKET_PATH_SIZE], url[URL_SIZE];
    CURL *easy = call->easy;
    snprintf(path, sizeof path, "/proc/self/fd/%d", call->socket_fd);
    int url_size = snprintf(url, sizeof url, "http://localhost%s", request->path);
    static const char *const headers[] = {"Accept: application/json",
                                          "Expect:", "Content-Type: application/json"};
    for (size_t i = 0; i < array_length(headers) - !request->body; i++) {
        struct curl_slist *longer = curl_slist_append(call->headers, headers[i]);
        if (!longer)
            return false;
        call->headers = longer;
    }
    return url_size < (int)sizeof url &&
           curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, path) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_URL, url) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 1L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request->method) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HTTPHEADER, call->headers) == CURLE_OK &&
           (!request->body ||
            curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, request->body) == CURLE_OK) &&
           curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, watch_header) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HEADERDATA, call) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, collect) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_WRITEDATA, call) == CURLE_OK &&
           curl_multi_add_handle(call->multi, easy) == CURLM_OK;
}

/* Waits until something has happened on the connection. 1 if the VMM has ended. */
static int await(const struct call *call, const struct process_limits *limits, struct error *err)
{
    const char *peer = call->request->peer;
    struct curl_waitfd fds[] = {{.fd = limits->pidfd, .events = CURL_WAIT_POLLIN},
                                {.fd = limits->cancel_fd, .events = CURL_WAIT_POLLIN}};
    double left_ms = process_deadline(limits) - process_now_ms();
    int wait_ms = left_ms <= 0 ? 0 : left_ms > POLL_SLICE_MS ? POLL_SLICE_MS : (int)left_ms + 1;
    if (curl_multi_poll(call->multi, fds, limits->cancel_fd >= 0 ? 2 : 1, wait_ms, NULL) !=
        CURLM_OK)
        return error_set(err, EIO, "waiting for %s failed", peer);
    if (fds[1].revents)
        return error_set(err, ECANCELED, "given up while waiting for %s", peer);
    if (!fds[0].revents && left_ms <= 0)
        return error_set(err, EIO, "%s does not answer", peer);
    return fds[0].revents != 0;
}

/* Until libcurl is done. A VMM that has ended may have answered before. */
static int perform(struct call *call, const struct process_limits *limits, CURLcode *ret,
                   struct error *err)
{
    bool ended = false;
    for (;;) {
        int running = 0, left;
        if (curl_multi_perform(call->multi, &running) != CURLM_OK)
            return error_set(err, EIO, "talking to %s failed", call->request->peer);
        const CURLMsg *message = curl_multi_info_read(call->multi, &left);
        if (message && message->msg == CURLMSG_DONE) {
            *ret = message->data.result;
            return 0;
        }
        if (ended)
            return error_set(err, EIO, "%s has ended", call->request->peer);
        int r = await(call, limits, err);
        if (r < 0)
            return r;
        ended = r > 0;
    }
}

/* What libcurl calls it, and what it is here: none of its texts know of VMMs. */
static const struct {
    CURLcode code;
    bool closed;
    const char *what;
} failures[] = {
    {CURLE_GOT_NOTHING, true, "has closed the connection without an answer"},
    {CURLE_RECV_ERROR, true, "has closed the connection without an answer"},
    {CURLE_SEND_ERROR, true, "has closed the connection without an answer"},
    {CURLE_PARTIAL_FILE, true, "has closed the connection within its answer"},
    {CURLE_UNSUPPORTED_PROTOCOL, false, "answers with something that is not HTTP"},
    {CURLE_WEIRD_SERVER_REPLY, false, "answers with something that is not HTTP"},
};

static int not_listening(const struct call *call, struct error *err)
{
    return error_set(err, ECONNREFUSED, "%s does not listen at its socket %s", call->request->peer,
                     call->request->socket);
}

static int explain(const struct call *call, const struct process_limits *limits, CURLcode code,
                   struct error *err)
{
    const char *peer = call->request->peer;
    if (call->too_long)
        return error_set(err, EIO, "the answer of %s has more than %d bytes", peer, HTTP_REPLY_MAX);
    /* Of a line that is too long for it, libcurl before 8.6 says that it has no memory. */
    if (call->header_size > HTTP_HEADER_MAX || (int)code == TOO_LARGE ||
        (code == CURLE_OUT_OF_MEMORY && call->header_size > 0))
        return error_set(err, EIO, "the header of the answer of %s has more than %d bytes", peer,
                         HTTP_HEADER_MAX);
    if (call->no_memory || code == CURLE_OUT_OF_MEMORY)
        return error_set(err, ENOMEM, "no memory for the answer of %s", peer);
    if (code == CURLE_COULDNT_CONNECT)
        return not_listening(call, err);
    for (size_t i = 0; i < array_length(failures); i++) {
        if (failures[i].code != code)
            continue;
        /* One that ends closes its connections some moments before. */
        if (failures[i].closed && process_poll(&limits->pidfd, 1, process_now_ms() + END_MS) > 0)
            return error_set(err, EIO, "%s has ended", peer);
        return error_set(err, EIO, "%s %s", peer, failures[i].what);
    }
    return error_set(err, EIO, "talking to %s failed: %s", peer, curl_easy_strerror(code));
}

static int run(struct call *call, const struct process_limits *limits, struct error *err)
{
    CURLcode code = CURLE_OK;
    long status = 0;
    const struct http_request *request = call->request;
    int r = unix_socket_find(request->directory_fd, request->socket, &call->socket_fd, err);
    if (r == -ENOENT)
        return not_listening(call, err);
    if (r < 0)
        return r;
    if (!call->easy || !call->multi || !set_up(call))
        return error_set(err, ENOMEM, "no memory for a request to %s", request->peer);
    r = perform(call, limits, &code, err);
    if (r < 0)
        return r;
    if (code == CURLE_OK && !call->whole_header)
        code = CURLE_PARTIAL_FILE;
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    /* A line such as "HTTP/25x9 204 OK" has no status for some versions of libcurl, and 204 for
     * others. */
    if (code == CURLE_OK && (call->other_version || status < STATUS_MIN))
        code = CURLE_WEIRD_SERVER_REPLY;
    if (code != CURLE_OK)
        return explain(call, limits, code, err);
    call->reply.status = (int)status;
    if (!call->reply.body && !(call->reply.body = strdup("")))
        return error_set(err, ENOMEM, "no memory for the answer of %s", call->request->peer);
    return 0;
}

int http_call(const struct http_request *request, const struct process_limits *limits,
              struct http_reply *ret, struct error *err)
{
    struct call call = {
        .request = request, .socket_fd = -1, .easy = curl_easy_init(), .multi = curl_multi_init()};
    int r = run(&call, limits, err);
    if (r == 0) {
        *ret = call.reply;
        call.reply.body = NULL;
    }
    finish(&call);
    return r;
}
