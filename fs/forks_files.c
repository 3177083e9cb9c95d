/* SPDX-License-Identifier: MIT */
/* forks_files: forks/ of a snapshot or instance: its drafts, and the records of its forks. */
#include <errno.h>
#include <string.h>

#include "fs/internal.h"

static struct forks *forks_of(const struct place *place)
{
    return place->object->kind == OBJECT_SNAPSHOT ? &((struct source *)place->object)->forks
                                                  : &((struct unit *)place->object)->forks;
}

static int forks_find(struct fs *fs, const struct place *directory, const char *name,
                      struct waiter *waiter, struct place *ret)
{
    struct draft *draft = draft_find(forks_of(directory), name);
    (void)fs;
    (void)waiter;
    if (!draft)
        return -ENOENT;
    *ret = (struct place){.object = &draft->object, .entry = &draft_entry};
    return 0;
}

static int forks_list(struct fs *fs, const struct place *directory, struct waiter *waiter,
                      struct handle *handle)
{
    const struct draft *draft;
    int r = 0;
    (void)fs;
    (void)waiter;
    for (draft = forks_of(directory)->drafts; draft; draft = draft->hh.next)
        if (r == 0)
            r = listing_add(handle, draft->id, &draft->object, &draft_entry, NULL);
    return r;
}

bool forks_busy(const struct forks *forks)
{
    const struct draft *draft;
    for (draft = forks->drafts; draft; draft = draft->hh.next)
        if (draft->job)
            return true;
    return false;
}

/* A commit of `new` takes the name that its record will have. */
static bool fork_name_taken(const struct forks *forks, const char *name)
{
    const struct draft *always = forks->drafts;
    return draft_find(forks, name) || (always->job && strcmp(always->instance, name) == 0);
}

static int forks_make(struct fs *fs, const struct place *directory, const char *name,
                      struct error *err)
{
    int r = store_check_id(name, err);
    if (r < 0)
        return r;
    if (fork_name_taken(forks_of(directory), name))
        return error_set(err, EEXIST, "forks/%s is there already", name);
    fs_changed(fs, directory->object);
    return draft_create(fs, forks_of(directory), name) ? 0
                                                       : error_set(err, ENOMEM, "out of memory");
}

static int forks_remove(struct fs *fs, const struct place *directory, const char *name,
                        struct error *err)
{
    struct draft *draft = draft_find(forks_of(directory), name);
    if (!draft)
        return error_set(err, ENOENT, "there is no forks/%s", name);
    if (draft == forks_of(directory)->drafts)
        return error_set(err, EPERM, "forks/new is always there");
    if (draft->job)
        error_set(err, EBUSY, "forks/%s commits: wait for that", name);
    else if (draft->record)
        error_set(err, EBUSY,
                  "forks/%s is the record of a fork, and goes with that: rmdir instances/%s", name,
                  draft->instance);
    if (draft->job || draft->record)
        return draft_note(fs, draft, err);
    draft_remove(fs, draft);
    fs_changed(fs, directory->object);
    return 0;
}

const struct directory forks_directory = {
    .find = forks_find, .list = forks_list, .make = forks_make, .remove = forks_remove};
