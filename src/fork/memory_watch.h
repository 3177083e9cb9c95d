/* SPDX-License-Identifier: MIT */
/*
 * memory_watch: acks that no network carries. One thread looks at the delivered frames of all forks
 * that wait for one, again and again.
 *
 * Nothing tells when a guest writes, so there is an interval, most of whose cost is waking up. For
 * 10 ms after something has happened to a fork (it was resumed, or one of several frames changed)
 * its frames are looked at every 50 to 100 us. Otherwise all are after an eighth of the time since
 * something happened to any of them, 2 to 16 ms, so that one that waits for long takes less than 1
 * % of a processor. And after a look the watch rests for four times what that took: so a thousand
 * take a fifth of one at most.
 */
#ifndef HYPEFS_FORK_MEMORY_WATCH_H
#define HYPEFS_FORK_MEMORY_WATCH_H

#include "mailbox/ack.h"
#include "mailbox/consume.h"
#include "mailbox/moved.h"

/* One for a daemon; locked inside; any thread. */
struct memory_watch;
int memory_watch_create(struct memory_watch **ret, struct error *err);
void memory_watch_destroy(struct memory_watch *watch); /* nobody is in it any more */

struct watched_frame {
    struct consume *consume;
    struct ack_wait *wait; /* what becomes of it */
    double at_ms;          /* process_now_ms() when it was seen */
};

/* A fork's frames. Set up by the caller, who then leaves it alone, and the consumes and the VMM's
 * memory too, from memory_watch_add() to memory_watch_remove(). */
struct watched {
    struct memory_io io;
    struct watched_frame frames[DELIVER_MAILBOXES_MAX + 1]; /* the network's, too */
    size_t count;
    int event_fd;       /* readable: memory_watch_receive() has news; -1: is not in the watch */
    bool gone;          /* the memory cannot be read any more: its VMM has ended */
    double happened_ms; /* process_now_ms(): it joined, or a frame changed; the watch's */
    struct watched *prev, *next;
};

int memory_watch_add(struct memory_watch *watch, struct watched *watched, struct error *err);
void memory_watch_remove(struct memory_watch *watch, struct watched *watched);

/* Something has happened to it: its VM was resumed. */
void memory_watch_freshen(struct memory_watch *watch, struct watched *watched);
/* Makes the frame at that offset one more copy of a delivery that may be in the watch
 * (moved_add()).
 */
void memory_watch_add_copy(struct memory_watch *watch, struct delivery *delivery,
                           struct consume *consume, uint64_t offset, struct candidate *ret);

/* Searches for frames that have moved, of all waits together, take 2 % of a processor at the most.
 * From when on may there be another? After each: how long it took. */
double memory_watch_search_due(struct memory_watch *watch);
void memory_watch_searched(struct memory_watch *watch, double took_ms);

/* Looks now, without waiting for the thread. */
void memory_watch_check(struct memory_watch *watch, struct watched *watched);

/* Updates the waits of `watched`; never blocks. Their `ms` count from `since_ms`. */
void memory_watch_receive(struct memory_watch *watch, struct watched *watched, double since_ms);

/* Why it was refused, in words. */
void memory_watch_explain(const struct consume *consume, struct ack_wait *wait);

#endif
