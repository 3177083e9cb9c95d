/* SPDX-License-Identifier: MIT */
/* recover: an instance as an earlier daemon left it, with its VMM if that runs on. What was being
 * done with it is ended, or as if never begun. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "hypervisor/disks.h"
#include "instance/internal.h"
#include "store/format.h"
#include "store/notes.h"
#include "util/directory.h"
#include "util/fault.h"
#include "util/json.h"

enum { FORK_VERSION = 1 };

/* The snapshot whose memory the VMM maps. One that was in standby since has an image of its own. */
static void find_mapped(struct instance *instance)
{
    struct snapshot *source =
        instance->loaded && instance->source.id[0] && instance->source.kind == STORE_SNAPSHOTS
            ? snapshots_find(instance->table->setup.snapshots, instance->source.id)
            : NULL;
    auto_close int fd = source ? image_open(source->image, NULL) : -1;
    if (fd >= 0 && strcmp(source->uuid, instance->source.uuid) == 0 &&
        instance_maps(instance, fd) && snapshot_use(source, NULL) == 0)
        instance->mapped = source;
    else
        snapshot_unref(source);
}

/* It ended while no daemon ran. What it wrote is there, however old the record; the copies are of a
 * save that did not come to its end. */
static void note_end(struct instance *instance)
{
    instance_refresh_disks(instance);
    disks_drop_copies(&instance->machine, instance->image->directory_fd);
    instance_adopt_taps(instance, &instance->machine); /* its VMM had them until then */
    instance_release_taps(instance);
    instance->state = INSTANCE_STOPPED;
    instance->intent = INTENT_NONE;
    instance->exit = (struct vmm_exit){.ended = true, .code = -1};
    store_time_now(instance->exit_at);
    instance_record(instance, NULL); /* else the next start tells */
}

/* An earlier version had empty files for intents. They count once: then the record has them. */
static const char hold[] = "hold", restoring[] = "restoring";

