/* SPDX-License-Identifier: MIT */
/*
 * qmp: one connection to a QEMU's control socket (the QEMU Machine Protocol: JSON objects, one a
 * line). Commands go one at a time, each with an "id" of its own, which QEMU repeats in its answer.
 * Events are skipped, and so are answers with another id: a connection before gave up waiting for
 * them.
 *
 * What QEMU sends is not trusted: lines are bounded, strictly parsed, and quoted in errors cut
 * short and printable. Failures are EIO, but for ECANCELED and ENOMEM; after one, close the
 * connection. One thread at a time.
 */
#ifndef HYPEFS_HYPERVISOR_QMP_H
#define HYPEFS_HYPERVISOR_QMP_H

#include <stdbool.h>
#include <stddef.h>
#include <cjson/cJSON.h>

#include "util/process.h"

enum {
    QMP_LINE_MAX =
        1 << 23, /* bytes of a message: all layers of all disks, each with 2 KB and more */
    QMP_VERSION_SIZE = 32, /* "MAJOR.MINOR.MICRO" with the NUL */
};

enum qmp_kind { QMP_GREETING, QMP_RETURN, QMP_ERROR, QMP_EVENT };

struct qmp_message {
    enum qmp_kind kind;
    cJSON *document;   /* owned: qmp_message_finish() */
    const cJSON *body; /* in document: what the member that tells the kind holds */
};

/* Parses one line (untrusted; its line break may be there). EIO if it is no QMP message. */
int qmp_parse(const char *line, size_t size, struct qmp_message *ret, struct error *err);
void qmp_message_finish(struct qmp_message *message);

struct qmp;

/* Takes a connected, non-blocking socket, waits for the greeting and agrees on capabilities. */
int qmp_open(int fd, const struct process_limits *limits, struct qmp **ret, struct error *err);
void qmp_close(struct qmp *qmp);

/* As the greeting said, "7.2.22"; lives as long as the connection. */
const char *qmp_version(const struct qmp *qmp);

/* Runs a command and waits for its answer. Takes `arguments` (NULL: none) on every path. `send_fd`
 * (-1: none) goes along for getfd. `ret` (NULL: not wanted) is owned: what the command returned. */
int qmp_execute(struct qmp *qmp, const struct process_limits *limits, const char *command,
                cJSON *arguments, int send_fd, cJSON **ret, struct error *err);

#endif
