/* SPDX-License-Identifier: MIT */
#include "util/text.h"

#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/utf8.h"

void text_make_printable(char *text, size_t size, char instead)
{
    bool utf8 = utf8_valid(text, size);
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        if (utf8 && c == 0xC2 && (unsigned char)text[i + 1] < 0xA0) /* C1: two bytes */
            text[i] = text[i + 1] = instead;
        else if (c < 0x20 || c == 0x7F)
            text[i] = instead;
        else if (c >= 0x80 && !utf8)
            text[i] = '?';
    }
}

/* The character of `length` bytes there, at most three of which matter. */
static unsigned code_point(const char *text, size_t length)
{
    const unsigned char *bytes = (const unsigned char *)text;
    if (length == 1)
        return bytes[0];
    if (length == 2)
        return (bytes[0] & 0x1FU) << 6 | (bytes[1] & 0x3FU);
    return (bytes[0] & 0x0FU) << 12 | (bytes[1] & 0x3FU) << 6 | (bytes[2] & 0x3FU);
}

static bool acts(unsigned code)
{
    static const struct {
        unsigned first, last;
    } ranges[] = {{0, 0x1F}, {0x7F, 0x9F}, {0x2028, 0x2029}, {0x202A, 0x202E}, {0x2066, 0x2069}};
    for (size_t i = 0; i < array_length(ranges); i++)
        if (code >= ranges[i].first && code <= ranges[i].last)
            return true;
    return false;
}

/* Nearly all is such: bytes of ASCII that stay as they are. */
static size_t count_plain(const char *text, size_t size)
{
    size_t count = 0;
    while (count < size && text[count] >= 0x20 && text[count] < 0x7F)
        count++;
    return count;
}

size_t text_escape(const char *text, size_t size, const char *keep, char *ret, size_t room)
{
    size_t needed = 0, used = 0, length;
    for (size_t at = 0; at < size; at += length) {
        char escape[8] = "?";
        const char *from = escape;
        if ((length = count_plain(text + at, size - at)) > 0) {
            size_t left = needed == used && used + 1 < room ? room - 1 - used : 0;
            size_t fits = length < left ? length : left;
            if (fits > 0)
                memcpy(ret + used, text + at, fits);
            used += fits;
            needed += length;
            continue;
        }
        length = utf8_first(text + at, size - at);
        unsigned code = length > 0 && length < 4 ? code_point(text + at, length) : 'x';
        size_t bytes = length;
        if (length == 0) /* no UTF-8 */
            length = bytes = 1;
        else if (acts(code) && !(code > 0 && code < 0x80 && strchr(keep, (int)code)))
            bytes = (size_t)snprintf(escape, sizeof escape, "\\u%04x", code);
        else
            from = text + at;
        if (needed == used && used + bytes < room) {
            memcpy(ret + used, from, bytes);
            used += bytes;
        }
        needed += bytes;
    }
    if (room > 0)
        ret[used] = '\0';
    return needed;
}

char *text_escaped(const char *text, size_t size, const char *keep)
{
    size_t room = text_escape(text, size, keep, NULL, 0) + 1;
    char *ret = malloc(room);
    if (ret)
        text_escape(text, size, keep, ret, room);
    return ret;
}

static bool begins_character(const char *bytes, size_t size)
{
    size_t at = 1;
    while (at < size && ((unsigned char)bytes[at] & 0xC0) == 0x80)
        at++;
    return (unsigned char)bytes[0] >= 0xC0 && at == size;
}

void text_make_utf8(char *text)
{
    size_t size = strlen(text), at = 0;
    while ((at += utf8_length(text + at, size - at)) < size) {
        bool cut = begins_character(text + at, size - at);
        text[at] = cut ? '\0' : '?';
        size = cut ? at : size;
    }
}

char *text_finish(FILE *memstream, char **text)
{
    bool complete = !ferror(memstream);
    if (fclose(memstream) == 0 && complete)
        return *text;
    free(*text);
    return NULL;
}
