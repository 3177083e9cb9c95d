/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "frames.h"
#include "mailbox/deliver.h"
#include "test.h"
#include "util/cleanup.h"

enum { PAGES = 70, IMAGE_SIZE = PAGES * FRAME_SIZE, WRITES_MAX = 8 };

/* A guest's memory that counts what is done to it, and the scan of it when it was saved. */
struct memory {
    uint8_t bytes[IMAGE_SIZE], before[IMAGE_SIZE];
    struct scan scan;
    struct memory_io io;
    size_t size, writes, reads;
    struct {
        uint64_t offset;
        size_t size;
    } written[WRITES_MAX];
    size_t fail_write, fail_read; /* the how manieth fails, from 1; 0: none */
    size_t lose_write;            /* the how manieth says it is done and does nothing */
    struct error err;
};

static int read_memory(void *context, uint64_t offset, void *bytes, size_t size, struct error *err)
{
    struct memory *memory = context;

    assert_true(offset + size <= memory->size);
    if (++memory->reads == memory->fail_read)
        return error_set(err, EIO, "read failed");
    memcpy(bytes, memory->bytes + offset, size);
    return 0;
}

static int write_memory(void *context, uint64_t offset, const void *bytes, size_t size,
                        struct error *err)
{
    struct memory *memory = context;

    assert_true(offset + size <= memory->size);
    if (memory->writes < WRITES_MAX) {
        memory->written[memory->writes].offset = offset;
        memory->written[memory->writes].size = size;
    }
    if (++memory->writes == memory->fail_write)
        return error_set(err, EIO, "write failed");
    if (memory->writes != memory->lose_write)
        memcpy(memory->bytes + offset, bytes, size);
    return 0;
}

static int setup(void **state)
{
    struct memory *memory = calloc(1, sizeof *memory);
    if (!memory)
        return -1;
    memory->io = (struct memory_io){read_memory, write_memory, memory};
    memory->size = IMAGE_SIZE;
    *state = memory;
    return 0;
}

static int teardown(void **state)
{
    struct memory *memory = *state;
    scan_finish(&memory->scan);
    free(memory);
    return 0;
}

/* The memory is saved as it is now. */
static void save(struct memory *memory)
{
    scan_finish(&memory->scan);
    for (size_t at = 0; at < memory->size; at += FRAME_SIZE) {
        size_t size = memory->size - at < FRAME_SIZE ? memory->size - at : FRAME_SIZE;
        assert_int_equal(scan_page(memory->bytes + at, size, at, &memory->scan), 0);
    }
    memcpy(memory->before, memory->bytes, sizeof memory->bytes);
}

static uint8_t *page(struct memory *memory, size_t number)
{
    return memory->bytes + number * FRAME_SIZE;
}

static struct delivery delivery_to(const char *name, const char *token, const char *payload)
{
    return (struct delivery){.kind = FRAME_FORK,
                             .name = name,
                             .token = (const uint8_t *)token,
                             .token_size = token ? strlen(token) : 0,
                             .payload = payload,
                             .payload_size = strlen(payload)};
}

static void assert_located(struct memory *memory, const char *name, const char *token, size_t count,
                           uint64_t first)
{
    struct delivery delivery = delivery_to(name, token, "{}");
    assert_int_equal(deliver_locate(&memory->scan, &delivery, &memory->err), 0);
    assert_int_equal(delivery.target_count, count);
    assert_int_equal(delivery.targets[0]->offset, first);
}

static void assert_not_located(struct memory *memory, const char *name, const char *token,
                               const char *payload, int code, const char *why)
{
    struct delivery delivery = delivery_to(name, token, payload);
    delivery.target_count = 77;
    assert_int_equal(deliver_locate(&memory->scan, &delivery, &memory->err), -code);
    assert_int_equal(memory->err.code, code);
    assert_int_equal(delivery.target_count, 77);
    if (!strstr(memory->err.text, why) || !strstr(memory->err.text, name))
        fail_msg("\"%s\" is not about \"%s\": %s", memory->err.text, name, why);
}

static void locate_when_there_is_none_says_enoent(void **state)
{
    struct memory *memory = *state;

    frames_arm(page(memory, 0), "name", "t");
    frames_put(page(memory, 1), FRAME_NETWORK, "", "t", 0, "");
    save(memory);
    assert_not_located(memory, "names", NULL, "{}", ENOENT,
                       "not in the memory image: its software must have armed it");
    assert_not_located(memory, "nam", "t", "{}", ENOENT,
                       "not in the memory image: its software must have armed it");
    assert_null(strstr(memory->err.text, "4096"));
    memory->scan.truncated = true;
    assert_not_located(memory, "nam", "t", "{}", ENOENT, "4096");
}

