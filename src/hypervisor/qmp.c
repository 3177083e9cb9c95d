/* SPDX-License-Identifier: MIT */
#include "hypervisor/qmp.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "util/cleanup.h"
#include "util/json.h"
#include "util/process.h"

enum { READ_STEP = 4096, END_MS = 2000, ID_SIZE = 32 };

struct qmp {
    int fd;
    char *buffer; /* `used` bytes of `size`, not yet consumed */
    size_t used, size;
    char version[QMP_VERSION_SIZE];
    uint64_t opened_ns; /* no other connection was opened then: the begin of its commands' ids */
    unsigned commands;
    char id[ID_SIZE]; /* the last command's */
};

static const char *const kind_members[] = {
    [QMP_GREETING] = "QMP",
    [QMP_RETURN] = "return",
    [QMP_ERROR] = "error",
    [QMP_EVENT] = "event",
};

int qmp_parse(const char *line, size_t size, struct qmp_message *ret, struct error *err)
{
    auto_json cJSON *document = NULL;
    struct error why;
    if (json_parse(line, size, &document, &why) < 0)
        return error_set(err, EIO, "QEMU's message is no JSON object: %s", why.text);
    for (size_t kind = 0; kind < array_length(kind_members); kind++) {
        const cJSON *body = json_get(document, kind_members[kind]);
        if (!body)
            continue;
        *ret = (struct qmp_message){.kind = (enum qmp_kind)kind, .body = body};
        ret->document = steal_pointer(document);
        return 0;
    }
    return error_set(err, EIO, "QEMU's message is neither an answer nor an event");
}

void qmp_message_finish(struct qmp_message *message)
{
    cJSON_Delete(message->document);
    *message = (struct qmp_message){0};
}

/* Waits until the socket can be read. */
static int await(const struct qmp *qmp, const struct process_limits *limits, struct error *err)
{
    int fds[] = {qmp->fd, limits->pidfd, limits->cancel_fd};
    int ready = process_await(fds, array_length(fds), limits);
    if (ready < 0)
        return error_errno(err, -ready, "waiting for QEMU");
    if (ready & 4)
        return error_set(err, ECANCELED, "given up while waiting for QEMU");
    if (ready & 1)
        return 0;
    if (ready & 2)
        return error_set(err, EIO, "QEMU has ended");
    return error_set(err, EIO, "QEMU does not answer");
}

/* A QEMU that ends closes its connection some moments before. */
static int closed(const struct process_limits *limits, struct error *err)
{
    if (process_poll(&limits->pidfd, 1, process_now_ms() + END_MS) > 0)
        return error_set(err, EIO, "QEMU has ended");
    return error_set(err, EIO, "QEMU has closed its control connection");
}

static int grow(struct qmp *qmp, struct error *err)
{
    if (qmp->size - qmp->used >= READ_STEP)
        return 0;
    if (qmp->size >= QMP_LINE_MAX)
        return error_set(err, EIO, "QEMU's message is longer than %d bytes", QMP_LINE_MAX);
    size_t size = qmp->size ? qmp->size * 2 : (size_t)READ_STEP * 2;
    char *buffer = realloc(qmp->buffer, size);
    if (!buffer)
        return error_set(err, ENOMEM, "no memory for QEMU's message");
    qmp->buffer = buffer;
    qmp->size = size;
    return 0;
}

static int read_more(struct qmp *qmp, const struct process_limits *limits, struct error *err)
{
    int r = grow(qmp, err);
    if (r < 0)
        return r;
    for (;;) {
        ssize_t got = recv(qmp->fd, qmp->buffer + qmp->used, qmp->size - qmp->used, MSG_DONTWAIT);
        if (got > 0) {
            qmp->used += (size_t)got;
            return 0;
        }
        if (got == 0 || errno == ECONNRESET)
            return closed(limits, err);
        if (errno != EINTR && errno != EAGAIN)
            return error_io(err, errno, "QEMU's control connection");
        r = await(qmp, limits, err);
        if (r < 0)
            return r;
    }
}

