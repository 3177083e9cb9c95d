/* SPDX-License-Identifier: MIT */
/*
 * refusals: the reasons for which mkdir, rmdir, rm, mv, ln, mknod, the creation of a file or a
 * command was refused. Each is a line of `error` in the root, and if the directory that it was in
 * has an `error` of its own, it is told there too. Before them stands what of the store is not
 * shown.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/internal.h"
#include "store/notes.h"
#include "util/cleanup.h"
#include "util/text.h"

/* The directory's path from the root, with a slash behind it; "" for the root. */
static void path_of(const struct place *place, char *ret, size_t room)
{
    const struct object *object = place->object;
    const char *entry = place->entry->name;
    const struct draft *draft = NULL;
    if (object->kind == OBJECT_DRAFT) {
        draft = (const struct draft *)object;
        object = draft->forks->owner;
    }
    size_t used = 0;
    ret[0] = '\0';
    if (object->kind == OBJECT_SNAPSHOT)
        used = (size_t)snprintf(ret, room, "snapshots/%s/",
                                ((const struct source *)object)->snapshot->id);
    else if (object->kind == OBJECT_INSTANCE)
        used = (size_t)snprintf(ret, room, "instances/%s/",
                                ((const struct unit *)object)->instance->id);
    if (draft)
        used += (size_t)snprintf(ret + used, room - used, "forks/%s/", draft->id);
    if (entry)
        snprintf(ret + used, room - used, "%s/", entry);
}

/* Where nothing more is known. */
static const char *reason_of(const char *operation, int code)
{
    static const struct {
        const char *operation, *reason;
    } impossible[] = {
        {"mkdir", "directories are made in instances/ and in forks/ only"},
        {"rmdir", "only instances, snapshots and drafts can be removed, and forks/new cannot"},
        {"unlink", "this file goes with its directory: remove that with rmdir, not with rm -r"},
        {"create", "files are made in a draft's mailboxes/ only, and a draft's network"},
        {"rename", "only files in a draft's mailboxes/ can be renamed"},
        {"mknod", "named pipes, sockets and devices cannot be made here; files by opening them"},
        {"symlink", "symbolic links cannot be made here: name what they would point to"},
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
    if (!name || asprintf(&line, "%s %d %s %s%s: %s: %s\n", now, (int)process_of(refusal->tid),
                          refusal->operation, path, name, error_name(err->code), err->text) < 0)
        return; /* without memory it stays unsaid */
    char **place = &refusals->lines[refusals->count++ % FS_REFUSALS_MAX];
    free(*place);
    *place = line;
}

int refusal_tell(struct fs *fs, const struct refusal *refusal, struct error *err)
{
    char path[2 * STORE_ID_MAX + 64];
    const struct object *object = refusal->directory->object;
    if (!err->text[0])
        error_set(err, err->code, "%s", reason_of(refusal->operation, err->code));
    path_of(refusal->directory, path, sizeof path);
    add_line(&fs->refusals, refusal, path, err);
    fs_changed(fs, &fs->root);
    if (err->code == EPERM) /* of a name at which nothing is possible: it is not about the object */
        return -err->code;
    if (object->kind == OBJECT_DRAFT)
        draft_note(fs, (struct draft *)refusal->directory->object, err);
    else if (object->kind == OBJECT_INSTANCE)
        unit_note(fs, (struct unit *)refusal->directory->object, err->text);
    return -err->code;
}

char *refusals_text(struct fs *fs, const struct place *place, size_t *ret_size)
{
    const struct refusals *refusals = &fs->refusals;
    size_t from = refusals->count > FS_REFUSALS_MAX ? refusals->count - FS_REFUSALS_MAX : 0;
    char *text = NULL;
    FILE *out = open_memstream(&text, ret_size);
    (void)place;
    if (out)
        store_notes_print(fs->setup.snapshots->store->notes, out);
    for (size_t i = from; i < refusals->count && out; i++)
        fputs(refusals->lines[i % FS_REFUSALS_MAX], out);
    return out ? text_finish(out, &text) : NULL;
}

void refusals_finish(struct refusals *refusals)
{
    for (size_t i = 0; i < FS_REFUSALS_MAX; i++)
        free(refusals->lines[i]);
}
