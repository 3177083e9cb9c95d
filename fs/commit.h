/* SPDX-License-Identifier: MIT */
/*
 * commit: a write to a draft's `commit`: reads what is staged into a request, runs the fork in a
 * job (fork/engine.h), and makes the draft the record of it, or says why it failed. Not: what is
 * staged (draft.h), nor how a fork is made.
 *
 * Lock: commit_command() is called with objects.lock held; the engine runs without it.
 */
#ifndef HYPEFS_FS_COMMIT_H
#define HYPEFS_FS_COMMIT_H

#include "fs/entry.h"

/* What a commit says of a file that is refused: directory, name, reason. */
#define COMMIT_REFUSED "%s%s was refused (%s)"

int commit_command(const struct place *place, const char *text, pid_t tid, struct job **ret);

#endif
