/* SPDX-License-Identifier: MIT */
#include "util/json.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/hex.h"
#include "util/text.h"
#include "util/utf8.h"

/* One UTF-16 unit of an escape at text[*at] = '\\', or the byte itself. */
static unsigned next_unit(const char *text, size_t *at)
{
    static const char letters[] = "bfnrt", meanings[] = "\b\f\n\r\t";
    char c = text[(*at)++];
    if (c != '\\')
        return (uint8_t)c;
    c = text[(*at)++];
    if (c != 'u') {
        const char *letter = strchr(letters, c);
        return (uint8_t)(letter ? meanings[letter - letters] : c);
    }
    unsigned unit = 0;
    for (int i = 0; i < 4; i++)
        unit = unit << 4 | (unsigned)hex_digit(text[(*at)++]);
    return unit;
}

bool json_name_is(const char *text, struct json_span name, const char *ascii)
{
    size_t at = name.start;
    for (; at < name.end && *ascii; ascii++)
        if (next_unit(text, &at) != (uint8_t)*ascii)
            return false;
    return at == name.end && *ascii == 0;
}

bool json_has_member(const char *text, struct json_span object, const char *ascii)
{
    struct json_member member;
    for (size_t at = object.start; json_next_member(text, object, &at, &member);)
        if (json_name_is(text, member.name, ascii))
            return true;
    return false;
}

/* What is wrong with the escape at text[at]; *next is behind it, or behind the pair. */
static const char *escape_flaw(const char *text, size_t at, size_t *next)
{
    static const char half[] = "half of a \\u surrogate pair in a string";
    *next = at;
    unsigned unit = next_unit(text, next);
    if (unit == 0)
        return "\\u0000 is not allowed in a string";
    if (unit < 0xD800 || unit > 0xDFFF)
        return NULL;
    if (unit > 0xDBFF || text[*next] != '\\')
        return half;
    unit = next_unit(text, next);
    return unit < 0xDC00 || unit > 0xDFFF ? half : NULL;
}

/* What is JSON, but cJSON refuses it, or cuts the string: why, and *at is where; else NULL. */
static const char *find_flaw(const char *text, size_t size, size_t *at)
{
    enum { NUMBER_MAX = 63 }; /* cJSON's */
    const char *why = NULL;
    bool in_string = false;
    for (size_t next = 0; next < size && !why;) {
        *at = next++;
        if (text[*at] == '"')
            in_string = !in_string;
        else if (in_string && text[*at] == '\\')
            why = escape_flaw(text, *at, &next);
        else if (!in_string && (text[*at] == '-' || (text[*at] >= '0' && text[*at] <= '9')))
            next = json_skip(text, *at, size, "+-.0123456789eE");
        if (!in_string && next - *at > NUMBER_MAX)
            why = "a number of over 63 characters";
    }
    return why;
}

int json_parse(const char *text, size_t size, cJSON **ret, struct error *err)
{
    struct json_check check;
    enum json_status status = json_check(text, size, &check);

    if (status == JSON_INCOMPLETE)
        check.why = "the JSON object ends too early";
    else if (status == JSON_COMPLETE && (check.why = find_flaw(text, size, &check.offset)))
        json_check_place(text, &check);
    else if (status == JSON_COMPLETE)
        check.why = "";
    if (check.why[0])
        return error_set(err, EINVAL, "line %u, column %u: %s", check.line, check.column,
                         check.why);
    cJSON *json = cJSON_ParseWithLength(text, size);
    if (!json)
        return error_set(err, ENOMEM, "out of memory");
    *ret = json;
    return 0;
}

static void free_all_wiped(void *bytes)
{
    free_wiped(bytes, bytes ? malloc_usable_size(bytes) : 0);
}

void json_wipe_freed(void)
{
    /* With an allocator of one's own it does not use realloc(), which leaves copies behind. */
    cJSON_InitHooks(&(cJSON_Hooks){.malloc_fn = malloc, .free_fn = free_all_wiped});
}

cJSON *json_milliseconds(double ms)
{
    return cJSON_CreateNumber((double)(long long)(ms * 1000 + 0.5) / 1000);
}
