/* SPDX-License-Identifier: MIT */
/*
 * What a user waits for: from before the open to after the close of a write to `commit`, by several
 * programs. Each fork gets a payload and a VM that was loaded ahead. Not what starting these
 * programs takes.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/bench.h"
#include "util/cleanup.h"

enum { QUICK_SAMPLES = 2, SAMPLES = 100, MIB = 256 };

static const char box[] = "bench.v1";

/* How long it has waited, in ms. */
typedef double commit_by(struct harness *h, const char *path, const char *id);

static double by_c(struct harness *h, const char *path, const char *id)
{
    const double begun = bench_now_ms();
    (void)h;
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ssize_t size = write(fd, id, strlen(id));
    int closed = close(fd);
    const double took = bench_now_ms() - begun;
    assert_int_equal(size, (ssize_t)strlen(id));
    assert_int_equal(closed, 0);
    return took;
}

/* The program prints microseconds. */
static double by_program(struct harness *h, const char *const *argv)
{
    struct harness_result result = harness_run(h, argv);
    if (result.status != 0)
        fail_msg("%s: %s", argv[0], result.err);
    return atof(result.out) / 1000;
}

static double by_bash(struct harness *h, const char *path, const char *id)
{
    static const char script[] = "t=${EPOCHREALTIME/./}; echo \"$1\" > \"$0\" || exit; "
                                 "echo $((${EPOCHREALTIME/./} - t))";
    return by_program(h, (const char *const[]){"bash", "-c", script, path, id, NULL});
}

static double by_python(struct harness *h, const char *path, const char *id)
{
    static const char script[] = "import sys, time\n"
                                 "t = time.monotonic_ns()\n"
                                 "with open(sys.argv[1], 'w') as f: f.write(sys.argv[2])\n"
                                 "print((time.monotonic_ns() - t) // 1000)\n";
    return by_program(h, (const char *const[]){"python3", "-c", script, path, id, NULL});
}

static const struct {
    const char *name;
    commit_by *commit;
    const char *goal, *goal_of_99;
} clients[] = {
    {"a C program", by_c, "≤ 2 ms", "≤ 5 ms"},
    {"bash", by_bash, NULL, NULL},
    {"Python", by_python, NULL, NULL},
};

static double sample(struct harness *h, commit_by *commit)
{
    bench_await_warm(h);
    harness_put(harness_path(h, "snapshots/base/forks/new/mailboxes/%s", box),
                "{\"payload\":{\"hello\":\"bench\"}}");
    double took = commit(h, harness_path(h, "snapshots/base/forks/new/commit"), "f");
    const char *result = harness_get(h, harness_path(h, "instances/f/fork/result"));
    assert_string_equal(harness_json(h, result, "warm"), "true");
    harness_put(harness_path(h, "instances/f/state"), "stopped");
    assert_int_equal(rmdir(harness_path(h, "instances/f")), 0);
    return took;
}

static void report(struct harness *h, size_t client, const struct bench_samples *ms)
{
    struct bench_samples slow = {0};
    bench_add(&slow, bench_percentile(ms, 99));
    bench_report(&(struct bench_line){
        .name = harness_format(h, "fork with a VM loaded ahead: write of %s", clients[client].name),
        .unit = "ms",
        .goal = clients[client].goal,
        .ours = ms});
    bench_report(&(struct bench_line){.name = harness_format(h, "the same: p99 of %zu", ms->count),
                                      .unit = "ms",
                                      .goal = clients[client].goal_of_99,
                                      .ours = &slow});
}

void bench_wall(void **state)
{
    static struct bench_samples ms[array_length(clients)];
    struct harness *h = *state;
    const size_t count = bench_pick(QUICK_SAMPLES, SAMPLES);
    harness_mount(h, NULL);
    bench_publish(h, "base", MIB);
    harness_put(harness_path(h, "snapshots/base/warm"), "1");
    for (size_t i = 0; i <= count; i++)
        for (size_t k = 0; k < array_length(clients); k++) {
            double took = sample(h, clients[k].commit);
            if (i > 0)
                bench_add(&ms[k], took);
        }
    for (size_t k = 0; k < array_length(clients); k++)
        report(h, k, &ms[k]);
}
