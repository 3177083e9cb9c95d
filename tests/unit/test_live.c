/* SPDX-License-Identifier: MIT */
/* Frames in a memory that changes, and the memory of a process that is read and written past it. */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "frames.h"
#include "hypervisor/guest_memory.h"
#include "mailbox/live.h"
#include "mailbox/rearm.h"
#include "test.h"
#include "util/cleanup.h"
#include "util/json.h"

enum { PAGES = 6 };
static const char payload[] = "{\"a\":1}";

struct memory {
    uint8_t bytes[PAGES * FRAME_SIZE];
    struct scan list;
    struct delivery delivery;
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

/* Pages 1, 2 and 3 are mailbox m, armed; page 4 is n. They are in the list, and delivered to. */
static void fill(struct memory *memory)
{
    *memory = (struct memory){
        .io = {read_memory, write_memory, memory},
        .delivery = {
            .kind = FRAME_FORK, .name = "m", .payload = payload, .payload_size = strlen(payload)}};
    for (size_t i = 1; i < 5; i++)
        frames_arm(page(memory, i), i < 4 ? "m" : "n", "token");
    assert_int_equal(scan_pages(memory->bytes, sizeof memory->bytes, 0, &memory->list), 0);
    assert_int_equal(memory->list.count, 4);
    assert_int_equal(deliver_locate(&memory->list, &memory->delivery, NULL), 0);
    assert_int_equal(memory->delivery.target_count, 3);
}

static uint32_t sequence(struct memory *memory, size_t number)
{
    return frame_load_u32(page(memory, number) + frame_layouts[FRAME_FORK].sequence);
}

static void take(struct memory *memory, size_t number)
{
    const size_t from = frame_layouts[FRAME_FORK].sequence;
    memset(page(memory, number) + from, 0, FRAME_SIZE - from);
}

static void declare(struct memory *memory, size_t number)
{
    frame_store_u32(page(memory, number) + frame_layouts[FRAME_FORK].length, FRAME_DECLARED);
}

static void refresh_has_the_frames_of_that_name_as_they_are_now(void **state)
{
    struct memory memory;
    struct scan now;
    (void)state;
    fill(&memory);
    memset(page(&memory, 1), 0xab, FRAME_SIZE); /* another program's by now */
    frames_put(page(&memory, 3), FRAME_FORK, "m", "token", 1, payload);
    assert_int_equal(live_refresh(&memory.io, &memory.list, FRAME_FORK, "m", &now, NULL), 0);
    assert_int_equal(now.count, 2);
    assert_int_equal(now.candidates[0].offset, 2 * FRAME_SIZE);
    assert_false(now.candidates[0].pending);
    assert_int_equal(now.candidates[1].offset, 3 * FRAME_SIZE);
    assert_true(now.candidates[1].pending);
    assert_false(now.candidates[0].declared);
    scan_finish(&now);
    declare(&memory, 2);
    assert_int_equal(live_refresh(&memory.io, &memory.list, FRAME_FORK, "m", &now, NULL), 0);
    assert_true(now.candidates[0].declared);
    scan_finish(&now);
    assert_int_equal(live_refresh(&memory.io, &memory.list, FRAME_NETWORK, "", &now, NULL), 0);
    assert_int_equal(now.count, 0);
    scan_finish(&now);
    scan_finish(&memory.list);
}

static void what_nobody_has_taken_is_withdrawn_from_all_copies(void **state)
{
    struct memory memory;
    bool at_work;
    (void)state;
    fill(&memory);
    struct consume consume = {.delivery = &memory.delivery};
    assert_int_equal(deliver_write(&memory.io, &memory.delivery, 1, NULL), 0);
    memset(page(&memory, 1), 0xab, FRAME_SIZE);
    frames_put(page(&memory, 3), FRAME_FORK, "m", "token", 1, "{\"b\":2}"); /* not ours */
    assert_int_equal(live_withdraw(&memory.io, &consume, &at_work, NULL), 0);
    assert_int_equal(consume.state, CONSUME_PENDING);
    assert_false(at_work);
    assert_int_equal(page(&memory, 1)[FRAME_SIZE - 1], 0xab);
    assert_int_equal(sequence(&memory, 2), 0);
    assert_null(memmem(page(&memory, 2), FRAME_SIZE, payload, strlen(payload)));
    assert_int_equal(sequence(&memory, 3), 1);
    scan_finish(&memory.list);
}

static void what_a_guest_is_at_work_on_is_not_withdrawn(void **state)
{
    const struct frame_layout *layout = &frame_layouts[FRAME_FORK];
    struct memory memory;
    bool at_work;
    (void)state;
    fill(&memory);
    struct consume consume = {.delivery = &memory.delivery};
    for (size_t i = 1; i <= 3; i++)
        declare(&memory, i);
    assert_int_equal(deliver_preflight(&memory.io, &memory.delivery, 1, NULL), 0);
    assert_int_equal(deliver_write(&memory.io, &memory.delivery, 1, NULL), 0);
    frame_store_u32(page(&memory, 2) + FRAME_TAKEN, memory.delivery.sequence);
    assert_int_equal(live_withdraw(&memory.io, &consume, &at_work, NULL), 0);
    assert_true(at_work);
    for (size_t i = 1; i <= 3; i++)
        assert_int_equal(sequence(&memory, i), memory.delivery.sequence);
    /* If it was not taken, the frames are declared ones again, without the payload. */
    frame_store_u32(page(&memory, 2) + FRAME_TAKEN, memory.delivery.sequence + 1);
    assert_int_equal(live_withdraw(&memory.io, &consume, &at_work, NULL), 0);
    assert_false(at_work);
    for (size_t i = 1; i <= 3; i++) {
        assert_int_equal(sequence(&memory, i), 0);
        assert_int_equal(frame_load_u32(page(&memory, i) + layout->length), FRAME_DECLARED);
        assert_null(memmem(page(&memory, i), FRAME_SIZE, payload, strlen(payload)));
    }
    assert_int_equal(frame_load_u32(page(&memory, 2) + FRAME_TAKEN), memory.delivery.sequence + 1);
    scan_finish(&memory.list);
}

static void what_was_taken_at_the_last_look_is_not_withdrawn(void **state)
{
    struct memory memory;
    bool at_work;
    (void)state;
    fill(&memory);
    struct consume consume = {.delivery = &memory.delivery};
    assert_int_equal(deliver_write(&memory.io, &memory.delivery, 1, NULL), 0);
    take(&memory, 2);
    assert_int_equal(live_withdraw(&memory.io, &consume, &at_work, NULL), 0);
    assert_false(at_work);
    assert_int_equal(consume.state, CONSUME_APPLIED);
    assert_int_equal(sequence(&memory, 1), 1);
    scan_finish(&memory.list);
}

/* By the record, without the payload. */
static void record_tells_which_copies_can_be_armed_again(void **state)
{
    struct memory memory;
    (void)state;
    fill(&memory);
    auto_json cJSON *records = cJSON_CreateArray();
    json_append(records, rearm_record(&memory.delivery));
    assert_int_equal(deliver_write(&memory.io, &memory.delivery, 1, NULL), 0);
    assert_int_equal(rearm_memory(&memory.io, sizeof memory.bytes, records, NULL), 0);
    assert_int_equal(sequence(&memory, 1), 1); /* none is taken */
    take(&memory, 2);
    assert_int_equal(rearm_memory(&memory.io, sizeof memory.bytes, records, NULL), 0);
    assert_int_equal(sequence(&memory, 1), 0);
    assert_int_equal(sequence(&memory, 3), 0);
    assert_int_equal(deliver_write(&memory.io, &memory.delivery, 1, NULL), 0);
    assert_int_equal(rearm_withdraw(&memory.io, sizeof memory.bytes, records, NULL), 0);
    for (size_t i = 1; i < 4; i++)
        assert_int_equal(sequence(&memory, i), 0);
    scan_finish(&memory.list);
}

static void set_of_pages_is_searched_and_the_rest_is_as_it_was(void **state)
{
    struct memory memory;
    struct scan now;
    struct page_set set;
    (void)state;
    fill(&memory);
    assert_int_equal(page_set_create(sizeof memory.bytes, &set, NULL), 0);
    memset(page(&memory, 1), 0, FRAME_SIZE); /* in the set */
    memset(page(&memory, 2), 0, FRAME_SIZE); /* not in it */
    frames_arm(page(&memory, 5), "late", "token");
    page_set_add(&set, FRAME_SIZE, FRAME_SIZE);
    page_set_add(&set, 5 * FRAME_SIZE, FRAME_SIZE);
    const struct scan_pages_of pages = {.read = read_memory,
                                        .context = &memory,
                                        .size = sizeof memory.bytes,
                                        .set = &set,
                                        .base = &memory.list};
    assert_int_equal(scan_set_of(&pages, NULL, NULL, &now, NULL), 0);
    assert_int_equal(now.count, 4);
    assert_int_equal(now.candidates[0].offset, 2 * FRAME_SIZE);
    assert_string_equal(now.candidates[3].marker.name, "late");
    assert_true(now.candidates[3].first);
    scan_finish(&now);
    scan_finish(&memory.list);
    page_set_finish(&set);
}

/* This process has it as a Firecracker has the memory of a VM that it has booted. */
__attribute__((unused)) static void memory_of_no_file_is_found_by_its_size(void **state)
{
    enum { SIZE = 7 * 1024 * 1024 + 3 * FRAME_SIZE };
    struct guest_memory *memory;
    struct error err = {0};
    char bytes[4] = "";
    int fd = -1;
    (void)state;
    assert_int_equal(guest_memory_open_process(getpid(), &fd, &err), 0);
    assert_int_equal(guest_memory_create_own(getpid(), fd, SIZE, &memory, &err), -EIO);
    assert_non_null(strstr(err.text, "is not known"));
    /* Between two pages without access, so that the kernel joins it with nothing. */
    char *whole = mmap(NULL, SIZE + 2 * FRAME_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(whole, MAP_FAILED);
    char *own = whole + FRAME_SIZE;
    assert_int_equal(mprotect(own, SIZE, PROT_READ | PROT_WRITE), 0);
    assert_int_equal(guest_memory_create_own(getpid(), fd, SIZE, &memory, &err), 0);
    assert_int_equal(guest_memory_write(memory, SIZE - 3, "xyz", 3, NULL), 0);
    assert_memory_equal(own + SIZE - 3, "xyz", 3);
    assert_int_equal(guest_memory_read(memory, SIZE - 3, bytes, 3, NULL), 0);
    assert_string_equal(bytes, "xyz");
    assert_int_equal(guest_memory_read(memory, SIZE - 3, bytes, 4, NULL), -EIO);
    guest_memory_destroy(memory);
    munmap(whole, SIZE + 2 * FRAME_SIZE);

    /* With a heap beside it, from a round address on. */
    enum { LARGE = 64 << 20, HEAP = 33 * FRAME_SIZE };
    whole = mmap(NULL, 3UL * LARGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(whole, MAP_FAILED);
    own = whole + (LARGE - (uintptr_t)whole % LARGE);
    for (int i = 0; i < 2; i++) {
        char *from = i == 0 ? own : own - HEAP;
        assert_int_equal(mprotect(own - HEAP, LARGE + 2L * HEAP, PROT_NONE), 0);
        assert_int_equal(mprotect(from, LARGE + (size_t)HEAP, PROT_READ | PROT_WRITE), 0);
        assert_int_equal(guest_memory_create_own(getpid(), fd, LARGE, &memory, &err), 0);
        assert_int_equal(guest_memory_write(memory, 0, "abc", 3, NULL), 0);
        assert_memory_equal(own, "abc", 3);
        memset(own, 0, 3);
        guest_memory_destroy(memory);
    }
    munmap(whole, 3UL * LARGE);
    close(fd);
}

static void memory_that_is_shared_with_its_file_is_written_in_both(void **state)
{
    struct guest_memory *memory;
    char bytes[4] = "";
    int fd = -1, file = memfd_create("memory", MFD_CLOEXEC);
    (void)state;
    assert_int_equal(ftruncate(file, 2 * FRAME_SIZE), 0);
    char *mapped = mmap(NULL, 2 * FRAME_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    assert_ptr_not_equal(mapped, MAP_FAILED);
    assert_int_equal(guest_memory_open_process(getpid(), &fd, NULL), 0);
    assert_int_equal(guest_memory_create_shared(getpid(), fd, file, &memory, NULL), 0);
    assert_int_equal(guest_memory_write(memory, FRAME_SIZE, "abc", 3, NULL), 0);
    assert_memory_equal(mapped + FRAME_SIZE, "abc", 3);
    assert_int_equal(pread(file, bytes, 3, FRAME_SIZE), 3);
    assert_string_equal(bytes, "abc");
    guest_memory_destroy(memory);
    munmap(mapped, 2 * FRAME_SIZE);
    close(fd);
    close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refresh_has_the_frames_of_that_name_as_they_are_now),
        cmocka_unit_test(what_nobody_has_taken_is_withdrawn_from_all_copies),
        cmocka_unit_test(what_was_taken_at_the_last_look_is_not_withdrawn),
        cmocka_unit_test(what_a_guest_is_at_work_on_is_not_withdrawn),
        cmocka_unit_test(record_tells_which_copies_can_be_armed_again),
        cmocka_unit_test(set_of_pages_is_searched_and_the_rest_is_as_it_was),
#ifndef __SANITIZE_THREAD__ /* which has mappings of its own, as large as a VM's memory */
        cmocka_unit_test(memory_of_no_file_is_found_by_its_size),
#endif
        cmocka_unit_test(memory_that_is_shared_with_its_file_is_written_in_both),
    };
    return cmocka_run_group_tests_name("live", tests, NULL, NULL);
}
