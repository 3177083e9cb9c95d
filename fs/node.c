/* SPDX-License-Identifier: MIT */
#include "fs/node.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "fs/forkable.h"
#include "fs/handle.h"
#include "fs/state.h"
#include "util/cleanup.h"

struct node {
    uint64_t id;
    uint64_t lookups;
    struct place place;      /* counts a reference of the object */
    UT_hash_handle hh;       /* in fs.nodes */
    UT_hash_handle hh_place; /* in fs.places */
};

enum { NAME_BLOCK = 512 };

/* Zeroes the padding too, since places are hash keys. */
static void place_set(struct place *ret, struct object *object, const struct entry *entry,
                      const struct marker *marker)
{
    memset(ret, 0, sizeof *ret);
    ret->object = object;
    ret->entry = entry;
    ret->marker = marker;
}

static struct node *node_by_id(struct fs *fs, uint64_t id)
{
    struct node *node;
    HASH_FIND(hh, fs->nodes, &id, sizeof id, node);
    return node;
}

static void node_drop(struct fs *fs, struct node *node)
{
    HASH_DELETE(hh, fs->nodes, node);
    if (!node->place.entry->command)
        HASH_DELETE(hh_place, fs->places, node);
    object_unref(node->place.object);
    free(node);
}

void nodes_drop(struct fs *fs)
{
    struct node *node, *next;
    HASH_ITER (hh, fs->nodes, node, next)
        node_drop(fs, node);
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
    place_set(&node->place, object_ref(place->object), place->entry, place->marker);
    node->id = place->object->kind == OBJECT_ROOT && place->entry == fs->root_entry
                   ? 1
                   : ++fs->last_node + 1;
    HASH_ADD(hh, fs->nodes, id, sizeof node->id, node);
    if (node->hh.tbl && !place->entry->command)
        HASH_ADD(hh_place, fs->places, place, sizeof node->place, node);
    if (node->hh.tbl && (place->entry->command || node->hh_place.tbl))
        return node;
    if (node->hh.tbl)
        HASH_DELETE(hh, fs->nodes, node);
    object_unref(node->place.object);
    free(node);
    return NULL;
}

int place_take(struct fs *fs, uint64_t id, struct place *ret)
{
    objects_lock(&fs->objects);
    struct node *node = node_by_id(fs, id);
    if (!node && id == 1) {
        struct place root;
        place_set(&root, &fs->root, fs->root_entry, NULL);
        node = node_of(fs, &root);
        if (!node) {
            objects_unlock(&fs->objects);
            return -ENOMEM;
        }
    }
    if (!node || node->place.object->removed) {
        objects_unlock(&fs->objects);
        return -ENODEV;
    }
    *ret = node->place;
    object_ref(ret->object);
    return 0;
}

/* The same of a directory, which is brought up to date before. */
static int directory_take(struct fs *fs, uint64_t id, struct place *ret)
{
    int r = place_take(fs, id, ret);
    const struct directory *directory = r == 0 ? ret->entry->directory : NULL;
    if (!directory || !directory->refresh)
        return r;
    objects_unlock(&fs->objects);
    directory->refresh(fs);
    objects_lock(&fs->objects);
    if (!ret->object->removed)
        return 0;
    place_give(ret);
    return -ENODEV;
}

void place_give(struct place *place)
{
    struct objects *objects = place->object->objects;
    object_unref(place->object);
    objects_unlock(objects);
}

static const char *log_name(const struct place *place)
{
    return place->entry->file ? place->entry->file->log : NULL;
}

static int stat_log(const struct place *place, struct stat *ret)
{
    struct stat st;
    const struct image *image = forkable_at(place)->of.instance->image;
    if (fstatat(image->directory_fd, log_name(place), &st, AT_SYMLINK_NOFOLLOW) < 0)
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
    *ret = (struct stat){
        .st_ino = entry_ino(entry, place->object->kind, place->object->serial, place->marker),
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
        char *text = entry->file->text(place, &size);
        r = text ? 0 : -ENOMEM;
        free_wiped(text, size);
        ret->st_size = (off_t)size;
    }
    ret->st_atim = ret->st_ctim = ret->st_mtim;
    ret->st_blocks = (ret->st_size + NAME_BLOCK - 1) / NAME_BLOCK;
    return r;
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
        place_set(ret, parent->object, entry, NULL);
        return 0;
    }
    return directory->find ? directory->find(parent, name, waiter, ret) : -ENOENT;
}

/* With the lock held: a node for the kernel, counted as looked up. */
static int enter(struct fs *fs, const struct place *place, uint64_t *ret_node, struct stat *ret)
{
    struct place clean;
    place_set(&clean, place->object, place->entry, place->marker);
    int r = stat_place(&clean, ret);
    struct node *node = r == 0 ? node_of(fs, &clean) : NULL;
    if (r == 0 && !node)
        r = -ENOMEM;
    if (r == 0) {
        node->lookups++;
        *ret_node = node->id;
    }
    return r;
}

int fs_lookup(struct fs *fs, uint64_t parent, const char *name, struct waiter *waiter,
              uint64_t *ret_node, struct stat *ret)
{
    struct place directory, child;
    int r = directory_take(fs, parent, &directory);
    if (r < 0)
        return r;
    r = find(&directory, name, waiter, &child);
    if (r == 0 && child.entry->file && child.entry->file->ready)
        r = child.entry->file->ready(&child, waiter);
    if (r == 0)
        r = enter(fs, &child, ret_node, ret);
    place_give(&directory);
    return r;
}

