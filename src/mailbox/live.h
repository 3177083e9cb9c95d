/* SPDX-License-Identifier: MIT */
/*
 * live: frames of a VM that was not just loaded: it runs, its guest takes payloads and its kernel
 * uses pages for something else, so what a list says of a frame may not be so any more. No state;
 * the memory is behind the functions of deliver.h.
 */
#ifndef HYPEFS_MAILBOX_LIVE_H
#define HYPEFS_MAILBOX_LIVE_H

#include "mailbox/consume.h"

/* The frames of that kind and name are in *ret, a list of its own, as they are now, and those of
 * `list` whose marker is not there any more are not. What else is in `list` does not count. */
int live_refresh(const struct memory_io *io, const struct scan *list, enum frame_kind kind,
                 const char *name, struct scan *ret, struct error *err);

/* Takes back what nobody has taken, while the VM stands still: looks a last time, and unless that
 * tells more (CONSUME_PENDING), each copy that still holds the payload is armed again, without it.
 * *ret_at_work: but the guest has taken it from a declared copy, and not armed that again: then
 * nothing was done. */
int live_withdraw(const struct memory_io *io, struct consume *consume, bool *ret_at_work,
                  struct error *err);

/* After a write that has failed half-way, while the VM stands still since before it: each copy that
 * can be reached is armed again, without the payload. */
void live_undo(const struct memory_io *io, const struct delivery *delivery);

#endif
