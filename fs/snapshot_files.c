/* SPDX-License-Identifier: MIT */
/* snapshot_files: what lies in a snapshot's directory, and the mailboxes of any memory image. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fork/accept.h"
#include "fs/internal.h"
#include "store/notes.h"
#include "util/cleanup.h"
#include "util/json.h"

static struct snapshot *snapshot_of(const struct place *place)
{
    return ((const struct source *)place->object)->snapshot;
}

static char *info_text(struct fs *fs, const struct place *place, size_t *ret_size)
{
    auto_json cJSON *info = snapshot_info(snapshot_of(place));
    const struct warm_count count = warm_count(fs->setup.warm, snapshot_of(place));
    cJSON *warm = json_add_object(info, "warm");
    json_add_number(warm, "wanted", count.wanted);
    json_add_number(warm, "ready", count.ready);
    char *text = json_print(info);
    *ret_size = text ? strlen(text) : 0;
    return text;
}

/* mailboxes/: the names of the markers in the memory image of a snapshot, or of an instance in
 * standby. */

void markers_free(struct object *object)
{
    struct marker *marker, *next;
    HASH_ITER (hh, object->markers, marker, next) {
        HASH_DEL(object->markers, marker);
        free(marker);
    }
}

/* NULL without memory. */
static const struct marker *marker_of(struct object *object, const char *name)
{
    struct marker *marker;
    HASH_FIND_STR(object->markers, name, marker);
    if (marker || !(marker = calloc(1, sizeof *marker)))
        return marker;
    marker->number = HASH_COUNT(object->markers);
    snprintf(marker->name, sizeof marker->name, "%s", name);
    HASH_ADD_STR(object->markers, name, marker);
    if (!marker->hh.tbl)
        free(steal_pointer(marker));
    return marker;
}

/* What is known of the image now. An instance that has left standby has none, whatever lies there:
 * it is the memory of a VM that runs, or of one that ended. */
static int index_now(const struct place *place, struct image_index **ret)
{
    if (place->object->kind == OBJECT_SNAPSHOT)
        return image_index(((struct source *)place->object)->snapshot->image, ret, NULL);
    struct instance *instance = ((struct unit *)place->object)->instance;
    return instance_is_standby(instance) ? image_index(instance->image, ret, NULL) : -ENOENT;
}

/* The list of candidates, or FS_LATER with the waiter queued. Who is not patient waits for a kept
 * list to be read, and for no scan. */
static int index_of(struct fs *fs, const struct place *place, bool patient, struct waiter *waiter,
                    struct image_index **ret)
{
    int r = index_now(place, ret);
    if (r != -IMAGE_READING && !(patient && r == -IMAGE_SCANNING))
        return r;
    if (!waiter)
        return -EBUSY;
    scan_wait(fs, waiter);
    return FS_LATER;
}

static int info_ready(struct fs *fs, const struct place *place, struct waiter *waiter)
{
    struct image_index *index = NULL;
    int r = index_of(fs, place, false, waiter, &index);
    image_index_unref(index);
    return r == FS_LATER ? r : 0; /* else it says null */
}

static const struct file_type info_file = {
    .text = info_text, .ready = info_ready, .pollable = true};

/* A look at each candidate and no more: a guest may have planted thousands, and every name of a
 * walk comes here. */
static bool has_marker(const struct scan *scan, const char *name)
{
    for (size_t i = 0; i < scan->count; i++)
        if (scan->candidates[i].marker.kind == FRAME_FORK &&
            strcmp(scan->candidates[i].marker.name, name) == 0)
            return true;
    return false;
}

static int markers_find(struct fs *fs, const struct place *directory, const char *name,
                        struct waiter *waiter, struct place *ret)
{
    struct image_index *index;
    int r = index_of(fs, directory, true, waiter, &index);
    if (r != 0)
        return r;
    bool there = has_marker(&index->scan, name);
    image_index_unref(index);
    if (!there)
        return -ENOENT;
    const struct marker *marker = marker_of(directory->object, name);
    if (!marker)
        return -ENOMEM;
    *ret = (struct place){.object = directory->object, .entry = &marker_entry, .marker = marker};
    return 0;
}

static int markers_list(struct fs *fs, const struct place *directory, struct waiter *waiter,
                        struct handle *handle)
{
    struct image_index *index;
    int r = index_of(fs, directory, true, waiter, &index);
    if (r != 0)
        return r;
    const struct scan *scan = &index->scan;
    for (size_t i = scan_next_name(scan, 0); i < scan->count && r == 0;
         i = scan_next_name(scan, i + 1)) {
        const struct marker *marker = marker_of(directory->object, scan->candidates[i].marker.name);
        r = marker ? listing_add(handle, marker->name, directory->object, &marker_entry, marker)
                   : -ENOMEM;
    }
    image_index_unref(index);
    return r;
}

const struct directory markers_directory = {.find = markers_find, .list = markers_list};

