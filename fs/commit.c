/* SPDX-License-Identifier: MIT */
#include "fs/commit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "fs/event.h"
#include "fs/forkable.h"
#include "fs/state.h"
#include "util/cleanup.h"

struct commit {
    struct job job;
    struct event_commit event; /* what its lines in `events` say; constant */
    struct fork_request request;
    struct fork_outcome outcome;
    atomic_bool abandoned;
};

/* A file that is not what it is to become refuses the whole request. */
static bool refuse_document(const char *directory, const char *name,
                            const struct document *document, bool removable,
                            struct fork_request *request)
{
    const char *remedy = removable ? "write it again, or remove it" : "write it again";
    if (document->refused)
        error_set(&request->refused, EINVAL, COMMIT_REFUSED ": %s", directory, name,
                  document->refused, remedy);
    else if (document->unfinished)
        error_set(&request->refused, EINVAL, "%s%s is unfinished: %s", directory, name, remedy);
    return request->refused.code != 0;
}

static void refuse_documents(const struct draft *draft, struct fork_request *request)
{
    const struct staged *file;
    LL_FOREACH (draft->files, file)
        if (!file->scratch &&
            refuse_document("mailboxes/", file->name, &file->document, true, request)) {
            snprintf(request->refused_mailbox, sizeof request->refused_mailbox, "%.64s",
                     file->name);
            return;
        }
    if (!draft->has_network || !refuse_document("", "network", &draft->network, true, request))
        refuse_document("", "options", &draft->options, false, request);
}

static void add_mailbox(const struct staged *file, const struct fork_rules *rules,
                        struct fork_request *request)
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
    if (fork_parse_mailbox(file->document.text, check.object, rules, mailbox, &request->refused) ==
        0)
        request->count++;
}

/* What is staged, as a request. What is wrong with it goes into request->refused. */
static void make_request(const struct draft *draft, const struct fork_rules *rules,
                         struct fork_request *request)
{
    const struct staged *file;
    const char *options = draft->options.text ? draft->options.text : fork_options_default;
    size_t size = draft->options.text ? draft->options.size : strlen(fork_options_default);
    refuse_documents(draft, request);
    if (request->refused.code)
        return;
    LL_FOREACH (draft->files, file)
        if (!file->scratch && !request->refused.code)
            add_mailbox(file, rules, request);
    if (draft->has_network && !request->refused.code)
        fork_parse_network(draft->network.text, draft->network.size, rules, &request->network,
                           &request->refused);
    request->options_text = strndup(options, size);
    if (!request->refused.code)
        fork_parse_options(options, size, &request->options, &request->refused);
}

