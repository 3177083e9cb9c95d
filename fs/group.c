/* SPDX-License-Identifier: MIT */
#include "fs/group.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fs/commit.h"
#include "fs/draft_request.h"
#include "fs/forkable.h"
#include "fs/state.h"
#include "util/cleanup.h"

enum { AHEAD = 4 }; /* wait for their turns: who gets the next one has all else done */

struct group {
    struct job job; /* its place is that of `new`, or of forks/commit */
    struct commit_group shared;
    int interrupt_fd; /* eventfd: nobody waits any more; a part of `shared.cancel_fd` */
    pid_t tid;
    char *text;                  /* owned: what was written, to know a second write by */
    struct fork_request request; /* of `new`: what all are copies of */
    struct commit **members;     /* owned, counted; in the order of the ids */
    size_t count, begun;
    size_t room; /* how many may be under way: no more could be begun; 0: not known */
};

/* ---- the forks ---- */

static struct draft *new_of(const struct group *group)
{
    bool new = group->job.place.object->kind == OBJECT_DRAFT;
    return new ? (struct draft *)group->job.place.object : NULL;
}

static int copy_request(const struct group *group, const struct draft *new, struct commit *commit,
                        struct error *err)
{
    struct fork_request *request = commit->request;
    int r = fork_request_copy(&group->request, request, err);
    if (r < 0)
        return r;
    memcpy(request->id, commit->id, sizeof request->id);
    if (draft_find(new->drafts, commit->id))
        error_set(&request->refused, EEXIST, "forks/%s is there already", commit->id);
    return 0;
}

static int read_request(struct commit *commit, struct error *err)
{
    const struct draft *draft = (const struct draft *)commit->job.place.object;
    if (draft->object.removed)
        return error_set(err, ENODEV, "forks/%s was removed", commit->id);
    draft_request(draft, &fs_of(&commit->job.place)->setup.rules, commit->request);
    memcpy(commit->request->id, commit->id, sizeof commit->request->id);
    return 0;
}

static int start(struct group *group, struct commit *commit, struct error *err)
{
    commit->request = calloc(1, sizeof *commit->request);
    if (!commit->request)
        return error_set(err, ENOMEM, "out of memory");
    const struct draft *new = new_of(group);
    int r = new ? copy_request(group, new, commit, err) : read_request(commit, err);
    if (r == 0) {
        job_ref(&commit->job); /* a start that fails releases one */
        r = commit_start(commit, err);
        if (r == 0)
            job_unref(&commit->job);
    }
    if (r < 0) {
        fork_request_finish(commit->request);
        free(steal_pointer(commit->request));
    }
    return r;
}

/* A draft that is a record has its outcome. */
static void begin_next(struct group *group)
{
    struct commit *commit = group->members[group->begun];
    struct error err = {0};
    if (commit->job.done) {
        group->begun++;
        return;
    }
    if (group->request.refused.code)
        err = group->request.refused;
    else if (group->shared.abandoned)
        error_set(&err, ECANCELED,
                  "the write was interrupted before this fork was begun: commit again");
    else if (start(group, commit, &err) == -EAGAIN && group->shared.under_way > 0) {
        group->room = group->shared.under_way; /* one is tried again when one has ended */
        return;
    }
    group->begun++;
    group->room = 0;
    if (err.code)
        commit_refuse(commit, &err, group->request.refused_mailbox);
}

static bool may_begin(const struct group *group)
{
    const struct commit_group *shared = &group->shared;
    /* Others have commits, too, and would be refused. */
    const bool has_share = shared->under_way < JOB_COMMITS_MAX / 2 || shared->abandoned;
    return group->begun < group->count && !shared->newest && shared->queued < AHEAD && has_share &&
           (group->room == 0 || shared->under_way < group->room || shared->abandoned);
}

static const struct commit *first_failed(const struct group *group)
{
    for (size_t i = 0; i < group->count; i++)
        if (group->members[i]->job.result < 0)
            return group->members[i];
    return NULL;
}

