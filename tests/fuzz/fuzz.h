/* SPDX-License-Identifier: MIT */
/*
 * fuzz: what the fuzzers share. Each fuzz_<what>.c defines one function that takes any bytes; it is
 * linked with libFuzzer, or with replay.c, which feeds it the files of a corpus as a normal test.
 */
#ifndef HYPEFS_TESTS_FUZZ_FUZZ_H
#define HYPEFS_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* libFuzzer's name for it. Returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What must hold for every input. Not assert(), which a build may leave out. */
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
