/* SPDX-License-Identifier: MIT */
/* draft_files: forks/ with its drafts and records, a draft's directory, and its mailboxes/. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "fs/draft_request.h"
#include "fs/forkable.h"
#include "fs/group.h"
#include "fs/handle.h"
#include "fs/state.h"
#include "fs/tables.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"

static struct staged *staged_of(const struct place *place)
{
    return (struct staged *)place->object;
}

/* The draft that it is or belongs to; NULL: of a staged file that is unlinked. */
static struct draft *draft_of(const struct place *place)
{
    return place->object->kind == OBJECT_STAGED ? staged_of(place)->draft
                                                : (struct draft *)place->object;
}

/* Of all that is collected. */

static int may_write(const struct place *place)
{
    struct draft *draft = draft_of(place);
    struct error err;
    return draft && draft_check_writable(draft, &err) < 0 ? draft_note(draft, &err) : 0;
}

static void changed(const struct place *place, bool complete)
{
    struct draft *draft = draft_of(place);
    object_touched(place->object);
    if (draft && complete)
        draft_touched(draft);
    else if (draft)
        object_touched(&draft->object);
}

/* mailboxes/<name>: the payload staged, or what became of it. */

static char *staged_text(const struct place *place)
{
    const struct staged *file = staged_of(place);
    const cJSON *record = file->draft ? file->draft->record : NULL, *item;
    cJSON_ArrayForEach (item, json_get(record, "mailboxes")) {
        const cJSON *name = json_get(item, "name");
        if (cJSON_IsString(name) && strcmp(name->valuestring, file->name) == 0)
            return json_print(item);
    }
    return strdup("");
}

static int staged_check(const struct place *place, const char *text, struct json_span object,
                        struct error *err)
{
    return fork_parse_mailbox(text, object, &fs_of(place)->setup.rules, NULL, err);
}

static const struct file_type staged_file = {.text = staged_text,
                                             .document = offsetof(struct staged, document),
                                             .may_write = may_write,
                                             .check = staged_check,
                                             .changed = changed};

/* options */

static char *options_text(const struct place *place)
{
    (void)place;
    return strdup(fork_options_default);
}

static int options_check(const struct place *place, const char *text, struct json_span object,
                         struct error *err)
{
    (void)place;
    return fork_parse_options(text, object.end, NULL, err);
}

static const struct file_type options_file = {.text = options_text,
                                              .document = offsetof(struct draft, options),
                                              .may_write = may_write,
                                              .check = options_check,
                                              .changed = changed};

/* network: the identity staged, or what became of it */

static char *network_text(const struct place *place)
{
    const cJSON *record = draft_of(place)->record;
    return record ? json_print(json_get(record, "network")) : strdup("");
}

static int network_check(const struct place *place, const char *text, struct json_span object,
                         struct error *err)
{
    return fork_parse_network(text, object.end, &fs_of(place)->setup.rules, NULL, err);
}

static const struct file_type network_file = {.text = network_text,
                                              .document = offsetof(struct draft, network),
                                              .may_write = may_write,
                                              .check = network_check,
                                              .changed = changed};

/* commit, status, result, error */

static const struct file_type commit_file = {
    .command = group_commit_draft, .once = true, .list = true};

static char *status_text(const struct place *place)
{
    char *text;
    return asprintf(&text, "%s\n", draft_status(draft_of(place))) < 0 ? NULL : text;
}

static const struct file_type status_file = {.text = status_text, .pollable = true};

static char *result_text(const struct place *place)
{
    const char *result = draft_of(place)->result;
    return strdup(result ? result : "");
}

static const struct file_type result_file = {.text = result_text};

/* Does the reason of the commit that failed have the file's? */
static bool is_in_failure(const struct draft *draft, const char *directory, const char *name,
                          const char *reason)
{
    auto_free char *words = NULL;
    return draft->failure && asprintf(&words, DRAFT_REFUSED, directory, name, reason) >= 0 &&
           strstr(draft->failure, words);
}

