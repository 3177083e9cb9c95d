/* SPDX-License-Identifier: MIT */
#include "fs/refusals.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/forkable.h"
#include "fs/state.h"
#include "store/notes.h"
#include "util/cleanup.h"
#include "util/text.h"

/* The directory's path from the root, with a slash behind it; "" for the root. */
static void path_of(const struct place *place, char *ret, size_t room)
{
    const struct object *object = place->object;
    const char *entry = place->entry->name;
    const struct draft *draft = NULL;
    char name[INSTANCE_SOURCE_PATH_SIZE] = "";
    if (object->kind == OBJECT_DRAFT) {
        draft = (const struct draft *)object;
        object = draft->drafts->owner;
    }
    if (object->kind == OBJECT_SNAPSHOT || object->kind == OBJECT_INSTANCE)
        forkable_path((const struct forkable *)object, name);
    snprintf(ret, room, "%s%s%s%s%s%s%s", name, name[0] ? "/" : "", draft ? "forks/" : "",
             draft ? draft->id : "", draft ? "/" : "", entry ? entry : "", entry ? "/" : "");
}

/* Where nothing more is known. */
static const char *reason_of(const char *operation, int code)
{
    static const struct {
        const char *operation, *reason;
    } impossible[] = {
        {"mkdir", "directories can only be made in instances/ and in forks/"},
        {"rmdir", "only instances, snapshots and drafts can be removed, except forks/new"},
        {"unlink",
         "this file cannot be removed alone: remove its directory with rmdir, not with rm -r"},
        {"create", "files can only be made in a draft's mailboxes/, and as a draft's network"},
        {"rename", "only files in a draft's mailboxes/ can be renamed"},
        {"mknod",
         "named pipes, sockets and devices cannot be made here; a file is made by opening it"},
        {"symlink",
         "symbolic links cannot be made here: use the path that the link would point to"},
        {"link", "hard links cannot be made here: copy with cp"},
    };
    for (size_t i = 0; i < array_length(impossible) && code == EPERM; i++)
        if (strcmp(operation, impossible[i].operation) == 0)
            return impossible[i].reason;
    return strerrordesc_np(code);
}

static void add_line(struct refusals *refusals, const struct refusal *refusal, const char *path,
                     const struct error *err)
{
    char now[STORE_TIME_SIZE], *line = NULL;
    auto_free char *name = text_escaped(refusal->name, strlen(refusal->name), "");
    store_time_now(now);
    if (!name || asprintf(&line, "%s %d %s %s%s: %s: %s\n", now, (int)waiter_process(refusal->tid),
                          refusal->operation, path, name, error_name(err->code), err->text) < 0)
        return; /* without memory it stays unsaid */
    char **place = &refusals->lines[refusals->count++ % REFUSALS_MAX];
    free(*place);
    *place = line;
}

/* In its own `error`, if it has one. */
static void note(struct object *object, const struct error *err)
{
    if (object->kind == OBJECT_DRAFT)
        draft_note((struct draft *)object, err);
    else if (object->kind == OBJECT_INSTANCE)
        forkable_note((struct forkable *)object, err->text);
}

int refuse(const struct refusal *refusal, struct error *err)
{
    char path[2 * STORE_ID_MAX + 64];
    struct object *object = refusal->directory->object;
    struct fs *fs = fs_of(refusal->directory);
    if (!err->text[0])
        error_set(err, err->code, "%s", reason_of(refusal->operation, err->code));
    path_of(refusal->directory, path, sizeof path);
    add_line(&fs->refusals, refusal, path, err);
    object_touched(&fs->root);
    note(object, err);
    if (refusal->target && refusal->target->object != object)
        note(refusal->target->object, err);
    return -err->code;
}

char *refusals_text(const struct place *place)
{
    const struct fs *fs = fs_of(place);
    const struct refusals *refusals = &fs->refusals;
    size_t from = refusals->count > REFUSALS_MAX ? refusals->count - REFUSALS_MAX : 0;
    size_t size;
    char *text = NULL;
    FILE *out = open_memstream(&text, &size);
    if (out)
        store_notes_print(fs->setup.snapshots->store->notes, out);
    for (size_t i = from; i < refusals->count && out; i++)
        fputs(refusals->lines[i % REFUSALS_MAX], out);
    return out ? text_finish(out, &text) : NULL;
}

void refusals_finish(struct refusals *refusals)
{
    for (size_t i = 0; i < REFUSALS_MAX; i++)
        free(refusals->lines[i]);
}
