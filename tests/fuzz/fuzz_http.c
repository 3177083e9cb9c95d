/* SPDX-License-Identifier: MIT */
/* Any bytes as what a VMM answers to a request by HTTP, before it closes the connection. */
#include <errno.h>

#include "fuzz.h"
#include "http_peer.h"
#include "hypervisor/http.h"
#include "util/process.h"

enum { FAR_MS = 10000 };

/* http.c waits some moments for a VMM that has closed its connection to end. This one does not end,
 * and to wait for it at each input would leave 5 inputs a second. */
int __wrap_process_poll(const int *fds, size_t count, double deadline_ms);

int __wrap_process_poll(const int *fds, size_t count, double deadline_ms)
{
    (void)fds, (void)count, (void)deadline_ms;
    return 0;
}

bool fuzz(const uint8_t *data, size_t size)
{
    struct http_peer peer;
    struct http_reply reply = {0};
    struct error err = {0};
    http_peer_start(&peer, data, size);
    const struct http_request request = {.peer = "the VMM",
                                         .directory_fd = peer.directory_fd,
                                         .socket = HTTP_PEER_SOCKET,
                                         .method = "GET",
                                         .path = "/version"};
    const struct process_limits limits = {
        .pidfd = peer.alive[0], .cancel_fd = -1, .deadline_ms = process_now_ms() + FAR_MS};
    int r = http_call(&request, &limits, &reply, &err);
    if (r == 0)
        MUST(reply.status >= 100 && reply.status <= 999 && reply.body &&
             reply.size <= HTTP_REPLY_MAX && reply.body[reply.size] == 0);
    else
        MUST(r == -EIO && err.code == EIO && err.text[0] && !reply.body);
    free(reply.body);
    http_peer_finish(&peer);
    return r == 0;
}
