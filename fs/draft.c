/* SPDX-License-Identifier: MIT */
#include "fs/draft.h"

#include <errno.h>
#include <fnmatch.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "fork/engine.h"
#include "fs/handle.h"
#include "util/cleanup.h"
#include "util/json.h"

enum { ERRNO_MAX = 134 };

void draft_set_result(struct draft *draft, char *text)
{
    free_wiped(draft->result, draft->result ? strlen(draft->result) : 0);
    draft->result = text;
}

static void draft_destroy(struct object *object)
{
    struct draft *draft = (struct draft *)object;
    object_unref(draft->drafts->owner);
    document_finish(&draft->options);
    document_finish(&draft->network);
    cJSON_Delete(draft->record);
    free(draft->failure);
    free(draft->note);
    draft_set_result(draft, NULL);
    free(draft);
}

struct draft *draft_create(struct drafts *drafts, const char *id)
{
    struct objects *objects = drafts->owner->objects;
    struct draft *draft = calloc(1, sizeof *draft);
    if (!draft)
        return NULL;
    object_init(&draft->object, objects, OBJECT_DRAFT, ++objects->last_serial, draft_destroy);
    draft->drafts = drafts;
    object_ref(drafts->owner);
    strncpy(draft->id, id, sizeof draft->id - 1);
    HASH_ADD_STR(drafts->by_id, id, draft);
    if (draft->hh.tbl)
        return draft;
    object_unref(&draft->object);
    return NULL;
}

struct draft *draft_find(const struct drafts *drafts, const char *id)
{
    struct draft *draft;
    HASH_FIND_STR(drafts->by_id, id, draft);
    return draft;
}

void draft_remove(struct draft *draft)
{
    while (draft->files) {
        object_remove(&draft->files->object);
        handles_wipe(&draft->files->object);
        draft_remove_file(draft->files);
    }
    HASH_DEL(draft->drafts->by_id, draft);
    bool was_last = HASH_COUNT(draft->drafts->by_id) == 1; /* but for `new` */
    document_finish(&draft->options); /* a program may have the draft open for long */
    draft_remove_network(draft);
    handles_wipe(&draft->object);
    object_remove(&draft->object);
    object_unref(&draft->object);
    /* What hundreds of drafts have had lies between what others have, and stays with the process
     * by itself. */
    if (was_last)
        malloc_trim(0);
}

size_t drafts_count(const struct drafts *drafts)
{
    const struct draft *draft;
    size_t count = 0;
    for (draft = drafts->by_id; draft; draft = draft->hh.next)
        count += !draft->record;
    return count;
}

bool drafts_busy(const struct drafts *drafts)
{
    const struct draft *draft;
    for (draft = drafts->by_id; draft; draft = draft->hh.next)
        if (draft->job)
            return true;
    return false;
}

bool draft_scratch_name(const char *name)
{
    static const char *const patterns[] = {".*.sw?", ".*.sw?x", "*~", "4913"};
    for (size_t i = 0; i < array_length(patterns); i++)
        if (fnmatch(patterns[i], name, 0) == 0)
            return true;
    return false;
}

struct staged *draft_file(struct draft *draft, const char *name)
{
    struct staged *file;
    LL_FOREACH (draft->files, file)
        if (strcmp(file->name, name) == 0)
            return file;
    return NULL;
}

static void staged_destroy(struct object *object)
{
    struct staged *file = (struct staged *)object;
    document_finish(&file->document);
    free(file);
}

struct staged *draft_add_file(struct draft *draft, const char *name)
{
    struct objects *objects = draft->object.objects;
    struct staged *file = calloc(1, sizeof *file);
    if (!file)
        return NULL;
    object_init(&file->object, objects, OBJECT_STAGED, ++objects->last_serial, staged_destroy);
    file->draft = draft;
    strncpy(file->name, name, sizeof file->name - 1);
    LL_APPEND(draft->files, file);
    return file;
}

void draft_remove_file(struct staged *file)
{
    LL_DELETE(file->draft->files, file);
    file->draft = NULL;
    document_finish(&file->document); /* the kernel may remember the file for long */
    object_changed(&file->object);
    object_unref(&file->object);
}

void draft_remove_network(struct draft *draft)
{
    document_finish(&draft->network);
    draft->has_network = false;
}

