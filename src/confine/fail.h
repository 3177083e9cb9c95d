/* SPDX-License-Identifier: MIT */
/* fail: how the program hypefs-vmm says what it cannot do, and ends. */
#ifndef HYPEFS_CONFINE_FAIL_H
#define HYPEFS_CONFINE_FAIL_H

enum { CANNOT_CONFINE = 126, CANNOT_RUN = 127 }; /* exit statuses */

/* A line on standard error, with what errno says. */
__attribute__((format(printf, 2, 3), noreturn)) void fail(int status, const char *format, ...);

#endif