static void locate_when_the_token_is_another_says_ekeyrejected_and_no_token(void **state)
{
    struct memory *memory = *state;

    frames_arm(page(memory, 0), "name", "right");
    save(memory);
    assert_not_located(memory, "name", "wrong", "{}", EKEYREJECTED, "token");
    assert_null(strstr(memory->err.text, "wrong"));
    assert_null(strstr(memory->err.text, "right"));
    assert_not_located(memory, "name", "righ", "{}", EKEYREJECTED, "token");
    assert_not_located(memory, "name", "right2", "{}", EKEYREJECTED, "token");
}

static void locate_when_several_tokens_are_there_wants_one(void **state)
{
    struct memory *memory = *state;

    frames_arm(page(memory, 0), "name", "one");
    frames_arm(page(memory, 1), "name", "two");
    frames_arm(page(memory, 2), "name", "one");
    save(memory);
    assert_not_located(memory, "name", NULL, "{}", ENOTUNIQ, "several tokens");
    assert_located(memory, "name", "one", 2, 0);
    assert_located(memory, "name", "two", 1, FRAME_SIZE);
}

static void locate_when_an_unaligned_copy_is_beside_an_aligned_one_leaves_it_out(void **state)
{
    struct memory *memory = *state;

    frames_arm(page(memory, 0) + 8, "name", "one");
    frames_arm(page(memory, 1), "name", "one");
    save(memory);
    assert_located(memory, "name", NULL, 1, FRAME_SIZE);
    assert_located(memory, "name", "one", 1, FRAME_SIZE);
}

static void locate_when_a_token_is_given_prefers_its_aligned_frames_only(void **state)
{
    struct memory *memory = *state;

    frames_arm(page(memory, 0), "name", "one");
    frames_arm(page(memory, 1) + 8, "name", "two");
    save(memory);
    assert_located(memory, "name", "two", 1, FRAME_SIZE + 8);
    assert_located(memory, "name", "one", 1, 0);
    assert_not_located(memory, "name", NULL, "{}", ENOTUNIQ, "several tokens");
}

static void locate_when_one_clean_unaligned_frame_is_all_takes_it(void **state)
{
    struct memory *memory = *state;

    frames_arm(page(memory, 1) + 100, "zero", "t");
    frames_put(page(memory, 2) + 100, FRAME_FORK, "earlier", "t", 0, "{\"a\":1}");
    frames_put(page(memory, 3) + 100, FRAME_FORK, "refused", "t", 0, "no");
    frame_store_u32(page(memory, 3) + 100 + 260, FRAME_REFUSED);
    save(memory);
    assert_located(memory, "zero", NULL, 1, FRAME_SIZE + 100);
    assert_located(memory, "earlier", NULL, 1, 2 * FRAME_SIZE + 100);
    assert_located(memory, "refused", NULL, 1, 3 * FRAME_SIZE + 100);
}

static void locate_when_unaligned_frames_are_several_or_not_clean_refuses(void **state)
{
    struct memory *memory = *state;

    frames_arm(page(memory, 1) + 100, "two", "t");
    frames_arm(page(memory, 2) + 100, "two", "t");
    frames_arm(page(memory, 3) + 100, "dirty", "t");
    page(memory, 3)[FRAME_SIZE - 1] = 1;
    frames_put(page(memory, 4) + 100, FRAME_FORK, "pending", "t", 1, "{}");
    frames_arm(page(memory, 5) + 100, "tokens", "t1");
    frames_arm(page(memory, 6) + 100, "tokens", "t2");
    save(memory);
    assert_not_located(memory, "two", NULL, "{}", ENOTUNIQ, "begins at a page");
    assert_not_located(memory, "two", "t", "{}", ENOTUNIQ, "begins at a page");
    assert_not_located(memory, "dirty", NULL, "{}", EBUSY, "other data");
    assert_not_located(memory, "pending", NULL, "{}", EBUSY, "pending");
    assert_not_located(memory, "tokens", NULL, "{}", ENOTUNIQ, "several tokens");
    assert_located(memory, "tokens", "t2", 1, 6 * FRAME_SIZE + 100);
}

static void locate_when_an_aligned_frame_has_other_bytes_in_it_takes_it(void **state)
{
    struct memory *memory = *state;

    frames_put(page(memory, 0), FRAME_FORK, "name", "t", 0, "not json");
    save(memory);
    assert_located(memory, "name", NULL, 1, 0);
}

