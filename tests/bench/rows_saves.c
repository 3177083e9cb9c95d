/* SPDX-License-Identifier: MIT */
/*
 * For how long a real guest on QEMU stands still for a snapshot: of one that was booted, which goes
 * on in another VMM, against one whose memory is copied in the pause; and of a fork, of which only
 * what it has written is copied then.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench.h"
#include "vm/vm.h"

enum { QUICK_MIB = 256, MIB = 2048, QUICK_FILL = 64, FILL = 1100, QUICK_SAVES = 1, SAVES = 9 };

static const char box[] = "bench.v1";
static const char fork_request[] = "{\"payload\":{\"do\":\"fill\",\"text\":\"20\"},"
                                   "\"wait_for_ack\":true," VM_PATIENT "}";

/* Its pause in ms. */
static double save(struct harness *h, const char *id, const char *switched)
{
    harness_put(harness_path(h, "instances/%s/snapshot", id), "s");
    const char *info = harness_get(h, harness_path(h, "snapshots/s/info"));
    assert_string_equal(harness_json(h, info, "switched"), switched);
    double pause_ms = atof(harness_json(h, info, "pause_ms"));
    assert_true(pause_ms > 0);
    return pause_ms;
}

static void remove_snapshot(struct harness *h)
{
    assert_int_equal(rmdir(harness_path(h, "snapshots/s")), 0);
}

static void remove_instance(struct harness *h, const char *id)
{
    harness_put(harness_path(h, "instances/%s/state", id), "stopped");
    assert_int_equal(rmdir(harness_path(h, "instances/%s", id)), 0);
}

/* Without a network, or with one whose connections another VMM would not have. */
static double save_booted(struct harness *h, const char *network, const char *switched)
{
    vm_use_network(network);
    vm_boot(h, "microvm",
            harness_format(h, "hypefs.mailboxes=%s hypefs.fill=%zu", box,
                           bench_pick(QUICK_FILL, FILL)));
    double pause_ms = save(h, "template", switched);
    remove_instance(h, "template");
    return pause_ms;
}

static void save_fork(struct harness *h, struct bench_samples *ret)
{
    harness_put(harness_path(h, "instances/template/snapshot"), "base");
    remove_instance(h, "template");
    harness_put(harness_path(h, "snapshots/base/forks/new/mailboxes/%s", box), fork_request);
    harness_put(harness_path(h, "snapshots/base/forks/new/commit"), "f");
    for (size_t i = 0; i < bench_pick(QUICK_SAVES, SAVES); i++) {
        bench_add(ret, save(h, "f", "false"));
        remove_snapshot(h);
    }
    remove_instance(h, "f");
}

void bench_saves(void **state)
{
    static struct bench_samples booted, copied, forked;
    struct harness *h = *state;
    const size_t mib = bench_pick(QUICK_MIB, MIB), used = bench_pick(QUICK_FILL, FILL);
    harness_mount(h, NULL);
    vm_use_memory((int)mib);
    for (size_t i = 0; i < bench_pick(QUICK_SAVES, SAVES); i++) {
        bench_add(&booted, save_booted(h, "{\"mode\":\"none\"}", "true"));
        remove_snapshot(h);
        bench_add(&copied, save_booted(h, "{\"mode\":\"user\"}", "false"));
        remove_snapshot(h);
    }
    vm_boot(h, "microvm", harness_format(h, "hypefs.mailboxes=%s hypefs.fill=%zu", box, used));
    save_fork(h, &forked);
    vm_use_network(NULL);
    const char *what = harness_format(h, "snapshot of a booted VM that runs, %zu MiB: pause", mib);
    bench_report(&(struct bench_line){.name = what,
                                      .unit = "ms",
                                      .goal = "≤ 150 ms",
                                      .note = harness_format(h, "%zu MiB in use", used),
                                      .ours = &booted});
    bench_report(&(struct bench_line){.name = what,
                                      .unit = "ms",
                                      .against = "copied in the pause",
                                      .ours = &booted,
                                      .other = &copied});
    bench_report(&(struct bench_line){.name = "the same of a fork that has written 20 MiB",
                                      .unit = "ms",
                                      .goal = "≤ 60 ms",
                                      .ours = &forked});
}
