/* SPDX-License-Identifier: MIT */
#include "store/notes.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utlist.h>

#include "util/cleanup.h"
#include "util/text.h"
#include "util/thread.h"

struct note {
    struct note *next;
    enum store_kind kind;
    const char *operation; /* what was not possible */
    char *name;            /* owned */
    char time[STORE_TIME_SIZE];
    struct error why;
};

struct store_notes {
    pthread_mutex_t lock;
    struct note *list; /* in the order in which they came */
    atomic_uint changes;
};

int store_notes_create(struct store_notes **ret, struct error *err)
{
    struct store_notes *notes = calloc(1, sizeof *notes);
    if (!notes)
        return error_set(err, ENOMEM, "out of memory");
    pthread_mutex_init(&notes->lock, NULL);
    *ret = notes;
    return 0;
}

/* With the lock held. */
static void drop(struct store_notes *notes, struct note *note)
{
    LL_DELETE(notes->list, note);
    free(note->name);
    free(note);
    atomic_fetch_add(&notes->changes, 1);
}

void store_notes_destroy(struct store_notes *notes)
{
    struct note *note, *next;
    if (!notes)
        return;
    LL_FOREACH_SAFE (notes->list, note, next)
        drop(notes, note);
    pthread_mutex_destroy(&notes->lock);
    free(notes);
}

/* With the lock held. */
static struct note *find(struct store_notes *notes, enum store_kind kind, const char *name)
{
    struct note *note;
    LL_FOREACH (notes->list, note)
        if (note->kind == kind && strcmp(note->name, name) == 0)
            break;
    return note;
}

static struct note *create(enum store_kind kind, const char *name, const char *operation,
                           const struct error *why)
{
    struct note *note = calloc(1, sizeof *note);
    if (!note)
        return NULL;
    *note = (struct note){.kind = kind, .operation = operation, .name = strdup(name), .why = *why};
    store_time_now(note->time);
    if (!note->name)
        free(steal_pointer(note));
    return note;
}

/* Without memory it is in the log alone, and told there as often as it is found. */
static bool add(struct store_notes *notes, enum store_kind kind, const char *name,
                const char *operation, const struct error *why)
{
    if (!notes)
        return true;
    auto_lock(&notes->lock);
    struct note *before = find(notes, kind, name), *note = NULL;
    bool other = !before || strcmp(before->why.text, why->text) != 0;
    if (other && (note = create(kind, name, operation, why))) {
        LL_APPEND(notes->list, note);
        atomic_fetch_add(&notes->changes, 1);
        if (before)
            drop(notes, before);
    }
    return other;
}

bool store_notes_unread(struct store_notes *notes, enum store_kind kind, const char *name,
                        struct error *why)
{
    error_append(why, "; it is not shown: repair it, or move it out of %s/ in the store%s",
                 store_kind_names[kind], kind == STORE_INSTANCES ? ", and mount again" : "");
    return add(notes, kind, name, "load", why);
}

void store_notes_lacking(struct store_notes *notes, enum store_kind kind, const char *name,
                         const struct error *why)
{
    add(notes, kind, name, "load", why);
}

bool store_notes_unlisted(struct store_notes *notes, enum store_kind kind, const struct error *why)
{
    return add(notes, kind, "", "list", why);
}

void store_notes_left(struct store_notes *notes, enum store_kind kind, const char *name,
                      struct error *why)
{
    error_append(why, "; it takes room until a start of the daemon can remove it");
    add(notes, kind, name, "remove", why);
}

void store_notes_remove(struct store_notes *notes, enum store_kind kind, const char *name)
{
    if (!notes)
        return;
    auto_lock(&notes->lock);
    struct note *note = find(notes, kind, name);
    if (note)
        drop(notes, note);
}

/* The entry that it is about, or of whose file. */
static bool is_gone(const struct store *store, const struct note *note)
{
    char entry[NAME_MAX + 1];
    struct stat st;
    snprintf(entry, sizeof entry, "%.*s", (int)strcspn(note->name, "/"), note->name);
    return entry[0] && fstatat(store->kind_fd[note->kind], entry, &st, AT_SYMLINK_NOFOLLOW) < 0 &&
           errno == ENOENT;
}

void store_notes_tidy(const struct store *store, enum store_kind kind)
{
    struct store_notes *notes = store->notes;
    struct note *note, *next;
    if (!notes)
        return;
    auto_lock(&notes->lock);
    LL_FOREACH_SAFE (notes->list, note, next)
        if (note->kind == kind && is_gone(store, note))
            drop(notes, note);
}

unsigned store_notes_changes(struct store_notes *notes)
{
    return notes ? atomic_load(&notes->changes) : 0;
}

void store_notes_print(struct store_notes *notes, FILE *out)
{
    const struct note *note;
    if (!notes)
        return;
    auto_lock(&notes->lock);
    LL_FOREACH (notes->list, note) {
        auto_free char *name = text_escaped(note->name, strlen(note->name), "");
        fprintf(out, "%s %d %s %s/%s: %s: %s\n", note->time, (int)getpid(), note->operation,
                store_kind_names[note->kind], name ? name : "", error_name(note->why.code),
                note->why.text);
    }
}

void store_notes_each(struct store_notes *notes, void (*tell)(void *context, const char *text),
                      void *context)
{
    const struct note *note;
    struct error text;
    if (!notes)
        return;
    auto_lock(&notes->lock);
    LL_FOREACH (notes->list, note) {
        error_set(&text, 0, "%s/%s: %s", store_kind_names[note->kind], note->name, note->why.text);
        tell(context, text.text);
    }
}
