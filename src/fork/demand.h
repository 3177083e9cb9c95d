/* SPDX-License-Identifier: MIT */
/*
 * demand: how many VMs commits take of a snapshot, from which it follows how many there are to be
 * ahead of them: as many as commits have taken, or would have, within one slot of time
 * (TIMING_DEMAND), at the most, in the slot under way and the DEMAND_SLOTS - 1 before. So a burst
 * is met as the last one was, and who takes one now and then has one. All zeros at first. Who has
 * one guards it.
 */
#ifndef HYPEFS_FORK_DEMAND_H
#define HYPEFS_FORK_DEMAND_H

#include <stdint.h>

enum { DEMAND_SLOTS = 30 };

struct demand {
    uint64_t slot;                /* the number of the newest that `taken` has */
    uint16_t taken[DEMAND_SLOTS]; /* by number of the slot, modulo that */
};

/* One is taken at that time (process_now_ms()), which never goes back. */
void demand_add(struct demand *demand, double now_ms);
unsigned demand_most(struct demand *demand, double now_ms);

#endif
