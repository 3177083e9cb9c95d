/* SPDX-License-Identifier: MIT */
/*
 * erase: what was removed from a store, and is out of sight, is deleted by a thread, so that nobody
 * waits for large files to go. What fails is told to `warn`, and is a leftover for the next start,
 * as is what has not begun when the store has been closed for TIMING_ERASE. Any thread.
 */
#ifndef HYPEFS_STORE_ERASE_H
#define HYPEFS_STORE_ERASE_H

#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"

struct eraser;

/* `warn`, which may be NULL, is called without locks. */
int eraser_create(void (*warn)(void *context, const char *text), void *context, struct eraser **ret,
                  struct error *err);
/* NULL is fine. */
void eraser_destroy(struct eraser *eraser);

/* The directory `name` in the one of that descriptor, which stays open as long as the eraser is
 * there. `where` is for failures. Without memory it is deleted at once. */
void eraser_add(struct eraser *eraser, int parent_fd, const char *name, const char *where);
/* Returns when what was added before has been deleted. */
void eraser_await(struct eraser *eraser);
/* The same, but only while that file system has little room: less than so much and 64 MiB, or than
 * 5 % of all, or than 1024 inodes. */
void eraser_await_room(struct eraser *eraser, int directory_fd, uint64_t bytes);

/* Removes the files of a directory and the directory itself. A VMM that saves into one for a daemon
 * that was killed may add to it meanwhile. */
int erase_directory(int parent_fd, const char *name, struct error *err);

#endif
