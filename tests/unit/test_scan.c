/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "frames.h"
#include "mailbox/scan.h"
#include "test.h"
#include "util/cleanup.h"

enum { PAGES = 8, IMAGE_SIZE = PAGES * FRAME_SIZE };

/* An image in memory, filled by the test, and what a scan of it found. */
struct image {
    uint8_t bytes[IMAGE_SIZE];
    size_t size;
    struct scan scan;
    struct error err;
};

static int setup(void **state)
{
    struct image *image = calloc(1, sizeof *image);
    if (!image)
        return -1;
    image->size = IMAGE_SIZE;
    *state = image;
    return 0;
}

static int teardown(void **state)
{
    struct image *image = *state;
    scan_finish(&image->scan);
    free(image);
    return 0;
}

static int image_file(const void *bytes, size_t size)
{
    int fd = memfd_create("image", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, size, 0), size);
    return fd;
}

static void scan(struct image *image)
{
    auto_close int fd = image_file(image->bytes, image->size);
    scan_finish(&image->scan);
    assert_int_equal(scan_image(fd, NULL, NULL, &image->scan, &image->err), 0);
    assert_int_equal(image->scan.data_bytes, image->size);
}

static const struct candidate *only(const struct image *image)
{
    assert_int_equal(image->scan.count, 1);
    assert_false(image->scan.truncated);
    return &image->scan.candidates[0];
}

static void scan_when_a_frame_begins_at_a_page_finds_it(void **state)
{
    struct image *image = *state;

    frames_arm(image->bytes + 3 * FRAME_SIZE, "kernel.identity.v1", "template-token");
    scan(image);
    const struct candidate *found = only(image);
    assert_int_equal(found->marker.kind, FRAME_FORK);
    assert_string_equal(found->marker.name, "kernel.identity.v1");
    assert_int_equal(found->marker.token_size, 14);
    assert_memory_equal(found->marker.token, "template-token", 14);
    assert_int_equal(found->offset, 3 * FRAME_SIZE);
    assert_int_equal(found->capacity, 3832);
    assert_true(found->page_aligned);
    assert_false(found->pending);
    assert_true(found->clean);
    assert_int_equal(image->scan.noise, 0);
}

static void scan_when_a_network_frame_is_there_finds_it(void **state)
{
    struct image *image = *state;

    frames_put(image->bytes, FRAME_NETWORK, "", "abcdefghijklmnopqrstuvwxyz0123", 0, "");
    scan(image);
    const struct candidate *found = only(image);
    assert_int_equal(found->marker.kind, FRAME_NETWORK);
    assert_string_equal(found->marker.name, "");
    assert_int_equal(found->marker.token_size, 30);
    assert_int_equal(found->capacity, 4024);
    assert_true(found->page_aligned && found->clean);
}

static void scan_when_there_is_nothing_finds_nothing(void **state)
{
    struct image *image = *state;

    scan(image);
    assert_int_equal(image->scan.count, 0);
    image->size = 0;
    scan(image);
    assert_int_equal(image->scan.count, 0);
    assert_int_equal(image->scan.noise, 0);
}

static void scan_when_copies_are_there_lists_all_by_offset(void **state)
{
    struct image *image = *state;
    const size_t offsets[] = {0, FRAME_SIZE + 16, 5 * FRAME_SIZE, 7 * FRAME_SIZE};

    for (size_t i = 0; i < array_length(offsets); i++)
        frames_arm(image->bytes + offsets[i], "twin", "t");
    scan(image);
    assert_int_equal(image->scan.count, array_length(offsets));
    for (size_t i = 0; i < array_length(offsets); i++)
        assert_int_equal(image->scan.candidates[i].offset, offsets[i]);
    assert_false(image->scan.candidates[1].page_aligned);
    assert_int_equal(image->scan.candidates[1].capacity, 3832 - 16);
}

