/* SPDX-License-Identifier: MIT */
/* A scan as JSON, for the store and for users; the scanner is in scan.c. */
#include "mailbox/scan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/hex.h"
#include "util/json.h"
#include "util/utf8.h"

static const char *const kind_words[] = {
    [FRAME_FORK] = "fork", [FRAME_NETWORK] = "network", [FRAME_KINDS] = NULL};

static void add_hex(cJSON *object, const char *name, const struct frame_marker *marker)
{
    char text[2 * FRAME_TOKEN_MAX + 1];
    hex_encode(marker->token, marker->token_size, text);
    json_add_string(object, name, text);
}

static void add_candidate(cJSON *array, const struct candidate *candidate)
{
    const struct frame_marker *marker = &candidate->marker;
    cJSON *item = cJSON_CreateObject();
    json_add_string(item, "kind", kind_words[marker->kind]);
    json_add_string(item, "name", marker->name);
    add_hex(item, "token", marker);
    json_add_number(item, "offset", (double)candidate->offset);
    json_add_bool(item, "pending", candidate->pending);
    json_add_bool(item, "clean", candidate->clean);
    json_append(array, item);
}

cJSON *scan_to_json(const struct scan *scan)
{
    cJSON *json = cJSON_CreateObject();
    json_add_bool(json, "truncated", scan->truncated);
    json_add_number(json, "noise", (double)scan->noise);
    json_add_number(json, "data_bytes", (double)scan->data_bytes);
    cJSON *array = json_add_array(json, "candidates");
    for (size_t i = 0; i < scan->count; i++)
        add_candidate(array, &scan->candidates[i]);
    return json;
}

struct kept {
    int kind;
    char *name, *token;
    int64_t offset;
    bool pending, clean;
};

/* What the index does not say follows from the offset and the image's size. */
static bool place(struct candidate *candidate, uint64_t image_size)
{
    uint64_t in_page = candidate->offset % FRAME_SIZE;
    uint64_t left = image_size - candidate->offset;
    size_t payload = frame_layouts[candidate->marker.kind].payload;

    if (left > FRAME_SIZE - in_page)
        left = FRAME_SIZE - in_page;
    if (left < payload)
        return false;
    candidate->capacity = (uint32_t)(left - payload);
    candidate->page_aligned = in_page == 0;
    return true;
}

static bool fill(const struct kept *kept, uint64_t image_size, struct candidate *ret)
{
    struct candidate candidate = {.offset = (uint64_t)kept->offset,
                                  .pending = kept->pending,
                                  .clean = kept->clean,
                                  .marker.kind = (enum frame_kind)kept->kind};
    size_t name_size = strlen(kept->name);
    bool named = frame_layouts[kept->kind].named;

    if (named ? !frame_name_valid(kept->name, name_size) : name_size != 0)
        return false;
    memcpy(candidate.marker.name, kept->name, name_size);
    if (!hex_decode(kept->token, candidate.marker.token, sizeof candidate.marker.token,
                    &candidate.marker.token_size) ||
        !frame_token_valid(candidate.marker.kind, candidate.marker.token,
                           candidate.marker.token_size) ||
        !place(&candidate, image_size))
        return false;
    *ret = candidate;
    return true;
}

static int read_candidate(const cJSON *item, int64_t from, uint64_t image_size,
                          struct candidate *ret, struct error *err)
{
    const struct json_field fields[] = {
        {"kind", JSON_WORD, offsetof(struct kept, kind), .required = true, .words = kind_words},
        {"name", JSON_STRING, offsetof(struct kept, name), .required = true},
        {"token", JSON_STRING, offsetof(struct kept, token), .required = true},
        {"offset", JSON_INTEGER, offsetof(struct kept, offset), .required = true, .min = from,
         .max = (int64_t)image_size},
        {"pending", JSON_BOOL, offsetof(struct kept, pending), .required = true},
        {"clean", JSON_BOOL, offsetof(struct kept, clean), .required = true},
    };
    struct kept kept = {0};
    int r = json_read(item, fields, array_length(fields), &kept, err);

    if (r == 0 && !fill(&kept, image_size, ret))
        r = error_set(err, EINVAL, "no mailbox can be like this");
    free(kept.name);
    free(kept.token);
    return r;
}

static int read_candidates(const cJSON *array, uint64_t image_size, struct scan *scan,
                           struct error *err)
{
    const cJSON *item;
    int count = cJSON_GetArraySize(array);

