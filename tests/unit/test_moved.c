/* SPDX-License-Identifier: MIT */
/* Frames that are not where their payload was written. */
#include <errno.h>

#include "frames.h"
#include "mailbox/moved.h"
#include "test.h"

enum { PAGES = 4, SEQUENCE = 77 };
static const char payload[] = "{\"a\":1}";

/* A payload was delivered to the frame in the first page. */
struct memory {
    uint8_t bytes[PAGES * FRAME_SIZE];
    struct candidate first, more[DELIVER_COPIES_MAX];
    struct delivery delivery;
    struct consume consume;
    struct memory_io io;
};

static int read_memory(void *context, uint64_t offset, void *bytes, size_t size, struct error *err)
{
    struct memory *memory = context;
    (void)err;
    assert_true(offset + size <= sizeof memory->bytes);
    memcpy(bytes, memory->bytes + offset, size);
    return 0;
}

static int write_memory(void *context, uint64_t offset, const void *bytes, size_t size,
                        struct error *err)
{
    struct memory *memory = context;
    (void)err;
    assert_true(offset + size <= sizeof memory->bytes);
    memcpy(memory->bytes + offset, bytes, size);
    return 0;
}

static uint8_t *page(struct memory *memory, size_t number)
{
    return memory->bytes + number * FRAME_SIZE;
}

/* An armed declared frame. */
static void put(struct memory *memory, size_t number, uint32_t taken)
{
    memset(page(memory, number), 0, FRAME_SIZE);
    frames_put(page(memory, number), FRAME_FORK, "m", "t", 0, "");
    frames_declare(page(memory, number), FRAME_FORK, "", taken);
}

static void deliver(struct memory *memory)
{
    *memory = (struct memory){.io = {read_memory, write_memory, memory}};
    put(memory, 0, 0);
    frame_store_u32(page(memory, 0) + 256, SEQUENCE);
    memory->first = (struct candidate){.capacity = 3824, .page_aligned = true, .declared = true};
    assert_true(
        frame_decode_marker(FRAME_FORK, page(memory, 0), FRAME_SIZE, &memory->first.marker));
    memory->delivery = (struct delivery){.kind = FRAME_FORK,
                                         .payload = payload,
                                         .payload_size = strlen(payload),
                                         .targets = {&memory->first},
                                         .target_count = 1,
                                         .declared = {true},
                                         .sequence = SEQUENCE};
    memory->consume = (struct consume){.delivery = &memory->delivery};
}

static enum moved_page judge(struct memory *memory, size_t number)
{
    return moved_judge(&memory->delivery, page(memory, number));
}

static void only_declared_frames_that_are_not_pinned_can_be_elsewhere(void **state)
{
    struct memory memory;
    (void)state;
    deliver(&memory);
    assert_true(moved_is_possible(&memory.delivery));
    memory.delivery.pinned = true;
    assert_false(moved_is_possible(&memory.delivery));
    memory.delivery.pinned = false;
    memory.delivery.declared[0] = false;
    assert_false(moved_is_possible(&memory.delivery));
}

static void page_is_judged_by_its_marker_and_what_it_has_taken(void **state)
{
    struct memory memory;
    (void)state;
    deliver(&memory);
    assert_int_equal(judge(&memory, 0), MOVED_OTHER); /* the payload is in it */
    assert_int_equal(judge(&memory, 1), MOVED_OTHER);
    put(&memory, 1, 5);
    assert_int_equal(judge(&memory, 1), MOVED_ARMED);
    put(&memory, 1, SEQUENCE);
    assert_int_equal(judge(&memory, 1), MOVED_TAKEN);
    frame_store_u32(page(&memory, 1) + 260, FRAME_REFUSED);
    assert_int_equal(judge(&memory, 1), MOVED_TAKEN);
    frame_store_u32(page(&memory, 1) + 260, 0); /* plain */
    assert_int_equal(judge(&memory, 1), MOVED_OTHER);
    put(&memory, 1, 5);
    page(&memory, 1)[26] = 'u'; /* another token */
    assert_int_equal(judge(&memory, 1), MOVED_OTHER);
    put(&memory, 1, 5);
    page(&memory, 1)[24] = 'n'; /* another name */
    assert_int_equal(judge(&memory, 1), MOVED_OTHER);
}

