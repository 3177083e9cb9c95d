/* SPDX-License-Identifier: MIT */
/* The builder of json.h: trees that remember what they lack. */
#include "util/json.h"

/* A bit of cJSON's `type` that cJSON does not use, but keeps in copies. */
enum { NOT_WHOLE = 1 << 16 };

static void remember(cJSON *to, const cJSON *added)
{
    if (to && !added)
        to->type |= NOT_WHOLE;
}

void json_add(cJSON *to, const char *name, cJSON *item)
{
    if (item && cJSON_AddItemToObject(to, name, item))
        return;
    cJSON_Delete(item);
    remember(to, NULL);
}

void json_append(cJSON *to, cJSON *item)
{
    if (item && cJSON_AddItemToArray(to, item))
        return;
    cJSON_Delete(item);
    remember(to, NULL);
}

void json_add_string(cJSON *to, const char *name, const char *text)
{
    remember(to, cJSON_AddStringToObject(to, name, text));
}

void json_add_text(cJSON *to, const char *name, const char *text)
{
    json_add(to, name, text ? cJSON_CreateString(text) : cJSON_CreateNull());
}

void json_add_number(cJSON *to, const char *name, double number)
{
    remember(to, cJSON_AddNumberToObject(to, name, number));
}

void json_add_bool(cJSON *to, const char *name, bool value)
{
    remember(to, cJSON_AddBoolToObject(to, name, value));
}

void json_add_null(cJSON *to, const char *name)
{
    remember(to, cJSON_AddNullToObject(to, name));
}

void json_set(cJSON *to, const char *name, cJSON *item)
{
    cJSON_DeleteItemFromObjectCaseSensitive(to, name);
    json_add(to, name, item);
}

void json_replace(cJSON *to, const char *name, cJSON *item)
{
    if (item && cJSON_ReplaceItemInObjectCaseSensitive(to, name, item))
        return;
    cJSON_Delete(item);
    remember(to, NULL);
}

cJSON *json_add_object(cJSON *to, const char *name)
{
    cJSON *object = cJSON_AddObjectToObject(to, name);
    remember(to, object);
    return object;
}

cJSON *json_add_array(cJSON *to, const char *name)
{
    cJSON *array = cJSON_AddArrayToObject(to, name);
    remember(to, array);
    return array;
}

bool json_is_whole(const cJSON *item)
{
    bool whole = item && !(item->type & NOT_WHOLE);
    for (const cJSON *child = whole ? item->child : NULL; child && whole; child = child->next)
        whole = json_is_whole(child);
    return whole;
}