/* One line for a file that is refused or unfinished. */
static void print_document(FILE *out, const struct draft *draft, const char *directory,
                           const char *name, bool removable, const struct document *document)
{
    struct json_check check;
    if (document->refused && is_in_failure(draft, directory, name, document->refused))
        return;
    if (document->refused) {
        fprintf(out, "%s%s: %s\n", directory, name, document->refused);
    } else if (document->unfinished) {
        json_check(document->text, document->size, &check);
        fprintf(out,
                "%s%s: unfinished: the JSON object is not complete at line %u, column %u: write it "
                "again%s\n",
                directory, name, check.line, check.column, removable ? ", or remove it" : "");
    }
}

static char *draft_error_text(const struct place *place)
{
    const struct draft *draft = draft_of(place);
    const struct staged *file;
    size_t size;
    char *text = NULL;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    LL_FOREACH (draft->files, file)
        if (!file->scratch)
            print_document(out, draft, "mailboxes/", file->name, true, &file->document);
    print_document(out, draft, "", "network", true, &draft->network);
    print_document(out, draft, "", "options", false, &draft->options);
    if (draft->failure)
        fprintf(out, "%s\n", draft->failure);
    if (draft_is_emptied(draft))
        fprintf(out, "forks/new is empty again: stage everything anew for the next commit\n");
    if (draft->note)
        fprintf(out, "%s\n", draft->note);
    return text_finish(out, &text);
}

static const struct file_type draft_error_file = {.text = draft_error_text};

/* mailboxes/ */

/* What is open of one that was removed can still be used. */
static bool is_there(const struct place *place)
{
    return staged_of(place)->draft != NULL;
}

static const struct entry staged_entry = {NULL, S_IFREG | 0600, 1, .file = &staged_file,
                                          .present = is_there};

static int staged_find(const struct place *directory, const char *name, struct waiter *waiter,
                       struct place *ret)
{
    struct staged *file = draft_file(draft_of(directory), name);
    (void)waiter;
    if (!file)
        return -ENOENT;
    *ret = (struct place){.object = &file->object, .entry = &staged_entry};
    return 0;
}

static int staged_list(const struct place *directory, struct waiter *waiter, struct handle *handle)
{
    const struct staged *file;
    int r = 0;
    (void)waiter;
    LL_FOREACH (draft_of(directory)->files, file)
        if (r == 0)
            r = handle_list(handle, file->name, &file->object, &staged_entry, NULL);
    return r;
}

static bool name_valid(const char *name)
{
    return frame_name_valid(name, strlen(name)) ||
           (draft_scratch_name(name) && strlen(name) <= NAME_MAX);
}

static int check_name(const char *name, struct error *err)
{
    return name_valid(name)
               ? 0
               : error_set(err, EINVAL,
                           "mailboxes/%s is not the name of a mailbox: 1 to %d of A-Z, "
                           "a-z, 0-9, \".\", \"_\", \":\" and \"-\"",
                           name, FRAME_NAME_MAX);
}

/* The name of a mailbox that the source has is that, and no editor's. */
static bool is_scratch(const struct draft *draft, const char *name)
{
    return draft_scratch_name(name) &&
           !forkable_has_mailbox((const struct forkable *)draft->drafts->owner, name);
}

static int staged_create(const struct place *directory, const char *name, struct error *err)
{
    struct draft *draft = draft_of(directory);
    struct staged *file;
    size_t count = 0;
    int r = draft_check_writable(draft, err);
    LL_COUNT(draft->files, file, count);
    if (r == 0)
        r = check_name(name, err);
    if (r < 0)
        return r;
    if (count >= DRAFT_FILES_MAX)
        return error_set(err, ENOSPC, "mailboxes/ takes %d files", DRAFT_FILES_MAX);
    file = draft_add_file(draft, name);
    if (!file)
        return -ENOMEM;
    file->scratch = is_scratch(draft, name);
    file->document.unfinished = true;
    object_changed(&draft->object);
    return 0;
}

