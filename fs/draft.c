/* SPDX-License-Identifier: MIT */
/*
 * draft: what a fork is staged in, and what is left of it afterwards. A draft lives in memory; a
 * committed one is the record of its fork, which lies in the store with the instance.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "fs/internal.h"
#include "fs/event.h"
#include "util/cleanup.h"
#include "util/json.h"

enum { ERRNO_MAX = 134 };

struct draft *draft_create(struct fs *fs, struct forks *forks, const char *id)
{
    struct draft *draft = calloc(1, sizeof *draft);
    if (!draft)
        return NULL;
    object_init(&draft->object, OBJECT_DRAFT, ++fs->last_draft, draft_destroy);
    draft->forks = forks;
    object_ref(forks->owner);
    strncpy(draft->id, id, sizeof draft->id - 1);
    HASH_ADD_STR(forks->drafts, id, draft);
    if (draft->hh.tbl)
        return draft;
    object_unref(&draft->object);
    return NULL;
}

void draft_destroy(struct object *object)
{
    struct draft *draft = (struct draft *)object;
    object_unref(draft->forks->owner);
    document_finish(&draft->options);
    document_finish(&draft->network);
    cJSON_Delete(draft->record);
    free(draft->failure);
    free(draft->note);
    free(draft->result);
    free(draft);
}

struct draft *draft_find(const struct forks *forks, const char *id)
{
    struct draft *draft;
    HASH_FIND_STR(forks->drafts, id, draft);
    return draft;
}

void draft_remove(struct fs *fs, struct draft *draft)
{
    while (draft->files) {
        draft->files->object.removed = true;
        handles_wipe(fs, &draft->files->object);
        draft_drop_file(fs, draft->files);
    }
    HASH_DEL(draft->forks->drafts, draft);
    draft->object.removed = true;
    document_finish(&draft->options); /* the kernel may remember the draft for long */
    draft_drop_network(draft);
    handles_wipe(fs, &draft->object);
    fs_changed(fs, &draft->object);
    object_unref(&draft->object);
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

struct staged *draft_add_file(struct fs *fs, struct draft *draft, const char *name)
{
    struct staged *file = calloc(1, sizeof *file);
    if (!file)
        return NULL;
    object_init(&file->object, OBJECT_STAGED, ++fs->last_staged, staged_destroy);
    file->draft = draft;
    strncpy(file->name, name, sizeof file->name - 1);
    LL_APPEND(draft->files, file);
    return file;
}

void draft_drop_file(struct fs *fs, struct staged *file)
{
    LL_DELETE(file->draft->files, file);
    file->draft = NULL;
    document_finish(&file->document); /* the kernel may remember the file for long */
    fs_changed(fs, &file->object);
    object_unref(&file->object);
}

void draft_drop_network(struct draft *draft)
{
    document_finish(&draft->network);
    draft->has_network = false;
}

static bool is_new(const struct draft *draft)
{
    return strcmp(draft->id, "new") == 0;
}

void draft_touched(struct fs *fs, struct draft *draft)
{
    if (!is_new(draft)) /* there, nothing of what failed is left to be mended */
        free(steal_pointer(draft->failure));
    free(steal_pointer(draft->note));
    fs_changed(fs, &draft->object);
}

int draft_note(struct fs *fs, struct draft *draft, const struct error *err)
{
    free(draft->note);
    draft->note = strdup(err->text);
    fs_changed(fs, &draft->object);
    return -err->code;
}

/* "committed" or "failed", or NULL: the store is not trusted. */
static const char *recorded_status(const cJSON *result)
{
    static const char *const words[] = {"committed", "failed"};
    const char *status = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(result, "status"));
    for (size_t i = 0; status && i < array_length(words); i++)
        if (strcmp(status, words[i]) == 0)
            return words[i];
    return NULL;
}

static bool is_staged(const struct draft *draft)
{
    const struct staged *file;
    LL_FOREACH (draft->files, file)
        if (!draft_scratch_name(file->name))
            return true;
    return draft->options.text || draft->has_network;
}

bool draft_is_emptied(const struct draft *draft)
{
    return is_new(draft) && draft->failure && !draft->job && !is_staged(draft);
}

const char *draft_status(const struct draft *draft)
{
    if (draft->job)
        return draft->job->queued ? "queued" : draft->job->waiting ? "waiting" : "committing";
    if (draft->record)
        return recorded_status(draft->record);
    bool staged = is_staged(draft);
    if (draft->failure && !(staged && is_new(draft)))
        return "failed";
    return staged ? "staged" : "empty";
}

