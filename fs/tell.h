/* SPDX-License-Identifier: MIT */
/*
 * tell: what the lines of `events` say of instances, snapshots and commits. Never a payload or a
 * token. Any locks may be held.
 */
#ifndef HYPEFS_FS_TELL_H
#define HYPEFS_FS_TELL_H

#include "fs/events.h"
#include "instance/instance.h"

/* For instances_setup and struct snapshots: the listener is a struct events. */
void tell_instance(void *listener, const struct instance *instance, enum instance_happening what,
                   enum instance_state from);
void tell_snapshot(void *listener, const char *id, bool removed);

/* A commit, as far as it can be told of. */
struct tell_commit {
    struct events *events;
    char source[STORE_ID_MAX + 16]; /* "snapshots/base" */
    const char *instance;           /* "" when no id was chosen */
};
void tell_commit_begun(const struct tell_commit *commit);
void tell_commit_step(const struct tell_commit *commit, const char *phase);
void tell_commit_ended(const struct tell_commit *commit, const cJSON *result);

/* A write to an instance's `state` or `snapshot` has failed: which of the two, and what was
 * written. */
void tell_failed(struct events *events, const char *file, const struct instance *instance,
                 const char *written, const struct error *err);

#endif
