/* SPDX-License-Identifier: MIT */
/* bare_common: what the bare programs share, which do without hypefs what hypefs is compared
 * with. */
#ifndef HYPEFS_BENCH_BARE_COMMON_H
#define HYPEFS_BENCH_BARE_COMMON_H

#include <stdbool.h>

double bare_now_ms(void);

/* With cp, which leaves out zeros. False: it failed, and has said why. */
bool bare_copy_file(const char *from, const char *to);

#endif
