/* SPDX-License-Identifier: MIT */
/* base64: bytes as text (RFC 4648, with padding, without line breaks). Pure, libc only, for the
 * guests' agent has it too. */
#ifndef HYPEFS_UTIL_BASE64_H
#define HYPEFS_UTIL_BASE64_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How many characters base64_encode() writes, without the NUL. */
static inline size_t base64_length(size_t size)
{
    return (size + 2) / 3 * 4;
}

/* With a NUL behind: `ret` has room for base64_length(size) + 1. */
void base64_encode(const uint8_t *bytes, size_t size, char *ret);

/* False, with nothing certain in `ret`, if the text is not what base64_encode() would write.
 * `ret` has room for length / 4 * 3 bytes, and may be where the text is. */
bool base64_decode(const char *text, size_t length, uint8_t *ret, size_t *ret_size);

#endif