static int next_message(struct qmp *qmp, const struct process_limits *limits,
                        struct qmp_message *ret, struct error *err)
{
    size_t searched = 0;
    for (;;) {
        const char *end = qmp->used > searched
                              ? memchr(qmp->buffer + searched, '\n', qmp->used - searched)
                              : NULL;
        if (end) {
            size_t size = (size_t)(end - qmp->buffer) + 1;
            int r = qmp_parse(qmp->buffer, size, ret, err);
            qmp->used -= size;
            memmove(qmp->buffer, qmp->buffer + size, qmp->used);
            return r;
        }
        searched = qmp->used;
        int r = read_more(qmp, limits, err);
        if (r < 0)
            return r;
    }
}

/* QEMU gives the answer to a command that the connection before did not wait for to this one. */
static bool is_to_another(const struct qmp *qmp, const struct qmp_message *message)
{
    const cJSON *id = json_get(message->document, "id");
    return id && !(cJSON_IsString(id) && strcmp(id->valuestring, qmp->id) == 0);
}

/* The greeting, or the answer to the last command: events and answers to others are passed over. */
static int next_answer(struct qmp *qmp, const struct process_limits *limits,
                       struct qmp_message *ret, struct error *err)
{
    for (;;) {
        int r = next_message(qmp, limits, ret, err);
        if (r < 0 || (ret->kind != QMP_EVENT && !is_to_another(qmp, ret)))
            return r;
        qmp_message_finish(ret);
    }
}

/* The whole line with one sendmsg: commands are far smaller than a socket's buffer, and one that
 * does not fit means a QEMU that has stopped reading. */
