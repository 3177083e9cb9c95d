/* SPDX-License-Identifier: MIT */
/* Any bytes that someone may write into a staged mailbox or `options`, whole and in parts. */
#include <stdio.h>
#include <string.h>

#include "fuzz.h"
#include "fork/request.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/utf8.h"

/* Wrong from one byte on, and not before; otherwise each shorter text is incomplete. */
static void check_prefixes(const char *text, size_t size, enum json_status status,
                           const struct json_check *check)
{
    size_t good = status == JSON_INVALID ? check->offset : size;
    size_t step = size / 64 + 1;
    struct json_check part;

    MUST(check->offset <= size && check->line >= 1 && check->column >= 1);
    for (size_t i = 0; i <= good; i += step) {
        enum json_status before = json_check(text, i, &part);
        MUST(before == JSON_INCOMPLETE || (before == JSON_COMPLETE && status != JSON_INCOMPLETE));
    }
    if (status == JSON_INVALID) {
        MUST(json_check(text, good + 1, &part) == JSON_INVALID && part.offset == good);
        MUST(*check->why);
    }
}

static void check_members(const char *text, struct json_span object)
{
    size_t position = object.start, before = object.start + 1;
    struct json_member member;

    MUST(text[object.start] == '{' && text[object.end - 1] == '}');
    while (json_next_member(text, object, &position, &member)) {
        MUST(member.name.start > before - 1 && member.name.start <= member.name.end);
        MUST(member.name.end < member.value.start && member.value.start < member.value.end);
        MUST(member.value.end < object.end && position == member.value.end);
        MUST(text[member.name.start - 1] == '"' && text[member.name.end] == '"');
        before = member.value.end;
        if (text[member.value.start] == '{') {
            struct json_check inner;
            size_t size = member.value.end - member.value.start;
            MUST(json_check(text + member.value.start, size, &inner) == JSON_COMPLETE);
            MUST(inner.object.start == 0 && inner.object.end == size);
        }
    }
}

static bool check_request(const char *text, struct json_span object, const struct fork_rules *rules)
{
    struct fork_mailbox mailbox = {.name = "name"};
    struct error err = {0};
    struct json_check check;

    int r = fork_parse_mailbox(text, object, rules, &mailbox, &err);
    MUST(fork_parse_mailbox(text, object, rules, NULL, NULL) == r);
    if (r < 0) {
        MUST(err.code == -r && *err.text && utf8_valid(err.text, strlen(err.text)));
        return false;
    }
    MUST(memmem(text, object.end, mailbox.payload, mailbox.payload_size));
    struct json_span all = {.start = 0, .end = mailbox.payload_size};
    bool identity = fork_check_payload(mailbox.payload, all, &mailbox, true, NULL) == 0;
    if (mailbox.wait_for_ack && mailbox.how != FORK_ACK_MEMORY)
        MUST(fork_append(&mailbox, "\"ack_port\":65535", &err) == 0);
    if (mailbox.wait_for_ack && mailbox.how == FORK_ACK_KEYED)
        MUST(fork_append(&mailbox, "\"ack_key\":\"00112233445566778899aabbccddeeff\"", &err) == 0);
    if (identity) {
        char member[FORK_IDENTITY_MAX];
        snprintf(member, sizeof member, "\"fork\":\"%0*d\"", FORK_IDENTITY_MAX - 10, 0);
        MUST(fork_append(&mailbox, member, &err) == 0);
    }
    MUST(mailbox.payload_size <= FRAME_CAPACITY);
    MUST(json_check(mailbox.payload, mailbox.payload_size, &check) == JSON_COMPLETE);
    MUST(check.object.start == 0 && check.object.end == mailbox.payload_size);
    free(mailbox.payload);
    return true;
}

static bool check_options(const char *text, size_t size)
{
    struct fork_options options = {0};
    struct error err = {0};

    int r = fork_parse_options(text, size, &options, &err);
    MUST(fork_parse_options(text, size, NULL, NULL) == r);
    MUST(r == 0 || (err.code == -r && *err.text));
    free(options.ack_address);
    free(options.tap);
    cJSON_Delete(options.taps);
    return r == 0;
}

static bool check_network(const char *text, size_t size)
{
    struct fork_network network = {0};
    struct error err = {0};
    struct json_check check;

    const struct fork_rules rules = {.ack = FORK_ACK_KEYED};
    int r = fork_parse_network(text, size, &rules, &network, &err);
    MUST(fork_parse_network(text, size, &rules, NULL, NULL) == r);
    MUST(r == 0 || (err.code == -r && *err.text));
    if (r == 0)
        MUST(json_check(network.mailbox.payload, network.mailbox.payload_size, &check) ==
             JSON_COMPLETE);
    free(network.mailbox.payload);
    return r == 0;
}

bool fuzz(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    struct json_check check;

    enum json_status status = json_check(text, size, &check);
    check_prefixes(text, size, status, &check);
    bool options = check_options(text, size), network = check_network(text, size);
    if (status != JSON_COMPLETE)
        return options || network;
    MUST(check.object.end <= size && !memchr(data, 0, size));
    check_members(text, check.object);
    bool request = false;
    for (enum fork_ack ack = 0; fork_ack_words[ack]; ack++)
        request |= check_request(text, check.object, &(const struct fork_rules){.ack = ack});
    return request || options || network;
}
