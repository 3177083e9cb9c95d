/* SPDX-License-Identifier: MIT */
#include "fs/node.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#include "fs/forkable.h"
#include "fs/handle.h"
#include "fs/place.h"
#include "fs/state.h"
#include "util/cleanup.h"
#include "util/process.h"

/* Tells the kernel that it has to ask again for the attributes of a directory. Made before it gets
 * them to keep, so that the memory is there when they change. */
struct expiry {
    struct deferred deferred;
    void (*expire)(void *kernel, uint64_t node);
    void *kernel;
    uint64_t node;
};

struct node {
    uint64_t id;
    uint64_t lookups;
    /* Counts a reference of the object; which is NULL when that was removed. */
    struct place place;
    struct expiry *expiry;    /* NULL: the kernel keeps no attributes of it */
    double looked_up_ms;      /* the last time */
    struct node *prev, *next; /* of the object's */
    UT_hash_handle hh;        /* in fs.nodes */
    UT_hash_handle hh_place;  /* in fs.places */
};

_Static_assert(sizeof(struct place) == 3 * sizeof(void *), "a hash key has no padding");

static struct node *node_by_id(struct fs *fs, uint64_t id)
{
    struct node *node;
    HASH_FIND(hh, fs->nodes, &id, sizeof id, node);
    return node;
}

static void run_expiry(struct deferred *deferred)
{
    struct expiry *expiry = (struct expiry *)deferred;
    expiry->expire(expiry->kernel, expiry->node);
    free(expiry);
}

static void node_expire(struct node *node)
{
    struct objects *objects = node->place.object->objects;
    if (node->expiry)
        objects_defer_first(objects, &steal_pointer(node->expiry)->deferred);
}

void object_expire_nodes(struct object *object)
{
    struct node *node;
    DL_FOREACH (object->nodes, node)
        node_expire(node);
}

/* The kernel may keep the attributes that it gets now. False: without memory. */
static bool node_keep(const struct fs *fs, struct node *node)
{
    if (node->expiry || !fs->setup.expire)
        return node->expiry;
    node->expiry = malloc(sizeof *node->expiry);
    if (node->expiry)
        *node->expiry =
            (struct expiry){{.run = run_expiry}, fs->setup.expire, fs->setup.kernel, node->id};
    return node->expiry;
}

/* It stays until the kernel forgets it, and is ESTALE. */
static void node_end(struct fs *fs, struct node *node)
{
    if (!node->place.object)
        return;
    node_expire(node);
    if (!node->place.entry->command)
        HASH_DELETE(hh_place, fs->places, node);
    DL_DELETE(node->place.object->nodes, node);
    object_unref(steal_pointer(node->place.object));
}

void object_end_nodes(struct object *object)
{
    while (object->nodes)
        node_end(object->objects->fs, object->nodes);
}

static void node_discard(struct fs *fs, struct node *node)
{
    HASH_DELETE(hh, fs->nodes, node);
    free(steal_pointer(node->expiry)); /* the kernel keeps nothing of what it forgets */
    node_end(fs, node);
    free(node);
}

void nodes_discard(struct fs *fs)
{
    struct node *node, *next;
    HASH_ITER (hh, fs->nodes, node, next)
        node_discard(fs, node);
}

/* NULL without memory. */
static struct node *node_of(struct fs *fs, const struct place *place)
{
    struct node *node = NULL;
    if (!place->entry->command)
        HASH_FIND(hh_place, fs->places, place, sizeof *place, node);
    if (node)
        return node;
    node = calloc(1, sizeof *node);
    if (!node)
        return NULL;
    node->place = *place;
    object_ref(place->object);
    node->id = place->object->kind == OBJECT_ROOT && place->entry == fs->root_entry
                   ? 1
                   : ++fs->last_node + 1;
    HASH_ADD(hh, fs->nodes, id, sizeof node->id, node);
    if (node->hh.tbl && !place->entry->command)
        HASH_ADD(hh_place, fs->places, place, sizeof node->place, node);
    if (node->hh.tbl && (place->entry->command || node->hh_place.tbl)) {
        DL_APPEND(place->object->nodes, node);
        return node;
    }
    if (node->hh.tbl)
        HASH_DELETE(hh, fs->nodes, node);
    object_unref(node->place.object);
    free(node);
    return NULL;
}