void fs_forget(struct fs *fs, uint64_t id, uint64_t count)
{
    objects_lock(&fs->objects);
    struct node *node = node_by_id(fs, id);
    if (node && node->place.object->kind != OBJECT_ROOT) {
        node->lookups -= count < node->lookups ? count : node->lookups;
        if (node->lookups == 0)
            node_drop(fs, node);
    }
    objects_unlock(&fs->objects);
}

int fs_getattr(struct fs *fs, uint64_t node, const struct handle *handle, struct stat *ret)
{
    struct place place;
    int r = place_take(fs, node, &place);
    if (r < 0)
        return r;
    r = stat_place(&place, ret);
    if (r == 0 && handle && handle->text) /* what this open file holds, for lseek */
        ret->st_size = (off_t)handle->size;
    place_give(&place);
    return r;
}

int fs_readlink(struct fs *fs, uint64_t node, char ret[256])
{
    struct place place;
    int r = place_take(fs, node, &place);
    if (r < 0)
        return r;
    if (place.entry->link)
        place.entry->link(&place, ret);
    else
        r = -EINVAL;
    place_give(&place);
    return r;
}

/* With the lock held: the table's function for that, or EPERM; a refusal is told. */
static int apply(change *go, const struct refusal *refusal)
{
    struct error err = {0};
    int r = go ? go(refusal->directory, refusal->name, &err) : -EPERM;
    if (r == 0)
        return 0;
    err.code = -r;
    return refusal_tell(refusal, &err);
}

/* What is there, and was just made if `undo` is not NULL. If the kernel cannot be told of it, it
 * goes again: who was told of a failure would find it there at the next try. */
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
    struct place directory;
    int r = place_take(fs, parent, &directory);
    if (r < 0)
        return r;
    r = apply(directory.entry->directory->make, &(struct refusal){"mkdir", &directory, name, tid});
    if (r == 0)
        r = enter_new(fs, &directory, name, directory.entry->directory->remove, ret_node, ret);
    place_give(&directory);
    return r;
}

int fs_create_node(struct fs *fs, uint64_t parent, const char *name, int flags, pid_t tid,
                   uint64_t *ret_node, struct stat *ret)
{
    struct place directory, child;
    int r = place_take(fs, parent, &directory);
    if (r < 0)
        return r;
    change *undo = NULL;
    r = find(&directory, name, NULL, &child);
    if (r == 0 && flags & O_EXCL)
        r = -EEXIST;
    if (r == -ENOENT) {
        undo = directory.entry->directory->unlink;
        r = apply(directory.entry->directory->create,
                  &(struct refusal){"create", &directory, name, tid});
    }
    if (r == 0)
        r = enter_new(fs, &directory, name, undo, ret_node, ret);
    place_give(&directory);
    return r;
}

int fs_refuse(struct fs *fs, const char *operation, uint64_t parent, const char *name, pid_t tid)
{
    struct place directory;
    int r = place_take(fs, parent, &directory);
    if (r < 0)
        return r;
    r = apply(NULL, &(struct refusal){operation, &directory, name, tid});
    place_give(&directory);
    return r;
}

/* rmdir and unlink: the same with another column of the table. */
static int remove_name(struct fs *fs, uint64_t parent, const char *name, pid_t tid, bool directory)
{
    struct place place;
    int r = directory_take(fs, parent, &place);
    if (r < 0)
        return r;
    const struct directory *table = place.entry->directory;
    r = apply(directory ? table->remove : table->unlink,
              &(struct refusal){directory ? "rmdir" : "unlink", &place, name, tid});
    place_give(&place);
    return r;
}

int fs_rmdir(struct fs *fs, uint64_t parent, const char *name, pid_t tid)
{
    return remove_name(fs, parent, name, tid, true);
}

int fs_unlink(struct fs *fs, uint64_t parent, const char *name, pid_t tid)
{
    return remove_name(fs, parent, name, tid, false);
}

int fs_rename(struct fs *fs, uint64_t parent, const char *name, uint64_t new_parent,
              const char *new_name, unsigned flags, pid_t tid)
{
    struct place directory;
    struct error err = {0};
    int r = place_take(fs, parent, &directory);
    if (r < 0)
        return r;
    const struct node *node = node_by_id(fs, new_parent);
    if (!node || node->place.object->removed)
        r = -ENODEV;
    else if (!directory.entry->directory->rename || !node->place.entry->directory->rename)
        r = -EPERM;
    else
        r = directory.entry->directory->rename(&directory, name, &node->place, new_name, flags,
                                               &err);
    err.code = -r;
    if (r < 0)
        refusal_tell(&(struct refusal){"rename", &directory, name, tid}, &err);
    place_give(&directory);
    return r;
}

static int list(const struct place *place, struct waiter *waiter, struct handle *handle)
{
    const struct directory *directory = place->entry->directory;
    const struct object *object = place->object;
    if (!directory)
        return -ENOTDIR;
    int r = handle_list(handle, ".", object->kind, object->serial, place->entry, place->marker);
    if (r == 0)
        r = handle_list(handle, "..", object->kind, object->serial, place->entry, place->marker);
    for (size_t i = 0; i < directory->count && r == 0; i++) {
        const struct entry *entry = &directory->entries[i];
        if (!entry->present || entry->present(place))
            r = handle_list(handle, entry->name, object->kind, object->serial, entry, NULL);
    }
    return r == 0 && directory->list ? directory->list(place, waiter, handle) : r;
}

int fs_opendir(struct fs *fs, uint64_t node, struct waiter *waiter, struct handle **ret)
{
    struct place place;
    struct handle *handle = handle_create(0);
    int r = handle ? directory_take(fs, node, &place) : -ENOMEM;
    if (r == 0) {
        r = list(&place, waiter, handle);
        if (r == 0) {
            handle_register(handle, &place);
            *ret = steal_pointer(handle);
        }
        place_give(&place);
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
