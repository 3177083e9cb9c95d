/* SPDX-License-Identifier: MIT */
/*
 * Forks of real guests on QEMU, of several sizes, against bare_qemu, which does the same without
 * hypefs; and what a fork takes of the memory, against one that has the image to itself.
 */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/bench.h"
#include "bench/bare.h"
#include "util/cleanup.h"
#include "vm/vm.h"

enum { QUICK_SIZES = 2, QUICK_COPIES = 2, COPIES = 15, BLOCK = 512 };
enum { DIRECTORY = 4096 }; /* that is counted in both */

static const char box[] = "bench.v1";
static const char request[] =
    "{\"payload\":{\"hello\":\"bench\"},\"wait_for_ack\":true," VM_PATIENT "}";
static const char *const until_resumed[] = {"validate", "locate", "load", "patch", "resume"};

/* Guests of one size. */
struct size {
    int mib;
    const char *id;
    struct bare bare;
    struct bench_samples resumed, acked, locate, outside, disk, bare_resumed, bare_acked;
};

void bench_publish(struct harness *h, const char *id, int mib)
{
    vm_use_memory(mib);
    vm_boot(h, "microvm", harness_format(h, "hypefs.mailboxes=%s", box));
    harness_put(harness_path(h, "instances/template/state"), "standby");
    harness_put(harness_path(h, "instances/template/snapshot"), id);
    assert_int_equal(rmdir(harness_path(h, "instances/template")), 0);
}

static void commit(struct harness *h, const char *snapshot, const char *id)
{
    int code = harness_write(harness_path(h, "snapshots/%s/forks/new/commit", snapshot), id);
    if (code != 0)
        fail_msg("commit of %s: %s", id,
                 harness_get(h, harness_path(h, "snapshots/%s/forks/new/error", snapshot)));
}

static void stage(struct harness *h, const char *snapshot)
{
    harness_put(harness_path(h, "snapshots/%s/forks/new/mailboxes/%s", snapshot, box), request);
}

static void drop(struct harness *h, const char *id)
{
    harness_put(harness_path(h, "instances/%s/state", id), "stopped");
    assert_int_equal(rmdir(harness_path(h, "instances/%s", id)), 0);
}