/* What those that have ended have deferred is answered meanwhile. */
static int group_run(struct job *job)
{
    struct group *group = (struct group *)job;
    struct objects *objects = job->place.object->objects;
    objects_lock(objects);
    while (group->begun < group->count || group->shared.under_way > 0) {
        if (may_begin(group))
            begin_next(group);
        if (objects->deferred || may_begin(group)) {
            objects_unlock(objects);
            objects_lock(objects);
        } else if (group->begun < group->count || group->shared.under_way > 0) {
            pthread_cond_wait(&group->shared.changed, &objects->lock);
        }
    }
    const struct commit *failed = first_failed(group);
    objects_unlock(objects);
    fork_plan_destroy(steal_pointer(group->shared.plan));
    return failed ? failed->job.result : 0;
}

/* ---- what is told of them ---- */

static size_t count_failed(const struct group *group)
{
    size_t count = 0;
    for (size_t i = 0; i < group->count; i++)
        count += group->members[i]->job.result < 0;
    return count;
}

/* Why the write has failed, in one line: the rest is in `result`, or in the drafts. */
static void describe(const struct group *group, const struct commit *failed, struct error *ret)
{
    size_t count = count_failed(group);
    if (count == 1 && group->count == 1)
        error_set(ret, -failed->job.result, "%s: %s", failed->id, failed->job.error.text);
    else
        error_set(ret, -failed->job.result, "%zu of %zu forks failed; the first, %s: %s", count,
                  group->count, failed->id, failed->job.error.text);
}

static char *print_result(const struct group *group)
{
    auto_json cJSON *json = cJSON_CreateObject();
    json_add_string(json, "status", first_failed(group) ? "failed" : "committed");
    cJSON *forks = json_add_array(json, "forks");
    for (size_t i = 0; i < group->count; i++) {
        const struct commit *commit = group->members[i];
        const cJSON *error = json_get(commit->outcome.result, "error");
        cJSON *fork = cJSON_CreateObject();
        json_add_string(fork, "id", commit->id);
        json_add_string(fork, "status", commit->job.result < 0 ? "failed" : "committed");
        json_add(fork, "error", error ? cJSON_Duplicate(error, true) : cJSON_CreateNull());
        json_append(forks, fork);
    }
    return json_print(json);
}

static void finish_new(const struct group *group, struct draft *draft, const struct error *err)
{
    draft_set_result(draft, print_result(group));
    draft->job = NULL;
    free(steal_pointer(draft->note)); /* why others were refused meanwhile */
    draft_set_failure(draft, err->code ? err->text : NULL);
    draft_empty(draft);
    object_changed(&draft->object);
}

/* forks/ has no `error`. */
static int refuse_drafts(const struct place *place, pid_t tid, struct error *err)
{
    static const struct entry forks = {"forks", S_IFDIR | 0755, 0};
    const struct place directory = {.object = place->object, .entry = &forks};
    return refuse(&(struct refusal){"write", &directory, place->entry->name, tid, NULL}, err);
}

static void group_finish(struct job *job)
{
    struct group *group = (struct group *)job;
    struct draft *draft = new_of(group);
    struct error err = {0};
    const struct commit *failed = first_failed(group);
    if (failed)
        describe(group, failed, &err);
    if (draft)
        finish_new(group, draft, &err);
    else if (err.code)
        refuse_drafts(&job->place, group->tid, &err);
}

static void group_abandon(struct job *job)
{
    struct group *group = (struct group *)job;
    atomic_store(&group->shared.abandoned, true);
    eventfd_write(group->interrupt_fd, 1);
    turns_wake(fs_of(&job->place)->setup.instances->setup.turns);
    pthread_cond_signal(&group->shared.changed);
}

static void group_destroy(struct job *job)
{
    struct group *group = (struct group *)job;
    for (size_t i = 0; i < group->count; i++)
        job_unref(&group->members[i]->job);
    free(group->members);
    free(group->text);
    fork_request_finish(&group->request);
    fork_plan_destroy(group->shared.plan); /* there is one only if it was not run */
    if (group->interrupt_fd >= 0)
        close(group->interrupt_fd);
    if (group->shared.cancel_fd >= 0)
        close(group->shared.cancel_fd);
    pthread_cond_destroy(&group->shared.changed);
}

static const struct job_type group_job = {
    .run = group_run, .finish = group_finish, .abandon = group_abandon, .destroy = group_destroy};

/* ---- the write ---- */

