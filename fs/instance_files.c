/* SPDX-License-Identifier: MIT */
/* instance_files: instances/, and what lies in an instance's directory. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/delivery.h"
#include "fs/event.h"
#include "fs/forkable.h"
#include "fs/handle.h"
#include "fs/state.h"
#include "fs/tables.h"
#include "instance/config.h"
#include "instance/config_files.h"
#include "util/cleanup.h"
#include "util/text.h"

static struct instance *instance_of(const struct place *place)
{
    return forkable_at(place)->of.instance;
}

static char *info_text(const struct place *place)
{
    return instance_info(instance_of(place));
}

static const struct file_type info_file = {.text = info_text, .pollable = true};

/* config: kept by the instance; its document has a text only while that is written. */

static char *config_text(const struct place *place)
{
    return instance_config(instance_of(place));
}

static int config_may_write(const struct place *place)
{
    struct error err;
    int r = instance_check_config_writable(instance_of(place), &err);
    if (r < 0)
        forkable_note(forkable_at(place), err.text);
    return r;
}

static int config_check(const struct place *place, const char *text, struct json_span object,
                        struct error *err)
{
    struct machine machine;
    (void)place;
    int r = config_parse(text, object.end, &machine, err);
    if (r == 0)
        machine_finish(&machine);
    return r;
}

static int config_named_files(const struct place *place, const char *text, size_t size,
                              struct error *err)
{
    return config_check_files(fs_of(place)->setup.instances->setup.store, text, size, err);
}

static int config_apply(const struct place *place, struct error *err)
{
    struct forkable *instance = forkable_at(place);
    struct document *config = &instance->config;
    auto_free char *copy = strndup(config->text, config->size);
    if (!copy)
        return error_set(err, ENOMEM, "out of memory");
    objects_unlock(instance->object.objects);
    int r = instance_set_config(instance->of.instance, copy, strlen(copy), err);
    objects_lock(instance->object.objects);
    if (r == 0) {
        document_finish(config);
        forkable_note(instance, NULL);
    }
    return r;
}

/* What was said of an earlier write is history. */
static void config_changed(const struct place *place, bool complete)
{
    (void)complete;
    forkable_note(forkable_at(place), NULL);
    object_touched(place->object);
}

static const struct file_type config_file = {.text = config_text,
                                             .document = offsetof(struct forkable, config),
                                             .in_lines = true,
                                             .may_write = config_may_write,
                                             .check = config_check,
                                             .check_files = config_named_files,
                                             .apply = config_apply,
                                             .changed = config_changed};

/* state and snapshot: commands */

/* A write to one of them, or to `accept`. */
struct command {
    struct job job;
    char text[STORE_ID_MAX + 1];
    uint64_t number; /* of the last write that waits for it, among the instance's */
};

static int state_run(struct job *job)
{
    const char *text = ((const struct command *)job)->text;
    enum instance_state target = INSTANCE_CREATED;
    while (strcmp(text, instance_state_names[target]) != 0)
        target++;
    return instance_change(instance_of(&job->place), target, job->user, &job->error);
}

static int snapshot_run(struct job *job)
{
    return instance_snapshot(instance_of(&job->place), ((const struct command *)job)->text,
                             &job->error);
}

static int accept_run(struct job *job)
{
    return instance_accept(instance_of(&job->place), &job->error);
}

static void finish(struct job *job)
{
    const struct command *command = (const struct command *)job;
    struct forkable *instance = forkable_at(&job->place);
    struct fs *fs = fs_of(&job->place);
    if (instance->job == job)
        instance->job = NULL;
    forkable_note_outcome(instance, command->number, job->result < 0 ? job->error.text : NULL);
    object_changed(&instance->object);
    if (job->result < 0)
        event_command_failed(fs->setup.events, job->place.entry->name, instance->of.instance,
                             command->text, &job->error);
    object_changed(&fs->root); /* snapshots/ */
}

static const struct job_type state_job = {.run = state_run, .finish = finish};
static const struct job_type snapshot_job = {.run = snapshot_run, .finish = finish};
static const struct job_type accept_job = {.run = accept_run, .finish = finish};

/* The same command that is under way is waited for. Another one is tried: the instance knows
 * whether it must be refused, or has only just become possible. */