/* The id of the fork: as written, the draft's own, or one that is made up. */
static void choose_id(const struct draft *draft, const char *text, struct fork_request *request)
{
    bool plain = !text[0] || strcmp(text, "1") == 0;
    if (!draft_is_new(draft)) {
        if (!plain && strcmp(text, draft->id) != 0)
            error_set(&request->refused, EINVAL,
                      "the fork of this draft can only be called %s: write that id, 1 or nothing "
                      "to commit",
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
    if (draft_find(draft->drafts, request->id) && !request->refused.code)
        error_set(&request->refused, EEXIST, "forks/%s is there already", request->id);
}

static struct draft *draft_of(const struct commit *commit)
{
    return (struct draft *)commit->job.place.object;
}

static struct forkable *forkable_of(const struct commit *commit)
{
    return (struct forkable *)draft_of(commit)->drafts->owner;
}

/* Called by the engine, without the lock. */
static void commit_step(void *listener, enum fork_step step, bool waiting)
{
    struct commit *commit = listener;
    struct draft *draft = draft_of(commit);
    struct objects *objects = draft->object.objects;
    bool queued = step == FORK_QUEUED;
    objects_lock(objects);
    if (draft->queued != queued || draft->waiting != waiting) {
        object_changed(&draft->object);
        object_changed(&objects->fs->root); /* instances/ */
    }
    draft->queued = queued;
    draft->waiting = waiting;
    objects_unlock(objects);
    event_commit(&commit->event, "commit-step", fork_step_names[step], NULL);
}

/* Called by the engine, without the lock. */
static void commit_withdrawn(void *listener, uint64_t serial)
{
    struct fs *fs = fs_of(&((struct commit *)listener)->job.place);
    objects_lock(&fs->objects);
    forkable_remove_instance(fs, serial);
    objects_unlock(&fs->objects);
}

static int commit_run(struct job *job)
{
    struct commit *commit = (struct commit *)job;
    const struct fs *fs = fs_of(&job->place);
    const struct fork_engine engine = {.instances = fs->setup.instances,
                                       .ack_address = fs->setup.ack_address,
                                       .ack_ports = fs->setup.ack_ports,
                                       .watch = fs->setup.watch,
                                       .warm = fs->setup.warm,
                                       .cancel_fd = fs->stop_fd,
                                       .abandoned = &commit->abandoned,
                                       .on_step = commit_step,
                                       .on_withdrawn = commit_withdrawn,
                                       .listener = commit};
    event_commit(&commit->event, "commit-begun", NULL, NULL);
    return fork_run(&engine, &forkable_of(commit)->of, &commit->request, &commit->outcome,
                    &job->error);
}

static void record_from_new(const struct draft *draft, struct commit *commit)
{
    struct draft *record = draft_create(draft->drafts, commit->request.id);
    if (!record)
        return; /* it is in the store and appears with the next start */
    if (draft->options.text)
        document_set(&record->options, draft->options.text, draft->options.size);
    if (commit->job.result < 0)
        draft_set_failure(record, commit->job.error.text);
    draft_become_record(record, commit->request.id, steal_pointer(commit->outcome.result));
}

/* Who saw the instance appear may have stopped and removed it by now. */
static bool is_there(const struct fs *fs, const struct commit *commit)
{
    struct instance *instance = instances_find(fs->setup.instances, commit->request.id);
    bool same = instance && instance->serial == commit->outcome.serial;
    instance_unref(instance);
    return same;
}

static void commit_finish(struct job *job)
{
    struct commit *commit = (struct commit *)job;
    struct fs *fs = fs_of(&job->place);
    struct draft *draft = draft_of(commit);
    bool new = draft_is_new(draft), published = commit->outcome.published;
    event_commit(&commit->event, NULL, NULL, commit->outcome.result);
    free(draft->result);
    draft->result = json_print(commit->outcome.result);
    draft->job = NULL;
    free(steal_pointer(draft->note)); /* why others were refused meanwhile */
    draft_set_failure(draft, job->result < 0 ? job->error.text : NULL);
    bool there = published && is_there(fs, commit);
    if (there && new && !draft->object.removed)
        record_from_new(draft, commit);
    else if (there && !new)
        draft_become_record(draft, commit->request.id, steal_pointer(commit->outcome.result));
    if (new)
        draft_empty(draft);
    object_changed(&draft->object);
    object_changed(draft->drafts->owner);
    object_changed(&fs->root); /* instances/ */
    if (published && !there && !new && !draft->object.removed)
        draft_remove(draft); /* a record goes with its instance */
}

/* What has not begun to load is not begun. */
static void commit_abandon(struct job *job)
{
    struct commit *commit = (struct commit *)job;
    if (!draft_of(commit)->queued)
        return;
    atomic_store(&commit->abandoned, true);
    turns_wake(fs_of(&job->place)->setup.instances->setup.turns);
}

static void commit_destroy(struct job *job)
{
    struct commit *commit = (struct commit *)job;
    fork_request_finish(&commit->request);
    cJSON_Delete(commit->outcome.result);
}

static const struct job_type commit_job = {.run = commit_run,
                                           .finish = commit_finish,
                                           .abandon = commit_abandon,
                                           .destroy = commit_destroy,
                                           .commits = true};

/* A second write while the draft commits: the same fork, or another one in `new`? */
static int join(struct draft *draft, const char *text, struct job **ret)
{
    bool same = !text[0] || strcmp(text, "1") == 0 || strcmp(text, draft->instance) == 0;
    struct error err;
    if (!same) {
        error_set(&err, draft_is_new(draft) ? EBUSY : EINVAL,
                  "%s is committing as %s: wait until that has ended, or make a draft of your own "
                  "with mkdir",
                  draft->id, draft->instance);
        return draft_note(draft, &err);
    }
    *ret = job_ref(draft->job);
    return FS_LATER;
}

static int begin(const struct place *place, const char *text, struct job **ret, struct error *err)
{
    struct draft *draft = (struct draft *)place->object;
    struct fs *fs = fs_of(place);
    struct commit *commit = job_create(&fs->jobs, &commit_job, sizeof *commit, place);
    if (!commit)
        return error_set(err, ENOMEM, "out of memory");
    make_request(draft, &fs->setup.rules, &commit->request);
    choose_id(draft, text, &commit->request);
    commit->event.events = fs->setup.events;
    commit->event.instance = commit->request.id;
    forkable_path(forkable_of(commit), commit->event.source);
    int r = job_start(&commit->job, err);
    if (r < 0)
        return r;
    draft->job = &commit->job;
    draft->queued = draft->waiting = false;
    memcpy(draft->instance, commit->request.id, sizeof draft->instance);
    *ret = &commit->job;
    return FS_LATER;
}

int commit_command(const struct place *place, const char *text, pid_t tid, struct job **ret)
{
    (void)tid;
    struct draft *draft = (struct draft *)place->object;
    struct error err = {0};
    if (draft->record)
        return draft_recorded_outcome(draft); /* nothing is ever forked twice */
    if (draft->job)
        return join(draft, text, ret);
    int r = begin(place, text, ret, &err);
    draft_set_failure(draft, r == FS_LATER ? NULL : err.text);
    if (r == FS_LATER) {
        free(steal_pointer(draft->note));
        free(steal_pointer(draft->result));
    } else if (draft_is_new(draft)) {
        draft_empty(draft);
    }
    object_changed(&draft->object);
    return r;
}
