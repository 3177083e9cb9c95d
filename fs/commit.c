/* SPDX-License-Identifier: MIT */
#include "fs/commit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/draft_request.h"
#include "fs/forkable.h"
#include "fs/state.h"
#include "util/cleanup.h"
#include "util/json.h"

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

static const struct job_type member_job;

static bool is_of_new(const struct commit *commit)
{
    return commit->job.type == &member_job;
}

/* From now on the next one may begin. */
static void let_next_begin(struct commit *commit)
{
    struct commit_group *group = commit->group;
    if (group->newest == commit)
        group->newest = NULL;
    pthread_cond_signal(&group->changed);
}

static void tell_group(struct commit *commit, enum fork_step step)
{
    bool queued = step == FORK_QUEUED;
    commit->group->queued += queued && !commit->queued;
    commit->group->queued -= !queued && commit->queued;
    commit->queued = queued;
    if (step == FORK_QUEUED || step == FORK_LOAD)
        let_next_begin(commit);
}

static void leave_group(struct commit *commit)
{
    if (!commit->request) /* it was not begun */
        return;
    commit->group->under_way--;
    commit->group->queued -= commit->queued;
    let_next_begin(commit);
}

/* Called by the engine, without the lock. */
static void commit_step(void *listener, enum fork_step step, bool waiting)
{
    struct commit *commit = listener;
    struct draft *draft = draft_of(commit);
    struct objects *objects = draft->object.objects;
    bool queued = step == FORK_QUEUED;
    objects_lock(objects);
    if (commit->group)
        tell_group(commit, step);
    if (is_of_new(commit)) {
        queued = commit->group->queued == commit->group->under_way;
        waiting = false;
    }
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

static struct fork_engine engine_of(struct commit *commit)
{
    const struct fs *fs = fs_of(&commit->job.place);
    const struct commit_group *group = commit->group;
    return (struct fork_engine){.instances = fs->setup.instances,
                                .ack_address = fs->setup.ack_address,
                                .ack_ports = fs->setup.ack_ports,
                                .watch = fs->setup.watch,
                                .warm = fs->setup.warm,
                                .user = commit->job.user,
                                .cancel_fd = group ? group->cancel_fd : fs->stop_fd,
                                .abandoned = group ? &group->abandoned : &commit->abandoned,
                                .plan = group ? group->plan : NULL};
}

static int commit_run(struct job *job)
{
    struct commit *commit = (struct commit *)job;
    struct fork_engine engine = engine_of(commit);
    engine.on_step = commit_step;
    engine.on_withdrawn = commit_withdrawn;
    engine.listener = commit;
    event_commit(&commit->event, "commit-begun", NULL, NULL);
    return fork_run(&engine, &forkable_of(commit)->of, commit->request, &commit->outcome,
                    &job->error);
}

void commit_refuse(struct commit *commit, const struct error *why, const char *mailbox)
{
    static struct fork_request none; /* objects.lock guards it */
    const struct fork_engine engine = engine_of(commit);
    memcpy(none.id, commit->id, sizeof none.id);
    none.refused = *why;
    snprintf(none.refused_mailbox, sizeof none.refused_mailbox, "%s", mailbox);
    int r =
        fork_run(&engine, &forkable_of(commit)->of, &none, &commit->outcome, &commit->job.error);
    job_end(&commit->job, r);
}

static void record_from_new(const struct draft *draft, struct commit *commit)
{
    struct draft *record = draft_create(draft->drafts, commit->id);
    if (!record)
        return; /* it is in the store and appears with the next start */
    if (draft->options.text)
        document_set(&record->options, draft->options.text, draft->options.size);
    if (commit->job.result < 0)
        draft_set_failure(record, commit->job.error.text);
    draft_become_record(record, commit->id, steal_pointer(commit->outcome.result));
}

/* Who saw the instance appear may have stopped and removed it by now. */
static bool is_there(const struct fs *fs, const struct commit *commit)
{
    struct instance *instance = instances_find(fs->setup.instances, commit->id);
    bool same = instance && instance->serial == commit->outcome.serial;
    instance_unref(instance);
    return same;
}

/* Its fork is there, or nothing of it is; returns whether it is there. */
static bool conclude(struct commit *commit)
{
    struct fs *fs = fs_of(&commit->job.place);
    bool published = commit->outcome.published;
    event_commit(&commit->event, NULL, NULL, commit->outcome.result);
    if (commit->group)
        leave_group(commit);
    commit->group = NULL;
    free(steal_pointer(commit->request));
    object_changed(draft_of(commit)->drafts->owner);
    object_changed(&fs->root); /* instances/ */
    return published && is_there(fs, commit);
}

static void commit_finish(struct job *job)
{
    struct commit *commit = (struct commit *)job;
    struct draft *draft = draft_of(commit);
    bool new = draft_is_new(draft), published = commit->outcome.published;
    bool there = conclude(commit);
    if (commit->of_list)
        json_add_array(commit->outcome.result, "forks");
    draft_set_result(draft, json_print(commit->outcome.result));
    draft->job = NULL;
    free(steal_pointer(draft->note)); /* why others were refused meanwhile */
    draft_set_failure(draft, job->result < 0 ? job->error.text : NULL);
    if (there && new && !draft->object.removed)
        record_from_new(draft, commit);
    else if (there && !new)
        draft_become_record(draft, commit->id, steal_pointer(commit->outcome.result));
    if (new)
        draft_empty(draft);
    object_changed(&draft->object);
    if (published && !there && !new && !draft->object.removed)
        draft_remove(draft); /* a record goes with its instance */
}

/* What has not begun to load is not begun. */
static void commit_abandon(struct job *job)
{
    struct commit *commit = (struct commit *)job;
    if (commit->group || !draft_of(commit)->queued)
        return; /* who wrote for the group waits for it */
    atomic_store(&commit->abandoned, true);
    turns_wake(fs_of(&job->place)->setup.instances->setup.turns);
}

static void commit_destroy(struct job *job)
{
    struct commit *commit = (struct commit *)job;
    if (commit->request)
        fork_request_finish(commit->request);
    free(commit->request);
    cJSON_Delete(commit->outcome.result);
}

static const struct job_type commit_job = {.run = commit_run,
                                           .finish = commit_finish,
                                           .abandon = commit_abandon,
                                           .destroy = commit_destroy,
                                           .commits = true};

/* One of several that are made of `new`, which becomes empty when all have ended. */
static void member_finish(struct job *job)
{
    struct commit *commit = (struct commit *)job;
    struct draft *draft = draft_of(commit);
    if (conclude(commit) && !draft->object.removed)
        record_from_new(draft, commit);
    object_changed(&draft->object);
}

static const struct job_type member_job = {
    .run = commit_run, .finish = member_finish, .destroy = commit_destroy, .commits = true};

struct commit *commit_create(const struct place *draft, struct commit_group *group, uid_t user)
{
    struct fs *fs = fs_of(draft);
    bool member = group && draft_is_new((const struct draft *)draft->object);
    struct commit *commit =
        job_create(&fs->jobs, member ? &member_job : &commit_job, sizeof *commit, draft);
    if (!commit)
        return NULL;
    commit->group = group;
    commit->job.user = user;
    commit->event.events = fs->setup.events;
    commit->event.instance = commit->id;
    forkable_path(forkable_of(commit), commit->event.source);
    return commit;
}

int commit_start(struct commit *commit, struct error *err)
{
    struct draft *draft = draft_of(commit);
    memcpy(commit->id, commit->request->id, sizeof commit->id);
    int r = job_start(&commit->job, err);
    if (r < 0)
        return r;
    if (commit->group) {
        commit->group->newest = commit;
        commit->group->under_way++;
    }
    if (!is_of_new(commit)) {
        draft->job = &commit->job;
        draft->queued = draft->waiting = false;
        memcpy(draft->instance, commit->id, sizeof draft->instance);
    }
    return 0;
}

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

/* With `why` it is refused, and `text` is NULL. */
static int begin(const struct place *place, const char *text, const struct error *why,
                 const struct waiter *by, struct job **ret, struct error *err)
{
    const struct draft *draft = (const struct draft *)place->object;
    struct commit *commit = commit_create(place, NULL, by->uid);
    if (commit)
        commit->request = calloc(1, sizeof *commit->request);
    if (!commit || !commit->request) {
        job_unref(commit ? &commit->job : NULL);
        return error_set(err, ENOMEM, "out of memory");
    }
    draft_request(draft, &fs_of(place)->setup.rules, commit->request);
    if (why)
        commit->request->refused = *why;
    else
        choose_id(draft, text, commit->request);
    commit->of_list = why != NULL;
    int r = commit_start(commit, err);
    if (r < 0)
        return r;
    *ret = &commit->job;
    return FS_LATER;
}

/* Returns r, of begin(). */
static int has_begun(struct draft *draft, int r, const struct error *err)
{
    draft_set_failure(draft, r == FS_LATER ? NULL : err->text);
    if (r == FS_LATER) {
        free(steal_pointer(draft->note));
        draft_set_result(draft, NULL);
    } else if (draft_is_new(draft)) {
        draft_empty(draft);
    }
    object_changed(&draft->object);
    return r;
}

int commit_command(const struct place *place, const char *text, const struct waiter *by,
                   struct job **ret)
{
    struct draft *draft = (struct draft *)place->object;
    struct error err = {0};
    if (draft->record)
        return draft_recorded_outcome(draft); /* nothing is ever forked twice */
    if (draft->job)
        return join(draft, text, ret);
    return has_begun(draft, begin(place, text, NULL, by, ret, &err), &err);
}

int commit_refuse_list(const struct place *place, const struct error *why, const struct waiter *by,
                       struct job **ret)
{
    struct error err = {0};
    return has_begun((struct draft *)place->object, begin(place, NULL, why, by, ret, &err), &err);
}
