/* SPDX-License-Identifier: MIT */
/*
 * node: the kernel's view of the tree, and what is done to directories. A node is a place that the
 * kernel knows by number; the same place gives the same node while the kernel remembers it, but for
 * command files, which get a new one at every lookup, so that two writers share no kernel lock.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "fs/internal.h"
#include "util/cleanup.h"

enum { NAME_BLOCK = 512 };

static ino_t ino_of(const struct object *object, const struct entry *entry,
                    const struct marker *marker)
{
    ino_t number = marker ? marker->number & 0xFFFF : 0;
    return (ino_t)object->serial << 28 | number << 12 | (ino_t)object->kind << 8 | entry->number;
}

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

void node_drop(struct fs *fs, struct node *node)
{
    HASH_DELETE(hh, fs->nodes, node);
    if (!node->place.entry->command)
        HASH_DELETE(hh_place, fs->places, node);
    object_unref(node->place.object);
    free(node);
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
    node->id =
        place->object->kind == OBJECT_ROOT && place->entry == &root_entry ? 1 : ++fs->last_node + 1;
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
    fs_lock(fs);
    struct node *node = node_by_id(fs, id);
    if (!node && id == 1) {
        struct place root;
        place_set(&root, &fs->root, &root_entry, NULL);
        node = node_of(fs, &root);
        if (!node) {
            fs_unlock(fs);
            return -ENOMEM;
        }
    }
    if (!node || node->place.object->removed) {
        fs_unlock(fs);
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
    fs_unlock(fs);
    directory->refresh(fs);
    fs_lock(fs);
    if (!ret->object->removed)
        return 0;
    place_give(fs, ret);
    return -ENODEV;
}

void place_give(struct fs *fs, struct place *place)
{
    object_unref(place->object);
    fs_unlock(fs);
}

static const char *log_name(const struct place *place)
{
    return place->entry->file ? place->entry->file->log : NULL;
}

static int stat_log(const struct place *place, struct stat *ret)
{
    struct stat st;
    const struct unit *unit = (const struct unit *)place->object;
    if (fstatat(unit->instance->image->directory_fd, log_name(place), &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    ret->st_size = st.st_size;
    ret->st_mtim = st.st_mtim;
    return 0;
}

static int stat_place(struct fs *fs, const struct place *place, struct stat *ret)
{
    const struct entry *entry = place->entry;
    char target[256];
    int r = 0;
    *ret = (struct stat){.st_ino = ino_of(place->object, entry, place->marker),
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
        char *text = entry->file->text(fs, place, &size);
        r = text ? 0 : -ENOMEM;
        free_wiped(text, size);
        ret->st_size = (off_t)size;
    }
    ret->st_atim = ret->st_ctim = ret->st_mtim;
    ret->st_blocks = (ret->st_size + NAME_BLOCK - 1) / NAME_BLOCK;
    return r;
}

/* With the lock held: what is at that name. */
static int find(struct fs *fs, const struct place *parent, const char *name, struct waiter *waiter,
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
    return directory->find ? directory->find(fs, parent, name, waiter, ret) : -ENOENT;
}

/* With the lock held: a node for the kernel, counted as looked up. */
static int enter(struct fs *fs, const struct place *place, uint64_t *ret_node, struct stat *ret)
{
    struct place clean;
    place_set(&clean, place->object, place->entry, place->marker);
    int r = stat_place(fs, &clean, ret);
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
    r = find(fs, &directory, name, waiter, &child);
    if (r == 0 && child.entry->file && child.entry->file->ready)
        r = child.entry->file->ready(fs, &child, waiter);
    if (r == 0)
        r = enter(fs, &child, ret_node, ret);
    place_give(fs, &directory);
    return r;
}

void fs_forget(struct fs *fs, uint64_t id, uint64_t count)
{
    fs_lock(fs);
    struct node *node = node_by_id(fs, id);
    if (node && node->place.object->kind != OBJECT_ROOT) {
        node->lookups -= count < node->lookups ? count : node->lookups;
        if (node->lookups == 0)
            node_drop(fs, node);
    }
    fs_unlock(fs);
}

int fs_getattr(struct fs *fs, uint64_t node, const struct handle *handle, struct stat *ret)
{
    struct place place;
    int r = place_take(fs, node, &place);
    if (r < 0)
        return r;
    r = stat_place(fs, &place, ret);
    if (r == 0 && handle && handle->text) /* what this open file holds, for lseek */
        ret->st_size = (off_t)handle->size;
    place_give(fs, &place);
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
    place_give(fs, &place);
    return r;
}

