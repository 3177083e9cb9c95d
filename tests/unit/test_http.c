/* SPDX-License-Identifier: MIT */
/* One request and what a thread that takes a VMM's place answers. */
#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>

#include "hypervisor/http.h"
#include "util/unix_socket.h"
#include "vmm_fixture.h"

enum { SOON_MS = 50, HEARD_SIZE = 2048 };

/* The other end of one connection. */
struct server {
    int listener;
    const char *answer;
    size_t size;
    bool stays; /* does not close the connection before the client does */
    char heard[HEARD_SIZE];
    pthread_t thread;
};

static void *serve(void *argument)
{
    struct server *server = argument;
    size_t used = 0;
    auto_close int fd = accept(server->listener, NULL, NULL);
    while (used < HEARD_SIZE - 1 && !strstr(server->heard, "\r\n\r\n")) {
        ssize_t got = read(fd, server->heard + used, HEARD_SIZE - 1 - used);
        if (got <= 0)
            return NULL;
        used += (size_t)got;
    }
    for (size_t done = 0; done < server->size;) {
        ssize_t put = send(fd, server->answer + done, server->size - done, MSG_NOSIGNAL);
        if (put <= 0)
            return NULL;
        done += (size_t)put;
    }
    char rest;
    while (server->stays && read(fd, &rest, 1) > 0)
        ;
    return NULL;
}

/* A process that lives, or has ended: a pipe, of which nobody is told. */
struct peer {
    struct vmm_context context;
    int alive[2];
    struct server server;
    struct process_limits limits;
};

static struct peer listen_as(struct fixture *fixture, const char *name)
{
    struct peer peer = {.context = fixture_context(fixture, name, NULL)};
    assert_int_equal(pipe2(peer.alive, O_CLOEXEC), 0);
    assert_int_equal(
        unix_socket_listen(peer.context.directory_fd, "vmm.sock", &peer.server.listener, NULL), 0);
    peer.limits = (struct process_limits){
        .pidfd = peer.alive[0], .cancel_fd = -1, .deadline_ms = process_now_ms() + FAR_MS};
    return peer;
}

static void finish(struct peer *peer)
{
    close(peer->alive[0]);
    close(peer->alive[1]);
    close(peer->server.listener);
}

static int call_with(struct peer *peer, const char *body, struct http_reply *ret, struct error *err)
{
    struct http_request request = {.peer = "The VMM",
                                   .directory_fd = peer->context.directory_fd,
                                   .socket = "vmm.sock",
                                   .method = body ? "PUT" : "GET",
                                   .path = "/snapshot/load",
                                   .body = body};
    assert_int_equal(pthread_create(&peer->server.thread, NULL, serve, &peer->server), 0);
    int r = http_call(&request, &peer->limits, ret, err);
    pthread_join(peer->server.thread, NULL);
    return r;
}

static int call(struct peer *peer, const char *answer, struct http_reply *ret, struct error *err)
{
    peer->server.answer = answer;
    peer->server.size = strlen(answer);
    return call_with(peer, NULL, ret, err);
}

static void call_sends_the_request_and_returns_the_reply(void **state)
{
    static const char answer[] = "HTTP/1.1 200 OK\r\nServer: Firecracker API\r\nConnection: "
                                 "keep-alive\r\nContent-Length: 7\r\n\r\n{\"a\":1}";
    struct peer peer = listen_as(*state, "a");
    struct http_reply reply = {0};
    struct error err = {0};
    peer.server.answer = answer;
    peer.server.size = strlen(answer);
    peer.server.stays = true;
    setenv("http_proxy", "http://127.0.0.1:9", 1);
    assert_int_equal(call_with(&peer, "{\"b\": 2}", &reply, &err), 0);
    unsetenv("http_proxy");
    assert_int_equal(reply.status, 200);
    assert_int_equal(reply.size, 7);
    assert_string_equal(reply.body, "{\"a\":1}");
    free(reply.body);
    assert_non_null(strstr(peer.server.heard, "PUT /snapshot/load HTTP/1.1\r\n"));
    assert_non_null(strstr(peer.server.heard, "\r\nContent-Type: application/json\r\n"));
    assert_non_null(strstr(peer.server.heard, "\r\nContent-Length: 8\r\n"));
    assert_null(strstr(peer.server.heard, "Expect"));
    finish(&peer);
}

