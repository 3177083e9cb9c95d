/* SPDX-License-Identifier: MIT */
/*
 * event: what the lines of `events` say of instances, snapshots and commits. Never a payload or a
 * token. Any locks may be held.
 */
#ifndef HYPEFS_FS_EVENT_H
#define HYPEFS_FS_EVENT_H

#include "fs/event_ring.h"
#include "instance/instance.h"

/* For instances_setup and struct snapshots: the listener is a struct event_ring. */
void event_instance(void *listener, const struct instance *instance, enum instance_event what,
                    enum instance_state from);
void event_snapshot(void *listener, const char *id, bool removed);

/* A commit, as far as it can be told of. */
struct event_commit {
    struct event_ring *events;
    char source[INSTANCE_SOURCE_PATH_SIZE];
    const char *instance; /* "" when no id was chosen */
};
/* "commit-begun", "commit-step" with its step, or NULL: it has ended, with that result. */
void event_commit(const struct event_commit *commit, const char *event, const char *step,
                  const cJSON *result);

/* A write to an instance's `state` or `snapshot` has failed: which of the two, and what was
 * written. */
void event_command_failed(struct event_ring *events, const char *file,
                          const struct instance *instance, const char *written,
                          const struct error *err);

/* A payload was delivered to a VM that runs ("" is the network's), which stood still for so long;
 * or not, in that step, or not taken: why. */
void event_delivery(struct event_ring *events, const struct instance *instance, const char *mailbox,
                    const char *step, double frozen_ms, const struct error *err);

#endif
