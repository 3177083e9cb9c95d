/* SPDX-License-Identifier: MIT */
#include "fork/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fork/internal.h"
#include "fork/load.h"
#include "util/cleanup.h"
#include "util/fault.h"
#include "util/json.h"
#include "util/plain_file.h"
#include "util/process.h"

enum { UNSEEN_WAIT_MS = 30000 }; /* who may wait for longer is shown meanwhile */

struct fork_plan *fork_plan_create(void)
{
    struct fork_plan *plan = calloc(1, sizeof *plan);
    if (plan)
        plan->copy.fd = -1;
    return plan;
}

void fork_plan_destroy(struct fork_plan *plan)
{
    if (!plan)
        return;
    snapshot_unref(plan->snapshot);
    store_entry_discard(&plan->copy);
    free(plan);
}

static int read_machine(struct fork *fork, const cJSON *json, struct error *err)
{
    const struct fork_options *options = &fork->request->options;
    int r = load_machine(json, fork->source_name, &fork->machine, err);
    if (r < 0)
        return r;
    if (options->console_max_bytes > 0)
        fork->machine.console_max_bytes = options->console_max_bytes;
    r = options->tap    ? machine_set_tap(&fork->machine, options->tap, err)
        : options->taps ? machine_set_taps(&fork->machine, options->taps, err)
                        : 0;
    return r < 0 ? error_prefix(err, r, "options: \"%s\" cannot be used with %s",
                                options->tap ? "tap" : "taps", fork->source_name)
                 : 0;
}

/* Who is not resumed cannot take a payload. */
static int check_target(const struct fork_request *request, struct error *err)
{
    if (!request->options.standby || (request->count == 0 && !request->network.staged))
        return 0;
    return error_set(err, EINVAL,
                     "with \"target_state\": \"standby\" nothing can be delivered: remove what "
                     "is staged, or set it to \"running\"");
}

/* From here on the snapshot is not removed; of an instance a copy will be made. */
static int use_source(struct fork *fork, struct error *err)
{
    const struct fork_source *source = fork->source;
    const struct fork_plan *plan = fork->engine->plan;
    if (plan && plan->snapshot) {
        fork->snapshot = snapshot_ref(plan->snapshot);
        return 0;
    }
    if (source->instance) {
        int r = instance_check_fork(source->instance, fork->request->options.from_running, err);
        fork->description = r == 0 ? instance_describe(source->instance) : NULL;
        return r < 0 || json_is_whole(fork->description) ? r
                                                         : error_set(err, ENOMEM, "out of memory");
    }
    int r = snapshot_use(source->snapshot, err);
    if (r < 0)
        return r;
    fork->using_snapshot = true;
    fork->snapshot = snapshot_ref(source->snapshot);
    return 0;
}

/* One that is not to run takes none. */
static int check_memory(const struct fork *fork, struct error *err)
{
    return fork->request->options.standby
               ? 0
               : limits_check_memory(&fork->engine->instances->setup.limits, err);
}

/* Everything that the source's own words can tell, before any work. */
static int validate(struct fork *fork, struct error *err)
{
    if (fork->request->refused.code != 0) {
        if (fork->request->refused_mailbox[0])
            fork->failed_mailbox = fork->request->refused_mailbox;
        return error_set(err, fork->request->refused.code, "%s", fork->request->refused.text);
    }
    int r = use_source(fork, err);
    if (r == 0)
        r = check_target(fork->request, err);
    if (r == 0 && fork->request->options.identity)
        r = identity_check(fork, err);
    if (r == 0)
        r = read_machine(
            fork, fork->description ? fork->description : snapshot_json(fork->snapshot), err);
    if (r == 0)
        r = handoff_check(fork, err);
    if (r == 0)
        store_await_room(fork->engine->instances->setup.store, fork->machine.memory_bytes);
    if (r == 0)
        r = check_memory(fork, err);
    if (r == 0)
        r = instances_reserve(fork->engine->instances, fork->request->id, &fork->machine,
                              &fork->instance, err);
    return r < 0 || fork->request->options.standby ? r : instance_acquire_vm(fork->instance, err);
}

static int read_image(void *context, uint64_t offset, void *bytes, size_t size, struct error *err)
{
    ssize_t n = pread(*(int *)context, bytes, size, (off_t)offset);
    return n == (ssize_t)size
               ? 0
               : error_errno(err, n < 0 ? errno : EIO, "cannot read the snapshot's memory image");
}