int place_acquire(struct fs *fs, uint64_t id, struct place *ret)
{
    objects_lock(&fs->objects);
    struct node *node = node_by_id(fs, id);
    if (!node && id == 1)
        node = node_of(fs, &(struct place){.object = &fs->root, .entry = fs->root_entry});
    if (!node || !node->place.object) {
        int r = node || id != 1 ? -ESTALE : -ENOMEM;
        objects_unlock(&fs->objects);
        return r;
    }
    *ret = node->place;
    object_ref(ret->object);
    return 0;
}

/* The directory snapshots/, or what is in it. */
static bool is_in_snapshots(const struct place *place)
{
    const struct object *object = place->object;
    if (object->kind == OBJECT_STAGED && ((const struct staged *)object)->draft)
        object = &((const struct staged *)object)->draft->object;
    if (object->kind == OBJECT_DRAFT)
        object = ((const struct draft *)object)->drafts->owner;
    return object->kind == OBJECT_SNAPSHOT ||
           (place->entry->directory && place->entry->directory->of_snapshots);
}

/* The same, after what others have put into the store or taken out of it was noticed. */
static int fresh_acquire(struct fs *fs, uint64_t id, struct place *ret)
{
    int r = place_acquire(fs, id, ret);
    if (r < 0 || !is_in_snapshots(ret))
        return r;
    objects_names_only(&fs->objects);
    objects_unlock(&fs->objects);
    forkables_refresh(fs);
    objects_lock(&fs->objects);
    return ret->object->removed ? -ESTALE : 0;
}

/* With the lock held: is what the kernel knows by a name still there? FS_LATER with the waiter
 * queued, or FS_MUST_WAIT without one. */
static int check_name(const struct place *place, struct waiter *waiter)
{
    const struct file_type *type = place->entry->file;
    if (place->entry->present && !place->entry->present(place))
        return -ESTALE;
    return type && type->ready ? type->ready(place, waiter) : 0;
}

void place_release(struct place *place)
{
    struct object *object = place->object;
    if (!object)
        return;
    struct objects *objects = object->objects;
    object_unref(object);
    objects_unlock(objects);
}

/* `events` is an object of its own, because what else changes in the root wakes none of its
 * readers. */
static struct object *object_of(const struct place *parent, const struct entry *entry)
{
    bool stream = entry->file && entry->file->stream;
    return stream ? &fs_of(parent)->stream.object : parent->object;
}

/* With the lock held: what is at that name. */
static int find(const struct place *parent, const char *name, struct waiter *waiter,
                struct place *ret)
{
    const struct directory *directory = parent->entry->directory;
    if (!directory)
        return -ENOTDIR;
    for (size_t i = 0; i < directory->count; i++) {
        const struct entry *entry = &directory->entries[i];
        if (strcmp(entry->name, name) != 0 || (entry->present && !entry->present(parent)))
            continue;
        *ret = (struct place){.object = object_of(parent, entry), .entry = entry};
        return 0;
    }
    return directory->find ? directory->find(parent, name, waiter, ret) : -ENOENT;
}

/*
 * For how long may the kernel keep the name? It keeps what only its own requests can make and
 * remove, as node.h says. For names that appear otherwise that is not the whole truth: open() with
 * O_PATH asks for nothing behind them; and the kernel looks a name that it knows up again without a
 * lock, and if that answer is late, and the directory of that name was removed before by another
 * process, it keeps that there is nothing of that name. So these are kept for a moment only, and
 * not by an answer that others came shortly before.
 */
static double keep_seconds(struct node *node)
{
    enum { QUIET_MS = 1000 };
    static const double always = 1e6, moment = 1;
    const double now_ms = process_now_ms(), before_ms = node->looked_up_ms;
    const struct entry *entry = node->place.entry;
    node->looked_up_ms = now_ms;
    return entry->command                                        ? 0
           : !entry->appears                                     ? always
           : node->lookups == 0 || now_ms - before_ms > QUIET_MS ? moment
                                                                 : 0;
}

