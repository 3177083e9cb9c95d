/* SPDX-License-Identifier: MIT */
/*
 * What delays a stat: one of an instance, while something large or something that does not answer
 * is under way beside it, and the same in an idle mount, by turns. The VMM is
 * tests/fake_firecracker.
 *
 * A sample is a stat of a file of the instance, which asks the daemon, and one of a name that is
 * not there, for which the kernel locks the directory, too: it waits for whoever removes or makes
 * something there.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/bench.h"
#include "mount/fake.h"
#include "mount/fixture.h"
#include "util/cleanup.h"
#include "util/process.h"

enum { QUICK_SAMPLES = 60, SAMPLES = 1000, P99 = 99 };
enum { QUICK_BIG_MIB = 64, BIG_MIB = 8192, QUICK_BIGS = 1, BIGS = 4 };
enum { QUICK_IMAGE_MIB = 64, IMAGE_MIB = 2048, DISK_MIB = 64, CHUNK = 1 << 20 };

/* A mount in which something is done, and one in which nothing is. */
struct pair {
    struct harness *busy, *idle;
    struct bench_samples us[2];
    size_t names; /* that were asked for so far */
};

static size_t wanted(void)
{
    return bench_pick(QUICK_SAMPLES, SAMPLES);
}

static void mount_with_one(struct harness *h)
{
    harness_mount(h, (const char *const[]){"--firecracker", bench_program("FAKE_FIRECRACKER"),
                                           "--confine", "off", NULL});
    fake_make(h, "steady", "mailboxes=m", "");
}

static double look(const struct harness *h, size_t name)
{
    char known[4096], unknown[4096];
    struct stat st;
    snprintf(known, sizeof known, "%.3000s/instances/steady/state", h->mount);
    snprintf(unknown, sizeof unknown, "%.3000s/instances/absent-%zu", h->mount, name);
    double begun = bench_now_ms();
    assert_works(stat(known, &st));
    assert_fails(stat(unknown, &st), ENOENT);
    return (bench_now_ms() - begun) * 1000;
}

static void sample(struct pair *pair)
{
    const struct harness *mounts[] = {pair->busy, pair->idle};
    const size_t name = ++pair->names;
    for (size_t i = 0; i < array_length(mounts); i++) {
        size_t k = (i + name) % array_length(mounts);
        bench_add(&pair->us[k], look(mounts[k], name));
    }
}

static bool has_ended(const struct harness_child *child)
{
    return process_poll(&child->pidfd, 1, 0) > 0;
}

static double longest(const struct bench_samples *samples)
{
    double longest = 0;
    for (size_t i = 0; i < samples->count; i++)
        longest = samples->values[i] > longest ? samples->values[i] : longest;
    return longest;
}

static void report(struct pair *pair, const char *what)
{
    static const char *const names[] = {"stat while %s: p99", "the same: the longest"};
    struct harness *h = pair->busy;
    for (size_t i = 0; i < array_length(names); i++) {
        struct bench_samples values[2] = {0};
        for (size_t k = 0; k < array_length(values); k++)
            bench_add(&values[k],
                      i == 0 ? bench_percentile(&pair->us[k], P99) : longest(&pair->us[k]));
        bench_report(&(struct bench_line){
            .name = i == 0 ? harness_format(h, "stat while %s: p99", what) : names[i],
            .unit = "µs",
            .against = "an idle mount",
            .note = harness_format(h, "fake VMM; of %zu", pair->us[0].count),
            .ours = &values[0],
            .other = &values[1]});
    }
    memset(pair->us, 0, sizeof pair->us);
}

/* ---- what is under way ---- */

static void allocate(const char *path, size_t mib)
{
    auto_close int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_works(fd);
    assert_int_equal(posix_fallocate(fd, 0, (off_t)mib << 20), 0);
}

/* Of instances, one after the other, each with a large file. */
static void removals(struct pair *pair)
{
    struct harness *h = pair->busy;
    const size_t mib = bench_pick(QUICK_BIG_MIB, BIG_MIB), bigs = bench_pick(QUICK_BIGS, BIGS);
    struct bench_samples took = {0}, erased = {0};
    for (size_t i = 0; i < bigs; i++) {
        fake_make(h, "big", "mailboxes=m", "");
        allocate(harness_store_path(h, "instances/big/run/ballast"), mib);
        sync();
        double begun = bench_now_ms();
        struct harness_child child =
            harness_start(h, (const char *const[]){"rmdir", "instances/big", NULL});
        for (size_t k = 0; k < wanted() / bigs; k++) {
            sample(pair);
            if (took.count == i && has_ended(&child))
                bench_add(&took, bench_now_ms() - begun);
        }
        assert_int_equal(harness_finish(h, &child).status, 0);
        if (took.count == i)
            bench_add(&took, bench_now_ms() - begun);
        harness_await_erased(h);
        bench_add(&erased, bench_now_ms() - begun);
    }
    report(pair, harness_format(h, "%zu MiB are removed", mib));
    bench_report(&(struct bench_line){.name = harness_format(h, "rmdir of %zu MiB", mib),
                                      .unit = "ms",
                                      .note = "fake VMM",
                                      .ours = &took});
    bench_report(&(struct bench_line){.name = "the same, until all is erased",
                                      .unit = "ms",
                                      .note = "seen every 20 ms",
                                      .ours = &erased});
}

