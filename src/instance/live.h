/* SPDX-License-Identifier: MIT */
/*
 * live: what a delivery to a VM that runs or is paused needs of its instance: the VM's memory, a
 * moment in which it stands still, the list of the frames that are in it, whose turn it is at a
 * mailbox, and what is kept of deliveries. What is delivered and how is fork/conversation.h's.
 *
 * A delivery is the instance's owner for moments only, and whoever else wants to be that waits for
 * it meanwhile. In between the VM may be saved and go on in another VMM, or end.
 *
 * delivered.json, of an instance with a VMM only: for each mailbox the record of its last delivery
 * (mailbox/rearm.h), written before the payload is.
 *
 * Lock: instances.lock guards what a struct instance has for this.
 */
#ifndef HYPEFS_INSTANCE_LIVE_H
#define HYPEFS_INSTANCE_LIVE_H

#include "hypervisor/live_memory.h"
#include "instance/instance.h"

/* A VM as it was at some moment. */
struct instance_view {
    struct live_memory *memory; /* owned */
    struct image_index *base;   /* of the image that it was loaded from, a reference; or NULL */
    unsigned life;              /* the same as long as it is the same VM, in whatever VMM */
    bool paused;
};

/* Waits for a transition under way. EBUSY: it waits for its ack; EOPNOTSUPP: it has no VM;
 * ECANCELED: stopped was written meanwhile; ESHUTDOWN, ENODEV, EIO. */
int instance_view(struct instance *instance, struct instance_view *ret, struct error *err);
/* The same without waiting, whoever is its owner now: the VM may be in another VMM soon. */
int instance_look(struct instance *instance, struct instance_view *ret, struct error *err);
/* A zeroed struct is fine. */
void instance_view_finish(struct instance_view *view);
/* Was it stopped since, or put into standby? */
bool instance_was_ended(struct instance *instance, const struct instance_view *view);

/* Calls `work` while the VM of the view stands still: its VMM, or where that cannot be stopped, the
 * VM. *ret_ms is for how long. ESTALE: it is in another VMM by now; else as instance_view(). */
int instance_freeze(struct instance *instance, const struct instance_view *view,
                    int (*work)(void *context, struct error *err), void *context, double *ret_ms,
                    struct error *err);

/* A reference to the list of frames that was found last: by a search, or of what it was loaded
 * from; *ret_at_ms (may be NULL) is when (process_now_ms()), 0 of the latter. NULL: none is known.
 */
struct image_index *instance_list(struct instance *instance, double *ret_at_ms);
/* Searches the memory, which becomes the list. ECANCELED when the daemon stops or the VM ends. */
int instance_search(struct instance *instance, struct instance_view *view, struct error *err);
/* It cannot be searched: a list that has nothing in it is one. */
void instance_search_failed(struct instance *instance);

/* Its turn at a mailbox: deliveries to one come one after the other. ESHUTDOWN. */
struct instance_turn {
    const char *name; /* "" of the network's */
    bool done;        /* it is about to end */
    bool abandoned;   /* nobody waits for it any more: it does not begin */
    struct instance_turn *prev, *next;
};
/* From now on it is behind those that joined before. */
void instance_join_turns(struct instance *instance, struct instance_turn *turn);
/* Waits until it is its turn. ECANCELED: it was abandoned before. */
int instance_await_turn(struct instance *instance, struct instance_turn *turn, struct error *err);
void instance_abandon_turn(struct instance *instance, struct instance_turn *turn);
/* Of one that has joined, whatever came of it. */
void instance_end_turn(struct instance *instance, struct instance_turn *turn);
/* Is a delivery to that mailbox under way, or waiting, that is not done? */
bool instance_is_delivering(struct instance *instance, const char *name);

/* What was delivered, on record before it is written. Takes the record; *ret_before is what stood
 * there, owned, or NULL, after a failure to write it, too. */
int instance_record_delivery(struct instance *instance, const char *name, cJSON *record,
                             cJSON **ret_before, struct error *err);
/* All records of what may still be in the memory, of its commit's deliveries, too. Owned. */
cJSON *instance_deliveries(struct instance *instance);
/* An array of the mailbox's record, if its payload was waited for; else it is empty. Owned. Whoever
 * has the turn there knows that nobody waits any more: an earlier daemon was killed meanwhile. */
cJSON *instance_left_behind(struct instance *instance, const char *name);
/* What became of that delivery is known: whatever of it is still there is its guest's. */
void instance_delivery_ended(struct instance *instance, const char *name);
/* What became of the last delivery to a mailbox; takes it. */
void instance_set_last(struct instance *instance, const char *name, cJSON *last);
/* Owned; NULL: nothing was delivered to it. */
cJSON *instance_last(struct instance *instance, const char *name);

#endif