int draft_writable(const struct draft *draft)
{
    if (draft->record)
        return -EPERM;
    return draft->job ? -EBUSY : 0;
}

/* Gives the draft a fork's result: from now on it is a record. Takes `result`. False: something of
 * it found no memory. */
static bool become_record(struct fs *fs, struct draft *draft, const char *instance, cJSON *result)
{
    const cJSON *mailboxes = cJSON_GetObjectItemCaseSensitive(result, "mailboxes"), *item;
    struct staged *file, *next;
    bool whole = true;
    LL_FOREACH_SAFE (draft->files, file, next) {
        document_finish(&file->document);
        if (draft_scratch_name(file->name))
            draft_drop_file(fs, file);
        else
            fs_changed(fs, &file->object);
    }
    cJSON_ArrayForEach (item, mailboxes) {
        const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "name"));
        if (name && frame_name_valid(name, strlen(name)) && !draft_file(draft, name))
            whole = draft_add_file(fs, draft, name) && whole;
    }
    document_finish(&draft->network);
    draft->has_network = cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(result, "network"));
    snprintf(draft->instance, sizeof draft->instance, "%s", instance);
    free(draft->result);
    draft->result = json_print(result);
    draft->record = result;
    return whole && draft->result;
}

static void set_failure(struct draft *draft, const char *text)
{
    free(draft->failure);
    draft->failure = text ? strdup(text) : NULL;
}

int draft_load_record(struct fs *fs, struct forks *forks, struct instance *instance)
{
    const cJSON *result = cJSON_GetObjectItemCaseSensitive(instance->fork, "result");
    const cJSON *error = cJSON_GetObjectItemCaseSensitive(result, "error");
    const char *options =
        cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(instance->fork, "options"));
    const char *failure = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(error, "message"));
    if (!recorded_status(result))
        return 0;
    cJSON *copy = cJSON_Duplicate(result, true);
    struct draft *draft = copy ? draft_create(fs, forks, instance->id) : NULL;
    if (!draft) {
        cJSON_Delete(copy);
        return -ENOMEM;
    }
    if (options && (draft->options.text = strdup(options)))
        draft->options.size = strlen(options);
    set_failure(draft, failure);
    bool whole = become_record(fs, draft, instance->id, copy);
    return whole && (!options || draft->options.text) && (!failure || draft->failure) ? 0 : -ENOMEM;
}

/* A file that is not what it is to become refuses the whole request. */
static bool refuse_marked(const char *directory, const char *name, const struct document *document,
                          bool removable, struct fork_request *request)
{
    const char *remedy = removable ? "write it again, or remove it" : "write it again";
    if (document->refused)
        error_set(&request->refused, EINVAL, FS_REFUSED ": %s", directory, name, document->refused,
                  remedy);
    else if (document->unfinished)
        error_set(&request->refused, EINVAL, "%s%s is unfinished: %s", directory, name, remedy);
    return request->refused.code != 0;
}

static void refuse_first_marked(struct draft *draft, struct fork_request *request)
{
    const struct staged *file;
    LL_FOREACH (draft->files, file)
        if (!draft_scratch_name(file->name) &&
            refuse_marked("mailboxes/", file->name, &file->document, true, request)) {
            snprintf(request->refused_mailbox, sizeof request->refused_mailbox, "%.64s",
                     file->name);
            return;
        }
    if (!draft->has_network || !refuse_marked("", "network", &draft->network, true, request))
        refuse_marked("", "options", &draft->options, false, request);
}

static void add_mailbox(struct fs *fs, const struct staged *file, struct fork_request *request)
{
    struct json_check check;
    if (request->count == DELIVER_MAILBOXES_MAX) {
        error_set(&request->refused, ENOSPC, "more than %d mailboxes are staged",
                  DELIVER_MAILBOXES_MAX);
        return;
    }
    struct fork_mailbox *mailbox = &request->mailboxes[request->count];
    snprintf(mailbox->name, sizeof mailbox->name, "%.64s", file->name);
    json_check(file->document.text, file->document.size, &check);
    if (fork_parse_mailbox(file->document.text, check.object, &fs->setup.rules, mailbox,
                           &request->refused) == 0)
        request->count++;
}