static void call_when_the_status_is_no_success_returns_it(void **state)
{
    static const struct {
        const char *answer, *body;
        int status;
    } cases[] = {
        {"HTTP/1.1 204 \r\nServer: Firecracker API\r\n\r\n", "", 204},
        {"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nbad", "bad", 400},
        {"HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n", "", 500},
        {"HTTP/1.1 301 \r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", "", 301},
    };
    struct peer peer = listen_as(*state, "a");
    for (size_t i = 0; i < array_length(cases); i++) {
        struct http_reply reply = {0};
        struct error err = {0};
        memset(peer.server.heard, 0, sizeof peer.server.heard);
        if (call(&peer, cases[i].answer, &reply, &err) < 0)
            fail_msg("%s: %s", cases[i].answer, err.text);
        assert_int_equal(reply.status, cases[i].status);
        assert_string_equal(reply.body, cases[i].body);
        free(reply.body);
    }
    finish(&peer);
}

static void call_when_there_is_no_whole_reply_is_eio(void **state)
{
    static const struct {
        const char *answer, *words;
    } cases[] = {
        {"", "The VMM has closed the connection without an answer"},
        {"HTTP/1.1 20", "The VMM "},
        {"HTTP/1.1 200 OK\r\nContent-Le", "The VMM has closed the connection"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"a\"",
         "The VMM has closed the connection within its answer"},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{\"a\"", "The VMM has closed"},
        {"\x7f"
         "ELF\1\2\3\r\n\r\n",
         "The VMM answers with something that is not HTTP"},
        {"{\"QMP\": {}}\r\n", "The VMM answers with something that is not HTTP"},
        {"HTTP/25\xae"
         "9 204 No Content\r\n\r\n",
         "The VMM answers with something that is not HTTP"},
        {"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "The VMM"},
    };
    struct peer peer = listen_as(*state, "a");
    for (size_t i = 0; i < array_length(cases); i++) {
        struct http_reply reply = {0};
        struct error err = {0};
        memset(peer.server.heard, 0, sizeof peer.server.heard);
        int r = call(&peer, cases[i].answer, &reply, &err);
        if (r != -EIO || err.code != EIO || !strstr(err.text, cases[i].words))
            fail_msg("%s: %d, %s", cases[i].answer, r, err.text);
        assert_null(reply.body);
    }
    finish(&peer);
}

static void call_when_the_reply_is_too_long_is_eio(void **state)
{
    enum { HEADER_ROOM = 100 };
    struct peer peer = listen_as(*state, "a");
    for (size_t over = 0; over <= 1; over++) {
        size_t size = HTTP_REPLY_MAX + over;
        auto_free char *answer = calloc(1, HEADER_ROOM + size + 1);
        int header =
            snprintf(answer, HEADER_ROOM, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", size);
        memset(answer + header, 'x', size);
        struct http_reply reply = {0};
        struct error err = {0};
        memset(peer.server.heard, 0, sizeof peer.server.heard);
        int r = call(&peer, answer, &reply, &err);
        assert_int_equal(r, over ? -EIO : 0);
        if (over)
            assert_non_null(strstr(err.text, "has more than 65536 bytes"));
        else
            assert_int_equal(reply.size, size);
        free(reply.body);
    }
    finish(&peer);
}

/* A reply that never ends: `first`, and then `unit` until the client has had enough. */
static int call_endless(struct peer *peer, const char *first, const char *unit, struct error *err)
{
    enum { ENDLESS = 4 << 20 };
    size_t first_size = strlen(first), unit_size = strlen(unit);
    auto_free char *answer = malloc(ENDLESS);
    struct http_reply reply = {0};
    assert_non_null(answer);
    memcpy(answer, first, first_size);
    for (size_t i = first_size; i < ENDLESS; i++)
        answer[i] = unit[(i - first_size) % unit_size];
    memset(peer->server.heard, 0, sizeof peer->server.heard);
    peer->server.answer = answer;
    peer->server.size = ENDLESS;
    peer->server.stays = true;
    peer->limits.deadline_ms = process_now_ms() + FAR_MS; /* it takes long under valgrind */
    int r = call_with(peer, NULL, &reply, err);
    assert_null(reply.body);
    return r;
}

static void call_when_the_header_does_not_end_is_eio(void **state)
{
    static const struct {
        const char *first, *unit;
    } cases[] = {
        {"HTTP/1.1 200 OK\r\n", "X-Line: of many\r\n"},
        {"HTTP/1.1 200 OK\r\nX-Line: ", "of one"},
        {"", "HTTP/1.1 100 Continue\r\n\r\n"},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
         "X-Trailer: behind the body\r\n"},
    };
    struct peer peer = listen_as(*state, "a");
    for (size_t i = 0; i < array_length(cases); i++) {
        struct error err = {0};
        int r = call_endless(&peer, cases[i].first, cases[i].unit, &err);
        if (r != -EIO || !strstr(err.text, "the header of the answer of The VMM has more than"))
            fail_msg("%s%s: %d, %s", cases[i].first, cases[i].unit, r, err.text);
    }
    finish(&peer);
}

static void call_when_nobody_answers_ends_at_the_deadline(void **state)
{
    struct peer peer = listen_as(*state, "a");
    struct http_reply reply = {0};
    struct error err = {0};
    peer.server.stays = true;
    peer.limits.deadline_ms = process_now_ms() + SOON_MS;
    assert_int_equal(call(&peer, "HTTP/1.1 200 OK\r\n", &reply, &err), -EIO);
    assert_string_equal(err.text, "The VMM does not answer");
    assert_true(process_now_ms() < peer.limits.deadline_ms + FAR_MS);
    finish(&peer);
}

static void call_when_cancelled_is_ecanceled_at_once(void **state)
{
    struct peer peer = listen_as(*state, "a");
    struct http_reply reply = {0};
    struct error err = {0};
    int cancel[2];
    assert_int_equal(pipe2(cancel, O_CLOEXEC), 0);
    assert_int_equal(write(cancel[1], "x", 1), 1);
    peer.server.stays = true;
    peer.limits.cancel_fd = cancel[0];
    assert_int_equal(call(&peer, "", &reply, &err), -ECANCELED);
    close(cancel[0]);
    close(cancel[1]);
    finish(&peer);
}

static void call_when_the_vmm_ends_is_eio(void **state)
{
    struct peer peer = listen_as(*state, "a");
    struct http_reply reply = {0};
    struct error err = {0};
    assert_int_equal(write(peer.alive[1], "x", 1), 1);
    assert_int_equal(call(&peer, "", &reply, &err), -EIO);
    assert_string_equal(err.text, "The VMM has ended");
    finish(&peer);
}

/* As the daemon does before its first thread; another user of libcurl may do so, too. */
static void call_between_open_and_close_works(void **state)
{
    assert_int_equal(http_open(NULL), 0);
    assert_int_equal(http_open(NULL), 0);
    http_close();
    call_sends_the_request_and_returns_the_reply(state);
    http_close();
}

static void call_when_nobody_listens_is_econnrefused(void **state)
{
    struct peer peer = listen_as(*state, "a");
    struct http_reply reply = {0};
    struct error err = {0};
    struct http_request request = {.peer = "The VMM",
                                   .directory_fd = peer.context.directory_fd,
                                   .socket = "vmm.sock",
                                   .method = "GET",
                                   .path = "/"};
    close(peer.server.listener);
    assert_int_equal(http_call(&request, &peer.limits, &reply, &err), -ECONNREFUSED);
    assert_string_equal(err.text, "The VMM does not listen at its socket vmm.sock");
    request.socket = "none.sock";
    assert_int_equal(http_call(&request, &peer.limits, &reply, &err), -ECONNREFUSED);
    peer.server.listener = -1;
    finish(&peer);
}

static void call_when_the_path_of_the_socket_is_long_works(void **state)
{
    char name[NAME_MAX];
    memset(name, 'd', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    struct peer peer = listen_as(*state, name);
    struct http_reply reply = {0};
    struct error err = {0};
    assert_int_equal(call(&peer, "HTTP/1.1 204 \r\n\r\n", &reply, &err), 0);
    assert_int_equal(reply.status, 204);
    free(reply.body);
    finish(&peer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(call_sends_the_request_and_returns_the_reply),
        WITH(call_when_the_status_is_no_success_returns_it),
        WITH(call_when_there_is_no_whole_reply_is_eio),
        WITH(call_when_the_reply_is_too_long_is_eio),
        WITH(call_when_the_header_does_not_end_is_eio),
        WITH(call_when_nobody_answers_ends_at_the_deadline),
        WITH(call_when_cancelled_is_ecanceled_at_once),
        WITH(call_when_the_vmm_ends_is_eio),
        WITH(call_between_open_and_close_works),
        WITH(call_when_nobody_listens_is_econnrefused),
        WITH(call_when_the_path_of_the_socket_is_long_works),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
