/* SPDX-License-Identifier: MIT */
/*
 * Stores with ten and with ten thousand entries of each kind: what a start, a listing and a fork
 * take, and the daemon's memory. The VMM is tests/fake_firecracker, so what is seen is the daemon.
 *
 * The entries are copies of one snapshot and one instance in standby, made while no daemon runs;
 * they share their images by hard links, so that making them is quick and takes little room.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/bench.h"
#include "mount/fake.h"
#include "mount/fixture.h"
#include "store/store.h"
#include "util/cleanup.h"

enum { QUICK_FEW = 2, FEW = 10, QUICK_MANY = 20, MANY = 10000 };
enum { QUICK_STARTS = 1, STARTS = 5, QUICK_IDLE_MS = 50, IDLE_MS = 2000 };
enum { DESCRIPTORS = 1, SPARE_DESCRIPTORS = 1000, UUID_SIZE = 32 }; /* of one of each kind */

/* A store with so many snapshots and as many instances, and its daemon's times. */
struct scale {
    struct harness *h;
    size_t count;
    struct bench_samples start, list, details, pss, pss_listed, idle_cpu;
    struct bench_samples fork[STORE_KINDS], fork_cpu[STORE_KINDS];
};

/* ---- the store ---- */

static void mount_scale(struct scale *scale)
{
    harness_mount(scale->h,
                  (const char *const[]){"--firecracker", bench_program("FAKE_FIRECRACKER"),
                                        "--confine", "off", NULL});
}

/* instances/base in standby, and snapshots/base of it. */
static void make_first(struct scale *scale)
{
    struct harness *h = scale->h;
    mount_scale(scale);
    fake_make(h, "base", "mailboxes=m", "");
    harness_put(fake_instance(h, "base", "state"), "running");
    harness_await(h, fake_instance(h, "base", "console"), "ready");
    harness_put(fake_instance(h, "base", "state"), "standby");
    harness_put(fake_instance(h, "base", "snapshot"), "base");
    assert_int_equal(harness_unmount(h), 0);
}

/* The first uuid of a record. */
static char *find_uuid(char *record)
{
    static const char name[] = "\"uuid\":";
    char *at = strstr(record, name);
    assert_non_null(at);
    at = strchr(at + strlen(name), '"');
    assert_non_null(at);
    return at + 1;
}