static void scan_when_only_the_magic_is_there_counts_noise(void **state)
{
    struct image *image = *state;
    static const char rodata[] = "HYPEMAN_FORK_MAILBOX_V1\0HYPEMAN_RESUME_NETWORK_MAILBOX_V1\0"
                                 "\x78\x56\x34\x12\xFF\x7F\0\0more";

    memcpy(image->bytes + 100, rodata, sizeof rodata);
    memcpy(image->bytes + 2 * FRAME_SIZE, "HYPEMAN_FORK_MAILBOX_V1", 24);
    memcpy(image->bytes + 3 * FRAME_SIZE, "HYPEMAN_FORK_MAILBOX_V2\0n\0t", 28);
    memcpy(image->bytes + 4 * FRAME_SIZE, "HYPEMAN_FORK_MAILBOX_V1 n\0t", 28);
    memcpy(image->bytes + 5 * FRAME_SIZE, "HYPEMAN_HYPEMAN_", 16);
    scan(image);
    assert_int_equal(image->scan.count, 0);
    assert_int_equal(image->scan.noise, 3);
}

static void see_magic_anywhere(struct image *image, enum frame_kind kind)
{
    const struct frame_layout *layout = &frame_layouts[kind];

    for (size_t at = 0; at < FRAME_SIZE; at++) {
        memset(image->bytes, at % 2 ? 'H' : 0, sizeof image->bytes);
        if (at % 4 > 1) /* what looks like the beginning of one */
            memset(image->bytes + 7, '_', at);
        memcpy(image->bytes + at, layout->magic, layout->magic_size);
        scan(image); /* a network's frame may have an empty token */
        assert_int_equal(image->scan.noise + image->scan.count,
                         at + layout->magic_size <= FRAME_SIZE);
    }
}

static void scan_when_a_magic_is_anywhere_sees_it(void **state)
{
    for (enum frame_kind kind = 0; kind < FRAME_KINDS; kind++)
        see_magic_anywhere(*state, kind);
}

static void scan_when_noise_stands_before_a_frame_in_its_page_finds_the_frame(void **state)
{
    struct image *image = *state;

    memcpy(image->bytes, "HYPEMAN_HYPEMAN_FORK_MAILBOX_V1", 32);
    frames_arm(image->bytes + 64, "name", "t");
    scan(image);
    assert_int_equal(only(image)->offset, 64);
    assert_int_equal(image->scan.noise, 1);
}

static void scan_when_bytes_stand_between_marker_and_sequence_counts_noise(void **state)
{
    struct image *image = *state;

    frames_arm(image->bytes, "name", "t");
    image->bytes[255] = 1;
    frames_put(image->bytes + FRAME_SIZE, FRAME_NETWORK, "", "t", 0, "");
    image->bytes[FRAME_SIZE + 63] = 1;
    scan(image);
    assert_int_equal(image->scan.count, 0);
    assert_int_equal(image->scan.noise, 2);
}

static void scan_when_the_magic_lies_across_two_pages_does_not_see_it(void **state)
{
    struct image *image = *state;

    for (size_t before = 1; before < 24; before++) {
        memset(image->bytes, 0, IMAGE_SIZE);
        frames_arm(image->bytes + FRAME_SIZE - before, "name", "t");
        scan(image);
        assert_int_equal(image->scan.count, 0);
        assert_int_equal(image->scan.noise, 0);
    }
}

static void scan_when_a_frame_lies_at_its_pages_end_needs_sequence_and_length_in_it(void **state)
{
    struct image *image = *state;

    frames_arm(image->bytes + FRAME_SIZE - 264, "name", "t");
    scan(image);
    assert_int_equal(only(image)->capacity, 0);
    assert_true(only(image)->clean);
    memset(image->bytes, 0, IMAGE_SIZE);
    frames_arm(image->bytes + FRAME_SIZE - 263, "name", "t");
    scan(image);
    assert_int_equal(image->scan.count, 0);
    assert_int_equal(image->scan.noise, 1);
}