static void sample_all(struct pair *pair)
{
    for (size_t i = 0; i < wanted(); i++)
        sample(pair);
}

/* It does not answer a pause. */
static void hanging_vmm(struct pair *pair)
{
    struct harness *h = pair->busy;
    fake_make(h, "hung", "mailboxes=m", "");
    harness_put(fake_instance(h, "hung", "state"), "running");
    pid_t pid = atoi(harness_json(h, harness_get(h, fake_instance(h, "hung", "info")), "pid"));
    harness_stop_process(pid);
    struct harness_child child =
        harness_start_shell(h, "bash", "echo paused >instances/hung/state");
    harness_await_blocked(h, child.pid);
    sample_all(pair);
    assert_false(has_ended(&child));
    assert_works(kill(pid, SIGCONT));
    assert_int_equal(harness_finish(h, &child).status, 0);
    report(pair, "a VMM hangs");
    fake_drop(h, "hung");
}

/* Nothing of it is a hole. */
static void fill_image(const char *path, size_t mib)
{
    static char bytes[CHUNK];
    memset(bytes, 'A', sizeof bytes);
    auto_close int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_works(fd);
    for (size_t i = 0; i < mib; i++)
        assert_int_equal(write(fd, bytes, sizeof bytes), sizeof bytes);
}

/* Of snapshots/image again and again: it is accepted. */
static void scan(struct pair *pair)
{
    struct harness *h = pair->busy;
    struct harness_child child = harness_start_shell(
        h, "bash",
        "while [ ! -e $T/enough ]; do echo 1 >snapshots/image/accept || exit; done; rm $T/enough");
    sample_all(pair);
    harness_put(harness_format(h, "%s/enough", h->directory), "");
    assert_int_equal(harness_finish(h, &child).status, 0);
    report(pair, harness_format(h, "an image of %zu MiB is scanned",
                                bench_pick(QUICK_IMAGE_MIB, IMAGE_MIB)));
}

/* ---- a disk that is full ---- */

/* Commits and a mkdir fail there, one after the other. */
static void full_disk(struct pair *pair)
{
    struct harness *h = pair->busy;
    fake_publish(h, "mailboxes=m", "");
    harness_await_erased(h);
    fixture_fill_file(harness_format(h, "%s/../fill", h->store));
    struct harness_child child = harness_start_shell(
        h, "bash",
        "while [ ! -e $T/enough ]; do echo f >snapshots/base/forks/new/commit && exit 1; "
        "mkdir instances/more && exit 1; done 2>/dev/null; true");
    sample_all(pair);
    harness_put(harness_format(h, "%s/enough", h->directory), "");
    assert_int_equal(harness_finish(h, &child).status, 0);
    report(pair, "the disk is full");
}

static void with_full_disk(struct harness *idle)
{
    void *state = NULL;
    assert_int_equal(harness_setup(&state), 0);
    struct pair pair = {.busy = state, .idle = idle};
    struct harness *h = state;
    char *disk = harness_format(h, "%s/disk", h->directory);
    h->store = harness_format(h, "%s/store", disk);
    assert_works(mkdir(disk, 0700));
    if (mount("none", disk, "tmpfs", 0, harness_format(h, "size=%dm,mode=0700", DISK_MIB)) < 0) {
        print_message("bench: only root can mount a small disk: it was left out\n");
    } else {
        mount_with_one(h);
        full_disk(&pair);
        assert_int_equal(harness_unmount(h), 0);
        assert_works(umount(disk));
    }
    assert_int_equal(harness_teardown(&state), 0);
}

void bench_delays(void **state)
{
    void *more = NULL;
    assert_int_equal(harness_setup(&more), 0);
    struct pair pair = {.busy = *state, .idle = more};
    const size_t mib = bench_pick(QUICK_IMAGE_MIB, IMAGE_MIB);
    harness_craft(pair.busy,
                  &(struct harness_snapshot){.id = "image", .memory_bytes = (uint64_t)mib << 20});
    fill_image(harness_store_path(pair.busy, "snapshots/image/memory"), mib);
    mount_with_one(pair.busy);
    mount_with_one(pair.idle);
    removals(&pair);
    hanging_vmm(&pair);
    scan(&pair);
    with_full_disk(pair.idle);
    assert_int_equal(harness_teardown(&more), 0);
}