static int staged_unlink(const struct place *directory, const char *name, struct error *err)
{
    struct draft *draft = draft_of(directory);
    struct staged *file = draft_file(draft, name);
    int r = draft_check_writable(draft, err);
    if (r == 0 && !file)
        r = error_set(err, ENOENT, "mailboxes/%s is not staged", name);
    if (r < 0)
        return r;
    draft_remove_file(file);
    draft_touched(draft);
    object_changed(&draft->object);
    return 0;
}

/* An editor's scratch file may hold anything; under a mailbox's name it must be acceptable. */
static int check_content(struct staged *file, struct error *err)
{
    const struct place place = {.object = &file->object, .entry = &staged_entry};
    const struct document *document = &file->document;
    if (document->unfinished || document->refused)
        return 0; /* and stays so */
    if (document->size > DOCUMENT_MAX)
        return error_set(err, EFBIG, "more than %d bytes", DOCUMENT_MAX);
    int r = place_check(&place, document->text, document->size, err);
    return r == 0 ? -EINVAL : r;
}

static int check_rename(struct draft *draft, const struct staged *file, const char *name,
                        const char *new_name, unsigned flags, struct error *err)
{
    int r = draft_check_writable(draft, err);
    if (flags & ~(unsigned)RENAME_NOREPLACE)
        return error_set(err, EINVAL,
                         "RENAME_NOREPLACE is the only flag of renameat2 that is known");
    if (r == 0 && !file)
        r = error_set(err, ENOENT, "mailboxes/%s is not staged", name);
    if (r == 0)
        r = check_name(new_name, err);
    if (r == 0 && flags & RENAME_NOREPLACE && draft_file(draft, new_name))
        r = error_set(err, EEXIST, "mailboxes/%s is staged already", new_name);
    return r;
}

static int staged_rename(const struct place *directory, const char *name,
                         const struct place *new_directory, const char *new_name, unsigned flags,
                         struct error *err)
{
    struct draft *draft = draft_of(directory);
    struct staged *file = draft_file(draft, name), *target = draft_file(draft, new_name);
    if (new_directory->object != directory->object)
        return error_set(err, EXDEV, "mailboxes/%s cannot be moved to another draft", name);
    int r = check_rename(draft, file, name, new_name, flags, err);
    if (r < 0 || target == file)
        return r;
    bool scratch = is_scratch(draft, new_name);
    if (file->scratch && !scratch)
        r = check_content(file, err);
    if (r < 0)
        return error_prefix(err, r, "mailboxes/%s cannot become %s", name, new_name);
    if (target)
        draft_remove_file(target);
    memset(file->name, 0, sizeof file->name);
    strncpy(file->name, new_name, sizeof file->name - 1);
    file->scratch = scratch;
    draft_touched(draft);
    object_changed(&draft->object);
    return 0;
}

static const struct directory staged_directory = {.find = staged_find,
                                                  .list = staged_list,
                                                  .create = staged_create,
                                                  .unlink = staged_unlink,
                                                  .rename = staged_rename};

/* The draft's own directory. */

static int draft_create_file(const struct place *directory, const char *name, struct error *err)
{
    struct draft *draft = draft_of(directory);
    int r = strcmp(name, "network") == 0 ? draft_check_writable(draft, err) : -EPERM;
    if (r < 0)
        return r;
    draft->has_network = true;
    draft->network.unfinished = true;
    object_changed(&draft->object);
    return 0;
}

static int draft_unlink_file(const struct place *directory, const char *name, struct error *err)
{
    struct draft *draft = draft_of(directory);
    int r = strcmp(name, "network") == 0 ? draft_check_writable(draft, err) : -EPERM;
    if (r == 0 && !draft->has_network)
        r = error_set(err, ENOENT, "network is not staged");
    if (r < 0)
        return r;
    draft_remove_network(draft);
    draft_touched(draft);
    object_changed(&draft->object);
    return 0;
}

static bool has_network(const struct place *place)
{
    return draft_of(place)->has_network;
}

static bool has_instance(const struct place *place)
{
    return draft_of(place)->record != NULL;
}

static void instance_link(const struct place *place, char ret[256])
{
    snprintf(ret, 256, "../../../../instances/%s", draft_of(place)->instance);
}

