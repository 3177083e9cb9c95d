/* SPDX-License-Identifier: MIT */
/*
 * accept: somebody vouches for the files of a snapshot, its image and its disks, as they are now.
 * They are looked at, the image is scanned anew, and what is there then is on record. Any thread.
 */
#ifndef HYPEFS_FORK_ACCEPT_H
#define HYPEFS_FORK_ACCEPT_H

#include "store/snapshot.h"

/* EIO: a file is not there, or the image has another size than the machine's memory. A failure goes
 * to the log, too. */
int accept_snapshot(struct snapshot *snapshot, struct error *err);

#endif
