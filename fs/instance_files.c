/* SPDX-License-Identifier: MIT */
/* instance_files: what lies in an instance's directory. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/internal.h"
#include "fs/event.h"
#include "instance/config.h"
#include "instance/config_files.h"
#include "util/cleanup.h"
#include "util/text.h"

static struct unit *unit_of(const struct place *place)
{
    return (struct unit *)place->object;
}

static char *sized(char *text, size_t *ret_size)
{
    *ret_size = text ? strlen(text) : 0;
    return text;
}

static char *info_text(struct fs *fs, const struct place *place, size_t *ret_size)
{
    (void)fs;
    return sized(instance_info(unit_of(place)->instance), ret_size);
}

static const struct file_type info_file = {.text = info_text, .pollable = true};

/* config: kept by the instance; here are only the marks of a text that is being written. */

static char *config_text(struct fs *fs, const struct place *place, size_t *ret_size)
{
    const struct document *config = &unit_of(place)->config;
    (void)fs;
    return sized(config->unfinished ? strndup(config->text, config->size)
                                    : instance_config(unit_of(place)->instance),
                 ret_size);
}

static struct document *config_document(const struct place *place)
{
    return &unit_of(place)->config;
}

/* The outcome of the write of that number: an earlier one that is answered later is history. */
static void set_error_of(struct fs *fs, struct unit *unit, uint64_t number, const char *text)
{
    if (number >= unit->told) {
        unit->told = number;
        free(unit->error);
        unit->error = text ? strdup(text) : NULL;
    }
    fs_changed(fs, &unit->object);
}

void unit_note(struct fs *fs, struct unit *unit, const char *text)
{
    set_error_of(fs, unit, ++unit->writes, text);
}

static int config_may_write(struct fs *fs, const struct place *place)
{
    struct error err;
    int r = instance_check_config_writable(unit_of(place)->instance, &err);
    if (r < 0)
        unit_note(fs, unit_of(place), err.text);
    return r;
}

static int config_check(struct fs *fs, const struct place *place, const char *text, size_t size,
                        struct json_span object, struct error *err)
{
    struct machine machine;
    (void)fs;
    (void)place;
    (void)object;
    int r = config_parse(text, size, &machine, err);
    if (r == 0)
        machine_finish(&machine);
    return r;
}

static int config_look(struct fs *fs, const char *text, size_t size, struct error *err)
{
    return config_check_files(fs->setup.instances->setup.store, text, size, err);
}

static int config_apply(struct fs *fs, const struct place *place, const char *text, size_t size,
                        struct error *err)
{
    struct unit *unit = unit_of(place);
    auto_free char *copy = strndup(text, size);
    if (!copy)
        return error_set(err, ENOMEM, "out of memory");
    fs_unlock(fs);
    int r = instance_set_config(unit->instance, copy, strlen(copy), err);
    fs_lock(fs);
    if (r == 0)
        unit_note(fs, unit, NULL);
    return r;
}

/* What was said of an earlier write is history. */
static void config_changed(struct fs *fs, const struct place *place)
{
    unit_note(fs, unit_of(place), NULL);
}

static const struct file_type config_file = {.text = config_text,
                                             .document = config_document,
                                             .in_lines = true,
                                             .may_write = config_may_write,
                                             .check = config_check,
                                             .look = config_look,
                                             .apply = config_apply,
                                             .changed = config_changed};

/* state and snapshot: commands */

static int run_change(struct job *job)
{
    struct unit *unit = (struct unit *)job->object;
    return instance_change(unit->instance, job->target, &job->error);
}

static int run_snapshot(struct job *job)
{
    struct unit *unit = (struct unit *)job->object;
    return instance_snapshot(unit->instance, job->text, &job->error);
}

static void finish_job(struct job *job)
{
    struct unit *unit = (struct unit *)job->object;
    if (unit->job == job)
        unit->job = NULL;
    set_error_of(job->fs, unit, job->number, job->result < 0 ? job->error.text : NULL);
    if (job->result < 0)
        event_command_failed(job->fs->setup.events,
                             job->run == run_change     ? "state"
                             : job->run == run_snapshot ? "snapshot"
                                                        : "accept",
                             unit->instance, job->text, &job->error);
    fs_changed(job->fs, &job->fs->root); /* snapshots/ */
}

/* The same command that is under way is waited for. Another one is tried: the instance knows
 * whether it must be refused, or has only just become possible. */