static void locate_when_any_aligned_copy_is_pending_says_ebusy(void **state)
{
    struct memory *memory = *state;

    frames_arm(page(memory, 0), "name", "t");
    frames_put(page(memory, 1), FRAME_FORK, "name", "t", 2, "{}");
    save(memory);
    assert_not_located(memory, "name", NULL, "{}", EBUSY, "pending");
}

static void locate_when_there_are_64_copies_takes_all_and_with_65_none(void **state)
{
    struct memory *memory = *state;

    for (size_t i = 0; i < 64; i++)
        frames_arm(page(memory, i), "name", "t");
    save(memory);
    assert_located(memory, "name", NULL, 64, 0);
    frames_arm(page(memory, 64), "name", "t");
    save(memory);
    assert_not_located(memory, "name", NULL, "{}", ENOTUNIQ, "65 copies");
    assert_not_located(memory, "name", "t", "{}", ENOTUNIQ, "65 copies");
}

static void locate_when_the_payload_is_too_large_says_efbig_and_both_sizes(void **state)
{
    struct memory *memory = *state;
    char payload[FRAME_CAPACITY + 2] = "";

    frames_arm(page(memory, 0), "aligned", "t");
    frames_arm(page(memory, 1) + 1000, "odd", "t");
    frames_arm(page(memory, PAGES - 1), "last", "t");
    memory->size = IMAGE_SIZE - FRAME_SIZE + 264 + 20;
    save(memory);
    memset(payload, ' ', FRAME_CAPACITY + 1);
    assert_not_located(memory, "aligned", NULL, payload, EFBIG, "3833 bytes");
    assert_non_null(strstr(memory->err.text, "3832"));
    struct delivery delivery = delivery_to("aligned", NULL, payload + 1);
    assert_int_equal(deliver_locate(&memory->scan, &delivery, NULL), 0);
    payload[2833] = 0;
    assert_not_located(memory, "odd", NULL, payload, EFBIG, "2832");
    payload[2832] = 0;
    delivery = delivery_to("odd", NULL, payload);
    assert_int_equal(deliver_locate(&memory->scan, &delivery, NULL), 0);
    payload[21] = 0;
    assert_not_located(memory, "last", NULL, payload, EFBIG, "20");
    payload[20] = 0;
    delivery = delivery_to("last", NULL, payload);
    assert_int_equal(deliver_locate(&memory->scan, &delivery, NULL), 0);
}

static void locate_of_the_network_mailbox_takes_no_fork_mailbox(void **state)
{
    struct memory *memory = *state;
    struct delivery delivery = delivery_to("", NULL, "{}");

    delivery.kind = FRAME_NETWORK;
    frames_arm(page(memory, 0), "name", "t");
    save(memory);
    assert_int_equal(deliver_locate(&memory->scan, &delivery, &memory->err), -ENOENT);
    assert_non_null(strstr(memory->err.text, "resume-network"));
}

/* Three mailboxes, the first with a twin; located. */
static void locate_three(struct memory *memory, struct delivery deliveries[3])
{
    frames_arm(page(memory, 1), "a", "t");
    frames_arm(page(memory, 2), "a", "t");
    frames_arm(page(memory, 3), "b", "t");
    frames_arm(page(memory, 4) + 64, "c", "t");
    save(memory);
    deliveries[0] = delivery_to("a", NULL, "{\"n\":1}");
    deliveries[1] = delivery_to("b", NULL, "{\"n\":22}");
    deliveries[2] = delivery_to("c", NULL, "{\"n\":333}");
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(deliver_locate(&memory->scan, &deliveries[i], &memory->err), 0);
}

static void preflight_when_all_is_as_it_was_saved_passes_and_writes_nothing(void **state)
{
    struct memory *memory = *state;
    struct delivery deliveries[3];

    locate_three(memory, deliveries);
    assert_int_equal(deliver_preflight(&memory->io, deliveries, 3, &memory->err), 0);
    assert_int_equal(memory->writes, 0);
    assert_int_equal(memory->reads, 4);
}

/* Changes one byte of the memory that was saved; what does the preflight say then? */
static void assert_preflight_fails(struct memory *memory, struct delivery *deliveries,
                                   size_t offset, uint8_t byte, int code, const char *why)
{
    uint8_t was = memory->bytes[offset];

    memory->bytes[offset] = byte;
    assert_int_equal(deliver_preflight(&memory->io, deliveries, 3, &memory->err), -code);
    if (!strstr(memory->err.text, why))
        fail_msg("\"%s\" is not: %s", memory->err.text, why);
    memory->bytes[offset] = was;
    assert_int_equal(memory->writes, 0);
    assert_memory_equal(memory->bytes, memory->before, sizeof memory->bytes);
}

