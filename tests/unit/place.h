/* SPDX-License-Identifier: MIT */
/*
 * place: a directory for a test. A test removes it at its end. Whatever else ends the program
 * (abort(), a sanitizer, a signal), its directories go, too, and what it started ends: the tests of a
 * program that is linked with this run in a child of the process that was started, which looks after
 * them.
 */
#ifndef HYPEFS_TESTS_UNIT_PLACE_H
#define HYPEFS_TESTS_UNIT_PLACE_H

#include <stddef.h>

/* Makes a directory below $TMPDIR (if that is absolute, else /tmp) whose name begins so. 0 or -1.
 */
int place_make(char *ret, size_t size, const char *name);
/* What is there with all below it, if anything is. */
void place_remove(const char *path);

#endif