static int begin(struct fs *fs, struct unit *unit, int (*run)(struct job *), const char *text,
                 enum instance_state target, struct job **ret)
{
    struct error err = {0};
    if (unit->job && unit->job->run == run && strcmp(unit->job->text, text) == 0) {
        unit->job->number = ++unit->writes;
        *ret = job_ref(unit->job);
        return FS_LATER;
    }
    struct job *job = job_create(fs, &unit->object);
    if (!job)
        return -ENOMEM;
    snprintf(job->text, sizeof job->text, "%s", text);
    job->run = run;
    job->finish = finish_job;
    job->target = target;
    job->number = ++unit->writes;
    int r = job_start(job_ref(job), &err);
    if (r < 0) {
        unit_note(fs, unit, err.text);
        job_unref(job);
        return r;
    }
    if (!unit->job)
        unit->job = job;
    *ret = job;
    return FS_LATER;
}

static char *state_text(struct fs *fs, const struct place *place, size_t *ret_size)
{
    char text[16];
    (void)fs;
    snprintf(text, sizeof text, "%s\n",
             instance_state_names[instance_state(unit_of(place)->instance)]);
    return sized(strdup(text), ret_size);
}

static int state_command(struct fs *fs, const struct place *place, const char *text, pid_t tid,
                         struct job **ret)
{
    (void)tid;
    struct unit *unit = unit_of(place);
    for (int i = INSTANCE_CREATED + 1; i < INSTANCE_WAITING; i++) {
        if (strcmp(text, instance_state_names[i]) != 0)
            continue;
        if (i == INSTANCE_RUNNING && (unit->config.unfinished || unit->config.refused)) {
            unit_note(fs, unit, NULL); /* config's own line says it */
            return -EINVAL;
        }
        return begin(fs, unit, run_change, text, (enum instance_state)i, ret);
    }
    unit_note(fs, unit, "state takes one of the words running, paused, standby, stopped");
    return -EINVAL;
}

static const struct file_type state_file = {
    .text = state_text, .pollable = true, .command = state_command};

static int snapshot_command(struct fs *fs, const struct place *place, const char *text, pid_t tid,
                            struct job **ret)
{
    (void)tid;
    struct error err;
    if (!store_id_valid(text)) {
        error_set(&err, EINVAL, "snapshot takes an id: %s", store_id_rule);
        unit_note(fs, unit_of(place), err.text);
        return -EINVAL;
    }
    return begin(fs, unit_of(place), run_snapshot, text, INSTANCE_STANDBY, ret);
}

static const struct file_type snapshot_file = {.command = snapshot_command};

static int run_accept(struct job *job)
{
    return instance_accept(((struct unit *)job->object)->instance, &job->error);
}

static int accept_command(struct fs *fs, const struct place *place, const char *text, pid_t tid,
                          struct job **ret)
{
    (void)tid;
    if (strcmp(text, "1") == 0)
        return begin(fs, unit_of(place), run_accept, text, INSTANCE_STANDBY, ret);
    unit_note(fs, unit_of(place), "accept takes 1");
    return -EINVAL;
}

static const struct file_type accept_file = {.text = accept_text, .command = accept_command};

static char *error_text(struct fs *fs, const struct place *place, size_t *ret_size)
{
    const struct unit *unit = unit_of(place);
    char *text = NULL;
    FILE *out = open_memstream(&text, ret_size);
    (void)fs;
    if (!out)
        return NULL;
    if (unit->config.refused)
        fprintf(out, "config: %s\n", unit->config.refused);
    else if (unit->config.unfinished)
        fprintf(out, "config: unfinished: write it again\n");
    if (unit->error)
        fprintf(out, "%s\n", unit->error);
    return text_finish(out, &text);
}

static const struct file_type error_file = {.text = error_text};

/* console and vmm.log: live. A write to console empties it. */

static int console_command(struct fs *fs, const struct place *place, const char *text, pid_t tid,
                           struct job **ret)
{
    (void)tid;
    struct error err = {0};
    (void)ret;
    int r = strcmp(text, "0") == 0
                ? instance_empty_console(unit_of(place)->instance, &err)
                : error_set(&err, EINVAL, "console takes a 0, which empties it, and nothing else");
    unit_note(fs, unit_of(place), r < 0 ? err.text : NULL);
    return r;
}

static const struct file_type console_file = {.log = "console.log", .command = console_command};
static const struct file_type vmm_log_file = {.log = "vmm.log"};

static bool is_standby(const struct place *place)
{
    return instance_is_standby(unit_of(place)->instance);
}

/* NULL if there is none: of no fork, of one whose record could not be read, or whose source is
 * gone. One that came later under the same id is another. */