static char *marker_text(struct fs *fs, const struct place *place, size_t *ret_size)
{
    struct image_index *index;
    (void)fs;
    *ret_size = 0;
    if (index_now(place, &index) < 0) /* it is gone: nothing is in it any more */
        return strdup("");
    auto_json cJSON *json = scan_describe(&index->scan, place->marker->name);
    char *text = json_print(json);
    *ret_size = text ? strlen(text) : 0;
    image_index_unref(index);
    return text;
}

static int marker_ready(struct fs *fs, const struct place *place, struct waiter *waiter)
{
    struct image_index *index = NULL;
    int r = index_of(fs, place, true, waiter, &index);
    if (r == 0 && place->marker && !has_marker(&index->scan, place->marker->name))
        r = -ENODEV; /* the image is another one */
    image_index_unref(index);
    return r;
}

static const struct file_type marker_file = {.text = marker_text, .ready = marker_ready};
const struct entry marker_entry = {NULL, S_IFREG | 0400, 4, .file = &marker_file};

/* network: the resume-network markers; there only if the image has one. */

static char *network_text(struct fs *fs, const struct place *place, size_t *ret_size)
{
    struct image_index *index;
    (void)fs;
    *ret_size = 0;
    if (index_now(place, &index) < 0) /* it is gone: nothing is in it any more */
        return strdup("");
    auto_json cJSON *json = scan_describe(&index->scan, "");
    char *text = json_print(json);
    *ret_size = text ? strlen(text) : 0;
    image_index_unref(index);
    return text;
}

static const struct file_type network_file = {.text = network_text, .ready = marker_ready};
static const struct entry network_entry = {NULL, S_IFREG | 0400, 6, .file = &network_file};
static const char network_name[] = "network";

static bool has_network(const struct image_index *index)
{
    for (size_t i = 0; i < index->scan.count; i++)
        if (index->scan.candidates[i].marker.kind == FRAME_NETWORK)
            return true;
    return false;
}

int network_find(struct fs *fs, const struct place *directory, const char *name,
                 struct waiter *waiter, struct place *ret)
{
    struct image_index *index;
    int r =
        strcmp(name, network_name) == 0 ? index_of(fs, directory, true, waiter, &index) : -ENOENT;
    if (r != 0)
        return r;
    if (has_network(index))
        *ret = (struct place){.object = directory->object, .entry = &network_entry};
    else
        r = -ENOENT;
    image_index_unref(index);
    return r;
}

/* Does not wait for a scan: the rest of the directory is there. */
int network_list(struct fs *fs, const struct place *directory, struct waiter *waiter,
                 struct handle *handle)
{
    struct image_index *index;
    int r = index_of(fs, directory, false, waiter, &index);
    if (r != 0)
        return r == FS_LATER ? r : 0;
    if (has_network(index))
        r = listing_add(handle, network_name, directory->object, &network_entry, NULL);
    image_index_unref(index);
    return r;
}

/* warm: how many VMs are to be loaded ahead */

