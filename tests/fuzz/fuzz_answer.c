/* SPDX-License-Identifier: MIT */
/*
 * What a guest tells the host: whatever is in a payload, and whatever a hook printed, the datagram
 * is one that the host takes. The first line of the input is the reason; behind it is the payload.
 * Taken: the payload asks for an ack.
 */
#include <stdio.h>
#include <string.h>

#include "fuzz.h"
#include "guest/internal.h"
#include "mailbox/ack.h"
#include "util/json.h"
#include "util/utf8.h"

static void check_datagram(const struct hypefs_mailbox *box, const char *reason)
{
    struct ack_message message;
    char text[2 * ACK_DATAGRAM_MAX];
    int size = snprintf(text, sizeof text, "stage=failed%s%s%s reason=%s", box->subject,
                        box->ack_key[0] ? " key=" : "", box->ack_key, reason);
    for (int i = size - (int)strlen(reason); i < size; i++)
        text[i] = text[i] == ' ' ? '_' : text[i];
    MUST(size <= ACK_DATAGRAM_MAX && ack_parse(text, (size_t)size, &message));
    MUST(message.stage == ACK_FAILED && message.reason.size == strlen(reason));
}

static void check_box(const char *payload, size_t size, enum frame_kind kind, const char *reason,
                      bool *ret_port)
{
    static struct hypefs_mailbox box;
    memset(&box, 0, sizeof box);
    box.layout = &frame_layouts[kind];
    snprintf(box.name, sizeof box.name, "%s", kind == FRAME_FORK ? "a.name" : "");
    memcpy(box.payload, payload, size);
    box.payload_size = size;
    box.in_hand = true;
    guest_answer_prepare(&box);
    check_datagram(&box, reason);
    *ret_port = box.ack_port != 0;
}

bool fuzz(const uint8_t *data, size_t size)
{
    char reason[FRAME_SIZE], clean[FRAME_REASON_MAX + 1];
    const uint8_t *line = memchr(data, '\n', size);
    size_t line_size = line ? (size_t)(line - data) : 0;
    bool fork_port, network_port;
    if (!line || line_size >= sizeof reason || size - line_size - 1 >= FRAME_SIZE)
        return false;
    memcpy(reason, data, line_size);
    reason[line_size] = '\0';
    guest_reason_clean(reason, clean);
    MUST(clean[0] && strlen(clean) <= FRAME_REASON_MAX && utf8_valid(clean, strlen(clean)));
    const char *payload = (const char *)line + 1;
    check_box(payload, size - line_size - 1, FRAME_FORK, clean, &fork_port);
    check_box(payload, size - line_size - 1, FRAME_NETWORK, clean, &network_port);
    MUST(fork_port == network_port);
    FILE *routes = size > 0 ? fmemopen((void *)(uintptr_t)data, size, "r") : NULL;
    struct in_addr gateway;
    if (routes) {
        guest_gateway_read(routes, &gateway);
        fclose(routes);
    }
    return fork_port;
}
