/* SPDX-License-Identifier: MIT */
/* snapshot_files: snapshots/, and what lies in a snapshot's directory. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/forkable.h"
#include "fs/handle.h"
#include "fs/state.h"
#include "fs/tables.h"
#include "store/notes.h"
#include "util/cleanup.h"
#include "util/json.h"

static struct snapshot *snapshot_of(const struct place *place)
{
    return forkable_at(place)->of.snapshot;
}

static char *info_text(const struct place *place)
{
    auto_json cJSON *info = snapshot_info(snapshot_of(place));
    const struct warm_count count = warm_count(fs_of(place)->setup.warm, snapshot_of(place));
    cJSON *warm = json_add_object(info, "warm");
    json_add_number(warm, "wanted", count.wanted);
    json_add_number(warm, "ready", count.ready);
    if (count.wish.automatic)
        json_add_number(warm, "auto", count.wish.number > 0 ? count.wish.number : WARM_AUTO_MAX);
    else
        json_add(warm, "auto", cJSON_CreateNull());
    return json_print(info);
}

static const struct file_type info_file = {
    .text = info_text, .ready = image_ready, .pollable = true};

/* warm: how many VMs are to be loaded ahead, as it was written */

static char *warm_text(const struct place *place)
{
    const struct warm_wish wish = warm_count(fs_of(place)->setup.warm, snapshot_of(place)).wish;
    char *text;
    if (wish.automatic && wish.number == 0)
        return strdup("auto\n");
    return asprintf(&text, "%s%u\n", wish.automatic ? "auto:" : "", wish.number) < 0 ? NULL : text;
}

/* Digits alone: neither a sign nor white space. */
static bool read_number(const char *text, unsigned max, unsigned *ret)
{
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || text[digits])
        return false;
    unsigned long number = strtoul(text, NULL, 10);
    *ret = (unsigned)number;
    return number <= max;
}

/* A number, `auto`, or `auto:MAX`. */
static bool read_wish(const char *text, struct warm_wish *ret)
{
    static const char word[] = "auto";
    *ret = (struct warm_wish){.automatic = strncmp(text, word, strlen(word)) == 0};
    if (!ret->automatic)
        return read_number(text, WARM_MAX, &ret->number);
    text += strlen(word);
    return !text[0] ||
           (text[0] == ':' && read_number(text + 1, WARM_MAX, &ret->number) && ret->number > 0);
}

/* A write to `warm` or `accept`. */
struct command {
    struct job job;
    pid_t tid;
    struct warm_wish wish;
};

static int warm_run(struct job *job)
{
    return warm_set(fs_of(&job->place)->setup.warm, snapshot_of(&job->place),
                    &((const struct command *)job)->wish, &job->error);
}

static const struct entry snapshot_entry;

/* There is no `error` in a snapshot's directory. */
static int refuse_command(const struct place *place, pid_t tid, struct error *err)
{
    const struct place directory = {.object = place->object, .entry = &snapshot_entry};
    return refuse(&(struct refusal){"write", &directory, place->entry->name, tid, NULL}, err);
}

static void finish(struct job *job)
{
    job->error.code = -job->result;
    if (job->result < 0)
        refuse_command(&job->place, ((const struct command *)job)->tid, &job->error);
    object_changed(job->place.object);
}

static int begin(const struct place *place, const struct job_type *type, struct warm_wish wish,
                 pid_t tid, struct job **ret)
{
    struct error err = {0};
    struct command *command = job_create(&fs_of(place)->jobs, type, sizeof *command, place);
    if (!command)
        return -ENOMEM;
    command->wish = wish;
    command->tid = tid;
    if (job_start(&command->job, &err) < 0)
        return refuse_command(place, tid, &err);
    *ret = &command->job;
    return FS_LATER;
}

static const struct job_type warm_job = {.run = warm_run, .finish = finish};

static int warm_command(const struct place *place, const char *text, const struct waiter *by,
                        struct job **ret)
{
    struct warm_wish wish;
    struct error err = {0};
    if (read_wish(text, &wish))
        return begin(place, &warm_job, wish, by->tid, ret);
    error_set(&err, EINVAL,
              "warm takes only a whole number from 0 to %d, or auto, or auto:MAX with a MAX from 1 "
              "to %d",
              WARM_MAX, WARM_MAX);
    return refuse_command(place, by->tid, &err);
}

