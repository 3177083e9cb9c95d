/* SPDX-License-Identifier: MIT */
/*
 * json: what hypefs needs beyond cJSON.
 *
 * 1. A checker for text that is still arriving (json_check.h): cJSON cannot tell a text that is not
 *    finished from one that is wrong, nor where; and it prints numbers anew, but payloads go byte
 *    for byte.
 * 2. A strict reader: members of a cJSON object into a struct, by a table. Unknown members, members
 *    given twice, wrong types and values out of range are refused by name.
 * 3. A builder: trees that remember that memory ran out for a part of them, so that it is asked for
 *    once, where the tree is printed.
 * Pure functions: any thread.
 */
#ifndef HYPEFS_UTIL_JSON_H
#define HYPEFS_UTIL_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cjson/cJSON.h>

#include "util/error.h"
#include "util/json_check.h"

/* Is the member's name, its escapes resolved, equal to `name` (plain ASCII)? */
bool json_name_is(const char *text, struct json_span name, const char *ascii);

/* Does the complete object have a member of that name? */
bool json_has_member(const char *text, struct json_span object, const char *ascii);

enum json_kind {
    JSON_BOOL,    /* bool */
    JSON_INTEGER, /* int64_t; whole, min ≤ value ≤ max (within ±2^53) */
    JSON_STRING,  /* char *, owned by the struct; NUL cannot be in it */
    JSON_WORD,    /* int: the index in `words` */
    JSON_OBJECT,  /* const cJSON *, borrowed from the document */
    JSON_ARRAY,   /* const cJSON *, borrowed from the document */
    JSON_ANY,     /* const cJSON *, borrowed from the document; the caller checks it */
};

struct json_field {
    const char *name;
    enum json_kind kind;
    size_t offset; /* of the field in the struct */
    bool required;
    bool nullable; /* null is accepted and leaves the field as it was */
    int64_t min, max;
    const char *const *words; /* ends with NULL */
};

/* A field that is called as the member is. */
#define JSON_MEMBER(type, member) .name = #member, .offset = offsetof(type, member)

/* Reads the members of `object` into the struct at `base`, by a table of `count` fields. Members
 * that are not given leave their field as it was: fill in defaults first. A JSON_STRING field frees
 * what it replaces. EINVAL with the member's name; fields before that may be set. */
int json_read(const cJSON *object, const struct json_field *fields, size_t count, void *base,
              struct error *err);

/* The same for what other programs write: members that are not in the table are passed over. */
int json_read_known(const cJSON *object, const struct json_field *fields, size_t count, void *base,
                    struct error *err);

struct json_list {
    const char *name; /* for texts */
    int max;
    size_t item_size;
    int (*read)(const cJSON *json, void *item, struct error *err);
};

/* Reads the array `json` (NULL: an empty one) into as many items, zeroed before. `ret` is the
 * address of a pointer to items, which are the caller's with what was read, after a failure too. */
int json_read_list(const cJSON *json, const struct json_list *list, void *ret, size_t *ret_count,
                   struct error *err);

/* Parses a text that must be one object, for json_read(): json_check() first (line and column in
 * the error), then cJSON; an escaped NUL (\u0000) is refused. Returns owned (cJSON_Delete). */
int json_parse(const char *text, size_t size, cJSON **ret, struct error *err);

/* From now on all memory that cJSON frees is zeroed before: trees that hold a secret leave none of
 * it, and nobody has to know which these are. To be called before the first thread is started. */
void json_wipe_freed(void);

/* Building. A tree that could not get a part of it is not whole, and so are a copy of it and each
 * tree that it becomes a part of: nothing needs to be checked before json_is_whole() or the
 * printing. `to` is an object or an array, or NULL for one that could not be made; `item` is taken,
 * and NULL if it could not be made. Nothing else adds to a tree. */
void json_add(cJSON *to, const char *name, cJSON *item);
void json_append(cJSON *to, cJSON *item);
void json_add_string(cJSON *to, const char *name, const char *text);
/* The same, but null where `text` is NULL. */
void json_add_text(cJSON *to, const char *name, const char *text);
void json_add_number(cJSON *to, const char *name, double number);
void json_add_bool(cJSON *to, const char *name, bool value);
void json_add_null(cJSON *to, const char *name);
/* Somebody's text, which json_check() has found to be an object: it is printed byte for byte, but
 * what was printed is not escaped for a terminal in there. */
cJSON *json_verbatim(const char *text);
/* In place of what has that name. */
void json_set(cJSON *to, const char *name, cJSON *item);
/* The same where that stands; there is one. */
void json_replace(cJSON *to, const char *name, cJSON *item);
/* Return what was added, borrowed, or NULL. */
cJSON *json_add_object(cJSON *to, const char *name);
cJSON *json_add_array(cJSON *to, const char *name);
/* False for NULL, too. */
bool json_is_whole(const cJSON *item);

/* Pretty-printed, with a newline at the end; what a terminal would act on is escaped (text.h).
 * Returns owned (free); NULL only without memory, now or when the tree was built. */
char *json_print(const cJSON *item);
/* The same in one line, without a newline. */
char *json_print_line(const cJSON *item);

/* The member of that name, borrowed, and its text; NULL if there is none, or if it is no string. */
static inline const cJSON *json_get(const cJSON *object, const char *name)
{
    return cJSON_GetObjectItemCaseSensitive(object, name);
}

static inline const char *json_get_text(const cJSON *object, const char *name)
{
    return cJSON_GetStringValue(json_get(object, name));
}

/* The whole number of that name, from 0 to 2^53; 0 if there is no such. */
uint64_t json_get_count(const cJSON *object, const char *name);

static inline void json_cleanup(cJSON **item)
{
    cJSON_Delete(*item);
}
#define auto_json __attribute__((cleanup(json_cleanup)))

/* A number of milliseconds, to three digits behind the point: more was not measured. */
cJSON *json_milliseconds(double ms);

#endif