static void payload_is_written_with_its_sequence_and_only_into_an_armed_frame(void **state)
{
    struct memory memory;
    bool written;
    (void)state;
    deliver(&memory);
    put(&memory, 2, 5);
    assert_int_equal(moved_write(&memory.io, &memory.delivery, 2 * FRAME_SIZE, &written, NULL), 0);
    assert_true(written);
    assert_int_equal(frame_load_u32(page(&memory, 2) + 256), SEQUENCE);
    assert_int_equal(frame_load_u32(page(&memory, 2) + 260), strlen(payload));
    assert_memory_equal(page(&memory, 2) + 264, payload, strlen(payload));
    assert_int_equal(frame_load_u32(page(&memory, 2) + FRAME_TAKEN), 5);
    put(&memory, 3, SEQUENCE);
    for (size_t i = 1; i <= 3; i++) { /* not a frame, pending, taken */
        uint8_t before[FRAME_SIZE];
        memcpy(before, page(&memory, i), FRAME_SIZE);
        assert_int_equal(moved_write(&memory.io, &memory.delivery, i * FRAME_SIZE, &written, NULL),
                         0);
        assert_false(written);
        assert_memory_equal(page(&memory, i), before, FRAME_SIZE);
    }
}

static void frame_that_was_added_is_consumed_like_any_copy(void **state)
{
    struct memory memory;
    (void)state;
    deliver(&memory);
    memset(page(&memory, 0), 'x', FRAME_SIZE); /* the old page is another program's */
    assert_int_equal(consume_refresh(&memory.io, &memory.consume, NULL), 0);
    assert_int_equal(memory.consume.state, CONSUME_UNKNOWN);
    put(&memory, 3, SEQUENCE);
    moved_add(&memory.delivery, &memory.consume, 3 * FRAME_SIZE, &memory.more[0]);
    assert_int_equal(memory.delivery.target_count, 2);
    assert_int_equal(memory.consume.state, CONSUME_PENDING);
    assert_int_equal(consume_refresh(&memory.io, &memory.consume, NULL), 0);
    assert_int_equal(memory.consume.state, CONSUME_APPLIED);
}

static void frame_that_moved_back_is_looked_at_again(void **state)
{
    struct memory memory;
    (void)state;
    deliver(&memory);
    memset(page(&memory, 0), 0, FRAME_SIZE);
    assert_int_equal(consume_refresh(&memory.io, &memory.consume, NULL), 0);
    put(&memory, 0, SEQUENCE);
    moved_add(&memory.delivery, &memory.consume, 0, &memory.more[0]);
    assert_int_equal(memory.delivery.target_count, 1);
    assert_int_equal(consume_refresh(&memory.io, &memory.consume, NULL), 0);
    assert_int_equal(memory.consume.state, CONSUME_APPLIED);
}

static void copies_are_no_more_than_may_be(void **state)
{
    struct memory memory;
    (void)state;
    deliver(&memory);
    for (size_t i = 1; i < DELIVER_COPIES_MAX; i++)
        moved_add(&memory.delivery, &memory.consume, i * FRAME_SIZE, &memory.more[i]);
    assert_false(moved_has_room(&memory.delivery, DELIVER_COPIES_MAX * FRAME_SIZE));
    assert_true(moved_has_room(&memory.delivery, FRAME_SIZE));
    assert_int_equal(memory.delivery.target_count, DELIVER_COPIES_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_declared_frames_that_are_not_pinned_can_be_elsewhere),
        cmocka_unit_test(page_is_judged_by_its_marker_and_what_it_has_taken),
        cmocka_unit_test(payload_is_written_with_its_sequence_and_only_into_an_armed_frame),
        cmocka_unit_test(frame_that_was_added_is_consumed_like_any_copy),
        cmocka_unit_test(frame_that_moved_back_is_looked_at_again),
        cmocka_unit_test(copies_are_no_more_than_may_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
