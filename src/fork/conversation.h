/* SPDX-License-Identifier: MIT */
/*
 * conversation: delivers a payload to a VM that runs or is paused, and waits until it was taken.
 *
 *     locate → patch → resume → ack
 *
 * as in a commit (engine.h): `patch` is done while the VMM stands still for a moment, and `resume`
 * lets it go on. A failure takes back what nobody has taken, and leaves the VM alone: it runs on.
 * Deliveries to one mailbox come one after the other; else any number may be under way. Blocks.
 */
#ifndef HYPEFS_FORK_CONVERSATION_H
#define HYPEFS_FORK_CONVERSATION_H

#include "fork/engine.h"
#include "instance/live.h"

struct conversation_setup {
    struct memory_watch *watch;
    const char *ack_address;
    struct ack_ports *ack_ports;
    int cancel_fd; /* readable: the daemon stops, ESHUTDOWN */
};

struct conversation_outcome {
    enum fork_step step; /* that has failed */
    double frozen_ms;    /* that its VMM stood still for the payload; 0: it was not written */
};

/* `request` has the mailbox, or, if it is `staged`, the network's, whose ack is waited for unless
 * the VM is paused. It is the caller's, and its payload has what was appended. What became of it is
 * in instance_last(), and nobody changes that until the caller ends the turn, which has joined.
 *
 * EOPNOTSUPP: there is no VM; EBUSY: an earlier payload was not taken, within a second, or the
 * instance waits for its ack; EINVAL: the VM is paused, and an ack is wanted. ETIMEDOUT, EREMOTEIO:
 * as of a commit. ECANCELED: it was stopped, or put into standby, meanwhile. */
int conversation_run(const struct conversation_setup *setup, struct instance *instance,
                     struct fork_network *request, struct instance_turn *turn,
                     struct conversation_outcome *ret, struct error *err);

#endif
