/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "frames.h"
#include "mailbox/rearm.h"
#include "test.h"
#include "util/cleanup.h"
#include "util/json.h"

enum { PAGES = 8, SIZE = PAGES * FRAME_SIZE, ODD = 5 * FRAME_SIZE + 1000 };

static const char payload[] = "{\"secret\":\"do not keep\"}";

/* An image, and what was delivered into it. */
struct fixture {
    int fd;
    uint8_t *bytes; /* of the image */
    struct candidate candidates[4];
    cJSON *records;
    struct error err;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    if (!fixture)
        return -1;
    *state = fixture;
    fixture->records = cJSON_CreateArray();
    fixture->fd = memfd_create("image", MFD_CLOEXEC);
    if (fixture->fd < 0 || ftruncate(fixture->fd, SIZE) < 0)
        return -1;
    fixture->bytes = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fixture->fd, 0);
    return fixture->bytes == MAP_FAILED ? -1 : 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    munmap(fixture->bytes, SIZE);
    close(fixture->fd);
    cJSON_Delete(fixture->records);
    free(fixture);
    return 0;
}

static void put(struct fixture *fixture, uint64_t offset, enum frame_kind kind, const char *token,
                uint32_t sequence, const char *text)
{
    frames_put(fixture->bytes + offset, kind, kind == FRAME_FORK ? "box" : "", token, sequence,
               text);
}

/* `payload` went to the frames at these offsets, which are there. */
static void record(struct fixture *fixture, enum frame_kind kind, const uint64_t *offsets,
                   size_t count)
{
    struct delivery delivery = {
        .kind = kind, .payload = payload, .payload_size = strlen(payload), .target_count = count};
    for (size_t i = 0; i < count; i++) {
        struct candidate *candidate = &fixture->candidates[i];
        candidate->offset = offsets[i];
        assert_true(frame_decode_marker(kind, fixture->bytes + offsets[i],
                                        SIZE - (size_t)offsets[i], &candidate->marker));
        delivery.targets[i] = candidate;
    }
    cJSON *json = rearm_record(&delivery);
    assert_non_null(json);
    assert_true(cJSON_AddItemToArray(fixture->records, json));
}

/* It says which pages it has written to. */
static void rearm(struct fixture *fixture)
{
    uint8_t before[SIZE] = {0}, after[SIZE] = {0};
    struct page_set written;
    assert_true(pread(fixture->fd, before, SIZE, 0) > 0);
    assert_int_equal(page_set_create(SIZE, &written, &fixture->err), 0);
    if (rearm_image(fixture->fd, fixture->records, &written, &fixture->err) < 0)
        fail_msg("%s", fixture->err.text);
    assert_true(pread(fixture->fd, after, SIZE, 0) > 0);
    for (size_t at = 0; at < SIZE; at += FRAME_SIZE)
        assert_int_equal(page_set_has(&written, at),
                         memcmp(before + at, after + at, FRAME_SIZE) != 0);
    page_set_finish(&written);
}

static bool holds(const struct fixture *fixture, const char *text)
{
    return memmem(fixture->bytes, SIZE, text, strlen(text)) != NULL;
}

/* Armed, and empty. */
static void assert_armed(const struct fixture *fixture, uint64_t offset, enum frame_kind kind)
{
    const struct frame_layout *layout = &frame_layouts[kind];
    struct frame_marker marker;
    assert_true(frame_decode_marker(kind, fixture->bytes + offset, FRAME_SIZE, &marker));
    for (size_t i = layout->sequence; i < layout->payload + strlen(payload); i++)
        assert_int_equal(fixture->bytes[offset + i], 0);
}

static void record_has_neither_payload_nor_marker(void **state)
{
    struct fixture *fixture = *state;
    put(fixture, 0, FRAME_FORK, "the-token", 1, payload);
    record(fixture, FRAME_FORK, (const uint64_t[]){0}, 1);
    auto_free char *text = cJSON_Print(fixture->records);
    assert_null(strstr(text, "secret"));
    assert_null(strstr(text, "the-token"));
    assert_null(strstr(text, "box"));
}

static void twins_when_one_was_consumed_are_armed(void **state)
{
    static const uint64_t offsets[] = {0, 2 * FRAME_SIZE, 6 * FRAME_SIZE};
    struct fixture *fixture = *state;
    for (size_t i = 0; i < array_length(offsets); i++)
        put(fixture, offsets[i], FRAME_FORK, "token", 1, payload);
    record(fixture, FRAME_FORK, offsets, array_length(offsets));
    memset(fixture->bytes + 2 * FRAME_SIZE + 256, 0, FRAME_SIZE - 256); /* by the guest */
    rearm(fixture);
    for (size_t i = 0; i < array_length(offsets); i++)
        assert_armed(fixture, offsets[i], FRAME_FORK);
    assert_false(holds(fixture, "do not keep"));
    rearm(fixture); /* again, it finds nothing to do */
}

