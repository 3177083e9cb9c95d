/* SPDX-License-Identifier: MIT */
/*
 * moved: declared frames that are not where their payload was written.
 *
 * A guest's kernel moves pages, and leaves the old one behind as it was. A payload that was written
 * there lies in a dead page, and the frame that the guest looks at is armed somewhere else. It gets
 * the payload again, with the same sequence, which the guest applies only once. Plain frames have
 * no such sequence: they are never looked for.
 */
#ifndef HYPEFS_MAILBOX_MOVED_H
#define HYPEFS_MAILBOX_MOVED_H

#include "mailbox/consume.h"

enum moved_page {
    MOVED_OTHER, /* no such frame, or one that the payload is in */
    MOVED_ARMED, /* it has not got the payload */
    MOVED_TAKEN, /* it has taken it, and is armed again */
};

/* Can a delivery's frame be elsewhere? Not if it is plain or pinned. */
bool moved_is_possible(const struct delivery *delivery);

/* What is a page of the memory to a delivery that was written? */
enum moved_page moved_judge(const struct delivery *delivery, const uint8_t page[FRAME_SIZE]);

/* Writes the payload into that page, if it is MOVED_ARMED still. The VM stands still. */
int moved_write(const struct memory_io *io, const struct delivery *delivery, uint64_t offset,
                bool *ret_written, struct error *err);

/* Is that one of its copies, or may it become one? No: there are DELIVER_COPIES_MAX. */
bool moved_has_room(const struct delivery *delivery, uint64_t offset);

/* Makes the frame there one of the delivery's copies, if it is none yet, in `ret`, which must live
 * as long as the delivery; what was dropped before is looked at again. There is room. */
void moved_add(struct delivery *delivery, struct consume *consume, uint64_t offset,
               struct candidate *ret);

#endif
