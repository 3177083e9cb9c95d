/* SPDX-License-Identifier: MIT */
/* input: a file that a user names, or standard input, as a whole. */
#ifndef HYPEFS_CLI_INPUT_H
#define HYPEFS_CLI_INPUT_H

#include <stddef.h>

#include "util/error.h"

enum { INPUT_MAX = 512 << 10 }; /* what the tree takes of a text */

/* Of standard input if `path` is NULL or "-". *ret, owned, has a NUL behind it. EFBIG: there are
 * more than `max` bytes. */
int input_read(const char *path, size_t max, char **ret, size_t *ret_size, struct error *err);

#endif
