/* SPDX-License-Identifier: MIT */
/* Declared frames on the host, from the scan to the save; the guest is the test. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "frames.h"
#include "mailbox/consume.h"
#include "mailbox/rearm.h"
#include "mailbox/scan.h"
#include "test.h"
#include "util/cleanup.h"
#include "util/json.h"

enum { PAGES = 3, IMAGE_SIZE = PAGES * FRAME_SIZE };
static const char payload[] = "{\"n\":1,\"s\":\"do not keep\"}";

/* A guest's memory, and what is known of it. At the Nth read `act` is called before. */
struct memory {
    uint8_t *bytes; /* IMAGE_SIZE; a mapping of the file */
    int fd;
    struct scan scan;
    struct delivery delivery;
    struct consume consume;
    struct memory_io io;
    struct error err;
    size_t reads, act_at;
    void (*act)(struct memory *memory);
};

static int read_memory(void *context, uint64_t offset, void *bytes, size_t size, struct error *err)
{
    struct memory *memory = context;
    (void)err;
    if (++memory->reads == memory->act_at)
        memory->act(memory);
    assert_true(offset + size <= IMAGE_SIZE);
    memcpy(bytes, memory->bytes + offset, size);
    return 0;
}

static int write_memory(void *context, uint64_t offset, const void *bytes, size_t size,
                        struct error *err)
{
    struct memory *memory = context;
    (void)err;
    assert_true(offset + size <= IMAGE_SIZE);
    memcpy(memory->bytes + offset, bytes, size);
    return 0;
}

static int setup(void **state)
{
    struct memory *memory = calloc(1, sizeof *memory);
    if (!memory)
        return -1;
    *state = memory;
    memory->io = (struct memory_io){read_memory, write_memory, memory};
    memory->fd = memfd_create("image", MFD_CLOEXEC);
    if (memory->fd < 0 || ftruncate(memory->fd, IMAGE_SIZE) < 0)
        return -1;
    memory->bytes = mmap(NULL, IMAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memory->fd, 0);
    return memory->bytes == MAP_FAILED ? -1 : 0;
}

static int teardown(void **state)
{
    struct memory *memory = *state;
    consume_finish(&memory->consume);
    scan_finish(&memory->scan);
    munmap(memory->bytes, IMAGE_SIZE);
    close(memory->fd);
    free(memory);
    return 0;
}

static uint8_t *page(struct memory *memory, size_t number)
{
    return memory->bytes + number * FRAME_SIZE;
}

static uint32_t field(struct memory *memory, size_t number, size_t at)
{
    return frame_load_u32(page(memory, number) + at);
}

static void put(struct memory *memory, size_t number, const char *reply, uint32_t taken)
{
    frames_put(page(memory, number), FRAME_FORK, "m", "t", 0, "");
    frames_declare(page(memory, number), FRAME_FORK, reply, taken);
}

static void scan(struct memory *memory)
{
    scan_finish(&memory->scan);
    assert_int_equal(scan_pages(memory->bytes, IMAGE_SIZE, 0, &memory->scan), 0);
    assert_int_equal(scan_mark_first(&memory->scan), 0);
}

static int locate_and_deliver(struct memory *memory, const char *text)
{
    memory->delivery = (struct delivery){
        .kind = FRAME_FORK, .name = "m", .payload = text, .payload_size = strlen(text)};
    memory->consume = (struct consume){.delivery = &memory->delivery};
    int r = deliver_locate(&memory->scan, &memory->delivery, &memory->err);
    if (r == 0)
        r = deliver_preflight(&memory->io, &memory->delivery, 1, &memory->err);
    return r < 0 ? r : deliver_write(&memory->io, &memory->delivery, 1, &memory->err);
}

static void deliver(struct memory *memory)
{
    scan(memory);
    assert_int_equal(locate_and_deliver(memory, payload), 0);
    memory->reads = 0;
}

/* The guest takes it out of that page, and leaves a reply of `size` bytes, whatever they are. */
static void answer_sized(struct memory *memory, size_t number, const char *reply, uint32_t size)
{
    uint8_t *frame = page(memory, number);
    memset(frame + 264, 0, FRAME_TAIL - 264);
    memcpy(frame + 264, reply, strlen(reply));
    frame_store_u32(frame + FRAME_TAKEN, memory->delivery.sequence);
    frame_store_u32(frame + 260, 0x80000000 | size);
    frame_store_u32(frame + 256, 0);
}

