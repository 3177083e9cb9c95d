/* SPDX-License-Identifier: MIT */
/* clock: the guest's wall clock, which stands still while its VM is paused, in standby or a
 * snapshot. The VM's real-time clock tells the host's time, or, under KVM, its PTP clock. */
#ifndef HYPEFS_GUEST_CLOCK_H
#define HYPEFS_GUEST_CLOCK_H

#include <stdint.h>

/* What a real-time clock tells is up to a second old. */
enum { CLOCK_TOLERANCE_MS = 1500 };

/* The host's time, in ms since 1970; of a clock that tells seconds, their middle. -ENODEV: there is
 * neither. `root` stands before the paths: "" but for tests. */
int clock_host_ms(const char *root, int64_t *ret);

/* Sets the wall clock if it is off by more than the tolerance. *ret: by how much it was late (or
 * early, below 0), 0 if it was not set. -ENODEV; errors of clock_settime(2). */
int clock_mend(const char *root, int64_t *ret_late_ms);

#endif
