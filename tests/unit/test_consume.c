/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "frames.h"
#include "mailbox/consume.h"
#include "test.h"

enum { PAGES = 3 };
static const char payload[] = "{\"a\":1}";

/* A guest's memory, delivered to; what is to become of it at the Nth read comes by `act`. */
struct memory {
    uint8_t bytes[PAGES * FRAME_SIZE];
    struct candidate candidates[PAGES];
    struct delivery delivery;
    struct consume consume;
    struct memory_io io;
    size_t reads, act_at;
    void (*act)(struct memory *memory);
};

static int read_memory(void *context, uint64_t offset, void *bytes, size_t size, struct error *err)
{
    struct memory *memory = context;
    if (++memory->reads == memory->act_at) {
        if (!memory->act)
            return error_set(err, EIO, "no memory");
        memory->act(memory);
    }
    assert_true(offset + size <= sizeof memory->bytes);
    memcpy(bytes, memory->bytes + offset, size);
    return 0;
}

static void deliver(struct memory *memory, enum frame_kind kind, size_t copies)
{
    *memory = (struct memory){.delivery = {.kind = kind, .target_count = copies}};
    memory->io = (struct memory_io){.read = read_memory, .context = memory};
    for (size_t i = 0; i < copies; i++) {
        uint8_t *page = memory->bytes + i * FRAME_SIZE;
        struct candidate *candidate = &memory->candidates[i];
        frames_put(page, kind, kind == FRAME_FORK ? "m" : "", "token", 1, payload);
        candidate->offset = i * FRAME_SIZE;
        candidate->capacity = FRAME_SIZE - (uint32_t)frame_layouts[kind].payload;
        assert_true(frame_decode_marker(kind, page, FRAME_SIZE, &candidate->marker));
        memory->delivery.targets[i] = candidate;
    }
    memory->consume = (struct consume){.delivery = &memory->delivery};
}

static void take(struct memory *memory, size_t page)
{
    const struct frame_layout *layout = &frame_layouts[memory->delivery.kind];
    memset(memory->bytes + page * FRAME_SIZE + layout->sequence, 0, FRAME_SIZE - layout->sequence);
}

static void refuse(struct memory *memory, const char *reason, size_t size)
{
    const struct frame_layout *layout = &frame_layouts[memory->delivery.kind];
    take(memory, 0);
    frame_store_u32(memory->bytes + layout->length, FRAME_REFUSED);
    memcpy(memory->bytes + layout->payload, reason, size);
}

static void reuse(struct memory *memory, size_t page)
{
    memset(memory->bytes + page * FRAME_SIZE, 0, FRAME_SIZE);
}

static void reuse_first(struct memory *memory)
{
    reuse(memory, 0);
}

static enum consume_state look(struct memory *memory)
{
    assert_int_equal(consume_refresh(&memory->io, &memory->consume, NULL), 0);
    return memory->consume.state;
}

static void frame_when_its_sequence_is_zero_again_is_consumed(void **state)
{
    (void)state;
    for (enum frame_kind kind = 0; kind < FRAME_KINDS; kind++) {
        struct memory memory;
        deliver(&memory, kind, 1);
        assert_int_equal(look(&memory), CONSUME_PENDING);
        take(&memory, 0);
        assert_int_equal(look(&memory), CONSUME_APPLIED);
        reuse(&memory, 0);
        assert_int_equal(look(&memory), CONSUME_APPLIED); /* known for ever */
    }
}

static void one_consumed_copy_is_enough(void **state)
{
    (void)state;
    struct memory memory;
    deliver(&memory, FRAME_FORK, 3);
    take(&memory, 2);
    assert_int_equal(look(&memory), CONSUME_APPLIED);
}

static void page_that_is_reused_is_never_taken_for_consumed(void **state)
{
    (void)state;
    struct memory memory;
    deliver(&memory, FRAME_FORK, 2);
    reuse(&memory, 0);
    assert_int_equal(look(&memory), CONSUME_PENDING);
    frames_put(memory.bytes, FRAME_FORK, "m", "token", 0, ""); /* dropped is dropped */
    assert_int_equal(look(&memory), CONSUME_PENDING);
    frames_put(memory.bytes + FRAME_SIZE, FRAME_FORK, "m", "other", 0, "");
    assert_int_equal(look(&memory), CONSUME_UNKNOWN);
    take(&memory, 0);
    assert_int_equal(look(&memory), CONSUME_UNKNOWN);
}

/* Sequence and marker are read at different moments. */
static void page_that_is_reused_between_two_reads_is_dropped(void **state)
{
    (void)state;
    struct memory memory;
    deliver(&memory, FRAME_FORK, 1);
    take(&memory, 0);
    memory.act_at = 2;
    memory.act = reuse_first;
    assert_int_equal(look(&memory), CONSUME_UNKNOWN);
}

static void refusal_comes_with_its_reason(void **state)
{
    (void)state;
    char longest[FRAME_CAPACITY];
    memset(longest, 'r', sizeof longest);
    struct memory memory;
    deliver(&memory, FRAME_FORK, 1);
    refuse(&memory, "disk full", sizeof "disk full");
    assert_int_equal(look(&memory), CONSUME_REFUSED);
    assert_string_equal(memory.consume.reason, "disk full");
    deliver(&memory, FRAME_FORK, 1);
    refuse(&memory, longest, sizeof longest); /* a guest may write what it likes */
    assert_int_equal(look(&memory), CONSUME_REFUSED);
    assert_int_equal(strlen(memory.consume.reason), FRAME_REASON_MAX);
}

static void memory_that_cannot_be_read_changes_nothing(void **state)
{
    (void)state;
    for (size_t read = 1; read <= 2; read++) {
        struct memory memory;
        struct error err = {0};
        deliver(&memory, FRAME_FORK, 1);
        take(&memory, 0);
        memory.act_at = read;
        assert_int_equal(consume_refresh(&memory.io, &memory.consume, &err), -EIO);
        assert_int_equal(memory.consume.state, CONSUME_PENDING);
        assert_int_equal(look(&memory), CONSUME_APPLIED);
    }
}

/* One that does not begin at a page is read up to the page's end and no further. */
static void frame_inside_a_page_is_read_within_it(void **state)
{
    (void)state;
    struct memory memory;
    deliver(&memory, FRAME_FORK, 1);
    uint64_t offset = sizeof memory.bytes - 512;
    memmove(memory.bytes + offset, memory.bytes, 512);
    memory.candidates[0].offset = offset;
    memory.candidates[0].capacity = 512 - 264;
    assert_int_equal(look(&memory), CONSUME_PENDING);
    memset(memory.bytes + offset + 256, 0, 256);
    frame_store_u32(memory.bytes + offset + 260, FRAME_REFUSED);
    memset(memory.bytes + offset + 264, 'x', 512 - 264);
    assert_int_equal(look(&memory), CONSUME_REFUSED);
    assert_int_equal(strlen(memory.consume.reason), 512 - 264);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frame_when_its_sequence_is_zero_again_is_consumed),
        cmocka_unit_test(one_consumed_copy_is_enough),
        cmocka_unit_test(page_that_is_reused_is_never_taken_for_consumed),
        cmocka_unit_test(page_that_is_reused_between_two_reads_is_dropped),
        cmocka_unit_test(refusal_comes_with_its_reason),
        cmocka_unit_test(memory_that_cannot_be_read_changes_nothing),
        cmocka_unit_test(frame_inside_a_page_is_read_within_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