static int begin(const struct place *place, const struct job_type *type, const char *text,
                 const struct waiter *by, struct job **ret)
{
    struct forkable *instance = forkable_at(place);
    struct command *command = (struct command *)instance->job;
    struct error err = {0};
    if (command && command->job.type == type && strcmp(command->text, text) == 0) {
        command->number = ++instance->writes;
        *ret = job_ref(&command->job);
        return FS_LATER;
    }
    command = job_create(&fs_of(place)->jobs, type, sizeof *command, place);
    if (!command)
        return -ENOMEM;
    snprintf(command->text, sizeof command->text, "%s", text);
    command->job.user = by->uid;
    command->number = ++instance->writes;
    int r = job_start(&command->job, &err);
    if (r < 0) {
        forkable_note(instance, err.text);
        return r;
    }
    if (!instance->job)
        instance->job = &command->job;
    *ret = &command->job;
    return FS_LATER;
}

static char *state_text(const struct place *place)
{
    char *text;
    const char *state = instance_state_names[instance_state(instance_of(place))];
    return asprintf(&text, "%s\n", state) < 0 ? NULL : text;
}

static int state_command(const struct place *place, const char *text, const struct waiter *by,
                         struct job **ret)
{
    struct forkable *instance = forkable_at(place);
    for (int i = INSTANCE_CREATED + 1; i < INSTANCE_WAITING; i++) {
        if (strcmp(text, instance_state_names[i]) != 0)
            continue;
        if (i == INSTANCE_RUNNING && (instance->config.unfinished || instance->config.refused)) {
            forkable_note(instance, NULL); /* config's own line says it */
            return -EINVAL;
        }
        return begin(place, &state_job, text, by, ret);
    }
    forkable_note(instance, "state takes one of the words running, paused, standby, stopped");
    return -EINVAL;
}

static const struct file_type state_file = {
    .text = state_text, .pollable = true, .command = state_command};

static int snapshot_command(const struct place *place, const char *text, const struct waiter *by,
                            struct job **ret)
{
    struct error err;
    if (!store_id_valid(text)) {
        error_set(&err, EINVAL, "snapshot takes an id: %s", store_id_rule);
        forkable_note(forkable_at(place), err.text);
        return -EINVAL;
    }
    return begin(place, &snapshot_job, text, by, ret);
}

static const struct file_type snapshot_file = {.command = snapshot_command};

static int accept_command(const struct place *place, const char *text, const struct waiter *by,
                          struct job **ret)
{
    if (strcmp(text, "1") == 0)
        return begin(place, &accept_job, text, by, ret);
    forkable_note(forkable_at(place), "accept takes 1");
    return -EINVAL;
}

static const struct file_type accept_file = {.text = accept_text, .command = accept_command};

static char *error_text(const struct place *place)
{
    const struct forkable *instance = forkable_at(place);
    size_t size;
    char *text = NULL;
    struct error end;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    if (instance->config.refused)
        fprintf(out, "config: %s\n", instance->config.refused);
    else if (instance->config.unfinished)
        fprintf(out, "config: unfinished: write it again\n");
    if (instance->error)
        fprintf(out, "%s\n", instance->error);
    else if (instance_describe_end(instance->of.instance, &end))
        fprintf(out, "%s\n", end.text);
    return text_finish(out, &text);
}

static const struct file_type error_file = {.text = error_text};

/* console and vmm.log: live. A write to console empties it. */

static int console_command(const struct place *place, const char *text, const struct waiter *by,
                           struct job **ret)
{
    (void)by;
    struct error err = {0};
    (void)ret;
    int r = strcmp(text, "0") == 0
                ? instance_empty_console(instance_of(place), &err)
                : error_set(&err, EINVAL, "console takes only a 0, which empties it");
    forkable_note(forkable_at(place), r < 0 ? err.text : NULL);
    return r;
}

static const struct file_type console_file = {.log = "console.log", .command = console_command};
static const struct file_type vmm_log_file = {.log = "vmm.log"};

static bool has_memory(const struct place *place)
{
    const enum instance_state state = instance_state(instance_of(place));
    return state != INSTANCE_CREATED && state != INSTANCE_STOPPED;
}

static const struct file_type rescan_file = {.command = delivery_rescan};

/* NULL if there is none: of no fork, of one whose record could not be read, or whose source is
 * gone. One that came later under the same id is another. */
static struct draft *record_of(const struct place *place)
{
    const struct instance *instance = instance_of(place);
    struct forkable *source;
    const bool of_snapshot = instance->source.kind == STORE_SNAPSHOTS;
    if (!instance->source.id[0] ||
        forkable_find(fs_of(place), of_snapshot ? OBJECT_SNAPSHOT : OBJECT_INSTANCE,
                      instance->source.id, &source) < 0 ||
        strcmp(fork_source_id(&source->of).uuid, instance->source.uuid) != 0)
        return NULL;
    struct draft *draft = draft_find(&source->drafts, instance->id);
    return draft && draft->record ? draft : NULL;
}