static void twins_of_the_network_are_armed_too(void **state)
{
    static const uint64_t offsets[] = {FRAME_SIZE, 3 * FRAME_SIZE};
    struct fixture *fixture = *state;
    for (size_t i = 0; i < array_length(offsets); i++) /* a token up to the sequence */
        put(fixture, offsets[i], FRAME_NETWORK, "012345678901234567890123456789", 1, payload);
    record(fixture, FRAME_NETWORK, offsets, array_length(offsets));
    memset(fixture->bytes + offsets[1] + 64, 0, FRAME_SIZE - 64);
    rearm(fixture);
    assert_armed(fixture, offsets[0], FRAME_NETWORK);
    assert_false(holds(fixture, "do not keep"));
}

/* A refusal is one, with its reason. */
static void twins_when_the_payload_was_refused_are_armed(void **state)
{
    static const uint64_t offsets[] = {0, FRAME_SIZE};
    struct fixture *fixture = *state;
    for (size_t i = 0; i < array_length(offsets); i++)
        put(fixture, offsets[i], FRAME_FORK, "token", 1, payload);
    record(fixture, FRAME_FORK, offsets, array_length(offsets));
    memset(fixture->bytes + 256, 0, FRAME_SIZE - 256);
    put(fixture, 0, FRAME_FORK, "token", 0, "the disk is full");
    frame_store_u32(fixture->bytes + 260, FRAME_REFUSED);
    rearm(fixture);
    assert_armed(fixture, FRAME_SIZE, FRAME_FORK);
    assert_true(holds(fixture, "the disk is full"));
}

static void payload_that_nobody_consumed_stays(void **state)
{
    static const uint64_t offsets[] = {0, FRAME_SIZE};
    struct fixture *fixture = *state;
    auto_free uint8_t *before = malloc(SIZE);
    for (size_t i = 0; i < array_length(offsets); i++)
        put(fixture, offsets[i], FRAME_FORK, "token", 1, payload);
    record(fixture, FRAME_FORK, offsets, array_length(offsets));
    memcpy(before, fixture->bytes, SIZE);
    rearm(fixture);
    assert_memory_equal(before, fixture->bytes, SIZE);
}

/* Each mailbox is a matter of its own. */
static void mailbox_beside_one_that_was_consumed_stays(void **state)
{
    static const uint64_t one[] = {0, FRAME_SIZE}, other[] = {2 * FRAME_SIZE, 3 * FRAME_SIZE};
    struct fixture *fixture = *state;
    for (size_t i = 0; i < 2; i++) {
        put(fixture, one[i], FRAME_FORK, "one", 1, payload);
        put(fixture, other[i], FRAME_FORK, "other", 1, payload);
    }
    record(fixture, FRAME_FORK, one, 2);
    record(fixture, FRAME_FORK, other, 2);
    memset(fixture->bytes + one[0] + 256, 0, FRAME_SIZE - 256);
    rearm(fixture);
    assert_armed(fixture, one[1], FRAME_FORK);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(fixture->bytes[other[i] + 256], 1);
}

/* What a guest uses the page for now, or what somebody else delivered. */
static void page_that_is_not_ours_any_more_is_left_alone(void **state)
{
    static const uint64_t offsets[] = {0, FRAME_SIZE};
    static const struct {
        const char *token, *text;
        uint32_t sequence;
    } others[] = {
        {"token", "{\"secret\":\"another one\"}", 1}, /* of the same length */
        {"token", "{}", 1},
        {"token", "{\"secret\":\"do not keep\"}", 2},
        {"other", "{\"secret\":\"do not keep\"}", 1},
    };
    struct fixture *fixture = *state;
    auto_free uint8_t *before = malloc(SIZE);
    for (size_t i = 0; i < 2; i++)
        put(fixture, offsets[i], FRAME_FORK, "token", 1, payload);
    record(fixture, FRAME_FORK, offsets, 2);
    for (size_t i = 0; i < array_length(others); i++) {
        memset(fixture->bytes, 0, SIZE);
        put(fixture, offsets[0], FRAME_FORK, "token", 0, "");
        put(fixture, offsets[1], FRAME_FORK, others[i].token, others[i].sequence, others[i].text);
        memcpy(before, fixture->bytes, SIZE);
        rearm(fixture);
        assert_memory_equal(before, fixture->bytes, SIZE);
    }
    frames_put(fixture->bytes + offsets[1], FRAME_FORK, "box", "token", 1, payload);
    fixture->bytes[offsets[1] + 200] = 'x'; /* between marker and sequence */
    rearm(fixture);
    assert_true(holds(fixture, "do not keep"));
}