static void answer(struct memory *memory, size_t number, const char *reply)
{
    answer_sized(memory, number, reply, (uint32_t)strlen(reply));
}

static enum consume_state look(struct memory *memory)
{
    assert_int_equal(consume_refresh(&memory->io, &memory->consume, NULL), 0);
    return memory->consume.state;
}

static void armed_frame_with_and_without_a_reply_is_found_declared(void **state)
{
    struct memory *memory = *state;
    put(memory, 0, "", 0);
    put(memory, 1, "{\"old\":1}", 7);
    frames_put(page(memory, 2), FRAME_NETWORK, "", "t", 0, "");
    frames_declare(page(memory, 2), FRAME_NETWORK, "", 0);
    scan(memory);
    assert_int_equal(memory->scan.count, 3);
    for (size_t i = 0; i < 3; i++) {
        const struct candidate *found = &memory->scan.candidates[i];
        assert_true(found->declared && found->clean && !found->pending);
        assert_int_equal(found->capacity, i < 2 ? 3824 : 4016);
    }
}

static void frame_that_is_not_armed_or_no_page_is_not_declared(void **state)
{
    struct memory *memory = *state;
    put(memory, 0, "", 0);
    frame_store_u32(page(memory, 0) + 256, 5);
    frames_put(page(memory, 1) + 16, FRAME_FORK, "m", "t", 0, "");
    frame_store_u32(page(memory, 1) + 16 + 260, 0x80000000);
    put(memory, 2, "", 0);
    assert_int_equal(scan_page(page(memory, 0), FRAME_SIZE, 0, &memory->scan), 0);
    assert_int_equal(scan_page(page(memory, 1), FRAME_SIZE, FRAME_SIZE, &memory->scan), 0);
    assert_int_equal(scan_page(page(memory, 2), FRAME_SIZE - 1, 2 * FRAME_SIZE, &memory->scan), 0);
    assert_int_equal(memory->scan.count, 3);
    for (size_t i = 0; i < 3; i++)
        assert_false(memory->scan.candidates[i].declared);
    assert_false(memory->scan.candidates[1].clean); /* its page holds what is no plain frame's */
}

/* A refusal has no room for the word; the guest has taken a sequence, though. */
static void refusal_is_declared_by_what_was_taken(void **state)
{
    static const struct {
        uint32_t taken;
        bool declared;
    } cases[] = {{0, false}, {1, false}, {2, true}, {0x7FFFFFFF, true}, {0x80000000, false}};
    struct memory *memory = *state;
    for (size_t i = 0; i < array_length(cases); i++) {
        put(memory, 0, "", cases[i].taken);
        memcpy(page(memory, 0) + 264, "no", 2);
        frame_store_u32(page(memory, 0) + 260, FRAME_REFUSED);
        scan(memory);
        assert_int_equal(memory->scan.candidates[0].declared, cases[i].declared);
        assert_true(memory->scan.candidates[0].clean == (cases[i].declared || !cases[i].taken));
    }
}

static void index_keeps_what_is_declared_apart_from_the_list(void **state)
{
    struct memory *memory = *state;
    struct scan again;
    put(memory, 0, "", 0);
    frames_put(page(memory, 1), FRAME_FORK, "m", "t", 0, "");
    put(memory, 2, "", 0);
    scan(memory);
    auto_json cJSON *list = scan_to_json(&memory->scan);
    auto_json cJSON *declared = scan_declared_to_json(&memory->scan);
    auto_free char *text = cJSON_PrintUnformatted(declared);
    assert_string_equal(text, "[0,8192]");
    assert_int_equal(scan_from_json(list, IMAGE_SIZE, &again, NULL), 0);
    assert_int_equal(again.candidates[2].capacity, 3832);
    assert_int_equal(scan_declared_from_json(NULL, &again, NULL), 0); /* of an older version */
    assert_false(again.candidates[2].declared);
    assert_int_equal(scan_declared_from_json(declared, &again, NULL), 0);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(again.candidates[i].declared, i != 1);
    assert_int_equal(again.candidates[2].capacity, 3824);
    scan_finish(&again);
}

