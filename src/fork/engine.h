/* SPDX-License-Identifier: MIT */
/*
 * engine: runs a fork, all or nothing.
 *
 *     validate → locate → queued → load → patch → resume → network → ack
 *
 * How many load at the same time is limited (instance/turns.h): a fork waits for its turn, and has
 * it until its guest has acked, for a while after its resume at the most.
 *
 * One that may wait for an ack for longer than 30 s is seen from its resume on, in the state
 * waiting; a write of stopped to that ends the wait with ECANCELED.
 *
 * A failure in any step takes back all that was made: process, files, socket, the id. One
 * exception: with on_ack_failure "keep" a failed ack leaves the instance, with a record that says
 * so. The snapshot's bytes never change. Blocks; call it from a worker, as many at a time as you
 * like. Knows backends only through hypervisor.h and files only through the store.
 */
#ifndef HYPEFS_FORK_ENGINE_H
#define HYPEFS_FORK_ENGINE_H

#include "fork/memory_watch.h"
#include "fork/request.h"
#include "fork/warm.h"
#include "instance/instance.h"

enum fork_step {
    FORK_VALIDATE,
    FORK_LOCATE,
    FORK_QUEUED, /* until it may load */
    FORK_LOAD,
    FORK_PATCH,
    FORK_RESUME,
    FORK_NETWORK,
    FORK_ACK,
    FORK_PUBLISH, /* in the store */
    FORK_STEPS
};
extern const char *const fork_step_names[FORK_STEPS]; /* as `result` has them: "validate" */

/* What the forks of one write have in common: the copy of an instance's memory, of which all of
 * them are made, and that its mailboxes are where they are to be. */
struct fork_plan;
/* NULL without memory. */
struct fork_plan *fork_plan_create(void);
void fork_plan_destroy(struct fork_plan *plan); /* none of its forks is under way */

struct fork_engine {
    struct instances *instances;
    const char *ack_address;     /* the mount's; a fork's options may name another */
    struct ack_ports *ack_ports; /* NULL: none is remembered */
    struct memory_watch *watch;
    struct warm_pool *warm; /* NULL: each VM is loaded */
    uid_t user;             /* who asks for it, for whose turn it is */
    int cancel_fd;          /* readable: the daemon stops, forks under way fail with ESHUTDOWN */
    /* Becomes true, with a turns_wake(): nobody waits for it any more, and it fails with ECANCELED
     * if it is queued; or, if cancel_fd is readable, too, whatever it waits for. NULL: it never
     * does. */
    const atomic_bool *abandoned;
    /* All its forks have the same source, and their requests differ in the id alone. Each begins
     * when the one before has come to FORK_QUEUED or FORK_LOAD, or has ended. NULL: it is for
     * itself. */
    struct fork_plan *plan;
    /* Called at the beginning of each step, without any lock; of FORK_QUEUED only if it has to
     * wait. `waiting`: everybody sees the instance already (instance_show_fork). NULL: nobody is
     * told. */
    void (*on_step)(void *listener, enum fork_step step, bool waiting);
    /* The instance was shown, and is there no more. Called without any lock, before who has ended
     * it by a write of `stopped` is answered. NULL: nobody is told. */
    void (*on_withdrawn)(void *listener, uint64_t serial);
    void *listener;
};

/* What is forked: one of the two, borrowed. */
struct fork_source {
    struct snapshot *snapshot;
    struct instance *instance; /* in standby, or with the option from_running */
};

/* The same, as the fork's record has it. */
struct instance_source fork_source_id(const struct fork_source *source);

struct fork_outcome {
    cJSON *result;   /* the tree's `result`; owned; also on failure */
    uint64_t serial; /* the instance's, which may have been seen; 0: none */
    bool published;  /* there is an instance: on success, and when kept after a failed ack */
};

/*
 * Wipes the request's payloads and finishes it; its id stays. Returns 0 or
 * -errno (the table in docs/filesystem.md); *ret is set either way.
 */
int fork_run(const struct fork_engine *engine, const struct fork_source *source,
             struct fork_request *request, struct fork_outcome *ret, struct error *err);

/* The same `result` as it is in the record of a fork, which the store has, with the replies that
 * were kept in that. Owned; NULL: there is none, or no memory. */
cJSON *fork_recorded_result(const cJSON *record);

#endif
