/* SPDX-License-Identifier: MIT */
#include "fs/node.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#include "fs/forkable.h"
#include "fs/handle.h"
#include "fs/state.h"
#include "util/cleanup.h"

struct node {
    uint64_t id;
    uint64_t lookups;
    /* Counts a reference of the object; which is NULL when that was removed. */
    struct place place;
    struct node *prev, *next; /* of the object's */
    UT_hash_handle hh;        /* in fs.nodes */
    UT_hash_handle hh_place;  /* in fs.places */
};

enum { NAME_BLOCK = 512 };

_Static_assert(sizeof(struct place) == 3 * sizeof(void *), "a hash key has no padding");

static struct node *node_by_id(struct fs *fs, uint64_t id)
{
    struct node *node;
    HASH_FIND(hh, fs->nodes, &id, sizeof id, node);
    return node;
}

/* It stays until the kernel forgets it, and is ENODEV. */
static void node_end(struct fs *fs, struct node *node)
{
    if (!node->place.object)
        return;
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
        int r = node || id != 1 ? -ENODEV : -ENOMEM;
        objects_unlock(&fs->objects);
        return r;
    }
    *ret = node->place;
    object_ref(ret->object);
    return 0;
}

/* The same of a directory, which is refreshed before. */
static int directory_acquire(struct fs *fs, uint64_t id, struct place *ret)
{
    int r = place_acquire(fs, id, ret);
    const struct directory *directory = r == 0 ? ret->entry->directory : NULL;
    if (!directory || !directory->refresh)
        return r;
    objects_names_only(&fs->objects);
    objects_unlock(&fs->objects);
    directory->refresh(fs);
    objects_lock(&fs->objects);
    return ret->object->removed ? -ENODEV : 0;
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

static const char *log_name(const struct place *place)
{
    return place->entry->file ? place->entry->file->log : NULL;
}

static int stat_log(const struct place *place, struct stat *ret)
{
    struct stat st;
    const struct instance *instance = forkable_at(place)->of.instance;
    if (fstatat(instance->entry_fd, log_name(place), &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    ret->st_size = st.st_size;
    ret->st_mtim = st.st_mtim;
    return 0;
}

static int stat_place(const struct place *place, struct stat *ret)
{
    const struct entry *entry = place->entry;
    char target[256];
    int r = 0;
    *ret = (struct stat){.st_ino = entry_ino(place->object, entry, place->mailbox),
                         .st_mode = entry->mode,
                         .st_nlink = 1,
                         .st_uid = geteuid(),
                         .st_gid = getegid(),
                         .st_blksize = 4096,
                         .st_mtim = place->object->changed};
    if (entry->link) {
        entry->link(place, target);
        ret->st_size = (off_t)strlen(target);
    } else if (log_name(place)) {
        r = stat_log(place, ret);
    } else if (entry->file && entry->file->text) {
        size_t size = 0;
        char *text = place_text(place, &size);
        r = text ? 0 : -ENOMEM;
        free_wiped(text, size);
        ret->st_size = (off_t)size;
    }
    ret->st_atim = ret->st_ctim = ret->st_mtim;
    ret->st_blocks = (ret->st_size + NAME_BLOCK - 1) / NAME_BLOCK;
    return r;
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

/* With the lock held: a node for the kernel, counted as looked up. */
static int enter(struct fs *fs, const struct place *place, uint64_t *ret_node, struct stat *ret)
{
    int r = stat_place(place, ret);
    struct node *node = r == 0 ? node_of(fs, place) : NULL;
    if (!node)
        return r < 0 ? r : -ENOMEM;
    node->lookups++;
    *ret_node = node->id;
    return 0;
}

int fs_lookup(struct fs *fs, uint64_t parent, const char *name, struct waiter *waiter,
              uint64_t *ret_node, struct stat *ret)
{
    auto_place struct place directory = {0};
    struct place child;
    int r = directory_acquire(fs, parent, &directory);
    if (r < 0)
        return r;
    r = find(&directory, name, waiter, &child);
    if (r == 0 && !child.entry->file)
        objects_names_only(&fs->objects);
    if (r == 0 && child.entry->file && child.entry->file->ready)
        r = child.entry->file->ready(&child, waiter);
    return r == 0 ? enter(fs, &child, ret_node, ret) : r;
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

int fs_getattr(struct fs *fs, uint64_t node, const struct handle *handle, struct stat *ret)
{
    auto_place struct place place = {0};
    int r = place_acquire(fs, node, &place);
    if (r < 0)
        return r;
    r = stat_place(&place, ret);
    if (!place.entry->file)
        objects_names_only(&fs->objects);
    if (r == 0 && handle && handle->text) /* what this open file holds, for lseek */
        ret->st_size = (off_t)handle->size;
    return r;
}

int fs_readlink(struct fs *fs, uint64_t node, char ret[256])
{
    auto_place struct place place = {0};
    int r = place_acquire(fs, node, &place);
    if (r < 0)
        return r;
    if (!place.entry->link)
        return -EINVAL;
    place.entry->link(&place, ret);
    return 0;
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
    int r = find(directory, name, NULL, &child);
    if (r == 0)
        r = enter(fs, &child, ret_node, ret);
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
    r = find(&directory, name, NULL, &child);
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
    int r = directory_acquire(fs, parent, &directory);
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
        r = -ENODEV;
    else if (!directory.entry->directory->rename || !node->place.entry->directory->rename)
        r = -EPERM;
    else
        r = directory.entry->directory->rename(&directory, name, &node->place, new_name, flags,
                                               &err);
    err.code = -r;
    const struct place *target = r == -ENODEV ? NULL : &node->place;
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
    int r = handle ? directory_acquire(fs, node, &place) : -ENOMEM;
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