static void scan_when_the_image_ends_within_a_page_ends_there(void **state)
{
    struct image *image = *state;

    frames_arm(image->bytes + FRAME_SIZE, "name", "t");
    image->size = FRAME_SIZE + 264 + 10;
    scan(image);
    assert_int_equal(only(image)->capacity, 10);
    image->size = FRAME_SIZE + 264;
    scan(image);
    assert_int_equal(only(image)->capacity, 0);
    image->size = FRAME_SIZE + 263;
    scan(image);
    assert_int_equal(image->scan.count, 0);
    assert_int_equal(image->scan.noise, 1);
    image->size = FRAME_SIZE + 23;
    scan(image);
    assert_int_equal(image->scan.noise, 0);
}

static void scan_when_the_sequence_is_set_says_pending(void **state)
{
    struct image *image = *state;

    frames_put(image->bytes, FRAME_FORK, "a", "t", 1, "{\"x\":1}");
    frames_put(image->bytes + FRAME_SIZE, FRAME_FORK, "b", "t", 0x01000000, "");
    scan(image);
    assert_int_equal(image->scan.count, 2);
    assert_true(image->scan.candidates[0].pending && image->scan.candidates[0].clean);
    assert_true(image->scan.candidates[1].pending);
}

/* One frame at an odd place, with that length field and payload area: is it clean? */
static bool clean_with(struct image *image, uint32_t length, const char *area, size_t area_size)
{
    uint8_t *frame = image->bytes + 40;

    memset(image->bytes, 0, IMAGE_SIZE);
    frames_arm(frame, "name", "t");
    frame_store_u32(frame + 260, length);
    memcpy(frame + 264, area, area_size);
    scan(image);
    assert_false(only(image)->pending);
    assert_false(only(image)->page_aligned);
    return only(image)->clean;
}

static void scan_when_only_frame_contents_follow_the_marker_says_clean(void **state)
{
    struct image *image = *state;
    char reason[FRAME_REASON_MAX + 1];

    memset(reason, 'r', sizeof reason);
    assert_true(clean_with(image, 0, "", 0));
    assert_true(clean_with(image, 7, "{\"a\":1}", 7));
    assert_true(clean_with(image, FRAME_REFUSED, "no", 2));
    assert_true(clean_with(image, FRAME_REFUSED, "", 0));
    assert_true(clean_with(image, FRAME_REFUSED, reason, FRAME_REASON_MAX));
    assert_false(clean_with(image, FRAME_REFUSED, reason, FRAME_REASON_MAX + 1));
    assert_false(clean_with(image, FRAME_REFUSED, "no\0x", 4));
    assert_false(clean_with(image, 0, "x", 1));
    assert_false(clean_with(image, 6, "{\"a\":1}", 7));
    assert_false(clean_with(image, 8, "{\"a\":1}", 7));
    assert_false(clean_with(image, 7, "{\"a\":1}\0\0x", 10));
    assert_false(clean_with(image, 2, "[]", 2));
    assert_false(clean_with(image, FRAME_SIZE - 40 - 264 + 1, "{}", 2));
    assert_false(clean_with(image, 0xFFFFFFFE, "", 0));
}

static void
scan_when_the_pages_last_byte_is_set_is_not_clean_but_the_next_pages_is_ignored(void **state)
{
    struct image *image = *state;

    frames_arm(image->bytes + 40, "name", "t");
    image->bytes[FRAME_SIZE] = 0xFF;
    scan(image);
    assert_true(only(image)->clean);
    image->bytes[FRAME_SIZE - 1] = 0xFF;
    scan(image);
    assert_false(only(image)->clean);
}

