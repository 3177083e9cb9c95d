/* SPDX-License-Identifier: MIT */
/*
 * commit: one fork of what is staged in a draft. A write to the draft's `commit` reads what is
 * staged into a request, runs the fork in a job (fork/engine.h), and makes the draft the record of
 * it, or says why it failed. Not: what is staged (draft.h), nor how a fork is made, nor several of
 * them by one write (group.h).
 *
 * Lock: objects.lock is held in all functions here, and guards all that is not constant; the engine
 * runs without it.
 */
#ifndef HYPEFS_FS_COMMIT_H
#define HYPEFS_FS_COMMIT_H

#include <stdatomic.h>

#include "fork/engine.h"
#include "fs/event.h"
#include "fs/job.h"

/* Commits that one write asks for: what they share, and what they tell who began them. */
struct commit;

struct commit_group {
    struct fork_plan *plan; /* of `new`, for all its forks; else NULL */
    int cancel_fd;          /* readable: the daemon stops, or `abandoned` */
    atomic_bool abandoned;
    pthread_cond_t changed; /* one of the next three */
    struct commit *newest;  /* that began last, until it waits for its turn, loads, or has ended */
    size_t under_way, queued; /* and how many of these wait for their turn */
};

struct commit {
    struct job job;               /* its place is the draft's */
    char id[STORE_ID_MAX + 1];    /* of the fork; "" when none was chosen */
    struct event_commit event;    /* what its lines in `events` say; constant */
    struct commit_group *group;   /* until it has ended; NULL: it is for itself */
    struct fork_request *request; /* owned; from its beginning to its end */
    struct fork_outcome outcome;
    atomic_bool abandoned;
    bool queued;
    bool of_list; /* it stands for a list that was refused */
};

/* Of that draft; several of `new` may be under way at the same time if they are a group's. NULL
 * without memory. */
struct commit *commit_create(const struct place *draft, struct commit_group *group, uid_t user);
/* Runs the fork that `request` asks for. As job_start(). */
int commit_start(struct commit *commit, struct error *err);
/* It ends without having begun; `mailbox` is at fault, or "". */
void commit_refuse(struct commit *commit, const struct error *why, const char *mailbox);

int commit_command(const struct place *place, const char *text, const struct waiter *by,
                   struct job **ret);
/* Of `new`, which does not commit: what was written there is no list of ids. */
int commit_refuse_list(const struct place *place, const struct error *why, const struct waiter *by,
                       struct job **ret);

#endif