/* Of the directory and of files that no other one shares. */
static double disk_bytes(const char *directory)
{
    struct stat st;
    double bytes = 0;
    auto_closedir DIR *entries = opendir(directory);
    assert_non_null(entries);
    for (struct dirent *entry; (entry = readdir(entries));)
        if (strcmp(entry->d_name, "..") != 0 &&
            fstatat(dirfd(entries), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            (S_ISDIR(st.st_mode) || st.st_nlink == 1))
            bytes += (double)st.st_blocks * BLOCK;
    return bytes;
}

static double milliseconds(struct harness *h, const char *result, const char *member)
{
    return atof(harness_json(h, result, harness_format(h, "timings_ms.%s", member)));
}

static void sample_fork(struct harness *h, struct size *size, bool counts)
{
    stage(h, size->id);
    double begun = bench_now_ms();
    commit(h, size->id, "f");
    double took = bench_now_ms() - begun, resumed = 0;
    const char *result = harness_get(h, harness_path(h, "instances/f/fork/result"));
    assert_string_equal(harness_json(h, result, "status"), "committed");
    assert_string_equal(harness_json(h, result, "mailboxes.0.acked"), "true");
    for (size_t i = 0; i < array_length(until_resumed); i++)
        resumed += milliseconds(h, result, until_resumed[i]);
    if (counts) {
        bench_add(&size->resumed, resumed);
        bench_add(&size->acked, took);
        bench_add(&size->locate, milliseconds(h, result, "locate"));
        bench_add(&size->outside, took - milliseconds(h, result, "total"));
        bench_add(&size->disk, (disk_bytes(harness_store_path(h, "instances/f")) +
                                disk_bytes(harness_store_path(h, "instances/f/run")) - DIRECTORY) /
                                   1024);
    }
    drop(h, "f");
}

static void sample_bare(struct size *size, bool counts)
{
    struct bare_fork fork = bare_start(&size->bare);
    bare_end(&fork);
    if (counts) {
        bench_add(&size->bare_resumed, fork.resumed_ms);
        bench_add(&size->bare_acked, fork.acked_ms);
    }
}

/* The arguments are those of a fork. */
static void prepare_bare(struct harness *h, struct size *size)
{
    stage(h, size->id);
    commit(h, size->id, "f");
    bare_copy(h, vm_pid(h, "f"), size->id, box, &size->bare);
    drop(h, "f");
}

static void report_size(struct harness *h, const struct size *size, const struct size *least)
{
    const char *goal = "≤ 1.05";
    bench_report(&(struct bench_line){
        .name = harness_format(h, "fork of %d MiB: commit to resumed", size->mib),
        .unit = "ms",
        .against = "bare QEMU",
        .goal = goal,
        .ours = &size->resumed,
        .other = &size->bare_resumed});
    bench_report(&(struct bench_line){
        .name = harness_format(h, "fork of %d MiB: commit to ack and back", size->mib),
        .unit = "ms",
        .against = "bare QEMU, to the datagram",
        .goal = goal,
        .ours = &size->acked,
        .other = &size->bare_acked});
    if (size != least)
        bench_report(&(struct bench_line){
            .name = harness_format(h, "the same, to resumed: %d MiB", size->mib),
            .unit = "ms",
            .against = harness_format(h, "%d MiB", least->mib),
            .goal = "≤ 1.1",
            .ours = &size->resumed,
            .other = &least->resumed});
    bench_report(&(struct bench_line){
        .name = harness_format(h, "fork of %d MiB: locate, list kept", size->mib),
        .unit = "ms",
        .goal = "≤ 1 ms",
        .ours = &size->locate});
    bench_report(&(struct bench_line){
        .name = harness_format(h, "fork of %d MiB: FUSE and records", size->mib),
        .unit = "ms",
        .note = "the part of the commit's time that is not in `timings_ms`",
        .ours = &size->outside});
    bench_report(&(struct bench_line){.name = harness_format(h, "fork of %d MiB: disk", size->mib),
                                      .unit = "KiB",
                                      .goal = "≤ 64 KiB",
                                      .ours = &size->disk});
}

void bench_forks(void **state)
{
    static struct size sizes[] = {{.mib = 256}, {.mib = 2048}, {.mib = 8192}};
    struct harness *h = *state;
    size_t count = 0;
    harness_mount(h, NULL);
    for (; count < bench_pick(QUICK_SIZES, array_length(sizes)); count++) {
        sizes[count].id = harness_format(h, "of-%d", sizes[count].mib);
        bench_publish(h, sizes[count].id, sizes[count].mib);
        prepare_bare(h, &sizes[count]);
    }
    for (size_t i = 0; i <= bench_times(); i++)
        for (size_t k = 0; k < count; k++) {
            if (i % 2)
                sample_bare(&sizes[k], i > 0);
            sample_fork(h, &sizes[k], i > 0);
            if (i % 2 == 0)
                sample_bare(&sizes[k], i > 0);
        }
    for (size_t k = 0; k < count; k++)
        report_size(h, &sizes[k], &sizes[0]);
}

/* ---- VMs that are loaded ahead ---- */

static bool is_ready(void *argument)
{
    struct harness *h = argument;
    const char *info = harness_get(h, harness_path(h, "snapshots/base/info"));
    return strcmp(harness_json(h, info, "warm.ready"), "1") == 0;
}

void bench_await_warm(struct harness *h)
{
    harness_await_that(is_ready, h, "a VM is loaded ahead");
}

static void set_warm(struct harness *h, const char *wanted)
{
    harness_put(harness_path(h, "snapshots/base/warm"), wanted);
}

static void sample_warm(struct harness *h, struct size *size, bool counts)
{
    set_warm(h, "1");
    bench_await_warm(h);
    sample_fork(h, size, counts);
    set_warm(h, "0");
}

void bench_warm(void **state)
{
    static struct size warm = {.mib = 256, .id = "base"}, cold = {.mib = 256, .id = "base"};
    struct harness *h = *state;
    harness_mount(h, NULL);
    bench_publish(h, "base", warm.mib);
    for (size_t i = 0; i <= bench_times(); i++) {
        if (i % 2)
            sample_fork(h, &cold, i > 0);
        sample_warm(h, &warm, i > 0);
        if (i % 2 == 0)
            sample_fork(h, &cold, i > 0);
    }
    bench_report(&(struct bench_line){.name = "fork with a VM loaded ahead: commit to resumed",
                                      .unit = "ms",
                                      .goal = "≤ 5 ms",
                                      .ours = &warm.resumed});
    bench_report(&(struct bench_line){.name = "the same",
                                      .unit = "ms",
                                      .against = "fork whose VM is loaded then",
                                      .ours = &warm.resumed,
                                      .other = &cold.resumed});
    bench_report(&(struct bench_line){.name = "the same: commit to ack and back",
                                      .unit = "ms",
                                      .against = "fork whose VM is loaded then",
                                      .ours = &warm.acked,
                                      .other = &cold.acked});
}

/* ---- VMMs that are shut in ---- */

void bench_confine(void **state)
{
    static struct size confined = {.mib = 256, .id = "base"}, open = {.mib = 256, .id = "base"};
    struct harness *h = *state, *other;
    void *other_state = NULL;
    assert_int_equal(harness_setup(&other_state), 0);
    other = other_state;
    harness_mount(h, (const char *const[]){"--confine", "strict", NULL});
    harness_mount(other, (const char *const[]){"--confine", "off", NULL});
    bench_publish(h, "base", confined.mib);
    bench_publish(other, "base", open.mib);
    for (size_t i = 0; i <= bench_times(); i++) {
        if (i % 2)
            sample_fork(other, &open, i > 0);
        sample_fork(h, &confined, i > 0);
        if (i % 2 == 0)
            sample_fork(other, &open, i > 0);
    }
    bench_report(&(struct bench_line){.name = "fork whose VMM is shut in: commit to resumed",
                                      .unit = "ms",
                                      .against = "fork whose VMM is not",
                                      .goal = "2 ms more",
                                      .ours = &confined.resumed,
                                      .other = &open.resumed});
    bench_report(&(struct bench_line){.name = "the same: commit to ack and back",
                                      .unit = "ms",
                                      .against = "fork whose VMM is not",
                                      .ours = &confined.acked,
                                      .other = &open.acked});
    harness_teardown(&other_state);
}

/* ---- memory ---- */

static char *copy_image(struct harness *h, const char *snapshot, size_t i)
{
    char *to = harness_format(h, "%s/copy-%zu", h->directory, i);
    const char *from = harness_store_path(h, "snapshots/%s/memory", snapshot);
    struct harness_result result =
        harness_run(h, (const char *const[]){"cp", "--sparse=always", from, to, NULL});
    assert_int_equal(result.status, 0);
    return to;
}

void bench_copies(void **state)
{
    static struct bench_samples shared, copied;
    struct harness *h = *state;
    struct size size = {.mib = 256, .id = "base"};
    struct bare_fork forks[COPIES];
    size_t count = bench_pick(QUICK_COPIES, COPIES);
    harness_mount(h, NULL);
    bench_publish(h, size.id, size.mib);
    prepare_bare(h, &size);
    for (size_t i = 0; i < count; i++) {
        stage(h, size.id);
        commit(h, size.id, harness_format(h, "f%zu", i));
        struct bare own = size.bare;
        bare_use_image(h, &own, copy_image(h, size.id, i));
        forks[i] = bare_start(&own);
    }
    for (size_t i = 0; i < count; i++) {
        bench_add(&shared, bench_pss_kib(vm_pid(h, harness_format(h, "f%zu", i))) / 1024);
        bench_add(&copied, bench_pss_kib(forks[i].pid) / 1024);
    }
    for (size_t i = 0; i < count; i++)
        bare_end(&forks[i]);
    bench_report(&(struct bench_line){.name = "idle fork of 256 MiB: Pss of its QEMU",
                                      .unit = "MiB",
                                      .against = "fork with a copied image",
                                      .note = harness_format(h, "%zu forks of each", count),
                                      .ours = &shared,
                                      .other = &copied});
}
