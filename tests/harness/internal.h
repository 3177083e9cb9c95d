/* SPDX-License-Identifier: MIT */
/* internal: what the files of the harness share. */
#ifndef HYPEFS_TESTS_HARNESS_INTERNAL_H
#define HYPEFS_TESTS_HARNESS_INTERNAL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "harness/harness.h"

/* fail_msg() does not return, but the compiler does not know. */
#define give_up(...)                                                                               \
    do {                                                                                           \
        fail_msg(__VA_ARGS__);                                                                     \
        abort();                                                                                   \
    } while (0)

/* Kills every process whose working directory is in there: a VMM's is its entry in the store. */
void harness_end_inside(const char *directory);
/* Thaws the file systems mounted below that a test has frozen: what waits for one cannot even be
 * killed. Comes before the killing. */
void harness_thaw_below(const char *directory);
/* Unmounts what is mounted below. */
void harness_unmount_below(const char *directory);
void harness_remove_tree(const char *directory);

/* Waits for the process until the deadline; false then. */
bool harness_await_pidfd(int pidfd, int timeout_ms);
/* Reaps it. */
int harness_reap(pid_t pid);

#endif
