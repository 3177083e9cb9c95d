/* SPDX-License-Identifier: MIT */
/* utf8: where characters begin and end in bytes that may be no UTF-8 (RFC 3629: no surrogates, no
 * overlong forms; NUL is a character). Pure, libc only, for the guests' library has it too. */
#ifndef HYPEFS_UTIL_UTF8_H
#define HYPEFS_UTIL_UTF8_H

#include <stdbool.h>
#include <stddef.h>

enum { UTF8_MAX = 4 }; /* bytes of a character */

enum utf8_end {
    UTF8_WHOLE,
    UTF8_CUT, /* the bytes end inside the character */
    UTF8_WRONG,
};

/* Steps over the character at bytes[*at], not the end: to its end, or to what is wrong. */
enum utf8_end utf8_step(const void *bytes, size_t size, size_t *at);

/* How many of the bytes, from the first, are whole characters. */
size_t utf8_length(const void *bytes, size_t size);

/* How many bytes the first character has; 0 if it is no UTF-8, or cut. */
size_t utf8_first(const void *bytes, size_t size);

bool utf8_valid(const void *bytes, size_t size);

#endif
