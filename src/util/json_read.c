/* SPDX-License-Identifier: MIT */
/* The strict reader of json.h; the checker is in json.c. */
#include "util/json.h"
#include "util/text.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { QUOTED_MAX = 64, QUOTED_SIZE = QUOTED_MAX + sizeof "…" };

/* A name that a user chose, fit for an error message: short, printable, UTF-8. */
static const char *quoted(const char *name, char buffer[QUOTED_SIZE])
{
    size_t length = strlen(name), size = length < QUOTED_MAX ? length : QUOTED_MAX;

    while (size > 0 && size < length && ((uint8_t)name[size] & 0xC0) == 0x80)
        size--;
    memcpy(buffer, name, size);
    text_make_printable(buffer, size, '?');
    memcpy(buffer + size, size < length ? "…" : "", size < length ? sizeof "…" : 1);
    return buffer;
}

static int unknown(const char *name, const struct json_field *fields, size_t count,
                   struct error *err)
{
    char known[512] = "", buffer[QUOTED_SIZE];
    for (size_t i = 0, used = 0; i < count && used < sizeof known; i++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "",
                                 fields[i].name);
    return error_set(err, EINVAL, "unknown member \"%s\" (known are: %s)", quoted(name, buffer),
                     known);
}

static int wrong_value(const struct json_field *field, struct error *err)
{
    static const char *const must_be[] = {
        [JSON_BOOL] = "true or false",
        [JSON_STRING] = "a string",
        [JSON_OBJECT] = "an object",
        [JSON_ARRAY] = "an array",
    };
    const char *null = field->nullable ? ", or null" : "";

    if (field->kind == JSON_INTEGER)
        return error_set(err, EINVAL,
                         "\"%s\" must be a whole number from %" PRId64 " to %" PRId64 "%s",
                         field->name, field->min, field->max, null);
    if (field->kind != JSON_WORD)
        return error_set(err, EINVAL, "\"%s\" must be %s%s", field->name, must_be[field->kind],
                         null);
    char words[512] = "";
    for (size_t i = 0, used = 0; field->words[i] && used < sizeof words; i++)
        used += (size_t)snprintf(words + used, sizeof words - used, "%s\"%s\"", i ? ", " : "",
                                 field->words[i]);
    return error_set(err, EINVAL, "\"%s\" must be one of %s%s", field->name, words, null);
}

static bool read_integer(const cJSON *item, const struct json_field *field, int64_t *ret)
{
    const double exact = 9007199254740992.0; /* 2^53: no double beyond it tells neighbours apart */
    double value = item->valuedouble;
    if (!cJSON_IsNumber(item) || !(value >= -exact && value <= exact))
        return false;
    int64_t whole = (int64_t)value;
    if ((double)whole != value || whole < field->min || whole > field->max)
        return false;
    *ret = whole;
    return true;
}

static bool read_word(const cJSON *item, const struct json_field *field, int *ret)
{
    for (int i = 0; cJSON_IsString(item) && field->words[i]; i++)
        if (strcmp(item->valuestring, field->words[i]) == 0) {
            *ret = i;
            return true;
        }
    return false;
}

static bool read_item(const cJSON *item, const struct json_field *field, const cJSON **ret)
{
    if ((field->kind == JSON_OBJECT && !cJSON_IsObject(item)) ||
        (field->kind == JSON_ARRAY && !cJSON_IsArray(item)))
        return false;
    *ret = item;
    return true;
}

static int read_string(const cJSON *item, const struct json_field *field, char **ret,
                       struct error *err)
{
    if (!cJSON_IsString(item))
        return wrong_value(field, err);
    char *copy = strdup(item->valuestring);
    if (!copy)
        return error_errno(err, ENOMEM, "\"%s\"", field->name);
    free(*ret);
    *ret = copy;
    return 0;
}

static int read_member(const cJSON *item, const struct json_field *field, void *base,
                       struct error *err)
{
    void *place = (char *)base + field->offset;
    bool good = true;

    if (field->nullable && cJSON_IsNull(item))
        return 0;
    switch (field->kind) {
    case JSON_BOOL:
        good = cJSON_IsBool(item);
        if (good)
            *(bool *)place = cJSON_IsTrue(item);
        break;
    case JSON_INTEGER:
        good = read_integer(item, field, place);
        break;
    case JSON_STRING:
        return read_string(item, field, place, err);
    case JSON_WORD:
        good = read_word(item, field, place);
        break;
    case JSON_OBJECT:
    case JSON_ARRAY:
    case JSON_ANY:
        good = read_item(item, field, place);
        break;
    }
    return good ? 0 : wrong_value(field, err);
}

static int read_members(const cJSON *object, const struct json_field *fields, size_t count,
                        bool strict, void *base, struct error *err)
{
    uint64_t seen = 0;
    const cJSON *item;

    assert(count <= 64);
    if (!cJSON_IsObject(object))
        return error_set(err, EINVAL, "a JSON object is expected");
    cJSON_ArrayForEach (item, object) {
        size_t i = 0;
        while (i < count && strcmp(item->string, fields[i].name) != 0)
            i++;
        if (i == count && strict)
            return unknown(item->string, fields, count, err);
        if (i == count)
            continue;
        if (seen & UINT64_C(1) << i)
            return error_set(err, EINVAL, "member \"%s\" is given twice", fields[i].name);
        seen |= UINT64_C(1) << i;
        int r = read_member(item, &fields[i], base, err);
        if (r < 0)
            return r;
    }
    for (size_t i = 0; i < count; i++)
        if (fields[i].required && !(seen & UINT64_C(1) << i))
            return error_set(err, EINVAL, "member \"%s\" is missing", fields[i].name);
    return 0;
}

int json_read(const cJSON *object, const struct json_field *fields, size_t count, void *base,
              struct error *err)
{
    return read_members(object, fields, count, true, base, err);
}

int json_read_known(const cJSON *object, const struct json_field *fields, size_t count, void *base,
                    struct error *err)
{
    return read_members(object, fields, count, false, base, err);
}

int json_read_list(const cJSON *json, const struct json_list *list, void *ret, size_t *ret_count,
                   struct error *err)
{
    int count = json ? cJSON_GetArraySize(json) : 0;
    if (count > list->max)
        return error_set(err, EINVAL, "%s: more than %d", list->name, list->max);
    if (count == 0)
        return 0;
    char *items = calloc((size_t)count, list->item_size);
    if (!items)
        return error_set(err, ENOMEM, "out of memory");
    memcpy(ret, &items, sizeof items);
    const cJSON *item;
    cJSON_ArrayForEach (item, json) {
        size_t index = (*ret_count)++;
        int r = list->read(item, items + index * list->item_size, err);
        if (r < 0)
            return error_prefix(err, r, "%s[%zu]", list->name, index);
    }
    return 0;
}

uint64_t json_get_count(const cJSON *object, const char *name)
{
    const cJSON *item = json_get(object, name);
    return cJSON_IsNumber(item) && item->valuedouble > 0 && item->valuedouble <= 0x1p53
               ? (uint64_t)item->valuedouble
               : 0;
}