static void index_that_is_damaged_is_refused(void **state)
{
    static const char *const wrong[] = {"{}",      "[1]",  "[12288]",  "[0,0]",  "[8192,0]",
                                        "[\"0\"]", "[-1]", "[4096.5]", "[null]", "[4096]"};
    struct memory *memory = *state;
    put(memory, 0, "", 0);
    frames_put(page(memory, 1) + 16, FRAME_FORK, "m", "t", 0, "");
    put(memory, 2, "", 0);
    scan(memory);
    auto_json cJSON *list = scan_to_json(&memory->scan);
    for (size_t i = 0; i < array_length(wrong); i++) {
        struct scan again;
        struct error err = {0};
        auto_json cJSON *declared = cJSON_Parse(wrong[i]);
        assert_int_equal(scan_from_json(list, IMAGE_SIZE, &again, NULL), 0);
        assert_int_equal(scan_declared_from_json(declared, &again, &err), -EINVAL);
        assert_true(err.text[0]);
        scan_finish(&again);
    }
}

static void declared_frames_get_one_random_sequence_and_plain_ones_get_1(void **state)
{
    struct memory *memory = *state;
    uint32_t last = 0;
    for (int i = 0; i < 3; i++) {
        memset(memory->bytes, 0, IMAGE_SIZE);
        put(memory, 0, "{\"left\":\"over\"}", 9);
        frames_put(page(memory, 1), FRAME_FORK, "m", "t", 0, "");
        put(memory, 2, "", 0);
        deliver(memory);
        uint32_t sequence = field(memory, 0, 256);
        assert_in_range(sequence, 2, 0x7FFFFFFF);
        assert_int_not_equal(sequence, last); /* once in 2^31 */
        assert_int_equal(field(memory, 1, 256), 1);
        assert_int_equal(field(memory, 2, 256), sequence);
        for (size_t k = 0; k < 3; k++)
            assert_int_equal(field(memory, k, 260), strlen(payload));
        assert_int_equal(field(memory, 0, FRAME_TAKEN), 9); /* the tail is the guest's */
        last = sequence;
    }
}

static void payload_has_room_up_to_the_tail(void **state)
{
    struct memory *memory = *state;
    auto_free char *fits = frames_payload(3824), *over = frames_payload(3825);
    put(memory, 0, "", 3);
    scan(memory);
    assert_int_equal(locate_and_deliver(memory, over), -EFBIG);
    assert_non_null(strstr(memory->err.text, "3824"));
    assert_int_equal(locate_and_deliver(memory, fits), 0);
    assert_int_equal(field(memory, 0, FRAME_TAKEN), 3);
}

/* As an older version has left it: the memory itself says it. */
static void frame_that_the_index_does_not_know_to_be_declared_is_treated_as_one(void **state)
{
    struct memory *memory = *state;
    auto_free char *over = frames_payload(3825);
    put(memory, 0, "", 3);
    scan(memory);
    memory->scan.candidates[0].declared = false;
    memory->scan.candidates[0].capacity = 3832;
    assert_int_equal(locate_and_deliver(memory, over), -EFBIG);
    assert_int_equal(field(memory, 0, 256), 0);
    assert_int_equal(locate_and_deliver(memory, payload), 0);
    assert_in_range(field(memory, 0, 256), 2, 0x7FFFFFFF);
}

static void frame_is_consumed_when_it_has_taken_the_sequence(void **state)
{
    struct memory *memory = *state;
    put(memory, 0, "", 0);
    deliver(memory);
    assert_int_equal(look(memory), CONSUME_PENDING);
    frame_store_u32(page(memory, 0) + FRAME_TAKEN, memory->delivery.sequence); /* in hand */
    assert_int_equal(look(memory), CONSUME_PENDING);
    answer(memory, 0, "");
    assert_int_equal(look(memory), CONSUME_APPLIED);
    assert_null(memory->consume.reply);
    assert_string_equal(memory->consume.reply_error, "");
}

/* A page from which the frame had moved away when it was written to, and which is another frame of
 * the same kind now. */
static void frame_that_is_armed_and_has_not_taken_it_is_no_ack(void **state)
{
    struct memory *memory = *state;
    put(memory, 0, "", 0);
    deliver(memory);
    answer(memory, 0, "{\"a\":1}");
    frame_store_u32(page(memory, 0) + FRAME_TAKEN, memory->delivery.sequence - 1);
    assert_int_equal(look(memory), CONSUME_PENDING);
    frame_store_u32(page(memory, 0) + FRAME_TAKEN, memory->delivery.sequence);
    assert_int_equal(look(memory), CONSUME_APPLIED);
}