/* Readable with the daemon's, or when nobody waits any more. */
static int open_cancel_fd(struct group *group)
{
    const int parts[] = {fs_of(&group->job.place)->stop_fd, group->interrupt_fd};
    struct epoll_event event = {.events = EPOLLIN};
    int fd = group->shared.cancel_fd = epoll_create1(EPOLL_CLOEXEC);
    for (size_t i = 0; i < array_length(parts); i++)
        if (fd < 0 || epoll_ctl(fd, EPOLL_CTL_ADD, parts[i], &event) < 0)
            return -errno;
    return 0;
}

static struct group *group_create(const struct place *place, const char *text,
                                  const struct waiter *by, struct error *err)
{
    struct group *group = job_create(&fs_of(place)->jobs, &group_job, sizeof *group, place);
    if (!group) {
        error_set(err, ENOMEM, "out of memory");
        return NULL;
    }
    pthread_cond_init(&group->shared.changed, NULL);
    group->tid = by->tid;
    group->job.user = by->uid;
    group->shared.cancel_fd = -1;
    group->interrupt_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    group->text = strdup(text);
    group->members = calloc(GROUP_MAX, sizeof *group->members);
    if (group->interrupt_fd < 0 || open_cancel_fd(group) < 0)
        error_errno(err, errno, "cannot make an event descriptor");
    else if (!group->text || !group->members)
        error_set(err, ENOMEM, "out of memory");
    else
        return group;
    job_unref(&group->job);
    return NULL;
}

static int add_member(struct group *group, struct draft *draft, const char *id, struct error *err)
{
    const struct place place = {.object = &draft->object, .entry = group->job.place.entry};
    struct commit *commit = commit_create(&place, &group->shared, group->job.user);
    if (!commit)
        return error_set(err, ENOMEM, "out of memory");
    snprintf(commit->id, sizeof commit->id, "%s", id);
    group->members[group->count++] = commit;
    return 0;
}

/* What can be wrong with a draft's id is found before anything is begun. */
static int add_draft(struct group *group, const char *id, struct error *err)
{
    const struct drafts *drafts = &((struct forkable *)group->job.place.object)->drafts;
    struct draft *draft = draft_find(drafts, id);
    if (!draft)
        return error_set(err, ENOENT, "there is no draft forks/%s: make it with mkdir", id);
    if (draft->job)
        return error_set(err, EBUSY, "forks/%s is committing: wait until that has ended", id);
    int r = add_member(group, draft, id, err);
    if (r == 0 && draft->record) { /* nothing is ever forked twice */
        struct job *job = &group->members[group->count - 1]->job;
        job->done = true;
        job->result = draft_recorded_outcome(draft);
        error_set(&job->error, -job->result, "%s", draft->failure ? draft->failure : "");
    }
    return r;
}

static int add_word(struct group *group, const char *word, struct error *err)
{
    if (group->count == GROUP_MAX)
        return error_set(err, EFBIG, "one write takes %d ids", GROUP_MAX);
    int r = store_check_id(word, err);
    if (r < 0)
        return error_prefix(err, r, "what was written to commit");
    struct draft *new = new_of(group);
    return new ? add_member(group, new, word, err) : add_draft(group, word, err);
}

/* The next word, no longer than what is too long for an id; false: there is none. */
static bool next_word(const char **text, char ret[STORE_ID_MAX + 2])
{
    while (isspace((unsigned char)**text))
        ++*text;
    size_t size = 0;
    while ((*text)[size] && !isspace((unsigned char)(*text)[size]))
        size++;
    snprintf(ret, STORE_ID_MAX + 2, "%.*s", (int)(size < 100 ? size : 100), *text);
    *text += size;
    return size > 0;
}

static int compare(const void *a, const void *b)
{
    return strcmp((*(struct commit *const *)a)->id, (*(struct commit *const *)b)->id);
}

static int check_distinct(const struct group *group, struct error *err)
{
    size_t size = group->count * sizeof *group->members;
    auto_free struct commit **sorted = malloc(size + 1);
    if (!sorted)
        return error_set(err, ENOMEM, "out of memory");
    memcpy(sorted, group->members, size);
    qsort(sorted, group->count, sizeof *sorted, compare);
    for (size_t i = 1; i < group->count; i++)
        if (compare(&sorted[i - 1], &sorted[i]) == 0)
            return error_set(err, EINVAL, "%s was written to commit twice: write each id once",
                             sorted[i]->id);
    return 0;
}

