/* SPDX-License-Identifier: MIT */
/* Scans of images by several threads. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "frames.h"
#include "mailbox/scan.h"
#include "test.h"
#include "util/cleanup.h"

enum { PAGES = 4096, MANY = 64, HOLES = 256 /* pages */ };

/* How many processors there are, whether threads can be started, and how many were; whether reading
 * fails from some byte on (0: never), and how much was read. */
static struct {
    int processors, startable, started;
    off_t unreadable;
    size_t read; /* bytes, by one thread */
} machine;

int __wrap_sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set);
int __wrap_sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set)
{
    (void)pid;
    if (machine.processors < 0) {
        errno = EINVAL;
        return -1;
    }
    CPU_ZERO_S(size, set);
    for (int i = 0; i < machine.processors; i++)
        CPU_SET_S((size_t)i, size, set);
    return 0;
}

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*run)(void *argument), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*run)(void *argument), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*run)(void *argument), void *argument)
{
    if (machine.started == machine.startable)
        return EAGAIN;
    machine.started++;
    return __real_pthread_create(thread, attributes, run, argument);
}

ssize_t __real_pread64(int fd, void *bytes, size_t size, off_t at);
ssize_t __wrap_pread64(int fd, void *bytes, size_t size, off_t at);
ssize_t __wrap_pread64(int fd, void *bytes, size_t size, off_t at)
{
    off_t unreadable = machine.unreadable;
    if (machine.processors == 1)
        machine.read += size;
    if (!unreadable || at + (off_t)size <= unreadable)
        return __real_pread64(fd, bytes, size, at);
    if (at < unreadable)
        return __real_pread64(fd, bytes, (size_t)(unreadable - at), at);
    errno = EIO;
    return -1;
}

/* An image of PAGES pages, some of which are holes, and MANY frames in it; so many threads as are
 * wanted have to do with it. */
struct image {
    int fd;
    struct scan scan;
    struct error err;
};

static void put(int fd, const uint8_t page[FRAME_SIZE], size_t i)
{
    assert_int_equal(pwrite(fd, page, FRAME_SIZE, (off_t)(i * FRAME_SIZE)), FRAME_SIZE);
}

static void fill(int fd)
{
    uint8_t page[FRAME_SIZE];
    for (size_t i = 0; i < PAGES; i++) {
        const size_t number = i / (PAGES / MANY);
        char name[FRAME_NAME_MAX];
        if (i / HOLES % 4 == 3)
            continue;
        memset(page, i % 3 ? 'A' : (int)i, sizeof page);
        snprintf(name, sizeof name, "box-%zu", number % 7);
        if (i % (PAGES / MANY) == 5)
            frames_arm(page + number * 56, name, "token");
        if (i % (PAGES / MANY) == 9)
            memcpy(page + number, "HYPEMAN_FORK_MAILBOX_V1", sizeof "HYPEMAN_FORK_MAILBOX_V1");
        put(fd, page, i);
    }
}

static int setup(void **state)
{
    struct image *image = calloc(1, sizeof *image);
    if (!image)
        return -1;
    machine = (typeof(machine)){.processors = 8, .startable = 8};
    image->fd = memfd_create("image", MFD_CLOEXEC);
    if (image->fd < 0 || ftruncate(image->fd, PAGES * FRAME_SIZE) < 0)
        return -1;
    fill(image->fd);
    *state = image;
    return 0;
}

static int teardown(void **state)
{
    struct image *image = *state;
    scan_finish(&image->scan);
    close(image->fd);
    free(image);
    return 0;
}

static void same_lists(const struct scan *a, const struct scan *b)
{
    assert_int_equal(a->count, b->count);
    assert_int_equal(a->truncated, b->truncated);
    assert_int_equal(a->noise, b->noise);
    assert_int_equal(a->data_bytes, b->data_bytes);
    for (size_t i = 0; i < a->count; i++) {
        const struct candidate *one = &a->candidates[i], *other = &b->candidates[i];
        assert_true(frame_marker_equal(&one->marker, &other->marker));
        assert_int_equal(one->offset, other->offset);
        assert_int_equal(one->capacity, other->capacity);
        assert_int_equal(one->first, other->first);
        assert_int_equal(one->clean, other->clean);
    }
}

static void scan(struct image *image)
{
    scan_finish(&image->scan);
    machine.started = 0;
    assert_int_equal(scan_image(image->fd, NULL, NULL, &image->scan, &image->err), 0);
}

static void scan_with_more_threads_finds_what_one_finds(void **state)
{
    struct image *image = *state;
    machine.processors = 1;
    scan(image);
    assert_int_equal(machine.started, 0);
    struct scan alone = image->scan;
    image->scan = (struct scan){0};
    assert_int_equal(alone.count, MANY - MANY / 4);
    assert_int_equal(alone.noise, MANY - MANY / 4);
    assert_int_equal(alone.data_bytes, PAGES / 4 * 3 * FRAME_SIZE);
    for (machine.processors = 2; machine.processors < 6; machine.processors++) {
        scan(image);
        assert_int_equal(
            machine.started,
            (machine.processors < SCAN_PARTS_MAX ? machine.processors : SCAN_PARTS_MAX) - 1);
        same_lists(&image->scan, &alone);
    }
    scan_finish(&alone);
}

