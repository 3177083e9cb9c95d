/* SPDX-License-Identifier: MIT */
/* json_walk: the members of a JSON object and the items of an array, as written. Pure, libc only, for guests have it too. */
#ifndef HYPEFS_UTIL_JSON_WALK_H
#define HYPEFS_UTIL_JSON_WALK_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes [start, end) of a text. */
struct json_span {
    size_t start, end;
};

struct json_member {
    struct json_span name;  /* as written, without the quotes: escapes are still there */
    struct json_span value; /* as written, no white space around it */
};

/* Walks the members of an object that json_check() found complete, in order. Start with *position =
 * object.start; false when there are no more. Of another text it may return anything inside it. */
bool json_next_member(const char *text, struct json_span object, size_t *position,
                      struct json_member *ret);

/* The same for the items of an array, from *position = array.start on. */
bool json_next_item(const char *text, struct json_span array, size_t *position,
                    struct json_span *ret);

/* The first place at or behind `at` that has none of these characters, or `end`. */
size_t json_skip(const char *text, size_t at, size_t end, const char *any);

#endif