static void reply_is_taken_byte_for_byte(void **state)
{
    static const char reply[] = "\n{ \"b\":1.0e+2,\t\"a\":\"\\u00e9\xc2\x9b\" }\r\n";
    struct memory *memory = *state;
    put(memory, 0, "", 0);
    deliver(memory);
    answer(memory, 0, reply);
    assert_int_equal(look(memory), CONSUME_APPLIED);
    assert_string_equal(memory->consume.reply, reply);
    answer(memory, 0, "{\"later\":1}");
    assert_int_equal(look(memory), CONSUME_APPLIED);
    assert_string_equal(memory->consume.reply, reply);
}

static void reply_may_fill_the_frame(void **state)
{
    struct memory *memory = *state;
    auto_free char *reply = frames_payload(3824);
    put(memory, 0, "", 0);
    deliver(memory);
    answer(memory, 0, reply);
    assert_int_equal(look(memory), CONSUME_APPLIED);
    assert_string_equal(memory->consume.reply, reply);
}

static void reply_that_is_none_is_told_and_not_shown(void **state)
{
    static const struct {
        const char *reply;
        uint32_t size;
        const char *error;
    } cases[] = {
        {"{}", 3825, "has 3825 bytes: a mailbox takes 3824"},
        {"{}", 0x7FFFFFFE, "has 2147483646 bytes"},
        {"[1]", 3, "not a JSON object in UTF-8: at byte 0, a JSON object must begin with {"},
        {"{\"a\":1", 6, "at byte 6, it is not closed"},
        {"{}", 3, "at byte 2, nothing may follow the object"},
        {"{\"s3cret\":\"\xc3\x28\"}", 14, "not UTF-8"},
        {"{\"a\":s3cret}", 12, "a value is expected here"},
    };
    struct memory *memory = *state;
    for (size_t i = 0; i < array_length(cases); i++) {
        put(memory, 0, "", 0);
        deliver(memory);
        answer_sized(memory, 0, cases[i].reply, cases[i].size);
        assert_int_equal(look(memory), CONSUME_APPLIED);
        assert_null(memory->consume.reply);
        if (!strstr(memory->consume.reply_error, cases[i].error))
            fail_msg("\"%s\" is not: %s", memory->consume.reply_error, cases[i].error);
        assert_null(strstr(memory->consume.reply_error, "s3cret"));
    }
}

static void reply_that_is_nested_too_deeply_is_told(void **state)
{
    char reply[3000] = "{\"a\":";
    struct memory *memory = *state;
    put(memory, 0, "", 0);
    deliver(memory);
    memset(reply + 5, '[', 128);
    memset(reply + 5 + 128, ']', 128);
    reply[5 + 256] = '}';
    answer(memory, 0, reply);
    assert_int_equal(look(memory), CONSUME_APPLIED);
    assert_null(memory->consume.reply);
    assert_non_null(strstr(memory->consume.reply_error, "nested too deeply"));
}

static void refusal_of_a_declared_frame_must_have_taken_it(void **state)
{
    struct memory *memory = *state;
    put(memory, 0, "", 0);
    deliver(memory);
    uint32_t sequence = memory->delivery.sequence;
    answer_sized(memory, 0, "disk full", 0x7FFFFFFF);
    frame_store_u32(page(memory, 0) + FRAME_TAKEN, 0);
    assert_int_equal(look(memory), CONSUME_PENDING);
    frame_store_u32(page(memory, 0) + FRAME_TAKEN, sequence);
    assert_int_equal(look(memory), CONSUME_REFUSED);
    assert_string_equal(memory->consume.reason, "disk full");
    assert_null(memory->consume.reply);
}

static void use_for_something_else(struct memory *memory)
{
    memset(page(memory, 0), 0, FRAME_SIZE);
}

static void take_another(struct memory *memory)
{
    frame_store_u32(page(memory, 0) + FRAME_TAKEN, 2);
}

/* Whatever a page becomes between two looks, what was read of it before is not believed. */
static void page_that_changes_while_its_reply_is_read_is_no_ack(void **state)
{
    static void (*const acts[])(struct memory *) = {use_for_something_else, take_another};
    struct memory *memory = *state;
    for (size_t i = 0; i < array_length(acts); i++)
        for (size_t read = 1; read <= 3; read++) {
            put(memory, 0, "", 0);
            deliver(memory);
            answer(memory, 0, "{\"a\":1}");
            memory->act_at = read;
            memory->act = acts[i];
            assert_int_not_equal(look(memory), CONSUME_APPLIED);
            assert_null(memory->consume.reply);
            assert_int_equal(memory->reads >= read, true);
        }
}