/* The record with that number as its uuid. */
static void write_record(int directory_fd, const char *name, char *record, size_t number)
{
    char uuid[UUID_SIZE + 1];
    size_t size = strlen(record);
    auto_close int fd = openat(directory_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    snprintf(uuid, sizeof uuid, "%032zx", number);
    memcpy(find_uuid(record), uuid, UUID_SIZE);
    assert_works(fd);
    assert_int_equal(write(fd, record, size), size);
}

/* All files but the record, which is in none of the directories below. */
static void link_files(int from_fd, int to_fd, const char *record)
{
    auto_closedir DIR *files = fdopendir(fcntl(from_fd, F_DUPFD_CLOEXEC, 0));
    assert_non_null(files);
    rewinddir(files);
    for (struct dirent *file; (file = readdir(files));) {
        const char *name = file->d_name;
        if (name[0] == '.' || strcmp(name, record) == 0)
            continue;
        if (linkat(from_fd, name, to_fd, name, 0) == 0)
            continue;
        assert_works(mkdirat(to_fd, name, 0700));
        auto_close int from = openat(from_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        auto_close int to = openat(to_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_works(from);
        assert_works(to);
        link_files(from, to, record);
    }
}

/* Of the entry `base` of that kind: e0, e1, … */
static void copy_entries(struct scale *scale, const char *kind, const char *record)
{
    struct harness *h = scale->h;
    char name[32];
    char *text = harness_get(h, harness_store_path(h, "%s/base/%s", kind, record));
    auto_close int kind_fd = open(harness_store_path(h, "%s", kind), O_DIRECTORY | O_CLOEXEC);
    auto_close int base = openat(kind_fd, "base", O_DIRECTORY | O_CLOEXEC);
    assert_works(base);
    for (size_t i = 1; i < scale->count; i++) {
        snprintf(name, sizeof name, "entry-%05zu", i);
        assert_works(mkdirat(kind_fd, name, 0700));
        auto_close int entry = openat(kind_fd, name, O_DIRECTORY | O_CLOEXEC);
        assert_works(entry);
        write_record(entry, record, text, i);
        link_files(base, entry, record);
    }
}

static void make_store(struct scale *scale)
{
    make_first(scale);
    copy_entries(scale, "snapshots", "snapshot.json");
    copy_entries(scale, "instances", "instance.json");
}

/* ---- what is measured ---- */

/* Of both kinds, one after the other. */
static double list(struct scale *scale, const char *option)
{
    double begun = bench_now_ms();
    for (enum store_kind kind = 0; kind < STORE_KINDS; kind++) {
        struct harness_result result = harness_run(
            scale->h, (const char *const[]){"ls", option, store_kind_names[kind], NULL});
        assert_int_equal(result.status, 0);
        assert_non_null(strstr(result.out, "base"));
    }
    return (bench_now_ms() - begun) / STORE_KINDS;
}

static double idle_cpu(struct scale *scale)
{
    double cpu = bench_cpu_ms(scale->h->daemon), begun = bench_now_ms();
    poll(NULL, 0, (int)bench_pick(QUICK_IDLE_MS, IDLE_MS));
    return (bench_cpu_ms(scale->h->daemon) - cpu) * 1000 / (bench_now_ms() - begun);
}

/* The daemon runs afterwards. */
static void sample_start(struct scale *scale)
{
    pid_t *daemon = &scale->h->daemon;
    if (*daemon)
        assert_int_equal(harness_unmount(scale->h), 0);
    double begun = bench_now_ms();
    mount_scale(scale);
    bench_add(&scale->start, bench_now_ms() - begun);
    bench_add(&scale->pss, bench_pss_kib(*daemon));
    bench_add(&scale->list, list(scale, "-U"));
    bench_add(&scale->details, list(scale, "-l"));
    bench_add(&scale->pss_listed, bench_pss_kib(*daemon));
    bench_add(&scale->idle_cpu, idle_cpu(scale));
}

static void sample_fork(struct scale *scale, enum store_kind kind, bool counts)
{
    struct harness *h = scale->h;
    const char *draft = harness_path(h, "%s/base/forks/new", store_kind_names[kind]);
    harness_put(harness_format(h, "%s/mailboxes/m", draft), "{\"hello\":\"bench\"}");
    double cpu = bench_cpu_ms(h->daemon), begun = bench_now_ms();
    harness_put(harness_format(h, "%s/commit", draft), "one-more");
    double took = bench_now_ms() - begun;
    if (counts) {
        bench_add(&scale->fork[kind], took);
        bench_add(&scale->fork_cpu[kind], bench_cpu_ms(h->daemon) - cpu);
    }
    fake_drop(h, "one-more");
}

/* ---- the report ---- */

static void report(const struct scale *scales, const char *name, const char *unit, const char *goal,
                   const struct bench_samples *few, const struct bench_samples *many)
{
    struct harness *h = scales[0].h;
    bench_report(
        &(struct bench_line){.name = harness_format(h, "%s, %zu of each", name, scales[1].count),
                             .unit = unit,
                             .against = harness_format(h, "%zu of each", scales[0].count),
                             .goal = goal,
                             .note = "fake VMM",
                             .ours = many,
                             .other = few});
}

static void report_memory(const struct scale *scales, const char *name,
                          const struct bench_samples *few, const struct bench_samples *many)
{
    struct bench_samples each = {0};
    for (size_t i = 0; i < many->count; i++)
        bench_add(&each, (many->values[i] - few->values[i]) / STORE_KINDS /
                             (double)(scales[1].count - scales[0].count));
    bench_report(&(struct bench_line){
        .name = name, .unit = "KiB", .goal = "≤ 3 KiB", .note = "fake VMM", .ours = &each});
}

static void report_all(const struct scale *few, const struct scale *many)
{
    report(few, "start with snapshots and instances in standby", "ms", "≤ 3000 ms", &few->start,
           &many->start);
    report(few, "ls of either", "ms", "≤ 300 ms", &few->list, &many->list);
    report(few, "the first ls -l of either", "ms", NULL, &few->details, &many->details);
    report_memory(few, "daemon's memory for each", &few->pss, &many->pss);
    report_memory(few, "the same after ls -l", &few->pss_listed, &many->pss_listed);
    bench_report(&(struct bench_line){.name = "daemon's CPU time in an idle second",
                                      .unit = "ms",
                                      .note = "fake VMM",
                                      .ours = &many->idle_cpu});
    report(few, "fork of a snapshot", "ms", "≤ 1.1", &few->fork[STORE_SNAPSHOTS],
           &many->fork[STORE_SNAPSHOTS]);
    report(few, "daemon's CPU time for it", "ms", "≤ 1.1", &few->fork_cpu[STORE_SNAPSHOTS],
           &many->fork_cpu[STORE_SNAPSHOTS]);
    report(few, "fork of an instance in standby", "ms", "≤ 1.1", &few->fork[STORE_INSTANCES],
           &many->fork[STORE_INSTANCES]);
    report(few, "daemon's CPU time for it", "ms", "≤ 1.1", &few->fork_cpu[STORE_INSTANCES],
           &many->fork_cpu[STORE_INSTANCES]);
}

/* As many as a daemon may have descriptors for. */
static size_t count_many(void)
{
    size_t wanted = bench_pick(QUICK_MANY, MANY);
    struct rlimit limit = {0}, more;
    getrlimit(RLIMIT_NOFILE, &limit);
    more = limit;
    more.rlim_max = wanted * DESCRIPTORS + SPARE_DESCRIPTORS;
    if (limit.rlim_max >= more.rlim_max || setrlimit(RLIMIT_NOFILE, &more) == 0)
        return wanted;
    return (limit.rlim_max - SPARE_DESCRIPTORS) / DESCRIPTORS;
}

void bench_scale(void **state)
{
    static struct scale scales[2];
    void *more = NULL;
    assert_int_equal(harness_setup(&more), 0);
    scales[0] = (struct scale){.h = *state, .count = bench_pick(QUICK_FEW, FEW)};
    scales[1] = (struct scale){.h = more, .count = count_many()};
    for (size_t k = 0; k < array_length(scales); k++)
        make_store(&scales[k]);
    for (size_t i = 0; i < bench_pick(QUICK_STARTS, STARTS); i++)
        for (size_t k = 0; k < array_length(scales); k++)
            sample_start(&scales[(i + k) % array_length(scales)]);
    for (enum store_kind kind = 0; kind < STORE_KINDS; kind++)
        for (size_t i = 0; i <= bench_times(); i++)
            for (size_t k = 0; k < array_length(scales); k++)
                sample_fork(&scales[(i + k) % array_length(scales)], kind, i > 0);
    report_all(&scales[0], &scales[1]);
    assert_int_equal(harness_teardown(&more), 0);
}
