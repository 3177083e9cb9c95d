/* SPDX-License-Identifier: MIT */
/* The printing of json.h. */
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"

/* In place of a verbatim text while the rest is printed: cJSON escapes it everywhere else. */
static const char placeholder[] = "\x01";

cJSON *json_verbatim(const char *text)
{
    return cJSON_CreateRaw(text);
}

static size_t verbatim_size(const cJSON *item)
{
    size_t size = cJSON_IsRaw(item) ? strlen(item->valuestring) : 0;
    const cJSON *child;
    cJSON_ArrayForEach (child, item)
        size += verbatim_size(child);
    return size;
}

static void hide_verbatim(cJSON *item)
{
    cJSON *child;
    if (cJSON_IsRaw(item))
        memcpy(item->valuestring, placeholder, sizeof placeholder); /* an object has two bytes */
    cJSON_ArrayForEach (child, item)
        hide_verbatim(child);
}

/* Puts the item's verbatim texts, in their order, in the place of placeholders. */
static void put_verbatim(const cJSON *item, const char **from, char **to)
{
    const cJSON *child;
    if (cJSON_IsRaw(item)) {
        size_t before = strcspn(*from, placeholder), size = strlen(item->valuestring);
        memcpy(*to, *from, before);
        memcpy(*to + before, item->valuestring, size);
        *from += before + 1;
        *to += before + size;
    }
    cJSON_ArrayForEach (child, item)
        put_verbatim(child, from, to);
}

/* cJSON indents by tabs and puts one behind each colon; in strings it escapes them. */
static char *print_pretty(const cJSON *item)
{
    char *tabs = cJSON_Print(item);
    size_t size = 2;
    for (const char *c = tabs; c && *c; c++)
        size += *c == '\t' ? 2 : 1;
    char *text = tabs ? malloc(size) : NULL, *to = text;
    for (const char *c = tabs; text && *c; c++) {
        if (*c != '\t') {
            *to++ = *c;
            continue;
        }
        *to++ = ' ';
        if (c[-1] != ':')
            *to++ = ' ';
    }
    if (text)
        memcpy(to, "\n", 2);
    cJSON_free(tabs);
    char *escaped = text ? text_escaped(text, strlen(text), "\n\x01") : NULL;
    free(text);
    return escaped;
}

static char *print_in_line(const cJSON *item)
{
    char *text = cJSON_PrintUnformatted(item);
    char *escaped = text ? text_escaped(text, strlen(text), placeholder) : NULL;
    cJSON_free(text);
    return escaped;
}

static char *print(const cJSON *item, char *(*as)(const cJSON *item))
{
    size_t more = verbatim_size(item);
    if (!json_is_whole(item))
        return NULL;
    if (more == 0)
        return as(item);
    auto_json cJSON *hidden = cJSON_Duplicate(item, true);
    hide_verbatim(hidden);
    auto_free char *text = json_is_whole(hidden) ? as(hidden) : NULL;
    char *whole = text ? malloc(strlen(text) + more + 1) : NULL, *to = whole;
    const char *from = text;
    if (!whole)
        return NULL;
    put_verbatim(item, &from, &to);
    memcpy(to, from, strlen(from) + 1);
    return whole;
}

char *json_print(const cJSON *item)
{
    return print(item, print_pretty);
}

char *json_print_line(const cJSON *item)
{
    return print(item, print_in_line);
}