static const struct entry draft_entries[] = {
    {"mailboxes", S_IFDIR | 0755, 1, .directory = &staged_directory},
    {"network", S_IFREG | 0600, 9, .file = &network_file, .present = has_network},
    {"options", S_IFREG | 0644, 2, .file = &options_file},
    {"commit", S_IFREG | 0200, 3, .file = &commit_file, .command = true},
    {"status", S_IFREG | 0444, 4, .file = &status_file},
    {"result", S_IFREG | 0400, 5, .file = &result_file},
    {"error", S_IFREG | 0444, 6, .file = &draft_error_file},
    {"instance", S_IFLNK | 0777, 7, .link = instance_link, .present = has_instance},
};

static const struct directory draft_directory = {.entries = draft_entries,
                                                 .count = array_length(draft_entries),
                                                 .create = draft_create_file,
                                                 .unlink = draft_unlink_file};

static const struct entry draft_entry = {NULL, S_IFDIR | 0755, 8, .appears = true,
                                         .directory = &draft_directory};

/* forks/ of a snapshot or an instance. */

static struct drafts *drafts_of(const struct place *place)
{
    return &forkable_at(place)->drafts;
}

static int forks_find(const struct place *directory, const char *name, struct waiter *waiter,
                      struct place *ret)
{
    struct draft *draft = draft_find(drafts_of(directory), name);
    (void)waiter;
    if (!draft)
        return -ENOENT;
    *ret = (struct place){.object = &draft->object, .entry = &draft_entry};
    return 0;
}

static int forks_list(const struct place *directory, struct waiter *waiter, struct handle *handle)
{
    const struct draft *draft;
    int r = 0;
    (void)waiter;
    for (draft = drafts_of(directory)->by_id; draft; draft = draft->hh.next)
        if (r == 0)
            r = handle_list(handle, draft->id, &draft->object, &draft_entry, NULL);
    return r;
}

/* A commit of `new` takes the name that its record will have. */
static bool fork_name_taken(const struct drafts *drafts, const char *name)
{
    const struct draft *always = drafts->by_id;
    return draft_find(drafts, name) || group_makes(always, name) ||
           (always->job && strcmp(always->instance, name) == 0);
}

static int forks_make(const struct place *directory, const char *name, struct error *err)
{
    int r = store_check_id(name, err);
    if (r < 0)
        return r;
    if (fork_name_taken(drafts_of(directory), name))
        return error_set(err, EEXIST, "forks/%s is there already", name);
    if (drafts_count(drafts_of(directory)) > DRAFTS_MAX)
        return error_set(err, ENOSPC,
                         "there are %d drafts beside forks/new: commit or remove some (rmdir)",
                         DRAFTS_MAX);
    object_changed(directory->object);
    return draft_create(drafts_of(directory), name) ? 0 : error_set(err, ENOMEM, "out of memory");
}

static int forks_remove(const struct place *directory, const char *name, struct error *err)
{
    struct draft *draft = draft_find(drafts_of(directory), name);
    if (!draft)
        return error_set(err, ENOENT, "there is no forks/%s", name);
    if (draft == drafts_of(directory)->by_id)
        error_set(err, EPERM, "forks/new is always there");
    else if (draft->job)
        error_set(err, EBUSY, "forks/%s is committing: wait until that has ended", name);
    else if (draft->record)
        error_set(
            err, EBUSY,
            "forks/%s is the record of a fork, and is removed together with it: rmdir instances/%s",
            name, draft->instance);
    else {
        draft_remove(draft);
        object_changed(directory->object);
        return 0;
    }
    return draft_note(draft, err);
}

static const struct file_type forks_commit_file = {
    .command = group_commit_drafts, .once = true, .list = true};

static const struct entry forks_entries[] = {
    {"commit", S_IFREG | 0200, 20, .file = &forks_commit_file, .command = true},
};

const struct directory forks_directory = {.entries = forks_entries,
                                          .count = array_length(forks_entries),
                                          .find = forks_find,
                                          .list = forks_list,
                                          .make = forks_make,
                                          .remove = forks_remove};
