/* SPDX-License-Identifier: MIT */
/*
 * draft: what a fork is staged in, and what is left of it afterwards. A draft lives in memory; a
 * committed one is the record of its fork, which lies in the store with the instance. Not: what can
 * be forked (forkable.h), nor the commit (commit.h).
 *
 * Lock: objects.lock guards all of it. A commit's thread reads what is constant without it.
 */
#ifndef HYPEFS_FS_DRAFT_H
#define HYPEFS_FS_DRAFT_H

#include "fs/document.h"
#include "fs/object.h"
#include "instance/instance.h"
#include "util/error.h"

enum {
    DRAFTS_MAX = 4096,             /* of one source, beside `new`; records do not count */
    DRAFT_FILES_MAX = 24,          /* files in its mailboxes/ */
    DRAFT_SCRATCH_MAX = 64 * 1024, /* bytes of an editor's scratch file */
};

struct job;

/* The directory forks/. */
struct drafts {
    struct object *owner; /* a struct forkable, of which this is a part */
    struct draft *by_id;  /* a table, in order of creation; the first is "new" */
};

struct staged { /* OBJECT_STAGED: a file in a draft's mailboxes/ */
    struct object object;
    struct draft *draft; /* NULL: unlinked */
    char name[256];
    bool scratch; /* an editor's, which is not delivered */
    struct document document;
    struct staged *next;
};

struct draft { /* OBJECT_DRAFT: a draft, or the record of a fork */
    struct object object;
    struct drafts *drafts;     /* counts a reference of their owner */
    char id[STORE_ID_MAX + 1]; /* "new" for the one that is always there */
    struct staged *files;
    struct document options;
    struct document network;
    bool has_network;     /* the file was created; in a record: a network was delivered */
    struct job *job;      /* the commit under way; not counted */
    bool queued, waiting; /* of that: it waits for its turn to load; for an ack, and its instance is
                             there to be seen */
    char *failure;        /* owned: why the last commit failed */
    char *note;           /* owned: why something else was refused; until the next change */
    char *result;         /* owned: the text of `result` */
    cJSON *record;        /* of a record: its result */
    char instance[STORE_ID_MAX + 1]; /* of a record, or of the commit under way */
    UT_hash_handle hh;               /* by id */
};

/* NULL without memory. */
struct draft *draft_create(struct drafts *drafts, const char *id);
struct draft *draft_find(const struct drafts *drafts, const char *id);
/* Takes it out of its list; what is open of it gives ENODEV. */
void draft_remove(struct draft *draft);
/* How many are not records; `new` is one of them. */
size_t drafts_count(const struct drafts *drafts);
/* Does one of them commit? */
bool drafts_busy(const struct drafts *drafts);
bool draft_is_new(const struct draft *draft);

/* Is it the name of a file that an editor has for itself? */
bool draft_scratch_name(const char *name);
struct staged *draft_file(struct draft *draft, const char *name);
/* NULL without memory. */
struct staged *draft_add_file(struct draft *draft, const char *name);
void draft_remove_file(struct staged *file);
void draft_remove_network(struct draft *draft);
/* Of `new`, after every commit, also one that failed: what stayed would go to the next fork, whose
 * id is another. Its `error` and `result` stay. */
void draft_empty(struct draft *draft);

/* Something was staged anew: the last commit's failure is history. */
void draft_touched(struct draft *draft);
/* Something else than a commit was refused, and only the errno gets to the user: `error` says why.
 * Returns -err->code. */
int draft_note(struct draft *draft, const struct error *err);
/* Why the last commit failed; NULL: it did not. */
void draft_set_failure(struct draft *draft, const char *text);
const char *draft_status(const struct draft *draft);
/* Has a commit of `new` emptied it, and nothing been staged since? */
bool draft_is_emptied(const struct draft *draft);
/* May something be staged? EBUSY while it commits, EPERM as a record. */
int draft_check_writable(const struct draft *draft, struct error *err);

/* Takes the text of `result`, owned or NULL, and wipes what was there: guests' replies are in it.
 */
void draft_set_result(struct draft *draft, char *text);

/* Gives the draft a fork's result: from now on it is a record. Takes `result`. False: something of
 * it found no memory. */
bool draft_become_record(struct draft *draft, const char *instance, cJSON *result);
/* The record of a fork that lies in the store, if it has one. ENOMEM: some of it may be there. */
int draft_load_record(struct drafts *drafts, struct instance *instance);
/* What the commit returned that made this record. */
int draft_recorded_outcome(const struct draft *draft);

#endif