static int preflight(struct fork *fork, const struct memory_io *io, struct error *err)
{
    for (size_t i = 0; i < fork->count; i++) {
        fork->failed_mailbox = fork->mailboxes[i]->name[0] ? fork->mailboxes[i]->name : NULL;
        int r = deliver_preflight(io, &fork->deliveries[i], 1, err);
        if (r < 0)
            return r;
    }
    fork->failed_mailbox = NULL;
    return 0;
}

static int open_image(const struct fork *fork, int *ret, struct error *err)
{
    const struct snapshot *snapshot = fork->snapshot;
    struct stat st;
    char what[STORE_ID_MAX + 48];
    auto_close int fd = -1, directory_fd = image_open(snapshot->image, err);
    if (directory_fd < 0)
        return error_prefix(err, directory_fd, "%s", fork->source_name);
    snprintf(what, sizeof what, "the memory image of %s", fork->source_name);
    int r = plain_file_open(directory_fd, "memory", O_RDONLY, what, &fd, err);
    if (r < 0)
        return r;
    if (fstat(fd, &st) < 0)
        return error_io(err, errno, "%s", what);
    if ((uint64_t)st.st_size != snapshot->memory_bytes)
        return error_set(err, EIO,
                         "the memory image of %s has %jd bytes, not the %" PRIu64
                         " of its snapshot.json",
                         fork->source_name, (intmax_t)st.st_size, snapshot->memory_bytes);
    *ret = steal_fd(&fd);
    return 0;
}

/* But for what belongs to the copy: its disks, and what it boots from if its firmware ran. */
static bool is_same_machine(const struct fork *fork)
{
    static const char *const own[] = {"disks", "boot"};
    const cJSON *described = json_get(fork->description, "machine");
    auto_json cJSON *before = cJSON_Duplicate(described, true);
    auto_json cJSON *now = cJSON_Duplicate(snapshot_machine(fork->snapshot), true);
    for (size_t i = 0; i < array_length(own); i++) {
        cJSON_DeleteItemFromObjectCaseSensitive(before, own[i]);
        cJSON_DeleteItemFromObjectCaseSensitive(now, own[i]);
    }
    return cJSON_Compare(before, now, true);
}

/* The copy of an instance's memory; it may have become another machine meanwhile. */
static int take_copy(struct fork *fork, struct error *err)
{
    struct instance *instance = fork->source->instance;
    int r = instance_snapshot_private(instance, fork->request->options.from_running, &fork->copy,
                                      &fork->snapshot, err);
    if (r < 0)
        return r;
    if (!is_same_machine(fork))
        return error_set(err, EBUSY, "the instance %s was booted anew meanwhile: commit again",
                         instance->id);
    machine_finish(&fork->machine);
    return read_machine(fork, snapshot_json(fork->snapshot), err);
}

/* For all that have a plan in common. */
static int take_copy_once(struct fork *fork, struct error *err)
{
    struct fork_plan *plan = fork->engine->plan;
    if (!plan)
        return take_copy(fork, err);
    if (plan->why.code == 0 && take_copy(fork, &plan->why) == 0) {
        plan->snapshot = snapshot_ref(fork->snapshot);
        plan->copy = fork->copy;
        fork->copy = (struct store_entry){.fd = -1};
        return 0;
    }
    return error_set(err, plan->why.code, "%s", plan->why.text);
}

static int check_image(struct fork *fork, int fd, struct error *err)
{
    struct fork_plan *plan = fork->engine->plan;
    struct memory_io io = {.read = read_image, .context = &fd};
    if (plan && plan->checked)
        return 0;
    int r = preflight(fork, &io, err);
    if (plan)
        plan->checked = r == 0;
    return r;
}

/* The image is there, is the one that was published, has the right size, has a place for each
 * payload, and still holds each marker where it was found. */
static int locate(struct fork *fork, struct error *err)
{
    auto_close int fd = -1;
    int r = fork->snapshot ? 0 : take_copy_once(fork, err);
    if (r == 0)
        r = open_image(fork, &fd, err);
    if (r == 0 && (r = image_index_wait(fork->snapshot->image, NULL, &fork->index, err)) < 0)
        error_prefix(err, r, "%s", fork->source_name);
    if (r == 0)
        r = handoff_prepare(fork, err);
    return r < 0 ? r : check_image(fork, fd, err);
}

static void notify(const struct fork *fork, enum fork_step step)
{
    if (fork->engine->on_step)
        fork->engine->on_step(fork->engine->listener, step,
                              fork->instance && fork->instance->state == INSTANCE_WAITING);
}

static void notify_queued(void *context)
{
    notify(context, FORK_QUEUED);
}

static int await_turn(struct fork *fork, struct error *err)
{
    int r = turn_acquire(fork, notify_queued, err);
    return r == 0 ? check_memory(fork, err) : r; /* those before it have taken some meanwhile */
}

