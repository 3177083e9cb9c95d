/* SPDX-License-Identifier: MIT */
#include "util/text.h"

#include <string.h>

#include "util/json.h"

void text_make_printable(char *text, size_t size, char instead)
{
    bool utf8 = json_utf8_valid(text, size);
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
    while ((at += json_utf8_length(text + at, size - at)) < size) {
        bool cut = begins_character(text + at, size - at);
        text[at] = cut ? '\0' : '?';
        size = cut ? at : size;
    }
}
