/* SPDX-License-Identifier: MIT */
#include "fs/delivery.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "fork/conversation.h"
#include "fs/event.h"
#include "fs/forkable.h"
#include "fs/state.h"
#include "instance/live.h"
#include "util/cleanup.h"
#include "util/json.h"

/* ---- a payload ---- */

struct delivery_job {
    struct job job;
    struct fork_network request; /* owned */
    struct instance_turn turn;
    uint64_t number; /* of the write, among the instance's */
};

static struct instance *instance_of(const struct job *job)
{
    return forkable_at(&job->place)->of.instance;
}

static int delivery_run(struct job *job)
{
    struct delivery_job *delivery = (struct delivery_job *)job;
    const struct fs *fs = fs_of(&job->place);
    const struct conversation_setup setup = {.watch = fs->setup.watch,
                                             .ack_address = fs->setup.ack_address,
                                             .ack_ports = fs->setup.ack_ports,
                                             .cancel_fd = fs->stop_fd};
    struct conversation_outcome outcome;
    int r = conversation_run(&setup, instance_of(job), &delivery->request, &delivery->turn,
                             &outcome, &job->error);
    event_delivery(fs->setup.events, instance_of(job), delivery->request.mailbox.name,
                   fork_step_names[outcome.step], outcome.frozen_ms, r < 0 ? &job->error : NULL);
    return r;
}

/* {"error":REASON}; NULL if there is none. */
static char *failure_text(const struct job *job)
{
    if (job->result >= 0)
        return NULL;
    auto_json cJSON *json = cJSON_CreateObject();
    json_add_string(json, "error", job->error.text);
    return json_print(json);
}

/* Who has written it can read what became of it, not of the next one, through the same open file.
 */
static void keep_for_writers(const struct job *job)
{
    struct waiter *waiter;
    DL_FOREACH (fs_of(&job->place)->waiters.first, waiter)
        if (waiter->what == job && waiter->handle)
            handle_keep(waiter->handle, failure_text(job));
}

static void delivery_finish(struct job *job)
{
    struct delivery_job *delivery = (struct delivery_job *)job;
    struct forkable *instance = forkable_at(&job->place);
    delivery->turn.done = true;
    keep_for_writers(job);
    instance_end_turn(instance->of.instance, &delivery->turn);
    forkable_note_outcome(instance, delivery->number, job->result < 0 ? job->error.text : NULL);
    object_changed(&instance->object);
}

static void delivery_destroy(struct job *job)
{
    struct fork_network *request = &((struct delivery_job *)job)->request;
    free_wiped(request->mailbox.payload, request->mailbox.payload_size);
    consume_finish(&request->mailbox.consume);
    explicit_bzero(request, sizeof *request);
}

/* What has not been delivered, because others are before it, is not delivered. */
static void delivery_abandon(struct job *job)
{
    instance_abandon_turn(instance_of(job), &((struct delivery_job *)job)->turn);
}

static const struct job_type delivery_job = {.run = delivery_run,
                                             .finish = delivery_finish,
                                             .abandon = delivery_abandon,
                                             .destroy = delivery_destroy,
                                             .commits = true};

/* What is written there is what could be staged. */
static int read_request(const struct place *place, const char *text, struct fork_network *ret,
                        struct error *err)
{
    const struct fork_rules *rules = &fs_of(place)->setup.rules;
    const struct json_span all = {.start = 0, .end = strlen(text)};
    if (!place->mailbox)
        return fork_parse_network(text, all.end, rules, ret, err);
    snprintf(ret->mailbox.name, sizeof ret->mailbox.name, "%s", place->mailbox->name);
    int r = fork_parse_mailbox(text, all, rules, &ret->mailbox, err);
    return r < 0 ? error_prefix(err, r, "mailboxes/%s", ret->mailbox.name) : 0;
}

/* Joins the turns, and starts. EAGAIN: who does not want to wait for others would have to. */
static int begin(struct delivery_job *delivery, bool nonblocking, struct error *err)
{
    struct instance *instance = instance_of(&delivery->job);
    const char *name = delivery->request.mailbox.name;
    if (nonblocking && instance_is_delivering(instance, name))
        return -EAGAIN;
    delivery->turn = (struct instance_turn){.name = name};
    instance_join_turns(instance, &delivery->turn);
    job_ref(&delivery->job); /* a start that fails releases one */
    int r = job_start(&delivery->job, err);
    if (r < 0)
        instance_end_turn(instance, &delivery->turn);
    else
        job_unref(&delivery->job);
    return r;
}

int delivery_command(const struct place *place, const char *text, const struct waiter *by,
                     struct job **ret)
{
    struct forkable *instance = forkable_at(place);
    struct error err = {0};
    struct delivery_job *delivery =
        job_create(&fs_of(place)->jobs, &delivery_job, sizeof *delivery, place);
    if (!delivery)
        return -ENOMEM;
    int r = read_request(place, text, &delivery->request, &err);
    delivery->number = ++instance->writes;
    delivery->job.user = by->uid;
    if (r == 0)
        r = begin(delivery, by->nonblocking, &err);
    if (r < 0) {
        job_unref(&delivery->job);
        if (err.code)
            forkable_note(instance, err.text);
        return r;
    }
    *ret = &delivery->job;
    return FS_LATER;
}

/* ---- a search ---- */

static int search_run(struct job *job)
{
    struct instance_view view = {0};
    int r = instance_look(instance_of(job), &view, &job->error);
    if (r == 0)
        r = instance_search(instance_of(job), &view, &job->error);
    instance_view_finish(&view);
    return r;
}

/* Who waits for a list gets an empty one, rather than wait for the next that fails. */
static void search_finish(struct job *job)
{
    struct forkable *instance = forkable_at(&job->place);
    if (instance->search == job)
        instance->search = NULL;
    if (job->result < 0)
        instance_search_failed(instance->of.instance);
    forkable_note(instance, job->result < 0 ? job->error.text : NULL);
    object_changed(&instance->object);
    waiters_answer(&fs_of(&job->place)->waiters, NULL, 0);
}

static const struct job_type search_job = {.run = search_run, .finish = search_finish};

/* `anew`: one that began before will not do. */
static int begin_search(const struct place *place, bool anew, struct error *err)
{
    struct forkable *instance = forkable_at(place);
    if (instance->search && !anew)
        return 0;
    struct job *job = job_create(&fs_of(place)->jobs, &search_job, sizeof *job, place);
    if (!job)
        return error_set(err, ENOMEM, "out of memory");
    int r = job_start(job, err);
    if (r < 0)
        return r;
    instance->search = job;
    job_unref(job);
    return 0;
}

int delivery_search(const struct place *place)
{
    struct error err;
    return begin_search(place, false, &err);
}

int delivery_rescan(const struct place *place, const char *text, const struct waiter *by,
                    struct job **ret)
{
    struct forkable *instance = forkable_at(place);
    struct error err = {0};
    (void)by;
    int r = strcmp(text, "1") == 0 ? begin_search(place, true, &err)
                                   : error_set(&err, EINVAL, "rescan takes 1");
    if (r < 0) {
        forkable_note(instance, err.text);
        return r;
    }
    *ret = job_ref(instance->search);
    return FS_LATER;
}