static int stand_by(struct fork *fork, struct error *err)
{
    static const char *const names[] = {"memory", "state"};
    auto_close int fd = image_open(fork->snapshot->image, err);
    int r = fd < 0 ? fd : 0;
    for (size_t i = 0; i < array_length(names) && r == 0; i++)
        r = load_link(fd, fork->source_name, names[i], fork->entry.run_fd, names[i], err);
    if (r == 0) /* else the image is scanned again */
        linkat(fd, "mailboxes.json", fork->entry.run_fd, "mailboxes.json", 0);
    return r;
}

/* A fork that is not to run only gets the image. */
static int load(struct fork *fork, struct error *err)
{
    bool standby = fork->request->options.standby;
    fork->warm =
        !standby && fork->source->snapshot &&
        warm_acquire(fork->engine->warm, fork->snapshot, &fork->machine, &fork->entry, &fork->vmm);
    if (fork->warm)
        return 0;
    int r = load_entry(fork->engine->instances->setup.store, fork->snapshot, fork->source_name,
                       &fork->machine, standby ? DISKS_OF_IMAGE : DISKS_OF_FORK, &fork->entry, err);
    if (r < 0 || standby)
        return r < 0 ? r : stand_by(fork, err);
    struct vmm_context context = fork_vmm_context(fork);
    return load_vm(&context, fork->snapshot, fork->source_name, &fork->machine, &fork->vmm, err);
}

static int patch(struct fork *fork, struct error *err)
{
    struct memory_io *io = &fork->watched.io;
    *io = (struct memory_io){vmm_read_memory, vmm_write_memory, fork->vmm};
    int r = preflight(fork, io, err);
    if (r < 0)
        return r;
    fault_point(FAULT_PATCH);
    if (fork->request->options.identity)
        identity_set_time(fork);
    r = deliver_write(io, fork->deliveries, fork->count, err);
    fault_point(FAULT_PATCHED);
    for (size_t i = 0; i < fork->count && r == 0; i++)
        fork->mailboxes[i]->delivered = true;
    return r;
}

/* From here on VMs may be loaded ahead again. */
static void end_start(struct fork *fork)
{
    if (fork->starting)
        warm_end(fork->engine->warm);
    fork->starting = false;
}

static struct instance_fork handed_over(struct fork *fork, cJSON **record)
{
    return (struct instance_fork){.entry = &fork->entry,
                                  .vmm = &fork->vmm,
                                  .machine = &fork->machine,
                                  .mapped =
                                      fork->using_snapshot && fork->vmm ? fork->snapshot : NULL,
                                  .index = fork->index,
                                  .source = fork->source_id,
                                  .record = record};
}

/* The user of one that may wait for long can read its console, and end it. */
static int show(struct fork *fork, struct error *err)
{
    const struct instance_fork parts = handed_over(fork, NULL);
    for (size_t i = 0; i < fork->request->count; i++) {
        const struct fork_mailbox *mailbox = &fork->request->mailboxes[i];
        if (mailbox->wait_for_ack && mailbox->ack_timeout_ms > UNSEEN_WAIT_MS)
            return instance_show_fork(fork->instance, &parts, err);
    }
    return 0;
}

static int resume(struct fork *fork, struct error *err)
{
    struct vmm_context context = fork_vmm_context(fork);
    int r =
        fork->watched.count > 0 ? memory_watch_add(fork->engine->watch, &fork->watched, err) : 0;
    fork->resuming_at_ms = process_now_ms();
    if (r == 0)
        r = vmm_resume(&context, fork->vmm, err);
    fork->resumed_at_ms = process_now_ms();
    if (r == 0 && fork->watched.count > 0)
        memory_watch_freshen(fork->engine->watch, &fork->watched);
    end_start(fork);
    return r == 0 ? show(fork, err) : r;
}

/* But the last, which has a result to publish. */
static int (*const steps[FORK_PUBLISH])(struct fork *, struct error *) = {
    [FORK_VALIDATE] = validate,     [FORK_LOCATE] = locate,
    [FORK_QUEUED] = await_turn,     [FORK_LOAD] = load,
    [FORK_PATCH] = patch,           [FORK_RESUME] = resume,
    [FORK_NETWORK] = handoff_await, [FORK_ACK] = handoff_await,
};

/* The last look at its memory: which payloads it has taken. Why it cannot be read, if so, is told
 * by the step that failed. */
