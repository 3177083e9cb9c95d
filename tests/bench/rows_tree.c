/* SPDX-License-Identifier: MIT */
/* What is asked of the tree often, against mini_fs, which does as little as can be for the same. */
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/bench.h"
#include "mount/fixture.h"
#include "util/cleanup.h"

enum {
    QUICK_NAMES = 300,
    NAMES = 10000,
    QUICK_FORKS = 30,
    FORKS = 1500,
    STATS = 1000,
    READS = 500,
    STAGINGS = 300,
    PAYLOAD = 1024,
    NAME_SIZE = 32
};
enum { FUSE_MAGIC = 0x65735546, PATH_SIZE = 4096, IMAGE = 16384 };

/* What is done, and both mounts that it is done in. */
struct deed {
    const char *name, *path;
    size_t count; /* of times for a sample */
    void (*act)(const char *path);
    const char *goal;
    const char *mounts[2];
};

static size_t names(void)
{
    return bench_pick(QUICK_NAMES, NAMES);
}

static void look(const char *path)
{
    struct stat st;
    assert_works(stat(path, &st));
}

static void read_whole(const char *path)
{
    char bytes[64];
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(read(fd, bytes, sizeof bytes), strlen("empty\n"));
}

static void list(const char *path)
{
    size_t count = 0;
    auto_closedir DIR *directory = opendir(path);
    assert_non_null(directory);
    while (readdir(directory))
        count++;
    assert_in_range(count, names(), names() + 3); /* perhaps with base, . and .. */
}

static void stage(const char *path)
{
    static char text[PAYLOAD];
    if (!text[0]) {
        memset(text, 'x', sizeof text);
        memcpy(text, "{\"a\":\"", 6);
        memcpy(text + sizeof text - 2, "\"}", 2);
    }
    auto_close int fd = open(path, O_WRONLY | O_TRUNC | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, text, sizeof text), sizeof text);
    assert_works(close(steal_fd(&fd)));
}

static double sample(const struct deed *deed, const char *mount)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s", mount, deed->path);
    double begun = bench_now_ms();
    for (size_t i = 0; i < deed->count; i++)
        deed->act(path);
    return (bench_now_ms() - begun) * 1000 / (double)deed->count;
}

static double sample_ours(void *context)
{
    const struct deed *deed = context;
    return sample(deed, deed->mounts[0]);
}

static double sample_mini(void *context)
{
    const struct deed *deed = context;
    return sample(deed, deed->mounts[1]);
}

static void craft_many(struct harness *h)
{
    char name[NAME_SIZE];
    for (size_t i = 0; i < names(); i++) {
        snprintf(name, sizeof name, "snapshot-%05zu", i);
        harness_craft(h, &(struct harness_snapshot){.id = name, .memory_bytes = IMAGE});
    }
}

static bool is_mounted(void *path)
{
    struct statfs st;
    return statfs(path, &st) == 0 && st.f_type == FUSE_MAGIC;
}

static pid_t start_mini(struct harness *h, char *mount)
{
    const char *argv[] = {bench_program("MINI_FS"), harness_format(h, "%zu", names()), mount, NULL};
    assert_works(mkdir(mount, 0700));
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execv(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    harness_await_that(is_mounted, mount, "mini_fs mounts");
    return pid;
}

static void measure(struct deed *deed)
{
    struct bench_samples ours = {0}, mini = {0};
    bench_alternate(sample_ours, sample_mini, deed, &ours, &mini);
    bench_report(&(struct bench_line){.name = deed->name,
                                      .unit = "µs",
                                      .against = "the least filesystem on libfuse",
                                      .goal = deed->goal,
                                      .note = "all on one processor",
                                      .ours = &ours,
                                      .other = &mini});
}

/* Of all that there is, when the kernel knows nothing of it yet, and again. */
static void measure_walk(struct harness *h)
{
    static const char *const whens[] = {"for the first time", "again"};
    const size_t count = bench_pick(QUICK_FORKS, FORKS);
    char *ids = harness_format(h, "%s", "");
    for (size_t i = 0; i < count; i++)
        ids = harness_format(h, "%s f%zu", ids, i);
    assert_works(unlink(harness_path(h, "snapshots/base/forks/new/mailboxes/m")));
    harness_put(harness_path(h, "snapshots/base/forks/new/options"),
                "{\"target_state\":\"standby\"}");
    harness_put(harness_path(h, "snapshots/base/forks/new/commit"), ids);
    for (size_t i = 0; i < array_length(whens); i++) {
        struct bench_samples ms = {0};
        const double begun = bench_now_ms();
        assert_int_equal(
            harness_shell(h, "bash", "ls -lR instances snapshots/base >$T/list").status, 0);
        bench_add(&ms, bench_now_ms() - begun);
        bench_report(&(struct bench_line){
            .name = harness_format(h, "ls -lR over %zu forks, %s", count, whens[i]),
            .unit = "ms",
            .goal = "≤ 2 s",
            .ours = &ms});
    }
}

/* With what is started from here on. On more than one processor most of a request's time, some five
 * times the rest, may be that of waking an idle one, and by turns it is or it is not. */
static void share_one_processor(cpu_set_t *ret_before)
{
    cpu_set_t one;
    size_t cpu = 0;
    assert_works(sched_getaffinity(0, sizeof *ret_before, ret_before));
    while (!CPU_ISSET(cpu, ret_before))
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_works(sched_setaffinity(0, sizeof one, &one));
}

void bench_tree(void **state)
{
    struct harness *h = *state;
    char *mini = harness_format(h, "%s/mini", h->directory);
    int status;
    cpu_set_t processors;
    struct deed deeds[] = {
        {"stat of a draft's status", "snapshots/base/forks/new/status", STATS, look, "≤ 0.2", {0}},
        {"open, read, close of it",
         "snapshots/base/forks/new/status",
         READS,
         read_whole,
         "≤ 0.5",
         {0}},
        {"staging 1 KiB", "snapshots/base/forks/new/mailboxes/m", STAGINGS, stage, "≤ 0.7", {0}},
        {harness_format(h, "readdir of %zu snapshots", names()),
         "snapshots",
         1,
         list,
         "≤ 1.05",
         {0}},
    };
    craft_many(h);
    share_one_processor(&processors);
    assert_int_equal(fixture_fill(h), 0);
    pid_t pid = start_mini(h, mini);
    for (size_t i = 0; i < array_length(deeds); i++) {
        deeds[i].mounts[0] = h->mount;
        deeds[i].mounts[1] = mini;
        measure(&deeds[i]);
    }
    assert_works(sched_setaffinity(0, sizeof processors, &processors));
    kill(pid, SIGTERM);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    measure_walk(h);
}