void draft_empty(struct draft *draft)
{
    while (draft->files)
        draft_remove_file(draft->files);
    document_finish(&draft->options);
    draft_remove_network(draft);
    draft->instance[0] = 0;
}

bool draft_is_new(const struct draft *draft)
{
    return strcmp(draft->id, "new") == 0;
}

void draft_touched(struct draft *draft)
{
    if (!draft_is_new(draft)) /* there, nothing of what failed is left to be mended */
        free(steal_pointer(draft->failure));
    free(steal_pointer(draft->note));
    object_touched(&draft->object);
}

int draft_note(struct draft *draft, const struct error *err)
{
    free(draft->note);
    draft->note = strdup(err->text);
    return -err->code;
}

/* NULL if it is none, because the store is not trusted. */
static const char *recorded_status(const cJSON *result)
{
    const char *status = json_get_text(result, "status");
    bool known = status && (strcmp(status, "committed") == 0 || strcmp(status, "failed") == 0);
    return known ? status : NULL;
}

static bool is_staged(const struct draft *draft)
{
    const struct staged *file;
    LL_FOREACH (draft->files, file)
        if (!file->scratch)
            return true;
    return draft->options.text || draft->has_network;
}

bool draft_is_emptied(const struct draft *draft)
{
    return draft_is_new(draft) && draft->failure && !draft->job && !is_staged(draft);
}

const char *draft_status(const struct draft *draft)
{
    if (draft->job)
        return draft->queued ? "queued" : draft->waiting ? "waiting" : "committing";
    if (draft->record)
        return recorded_status(draft->record);
    bool staged = is_staged(draft);
    if (draft->failure && !(staged && draft_is_new(draft)))
        return "failed";
    return staged ? "staged" : "empty";
}

int draft_check_writable(const struct draft *draft, struct error *err)
{
    if (draft->record)
        return error_set(err, EPERM, "forks/%s is the record of a fork and cannot be changed",
                         draft->id);
    if (draft->job)
        return error_set(err, EBUSY, "forks/%s is committing as %s: wait until that has ended",
                         draft->id, draft->instance[0] ? draft->instance : "several forks");
    return 0;
}

bool draft_become_record(struct draft *draft, const char *instance, cJSON *result)
{
    const cJSON *mailboxes = json_get(result, "mailboxes"), *item;
    struct staged *file, *next;
    bool whole = true;
    LL_FOREACH_SAFE (draft->files, file, next) {
        document_finish(&file->document);
        if (file->scratch)
            draft_remove_file(file);
        else
            object_changed(&file->object);
    }
    cJSON_ArrayForEach (item, mailboxes) {
        const char *name = json_get_text(item, "name");
        if (name && frame_name_valid(name, strlen(name)) && !draft_file(draft, name))
            whole = draft_add_file(draft, name) && whole;
    }
    document_finish(&draft->network);
    draft->has_network = cJSON_IsObject(json_get(result, "network"));
    snprintf(draft->instance, sizeof draft->instance, "%s", instance);
    draft_set_result(draft, json_print(result));
    draft->record = result;
    return whole && draft->result;
}

void draft_set_failure(struct draft *draft, const char *text)
{
    free(draft->failure);
    draft->failure = text ? strdup(text) : NULL;
}

int draft_load_record(struct drafts *drafts, struct instance *instance)
{
    auto_json cJSON *result = fork_recorded_result(instance->fork);
    const cJSON *error = json_get(result, "error");
    const char *options = json_get_text(instance->fork, "options");
    const char *failure = json_get_text(error, "message");
    if (!result && json_get(instance->fork, "result"))
        return -ENOMEM;
    if (!recorded_status(result))
        return 0;
    struct draft *draft = draft_create(drafts, instance->id);
    if (!draft)
        return -ENOMEM;
    bool whole = !options || document_set(&draft->options, options, strlen(options)) == 0;
    draft_set_failure(draft, failure);
    whole = (!failure || draft->failure) && whole;
    return draft_become_record(draft, instance->id, steal_pointer(result)) && whole ? 0 : -ENOMEM;
}

int draft_recorded_outcome(const struct draft *draft)
{
    const cJSON *error = json_get(draft->record, "error");
    const char *name = json_get_text(error, "code");
    for (int code = 1; name && code < ERRNO_MAX; code++)
        if (strcmp(error_name(code), name) == 0)
            return -code;
    return name ? -EIO : 0;
}