static bool has_record(const struct place *place)
{
    return record_of(place) != NULL;
}

static void fork_link(const struct place *place, char ret[256])
{
    const struct instance *instance = instance_of(place);
    char source[INSTANCE_SOURCE_PATH_SIZE];
    instance_source_path(&instance->source, source);
    snprintf(ret, 256, "../../%s/forks/%s", source, instance->id);
}

static const struct entry instance_entries[] = {
    {"info", S_IFREG | 0444, 1, .file = &info_file},
    {"config", S_IFREG | 0600, 2, .file = &config_file},
    {"state", S_IFREG | 0644, 3, .file = &state_file, .command = true},
    {"snapshot", S_IFREG | 0200, 5, .file = &snapshot_file, .command = true},
    {"accept", S_IFREG | 0600, 13, .file = &accept_file, .command = true},
    {"error", S_IFREG | 0444, 6, .file = &error_file},
    {"console", S_IFREG | 0600, 7, .file = &console_file},
    {"vmm.log", S_IFREG | 0400, 8, .file = &vmm_log_file},
    {"mailboxes", S_IFDIR | 0755, 9, .directory = &mailboxes_directory, .present = has_memory},
    {"rescan", S_IFREG | 0200, 15, .file = &rescan_file, .command = true, .present = has_memory},
    {"fork", S_IFLNK | 0777, 10, .link = fork_link, .present = has_record},
    {"forks", S_IFDIR | 0755, 12, .directory = &forks_directory},
};

static const struct directory instance_directory = {.entries = instance_entries,
                                                    .count = array_length(instance_entries),
                                                    .find = network_find,
                                                    .list = network_list};
static const struct entry instance_entry = {NULL, S_IFDIR | 0755, 11, .appears = true,
                                            .directory = &instance_directory};

/* instances/ */

static int find_instance(const struct place *directory, const char *name, struct waiter *waiter,
                         struct place *ret)
{
    struct forkable *instance;
    int r = forkable_find(fs_of(directory), OBJECT_INSTANCE, name, &instance);
    (void)waiter;
    if (r == 0)
        *ret = (struct place){.object = &instance->object, .entry = &instance_entry};
    return r;
}

static int list_instances(const struct place *directory, struct waiter *waiter,
                          struct handle *handle)
{
    size_t count;
    auto_free struct snapshot_name *names =
        instances_list(fs_of(directory)->setup.instances, NULL, &count);
    int r = names ? 0 : -ENOMEM;
    (void)waiter;
    for (size_t i = 0; i < count && r == 0; i++) {
        const struct object object = {.kind = OBJECT_INSTANCE, .serial = names[i].serial};
        r = handle_list(handle, names[i].id, &object, &instance_entry, NULL);
    }
    return r;
}

static int make_instance(const struct place *directory, const char *name, struct error *err)
{
    struct objects *objects = directory->object->objects;
    objects_unlock(objects);
    int r = instances_create(objects->fs->setup.instances, name, err);
    objects_lock(objects);
    object_changed(directory->object);
    return r;
}

int instance_files_remove(struct forkable *instance,
                          int (*remove)(struct instance *instance, struct error *err),
                          struct error *err)
{
    const struct place place = {.object = &instance->object, .entry = &instance_entry};
    struct objects *objects = instance->object.objects;
    if (drafts_busy(&instance->drafts))
        return error_set(
            err, EBUSY,
            "the instance cannot be removed while it is forked: wait until the commit has ended");
    objects_unlock(objects);
    int r = remove(instance->of.instance, err);
    objects_lock(objects);
    if (r < 0)
        return r;
    struct draft *record = record_of(&place);
    if (record) {
        object_changed(record->drafts->owner);
        draft_remove(record);
    }
    forkable_remove(instance);
    return 0;
}

static int remove_instance(const struct place *directory, const char *name, struct error *err)
{
    struct forkable *instance;
    int r = forkable_find(fs_of(directory), OBJECT_INSTANCE, name, &instance);
    if (r < 0)
        return r == -ENOENT ? error_set(err, ENOENT, "there is no instance %s", name)
                            : error_set(err, ENOMEM, "out of memory");
    object_ref(&instance->object);
    r = instance_files_remove(instance, instance_remove, err);
    if (r < 0)
        forkable_note(instance, err->text);
    object_unref(&instance->object);
    return r;
}

const struct directory instances_directory = {.find = find_instance,
                                              .list = list_instances,
                                              .make = make_instance,
                                              .remove = remove_instance};
