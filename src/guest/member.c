/* SPDX-License-Identifier: MIT */
/* One member of a JSON object, found without a JSON library: the guest has to read the two members
 * that the host appends to payloads, and the few of a network payload, and nothing else. */
#include <string.h>

#include "guest/internal.h"
#include "util/json_walk.h"

bool guest_member_find(const char *text, size_t size, const char *name, struct guest_span *ret)
{
    const struct json_span object = {json_skip(text, 0, size, " \t\n\r"), size};
    const size_t name_size = strlen(name);
    struct json_member member;
    bool found = false;

    if (object.start == size || text[object.start] != '{')
        return false;
    for (size_t at = object.start; json_next_member(text, object, &at, &member);)
        if (member.name.end - member.name.start == name_size &&
            memcmp(text + member.name.start, name, name_size) == 0) {
            *ret = (struct guest_span){.text = text + member.value.start,
                                       .size = member.value.end - member.value.start};
            found = true;
        }
    return found;
}

bool guest_member_word(const char *text, size_t size, const char *name, char *ret, size_t max)
{
    struct guest_span value;

    ret[0] = '\0';
    if (!guest_member_find(text, size, name, &value))
        return false;
    if (value.size < 2 || value.size - 2 > max || value.text[0] != '"')
        return false;
    for (size_t i = 1; i < value.size - 1; i++)
        if (value.text[i] <= ' ' || value.text[i] > '~' || value.text[i] == '\\')
            return false;
    memcpy(ret, value.text + 1, value.size - 2);
    ret[value.size - 2] = '\0';
    return true;
}

bool guest_number(struct guest_span value, int64_t max, int64_t *ret)
{
    int64_t number = 0;
    for (size_t i = 0; i < value.size; i++) {
        const char c = value.text[i];
        if (c < '0' || c > '9' || __builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, c - '0', &number))
            return false;
    }
    *ret = number;
    return value.size > 0 && (value.text[0] != '0' || value.size == 1) && number <= max;
}
