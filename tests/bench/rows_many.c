/* SPDX-License-Identifier: MIT */
/*
 * Many forks of one snapshot, with tests/fake_firecracker as the VMM: it takes next to nothing, so
 * what is seen is the daemon. Its times say nothing of the real Firecracker's.
 */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/bench.h"
#include "mount/fake.h"
#include "mount/fixture.h"
#include "util/cleanup.h"

enum {
    DAEMONS = 3,
    QUICK_WAITING = 5,
    WAITING = 300,
    QUICK_GROUP = 5,
    GROUP = 100,
    GROUP_TIMES = 7
};
/* All that wait must do so for the looks, or what is measured is too little. */
enum { LOOKS = 3, QUICK_LOOK_MS = 50, LOOK_MS = 1000, QUICK_TIMEOUT_MS = 1000, TIMEOUT_MS = 30000 };

/* A daemon with so many live forks. */
struct crowd {
    struct harness *h;
    size_t live;
    struct bench_samples ms, cpu_ms;
};

static size_t count_descriptors(pid_t pid)
{
    char path[64];
    size_t count = 0;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    auto_closedir DIR *directory = opendir(path);
    assert_non_null(directory);
    while (readdir(directory))
        count++;
    return count;
}

static void start_daemon(struct harness *h, const char *guest)
{
    const char *script =
        fixture_script(h, "firecracker",
                       harness_format(h, "#!/bin/sh\nexport FAKE_VMM_GUEST=%s\nexec '%s' \"$@\"\n",
                                      guest, bench_program("FAKE_FIRECRACKER")));
    /* A fork without an ack has its turn for 2 s: all are to wait for theirs at the same time. */
    harness_mount(h, (const char *const[]){"--firecracker", script, "--max-loads", "1000", NULL});
}

static void begin(struct crowd *crowd)
{
    start_daemon(crowd->h, "ack");
    fake_publish(crowd->h, "mailboxes=m", "");
}

/* With a payload; the commit returns when the VM runs. */
static double make_fork(struct crowd *crowd, const char *id)
{
    struct harness *h = crowd->h;
    harness_put(harness_path(h, "snapshots/base/forks/new/mailboxes/m"), "{\"hello\":\"bench\"}");
    const char *commit = harness_path(h, "snapshots/base/forks/new/commit");
    double begun = bench_now_ms();
    harness_put(commit, id);
    return bench_now_ms() - begun;
}

static void fill(struct crowd *crowd, struct bench_samples *ms)
{
    char id[32];
    for (size_t i = 0; i < crowd->live; i++) {
        snprintf(id, sizeof id, "f%zu", i);
        double took = make_fork(crowd, id);
        if (ms)
            bench_add(ms, took);
    }
}

static void sample(struct crowd *crowd, bool counts)
{
    pid_t daemon = crowd->h->daemon;
    double cpu = bench_cpu_ms(daemon);
    double took = make_fork(crowd, "one-more");
    if (counts) {
        bench_add(&crowd->ms, took);
        bench_add(&crowd->cpu_ms, bench_cpu_ms(daemon) - cpu);
    }
    fake_drop(crowd->h, "one-more");
}

static void report_value(const char *name, const char *unit, double value)
{
    struct bench_samples samples = {0};
    bench_add(&samples, value);
    bench_report(
        &(struct bench_line){.name = name, .unit = unit, .note = "fake VMM", .ours = &samples});
}

/* From none to all, one after the other. */
static void fill_and_report(struct crowd *crowd)
{
    static struct bench_samples ms;
    struct harness *h = crowd->h;
    double count = (double)crowd->live, begun = bench_now_ms();
    double cpu = bench_cpu_ms(h->daemon), pss = bench_pss_kib(h->daemon);
    size_t descriptors = count_descriptors(h->daemon);
    fill(crowd, &ms);
    double took = bench_now_ms() - begun;
    report_value(harness_format(h, "%zu forks, one after the other", crowd->live), "forks/s",
                 count * 1000 / took);
    report_value("of these commits: p50", "ms", bench_percentile(&ms, 50));
    report_value("p99", "ms", bench_percentile(&ms, 99));
    report_value("daemon's CPU time for a fork", "ms", (bench_cpu_ms(h->daemon) - cpu) / count);
    report_value("daemon's memory for a fork that lives", "KiB",
                 (bench_pss_kib(h->daemon) - pss) / count);
    report_value("daemon's descriptors for it", "",
                 (double)(count_descriptors(h->daemon) - descriptors) / count);
}