static void scan_when_the_image_is_sparse_reads_only_its_data(void **state)
{
    struct image *image = *state;
    const uint64_t size = UINT64_C(64) << 30, at = UINT64_C(40) << 30;
    auto_close int fd = memfd_create("image", MFD_CLOEXEC);

    assert_true(fd >= 0);
    frames_arm(image->bytes, "far", "t");
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    assert_int_equal(pwrite(fd, image->bytes, FRAME_SIZE, (off_t)at), FRAME_SIZE);
    assert_int_equal(scan_image(fd, NULL, NULL, &image->scan, &image->err), 0);
    assert_int_equal(only(image)->offset, at);
    assert_true(image->scan.data_bytes >= FRAME_SIZE && image->scan.data_bytes <= 4 << 20);
}

static void scan_when_the_file_offset_stands_elsewhere_begins_at_the_start(void **state)
{
    struct image *image = *state;

    frames_arm(image->bytes, "name", "t");
    auto_close int fd = image_file(image->bytes, IMAGE_SIZE);
    assert_int_equal(lseek(fd, 0, SEEK_END), IMAGE_SIZE);
    assert_int_equal(scan_image(fd, NULL, NULL, &image->scan, &image->err), 0);
    assert_int_equal(only(image)->offset, 0);
}

/* `count` frames, one in each page, over more than one of the pieces that are read at once. */
static void scan_frames(struct image *image, size_t count)
{
    auto_free uint8_t *bytes = calloc(count, FRAME_SIZE);

    assert_non_null(bytes);
    for (size_t i = 0; i < count; i++) {
        char name[FRAME_NAME_MAX];
        snprintf(name, sizeof name, "n%zu", i);
        frames_arm(bytes + i * FRAME_SIZE, name, "t");
    }
    auto_close int fd = image_file(bytes, count * FRAME_SIZE);
    scan_finish(&image->scan);
    assert_int_equal(scan_image(fd, NULL, NULL, &image->scan, &image->err), 0);
}

static void scan_when_there_are_4096_candidates_keeps_all(void **state)
{
    struct image *image = *state;

    scan_frames(image, SCAN_CANDIDATES_MAX);
    assert_int_equal(image->scan.count, SCAN_CANDIDATES_MAX);
    assert_false(image->scan.truncated);
    for (size_t i = 0; i < image->scan.count; i++)
        assert_int_equal(image->scan.candidates[i].offset, i * FRAME_SIZE);
}

static void scan_when_there_are_4097_candidates_keeps_4096_and_says_truncated(void **state)
{
    struct image *image = *state;

    scan_frames(image, SCAN_CANDIDATES_MAX + 1);
    assert_int_equal(image->scan.count, SCAN_CANDIDATES_MAX);
    assert_true(image->scan.truncated);
    assert_int_equal(image->scan.noise, 0);
}

static void scan_when_it_is_not_a_regular_file_fails(void **state)
{
    struct image *image = *state;
    int ends[2];

    assert_int_equal(pipe(ends), 0);
    int r = scan_image(ends[0], NULL, NULL, &image->scan, &image->err);
    close(ends[0]);
    close(ends[1]);
    assert_int_equal(r, -EINVAL);
    assert_int_equal(scan_image(-1, NULL, NULL, &image->scan, &image->err), -EBADF);
}

struct watch {
    int fd;
    uint64_t done, size;
    unsigned calls;
};

static bool count_progress(void *context, uint64_t done, uint64_t size)
{
    struct watch *watch = context;
    assert_true(done > watch->done && done <= size);
    watch->done = done;
    watch->size = size;
    watch->calls++;
    return true;
}

static void scan_when_asked_to_tells_its_progress_up_to_the_end(void **state)
{
    struct image *image = *state;
    const size_t size = (5 << 20) + 100;
    auto_free uint8_t *bytes = calloc(1, size);

    assert_non_null(bytes);
    auto_close int fd = image_file(bytes, size);
    struct watch watch = {.fd = fd};
    assert_int_equal(scan_image(fd, count_progress, &watch, &image->scan, &image->err), 0);
    assert_int_equal(watch.done, size);
    assert_int_equal(watch.size, size);
    assert_true(watch.calls > 2);
}