/* What is staged, as a request. What is wrong with it goes into request->refused. */
static void make_request(struct fs *fs, struct draft *draft, struct fork_request *request)
{
    const struct staged *file;
    const char *options = draft->options.text ? draft->options.text : fork_options_default;
    size_t size = draft->options.text ? draft->options.size : strlen(fork_options_default);
    refuse_first_marked(draft, request);
    if (request->refused.code)
        return;
    LL_FOREACH (draft->files, file)
        if (!draft_scratch_name(file->name) && !request->refused.code)
            add_mailbox(fs, file, request);
    if (draft->has_network && !request->refused.code)
        fork_parse_network(draft->network.text, draft->network.size, &fs->setup.rules,
                           &request->network, &request->refused);
    request->options_text = strndup(options, size);
    if (!request->refused.code)
        fork_parse_options(options, size, &request->options, &request->refused);
}

/* The id of the fork: as written, the draft's own, or one that is made up. */
static void choose_id(struct draft *draft, const char *text, struct job *job)
{
    struct fork_request *request = &job->request;
    bool plain = !text[0] || strcmp(text, "1") == 0;
    if (!is_new(draft)) {
        if (!plain && strcmp(text, draft->id) != 0)
            error_set(&request->refused, EINVAL,
                      "this draft can only become %s: write that, 1 or nothing to commit",
                      draft->id);
        snprintf(request->id, sizeof request->id, "%s", draft->id);
        return;
    }
    if (plain) {
        memcpy(request->id, "fork-", 5);
        store_random_hex(request->id + 5, 6);
    } else if (store_check_id(text, &request->refused) < 0) {
        error_prefix(&request->refused, 0, "what was written to commit");
    } else {
        snprintf(request->id, sizeof request->id, "%s", text);
    }
    if (draft_find(draft->forks, request->id) && !request->refused.code)
        error_set(&request->refused, EEXIST, "forks/%s is there already", request->id);
}

static struct event_commit told(const struct job *job)
{
    const struct object *owner = ((const struct draft *)job->object)->forks->owner;
    struct event_commit told = {.events = job->fs->setup.events, .instance = job->request.id};
    bool snapshot = owner->kind == OBJECT_SNAPSHOT;
    snprintf(told.source, sizeof told.source, snapshot ? "snapshots/%s" : "instances/%s",
             snapshot ? ((const struct source *)owner)->snapshot->id
                      : ((const struct unit *)owner)->instance->id);
    return told;
}

/* Called by the engine, without the lock. */
static void commit_step(void *listener, const char *phase, bool waiting)
{
    struct job *job = listener;
    const struct event_commit commit = told(job);
    bool queued = strcmp(phase, fork_queued_name) == 0;
    fs_lock(job->fs);
    if (job->queued != queued || job->waiting != waiting) {
        fs_changed(job->fs, job->object);
        fs_changed(job->fs, &job->fs->root); /* instances/ */
    }
    job->queued = queued;
    job->waiting = waiting;
    fs_unlock(job->fs);
    event_commit_step(&commit, phase);
}

static int run_commit(struct job *job)
{
    struct fs *fs = job->fs;
    struct draft *draft = (struct draft *)job->object;
    const struct event_commit commit = told(job);
    struct fork_engine engine = {.instances = fs->setup.instances,
                                 .ack_address = fs->setup.ack_address,
                                 .ack_ports = fs->setup.ack_ports,
                                 .watch = fs->setup.watch,
                                 .warm = fs->setup.warm,
                                 .cancel_fd = fs->stop_fd,
                                 .abandoned = &job->abandoned,
                                 .begun = commit_step,
                                 .listener = job};
    struct object *owner = draft->forks->owner;
    struct fork_source source = {0};
    if (owner->kind == OBJECT_SNAPSHOT)
        source.snapshot = ((struct source *)owner)->snapshot;
    else
        source.instance = ((struct unit *)owner)->instance;
    event_commit_begun(&commit);
    return fork_run(&engine, &source, &job->request, &job->outcome, &job->error);
}

/* Empties `new` after every commit, also one that failed: what stayed would go to the next fork,
 * whose id is another. Its `error` and `result` stay. */
static void empty(struct fs *fs, struct draft *draft)
{
    while (draft->files)
        draft_drop_file(fs, draft->files);
    document_finish(&draft->options);
    draft_drop_network(draft);
    draft->instance[0] = 0;
}

