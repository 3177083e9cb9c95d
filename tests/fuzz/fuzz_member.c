/* SPDX-License-Identifier: MIT */
/* What a guest reads of a payload: members, an identity, a network's addresses. The payload is the
 * host's, and what its user wrote. Taken: an object that has one of the members, well-formed. */
#include <string.h>

#include "fuzz.h"
#include "guest/internal.h"
#include "guest/network.h"
#include "util/json.h"

enum { WORD_MAX = 20 };

static const char *const names[] = {"ack_port", "ack_key", "fork", "mac", "ipv4", "prefix"};

static bool check_member(const char *text, size_t size, const char *name,
                         const struct json_check *object)
{
    struct guest_span value = {0};
    char word[WORD_MAX + 1];
    bool found = guest_member_find(text, size, name, &value);
    if (found)
        MUST(value.text >= text && value.text + value.size <= text + size);
    bool is_word = guest_member_word(text, size, name, word, WORD_MAX);
    MUST(is_word ? found && strlen(word) <= WORD_MAX : word[0] == '\0');
    for (const char *c = word; *c; c++)
        MUST(*c > ' ' && *c <= '~' && *c != '\\');
    if (object && found)
        MUST(json_has_member(text, object->object, name) && value.size > 0);
    return found;
}

static void check_network(const char *text, size_t size)
{
    char reason[NETWORK_REASON_MAX + 1];
    struct network_identity identity;
    if (!network_parse(text, size, &identity, reason)) {
        MUST(reason[0]);
        return;
    }
    MUST(identity.interface[0] && !strchr(identity.interface, '/') && identity.prefix <= 32);
    MUST((identity.mac[0] & 1) == 0 &&
         memchr(identity.gateway_text, 0, sizeof identity.gateway_text));
}

static void check_identity(const char *text, size_t size)
{
    static struct hypefs_mailbox box;
    struct hypefs_identity identity;
    if (size >= sizeof box.payload)
        return;
    memcpy(box.payload, text, size);
    box.payload[size] = '\0';
    box.payload_size = size;
    box.in_hand = true;
    if (hypefs_identity_read(&box, &identity) == 0)
        MUST(identity.id[0] && memchr(identity.id, 0, sizeof identity.id) &&
             identity.time_ns >= 0 && identity.generation[0]);
}

bool fuzz(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    struct json_check check;
    bool complete = json_check(text, size, &check) == JSON_COMPLETE, found = false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        found |= check_member(text, size, names[i], complete ? &check : NULL);
    check_network(text, size);
    check_identity(text, size);
    return complete && found;
}
