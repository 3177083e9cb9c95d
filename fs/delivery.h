/* SPDX-License-Identifier: MIT */
/*
 * delivery: a write to a mailbox of an instance, or to its `network`: the payload is delivered to
 * the VM that runs, by a job (fork/conversation.h). And the search of its memory, for who wants to
 * know what is in it. Not: how the text is collected (file_write.c).
 *
 * Lock: objects.lock is held in all functions here.
 */
#ifndef HYPEFS_FS_DELIVERY_H
#define HYPEFS_FS_DELIVERY_H

#include "fs/job.h"

/* A command: the text is a JSON object. */
int delivery_command(const struct place *place, const char *text, const struct waiter *by,
                     struct job **ret);

/* Commands of the file `rescan`. */
int delivery_rescan(const struct place *place, const char *text, const struct waiter *by,
                    struct job **ret);
/* Begins a search of the instance's memory, unless one is under way. Whoever waits for an index is
 * answered at its end. -ENOMEM and others. */
int delivery_search(const struct place *place);

#endif