static void plain_frame_is_read_as_often_as_ever(void **state)
{
    struct memory *memory = *state;
    frames_put(page(memory, 0), FRAME_FORK, "m", "t", 0, "");
    deliver(memory);
    assert_int_equal(look(memory), CONSUME_PENDING);
    assert_int_equal(memory->reads, 1);
    memset(page(memory, 0) + 256, 0, FRAME_SIZE - 256);
    assert_int_equal(look(memory), CONSUME_APPLIED);
    assert_int_equal(memory->reads, 3);
}

/* ---- saving ---- */

static void save(struct memory *memory)
{
    auto_json cJSON *records = cJSON_CreateArray();
    json_append(records, rearm_record(&memory->delivery));
    if (rearm_image(memory->fd, records, NULL, &memory->err) < 0)
        fail_msg("%s", memory->err.text);
}

static bool holds(struct memory *memory, const char *text)
{
    return memmem(memory->bytes, IMAGE_SIZE, text, strlen(text)) != NULL;
}

static void saved_image_has_neither_reply_nor_payload(void **state)
{
    struct memory *memory = *state;
    put(memory, 0, "", 0);
    frames_put(page(memory, 1), FRAME_FORK, "m", "t", 0, "");
    put(memory, 2, "", 0);
    deliver(memory);
    answer(memory, 2, "{\"reply\":\"nor this\"}");
    uint32_t sequence = memory->delivery.sequence;
    save(memory);
    assert_true(frames_is_empty(page(memory, 2), FRAME_FORK, sequence));
    assert_true(frames_is_empty(page(memory, 0), FRAME_FORK, 0));
    assert_int_equal(field(memory, 1, 256), 0);
    assert_int_equal(field(memory, 1, 260), 0); /* a plain frame stays one */
    assert_false(holds(memory, "do not keep"));
    assert_false(holds(memory, "nor this"));
    deliver(memory);
}

static void saved_refusal_is_declared_again(void **state)
{
    struct memory *memory = *state;
    put(memory, 0, "", 0);
    deliver(memory);
    answer_sized(memory, 0, "why", 0x7FFFFFFF);
    uint32_t sequence = memory->delivery.sequence;
    save(memory);
    assert_true(frames_is_empty(page(memory, 0), FRAME_FORK, sequence));
}

static void payload_that_nobody_took_stays_in_the_saved_image(void **state)
{
    struct memory *memory = *state;
    put(memory, 0, "", 0);
    put(memory, 1, "", 0);
    deliver(memory);
    frame_store_u32(page(memory, 0) + 256, 0); /* armed, by whatever: it has not taken it */
    save(memory);
    assert_int_equal(field(memory, 1, 256), memory->delivery.sequence);
    assert_true(holds(memory, "do not keep"));
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(armed_frame_with_and_without_a_reply_is_found_declared),
        test(frame_that_is_not_armed_or_no_page_is_not_declared),
        test(refusal_is_declared_by_what_was_taken),
        test(index_keeps_what_is_declared_apart_from_the_list),
        test(index_that_is_damaged_is_refused),
        test(declared_frames_get_one_random_sequence_and_plain_ones_get_1),
        test(payload_has_room_up_to_the_tail),
        test(frame_that_the_index_does_not_know_to_be_declared_is_treated_as_one),
        test(frame_is_consumed_when_it_has_taken_the_sequence),
        test(frame_that_is_armed_and_has_not_taken_it_is_no_ack),
        test(reply_is_taken_byte_for_byte),
        test(reply_may_fill_the_frame),
        test(reply_that_is_none_is_told_and_not_shown),
        test(reply_that_is_nested_too_deeply_is_told),
        test(refusal_of_a_declared_frame_must_have_taken_it),
        test(page_that_changes_while_its_reply_is_read_is_no_ack),
        test(plain_frame_is_read_as_often_as_ever),
        test(saved_image_has_neither_reply_nor_payload),
        test(saved_refusal_is_declared_again),
        test(payload_that_nobody_took_stays_in_the_saved_image),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