/* It ends with its page, wherever it begins; what lies behind is somebody else's. */
static void frame_that_is_not_aligned_ends_with_its_page(void **state)
{
    static const uint64_t offsets[] = {0, ODD};
    struct fixture *fixture = *state;
    for (size_t i = 0; i < 2; i++)
        put(fixture, offsets[i], FRAME_FORK, "token", 1, payload);
    record(fixture, FRAME_FORK, offsets, 2);
    memset(fixture->bytes + 256, 0, FRAME_SIZE - 256);
    memset(fixture->bytes + 6 * FRAME_SIZE, 'x', FRAME_SIZE);
    rearm(fixture);
    assert_armed(fixture, ODD, FRAME_FORK);
    for (size_t i = 0; i < FRAME_SIZE; i++)
        assert_int_equal(fixture->bytes[6 * FRAME_SIZE + i], 'x');
}

/* The fork was booted meanwhile, with less memory than its source had. */
static void frame_beyond_the_image_is_not_there(void **state)
{
    static const uint64_t offsets[] = {0, FRAME_SIZE, 7 * FRAME_SIZE};
    struct fixture *fixture = *state;
    for (size_t i = 0; i < array_length(offsets); i++)
        put(fixture, offsets[i], FRAME_FORK, "token", 1, payload);
    record(fixture, FRAME_FORK, offsets, array_length(offsets));
    memset(fixture->bytes + 256, 0, FRAME_SIZE - 256);
    assert_int_equal(ftruncate(fixture->fd, 4 * FRAME_SIZE), 0);
    rearm(fixture);
    assert_armed(fixture, FRAME_SIZE, FRAME_FORK);
    assert_int_equal(ftruncate(fixture->fd, FRAME_SIZE + 100), 0); /* within one */
    rearm(fixture);
    assert_int_equal(lseek(fixture->fd, 0, SEEK_END), FRAME_SIZE + 100);
    assert_int_equal(ftruncate(fixture->fd, SIZE), 0); /* for the mapping */
}

static void record_that_is_none_is_eio(void **state)
{
    static const char *const texts[] = {
        "[1]",
        "[{}]",
        "[{\"kind\":\"fork\",\"offsets\":[0],\"bytes\":1,\"marker\":\"\"}]",
        "[{\"kind\":\"other\",\"offsets\":[0],\"bytes\":1,\"marker\":\"\",\"payload\":\"\"}]",
        "[{\"kind\":\"fork\",\"offsets\":0,\"bytes\":1,\"marker\":\"\",\"payload\":\"\"}]",
        "[{\"kind\":\"fork\",\"offsets\":[0],\"bytes\":-1,\"marker\":\"\",\"payload\":\"\"}]",
        "[{\"kind\":\"fork\",\"offsets\":[0],\"bytes\":4097,\"marker\":\"\",\"payload\":\"\"}]",
        "[{\"kind\":\"fork\",\"offsets\":[-1],\"bytes\":1,\"marker\":\"\",\"payload\":\"\"}]",
        "[{\"kind\":\"fork\",\"offsets\":[\"0\"],\"bytes\":1,\"marker\":\"\",\"payload\":\"\"}]",
        "[{\"kind\":\"fork\",\"offsets\":[1e300],\"bytes\":1,\"marker\":\"\",\"payload\":\"\"}]",
    };
    struct fixture *fixture = *state;
    for (size_t i = 0; i < array_length(texts); i++) {
        auto_json cJSON *json = cJSON_Parse(texts[i]);
        assert_non_null(json);
        if (rearm_image(fixture->fd, json, NULL, &fixture->err) != -EIO)
            fail_msg("%s", texts[i]);
        assert_non_null(strstr(fixture->err.text, "the record of a delivery"));
    }
    auto_json cJSON *nothing = cJSON_CreateArray();
    assert_int_equal(rearm_image(fixture->fd, nothing, NULL, &fixture->err), 0);
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(record_has_neither_payload_nor_marker),
        WITH(twins_when_one_was_consumed_are_armed),
        WITH(twins_of_the_network_are_armed_too),
        WITH(twins_when_the_payload_was_refused_are_armed),
        WITH(payload_that_nobody_consumed_stays),
        WITH(mailbox_beside_one_that_was_consumed_stays),
        WITH(page_that_is_not_ours_any_more_is_left_alone),
        WITH(frame_that_is_not_aligned_ends_with_its_page),
        WITH(frame_beyond_the_image_is_not_there),
        WITH(record_that_is_none_is_eio),
    };
    return cmocka_run_group_tests_name("rearm", tests, NULL, NULL);
}
