/* SPDX-License-Identifier: MIT */
/* test: cmocka, with what its header needs before it. */
#ifndef HYPEFS_TESTS_UNIT_TEST_H
#define HYPEFS_TESTS_UNIT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#endif