static char *warm_text(struct fs *fs, const struct place *place, size_t *ret_size)
{
    char text[16];
    int size =
        snprintf(text, sizeof text, "%u\n", warm_count(fs->setup.warm, snapshot_of(place)).wanted);
    *ret_size = (size_t)size;
    return strdup(text);
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

static int run_warm(struct job *job)
{
    struct source *source = (struct source *)job->object;
    return warm_set(job->fs->setup.warm, source->snapshot, job->wanted, &job->error);
}

/* There is no `error` in a snapshot's directory. */
static int refuse_command(struct fs *fs, const struct place *place, pid_t tid, struct error *err)
{
    const struct place directory = {.object = place->object, .entry = &snapshot_entry};
    return refusal_tell(fs, &(struct refusal){"write", &directory, place->entry->name, tid}, err);
}

static void finish(struct job *job)
{
    job->error.code = -job->result;
    if (job->result < 0)
        refuse_command(job->fs, &job->place, job->tid, &job->error);
    fs_changed(job->fs, job->object);
}

static int start(struct fs *fs, const struct place *place, int (*run)(struct job *),
                 unsigned wanted, pid_t tid, struct job **ret)
{
    struct error err = {0};
    struct job *job = job_create(fs, place->object);
    if (!job)
        return -ENOMEM;
    job->run = run;
    job->finish = finish;
    job->wanted = wanted;
    job->place = *place; /* of the object that the job counts */
    job->tid = tid;
    int r = job_start(job_ref(job), &err);
    if (r < 0) {
        job_unref(job);
        return refuse_command(fs, place, tid, &err);
    }
    *ret = job;
    return FS_LATER;
}

static int warm_command(struct fs *fs, const struct place *place, const char *text, pid_t tid,
                        struct job **ret)
{
    unsigned wanted;
    struct error err = {0};
    if (read_number(text, WARM_MAX, &wanted))
        return start(fs, place, run_warm, wanted, tid, ret);
    error_set(&err, EINVAL, "warm takes a whole number from 0 to %d, and nothing else", WARM_MAX);
    return refuse_command(fs, place, tid, &err);
}

static const struct file_type warm_file = {
    .text = warm_text, .pollable = true, .command = warm_command};

/* accept: somebody vouches for its files as they are now */

static int run_accept(struct job *job)
{
    return accept_snapshot(((struct source *)job->object)->snapshot, &job->error);
}

static int accept_command(struct fs *fs, const struct place *place, const char *text, pid_t tid,
                          struct job **ret)
{
    struct error err = {0};
    if (strcmp(text, "1") == 0)
        return start(fs, place, run_accept, 0, tid, ret);
    error_set(&err, EINVAL, "accept takes a 1, and nothing else");
    return refuse_command(fs, place, tid, &err);
}

/* What somebody has vouched for last. */
char *accept_text(struct fs *fs, const struct place *place, size_t *ret_size)
{
    struct image_index *index = NULL;
    (void)fs;
    index_now(place, &index);
    char *text = index && index->accepted ? json_print(index->accepted) : strdup("");
    *ret_size = text ? strlen(text) : 0;
    image_index_unref(index);
    return text;
}

static const struct file_type accept_file = {
    .text = accept_text, .ready = info_ready, .command = accept_command};

static const struct entry snapshot_entries[] = {
    {"info", S_IFREG | 0444, 1, .file = &info_file},
    {"mailboxes", S_IFDIR | 0755, 2, .directory = &markers_directory},
    {"warm", S_IFREG | 0644, 7, .command = true, .file = &warm_file},
    {"accept", S_IFREG | 0600, 8, .command = true, .file = &accept_file},
    {"forks", S_IFDIR | 0755, 3, .directory = &forks_directory},
};

static const struct directory snapshot_directory = {.entries = snapshot_entries,
                                                    .count = array_length(snapshot_entries),
                                                    .find = network_find,
                                                    .list = network_list};
const struct entry snapshot_entry = {NULL, S_IFDIR | 0755, 5, .directory = &snapshot_directory};

/* snapshots/ */

/* What is not in the store any more is removed, whoever took it out; so is what was staged. */
static void snapshots_dir_refresh(struct fs *fs)
{
    struct source *source, *next;
    snapshots_look(fs->setup.snapshots);
    unsigned vanished = atomic_load(&fs->setup.snapshots->vanished);
    unsigned notes = store_notes_changes(fs->setup.snapshots->store->notes);
    fs_lock(fs);
    if (fs->vanished != vanished)
        HASH_ITER (hh, fs->sources, source, next)
            if (snapshot_is_removed(source->snapshot))
                fs_forget_source(fs, source);
    fs->vanished = vanished;
    if (fs->notes != notes)
        fs_changed(fs, &fs->root);
    fs->notes = notes;
    fs_unlock(fs);
}

static int snapshots_dir_find(struct fs *fs, const struct place *directory, const char *name,
                              struct waiter *waiter, struct place *ret)
{
    struct source *source;
    int r = fs_source(fs, name, &source);
    (void)directory;
    (void)waiter;
    if (r < 0)
        return r;
    *ret = (struct place){.object = &source->object, .entry = &snapshot_entry};
    return 0;
}

static int snapshots_dir_list(struct fs *fs, const struct place *directory, struct waiter *waiter,
                              struct handle *handle)
{
    size_t count;
    auto_free struct snapshot_name *names = snapshots_list(fs->setup.snapshots, &count);
    int r = names ? 0 : -ENOMEM;
    (void)directory;
    (void)waiter;
    for (size_t i = 0; i < count && r == 0; i++) {
        const struct object object = {.kind = OBJECT_SNAPSHOT, .serial = names[i].serial};
        r = listing_add(handle, names[i].id, &object, &snapshot_entry, NULL);
    }
    return r;
}

/* Its drafts go with it, unless one of them commits. */
static int snapshots_dir_remove(struct fs *fs, const struct place *directory, const char *name,
                                struct error *err)
{
    struct source *source;
    int r = fs_source(fs, name, &source);
    (void)directory;
    if (r < 0)
        return r == -ENOENT ? error_set(err, ENOENT, "there is no snapshot %s", name)
                            : error_set(err, ENOMEM, "out of memory");
    if (forks_busy(&source->forks))
        return error_set(err, EBUSY,
                         "the snapshot cannot be removed while it is forked: wait for that");
    object_ref(&source->object);
    fs_unlock(fs);
    r = instances_check_overlays(fs->setup.instances, source->snapshot, err);
    if (r == 0)
        r = snapshot_remove(source->snapshot, err);
    if (r == 0)
        warm_forget(fs->setup.warm, source->snapshot);
    fs_lock(fs);
    if (r == 0)
        fs_forget_source(fs, source);
    object_unref(&source->object);
    return r;
}

const struct directory snapshots_directory = {.refresh = snapshots_dir_refresh,
                                              .find = snapshots_dir_find,
                                              .list = snapshots_dir_list,
                                              .remove = snapshots_dir_remove};
