/* SPDX-License-Identifier: MIT */
/* arguments: the command line of a program, under construction. Zero it before use. Once an
 * addition has failed, so do all others, and `failed` says so. One thread. */
#ifndef HYPEFS_UTIL_ARGUMENTS_H
#define HYPEFS_UTIL_ARGUMENTS_H

#include <stdbool.h>
#include <stddef.h>

struct arguments {
    char **items; /* owned; ends with NULL. NULL: there is none yet */
    size_t count;
    bool failed; /* for lack of memory */
};

void arguments_add(struct arguments *arguments, const char *item);
/* The string is owned now; NULL: it could not be made. */
void arguments_take(struct arguments *arguments, char *item);
void arguments_add_format(struct arguments *arguments, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void arguments_finish(struct arguments *arguments);

#endif