static void scan_when_the_processors_are_too_many_to_count_uses_all_threads(void **state)
{
    machine.processors = -1;
    scan(*state);
    assert_int_equal(machine.started, SCAN_PARTS_MAX - 1);
}

static void scan_when_threads_cannot_be_started_goes_on_with_those_that_are(void **state)
{
    struct image *image = *state;
    for (machine.startable = 0; machine.startable < 3; machine.startable++) {
        scan(image);
        assert_int_equal(machine.started, machine.startable);
        assert_int_equal(image->scan.count, MANY - MANY / 4);
    }
}

static void scan_when_the_image_is_small_starts_no_thread(void **state)
{
    struct image *image = *state;
    assert_int_equal(ftruncate(image->fd, 128 * FRAME_SIZE), 0);
    scan(image);
    assert_int_equal(machine.started, 0);
    assert_int_equal(image->scan.count, 2);
}

static void scan_when_there_are_too_many_candidates_keeps_the_first(void **state)
{
    struct image *image = *state;
    uint8_t page[FRAME_SIZE] = {0};
    frames_arm(page, "twin", "t");
    frames_arm(page + FRAME_SIZE / 2, "twin", "t");
    for (size_t i = 0; i < PAGES; i++)
        put(image->fd, page, i);
    scan(image);
    assert_int_equal(image->scan.count, SCAN_CANDIDATES_MAX);
    assert_true(image->scan.truncated);
    for (size_t i = 0; i < image->scan.count; i++)
        assert_int_equal(image->scan.candidates[i].offset, i * FRAME_SIZE / 2);
}

struct watch {
    uint64_t done, stop_at;
    unsigned calls;
};

static bool watch_progress(void *context, uint64_t done, uint64_t size)
{
    struct watch *watch = context;
    assert_true(done > watch->done && done <= size);
    assert_int_equal(size, PAGES * FRAME_SIZE);
    watch->done = done;
    watch->calls++;
    return done < watch->stop_at;
}

static void scan_with_threads_tells_its_progress_up_to_the_end(void **state)
{
    struct image *image = *state;
    struct watch watch = {.stop_at = UINT64_MAX};
    assert_int_equal(scan_image(image->fd, watch_progress, &watch, &image->scan, &image->err), 0);
    assert_int_equal(watch.done, PAGES * FRAME_SIZE);
    assert_true(watch.calls > 2);
    assert_int_equal(machine.started, SCAN_PARTS_MAX - 1);
}

static void scan_with_threads_when_told_to_stop_stops(void **state)
{
    struct image *image = *state;
    for (uint64_t at = 1; at <= PAGES * FRAME_SIZE; at += 3 << 20) {
        struct watch watch = {.stop_at = at};
        assert_int_equal(scan_image(image->fd, watch_progress, &watch, &image->scan, &image->err),
                         -ECANCELED);
        assert_true(watch.done >= at);
        assert_null(image->scan.candidates);
    }
}

static void scan_with_threads_when_reading_fails_names_the_first_byte(void **state)
{
    struct image *image = *state;
    for (size_t page = 1; page < PAGES - HOLES; page += PAGES / 11) {
        char text[64];
        if (page / HOLES % 4 == 3)
            continue;
        machine.unreadable = (off_t)(page * FRAME_SIZE + 10);
        snprintf(text, sizeof text, "at byte %zu:", page * FRAME_SIZE + 10);
        assert_int_equal(scan_image(image->fd, NULL, NULL, &image->scan, &image->err), -EIO);
        assert_non_null(strstr(image->err.text, text));
        assert_null(image->scan.candidates);
    }
}

/* ---- an image that has become another ---- */

struct successor {
    int fd;
    struct page_set changed;
    struct scan whole, scan;
};

static const struct scan_base *base_of(const struct image *image, const struct successor *next)
{
    static struct scan_base base;
    base = (struct scan_base){image->fd, &image->scan, &next->changed};
    return &base;
}

/* Pages are written to that had frames, noise or nothing, or were holes; some become holes. */
static void change(struct successor *next)
{
    uint8_t page[FRAME_SIZE];
    for (size_t i = 0; i < PAGES; i++) {
        const size_t group = i / (PAGES / MANY), in_group = i % (PAGES / MANY);
        if (group % 3 || in_group < 3 || in_group > 11)
            continue;
        memset(page, 0, sizeof page);
        if (in_group == 4 || (in_group == 5 && group % 2))
            frames_arm(page + group, "new", "token");
        if (in_group == 7)
            memcpy(page, "HYPEMAN_FORK_MAILBOX_V1", sizeof "HYPEMAN_FORK_MAILBOX_V1");
        put(next->fd, page, i);
        if (in_group == 11)
            assert_int_equal(fallocate(next->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                       (off_t)(i * FRAME_SIZE), FRAME_SIZE),
                             0);
        page_set_add(&next->changed, i * FRAME_SIZE, FRAME_SIZE);
    }
}