static int add_words(struct group *group, const char *text, struct error *err)
{
    char word[STORE_ID_MAX + 2];
    int r = strlen(text) > GROUP_TEXT_MAX
                ? error_set(err, EFBIG, "one write takes %d KiB of ids", GROUP_TEXT_MAX / 1024)
                : 0;
    while (r == 0 && next_word(&text, word))
        r = add_word(group, word, err);
    return r == 0 ? check_distinct(group, err) : r;
}

/* From now on it is committing, and what is staged in it stays as it is. */
static void occupy(struct draft *draft, struct job *job, const char *id)
{
    draft->job = job;
    draft->queued = id[0];
    draft->waiting = false;
    snprintf(draft->instance, sizeof draft->instance, "%s", id);
    draft_set_failure(draft, NULL);
    free(steal_pointer(draft->note));
    draft_set_result(draft, NULL);
    object_changed(&draft->object);
}

static int begin(struct group *group, struct job **ret, struct error *err)
{
    struct draft *new = new_of(group);
    if (new && !(group->shared.plan = fork_plan_create())) {
        job_unref(&group->job);
        return error_set(err, ENOMEM, "out of memory");
    }
    int r = job_start(&group->job, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < group->count && !new; i++) {
        struct commit *commit = group->members[i];
        if (!commit->job.done)
            occupy((struct draft *)commit->job.place.object, &commit->job, commit->id);
    }
    if (new)
        occupy(new, &group->job, "");
    *ret = &group->job;
    return FS_LATER;
}

static int begin_new(const struct place *place, const char *text, const struct waiter *by,
                     struct job **ret)
{
    struct error err = {0};
    struct group *group = group_create(place, text, by, &err);
    int r = group ? add_words(group, text, &err) : -err.code;
    if (r < 0 && group)
        job_unref(&group->job);
    if (r == 0) {
        draft_request((struct draft *)place->object, &fs_of(place)->setup.rules, &group->request);
        r = begin(group, ret, &err);
    }
    return r < 0 ? commit_refuse_list(place, &err, by, ret) : r;
}

/* Another write while they are made. */
static int join(const struct draft *draft, const char *text, struct job **ret)
{
    const struct group *group = (const struct group *)draft->job;
    struct error err;
    if (strcmp(text, group->text) == 0 && !group->shared.abandoned) {
        *ret = job_ref(draft->job);
        return FS_LATER;
    }
    error_set(&err, EBUSY,
              "%zu forks are being made of forks/new: wait until that has ended, or make a draft "
              "of your own with mkdir",
              group->count);
    return draft_note((struct draft *)draft, &err);
}

int group_commit_draft(const struct place *place, const char *text, const struct waiter *by,
                       struct job **ret)
{
    struct draft *draft = (struct draft *)place->object;
    char first[STORE_ID_MAX + 2], second[STORE_ID_MAX + 2];
    const char *at = text;
    if (draft->job && draft->job->type == &group_job)
        return join(draft, text, ret);
    next_word(&at, first);
    bool one = !next_word(&at, second);
    if (one || !draft_is_new(draft) || draft->job)
        return commit_command(place, one ? first : text, by, ret);
    return begin_new(place, text, by, ret);
}

int group_commit_drafts(const struct place *place, const char *text, const struct waiter *by,
                        struct job **ret)
{
    struct error err = {0};
    struct group *group = group_create(place, text, by, &err);
    int r = group ? add_words(group, text, &err) : -err.code;
    if (r == 0 && group->count == 0)
        r = error_set(&err, EINVAL, "write the ids of the drafts that are to be committed");
    if (r < 0 && group)
        job_unref(&group->job);
    if (r == 0)
        r = begin(group, ret, &err);
    return r < 0 ? refuse_drafts(place, by->tid, &err) : r;
}

bool group_makes(const struct draft *draft, const char *id)
{
    const struct group *group = (const struct group *)draft->job;
    if (!group || group->job.type != &group_job)
        return false;
    for (size_t i = 0; i < group->count; i++)
        if (strcmp(group->members[i]->id, id) == 0)
            return true;
    return false;
}