    if (count > SCAN_CANDIDATES_MAX || (scan->truncated && count < SCAN_CANDIDATES_MAX))
        return error_set(err, EINVAL, "wrong number of candidates");
    scan->candidates = calloc((size_t)count + 1, sizeof *scan->candidates);
    if (!scan->candidates)
        return error_errno(err, ENOMEM, "list of candidates");
    cJSON_ArrayForEach (item, array) {
        int64_t from = scan->count ? (int64_t)scan->candidates[scan->count - 1].offset + 1 : 0;
        int r = read_candidate(item, from, image_size, &scan->candidates[scan->count], err);
        if (r < 0)
            return error_prefix(err, r, "candidate %zu", scan->count);
        scan->count++;
    }
    return 0;
}

int scan_from_json(const cJSON *json, uint64_t image_size, struct scan *ret, struct error *err)
{
    struct index {
        const cJSON *candidates;
        bool truncated;
        int64_t noise, data_bytes;
    } index = {0};
    const int64_t size = (int64_t)image_size;
    const struct json_field fields[] = {
        {"truncated", JSON_BOOL, offsetof(struct index, truncated), .required = true},
        {"noise", JSON_INTEGER, offsetof(struct index, noise), .required = true, .max = size},
        {"data_bytes", JSON_INTEGER, offsetof(struct index, data_bytes), .required = true,
         .max = size},
        {"candidates", JSON_ARRAY, offsetof(struct index, candidates), .required = true},
    };
    int r = json_read(json, fields, array_length(fields), &index, err);
    if (r < 0)
        return r;
    struct scan scan = {.truncated = index.truncated,
                        .noise = (uint64_t)index.noise,
                        .data_bytes = (uint64_t)index.data_bytes};
    r = read_candidates(index.candidates, image_size, &scan, err);
    if (r == 0 && scan_mark_first(&scan) < 0)
        r = error_errno(err, ENOMEM, "list of candidates");
    if (r < 0) {
        scan_finish(&scan);
        return r;
    }
    *ret = scan;
    return 0;
}

cJSON *scan_declared_to_json(const struct scan *scan)
{
    cJSON *json = cJSON_CreateArray();
    for (size_t i = 0; i < scan->count; i++)
        if (scan->candidates[i].declared)
            json_append(json, cJSON_CreateNumber((double)scan->candidates[i].offset));
    return json;
}

int scan_declared_from_json(const cJSON *json, struct scan *scan, struct error *err)
{
    const cJSON *item;
    size_t i = 0;
    if (json && !cJSON_IsArray(json))
        return error_set(err, EINVAL, "\"declared\" is no array");
    cJSON_ArrayForEach (item, json) {
        while (i < scan->count && (double)scan->candidates[i].offset < cJSON_GetNumberValue(item))
            i++;
        struct candidate *candidate = &scan->candidates[i];
        if (i == scan->count || (double)candidate->offset != cJSON_GetNumberValue(item) ||
            candidate->declared || candidate->pending ||
            candidate->capacity != frame_capacity(candidate->marker.kind, false))
            return error_set(err, EINVAL, "no mailbox can be declared like this");
        candidate->declared = true;
        candidate->capacity = (uint32_t)frame_capacity(candidate->marker.kind, true);
    }
    return 0;
}

static void add_marker(cJSON *array, const struct candidate *candidate)
{
    const struct frame_marker *marker = &candidate->marker;
    char text[FRAME_TOKEN_MAX + 1] = "";
    cJSON *item = cJSON_CreateObject();
    memcpy(text, marker->token, marker->token_size);
    if (utf8_valid(text, marker->token_size))
        json_add_string(item, "token", text);
    else
        add_hex(item, "token_hex", marker);
    json_add_number(item, "offset", (double)candidate->offset);
    json_add_bool(item, "page_aligned", candidate->page_aligned);
    json_add_string(item, "state", candidate->pending ? "pending" : "armed");
    json_append(array, item);
}

static uint32_t least_capacity(const struct scan *scan, const char *name, size_t *ret_count)
{
    uint32_t least[2] = {UINT32_MAX, UINT32_MAX}; /* unaligned, page-aligned */
    size_t count = 0;

    for (size_t i = 0; i < scan->count; i++) {
        const struct candidate *candidate = &scan->candidates[i];
        uint32_t *place = &least[candidate->page_aligned];
        if (strcmp(candidate->marker.name, name) != 0)
            continue;
        count++;
        if (candidate->capacity < *place)
            *place = candidate->capacity;
    }
    *ret_count = count;
    return least[1] != UINT32_MAX ? least[1] : least[0];
}

cJSON *scan_describe(const struct scan *scan, const char *name)
{
    size_t count;
    uint32_t capacity = least_capacity(scan, name, &count);
    cJSON *json = count ? cJSON_CreateObject() : NULL;
    if (*name)
        json_add_string(json, "name", name);
    json_add_number(json, "payload_capacity", capacity);
    cJSON *array = json_add_array(json, "markers");
    for (size_t i = 0; i < scan->count; i++)
        if (strcmp(scan->candidates[i].marker.name, name) == 0)
            add_marker(array, &scan->candidates[i]);
    return json;
}