static void open_successor(struct image *image, struct successor *ret)
{
    machine.processors = 1;
    scan(image);
    *ret = (struct successor){.fd = memfd_create("next", MFD_CLOEXEC)};
    assert_int_equal(ftruncate(ret->fd, PAGES * FRAME_SIZE), 0);
    fill(ret->fd);
    assert_int_equal(page_set_create(PAGES * FRAME_SIZE, &ret->changed, NULL), 0);
}

static void close_successor(struct successor *next)
{
    close(next->fd);
    page_set_finish(&next->changed);
    scan_finish(&next->whole);
    scan_finish(&next->scan);
}

static void scan_of_what_changed_finds_what_a_scan_of_all_finds(void **state)
{
    struct image *image = *state;
    struct successor next;
    size_t pages = 0;
    open_successor(image, &next);
    change(&next);
    assert_int_equal(scan_image(next.fd, NULL, NULL, &next.whole, &image->err), 0);
    assert_true(next.whole.count != image->scan.count && next.whole.noise != image->scan.noise &&
                next.whole.data_bytes != image->scan.data_bytes);
    for (size_t i = 0; i < PAGES; i++)
        pages += page_set_has(&next.changed, i * FRAME_SIZE);
    machine.read = 0;
    assert_int_equal(
        scan_changed(next.fd, base_of(image, &next), NULL, NULL, &next.scan, &image->err), 0);
    assert_int_equal(machine.read, 2 * pages * FRAME_SIZE);
    same_lists(&next.scan, &next.whole);
    close_successor(&next);
}

static void scan_of_what_changed_when_nothing_has_reads_nothing(void **state)
{
    struct image *image = *state;
    struct successor next;
    open_successor(image, &next);
    machine.read = 0;
    assert_int_equal(
        scan_changed(next.fd, base_of(image, &next), NULL, NULL, &next.scan, &image->err), 0);
    assert_int_equal(machine.read, 0);
    same_lists(&next.scan, &image->scan);
    close_successor(&next);
}

static void scan_of_what_changed_when_the_list_does_not_tell_enough_says_so(void **state)
{
    struct image *image = *state;
    struct successor next;
    open_successor(image, &next);
    change(&next);
    const struct scan known = image->scan;
    image->scan.truncated = true;
    assert_int_equal(
        scan_changed(next.fd, base_of(image, &next), NULL, NULL, &next.scan, &image->err), -EAGAIN);
    image->scan = known;
    image->scan.noise = 1; /* there was more in the pages that have changed */
    assert_int_equal(
        scan_changed(next.fd, base_of(image, &next), NULL, NULL, &next.scan, &image->err), -EAGAIN);
    image->scan = known;
    page_set_add(&next.changed, 0, PAGES * FRAME_SIZE / 2); /* a scan of all takes no longer */
    machine.read = 0;
    assert_int_equal(
        scan_changed(next.fd, base_of(image, &next), NULL, NULL, &next.scan, &image->err), -EAGAIN);
    assert_int_equal(machine.read, 0);
    assert_int_equal(ftruncate(next.fd, PAGES * FRAME_SIZE / 2), 0);
    assert_int_equal(
        scan_changed(next.fd, base_of(image, &next), NULL, NULL, &next.scan, &image->err), -EAGAIN);
    assert_null(next.scan.candidates);
    close_successor(&next);
}

static void scan_of_what_changed_when_told_to_stop_or_unreadable_fails(void **state)
{
    struct image *image = *state;
    struct successor next;
    struct watch watch = {.stop_at = 1};
    open_successor(image, &next);
    change(&next);
    assert_int_equal(scan_changed(next.fd, base_of(image, &next), watch_progress, &watch,
                                  &next.scan, &image->err),
                     -ECANCELED);
    assert_int_equal(watch.calls, 1);
    machine.unreadable = PAGES / 2 * FRAME_SIZE;
    assert_int_equal(
        scan_changed(next.fd, base_of(image, &next), NULL, NULL, &next.scan, &image->err), -EIO);
    assert_null(next.scan.candidates);
    close_successor(&next);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(scan_with_more_threads_finds_what_one_finds),
        TEST(scan_when_the_processors_are_too_many_to_count_uses_all_threads),
        TEST(scan_when_threads_cannot_be_started_goes_on_with_those_that_are),
        TEST(scan_when_the_image_is_small_starts_no_thread),
        TEST(scan_when_there_are_too_many_candidates_keeps_the_first),
        TEST(scan_with_threads_tells_its_progress_up_to_the_end),
        TEST(scan_with_threads_when_told_to_stop_stops),
        TEST(scan_with_threads_when_reading_fails_names_the_first_byte),
        TEST(scan_of_what_changed_finds_what_a_scan_of_all_finds),
        TEST(scan_of_what_changed_when_nothing_has_reads_nothing),
        TEST(scan_of_what_changed_when_the_list_does_not_tell_enough_says_so),
        TEST(scan_of_what_changed_when_told_to_stop_or_unreadable_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