static bool cut_file(void *context, uint64_t done, uint64_t size)
{
    struct watch *watch = context;
    (void)done;
    (void)size;
    watch->calls++;
    assert_int_equal(ftruncate(watch->fd, (off_t)watch->size), 0);
    return true;
}

static void scan_when_the_file_gets_shorter_meanwhile_fails_and_leaves_the_result(void **state)
{
    struct image *image = *state;
    const size_t size = 5 << 20;
    auto_free uint8_t *bytes = calloc(1, size);

    assert_non_null(bytes);
    frames_arm(bytes, "name", "t");
    for (size_t left = 0; left < size; left += size / 2) {
        auto_close int fd = image_file(bytes, size);
        struct watch watch = {.fd = fd, .size = left};
        image->scan.noise = 77;
        assert_int_equal(scan_image(fd, cut_file, &watch, &image->scan, &image->err), -EIO);
        assert_non_null(strstr(image->err.text, "shorter"));
        assert_true(watch.calls > 0);
        assert_int_equal(image->scan.noise, 77);
        assert_null(image->scan.candidates);
    }
}

static bool stop(void *context, uint64_t done, uint64_t size)
{
    unsigned *calls = context;
    assert_true(done < size);
    ++*calls;
    return false;
}

static void scan_when_told_to_stop_stops_and_says_ecanceled(void **state)
{
    struct image *image = *state;
    const size_t size = 5 << 20;
    auto_free uint8_t *bytes = calloc(1, size);
    unsigned calls = 0;

    assert_non_null(bytes);
    frames_arm(bytes, "name", "t");
    auto_close int fd = image_file(bytes, size);
    assert_int_equal(scan_image(fd, stop, &calls, &image->scan, &image->err), -ECANCELED);
    assert_int_equal(calls, 1);
    assert_null(image->scan.candidates);
}

static void finish_takes_null_and_a_finished_scan(void **state)
{
    struct scan scan = {0};

    (void)state;
    scan_finish(NULL);
    scan_finish(&scan);
    scan_finish(&scan);
    assert_null(scan.candidates);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(scan_when_a_frame_begins_at_a_page_finds_it),
        TEST(scan_when_a_network_frame_is_there_finds_it),
        TEST(scan_when_there_is_nothing_finds_nothing),
        TEST(scan_when_copies_are_there_lists_all_by_offset),
        TEST(scan_when_only_the_magic_is_there_counts_noise),
        TEST(scan_when_a_magic_is_anywhere_sees_it),
        TEST(scan_when_noise_stands_before_a_frame_in_its_page_finds_the_frame),
        TEST(scan_when_bytes_stand_between_marker_and_sequence_counts_noise),
        TEST(scan_when_the_magic_lies_across_two_pages_does_not_see_it),
        TEST(scan_when_a_frame_lies_at_its_pages_end_needs_sequence_and_length_in_it),
        TEST(scan_when_the_image_ends_within_a_page_ends_there),
        TEST(scan_when_the_sequence_is_set_says_pending),
        TEST(scan_when_only_frame_contents_follow_the_marker_says_clean),
        TEST(scan_when_the_pages_last_byte_is_set_is_not_clean_but_the_next_pages_is_ignored),
        TEST(scan_when_the_image_is_sparse_reads_only_its_data),
        TEST(scan_when_the_file_offset_stands_elsewhere_begins_at_the_start),
        TEST(scan_when_there_are_4096_candidates_keeps_all),
        TEST(scan_when_there_are_4097_candidates_keeps_4096_and_says_truncated),
        TEST(scan_when_it_is_not_a_regular_file_fails),
        TEST(scan_when_asked_to_tells_its_progress_up_to_the_end),
        TEST(scan_when_the_file_gets_shorter_meanwhile_fails_and_leaves_the_result),
        TEST(scan_when_told_to_stop_stops_and_says_ecanceled),
        cmocka_unit_test(finish_takes_null_and_a_finished_scan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