/* With the lock held: a node for the kernel, counted as looked up. */
static int enter(struct fs *fs, const struct place *place, uint64_t *ret_node, struct stat *ret,
                 double *ret_seconds)
{
    int r = place_stat(place, ret);
    struct node *node = r == 0 ? node_of(fs, place) : NULL;
    if (!node)
        return r < 0 ? r : -ENOMEM;
    *ret_seconds = keep_seconds(node);
    node->lookups++;
    *ret_node = node->id;
    return 0;
}

/* The same for who cannot wait: EBUSY while the image is scanned. */
static int find_now(const struct place *parent, const char *name, struct place *ret)
{
    int r = find(parent, name, NULL, ret);
    return r > 0 ? -EBUSY : r;
}

int fs_lookup(struct fs *fs, uint64_t parent, const char *name, struct waiter *waiter,
              uint64_t *ret_node, struct stat *ret, double *ret_seconds)
{
    auto_place struct place directory = {0};
    struct place child;
    int r = fresh_acquire(fs, parent, &directory);
    if (r < 0)
        return r;
    r = find(&directory, name, waiter, &child);
    if (r == 0 && !child.entry->file)
        objects_names_only(&fs->objects);
    if (r == 0 && child.entry->file && child.entry->file->ready)
        r = child.entry->file->ready(&child, waiter);
    return r == 0 ? enter(fs, &child, ret_node, ret, ret_seconds) : r;
}

int place_acquire_named(struct fs *fs, uint64_t id, struct waiter *waiter, struct place *ret)
{
    int r = fresh_acquire(fs, id, ret);
    return r == 0 ? check_name(ret, waiter) : r;
}

void fs_forget(struct fs *fs, uint64_t id, uint64_t count)
{
    objects_lock(&fs->objects);
    struct node *node = node_by_id(fs, id);
    if (node && (!node->place.object || node->place.object->kind != OBJECT_ROOT)) {
        node->lookups -= count < node->lookups ? count : node->lookups;
        if (node->lookups == 0)
            node_discard(fs, node);
    }
    objects_names_only(&fs->objects);
    objects_unlock(&fs->objects);
}

int fs_getattr(struct fs *fs, uint64_t id, const struct handle *handle, struct waiter *waiter,
               struct stat *ret, bool *ret_keep)
{
    auto_place struct place place = {0};
    int r = handle ? place_acquire(fs, id, &place) : fresh_acquire(fs, id, &place);
    if (r == 0 && !place.entry->file)
        objects_names_only(&fs->objects);
    if (r == 0 && !handle)
        r = check_name(&place, waiter);
    if (r == 0)
        r = place_stat(&place, ret);
    if (r == 0 && handle && handle->text &&
        place.entry->file->document) /* what this open file holds, for lseek */
        ret->st_size = (off_t)handle->size;
    if (r == -ESTALE && handle)
        r = -ENODEV;
    *ret_keep = r == 0 && place.entry->directory && node_keep(fs, node_by_id(fs, id));
    return r;
}

int fs_readlink(struct fs *fs, uint64_t node, char ret[256])
{
    auto_place struct place place = {0};
    int r = fresh_acquire(fs, node, &place);
    if (r == 0)
        r = place.entry->link ? check_name(&place, NULL) : -EINVAL;
    if (r == 0)
        place.entry->link(&place, ret);
    return r;
}

/* With the lock held: the table's function for that, or EPERM; a refusal is recorded. */
static int apply(change *go, const struct refusal *refusal)
{
    struct error err = {0};
    int r = go ? go(refusal->directory, refusal->name, &err) : -EPERM;
    if (r == 0)
        return 0;
    err.code = -r;
    return refuse(refusal, &err);
}

/* What is there, and was just made if `undo` is not NULL. If the kernel cannot get it, it is
 * removed again: who was told ENOMEM would find it there at the next try. */
static int enter_new(struct fs *fs, const struct place *directory, const char *name, change *undo,
                     uint64_t *ret_node, struct stat *ret)
{
    struct place child;
    double seconds;
    int r = find_now(directory, name, &child);
    if (r == 0)
        r = enter(fs, &child, ret_node, ret, &seconds);
    if (r == -ENOMEM && undo)
        undo(directory, name, &(struct error){0});
    return r;
}