static void preflight_when_one_of_several_has_changed_fails_and_writes_nothing(void **state)
{
    struct memory *memory = *state;
    struct delivery deliveries[3];
    const size_t twin = 2 * FRAME_SIZE, b = 3 * FRAME_SIZE, c = 4 * FRAME_SIZE + 64;

    locate_three(memory, deliveries);
    assert_preflight_fails(memory, deliveries, twin, 'h', EIO, "mailbox \"a\": its marker is not");
    assert_preflight_fails(memory, deliveries, twin + 24, 'x', EIO, "\"a\": its marker is not");
    assert_preflight_fails(memory, deliveries, twin + 26, 'x', EIO, "\"a\": its marker is not");
    assert_preflight_fails(memory, deliveries, twin + 255, 1, EIO, "\"a\": its marker is not");
    assert_preflight_fails(memory, deliveries, b + 256, 1, EBUSY, "\"b\": it is pending");
    assert_preflight_fails(memory, deliveries, b + 259, 1, EBUSY, "\"b\": it is pending");
    assert_preflight_fails(memory, deliveries, c + 27, 'x', EIO, "\"c\": its marker is not");
    assert_preflight_fails(memory, deliveries, c + 256, 1, EBUSY, "\"c\": it is pending");
    assert_preflight_fails(memory, deliveries, 5 * FRAME_SIZE - 1, 1, EBUSY, "\"c\": it does not");
    assert_int_equal(deliver_preflight(&memory->io, deliveries, 3, &memory->err), 0);
}

static void preflight_when_the_frame_has_moved_within_its_page_fails(void **state)
{
    struct memory *memory = *state;
    struct delivery delivery = delivery_to("a", NULL, "{}");

    frames_arm(page(memory, 1), "a", "t");
    save(memory);
    assert_int_equal(deliver_locate(&memory->scan, &delivery, &memory->err), 0);
    memset(page(memory, 1), 0, FRAME_SIZE);
    frames_arm(page(memory, 1) + 64, "a", "t");
    assert_int_equal(deliver_preflight(&memory->io, &delivery, 1, &memory->err), -EIO);
}

static void preflight_when_memory_cannot_be_read_fails_with_the_mailbox_named(void **state)
{
    struct memory *memory = *state;
    struct delivery deliveries[3];

    locate_three(memory, deliveries);
    memory->fail_read = 4;
    assert_int_equal(deliver_preflight(&memory->io, deliveries, 3, &memory->err), -EIO);
    assert_string_equal(memory->err.text, "mailbox \"c\": read failed");
}

static void preflight_when_the_image_ends_behind_the_frame_reads_no_further(void **state)
{
    struct memory *memory = *state;
    struct delivery delivery = delivery_to("last", NULL, "{}");

    frames_arm(page(memory, PAGES - 1), "last", "t");
    memory->size = IMAGE_SIZE - FRAME_SIZE + 264 + 2;
    save(memory);
    assert_int_equal(deliver_locate(&memory->scan, &delivery, &memory->err), 0);
    assert_int_equal(deliver_preflight(&memory->io, &delivery, 1, &memory->err), 0);
    assert_int_equal(deliver_write(&memory->io, &delivery, 1, &memory->err), 0);
    assert_memory_equal(page(memory, PAGES - 1) + 264, "{}", 2);
}

static void write_puts_payload_then_length_then_sequence_and_nothing_else(void **state)
{
    struct memory *memory = *state;
    struct delivery deliveries[3];
    const size_t frames[] = {FRAME_SIZE, 2 * FRAME_SIZE, 3 * FRAME_SIZE, 4 * FRAME_SIZE + 64};
    const char *const payloads[] = {"{\"n\":1}", "{\"n\":1}", "{\"n\":22}", "{\"n\":333}"};

    locate_three(memory, deliveries);
    assert_int_equal(deliver_write(&memory->io, deliveries, 3, &memory->err), 0);
    assert_int_equal(memory->writes, 12);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(memory->written[3 * i].offset, frames[i] + 264);
        assert_int_equal(memory->written[3 * i].size, 7);
        assert_int_equal(memory->written[3 * i + 1].offset, frames[i] + 260);
        assert_int_equal(memory->written[3 * i + 1].size, 4);
        assert_int_equal(memory->written[3 * i + 2].offset, frames[i] + 256);
        assert_int_equal(memory->written[3 * i + 2].size, 4);
    }
    for (size_t i = 0; i < array_length(frames); i++) {
        frame_store_u32(memory->before + frames[i] + 256, 1);
        frame_store_u32(memory->before + frames[i] + 260, (uint32_t)strlen(payloads[i]));
        memcpy(memory->before + frames[i] + 264, payloads[i], strlen(payloads[i]));
    }
    assert_memory_equal(memory->bytes, memory->before, sizeof memory->bytes);
}

