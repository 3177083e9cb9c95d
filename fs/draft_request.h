/* SPDX-License-Identifier: MIT */
/*
 * draft_request: what is staged in a draft, as the request that the engine takes. Not: which id the
 * fork gets (commit.h, group.h).
 *
 * Lock: called with objects.lock held.
 */
#ifndef HYPEFS_FS_DRAFT_REQUEST_H
#define HYPEFS_FS_DRAFT_REQUEST_H

#include "fork/request.h"
#include "fs/draft.h"

/* What a commit says of a file that is refused: directory, name, reason. */
#define DRAFT_REFUSED "%s%s was refused (%s)"

/* Into `request`, which is zeroed. What is wrong with what is staged goes into its `refused`. */
void draft_request(const struct draft *draft, const struct fork_rules *rules,
                   struct fork_request *request);

#endif
