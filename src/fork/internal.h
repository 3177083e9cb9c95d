/* SPDX-License-Identifier: MIT */
/* internal: a fork under way, shared by the files of fork/ and nobody else. */
#ifndef HYPEFS_FORK_INTERNAL_H
#define HYPEFS_FORK_INTERNAL_H

#include "fork/engine.h"
#include "fork/memory_watch.h"
#include "util/process.h"

enum { FORK_DELIVERIES_MAX = DELIVER_MAILBOXES_MAX + 1 };

/* A copy of a frame that was found after the resume. */
struct found_frame {
    struct candidate candidate;
    struct found_frame *next;
};

/* What tells clones apart, if options.identity says so. */
struct fork_identity {
    char generation[FORK_GENERATION_SIZE + 1];
    char seed[FORK_SEED_SIZE + 1]; /* a secret */
};

/* No two use it at the same time, as their beginnings follow each other (engine.h). */
struct fork_plan {
    struct store_entry copy; /* of an instance's memory, of which `snapshot` is then; fd -1: none */
    struct snapshot *snapshot; /* a reference; NULL: none yet */
    struct error why;          /* the copy could not be made */
    bool checked;              /* the image has each marker where it was found */
};

struct fork {
    const struct fork_engine *engine;
    struct fork_request *request;
    const struct fork_source *source;
    struct instance_source source_id;
    char source_name[STORE_ID_MAX + 16]; /* "the snapshot base", for texts */

    struct snapshot *snapshot; /* whose files the fork is made of; a reference */
    bool using_snapshot;       /* snapshot_use() is to be undone */
    struct store_entry copy;   /* of an instance's memory, of which `snapshot` is then */
    cJSON *description; /* what snapshot.json would say of an instance; NULL: of a snapshot */
    struct instance *instance;
    struct machine machine;
    struct image_index *index;
    struct store_entry entry;
    struct vmm *vmm;
    bool warm;          /* which was loaded before the commit */
    bool starting;      /* warm_end() is to be called */
    bool has_turn;      /* turns_release() is to be called */
    double turn_due_ms; /* process_now_ms(): it is not needed from then on, at the least; 0: not
                           known */
    struct process_times at_resume; /* of the VMM */

    /* What is to be delivered: deliveries[i] of mailboxes[i], the network's first. */
    struct delivery deliveries[FORK_DELIVERIES_MAX];
    struct fork_mailbox *mailboxes[FORK_DELIVERIES_MAX];
    size_t count;

    struct ack_socket socket; /* for acks by datagram; fd -1: none is to come */
    double resuming_at_ms;    /* process_now_ms(): from then on its guest may ack, */
    double resumed_at_ms;     /* and from then on deadlines count */
    double checked_at_ms;   /* the same, before the last answers were taken in: who is late was not
                              heard of until then */
    double logs_due_ms;     /* the next look at how long its logs are */
    unsigned ignored;       /* datagrams */
    struct watched watched; /* the frames of those that are to ack by memory */
    struct found_frame *found; /* owned; which deliveries have as targets */
    double search_after_ms;    /* from the resume to the next search for frames that have moved; 0:
                                  there was none */
    struct fork_identity identity;

    bool interrupted;                       /* nobody waits for it any more, so it is undone */
    enum fork_step step;                    /* under way, or that has failed */
    double step_ms[FORK_PUBLISH], total_ms; /* of those before the publishing */
    const char *failed_mailbox;             /* whose fault the failure is, or NULL */
};

/* Where acks by datagram are received. */
static inline const char *fork_ack_address(const struct fork *fork)
{
    const char *own = fork->request->options.ack_address;
    return own ? own : fork->engine->ack_address;
}

static inline struct vmm_context fork_vmm_context(const struct fork *fork)
{
    return instances_context(fork->engine->instances, fork->request->id, fork->machine.hypervisor,
                             fork->entry.run_fd, fork->entry.fd, fork->engine->cancel_fd);
}

/* turn.c: its turn to load. In `queued`: waits for it, and tells who asks by `queued`; until the
 * resume no VM is loaded ahead, for this one comes first. ECANCELED. */
int turn_acquire(struct fork *fork, void (*queued)(void *fork), struct error *err);
void turn_end(struct fork *fork);
/* After the resume: ends it when its guest, which has not acked, has had a while to do it. Returns
 * that moment, if it is still to come and before the deadline, and else the deadline. */
double turn_limit(struct fork *fork, double deadline_ms);
/* Of its VM, which runs, since then. */
struct process_times turn_times(const struct fork *fork);

/* handoff.c. EINVAL: that ack comes by datagram, and none can come from the machine. Texts begin
 * with `what` and end with `or_else`. */
int handoff_check_ack(const struct machine *machine, const struct fork_mailbox *mailbox,
                      const char *what, const char *or_else, struct error *err);
/* Puts into the payload what a guest needs that acks by datagram: "ack_port" and, if so asked,
 * "ack_key". */
int handoff_append_ack(struct fork_mailbox *mailbox, uint16_t port, struct error *err);
/* In `validate`. EINVAL: an ack is wanted by datagram, and no datagram can come from the
 * machine. */
int handoff_check(struct fork *fork, struct error *err);
/* In `locate`: finds the places in the image for all payloads, which are complete then, with what
 * answers need. The socket for them may be open after a failure, too. */
int handoff_prepare(struct fork *fork, struct error *err);
/* In `network` and in `ack`: waits for those acks. EIO when the VM ended, ECANCELED. */
int handoff_await(struct fork *fork, struct error *err);

/* search.c: looks for frames that have moved, when that is due, and delivers to them again. Lowers
 * *deadline_ms to the next search. Fails only if the VM, which was paused for that, cannot go on.
 */
int search_moved(struct fork *fork, double *deadline_ms, struct error *err);
/* At a deadline: finds those that have taken their payload. */
void search_last(struct fork *fork);
void search_finish(struct fork *fork);

/* missing_ack.c: what is known of an ack that did not come, and what can be done; `deadline_ms` is
 * how long it was waited for, `what` for what: "mailbox m". */
void missing_ack_text(struct fork *fork, struct fork_mailbox *mailbox, int deadline_ms,
                      const char *what, struct error *ret);

/* identity.c, with the option `identity`: does each payload take it; makes it and appends it; as
 * late as possible, the time in what was appended. */
int identity_check(struct fork *fork, struct error *err);
void identity_make(struct fork_identity *identity);
int identity_append(const struct fork *fork, struct fork_mailbox *mailbox, struct error *err);
void identity_set_time(struct fork *fork);

/* request.c: one of the two texts, of which either may be NULL. */
int fork_read_token(enum frame_kind kind, const char *token, const char *hex,
                    struct fork_mailbox *mailbox, struct error *err);

/* record.c. `err` NULL: it succeeded. Returns owned. */
cJSON *fork_result(const struct fork *fork, const struct error *err);
cJSON *fork_record(const struct fork *fork, const cJSON *result);
/* Of one mailbox, or of the network: its entry of that. */
cJSON *fork_delivery_result(const struct fork_network *delivery);

#endif
