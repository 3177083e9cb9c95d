/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "frames.h"
#include "mailbox/scan.h"
#include "test.h"
#include "util/cleanup.h"
#include "util/json.h"

enum { PAGES = 8, IMAGE_SIZE = PAGES * FRAME_SIZE };

/* An image in memory, filled by the test, and the candidates in it. */
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

static void scan(struct image *image)
{
    for (size_t at = 0; at < image->size; at += FRAME_SIZE) {
        size_t page = image->size - at < FRAME_SIZE ? image->size - at : FRAME_SIZE;
        assert_int_equal(scan_page(image->bytes + at, page, at, &image->scan), 0);
        image->scan.data_bytes += page;
    }
    assert_int_equal(scan_mark_first(&image->scan), 0);
}

/* So many pages with a frame at the start of each. */
static void fill(struct image *image, size_t count)
{
    frames_arm(image->bytes, "name", "t");
    for (size_t i = 0; i < count; i++)
        assert_int_equal(scan_page(image->bytes, FRAME_SIZE, i * FRAME_SIZE, &image->scan), 0);
    assert_int_equal(image->scan.count, count);
}

static const struct candidate *only(const struct image *image)
{
    assert_int_equal(image->scan.count, 1);
    return &image->scan.candidates[0];
}

static void next_name_walks_the_names_once_in_order(void **state)
{
    struct image *image = *state;
    static const char *const names[] = {"b", "a", "b", "c", "a"};

    for (size_t i = 0; i < array_length(names); i++)
        frames_arm(image->bytes + (i + 1) * FRAME_SIZE, names[i], "t");
    frames_put(image->bytes, FRAME_NETWORK, "", "t", 0, "");
    scan(image);
    assert_int_equal(image->scan.count, 6);
    assert_int_equal(scan_next_name(&image->scan, 0), 1);
    assert_int_equal(scan_next_name(&image->scan, 2), 2);
    assert_int_equal(scan_next_name(&image->scan, 3), 4);
    assert_int_equal(scan_next_name(&image->scan, 5), 6);
    assert_int_equal(scan_next_name(&image->scan, 6), 6);
}

