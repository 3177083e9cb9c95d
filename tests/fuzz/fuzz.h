/* SPDX-License-Identifier: MIT */
/*
 * fuzz: what the fuzzers share. Each fuzz_<what>.c defines one function that takes any bytes; it is
 * linked with libfuzzer.c, or with replay.c, which feeds it the files of a corpus as a normal test.
 */
#ifndef HYPEFS_TESTS_FUZZ_FUZZ_H
#define HYPEFS_TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* Was the input taken for one of the things that it may be? A corpus's files named should-fail-…
 * are not, all others are. */
bool fuzz(const uint8_t *data, size_t size);

/* What must hold for every input. Not assert(), which a build may leave out. */
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
