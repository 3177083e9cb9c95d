/* SPDX-License-Identifier: MIT */
/* http_peer: somebody at a Unix socket who hears one request and answers with any bytes. For the
 * fuzzers of what a VMM says by HTTP. Header only. */
#ifndef HYPEFS_TESTS_FUZZ_HTTP_PEER_H
#define HYPEFS_TESTS_FUZZ_HTTP_PEER_H

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"
#include "util/cleanup.h"
#include "util/unix_socket.h"

struct http_peer {
    int directory_fd; /* of the socket; its name is http_peer_socket */
    int alive[2];     /* a pipe in the place of the VMM's pidfd: never readable */
    int listener;
    const uint8_t *answer;
    size_t size;
    pthread_t thread;
};

#define HTTP_PEER_SOCKET "vmm.sock"

static inline void *http_peer_serve(void *argument)
{
    struct http_peer *peer = argument;
    char heard[4096] = "";
    size_t used = 0;
    auto_close int fd = accept4(peer->listener, NULL, NULL, SOCK_CLOEXEC);
    while (fd >= 0 && used < sizeof heard - 1 && !strstr(heard, "\r\n\r\n")) {
        ssize_t got = read(fd, heard + used, sizeof heard - 1 - used);
        if (got <= 0)
            return NULL;
        used += (size_t)got;
    }
    for (size_t done = 0; fd >= 0 && done < peer->size;) {
        ssize_t put = send(fd, peer->answer + done, peer->size - done, MSG_NOSIGNAL);
        if (put <= 0)
            return NULL;
        done += (size_t)put;
    }
    return NULL;
}

static inline void http_peer_start(struct http_peer *peer, const uint8_t *answer, size_t size)
{
    char path[] = "/tmp/hypefs-fuzz-XXXXXX";
    MUST(mkdtemp(path));
    *peer = (struct http_peer){.answer = answer, .size = size, .listener = -1};
    peer->directory_fd = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    MUST(peer->directory_fd >= 0 && pipe2(peer->alive, O_CLOEXEC) == 0);
    MUST(unix_socket_listen(peer->directory_fd, HTTP_PEER_SOCKET, &peer->listener, NULL) == 0);
    MUST(pthread_create(&peer->thread, NULL, http_peer_serve, peer) == 0);
}

static inline void http_peer_finish(struct http_peer *peer)
{
    char link[40], path[64];
    shutdown(peer->listener, SHUT_RDWR); /* who was not called waits no more */
    pthread_join(peer->thread, NULL);
    close(peer->listener);
    close(peer->alive[0]);
    close(peer->alive[1]);
    unlinkat(peer->directory_fd, HTTP_PEER_SOCKET, 0);
    snprintf(link, sizeof link, "/proc/self/fd/%d", peer->directory_fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    MUST(size > 0);
    path[size] = 0;
    close(peer->directory_fd);
    MUST(rmdir(path) == 0);
}

#endif
