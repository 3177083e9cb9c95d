/* SPDX-License-Identifier: MIT */
/* output: what a hook prints on stdout, as the reply to its payload. Of a long output beginning and
 * end are kept. Part of the agent program, not of the library. Pure. */
#ifndef HYPEFS_GUEST_OUTPUT_H
#define HYPEFS_GUEST_OUTPUT_H

#include <stddef.h>
#include <stdint.h>

enum { OUTPUT_PART_MAX = 4096 }; /* more than half of a reply takes, and than a whole object */

/* Begins zeroed. */
struct output {
    uint64_t size; /* of all of it */
    size_t head_size, tail_size;
    char head[OUTPUT_PART_MAX],
        tail[OUTPUT_PART_MAX]; /* its first bytes, and the last after them */
};

void output_add(struct output *output, const char *text, size_t size);

/*
 * Writes the reply, of at most `max` bytes (at least 64) and a NUL, to `ret`, and returns its size;
 * 0: nothing was printed. An output that is a JSON object is the reply. Any other is its member:
 * {"output":"…"}; a byte that is no UTF-8 is a "?" there. What has no room is left out in the
 * middle, and "dropped" says how many bytes that are.
 */
size_t output_reply(const struct output *output, char *ret, size_t max);

#endif
