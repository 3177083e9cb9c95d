/* SPDX-License-Identifier: MIT */
/* libexec: where the files are that hypefs brings along for itself: programs that it runs in the
 * place of others, and libraries that those load. Any thread. */
#ifndef HYPEFS_UTIL_LIBEXEC_H
#define HYPEFS_UTIL_LIBEXEC_H

#include <limits.h>

#include "util/error.h"

/* The absolute path of `name`, as it is installed, or of "src/FOLDER/NAME" in the build folder, if
 * the program that runs is in one. EIO: it is at neither place. */
int libexec_find(const char *folder, const char *name, char ret[static PATH_MAX],
                 struct error *err);

#endif
