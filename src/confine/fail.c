/* SPDX-License-Identifier: MIT */
#include "confine/fail.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void fail(int status, const char *format, ...)
{
    const char *why = strerrordesc_np(errno);
    va_list arguments;
    fputs("hypefs-vmm: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, ": %s\n", why);
    exit(status);
}