static struct draft *record_of(struct fs *fs, const struct instance *instance)
{
    const struct forks *forks = NULL;
    const char *uuid = "";
    if (instance->of_instance) {
        struct unit *unit;
        if (fs_unit(fs, instance->source, &unit) < 0)
            return NULL;
        forks = &unit->forks;
        uuid = unit->instance->uuid;
    } else if (instance->source[0]) {
        struct source *source;
        if (fs_source(fs, instance->source, &source) < 0)
            return NULL;
        forks = &source->forks;
        uuid = source->snapshot->uuid;
    }
    struct draft *draft =
        forks && strcmp(uuid, instance->source_uuid) == 0 ? draft_find(forks, instance->id) : NULL;
    return draft && draft->record ? draft : NULL;
}

static bool has_record(const struct place *place)
{
    const struct unit *unit = unit_of(place);
    return record_of(unit->fs, unit->instance) != NULL;
}

static void fork_link(const struct place *place, char ret[256])
{
    const struct instance *instance = unit_of(place)->instance;
    snprintf(ret, 256, "../../%s/%s/forks/%s", instance->of_instance ? "instances" : "snapshots",
             instance->source, instance->id);
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
    {"mailboxes", S_IFDIR | 0755, 9, .directory = &markers_directory, .present = is_standby},
    {"fork", S_IFLNK | 0777, 10, .link = fork_link, .present = has_record},
    {"forks", S_IFDIR | 0755, 12, .directory = &forks_directory},
};

static const struct directory instance_directory = {.entries = instance_entries,
                                                    .count = array_length(instance_entries),
                                                    .find = network_find,
                                                    .list = network_list};
const struct entry instance_entry = {NULL, S_IFDIR | 0755, 11, .directory = &instance_directory};

/* instances/ */

static int instances_find_one(struct fs *fs, const struct place *directory, const char *name,
                              struct waiter *waiter, struct place *ret)
{
    struct unit *unit;
    int r = fs_unit(fs, name, &unit);
    (void)directory;
    (void)waiter;
    if (r < 0)
        return r;
    *ret = (struct place){.object = &unit->object, .entry = &instance_entry};
    return 0;
}

static int instances_list_all(struct fs *fs, const struct place *directory, struct waiter *waiter,
                              struct handle *handle)
{
    size_t count;
    auto_free struct snapshot_name *names = instances_list(fs->setup.instances, NULL, &count);
    int r = names ? 0 : -ENOMEM;
    (void)directory;
    (void)waiter;
    for (size_t i = 0; i < count && r == 0; i++) {
        const struct object object = {.kind = OBJECT_INSTANCE, .serial = names[i].serial};
        r = listing_add(handle, names[i].id, &object, &instance_entry, NULL);
    }
    return r;
}

static int instances_make(struct fs *fs, const struct place *directory, const char *name,
                          struct error *err)
{
    fs_unlock(fs);
    int r = instances_create(fs->setup.instances, name, err);
    fs_lock(fs);
    fs_changed(fs, directory->object);
    return r;
}

/* Without the lock, but for the beginning. */
static int remove_instance(struct fs *fs, struct unit *unit, struct error *err)
{
    if (forks_busy(&unit->forks))
        return error_set(err, EBUSY,
                         "the instance cannot be removed while it is forked: wait for that");
    fs_unlock(fs);
    int r = instance_remove(unit->instance, err);
    fs_lock(fs);
    return r;
}

/* With its record. The caller has a reference. */
static int remove_unit(struct fs *fs, struct unit *unit, struct error *err)
{
    int r = remove_instance(fs, unit, err);
    struct draft *record = r == 0 ? record_of(fs, unit->instance) : NULL;
    if (record) {
        fs_changed(fs, record->forks->owner);
        draft_remove(fs, record);
    }
    if (r == 0)
        fs_forget_unit(fs, unit);
    return r;
}

static int instances_remove(struct fs *fs, const struct place *directory, const char *name,
                            struct error *err)
{
    struct unit *unit;
    int r = fs_unit(fs, name, &unit);
    (void)directory;
    if (r < 0)
        return r == -ENOENT ? error_set(err, ENOENT, "there is no instance %s", name)
                            : error_set(err, ENOMEM, "out of memory");
    object_ref(&unit->object);
    r = remove_unit(fs, unit, err);
    if (r < 0)
        unit_note(fs, unit, err->text);
    object_unref(&unit->object);
    return r;
}

void fs_instance_vanished(struct fs *fs, const char *id)
{
    struct error why;
    struct unit *unit;
    if (!fs)
        return;
    fs_lock(fs);
    if (fs_unit(fs, id, &unit) == 0) {
        object_ref(&unit->object);
        if (remove_unit(fs, unit, &why) == 0)
            fs_changed(fs, &fs->root);
        object_unref(&unit->object);
    }
    fs_unlock(fs);
}

const struct directory instances_directory = {.find = instances_find_one,
                                              .list = instances_list_all,
                                              .make = instances_make,
                                              .remove = instances_remove};