static bool has_mark(const struct instance *instance, const char *name)
{
    return faccessat(instance->entry_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void read_marks(struct instance *instance)
{
    if (instance->state == INSTANCE_RUNNING && has_mark(instance, restoring))
        instance->intent = INTENT_RESTORE;
    else if (instance->state == INSTANCE_RUNNING && has_mark(instance, hold))
        instance->intent = INTENT_COPY;
}

static void replace_marks(struct instance *instance)
{
    bool marked = has_mark(instance, hold) || has_mark(instance, restoring);
    if (!marked || instance_record(instance, NULL) < 0)
        return;
    unlinkat(instance->entry_fd, hold, 0);
    unlinkat(instance->entry_fd, restoring, 0);
}

/* Has it an image, and a VMM that has ended was to come out of that and never ran? */
static bool is_kept(const struct instance *instance)
{
    return instance_if_gone(instance->intent) == INSTANCE_STANDBY &&
           instance_has(instance, "memory") && instance_has(instance, "state");
}

static bool had_vmm(const struct instance *instance)
{
    return instance->state == INSTANCE_RUNNING || instance->state == INSTANCE_PAUSED;
}

/* What ran when the daemon ended: found again, or noted as ended. */
static void adopt(struct instance *instance, bool loaded)
{
    instance_settle_held_files(instance, loaded);
    if (!instance->vmm && is_kept(instance)) {
        instance->state = INSTANCE_STANDBY;
        instance->intent = INTENT_NONE;
        instance_record(instance, NULL); /* else the next start finds the same */
        return;
    }
    if (!instance->vmm) {
        note_end(instance);
        return;
    }
    instance->loaded = loaded;
    instance->has_vm = true;
    instance_read_deliveries(instance);
    instance_adopt_taps(instance, &instance->machine);
    instance_adopt_disks(instance);
    find_mapped(instance);
}

/* ---- the directory in which a VMM works, of an instance that version 0.1 has made ---- */

/* While it is made. */
static const char new_name[] = "run.new";

/* A directory_visit of the entry. */
static int move_file(void *context, int directory_fd, const char *name, struct error *err)
{
    static const char *const staying[] = {"instance.json", "fork.json", "vmm.log",
                                          "console.log",   "base",      hold,
                                          restoring,       new_name,    "delivered.json"};
    const int *run_fd = context;
    for (size_t i = 0; i < array_length(staying); i++)
        if (strcmp(name, staying[i]) == 0)
            return 0;
    fault_point(FAULT_LINKED);
    return renameat(directory_fd, name, *run_fd, name) < 0
               ? error_errno(err, errno, "%s cannot be moved", name)
               : 0;
}

static int make_run(const struct instance *instance, struct error *err)
{
    const int flags = O_DIRECTORY | O_RDONLY | O_NOFOLLOW | O_CLOEXEC;
    if (mkdirat(instance->entry_fd, new_name, 0700) < 0 && errno != EEXIST)
        return error_errno(err, errno, "the directory %s cannot be made", new_name);
    auto_close int run_fd = openat(instance->entry_fd, new_name, flags);
    if (run_fd < 0)
        return error_errno(err, errno, "the directory %s cannot be opened", new_name);
    int r = directory_walk(instance->entry_fd, ".", move_file, &run_fd, err);
    if (r == 0 && renameat(instance->entry_fd, new_name, instance->entry_fd, "run") < 0)
        r = error_errno(err, errno, "the directory %s cannot be renamed", new_name);
    fault_point(FAULT_LINKED);
    return r;
}

/* The next start goes on with what could not be ended. */
static int take_over(struct instance *instance, struct error *err)
{
    struct image *before = instance->image;
    int r = make_run(instance, err);
    if (r == 0)
        r = instance_open_run(instance, err);
    if (r < 0)
        return r;
    image_unref(before);
    instance_record(instance, NULL); /* version 0.1 is to leave it alone; else the next one tells */
    return 0;
}

/* A VMM that an earlier version started works in the directory of the entry, for as long as it
 * runs. */
static int find_vmm(struct instance *instance, const cJSON *json, struct error *err)
{
    int r = had_vmm(instance) ? instance_read_vmm(instance, json, &instance->vmm, err) : 0;
    if (r == 0 && !instance->vmm && !instance->has_run)
        r = take_over(instance, err);
    if (r == 0 && had_vmm(instance))
        adopt(instance, cJSON_IsTrue(json_get(json, "loaded")));
    return r;
}

static int read_fork(int directory_fd, cJSON **ret, struct error *err)
{
    auto_json cJSON *json = NULL;
    int r = store_read_json(directory_fd, "fork.json", &json, err);
    if (r == 0)
        r = format_check_version(json, "fork.json", FORK_VERSION, err);
    if (r == 0)
        *ret = steal_pointer(json);
    return r;
}

/* The instance is shown, but not what its fork was like. */
static void warn_of_record(const struct instances *table, const char *id, struct error *why)
{
    char name[STORE_ID_MAX + 16];
    snprintf(name, sizeof name, "%s/fork.json", id);
    error_append(why, "; the instance is shown, but neither its link fork nor its record: put the "
                      "file back as it was, and mount again");
    store_notes_lacking(table->setup.store->notes, STORE_INSTANCES, name, why);
    instances_warn(table, "%s", why->text);
}

int instance_load(struct instances *table, const char *id, struct instance **ret, struct error *err)
{
    auto_json cJSON *json = NULL;
    struct error why;
    struct instance *instance = instance_create(table, id);
    if (!instance)
        return error_set(err, ENOMEM, "out of memory");
    int fd = store_open_entry(table->setup.store, STORE_INSTANCES, id, err);
    int r = fd;
    if (r >= 0)
        r = instance_set_directory(instance, fd, err);
    if (r >= 0)
        r = store_read_json(fd, "instance.json", &json, err);
    if (r >= 0)
        r = instance_read(instance, json, err);
    if (r >= 0) {
        instance_read_unsynced(instance);
        read_marks(instance);
        r = find_vmm(instance, json, err);
        if (r == 0 && !instance->vmm && instance_sync(instance, &why) < 0) /* what stays lasts */
            instances_warn(table, "instance %s: %s", id, why.text);
    }
    /* A record that cannot be read must not hide a VM that runs. */
    if (r >= 0 && instance->source.id[0] && read_fork(fd, &instance->fork, &why) < 0) {
        error_prefix(&why, 0, "the record of the fork %s", id);
        warn_of_record(table, id, &why);
    }
    if (r < 0) {
        instance_unref(instance);
        return error_prefix(err, r, "instance %s", id);
    }
    instance->published = true;
    *ret = instance;
    return 0;
}

static bool may_write_elsewhere(const struct instance *instance)
{
    return instance->vmm && instance->vmm->hypervisor->find_disks &&
           disks_are_written(&instance->machine);
}

bool instance_must_recover(const struct instance *instance)
{
    return instance_must_resume(instance) || may_write_elsewhere(instance);
}

const char *instance_unrecovered(const struct instance *instance)
{
    return instance_must_resume(instance) ? "is paused, because work on it was cut short"
                                          : "may write to other disks than its record says";
}

/* A save may have been cut short between what the VM writes to and the record of it; or the store
 * had no room for that. What the save has left goes first, for it may be what takes the room, and
 * the VM does not wait for the record: without it, the next start finds the disks, too. */
int instance_recover_vmm(struct instance *instance, struct error *err)
{
    const bool must_find = may_write_elsewhere(instance);
    int r = must_find ? instance_find_disks(instance, instance->vmm, err) : 0;
    vmm_release(instance->vmm);
    if (r == 0 && instance_must_resume(instance))
        r = instance_resume(instance, instance->cancel_fd, err);
    if (r == 0) {
        instance_remove_saved(instance);
        r = must_find ? instance_record(instance, err) : 0;
    }
    if (r < 0)
        return error_prefix(err, r, "%s %s", instance->id, instance_unrecovered(instance));
    if (must_find)
        disks_tidy(&instance->machine, instance->image->directory_fd);
    return 0;
}

void instance_recover_files(struct instance *instance)
{
    store_tidy_entry(instance->entry_fd);
    store_tidy_entry(instance->image->directory_fd);
    if (instance->vmm && !instance->loaded) /* of a switch that was cut short */
        instance_remove_base(instance);
    replace_marks(instance);
    if (instance_must_resume(instance))
        return;
    if (!instance->vmm && instance->state != INSTANCE_STANDBY)
        instance_remove_deliveries(instance);
    if (instance->vmm) {
        instance_remove_saved(instance);
    } else if (instance->state == INSTANCE_STANDBY) {
        disks_drop_tops(&instance->machine, instance->image->directory_fd);
        instance_remove_base(instance);
    } else {
        instance_remove_image(instance);
        disks_tidy(&instance->machine, instance->image->directory_fd);
    }
}
