/* SPDX-License-Identifier: MIT */
/*
 * rearm: what payloads leave behind in the memory image of a fork that is saved again.
 *
 * A payload is written to every copy of its frame, for the live page and its stale twins look alike
 * from outside. The guest consumes the live one; a twin keeps the payload, and would both block the
 * next delivery and hand the secret on. So if one of the copies was consumed, those that still hold
 * the same marker, the sequence that was written and exactly that payload are zeroed and armed
 * again. If none was, the payload has not been taken yet and stays. A consumed copy of a declared
 * frame may hold a reply: its payload area and length are zeroed, but for FRAME_DECLARED.
 *
 * The record of a delivery tells where it went, and SHA-256 sums of marker and payload, never these
 * themselves. It lies in the store, so it is not trusted. Any thread.
 */
#ifndef HYPEFS_MAILBOX_REARM_H
#define HYPEFS_MAILBOX_REARM_H

#include <cjson/cJSON.h>

#include "mailbox/deliver.h"
#include "util/page_set.h"

/* A member that a record may have, and is true then: it is withdrawn (below). */
#define REARM_WITHDRAW "withdraw"

/* {"kind", "offsets", "sequences", "bytes", "marker", "payload"} of a delivery, owned. A record
 * without "sequences" is of a version that knew plain frames only. */
cJSON *rearm_record(const struct delivery *delivery);

/* Goes through an array of records and the image that `fd` is open on for reading and writing. A
 * record that is none is EIO; a frame that is not in the image is passed over. Adds the pages that
 * it writes to, to `written` (may be NULL). */
int rearm_image(int fd, const cJSON *records, struct page_set *written, struct error *err);

/* The same in the memory, of so many bytes, of a VM that stands still. */
int rearm_memory(const struct memory_io *io, uint64_t size, const cJSON *records,
                 struct error *err);

/* The same also of what was taken in none of its copies, and is to be taken no more. */
int rearm_withdraw(const struct memory_io *io, uint64_t size, const cJSON *records,
                   struct error *err);

#endif
