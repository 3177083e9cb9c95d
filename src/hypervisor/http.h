/* SPDX-License-Identifier: MIT */
/* http: one request to a VMM that is controlled by HTTP over a Unix socket, and its reply (RFC
 * 9112), by a connection of its own: nothing is sent twice, however long the VMM was left alone.
 * What the VMM sends is not trusted, but bounded, and for the caller to parse. Any thread. */
#ifndef HYPEFS_HYPERVISOR_HTTP_H
#define HYPEFS_HYPERVISOR_HTTP_H

#include <stddef.h>

#include "util/process.h"

enum {
    HTTP_REPLY_MAX = 64 * 1024,  /* bytes of a reply's body */
    HTTP_HEADER_MAX = 64 * 1024, /* of all its lines that are not the body */
};

/* Borrowed for the call. */
struct http_request {
    const char *peer; /* who is asked, for texts: "Firecracker" */
    int directory_fd; /* where the socket is: its path may be too long for an address */
    const char *socket;
    const char *method; /* "GET", "PUT", "PATCH" */
    const char *path;   /* begins with '/'; only characters that need no escape */
    const char *body;   /* JSON; NULL: none */
};

struct http_reply {
    int status;
    char *body; /* owned (free); `size` bytes and a NUL; "" if there was none */
    size_t size;
};

/* libcurl's own state, which no thread may be making while another one makes requests: before the
 * first and after the last of them, while there is one thread. Calls are counted. EIO. */
int http_open(struct error *err);
void http_close(void);

/* 0 when there was a whole reply, whatever its status. ECONNREFUSED: nobody listens at the socket,
 * or there is none (yet). ECANCELED, ENOMEM. EIO: the VMM has ended, does not answer in time,
 * closed the connection before its reply was whole, or what it sent is no reply. */
int http_call(const struct http_request *request, const struct process_limits *limits,
              struct http_reply *ret, struct error *err);

#endif