static void record_from_new(struct fs *fs, struct draft *draft, struct job *job)
{
    struct draft *record = draft_create(fs, draft->forks, job->request.id);
    if (!record)
        return; /* it is in the store and appears with the next start */
    if (draft->options.text &&
        (record->options.text = strndup(draft->options.text, draft->options.size)))
        record->options.size = draft->options.size;
    if (job->result < 0)
        set_failure(record, job->error.text);
    become_record(fs, record, job->request.id, steal_pointer(job->outcome.result));
}

/* Who saw the instance appear may have stopped and removed it by now. */
static bool is_there(struct fs *fs, const struct job *job)
{
    struct instance *instance = instances_find(fs->setup.instances, job->request.id);
    bool same = instance && instance->serial == job->outcome.serial;
    instance_unref(instance);
    return same;
}

static void finish_commit(struct job *job)
{
    struct fs *fs = job->fs;
    struct draft *draft = (struct draft *)job->object;
    bool new = is_new(draft);
    const struct event_commit commit = told(job);
    event_commit_ended(&commit, job->outcome.result);
    fs_forget_instance(fs, job->outcome.published ? 0 : job->outcome.serial);
    free(draft->result);
    draft->result = json_print(job->outcome.result);
    draft->job = NULL;
    free(steal_pointer(draft->note)); /* why others were refused meanwhile */
    set_failure(draft, job->result < 0 ? job->error.text : NULL);
    bool there = job->outcome.published && is_there(fs, job);
    if (there && new && !draft->object.removed)
        record_from_new(fs, draft, job);
    else if (there && !new)
        become_record(fs, draft, job->request.id, steal_pointer(job->outcome.result));
    if (new)
        empty(fs, draft);
    fs_changed(fs, &draft->object);
    fs_changed(fs, draft->forks->owner);
    fs_changed(fs, &fs->root); /* instances/ */
    if (job->outcome.published && !there && !new && !draft->object.removed)
        draft_remove(fs, draft); /* a record goes with its instance */
}

/* What the commit returned that made this record. */
static int recorded_outcome(const struct draft *draft)
{
    const cJSON *error = cJSON_GetObjectItemCaseSensitive(draft->record, "error");
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(error, "code"));
    for (int code = 1; name && code < ERRNO_MAX; code++)
        if (strcmp(error_name(code), name) == 0)
            return -code;
    return name ? -EIO : 0;
}

/* A second write while the draft commits: the same fork, or another one in `new`? */
static int join(struct fs *fs, struct draft *draft, const char *text, struct job **ret)
{
    bool same = !text[0] || strcmp(text, "1") == 0 || strcmp(text, draft->instance) == 0;
    struct error err;
    if (!same) {
        error_set(&err, is_new(draft) ? EBUSY : EINVAL,
                  "%s commits as %s: wait for that, or make a draft of your own with mkdir",
                  draft->id, draft->instance);
        return draft_note(fs, draft, &err);
    }
    *ret = job_ref(draft->job);
    return FS_LATER;
}

static int not_begun(struct fs *fs, struct draft *draft, int r, const struct error *err)
{
    set_failure(draft, err->text);
    if (is_new(draft))
        empty(fs, draft);
    fs_changed(fs, &draft->object);
    return r;
}

int draft_commit(struct fs *fs, const struct place *place, const char *text, pid_t tid,
                 struct job **ret)
{
    (void)tid;
    struct draft *draft = (struct draft *)place->object;
    struct error err = {0};
    if (draft->record)
        return recorded_outcome(draft); /* nothing is ever forked twice */
    if (draft->job)
        return join(fs, draft, text, ret);
    struct job *job = job_create(fs, &draft->object);
    if (!job)
        return not_begun(fs, draft, error_set(&err, ENOMEM, "out of memory"), &err);
    make_request(fs, draft, &job->request);
    choose_id(draft, text, job);
    job->run = run_commit;
    job->finish = finish_commit;
    job->limited = true;
    int r = job_start(job_ref(job), &err);
    if (r < 0) {
        job_unref(job);
        return not_begun(fs, draft, r, &err);
    }
    free(steal_pointer(draft->failure));
    free(steal_pointer(draft->note));
    free(steal_pointer(draft->result));
    draft->job = job;
    memcpy(draft->instance, job->request.id, sizeof draft->instance);
    fs_changed(fs, &draft->object);
    *ret = job;
    return FS_LATER;
}