static void end_watching(struct fork *fork)
{
    struct memory_io io = fork->watched.io;
    memory_watch_remove(fork->engine->watch, &fork->watched);
    if (!fork->vmm || fork->resumed_at_ms == 0)
        return;
    for (size_t i = 0; i < fork->count; i++)
        fork->mailboxes[i]->known = consume_refresh(&io, &fork->mailboxes[i]->consume, NULL) == 0;
    vmm_release(fork->vmm);
}

/* Or a write of stopped to the source has ended the copying of its memory. */
static int why_cancelled(struct fork *fork, struct error *err)
{
    const struct fork_engine *engine = fork->engine;
    if (process_poll(&engine->cancel_fd, 1, 0) <= 0)
        return -ECANCELED;
    fork->interrupted = engine->abandoned && atomic_load(engine->abandoned);
    return fork->interrupted
               ? error_set(err, ECANCELED,
                           "the write was interrupted, and what was made of this fork by then is "
                           "undone: commit again")
               : error_set(err, ESHUTDOWN, "the daemon is stopping");
}

static int run_steps(struct fork *fork, struct error *err)
{
    const bool standby = fork->request->options.standby;
    double begun = process_now_ms(), before = begun;
    int r = 0;
    for (enum fork_step step = 0; step < FORK_PUBLISH && r == 0; step++) {
        if (standby && (step == FORK_QUEUED || step > FORK_LOAD))
            continue; /* there is no VM that could be loaded, patched or waited for */
        fork->step = step;
        if (step != FORK_QUEUED) /* who has to wait notifies */
            notify(fork, step);
        r = steps[step](fork, err);
        double now = process_now_ms();
        fork->step_ms[step] = now - before;
        fork->total_ms = now - begun;
        before = now;
    }
    return r == -ECANCELED ? why_cancelled(fork, err) : r;
}

static int publish(struct fork *fork, const cJSON *result, struct error *err)
{
    notify(fork, FORK_PUBLISH);
    cJSON *record = fork_record(fork, result);
    struct instance_fork parts = handed_over(fork, &record);
    int r = instance_publish_fork(fork->instance, &parts, err);
    cJSON_Delete(record);
    if (r == 0 && parts.mapped)
        fork->using_snapshot = false;
    return r;
}

static void undo(struct fork *fork)
{
    if (instance_withdraw_fork(fork->instance, &fork->machine) && fork->engine->on_withdrawn)
        fork->engine->on_withdrawn(fork->engine->listener, fork->instance->serial);
    load_discard(&fork->entry, fork->vmm);
    instance_abandon(fork->instance);
    if (fork->using_snapshot)
        snapshot_leave(fork->snapshot);
    ack_socket_close(&fork->socket);
    image_index_unref(fork->index);
    snapshot_unref(fork->snapshot);
    store_entry_discard(&fork->copy);
    cJSON_Delete(fork->description);
    machine_finish(&fork->machine);
    explicit_bzero(&fork->identity, sizeof fork->identity);
}

int fork_run(const struct fork_engine *engine, const struct fork_source *source,
             struct fork_request *request, struct fork_outcome *ret, struct error *err)
{
    struct fork fork = {.engine = engine,
                        .request = request,
                        .source = source,
                        .source_id = fork_source_id(source),
                        .copy = {.fd = -1},
                        .socket = {.fd = -1},
                        .watched = {.event_fd = -1},
                        .entry = {.fd = -1}};
    struct error why = {0};
    snprintf(fork.source_name, sizeof fork.source_name, "the %s %s",
             source->instance ? "instance" : "snapshot", fork.source_id.id);
    int r = run_steps(&fork, &why);
    turn_end(&fork);
    end_watching(&fork);
    end_start(&fork);
    bool acks_failed =
        r < 0 && fork.step >= FORK_NETWORK && r != -ESHUTDOWN && r != -EIO && !fork.interrupted;
    cJSON *result = fork_result(&fork, r < 0 ? &why : NULL);
    bool published = false;

    if (r == 0 || (acks_failed && request->options.keep)) {
        struct error not_published = {0};
        if (r == 0)
            fork.step = FORK_PUBLISH;
        published = publish(&fork, result, &not_published) == 0;
        if (!published) {
            if (r == 0)
                why = not_published;
            else
                error_append(&why, "; and it cannot be kept: %s", not_published.text);
            r = -why.code;
            cJSON_Delete(result);
            result = fork_result(&fork, &why);
        }
    }
    *ret = (struct fork_outcome){.result = result,
                                 .serial = fork.instance ? fork.instance->serial : 0,
                                 .published = published};
    undo(&fork);
    fork_request_finish(request);
    search_finish(&fork);
    if (r < 0 && err)
        *err = why;
    return r;
}
