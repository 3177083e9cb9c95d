/* SPDX-License-Identifier: MIT */
/* taps: interfaces t0, t1, t2 and lo, in a network namespace of the program's own. */
#ifndef HYPEFS_TESTS_MOUNT_TAPS_H
#define HYPEFS_TESTS_MOUNT_TAPS_H

#include "harness/harness.h"

/* For harness_enter_with(): t0, t1 and t2 (harness_make_taps). */
const char *taps_make(const char *base);

/* Has a VMM opened it? */
void taps_assert(struct harness *h, const char *tap, bool used);

#endif
