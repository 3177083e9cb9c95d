/* SPDX-License-Identifier: MIT */
#include "util/utf8.h"

#include <stdint.h>

/* Table 3-7 of Unicode: how many bytes follow a first byte, and what the second may be. */
static const struct form {
    uint8_t first, last, follow, low, high;
} forms[] = {
    {0x00, 0x7F, 0, 0, 0},       {0xC2, 0xDF, 1, 0x80, 0xBF}, {0xE0, 0xE0, 2, 0xA0, 0xBF},
    {0xE1, 0xEC, 2, 0x80, 0xBF}, {0xED, 0xED, 2, 0x80, 0x9F}, {0xEE, 0xEF, 2, 0x80, 0xBF},
    {0xF0, 0xF0, 3, 0x90, 0xBF}, {0xF1, 0xF3, 3, 0x80, 0xBF}, {0xF4, 0xF4, 3, 0x80, 0x8F},
};

enum utf8_end utf8_step(const void *bytes, size_t size, size_t *at)
{
    const uint8_t *byte = bytes;
    const struct form *form = forms, *end = forms + sizeof forms / sizeof *forms;
    while (form < end && (byte[*at] < form->first || byte[*at] > form->last))
        form++;
    if (form == end)
        return UTF8_WRONG;
    ++*at;
    for (unsigned i = 0; i < form->follow; i++, ++*at) {
        uint8_t low = i == 0 ? form->low : 0x80, high = i == 0 ? form->high : 0xBF;
        if (*at == size)
            return UTF8_CUT;
        if (byte[*at] < low || byte[*at] > high)
            return UTF8_WRONG;
    }
    return UTF8_WHOLE;
}

size_t utf8_length(const void *bytes, size_t size)
{
    size_t length = 0, at = 0;
    while (at < size && utf8_step(bytes, size, &at) == UTF8_WHOLE)
        length = at;
    return length;
}

size_t utf8_first(const void *bytes, size_t size)
{
    size_t at = 0;
    return size > 0 && utf8_step(bytes, size, &at) == UTF8_WHOLE ? at : 0;
}

bool utf8_valid(const void *bytes, size_t size)
{
    return utf8_length(bytes, size) == size;
}
