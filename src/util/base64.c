/* SPDX-License-Identifier: MIT */
#include "util/base64.h"

#include <string.h>

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void base64_encode(const uint8_t *bytes, size_t size, char *ret)
{
    for (size_t at = 0; at < size; at += 3) {
        const size_t count = size - at < 3 ? size - at : 3;
        uint32_t group = 0;
        for (size_t i = 0; i < 3; i++)
            group = group << 8 | (i < count ? bytes[at + i] : 0);
        for (size_t i = 0; i < 4; i++)
            *ret++ = i <= count ? digits[group >> (18 - 6 * i) & 63] : '=';
    }
    *ret = '\0';
}

static int value_of(char c)
{
    const char *found = c ? strchr(digits, c) : NULL;
    return found ? (int)(found - digits) : -1;
}

bool base64_decode(const char *text, size_t length, uint8_t *ret, size_t *ret_size)
{
    size_t size = 0;
    if (length % 4 != 0)
        return false;
    for (size_t at = 0; at < length; at += 4) {
        uint32_t group = 0;
        size_t count = 4;
        while (at + 4 == length && count > 2 && text[at + count - 1] == '=')
            count--;
        for (size_t i = 0; i < 4; i++) {
            const int value = i < count ? value_of(text[at + i]) : 0;
            if (value < 0)
                return false;
            group = group << 6 | (uint32_t)value;
        }
        if ((count == 2 && group & 0xffff) || (count == 3 && group & 0xff))
            return false; /* bits that no byte has */
        for (size_t i = 0; i < count - 1; i++)
            ret[size++] = (uint8_t)(group >> (16 - 8 * i));
    }
    *ret_size = size;
    return true;
}
