/* SPDX-License-Identifier: MIT */
/*
 * refusals: the reasons for which mkdir, rmdir, rm, mv, ln, mknod, the creation of a file or a
 * command was refused. Each is a line of `error` in the root, and if it was in a draft or an
 * instance, it stands in the `error` there, too. Before them stands what of the store is not
 * shown.
 *
 * Lock: objects.lock.
 */
#ifndef HYPEFS_FS_REFUSALS_H
#define HYPEFS_FS_REFUSALS_H

#include "fs/entry.h"

enum { REFUSALS_MAX = 64 };

/* The lines, a ring. */
struct refusals {
    char *lines[REFUSALS_MAX]; /* owned, or NULL */
    size_t count;              /* of all that there ever were */
};

struct refusal {
    const char *operation;         /* "mkdir" */
    const struct place *directory; /* of what the operation was refused, */
    const char *name;              /* and its name there */
    pid_t tid;                     /* of the caller; 0: nobody knows */
    const struct place *target;    /* of a rename: the other directory; else NULL */
};
/* Keeps the reason where it can be read. Without a text in `err`, it has words for the operation.
 * Returns -err->code. */
int refuse(const struct refusal *refusal, struct error *err);
/* The text of the root's `error`. */
char *refusals_text(const struct place *place);
void refusals_finish(struct refusals *refusals);

#endif
