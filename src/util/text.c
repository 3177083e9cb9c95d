/* SPDX-License-Identifier: MIT */
#include "util/text.h"

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
