/* SPDX-License-Identifier: MIT */
/* consume: did the guest take what was delivered to it, and what did it reply? Read off its memory
 * while it runs. A payload is in every copy of its frame. A copy is consumed when its sequence
 * reads 0 and the whole page, read after that, still shows the marker; with the length
 * FRAME_REFUSED it is a refusal, with its reason. A declared copy must also say that it has taken
 * the sequence that was written; and marker and that are looked at once more when its reply has
 * been read. A copy whose marker has changed is a stale page that the guest has put to another use,
 * and not read again. A reply is as private as a payload, and comes from the guest: it is checked.
 * No state but the caller's; the memory is behind the functions of deliver.h. */
#ifndef HYPEFS_MAILBOX_CONSUME_H
#define HYPEFS_MAILBOX_CONSUME_H

#include "mailbox/deliver.h"

enum consume_state {
    CONSUME_PENDING, /* a copy is there, and none was consumed */
    CONSUME_APPLIED,
    CONSUME_REFUSED,
    CONSUME_UNKNOWN, /* all copies were dropped: it cannot be told */
};

enum { CONSUME_ERROR_MAX = 160 };

/* One delivery that is watched. Begins as {.delivery = …}. */
struct consume {
    const struct delivery *delivery; /* borrowed, written */
    enum consume_state state;
    bool dropped[DELIVER_COPIES_MAX];
    char reason[FRAME_REASON_MAX + 1]; /* CONSUME_REFUSED: as the guest wrote it, up to a NUL */
    char *reply;                       /* owned; a JSON object, byte for byte; NULL: none */
    char
        reply_error[CONSUME_ERROR_MAX + 1]; /* why there is none, though the guest left something */
};

/* Looks once, unless all is known. The memory may change meanwhile. Errors of io->read. */
int consume_refresh(const struct memory_io *io, struct consume *consume, struct error *err);

/* Wipes and frees the reply. */
void consume_finish(struct consume *consume);

#endif
