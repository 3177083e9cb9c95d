/* SPDX-License-Identifier: MIT */
#include "taps.h"

#include "fixture.h"

enum { TAPS = 3 };

const char *taps_make(const char *base)
{
    return harness_make_taps(base, TAPS);
}

void taps_assert(struct harness *h, const char *tap, bool used)
{
    assert_shell("bash", harness_format(h, "ip link show %s | grep -q LOWER_UP", tap), !used);
}
