/* SPDX-License-Identifier: MIT */
#include "guest/output.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "util/json_check.h"
#include "util/utf8.h"

static const char before[] = "{\"output\":\"", after[] = "\"}",
                  with_dropped[] = "\",\"dropped\":%" PRIu64 "}";
enum { DROPPED_DIGITS = 20, ESCAPED_MAX = 6 };

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

void output_add(struct output *output, const char *text, size_t size)
{
    size_t first = least(size, sizeof output->head - output->head_size);
    memcpy(output->head + output->head_size, text, first);
    output->head_size += first;
    output->size += size;
    text += first;
    size -= first;
    size_t kept = least(size, sizeof output->tail);
    size_t room = sizeof output->tail - kept;
    if (output->tail_size > room) {
        memmove(output->tail, output->tail + (output->tail_size - room), room);
        output->tail_size = room;
    }
    memcpy(output->tail + output->tail_size, text + (size - kept), kept);
    output->tail_size += kept;
}

/* The first character as it is in a JSON string; *ret_step bytes of the text are in it. */
static size_t escape(const char *text, size_t size, char ret[ESCAPED_MAX + 1], size_t *ret_step)
{
    static const char plain[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    size_t length = utf8_first(text, size);
    const char *found = text[0] ? strchr(plain, text[0]) : NULL;
    *ret_step = length ? length : 1;
    if (length == 0)
        return (size_t)snprintf(ret, ESCAPED_MAX + 1, "?");
    if (found)
        return (size_t)snprintf(ret, ESCAPED_MAX + 1, "\\%c", letters[found - plain]);
    if (length == 1 && (unsigned char)text[0] < 0x20)
        return (size_t)snprintf(ret, ESCAPED_MAX + 1, "\\u%04x", (unsigned char)text[0]);
    memcpy(ret, text, length);
    return length;
}

/* Whole characters, as many as `room` bytes hold of what they become. Returns how many bytes of the
 * text those are; *ret_used may be NULL. */
static size_t escape_first(const char *text, size_t size, char *ret, size_t room, size_t *ret_used)
{
    size_t at = 0, used = 0, step;
    for (; at < size; at += step) {
        char escaped[ESCAPED_MAX + 1];
        size_t length = escape(text + at, size - at, escaped, &step);
        if (length > room - used)
            break;
        memcpy(ret + used, escaped, length);
        used += length;
    }
    *ret_used = used;
    return at;
}

/* Where the longest end of the text begins of which that holds. */
static size_t find_last(const char *text, size_t size, size_t room)
{
    size_t needed = 0, at = 0, step;
    char escaped[ESCAPED_MAX + 1];
    for (size_t i = 0; i < size; i += step)
        needed += escape(text + i, size - i, escaped, &step);
    for (; needed > room; at += step)
        needed -= escape(text + at, size - at, escaped, &step);
    return at;
}

/* What is left of a character that begins before the text. */
static size_t count_rest(const char *text, size_t size)
{
    size_t count = 0;
    while (count < size && count < UTF8_MAX && ((unsigned char)text[count] & 0xC0) == 0x80)
        count++;
    return count;
}

/* Beginning and end of an output; of `text` all of it, or what was kept from its beginning. */
static size_t cut(const struct output *output, const char *text, size_t size, char *ret, size_t max)
{
    const bool whole = size == output->size;
    const size_t half = (max - sizeof before - sizeof with_dropped - DROPPED_DIGITS) / 2;
    size_t used, more, at = sizeof before - 1;
    size_t first = escape_first(text, whole ? size : output->head_size, ret + at, half, &used);
    const char *rest = whole ? text + first : output->tail;
    size_t left = whole ? size - first : output->tail_size;
    size_t skipped = whole ? 0 : count_rest(rest, left);
    skipped += find_last(rest + skipped, left - skipped, half);
    at += used;
    size_t last = escape_first(rest + skipped, left - skipped, ret + at, half, &more);
    at += more;
    return at + (size_t)snprintf(ret + at, max - at + 1, with_dropped, output->size - first - last);
}

size_t output_reply(const struct output *output, char *ret, size_t max)
{
    char text[2 * OUTPUT_PART_MAX];
    const size_t size = output->head_size + output->tail_size;
    struct json_check check;
    size_t used = 0;
    if (size == 0)
        return 0;
    memcpy(text, output->head, output->head_size);
    memcpy(text + output->head_size, output->tail, output->tail_size);
    bool whole = size == output->size;
    if (whole && json_check(text, size, &check) == JSON_COMPLETE &&
        check.object.end - check.object.start <= max) {
        used = check.object.end - check.object.start;
        memcpy(ret, text + check.object.start, used);
    } else {
        memcpy(ret, before, sizeof before - 1);
        size_t room = max - (sizeof before - 1) - (sizeof after - 1);
        if (!whole || escape_first(text, size, ret + sizeof before - 1, room, &used) < size) {
            used = cut(output, text, size, ret, max);
        } else {
            memcpy(ret + sizeof before - 1 + used, after, sizeof after - 1);
            used += sizeof before - 1 + sizeof after - 1;
        }
    }
    explicit_bzero(text, sizeof text);
    return used;
}
