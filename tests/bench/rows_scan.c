/* SPDX-License-Identifier: MIT */
/* hypefs scan, against programs that read the same bytes, two of them with as many threads. All of
 * it is in the page cache. */
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/bench.h"
#include "mailbox/scan.h"
#include "util/cleanup.h"

enum {
    CHUNK = 1 << 20,
    FRAMES = 4,
    QUICK_MIB = 16,
    QUICK_SPARSE_MIB = 256,
    MIB = 4096,
    SPARSE_ONE_OF = 16
};

struct image {
    struct harness *h;
    const char *path;
    uint64_t data_bytes;
};

struct noise {
    uint64_t state;
};

static uint64_t next(struct noise *noise)
{
    noise->state ^= noise->state << 13;
    noise->state ^= noise->state >> 7;
    return noise->state ^= noise->state << 17;
}

/* A quarter zeros, as memory has them, and the rest noise. */
static void fill(struct noise *noise, uint8_t *bytes)
{
    for (size_t page = 0; page < CHUNK; page += FRAME_SIZE)
        if (page / FRAME_SIZE % 4 == 0)
            memset(bytes + page, 0, FRAME_SIZE);
        else
            for (size_t at = 0; at < FRAME_SIZE; at += sizeof(uint64_t)) {
                uint64_t word = next(noise);
                memcpy(bytes + page + at, &word, sizeof word);
            }
}

/* The frame is that chunk's first page, which is otherwise zeros. */
static void plant(uint8_t *bytes, size_t i)
{
    struct frame_marker marker = {.kind = FRAME_FORK, .token = "token", .token_size = 5};
    snprintf(marker.name, sizeof marker.name, "box-%zu", i);
    assert_int_not_equal(frame_encode_marker(&marker, bytes), 0);
}

/* One chunk of `one_of` has data; of those, FRAMES have a frame. */
static void make_image(struct image *image, size_t mib, size_t one_of)
{
    struct noise noise = {.state = 0x9E3779B97F4A7C15};
    size_t data = mib / one_of, planted = 0;
    auto_free uint8_t *bytes = malloc(CHUNK);
    auto_close int fd = open(image->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_non_null(bytes);
    assert_int_equal(ftruncate(fd, (off_t)mib * CHUNK), 0);
    for (size_t i = 0; i < data; i++) {
        fill(&noise, bytes);
        if (i % (data / FRAMES) == 1)
            plant(bytes, planted++);
        assert_int_equal(pwrite(fd, bytes, CHUNK, (off_t)(i * one_of) * CHUNK), CHUNK);
    }
    assert_int_equal(planted, FRAMES);
    assert_int_equal(fdatasync(fd), 0); /* or writing it back goes on meanwhile */
    image->data_bytes = (uint64_t)data * CHUNK;
}

static double run(const struct image *image, const char *const *argv, int status, const char *says)
{
    double begun = bench_now_ms();
    struct harness_result result = harness_run(image->h, argv);
    double took = bench_now_ms() - begun;
    if (result.status != status || !strstr(result.out, says))
        fail_msg("%s: status %d: %s%s", argv[0], result.status, result.out, result.err);
    return took;
}

static double scan(void *context)
{
    const struct image *image = context;
    const char *says = harness_format(image->h, "%d frames in", FRAMES);
    return run(image, (const char *const[]){bench_program("HYPEFS"), "scan", image->path, NULL}, 0,
               says);
}

/* As many as a scan has. */
static int threads(void)
{
    cpu_set_t set;
    int count = sched_getaffinity(0, sizeof set, &set) < 0 ? SCAN_PARTS_MAX : CPU_COUNT(&set);
    return count < SCAN_PARTS_MAX ? count : SCAN_PARTS_MAX;
}

static double read_with(const struct image *image, const char *how, int hits)
{
    const char *says = harness_format(image->h, "%" PRIu64 " %d\n", image->data_bytes, hits);
    const char *count = harness_format(image->h, "%d", threads());
    return run(image,
               (const char *const[]){bench_program("READ_IMAGE"), how, count, image->path, NULL}, 0,
               says);
}

static double read_only(void *context)
{
    return read_with(context, "read", 0);
}

static double search(void *context)
{
    return read_with(context, "memmem", FRAMES);
}

static double grep(void *context)
{
    const struct image *image = context;
    return run(image,
               (const char *const[]){"env", "LC_ALL=C", "grep", "-c", "-a", "-F",
                                     "HYPEMAN_FORK_MAILBOX_V1", image->path, NULL},
               0, harness_format(image->h, "%d\n", FRAMES));
}

static const struct other {
    const char *name, *goal;
    double (*run)(void *context);
} others[] = {
    {"reading the same bytes with as many threads", "≤ 1.1", read_only},
    {"memmem with as many threads", NULL, search},
    {"grep -c", NULL, grep},
};

static void measure(struct image *image, const char *name)
{
    for (size_t i = 0; i < array_length(others); i++) {
        struct bench_samples ours = {0}, other = {0};
        bench_alternate(scan, others[i].run, image, &ours, &other);
        bench_report(&(struct bench_line){.name = name,
                                          .unit = "ms",
                                          .against = others[i].name,
                                          .goal = others[i].goal,
                                          .ours = &ours,
                                          .other = &other});
    }
}

void bench_scan(void **state)
{
    struct harness *h = *state;
    size_t dense = bench_pick(QUICK_MIB, MIB);
    size_t sparse = bench_pick(QUICK_SPARSE_MIB, MIB);
    struct image image = {.h = h, .path = harness_format(h, "%s/dense", h->directory)};
    make_image(&image, dense, 1);
    measure(&image, harness_format(h, "scan of %zu MiB", dense));
    assert_int_equal(unlink(image.path), 0);
    image.path = harness_format(h, "%s/sparse", h->directory);
    make_image(&image, sparse, SPARSE_ONE_OF);
    measure(&image,
            harness_format(h, "scan of %zu MiB, %zu of them data", sparse, sparse / SPARSE_ONE_OF));
}