static void report_crowd(const struct crowd *crowd, const struct crowd *least)
{
    struct harness *h = crowd->h;
    const char *against = harness_format(h, "%zu live", least->live);
    bench_report(
        &(struct bench_line){.name = harness_format(h, "commit with %zu live", crowd->live),
                             .unit = "ms",
                             .against = against,
                             .goal = "≤ 1.2",
                             .note = "fake VMM",
                             .ours = &crowd->ms,
                             .other = &least->ms});
    bench_report(&(struct bench_line){.name = "daemon's CPU time for it",
                                      .unit = "ms",
                                      .against = against,
                                      .goal = "≤ 1.2",
                                      .note = "fake VMM",
                                      .ours = &crowd->cpu_ms,
                                      .other = &least->cpu_ms});
}

/* A daemon for each number, so that a commit in one can follow a commit in another. */
void bench_many(void **state)
{
    static struct crowd crowds[DAEMONS];
    void *more[DAEMONS] = {*state};
    const size_t live[DAEMONS] = {bench_pick(2, 10), bench_pick(3, 100), bench_pick(5, 1000)};
    for (size_t i = 0; i < DAEMONS; i++) {
        if (i > 0)
            assert_int_equal(harness_setup(&more[i]), 0);
        crowds[i] = (struct crowd){.h = more[i], .live = live[i]};
        begin(&crowds[i]);
    }
    fill_and_report(&crowds[DAEMONS - 1]);
    for (size_t i = 0; i + 1 < DAEMONS; i++)
        fill(&crowds[i], NULL);
    for (size_t i = 0; i <= bench_times(); i++)
        for (size_t k = 0; k < DAEMONS; k++)
            sample(&crowds[(i + k) % DAEMONS], i > 0);
    for (size_t i = 1; i < DAEMONS; i++)
        report_crowd(&crowds[i], &crowds[0]);
    for (size_t i = 1; i < DAEMONS; i++)
        assert_int_equal(harness_teardown(&more[i]), 0);
}

/* ---- commits that wait for an ack by memory ---- */

/* A process that commits the draft, which nobody will ack. */
static struct harness_child start_waiting(struct harness *h, size_t i)
{
    assert_int_equal(mkdir(harness_path(h, "snapshots/base/forks/w%zu", i), 0755), 0);
    harness_put(harness_path(h, "snapshots/base/forks/w%zu/mailboxes/m", i),
                harness_format(h,
                               "{\"payload\":{},\"wait_for_ack\":true,\"ack\":\"memory\","
                               "\"ack_timeout_ms\":%zu}",
                               bench_pick(QUICK_TIMEOUT_MS, TIMEOUT_MS)));
    return harness_start_shell(h, "bash",
                               harness_format(h, "echo 1 > snapshots/base/forks/w%zu/commit", i));
}

/* So many steps "ack" have begun, as far as the events that are there tell. */
static void await_waiting(int events, size_t count)
{
    static char text[1 << 16];
    double deadline = bench_now_ms() + HARNESS_DEADLINE_MS;
    while (count > 0) {
        struct pollfd ready = {.fd = events, .events = POLLIN};
        assert_true(bench_now_ms() < deadline);
        assert_true(poll(&ready, 1, HARNESS_DEADLINE_MS) > 0);
        ssize_t size = read(events, text, sizeof text - 1);
        assert_true(size > 0);
        text[size] = '\0';
        for (char *at = text; (at = strstr(at, "\"phase\":\"ack\"")) && count > 0; at++)
            count--;
    }
}

/* CPU time of the daemon for a while, for each that waits, in % of one processor. */
static double look(struct harness *h, size_t count)
{
    double cpu = bench_cpu_ms(h->daemon), begun = bench_now_ms();
    poll(NULL, 0, (int)bench_pick(QUICK_LOOK_MS, LOOK_MS));
    double took = bench_now_ms() - begun;
    return (bench_cpu_ms(h->daemon) - cpu) * 100 / took / (double)count;
}

static void wait_and_report(struct harness *h, size_t count)
{
    struct bench_samples samples = {0};
    struct harness_child children[WAITING];
    int events = open(harness_path(h, "events"), O_RDONLY | O_CLOEXEC);
    assert_true(events >= 0);
    for (size_t i = 0; i < count; i++)
        children[i] = start_waiting(h, i);
    await_waiting(events, count);
    for (size_t i = 0; i < LOOKS; i++)
        bench_add(&samples, look(h, count));
    close(events);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(harness_finish(h, &children[i]).status, 1);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(rmdir(harness_path(h, "snapshots/base/forks/w%zu", i)), 0);
    bench_report(&(struct bench_line){
        .name = harness_format(h, "%zu forks that wait for an ack by memory: CPU for each", count),
        .unit = "% of a processor",
        .goal = "≤ 1 %",
        .note = "fake VMM",
        .ours = &samples});
}

