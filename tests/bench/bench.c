/* SPDX-License-Identifier: MIT */
#include "bench/bench.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "util/cleanup.h"
#include "vm/vm.h"

enum { QUICK_TIMES = 2, TIMES = 31, ROWS_MAX = 32 };

/* A row gets a directory, and no daemon. */
static const struct row {
    const char *name;
    void (*run)(void **state);
} rows[] = {
    {"forks", bench_forks},     {"warm", bench_warm},     {"wall", bench_wall},
    {"confine", bench_confine}, {"copies", bench_copies}, {"saves", bench_saves},
    {"scan", bench_scan},       {"tree", bench_tree},     {"many", bench_many},
    {"waiting", bench_waiting}, {"groups", bench_groups}, {"scale", bench_scale},
    {"delays", bench_delays},
    {"live", bench_live},
};

static bool quick;

bool bench_is_quick(void)
{
    return quick;
}

size_t bench_pick(size_t few, size_t many)
{
    return quick ? few : many;
}

size_t bench_times(void)
{
    return bench_pick(QUICK_TIMES, TIMES);
}

double bench_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

double bench_cpu_ms(pid_t pid)
{
    clockid_t clock;
    struct timespec taken;
    assert_int_equal(clock_getcpuclockid(pid, &clock), 0);
    assert_int_equal(clock_gettime(clock, &taken), 0);
    return (double)taken.tv_sec * 1e3 + (double)taken.tv_nsec / 1e6;
}

double bench_pss_kib(pid_t pid)
{
    char path[64];
    auto_free char *line = NULL;
    size_t size = 0;
    double pss = -1;
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)pid);
    auto_fclose FILE *file = fopen(path, "re");
    while (file && pss < 0 && getline(&line, &size, file) > 0)
        if (strncmp(line, "Pss:", 4) == 0)
            pss = strtod(line + 4, NULL);
    assert_true(pss >= 0);
    return pss;
}

const char *bench_program(const char *variable)
{
    const char *path = getenv(variable);
    if (!path)
        fail_msg("%s does not name a program", variable);
    return path;
}

void bench_add(struct bench_samples *samples, double value)
{
    assert_true(samples->count < BENCH_SAMPLES_MAX);
    samples->values[samples->count++] = value;
}

void bench_alternate(double (*ours)(void *context), double (*other)(void *context), void *context,
                     struct bench_samples *ret_ours, struct bench_samples *ret_other)
{
    ours(context);
    other(context);
    for (size_t i = 0; i < bench_times(); i++) {
        double first = i % 2 ? other(context) : ours(context);
        double second = i % 2 ? ours(context) : other(context);
        bench_add(ret_ours, i % 2 ? second : first);
        bench_add(ret_other, i % 2 ? first : second);
    }
}

static int run_rows(const char *only)
{
    struct CMUnitTest tests[ROWS_MAX];
    size_t count = 0;
    for (size_t i = 0; i < array_length(rows); i++)
        if (!only || strcmp(only, rows[i].name) == 0)
            tests[count++] = (struct CMUnitTest){.name = rows[i].name,
                                                 .test_func = rows[i].run,
                                                 .setup_func = harness_setup,
                                                 .teardown_func = harness_teardown};
    if (count > 0)
        return _cmocka_run_group_tests("bench", tests, count, NULL, NULL);
    fprintf(stderr, "bench: there is no row %s; there are:", only);
    for (size_t i = 0; i < array_length(rows); i++)
        fprintf(stderr, " %s", rows[i].name);
    fputs("\n", stderr);
    return 2;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"quick", no_argument, NULL, 'q'},
                                            {"json", required_argument, NULL, 'j'},
                                            {"row", required_argument, NULL, 'r'},
                                            {NULL, 0, NULL, 0}};
    const char *json = NULL, *row = NULL;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c != 'q' && c != 'j' && c != 'r')
            return 2;
        quick = quick || c == 'q';
        json = c == 'j' ? optarg : json;
        row = c == 'r' ? optarg : row;
    }
    /* Now, for the harness goes to a directory of its own. */
    auto_fclose FILE *file = json ? fopen(json, "we") : NULL;
    if (json && !file) {
        perror(json);
        return 2;
    }
    vm_enter();
    int failed = run_rows(row);
    bool written = bench_print(file);
    bench_forget();
    return failed > 0 || !written;
}