/* With the lock held: the table's function for that, or EPERM; a refusal is told. */
static int apply(struct fs *fs, change *go, const struct refusal *refusal)
{
    struct error err = {0};
    int r = go ? go(fs, refusal->directory, refusal->name, &err) : -EPERM;
    if (r == 0)
        return 0;
    err.code = -r;
    return refusal_tell(fs, refusal, &err);
}

/* What is there, and was just made if `undo` is not NULL. If the kernel cannot be told of it, it
 * goes again: who was told of a failure would find it there at the next try. */
static int enter_new(struct fs *fs, const struct place *directory, const char *name, change *undo,
                     uint64_t *ret_node, struct stat *ret)
{
    struct place child;
    int r = find(fs, directory, name, NULL, &child);
    if (r == 0)
        r = enter(fs, &child, ret_node, ret);
    if (r == -ENOMEM && undo)
        undo(fs, directory, name, &(struct error){0});
    return r;
}

int fs_mkdir(struct fs *fs, uint64_t parent, const char *name, pid_t tid, uint64_t *ret_node,
             struct stat *ret)
{
    struct place directory;
    int r = place_take(fs, parent, &directory);
    if (r < 0)
        return r;
    r = apply(fs, directory.entry->directory->make,
              &(struct refusal){"mkdir", &directory, name, tid});
    if (r == 0)
        r = enter_new(fs, &directory, name, directory.entry->directory->remove, ret_node, ret);
    place_give(fs, &directory);
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
    r = find(fs, &directory, name, NULL, &child);
    if (r == 0 && flags & O_EXCL)
        r = -EEXIST;
    if (r == -ENOENT) {
        undo = directory.entry->directory->unlink;
        r = apply(fs, directory.entry->directory->create,
                  &(struct refusal){"create", &directory, name, tid});
    }
    if (r == 0)
        r = enter_new(fs, &directory, name, undo, ret_node, ret);
    place_give(fs, &directory);
    return r;
}

int fs_refuse(struct fs *fs, const char *operation, uint64_t parent, const char *name, pid_t tid)
{
    struct place directory;
    int r = place_take(fs, parent, &directory);
    if (r < 0)
        return r;
    r = apply(fs, NULL, &(struct refusal){operation, &directory, name, tid});
    place_give(fs, &directory);
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
    r = apply(fs, directory ? table->remove : table->unlink,
              &(struct refusal){directory ? "rmdir" : "unlink", &place, name, tid});
    place_give(fs, &place);
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
        r = directory.entry->directory->rename(fs, &directory, name, &node->place, new_name, flags,
                                               &err);
    err.code = -r;
    if (r < 0)
        refusal_tell(fs, &(struct refusal){"rename", &directory, name, tid}, &err);
    place_give(fs, &directory);
    return r;
}

int listing_add(struct handle *handle, const char *name, const struct object *object,
                const struct entry *entry, const struct marker *marker)
{
    enum { BLOCK = 32 };
    if (handle->name_count % BLOCK == 0) {
        struct fs_name *longer =
            realloc(handle->names, (handle->name_count + BLOCK) * sizeof *longer);
        if (!longer)
            return -ENOMEM;
        handle->names = longer;
    }
    struct fs_name *place = &handle->names[handle->name_count++];
    *place = (struct fs_name){.ino = ino_of(object, entry, marker), .mode = entry->mode};
    strncpy(place->name, name, sizeof place->name - 1);
    return 0;
}

static int list(struct fs *fs, const struct place *place, struct waiter *waiter,
                struct handle *handle)
{
    const struct directory *directory = place->entry->directory;
    if (!directory)
        return -ENOTDIR;
    int r = listing_add(handle, ".", place->object, place->entry, place->marker);
    if (r == 0)
        r = listing_add(handle, "..", place->object, place->entry, place->marker);
    for (size_t i = 0; i < directory->count && r == 0; i++) {
        const struct entry *entry = &directory->entries[i];
        if (!entry->present || entry->present(place))
            r = listing_add(handle, entry->name, place->object, entry, NULL);
    }
    return r == 0 && directory->list ? directory->list(fs, place, waiter, handle) : r;
}

int fs_opendir(struct fs *fs, uint64_t node, struct waiter *waiter, struct handle **ret)
{
    struct place place;
    struct handle *handle = calloc(1, sizeof *handle);
    if (!handle)
        return -ENOMEM;
    int r = directory_take(fs, node, &place);
    if (r < 0) {
        free(handle);
        return r;
    }
    handle->log_fd = -1;
    r = list(fs, &place, waiter, handle);
    if (r == 0) {
        handle_register(fs, handle, &place);
        *ret = handle;
    } else {
        free(handle->names);
        free(handle);
    }
    place_give(fs, &place);
    return r;
}

const struct fs_name *fs_readdir(const struct handle *handle, size_t position)
{
    return position < handle->name_count ? &handle->names[position] : NULL;
}