static int transmit(struct qmp *qmp, const struct process_limits *limits, char *line, size_t size,
                    int send_fd, struct error *err)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {.iov_base = line, .iov_len = size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (send_fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        control.header = (struct cmsghdr){
            .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
        memcpy(CMSG_DATA(&control.header), &send_fd, sizeof send_fd);
    }
    ssize_t sent;
    do
        sent = sendmsg(qmp->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    if (sent < 0 && (errno == EPIPE || errno == ECONNRESET))
        return closed(limits, err);
    if (sent < 0)
        return error_io(err, errno, "QEMU's control connection");
    if ((size_t)sent != size)
        return error_set(err, EIO, "QEMU does not read its control connection");
    return 0;
}

static char *print_command(struct qmp *qmp, const char *command, cJSON *arguments)
{
    auto_json cJSON *message = cJSON_CreateObject();
    json_add_string(message, "execute", command);
    if (arguments)
        json_add(message, "arguments", arguments);
    snprintf(qmp->id, sizeof qmp->id, "%" PRIx64 ".%u", qmp->opened_ns, qmp->commands++);
    json_add_string(message, "id", qmp->id);
    return json_print_line(message);
}

/* *ret_greeted: QEMU has greeted again before. It does if the connection comes at the moment in
 * which its monitor's thread begins to listen. */
static int ask(struct qmp *qmp, const struct process_limits *limits, char *line, int send_fd,
               struct qmp_message *ret, bool *ret_greeted, struct error *err)
{
    int r = transmit(qmp, limits, line, strlen(line), send_fd, err);
    if (r == 0)
        r = next_answer(qmp, limits, ret, err);
    while (r == 0 && ret->kind == QMP_GREETING) {
        *ret_greeted = true;
        qmp_message_finish(ret);
        r = next_answer(qmp, limits, ret, err);
    }
    return r;
}

static int negotiate(struct qmp *qmp, const struct process_limits *limits, struct error *err)
{
    struct qmp_message answer;
    bool greeted;
    auto_free char *line = print_command(qmp, "qmp_capabilities", NULL);
    int r = line ? ask(qmp, limits, line, -1, &answer, &greeted, err)
                 : error_set(err, ENOMEM, "no memory for a command to QEMU");
    if (r < 0)
        return r;
    const bool refused = answer.kind == QMP_ERROR;
    qmp_message_finish(&answer);
    return refused ? error_set(err, EIO, "QEMU refused qmp_capabilities") : 0;
}

/* Who has greeted again takes no other command before it has agreed on capabilities again. */
static int ask_again(struct qmp *qmp, const struct process_limits *limits, char *line, int send_fd,
                     struct qmp_message *ret, struct error *err)
{
    char id[ID_SIZE];
    bool greeted;
    memcpy(id, qmp->id, sizeof id);
    qmp_message_finish(ret);
    int r = negotiate(qmp, limits, err);
    memcpy(qmp->id, id, sizeof id);
    return r == 0 ? ask(qmp, limits, line, send_fd, ret, &greeted, err) : r;
}

/* QEMU's reason, cut short and on one line. */
static int refused(const char *command, const cJSON *body, struct error *err)
{
    const char *reason = json_get_text(body, "desc");
    return error_words(err, reason ? reason : "no reason given", "QEMU refused %s", command);
}

int qmp_execute(struct qmp *qmp, const struct process_limits *limits, const char *command,
                cJSON *arguments, int send_fd, cJSON **ret, struct error *err)
{
    struct qmp_message answer;
    bool greeted = false;
    auto_free char *line = print_command(qmp, command, arguments);
    int r = line ? ask(qmp, limits, line, send_fd, &answer, &greeted, err)
                 : error_set(err, ENOMEM, "no memory for a command to QEMU");
    if (r == 0 && answer.kind == QMP_ERROR && greeted)
        r = ask_again(qmp, limits, line, send_fd, &answer, err);
    if (r < 0)
        return error_prefix(err, r, "%s", command);
    if (answer.kind == QMP_ERROR)
        r = refused(command, answer.body, err);
    else if (ret)
        *ret = cJSON_DetachItemFromObjectCaseSensitive(answer.document, kind_members[QMP_RETURN]);
    qmp_message_finish(&answer);
    return r;
}

static int read_greeting(struct qmp *qmp, const cJSON *body, struct error *err)
{
    static const char *const names[] = {"major", "minor", "micro"};
    const cJSON *version = json_get(json_get(body, "version"), "qemu");
    int numbers[array_length(names)];
    for (size_t i = 0; i < array_length(names); i++) {
        const cJSON *number = json_get(version, names[i]);
        if (!cJSON_IsNumber(number) || number->valueint < 0)
            return error_set(err, EIO, "QEMU's greeting has no version");
        numbers[i] = number->valueint;
    }
    snprintf(qmp->version, sizeof qmp->version, "%d.%d.%d", numbers[0], numbers[1], numbers[2]);
    return 0;
}

static int greet(struct qmp *qmp, const struct process_limits *limits, struct error *err)
{
    struct qmp_message greeting;
    /* QEMU tells events and gives answers by its main thread, but greets by another. */
    int r = next_answer(qmp, limits, &greeting, err);
    if (r < 0)
        return r;
    if (greeting.kind == QMP_GREETING)
        r = read_greeting(qmp, greeting.body, err);
    else
        r = error_set(err, EIO, "QEMU did not begin with its greeting");
    qmp_message_finish(&greeting);
    return r < 0 ? r : negotiate(qmp, limits, err);
}

int qmp_open(int fd, const struct process_limits *limits, struct qmp **ret, struct error *err)
{
    struct qmp *qmp = calloc(1, sizeof *qmp);
    if (!qmp) {
        close(fd);
        return error_set(err, ENOMEM, "no memory for a control connection");
    }
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    qmp->opened_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    qmp->fd = fd;
    int r = greet(qmp, limits, err);
    if (r < 0) {
        qmp_close(qmp);
        return r;
    }
    *ret = qmp;
    return 0;
}

void qmp_close(struct qmp *qmp)
{
    if (!qmp)
        return;
    close(qmp->fd);
    free(qmp->buffer);
    free(qmp);
}

const char *qmp_version(const struct qmp *qmp)
{
    return qmp->version;
}
