/* SPDX-License-Identifier: MIT */
/* Any datagram that a guest, or who can reach the port, may send. */
#include <string.h>

#include "fuzz.h"
#include "mailbox/ack.h"
#include "util/json.h"
#include "util/utf8.h"

static void check_span(const uint8_t *data, size_t size, struct ack_field field)
{
    const char *start = (const char *)data;
    MUST(field.text ? field.text >= start && field.text + field.size <= start + size
                    : field.size == 0);
}

bool fuzz(const uint8_t *data, size_t size)
{
    struct ack_message message, again;

    if (!ack_parse((const char *)data, size, &message))
        return false;
    const struct ack_field *const fields[] = {
        &message.text, &message.stage_text, &message.mailbox, &message.reason,
        &message.mac,  &message.ip,         &message.key,
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        check_span(data, size, *fields[i]);
    MUST(size <= ACK_DATAGRAM_MAX && utf8_valid(data, size));
    MUST(message.stage_text.size > 0 && !memchr(data, 0, size));
    MUST(ack_parse(message.text.text, message.text.size, &again));
    MUST(again.stage == message.stage && again.text.size == message.text.size);
    return true;
}
