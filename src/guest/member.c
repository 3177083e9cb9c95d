/* SPDX-License-Identifier: MIT */
/*
 * One member of a JSON object, found without a JSON library: the guest has to read the two members
 * that the host appends to payloads, and the few of a network payload, and nothing else.
 */
#include <string.h>

#include "guest/internal.h"

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static size_t skip_space(const char *text, size_t size, size_t at)
{
    while (at < size && is_space(text[at]))
        at++;
    return at;
}

/* text[at] is the opening quote. Returns the place behind the closing one. */
static size_t skip_string(const char *text, size_t size, size_t at)
{
    for (at++; at < size && text[at] != '"'; at++)
        if (text[at] == '\\')
            at++;
    return at < size ? at + 1 : size;
}

/* Returns the place of the comma or closing bracket that ends the value. */
static size_t skip_value(const char *text, size_t size, size_t at)
{
    size_t depth = 0;
    while (at < size) {
        char c = text[at];
        if (c == '"') {
            at = skip_string(text, size, at);
            continue;
        }
        if (depth == 0 && (c == ',' || c == '}' || c == ']'))
            break;
        if (c == '{' || c == '[')
            depth++;
        else if (c == '}' || c == ']')
            depth--;
        at++;
    }
    return at;
}

bool guest_member_find(const char *text, size_t size, const char *name, struct guest_span *ret)
{
    size_t name_size = strlen(name);
    bool found = false;
    size_t at = skip_space(text, size, 0);

    if (at >= size || text[at] != '{')
        return false;
    for (;;) {
        size_t key = skip_space(text, size, at + 1);
        if (key >= size || text[key] != '"')
            return found;
        size_t key_end = skip_string(text, size, key);
        size_t value = skip_space(text, size, key_end);
        if (value >= size || text[value] != ':')
            return found;
        value = skip_space(text, size, value + 1);
        at = skip_value(text, size, value);
        if (key_end - key == name_size + 2 && memcmp(text + key + 1, name, name_size) == 0) {
            size_t end = at;
            while (end > value && is_space(text[end - 1]))
                end--;
            *ret = (struct guest_span){.text = text + value, .size = end - value};
            found = true;
        }
        if (at >= size || text[at] != ',')
            return found;
    }
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