static double cpu_seconds(void)
{
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

/* A guest may plant that many, and every look at `info` walks them. */
static void next_name_among_thousands_is_found_at_once(void **state)
{
    enum { WALKS = 300 };
    struct image *image = *state;
    for (size_t i = 0; i < SCAN_CANDIDATES_MAX; i++) {
        char name[16];
        snprintf(name, sizeof name, "name-%zu", i);
        frames_arm(image->bytes, name, "t");
        assert_int_equal(scan_page(image->bytes, FRAME_SIZE, i * FRAME_SIZE, &image->scan), 0);
    }
    assert_int_equal(scan_mark_first(&image->scan), 0);
    double before = cpu_seconds();
    for (int walk = 0; walk < WALKS; walk++)
        for (size_t i = 0; i < image->scan.count; i++)
            assert_int_equal(scan_next_name(&image->scan, i), i);
    assert_true(cpu_seconds() - before < 3);
}

static void assert_described(const struct scan *scan, const char *name, const char *expected)
{
    auto_json cJSON *json = scan_describe(scan, name);
    auto_json cJSON *wanted = cJSON_Parse(expected);

    assert_non_null(json);
    assert_non_null(wanted);
    assert_true(cJSON_Compare(json, wanted, true));
}

static void describe_shows_all_markers_of_a_name_and_what_fits(void **state)
{
    struct image *image = *state;

    frames_arm(image->bytes, "a", "secret");
    frames_put(image->bytes + FRAME_SIZE, FRAME_FORK, "a", "\xFF\x01", 3, "");
    frames_arm(image->bytes + 2 * FRAME_SIZE + 32, "a", "secret");
    frames_arm(image->bytes + 3 * FRAME_SIZE + 8, "b", "\xC3\xA4");
    frames_arm(image->bytes + 4 * FRAME_SIZE + 16, "b", "\xC3\xA4");
    frames_put(image->bytes + 5 * FRAME_SIZE, FRAME_NETWORK, "", "t", 0, "");
    scan(image);
    assert_described(
        &image->scan, "a",
        "{\"name\":\"a\",\"payload_capacity\":3832,\"markers\":["
        "{\"token\":\"secret\",\"offset\":0,\"page_aligned\":true,\"state\":\"armed\"},"
        "{\"token_hex\":\"ff01\",\"offset\":4096,\"page_aligned\":true,\"state\":\"pending\"},"
        "{\"token\":\"secret\",\"offset\":8224,\"page_aligned\":false,\"state\":\"armed\"}]}");
    assert_described(
        &image->scan, "b",
        "{\"name\":\"b\",\"payload_capacity\":3816,\"markers\":["
        "{\"token\":\"\xC3\xA4\",\"offset\":12296,\"page_aligned\":false,\"state\":\"armed\"},"
        "{\"token\":\"\xC3\xA4\",\"offset\":16400,\"page_aligned\":false,\"state\":\"armed\"}]}");
    assert_described(
        &image->scan, "",
        "{\"payload_capacity\":4024,\"markers\":["
        "{\"token\":\"t\",\"offset\":20480,\"page_aligned\":true,\"state\":\"armed\"}]}");
    assert_null(scan_describe(&image->scan, "c"));
}

static void assert_same(const struct scan *a, const struct scan *b)
{
    assert_int_equal(a->count, b->count);
    assert_int_equal(a->truncated, b->truncated);
    assert_int_equal(a->noise, b->noise);
    assert_int_equal(a->data_bytes, b->data_bytes);
    for (size_t i = 0; i < a->count; i++) {
        const struct candidate *x = &a->candidates[i], *y = &b->candidates[i];
        assert_true(frame_marker_equal(&x->marker, &y->marker));
        assert_int_equal(x->offset, y->offset);
        assert_int_equal(x->capacity, y->capacity);
        assert_int_equal(x->page_aligned, y->page_aligned);
        assert_int_equal(x->pending, y->pending);
        assert_int_equal(x->clean, y->clean);
        assert_int_equal(x->first, y->first);
    }
}

static void json_of_a_scan_when_read_again_is_the_same_scan(void **state)
{
    struct image *image = *state;
    struct scan again;

    frames_arm(image->bytes, "a", "secret");
    frames_put(image->bytes + FRAME_SIZE, FRAME_FORK, "b", "\xFF\x01\x7F", 3, "x");
    frames_put(image->bytes + 2 * FRAME_SIZE, FRAME_NETWORK, "", "t", 0, "");
    frames_arm(image->bytes + 3 * FRAME_SIZE - 264, "c", "t");
    memcpy(image->bytes + 3 * FRAME_SIZE, "HYPEMAN_FORK_MAILBOX_V1", 24);
    frames_arm(image->bytes + 7 * FRAME_SIZE, "d", "t");
    image->size = 7 * FRAME_SIZE + 300;
    scan(image);
    assert_int_equal(image->scan.count, 5);
    auto_json cJSON *json = scan_to_json(&image->scan);
    auto_free char *text = json_print(json);
    assert_non_null(text);
    assert_null(strstr(text, "secret"));
    auto_json cJSON *parsed = NULL;
    assert_int_equal(json_parse(text, strlen(text), &parsed, &image->err), 0);
    assert_int_equal(scan_from_json(parsed, image->size, &again, &image->err), 0);
    assert_same(&image->scan, &again);
    scan_finish(&again);
}

static void json_of_a_full_scan_when_read_again_is_the_same_scan(void **state)
{
    struct image *image = *state;
    struct scan again;

    fill(image, SCAN_CANDIDATES_MAX);
    assert_int_equal(scan_mark_first(&image->scan), 0);
    image->scan.truncated = true;
    auto_json cJSON *json = scan_to_json(&image->scan);
    assert_int_equal(
        scan_from_json(json, (SCAN_CANDIDATES_MAX + 1) * FRAME_SIZE, &again, &image->err), 0);
    assert_same(&image->scan, &again);
    scan_finish(&again);
}

#define INDEX(candidates)                                                                          \
    "{\"truncated\":false,\"noise\":0,\"data_bytes\":32768,\"candidates\":[" candidates "]}"
#define CANDIDATE(kind, name, token, offset)                                                       \
    "{\"kind\":\"" kind "\",\"name\":\"" name "\",\"token\":\"" token "\",\"offset\":" offset      \
    ",\"pending\":false,\"clean\":true}"

static int read_index(const char *text, struct scan *ret)
{
    auto_json cJSON *json = cJSON_Parse(text);
    assert_non_null(json);
    return scan_from_json(json, IMAGE_SIZE, ret, NULL);
}

static void json_when_a_scan_could_not_have_written_it_is_refused(void **state)
{
    static const char *const bad[] = {
        "{}",
        "[]",
        "{\"truncated\":false,\"noise\":0,\"data_bytes\":0}",
        "{\"truncated\":true,\"noise\":0,\"data_bytes\":0,\"candidates\":[]}",
        "{\"truncated\":0,\"noise\":0,\"data_bytes\":0,\"candidates\":[]}",
        "{\"truncated\":false,\"noise\":-1,\"data_bytes\":0,\"candidates\":[]}",
        "{\"truncated\":false,\"noise\":0,\"data_bytes\":32769,\"candidates\":[]}",
        "{\"truncated\":false,\"noise\":0,\"data_bytes\":0,\"candidates\":{}}",
        "{\"truncated\":false,\"noise\":0,\"data_bytes\":0,\"candidates\":[],\"x\":1}",
        INDEX("1"),
        INDEX("{}"),
        INDEX(CANDIDATE("spoon", "n", "74", "0")),
        INDEX(CANDIDATE("fork", "", "74", "0")),
        INDEX(CANDIDATE("fork", "a/b", "74", "0")),
        INDEX(CANDIDATE("fork", "..", "74", "0")),
        INDEX(CANDIDATE("fork", "n", "", "0")),
        INDEX(CANDIDATE("fork", "n", "747", "0")),
        INDEX(CANDIDATE("fork", "n", "7G", "0")),
        INDEX(CANDIDATE("fork", "n", "00", "0")),
        INDEX(CANDIDATE("fork", "n", "2020", "0")),
        INDEX(CANDIDATE("fork", "n", "74", "-4096")),
        INDEX(CANDIDATE("fork", "n", "74", "0.5")),
        INDEX(CANDIDATE("fork", "n", "74", "32768")),
        INDEX(CANDIDATE("fork", "n", "74", "1e300")),
        INDEX(CANDIDATE("fork", "n", "74", "32505")), /* sequence and length beyond the image */
        INDEX(CANDIDATE("fork", "n", "74", "4095")),
        INDEX(CANDIDATE("fork", "n", "74", "4096") "," CANDIDATE("fork", "n", "74", "4096")),
        INDEX(CANDIDATE("fork", "n", "74", "4096") "," CANDIDATE("fork", "n", "74", "0")),
        INDEX(CANDIDATE("network", "n", "74", "0")),
        INDEX(CANDIDATE("network", "",
                        "74747474747474747474747474747474"
                        "747474747474747474747474747474",
                        "0")), /* 31 bytes */
    };
    struct image *image = *state;

    for (size_t i = 0; i < array_length(bad); i++) {
        image->scan.noise = 77;
        assert_int_equal(read_index(bad[i], &image->scan), -EINVAL);
        assert_int_equal(image->scan.noise, 77);
        assert_null(image->scan.candidates);
    }
    assert_int_equal(read_index(INDEX(CANDIDATE("fork", "n", "74", "32504")), &image->scan), 0);
    assert_int_equal(only(image)->capacity, 0);
}

static void json_when_a_token_is_longer_than_any_is_refused(void **state)
{
    struct image *image = *state;
    char token[2 * 129 + 1] = "", text[600];

    for (size_t i = 0; i < 129; i++)
        strcat(token, "74");
    for (size_t size = 128; size <= 129; size++) {
        token[2 * size] = 0;
        if (size == 129)
            memset(token, '7', 2 * size);
        snprintf(text, sizeof text, INDEX(CANDIDATE("fork", "n", "%s", "0")), token);
        assert_int_equal(read_index(text, &image->scan), size == 128 ? 0 : -EINVAL);
        scan_finish(&image->scan);
    }
}

static void json_when_it_lists_4097_candidates_is_refused(void **state)
{
    struct image *image = *state;

    fill(image, SCAN_CANDIDATES_MAX);
    auto_json cJSON *json = scan_to_json(&image->scan);
    cJSON *array = cJSON_GetObjectItemCaseSensitive(json, "candidates");
    cJSON *more = cJSON_Duplicate(cJSON_GetArrayItem(array, 0), true);
    cJSON_SetNumberValue(cJSON_GetObjectItemCaseSensitive(more, "offset"),
                         SCAN_CANDIDATES_MAX * FRAME_SIZE);
    cJSON_AddItemToArray(array, more);
    struct scan again = {0};
    assert_int_equal(scan_from_json(json, UINT64_C(1) << 40, &again, NULL), -EINVAL);
    assert_null(again.candidates);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(next_name_walks_the_names_once_in_order),
        TEST(next_name_among_thousands_is_found_at_once),
        TEST(describe_shows_all_markers_of_a_name_and_what_fits),
        TEST(json_of_a_scan_when_read_again_is_the_same_scan),
        TEST(json_of_a_full_scan_when_read_again_is_the_same_scan),
        TEST(json_when_a_scan_could_not_have_written_it_is_refused),
        TEST(json_when_a_token_is_longer_than_any_is_refused),
        TEST(json_when_it_lists_4097_candidates_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
