/* SPDX-License-Identifier: MIT */
/* exec_request: what a payload asks exec.h to run. Part of the agent program. Pure. */
#ifndef HYPEFS_GUEST_EXEC_REQUEST_H
#define HYPEFS_GUEST_EXEC_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { EXEC_TIMEOUT_MAX = 86400000 }; /* ms */

struct exec_request {
    char *strings;    /* owned: what the others point into; wiped in the end */
    size_t size;      /* of it */
    char **argv;      /* owned, ends with NULL; at least one */
    char **env;       /* owned, ends with NULL: NAME=VALUE */
    const char *cwd;  /* NULL: the agent's */
    const char *user; /* a name or a number; NULL: the agent's */
    const char *input;
    size_t input_size;
    int64_t timeout_ms; /* 0: none */
};

/* False, with why in `reason` of that size. `ret` is to be finished in any case. */
bool exec_request_parse(const char *payload, size_t size, struct exec_request *ret, char *reason,
                        size_t reason_size);
void exec_request_finish(struct exec_request *request);

#endif
