/* SPDX-License-Identifier: MIT */
#include "util/stack.h"

#include <string.h>

enum { DEPTH = 16 * 1024 };

__attribute__((noinline)) void stack_wipe(void)
{
    char bytes[DEPTH];
    explicit_bzero(bytes, sizeof bytes);
}
