/* SPDX-License-Identifier: MIT */
#include "fork/demand.h"

#include "util/timing.h"

/* Slots that have come since the last look had nothing taken in them. */
static uint16_t *move_to(struct demand *demand, double now_ms)
{
    const uint64_t slot = (uint64_t)(now_ms / timing_ms(TIMING_DEMAND));
    for (unsigned i = 0; demand->slot < slot && i < DEMAND_SLOTS; i++)
        demand->taken[++demand->slot % DEMAND_SLOTS] = 0;
    demand->slot = slot;
    return &demand->taken[slot % DEMAND_SLOTS];
}

void demand_add(struct demand *demand, double now_ms)
{
    uint16_t *taken = move_to(demand, now_ms);
    if (*taken < UINT16_MAX)
        ++*taken;
}

unsigned demand_most(struct demand *demand, double now_ms)
{
    unsigned most = 0;
    move_to(demand, now_ms);
    for (unsigned i = 0; i < DEMAND_SLOTS; i++)
        most = demand->taken[i] > most ? demand->taken[i] : most;
    return most;
}