void bench_waiting(void **state)
{
    struct crowd crowd = {.h = *state};
    begin(&crowd);
    assert_int_equal(harness_unmount(crowd.h), 0);
    start_daemon(crowd.h, "absent");
    wait_and_report(crowd.h, 1);
    wait_and_report(crowd.h, bench_pick(QUICK_WAITING, WAITING));
}

/* ---- many forks at once ---- */

/* Forks g0, g1, … of drafts that are there, each with a payload. */
struct group {
    struct harness *h;
    size_t count;
    char *ids; /* all of them */
};

static void make_drafts(struct group *group)
{
    struct harness *h = group->h;
    for (size_t i = 0; i < group->count; i++) {
        assert_int_equal(mkdir(harness_path(h, "snapshots/base/forks/g%zu", i), 0755), 0);
        harness_put(harness_path(h, "snapshots/base/forks/g%zu/mailboxes/m", i), "{\"n\":1}");
    }
}

static void drop_forks(struct group *group)
{
    for (size_t i = 0; i < group->count; i++)
        fake_drop(group->h, harness_format(group->h, "g%zu", i));
}

static double measure(void *context, void (*commit)(struct group *group))
{
    struct group *group = context;
    make_drafts(group);
    double begun = bench_now_ms();
    commit(group);
    double took = bench_now_ms() - begun;
    drop_forks(group);
    return took;
}

static void commit_by_one_write(struct group *group)
{
    harness_put(harness_path(group->h, "snapshots/base/forks/commit"), group->ids);
}

static double one_write(void *context)
{
    return measure(context, commit_by_one_write);
}

static void commit_by_shells(struct group *group)
{
    struct harness *h = group->h;
    struct harness_child children[GROUP];
    for (size_t i = 0; i < group->count; i++)
        children[i] = harness_start_shell(
            h, "bash", harness_format(h, "echo 1 > snapshots/base/forks/g%zu/commit", i));
    for (size_t i = 0; i < group->count; i++)
        assert_int_equal(harness_finish(h, &children[i]).status, 0);
}

static double shells(void *context)
{
    return measure(context, commit_by_shells);
}

static void *write_commit(void *path)
{
    return (void *)(intptr_t)harness_write(path, "1\n");
}

static void commit_by_threads(struct group *group)
{
    pthread_t threads[GROUP];
    for (size_t i = 0; i < group->count; i++)
        assert_int_equal(
            pthread_create(&threads[i], NULL, write_commit,
                           harness_path(group->h, "snapshots/base/forks/g%zu/commit", i)),
            0);
    for (size_t i = 0; i < group->count; i++) {
        void *code;
        pthread_join(threads[i], &code);
        assert_null(code);
    }
}

static double threads(void *context)
{
    return measure(context, commit_by_threads);
}

static void compare_with(struct group *group, double (*other)(void *context), const char *against,
                         const char *goal)
{
    struct bench_samples ours = {0}, theirs = {0};
    for (size_t i = 0; i < bench_pick(1, GROUP_TIMES); i++) {
        bool first = i % 2 == 0;
        if (first)
            bench_add(&ours, one_write(group));
        bench_add(&theirs, other(group));
        if (!first)
            bench_add(&ours, one_write(group));
    }
    bench_report(&(struct bench_line){
        .name = harness_format(group->h, "%zu forks by one write", group->count),
        .unit = "ms",
        .against = harness_format(group->h, "%zu %s", group->count, against),
        .goal = goal,
        .note = "fake VMM",
        .ours = &ours,
        .other = &theirs});
}

void bench_groups(void **state)
{
    struct group group = {.h = *state, .count = bench_pick(QUICK_GROUP, GROUP)};
    group.ids = harness_alloc(group.h, 8 * group.count);
    for (size_t i = 0, at = 0; i < group.count; i++)
        at += (size_t)sprintf(group.ids + at, "g%zu ", i);
    /* Without a script around it, nor walls: what is seen is the daemon. */
    harness_mount(group.h, (const char *const[]){"--firecracker", bench_program("FAKE_FIRECRACKER"),
                                                 "--confine", "off", NULL});
    fake_publish(group.h, "mailboxes=m", "");
    compare_with(&group, shells, "shells", "≤ 0.33");
    compare_with(&group, threads, "threads that each write once", "≤ 1");
}
