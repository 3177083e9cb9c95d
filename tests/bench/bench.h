/* SPDX-License-Identifier: MIT */
/*
 * bench: how long things take, beside what the least program takes for the same. Each row is a
 * function, a test of cmocka's, in the table in bench.c; it adds lines to the report. It fails when
 * something could not be measured or its result is wrong, and never for a time.
 *
 * A line that compares has samples in pairs, each pair taken one right after the other and in turns
 * the other way round, so that a machine that becomes slower meanwhile does so for both: the ratio
 * is the median of the pairs' ratios.
 */
#ifndef HYPEFS_TESTS_BENCH_H
#define HYPEFS_TESTS_BENCH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "harness/harness.h"

enum { BENCH_SAMPLES_MAX = 1024 };

/* --quick: images, forks and samples as few and small as show that everything works. */
bool bench_is_quick(void);
/* How many samples of everything. */
size_t bench_times(void);
/* The number for --quick, or else the other. */
size_t bench_pick(size_t quick, size_t thorough);

struct bench_samples {
    size_t count;
    double values[BENCH_SAMPLES_MAX];
};
void bench_add(struct bench_samples *samples, double value);

/* The sample of which that many hundredths are below, in their order. There is one at least. */
double bench_percentile(const struct bench_samples *samples, size_t percent);

/* A line of the report. Samples that are NULL or empty: it has none. */
struct bench_line {
    const char *name, *unit;
    const char *against; /* what `other` is; NULL: there is none */
    const char *goal;    /* of the ratio; of the value if it has a unit, or no other; or NULL */
    const char *note;    /* may be NULL */
    const struct bench_samples *ours, *other;
};
/* The strings are copied. */
void bench_report(const struct bench_line *line);

/* Adds a sample to each of the two, `bench_times()` times, one after the other, after one of each
 * that does not count. */
void bench_alternate(double (*ours)(void *context), double (*other)(void *context), void *context,
                     struct bench_samples *ret_ours, struct bench_samples *ret_other);

double bench_now_ms(void);
/* CPU time that a process has taken with all its threads, also those that have ended. */
double bench_cpu_ms(pid_t pid);
/* KiB of memory, what is shared by n processes counted as 1/n. */
double bench_pss_kib(pid_t pid);

/* The environment's variable, which meson sets. */
const char *bench_program(const char *variable);

/* To stdout as a table, and to the file (may be NULL) as JSON; false: it cannot be written. */
bool bench_print(FILE *file);
void bench_forget(void);

/* Boots a guest with the mailbox "bench.v1", publishes its snapshot and removes it. */
void bench_publish(struct harness *h, const char *id, int mib);
/* Waits until `base` has the one VM that its `warm` asks for. */
void bench_await_warm(struct harness *h);

/* The rows. */
void bench_forks(void **state);
void bench_warm(void **state);
void bench_confine(void **state);
void bench_wall(void **state);
void bench_copies(void **state);
void bench_saves(void **state);
void bench_live(void **state);
void bench_scan(void **state);
void bench_tree(void **state);
void bench_many(void **state);
void bench_waiting(void **state);
void bench_groups(void **state);
void bench_scale(void **state);
void bench_delays(void **state);

#endif
