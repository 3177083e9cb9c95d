/* SPDX-License-Identifier: MIT */
/* forks_files: forks/ of a snapshot or instance: its drafts, and the records of its forks. */
#include <errno.h>
#include <string.h>

#include "fs/forkable.h"
#include "fs/handle.h"
#include "fs/tables.h"

static struct drafts *drafts_of(const struct place *place)
{
    return &forkable_at(place)->drafts;
}

static int forks_find(const struct place *directory, const char *name, struct waiter *waiter,
                      struct place *ret)
{
    struct draft *draft = draft_find(drafts_of(directory), name);
    (void)waiter;
    if (!draft)
        return -ENOENT;
    *ret = (struct place){.object = &draft->object, .entry = &draft_entry};
    return 0;
}

static int forks_list(const struct place *directory, struct waiter *waiter, struct handle *handle)
{
    const struct draft *draft;
    int r = 0;
    (void)waiter;
    for (draft = drafts_of(directory)->by_id; draft; draft = draft->hh.next)
        if (r == 0)
            r = handle_list(handle, draft->id, draft->object.kind, draft->object.serial,
                            &draft_entry, NULL);
    return r;
}

/* A commit of `new` takes the name that its record will have. */
static bool fork_name_taken(const struct drafts *drafts, const char *name)
{
    const struct draft *always = drafts->by_id;
    return draft_find(drafts, name) || (always->job && strcmp(always->instance, name) == 0);
}

static int forks_make(const struct place *directory, const char *name, struct error *err)
{
    int r = store_check_id(name, err);
    if (r < 0)
        return r;
    if (fork_name_taken(drafts_of(directory), name))
        return error_set(err, EEXIST, "forks/%s is there already", name);
    object_changed(directory->object);
    return draft_create(drafts_of(directory), name) ? 0 : error_set(err, ENOMEM, "out of memory");
}

static int forks_remove(const struct place *directory, const char *name, struct error *err)
{
    struct draft *draft = draft_find(drafts_of(directory), name);
    if (!draft)
        return error_set(err, ENOENT, "there is no forks/%s", name);
    if (draft == drafts_of(directory)->by_id)
        return error_set(err, EPERM, "forks/new is always there");
    if (draft->job)
        error_set(err, EBUSY, "forks/%s is committing: wait until that has ended", name);
    else if (draft->record)
        error_set(
            err, EBUSY,
            "forks/%s is the record of a fork, and is removed together with it: rmdir instances/%s",
            name, draft->instance);
    if (draft->job || draft->record)
        return draft_note(draft, err);
    draft_remove(draft);
    object_changed(directory->object);
    return 0;
}

const struct directory forks_directory = {
    .find = forks_find, .list = forks_list, .make = forks_make, .remove = forks_remove};
