/* SPDX-License-Identifier: MIT */
/* notes: entries of a store that cannot be read, and leftovers that cannot be removed, and why:
 * lines of the root's `error` for as long as it is so. The lock may be taken with any other held;
 * only tell() is called with it. Every function takes NULL notes, of a store that is attached. */
#ifndef HYPEFS_STORE_NOTES_H
#define HYPEFS_STORE_NOTES_H

#include <stdbool.h>
#include <stdio.h>

#include "store/store.h"

struct store_notes;

int store_notes_create(struct store_notes **ret, struct error *err);
void store_notes_destroy(struct store_notes *notes);

/* An entry that cannot be shown. Adds the remedy to `why`. True: that is not known yet. */
bool store_notes_unread(struct store_notes *notes, enum store_kind kind, const char *name,
                        struct error *why);
/* A file of an entry that is shown without it, for as long as the entry is there. `name` is
 * ENTRY/FILE. */
void store_notes_lacking(struct store_notes *notes, enum store_kind kind, const char *name,
                         const struct error *why);
/* What lies there cannot be listed. Its name is "". True as before. */
bool store_notes_unlisted(struct store_notes *notes, enum store_kind kind, const struct error *why);
/* A leftover that cannot be removed. */
void store_notes_left(struct store_notes *notes, enum store_kind kind, const char *name,
                      struct error *why);
/* The entry of that name is shown, or its directory listed. */
void store_notes_remove(struct store_notes *notes, enum store_kind kind, const char *name);
/* Forgets those of that kind whose entry is gone. */
void store_notes_tidy(const struct store *store, enum store_kind kind);

/* How often they have changed so far. */
unsigned store_notes_changes(struct store_notes *notes);
/* Lines "TIME PID OPERATION PATH: ERRNO: REASON". */
void store_notes_print(struct store_notes *notes, FILE *out);
/* Each as a sentence that names it. */
void store_notes_each(struct store_notes *notes, void (*tell)(void *context, const char *text),
                      void *context);

#endif
