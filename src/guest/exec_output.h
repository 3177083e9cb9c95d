/* SPDX-License-Identifier: MIT */
/* exec_output: what a command has printed on one stream, as a member of a reply (exec.h). Of much,
 * beginning and end are kept. Part of the agent program. Pure but for memory. */
#ifndef HYPEFS_GUEST_EXEC_OUTPUT_H
#define HYPEFS_GUEST_EXEC_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct exec_output {
    char *bytes;      /* owned; if something was dropped, that was behind the first `room` bytes */
    size_t room;      /* bytes of the beginning, and of the end, that are kept at least */
    size_t kept;      /* at most three times as many */
    uint64_t dropped; /* bytes */
};

/* False without memory. `room` is not 0. */
bool exec_output_init(struct exec_output *ret, size_t room);
/* A zeroed struct is fine. */
void exec_output_finish(struct exec_output *output);

void exec_output_add(struct exec_output *output, const char *bytes, size_t size);

/* How many characters all that was kept takes between its quotes. */
size_t exec_output_length(const struct exec_output *output);

/* Writes "NAME":"…" or "NAME_base64":"…" with a NUL behind, with at most `max` characters between
 * the last quotes, and returns its length. Adds the bytes that are left out to *dropped. To be
 * called only once. */
size_t exec_output_print(struct exec_output *output, const char *name, size_t max, char *ret,
                         uint64_t *dropped);

#endif
