/* SPDX-License-Identifier: MIT */
/* Replies, on both sides: the bytes are what a hook prints, and what a guest leaves in its frame
 * from the length on. Taken: that is a reply which the host shows. */
#include <string.h>

#include "fuzz.h"
#include "guest/output.h"
#include "mailbox/consume.h"
#include "util/json.h"

enum { REPLY_MAX = 3824, S = 77 };

/* In pieces of that size. */
static void check_output(const char *text, size_t size, size_t piece, size_t max)
{
    struct output output = {0};
    struct json_check check;
    char reply[REPLY_MAX + 1];
    for (size_t at = 0; at < size; at += piece)
        output_add(&output, text + at, size - at < piece ? size - at : piece);
    size_t used = output_reply(&output, reply, max);
    MUST(used <= max && (used == 0) == (size == 0));
    if (size == 0)
        return;
    MUST(json_check(reply, used, &check) == JSON_COMPLETE);
    bool object = json_check(text, size, &check) == JSON_COMPLETE &&
                  check.object.end - check.object.start <= max;
    if (object && size <= OUTPUT_PART_MAX)
        MUST(used == check.object.end - check.object.start &&
             memcmp(reply, text + check.object.start, used) == 0);
    else if (!object)
        MUST(memcmp(reply, "{\"output\":\"", 11) == 0);
}

struct memory {
    uint8_t page[FRAME_SIZE];
};

static int read_page(void *context, uint64_t offset, void *bytes, size_t size, struct error *err)
{
    const struct memory *memory = context;
    (void)err;
    MUST(offset == 0 && size <= sizeof memory->page);
    memcpy(bytes, memory->page, size);
    return 0;
}

static bool check_frame(const uint8_t *data, size_t size, bool declared)
{
    static const struct frame_marker marker = {
        .kind = FRAME_FORK, .name = "m", .token = "t", .token_size = 1};
    struct memory memory = {0};
    const struct memory_io io = {read_page, NULL, &memory};
    const struct candidate target = {.marker = marker, .capacity = FRAME_CAPACITY};
    struct delivery delivery = {.kind = FRAME_FORK,
                                .sequence = S,
                                .target_count = 1,
                                .targets = {&target},
                                .declared = {declared}};
    struct consume consume = {.delivery = &delivery};
    struct json_check check;
    size_t room = FRAME_SIZE - frame_layouts[FRAME_FORK].length;
    MUST(frame_encode_marker(&marker, memory.page) > 0);
    memcpy(memory.page + frame_layouts[FRAME_FORK].length, data, size < room ? size : room);
    frame_store_u32(memory.page + FRAME_TAKEN, S);
    MUST(consume_refresh(&io, &consume, NULL) == 0);
    MUST(consume.state == CONSUME_APPLIED || consume.state == CONSUME_REFUSED);
    bool replied = consume.reply;
    MUST(!replied || (consume.state == CONSUME_APPLIED && !consume.reply_error[0] &&
                      strlen(consume.reply) <= REPLY_MAX &&
                      json_check(consume.reply, strlen(consume.reply), &check) == JSON_COMPLETE));
    consume_finish(&consume);
    return replied;
}

bool fuzz(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    check_output(text, size, 1024, REPLY_MAX);
    check_output(text, size, 7, REPLY_MAX);
    check_output(text, size, size ? size : 1, 64);
    bool plain = check_frame(data, size, false);
    MUST(plain == check_frame(data, size, true));
    return plain;
}
