/* SPDX-License-Identifier: MIT */
/* limit: what an errno tells of a limit that the host sets: which one, its value, and what raises
 * it. error.c puts that behind the system's words; nobody else needs to. */
#ifndef HYPEFS_UTIL_LIMIT_H
#define HYPEFS_UTIL_LIMIT_H

#include <stdbool.h>
#include <stddef.h>

/* Is it the errno of such a limit, rather than of something that is broken? */
bool limit_is(int code);

/* Is it that a file system has no room, or its user no quota? */
bool limit_is_room(int code);

/* r (negative) if it is of a limit, else -EIO: of what only fails for that, or for damage. */
int limit_or_io(int r);

/* The errno of such a limit that a program's words name; 0: they name none. */
int limit_named(const char *words);

/* Is the address space, or are the data, of this process and of those that it starts limited? */
bool limit_has_memory(void);

enum { LIMIT_TEXT_SIZE = 320 };

/* One clause without a dot; "" for an errno that is of no limit. */
void limit_explain(int code, char ret[static LIMIT_TEXT_SIZE]);

#endif
