/* SPDX-License-Identifier: MIT */
/* json_check: is a text a JSON object, is it the beginning of one, or what is wrong with it? Pure,
 * libc only: the guest's program has it too. */
#ifndef HYPEFS_UTIL_JSON_CHECK_H
#define HYPEFS_UTIL_JSON_CHECK_H

#include <stdbool.h>
#include <stddef.h>

#include "util/json_walk.h"

enum { JSON_DEPTH_MAX = 128 }; /* objects and arrays inside each other; one more is refused */

enum json_status {
    JSON_COMPLETE,   /* one whole object, and nothing but white space around it */
    JSON_INCOMPLETE, /* no mistake so far, but the object is not closed; so is an empty text */
    JSON_INVALID,    /* whatever follows, this never becomes an object */
};

struct json_check {
    struct json_span object; /* JSON_COMPLETE: from its { to behind its } */
    size_t offset;           /* where the text ends or is wrong, and the same as line and column, */
    unsigned line, column;   /* counted from 1, the column in bytes */
    const char *why;         /* JSON_INVALID: what is wrong there, a constant; else "" */
};

/* Is text[0..size) a JSON object (RFC 8259)? Raw NUL bytes, invalid UTF-8, control characters in
 * strings and nesting deeper than JSON_DEPTH_MAX are invalid. `ret` is always filled. */
enum json_status json_check(const char *text, size_t size, struct json_check *ret);

/* Sets line and column by `offset`, which lies in the text. */
void json_check_place(const char *text, struct json_check *check);

#endif
