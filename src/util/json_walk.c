/* SPDX-License-Identifier: MIT */
#include "util/json_walk.h"

#include <string.h>

static size_t skip_string(const char *text, size_t at, size_t end)
{
    for (at++; at < end && text[at] != '"'; at++)
        if (text[at] == '\\')
            at++;
    return at < end ? at + 1 : end;
}

size_t json_skip(const char *text, size_t at, size_t end, const char *any)
{
    while (at < end && text[at] && strchr(any, text[at]))
        at++;
    return at;
}

static size_t skip_value(const char *text, size_t at, size_t end)
{
    size_t depth = 0;
    do {
        char c = text[at];
        if (c == '"') {
            at = skip_string(text, at, end);
            continue;
        }
        if (c == '{' || c == '[')
            depth++;
        else if (c == '}' || c == ']')
            depth--;
        at++;
    } while (at < end && (depth > 0 || !strchr(",}] \t\n\r", text[at])));
    return at;
}

bool json_next_item(const char *text, struct json_span array, size_t *position,
                    struct json_span *ret)
{
    size_t at = *position == array.start ? array.start + 1 : *position;
    at = json_skip(text, at, array.end, " \t\n\r,");
    if (at >= array.end || text[at] == ']')
        return false;
    *ret = (struct json_span){at, skip_value(text, at, array.end)};
    *position = ret->end;
    return true;
}

bool json_next_member(const char *text, struct json_span object, size_t *position,
                      struct json_member *ret)
{
    size_t at = *position == object.start ? object.start + 1 : *position;
    at = json_skip(text, at, object.end, " \t\n\r,");
    if (at >= object.end || text[at] != '"')
        return false;
    size_t behind = skip_string(text, at, object.end);
    size_t value = json_skip(text, behind, object.end, " \t\n\r:");
    if (value >= object.end)
        return false;
    ret->name = (struct json_span){at + 1, behind - 1};
    ret->value = (struct json_span){value, skip_value(text, value, object.end)};
    *position = ret->value.end;
    return true;
}
