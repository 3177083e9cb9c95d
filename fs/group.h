/* SPDX-License-Identifier: MIT */
/*
 * group: several forks that one write asks for: of what is staged in `new`, one for each id; or of
 * drafts, those of their own. They begin in the order of the ids, each when the one before waits
 * for its turn to load or has it, so as many load at the same time as the mount allows. The write
 * is answered when all have ended, with what the first of them that failed got. When nobody waits
 * for it any more, no other is begun, and those under way are undone. Not: how one of them is made,
 * nor what becomes of its draft (commit.h).
 *
 * Lock: objects.lock is held in all functions here.
 */
#ifndef HYPEFS_FS_GROUP_H
#define HYPEFS_FS_GROUP_H

#include "fs/draft.h"
#include "fs/entry.h"

enum {
    GROUP_MAX = DRAFTS_MAX,      /* ids in one write */
    GROUP_TEXT_MAX = 256 * 1024, /* bytes of them */
};

/* A write to a draft's `commit`: one id, or in `new` several. */
int group_commit_draft(const struct place *place, const char *text, const struct waiter *by,
                       struct job **ret);
/* A write to forks/commit: ids of drafts. */
int group_commit_drafts(const struct place *place, const char *text, const struct waiter *by,
                        struct job **ret);

/* Is the id one of those that are being made of `new`? */
bool group_makes(const struct draft *draft, const char *id);

#endif
