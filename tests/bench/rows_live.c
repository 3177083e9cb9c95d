/* SPDX-License-Identifier: MIT */
/* Deliveries to forks that run, on QEMU: for how long the VMM stands still, and how long the write
 * takes until the guest has taken the payload; of a small VM and a large one, in turns. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench.h"
#include "util/cleanup.h"
#include "vm/vm.h"

enum { MIB = 256, QUICK_LARGE_MIB = 512, LARGE_MIB = 8192, QUICK_COUNT = 5, COUNT = 200 };

static const char request[] =
    "{\"payload\":{\"do\":\"hush\"},\"wait_for_ack\":true," VM_PATIENT "}";

/* A fork, and what was measured of it. */
struct live {
    const char *id;
    struct bench_samples frozen, trip;
};

static void make_fork(struct harness *h, const char *id, size_t mib)
{
    bench_publish(h, id, (int)mib);
    harness_put(harness_path(h, "snapshots/%s/forks/new/commit", id), id);
}

/* The "frozen_ms" of the line that tells of it. */
static double frozen_ms(struct harness *h, int events)
{
    char line[4096] = "";
    assert_true(read(events, line, sizeof line - 1) > 0);
    double ms = atof(harness_json(h, line, "frozen_ms"));
    assert_true(ms > 0);
    return ms;
}

static void deliver(struct harness *h, struct live *live, bool counts)
{
    auto_close int events = open(harness_path(h, "events"), O_RDONLY | O_CLOEXEC);
    assert_true(events >= 0);
    double begun_ms = bench_now_ms();
    harness_put(harness_path(h, "instances/%s/mailboxes/bench.v1", live->id), request);
    double ms = bench_now_ms() - begun_ms, frozen = frozen_ms(h, events);
    if (!counts)
        return;
    bench_add(&live->trip, ms);
    bench_add(&live->frozen, frozen);
}

static void report(struct harness *h, const struct live *live, size_t mib)
{
    bench_report(&(struct bench_line){
        .name = harness_format(h, "delivery to a fork of %zu MiB that runs: VMM frozen", mib),
        .unit = "ms",
        .goal = "≤ 0.5 ms",
        .note = harness_format(h, "p99 %.3g ms", bench_percentile(&live->frozen, 99)),
        .ours = &live->frozen});
    bench_report(&(struct bench_line){
        .name = "the same: write, until it was taken",
        .unit = "ms",
        .note = harness_format(h, "p99 %.3g ms", bench_percentile(&live->trip, 99)),
        .ours = &live->trip});
}

void bench_live(void **state)
{
    static struct live small = {.id = "small"}, large = {.id = "large"};
    struct harness *h = *state;
    const size_t mib = bench_pick(QUICK_LARGE_MIB, LARGE_MIB);
    harness_mount(h, NULL);
    make_fork(h, "small", MIB);
    make_fork(h, "large", mib);
    for (size_t i = 0; i <= bench_pick(QUICK_COUNT, COUNT); i++) {
        deliver(h, i % 2 ? &small : &large, i > 0);
        deliver(h, i % 2 ? &large : &small, i > 0);
    }
    report(h, &small, MIB);
    report(h, &large, mib);
    bench_report(
        &(struct bench_line){.name = harness_format(h, "the same, VMM frozen: %zu MiB", mib),
                             .unit = "ms",
                             .against = harness_format(h, "%d MiB", MIB),
                             .ours = &large.frozen,
                             .other = &small.frozen});
}
