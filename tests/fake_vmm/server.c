/* SPDX-License-Identifier: MIT */
/* server: HTTP on the socket, and what goes wrong on demand. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "fake.h"
#include "util/cleanup.h"

enum { REQUEST_MAX = 51200, BACKLOG = 10, DIED = 3, LATE_MS = 100 };

enum when { NEVER, BEFORE, DURING, AFTER };

static const char *const when_names[] = {
    [BEFORE] = "before", [DURING] = "during", [AFTER] = "after"};

struct request {
    char text[REQUEST_MAX + 1];
    char method[16], path[256];
    const char *body;
    size_t body_size;
};

/* Is something to go wrong with this call, and what? Asked once for each. */
static enum when fault_of(const char *call, const char **ret_what)
{
    static unsigned seen; /* of the call that the fault is of */
    const char *fault = getenv("FAKE_VMM_FAULT");
    size_t size = strlen(call);
    char *end;
    if (!fault || strncmp(fault, call, size) != 0 || !strchr(":#", fault[size]))
        return NEVER;
    fault += size;
    seen++;
    if (fault[0] == '#') {
        unsigned long first = strtoul(fault + 1, &end, 10);
        unsigned long last = end[0] == '-' ? strtoul(end + 1, &end, 10) : first;
        if (seen < first || seen > last)
            return NEVER;
        fault = end;
    }
    fault++;
    for (enum when when = BEFORE; when <= AFTER; when++) {
        size = strlen(when_names[when]);
        if (strncmp(fault, when_names[when], size) == 0 && fault[size] == ':') {
            *ret_what = fault + size + 1;
            return when;
        }
    }
    return NEVER;
}

/* Ends the process, or never returns; others are no matter of the process but of the answer. */
static void die_or_hang(const struct fake *fake, const char *what, const char *call)
{
    if (strcmp(what, "die") == 0) {
        fake_log(fake, "told to die at %s", call);
        _exit(DIED);
    }
    while (strcmp(what, "hang") == 0)
        pause();
}

static void put(int fd, const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL);
        if (sent < 0)
            return;
        bytes += sent;
        size -= (size_t)sent;
    }
}

static const char *reason_of(int status)
{
    return status == 200   ? "OK"
           : status == 400 ? "Bad Request"
           : status == 404 ? "Not Found"
           : status == 500 ? "Internal Server Error"
                           : "";
}

/* The whole answer, owned. */
static char *compose(const struct fake_reply *reply)
{
    char *text = NULL;
    int r = reply->body
                ? asprintf(&text,
                           "HTTP/1.1 %d %s\r\nServer: %s\r\nConnection: keep-alive\r\n"
                           "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                           reply->status, reason_of(reply->status), api_server, strlen(reply->body),
                           reply->body)
                : asprintf(&text, "HTTP/1.1 %d \r\nServer: %s\r\nConnection: keep-alive\r\n\r\n",
                           reply->status, api_server);
    if (r < 0)
        abort();
    return text;
}

static void replace_body(struct fake_reply *reply, int status, const char *call)
{
    char words[FAKE_TEXT_SIZE];
    free(reply->body);
    reply->status = status;
    snprintf(words, sizeof words, "told to refuse %s with %d", call, status);
    reply->body = api_refusal(words);
}

/* The answer, or what takes its place. False: the connection is to be closed. */
static bool answer(const struct fake *fake, int fd, struct fake_reply *reply, const char *call,
                   enum when when, const char *what)
{
    static const char garbage[] = "\x7f"
                                  "ELF\1\2\3 this is no HTTP\r\n\r\n";
    if (when != NEVER && (strcmp(what, "400") == 0 || strcmp(what, "500") == 0))
        replace_body(reply, atoi(what), call);
    if (when != NEVER && strcmp(what, "garbage") == 0) {
        put(fd, garbage, sizeof garbage - 1);
        return false;
    }
    if (when == DURING && strcmp(what, "late") == 0)
        nanosleep(&(struct timespec){.tv_nsec = LATE_MS * 1000000L}, NULL);
    auto_free char *text = compose(reply);
    bool half = when != NEVER && strcmp(what, "half") == 0;
    put(fd, text, half || when == DURING ? strlen(text) / 2 : strlen(text));
    if (when == DURING) {
        die_or_hang(fake, what, call);
        put(fd, text + strlen(text) / 2, half ? 0 : strlen(text) - strlen(text) / 2);
    }
    return !half;
}

/* One request. 1, 0 at the end of the connection, -1 for what is none. */
static int read_request(int fd, struct request *ret)
{
    size_t used = 0;
    char *end;
    memset(ret, 0, sizeof *ret);
    while (!(end = strstr(ret->text, "\r\n\r\n"))) {
        ssize_t got = used < REQUEST_MAX ? recv(fd, ret->text + used, REQUEST_MAX - used, 0) : -1;
        if (got <= 0)
            return got == 0 && used == 0 ? 0 : -1;
        used += (size_t)got;
    }
    char *length = strcasestr(ret->text, "\r\nContent-Length:");
    ret->body_size = length && length < end ? strtoul(length + 17, NULL, 10) : 0;
    ret->body = end + 4;
    size_t all = (size_t)(ret->body - ret->text) + ret->body_size;
    if (all > REQUEST_MAX ||
        sscanf(ret->text, "%15s %255s HTTP/1.1\r\n", ret->method, ret->path) != 2)
        return -1;
    while (used < all) {
        ssize_t got = recv(fd, ret->text + used, all - used, 0);
        if (got <= 0)
            return -1;
        used += (size_t)got;
    }
    return 1;
}

static void serve(struct fake *fake, int fd)
{
    static struct request request;
    bool open = true;
    while (open && read_request(fd, &request) > 0) {
        struct fake_reply reply = {0};
        const char *call = api_name(request.method, request.path), *what = "";
        enum when when = fault_of(call, &what);
        if (when == BEFORE)
            die_or_hang(fake, what, call);
        bool replaced = when == BEFORE;
        if (replaced)
            reply.status = 204;
        else
            api_call(fake, request.method, request.path, request.body, request.body_size, &reply);
        open = answer(fake, fd, &reply, call, when, what);
        if (when == AFTER)
            die_or_hang(fake, what, call);
        free(reply.body);
        if (reply.end) {
            fake_log(fake, "%s", api_end);
            _exit(api_end_status);
        }
    }
}

/* As those VMMs' own threads have, so that no stack looks like the memory of a small VM. */
static void make_stacks_small(void)
{
    enum { STACK_BYTES = 2 << 20 };
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0 ||
        pthread_attr_setstacksize(&attributes, STACK_BYTES) != 0 ||
        pthread_setattr_default_np(&attributes) != 0)
        abort();
    pthread_attr_destroy(&attributes);
}

int server_run(struct fake *fake)
{
    make_stacks_small();
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *what;
    if (fault_of("start", &what) != NEVER)
        die_or_hang(fake, what, "start");
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (strlen(fake->socket) >= sizeof address.sun_path)
        errno = ENAMETOOLONG;
    else
        memcpy(address.sun_path, fake->socket, strlen(fake->socket) + 1);
    if (!address.sun_path[0] || listener < 0 ||
        bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listener, BACKLOG) < 0) {
        fake_log(fake, "RunWithApiError error: Failed to open the API socket at: %s (%s)",
                 fake->socket, strerror(errno));
        return 1;
    }
    for (;;) {
        auto_close int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0)
            serve(fake, fd);
    }
}
