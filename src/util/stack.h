/* SPDX-License-Identifier: MIT */
/* stack: what returned calls leave on a thread's stack. */
#ifndef HYPEFS_UTIL_STACK_H
#define HYPEFS_UTIL_STACK_H

/* Zeroes the part of this thread's stack that is free now, as deep as our calls go. After work on a
 * secret: locals are zeroed by who has them, but the compiler, the dynamic linker and signals also
 * save registers there, and a copy of 64 bytes goes through two of them. */
void stack_wipe(void);

#endif
