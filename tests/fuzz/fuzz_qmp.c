/* SPDX-License-Identifier: MIT */
/* Whatever a QEMU may say on its control connection: its greeting, and answers to two commands. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz.h"
#include "hypervisor/qmp.h"
#include "util/cleanup.h"
#include "util/limit.h"
#include "util/process.h"

enum { FAR_MS = 10000, INPUT_MAX = 32768 };

static void check_line(const uint8_t *data, size_t size)
{
    struct qmp_message message;
    struct error err = {0};
    if (qmp_parse((const char *)data, size, &message, &err) < 0) {
        MUST(err.code == EIO && err.text[0]);
        return;
    }
    MUST(message.body && message.kind <= QMP_EVENT);
    qmp_message_finish(&message);
    MUST(!message.document);
}

/* True if QEMU was greeted and has answered the first command. */
static bool converse(int fd, const struct process_limits *limits)
{
    struct qmp *qmp;
    struct error err = {0};
    bool answered = false;
    if (qmp_open(fd, limits, &qmp, &err) < 0) {
        MUST(err.code == EIO && err.text[0]);
        return false;
    }
    MUST(strlen(qmp_version(qmp)) < QMP_VERSION_SIZE);
    for (int i = 0; i < 2; i++) {
        cJSON *answer = NULL;
        int r = qmp_execute(qmp, limits, "query-migrate", NULL, -1, &answer, &err);
        /* QEMU's own words may name a limit of the host. */
        MUST(r == 0 ? answer != NULL : (r == -EIO || limit_is(-r)) && err.text[0] && !answer);
        cJSON_Delete(answer);
        answered = answered || r == 0;
        if (r < 0)
            break;
    }
    qmp_close(qmp);
    return answered;
}

bool fuzz(const uint8_t *data, size_t size)
{
    int ends[2], ended[2];
    if (size > INPUT_MAX)
        return false;
    check_line(data, size);
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    MUST(pipe2(ended, O_CLOEXEC) == 0);
    auto_close int qemu = ends[1], pidfd = ended[0];
    close(ended[1]); /* readable from now on, as the pidfd of a process that has ended */
    MUST(size == 0 || write(qemu, data, size) == (ssize_t)size);
    shutdown(qemu, SHUT_WR);
    struct process_limits limits = {
        .pidfd = pidfd, .cancel_fd = -1, .deadline_ms = process_now_ms() + FAR_MS};
    return converse(ends[0], &limits);
}