int fs_mkdir(struct fs *fs, uint64_t parent, const char *name, pid_t tid, uint64_t *ret_node,
             struct stat *ret)
{
    auto_place struct place directory = {0};
    int r = place_acquire(fs, parent, &directory);
    if (r < 0)
        return r;
    r = apply(directory.entry->directory->make,
              &(struct refusal){"mkdir", &directory, name, tid, NULL});
    return r == 0
               ? enter_new(fs, &directory, name, directory.entry->directory->remove, ret_node, ret)
               : r;
}

int fs_create_node(struct fs *fs, uint64_t parent, const char *name, int flags, pid_t tid,
                   uint64_t *ret_node, struct stat *ret)
{
    auto_place struct place directory = {0};
    struct place child;
    int r = place_acquire(fs, parent, &directory);
    if (r < 0)
        return r;
    change *undo = NULL;
    r = find_now(&directory, name, &child);
    if (r == 0 && flags & O_EXCL)
        r = -EEXIST;
    if (r == -ENOENT) {
        undo = directory.entry->directory->unlink;
        r = apply(directory.entry->directory->create,
                  &(struct refusal){"create", &directory, name, tid, NULL});
    }
    return r == 0 ? enter_new(fs, &directory, name, undo, ret_node, ret) : r;
}

int fs_change(struct fs *fs, const char *operation, uint64_t parent, const char *name, pid_t tid)
{
    auto_place struct place directory = {0};
    int r = fresh_acquire(fs, parent, &directory);
    if (r < 0)
        return r;
    const struct directory *table = directory.entry->directory;
    change *go = strcmp(operation, "rmdir") == 0    ? table->remove
                 : strcmp(operation, "unlink") == 0 ? table->unlink
                                                    : NULL;
    return apply(go, &(struct refusal){operation, &directory, name, tid, NULL});
}

int fs_rename(struct fs *fs, uint64_t parent, const char *name, uint64_t new_parent,
              const char *new_name, unsigned flags, pid_t tid)
{
    auto_place struct place directory = {0};
    struct error err = {0};
    int r = place_acquire(fs, parent, &directory);
    if (r < 0)
        return r;
    const struct node *node = node_by_id(fs, new_parent);
    if (!node || !node->place.object)
        r = -ESTALE;
    else if (!directory.entry->directory->rename || !node->place.entry->directory->rename)
        r = -EPERM;
    else
        r = directory.entry->directory->rename(&directory, name, &node->place, new_name, flags,
                                               &err);
    err.code = -r;
    const struct place *target = r == -ESTALE ? NULL : &node->place;
    return r < 0 ? refuse(&(struct refusal){"rename", &directory, name, tid, target}, &err) : 0;
}

static int list(const struct place *place, struct waiter *waiter, struct handle *handle)
{
    const struct directory *directory = place->entry->directory;
    const struct object *object = place->object;
    if (!directory)
        return -ENOTDIR;
    int r = handle_list(handle, ".", object, place->entry, place->mailbox);
    if (r == 0)
        r = handle_list(handle, "..", object, place->entry, place->mailbox);
    for (size_t i = 0; i < directory->count && r == 0; i++) {
        const struct entry *entry = &directory->entries[i];
        object = object_of(place, entry);
        if (!entry->present || entry->present(place))
            r = handle_list(handle, entry->name, object, entry, NULL);
    }
    return r == 0 && directory->list ? directory->list(place, waiter, handle) : r;
}

int fs_opendir(struct fs *fs, uint64_t node, struct waiter *waiter, struct handle **ret)
{
    auto_place struct place place = {0};
    struct handle *handle = handle_create(0);
    int r = handle ? fresh_acquire(fs, node, &place) : -ENOMEM;
    if (r == 0)
        r = check_name(&place, NULL);
    if (r == 0)
        r = list(&place, waiter, handle);
    if (r == 0) {
        handle_register(handle, &place);
        *ret = steal_pointer(handle);
    }
    handle_destroy(handle);
    return r;
}

const char *fs_readdir(const struct handle *handle, size_t position, struct stat *ret)
{
    if (position >= handle->name_count)
        return NULL;
    const struct listed *listed = &handle->names[position];
    *ret = (struct stat){.st_ino = listed->ino, .st_mode = listed->mode};
    return listed->name;
}