static const struct file_type warm_file = {
    .text = warm_text, .pollable = true, .command = warm_command};

/* accept: its files are as they should be */

static int accept_run(struct job *job)
{
    return snapshot_accept(snapshot_of(&job->place), &job->error);
}

static const struct job_type accept_job = {.run = accept_run, .finish = finish};

static int accept_command(const struct place *place, const char *text, const struct waiter *by,
                          struct job **ret)
{
    struct error err = {0};
    if (strcmp(text, "1") == 0)
        return begin(place, &accept_job, (struct warm_wish){0}, by->tid, ret);
    error_set(&err, EINVAL, "accept takes only a 1");
    return refuse_command(place, by->tid, &err);
}

static const struct file_type accept_file = {
    .text = accept_text, .ready = image_ready, .command = accept_command};

static const struct entry snapshot_entries[] = {
    {"info", S_IFREG | 0444, 1, .file = &info_file},
    {"mailboxes", S_IFDIR | 0755, 2, .directory = &mailboxes_directory},
    {"warm", S_IFREG | 0644, 7, .command = true, .file = &warm_file},
    {"accept", S_IFREG | 0600, 8, .command = true, .file = &accept_file},
    {"forks", S_IFDIR | 0755, 3, .directory = &forks_directory},
};

static const struct directory snapshot_directory = {.entries = snapshot_entries,
                                                    .count = array_length(snapshot_entries),
                                                    .find = network_find,
                                                    .list = network_list};
static const struct entry snapshot_entry = {NULL, S_IFDIR | 0755, 5, .appears = true,
                                            .directory = &snapshot_directory};

/* snapshots/ */

static int find_snapshot(const struct place *directory, const char *name, struct waiter *waiter,
                         struct place *ret)
{
    struct forkable *snapshot;
    int r = forkable_find(fs_of(directory), OBJECT_SNAPSHOT, name, &snapshot);
    (void)waiter;
    if (r == 0)
        *ret = (struct place){.object = &snapshot->object, .entry = &snapshot_entry};
    return r;
}

static int list_snapshots(const struct place *directory, struct waiter *waiter,
                          struct handle *handle)
{
    size_t count;
    auto_free struct snapshot_name *names =
        snapshots_list(fs_of(directory)->setup.snapshots, &count);
    int r = names ? 0 : -ENOMEM;
    (void)waiter;
    for (size_t i = 0; i < count && r == 0; i++) {
        const struct object object = {.kind = OBJECT_SNAPSHOT, .serial = names[i].serial};
        r = handle_list(handle, names[i].id, &object, &snapshot_entry, NULL);
    }
    return r;
}

/* Its drafts go with it, unless one of them commits. */
static int remove_snapshot(const struct place *directory, const char *name, struct error *err)
{
    const struct fs_setup *setup = &fs_of(directory)->setup;
    struct objects *objects = directory->object->objects;
    struct forkable *snapshot;
    int r = forkable_find(fs_of(directory), OBJECT_SNAPSHOT, name, &snapshot);
    if (r < 0)
        return r == -ENOENT ? error_set(err, ENOENT, "there is no snapshot %s", name)
                            : error_set(err, ENOMEM, "out of memory");
    if (drafts_busy(&snapshot->drafts))
        return error_set(
            err, EBUSY,
            "the snapshot cannot be removed while it is forked: wait until the commit has ended");
    object_ref(&snapshot->object);
    objects_unlock(objects);
    r = instances_check_overlays(setup->instances, snapshot->of.snapshot, err);
    if (r == 0)
        r = snapshot_remove(snapshot->of.snapshot, err);
    if (r == 0)
        warm_forget(setup->warm, snapshot->of.snapshot);
    objects_lock(objects);
    if (r == 0)
        forkable_remove(snapshot);
    object_unref(&snapshot->object);
    return r;
}

const struct directory snapshots_directory = {
    .of_snapshots = true, .find = find_snapshot, .list = list_snapshots, .remove = remove_snapshot};