static void write_to_the_network_mailbox_uses_its_own_layout(void **state)
{
    struct memory *memory = *state;
    struct delivery delivery = delivery_to("", NULL, "{\"mac\":\"x\"}");

    delivery.kind = FRAME_NETWORK;
    frames_put(page(memory, 1), FRAME_NETWORK, "", "t", 0, "");
    save(memory);
    assert_int_equal(deliver_locate(&memory->scan, &delivery, &memory->err), 0);
    assert_int_equal(deliver_preflight(&memory->io, &delivery, 1, &memory->err), 0);
    assert_int_equal(deliver_write(&memory->io, &delivery, 1, &memory->err), 0);
    assert_memory_equal(page(memory, 1) + 64, "\1\0\0\0\x0B\0\0\0{\"mac\":\"x\"}", 8 + 11);
}

static void write_when_memory_fails_or_forgets_says_eio(void **state)
{
    struct memory *memory = *state;
    struct delivery deliveries[3];

    locate_three(memory, deliveries);
    for (size_t i = 1; i <= 12; i++) {
        memory->writes = 0;
        memory->fail_write = i;
        assert_int_equal(deliver_write(&memory->io, deliveries, 3, &memory->err), -EIO);
        assert_int_equal(memory->writes, i);
        memory->fail_write = memory->writes = 0;
        memory->lose_write = i;
        memcpy(memory->bytes, memory->before, sizeof memory->bytes);
        assert_int_equal(deliver_write(&memory->io, deliveries, 3, &memory->err), -EIO);
        assert_non_null(strstr(memory->err.text, "read back"));
        memory->lose_write = 0;
    }
    memory->reads = 0;
    memory->fail_read = 2;
    assert_int_equal(deliver_write(&memory->io, deliveries, 3, &memory->err), -EIO);
    assert_string_equal(memory->err.text, "mailbox \"a\": read failed");
}

static void write_when_two_frames_overlap_says_eio(void **state)
{
    struct memory *memory = *state;
    struct delivery deliveries[2] = {delivery_to("outer", NULL, "{\"long enough\":true}"),
                                     delivery_to("inner", NULL, "{}")};

    frames_arm(page(memory, 1), "outer", "t");
    frames_arm(page(memory, 1) + 264 + 8, "inner", "t");
    save(memory);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(deliver_locate(&memory->scan, &deliveries[i], &memory->err), 0);
    assert_int_equal(deliver_preflight(&memory->io, deliveries, 2, &memory->err), 0);
    assert_int_equal(deliver_write(&memory->io, deliveries, 2, &memory->err), -EIO);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(locate_when_there_is_none_says_enoent),
        TEST(locate_when_the_token_is_another_says_ekeyrejected_and_no_token),
        TEST(locate_when_several_tokens_are_there_wants_one),
        TEST(locate_when_an_unaligned_copy_is_beside_an_aligned_one_leaves_it_out),
        TEST(locate_when_a_token_is_given_prefers_its_aligned_frames_only),
        TEST(locate_when_one_clean_unaligned_frame_is_all_takes_it),
        TEST(locate_when_unaligned_frames_are_several_or_not_clean_refuses),
        TEST(locate_when_an_aligned_frame_has_other_bytes_in_it_takes_it),
        TEST(locate_when_any_aligned_copy_is_pending_says_ebusy),
        TEST(locate_when_there_are_64_copies_takes_all_and_with_65_none),
        TEST(locate_when_the_payload_is_too_large_says_efbig_and_both_sizes),
        TEST(locate_of_the_network_mailbox_takes_no_fork_mailbox),
        TEST(preflight_when_all_is_as_it_was_saved_passes_and_writes_nothing),
        TEST(preflight_when_one_of_several_has_changed_fails_and_writes_nothing),
        TEST(preflight_when_the_frame_has_moved_within_its_page_fails),
        TEST(preflight_when_memory_cannot_be_read_fails_with_the_mailbox_named),
        TEST(preflight_when_the_image_ends_behind_the_frame_reads_no_further),
        TEST(write_puts_payload_then_length_then_sequence_and_nothing_else),
        TEST(write_to_the_network_mailbox_uses_its_own_layout),
        TEST(write_when_memory_fails_or_forgets_says_eio),
        TEST(write_when_two_frames_overlap_says_eio),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
