/* SPDX-License-Identifier: MIT */
/* hex: bytes as hexadecimal digits. Pure, libc only, for the guests' library has it too. */
#ifndef HYPEFS_UTIL_HEX_H
#define HYPEFS_UTIL_HEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Its value, of either case; -1 if it is none. */
int hex_digit(char c);

/* Lower case, with a NUL behind: `ret` has room for 2 * size + 1. */
void hex_encode(const uint8_t *bytes, size_t size, char *ret);

/* False, with nothing certain in `ret`, unless all of the text is digits of at most `max` bytes. */
bool hex_decode(const char *text, uint8_t *ret, size_t max, size_t *ret_size);

#endif
