/* SPDX-License-Identifier: MIT */
/*
 * handle: an open file or directory, and what it holds. Not what is done with it: file.c and
 * file_write.c do that, stream.c for `events`.
 *
 * Lock: objects.lock guards each handle and the list of all, but for what a read of a log and
 * fs_readdir() use, which stays as it is from the open to the release.
 */
#ifndef HYPEFS_FS_HANDLE_H
#define HYPEFS_FS_HANDLE_H

#include "fs/entry.h"
#include "fs/event_ring.h"
#include "store/store.h"

struct handle {
    struct place place; /* counts a reference of the object */
    struct poller poller;
    int flags; /* of open(2) */

    /* Generated content: made by the first read and by reads at offset 0. */
    char *content;
    size_t content_size;
    bool kept; /* what the last command that was written to it has left: it is not made anew */

    /* `events`: `content` is the lines taken last, which begin at that offset, and how many bytes
     * of it were read. */
    struct event_ring_reader reader;
    off_t content_at;
    size_t served;

    /* Collected files; of a command file, what was written of a list so far. */
    char *text;
    size_t size;
    bool dirty;
    int refused; /* errno, or 0 */
    pid_t opener_tid, opener_pid;

    struct job *check; /* of what the text names, after the last write: it is under way, or that
                          write got EINTR. Counted */

    /* Command files: the last text, and where in it its last write begins; and its job, if waiting
     * for that ended with EINTR. Counted. */
    struct job *retry;
    char *command; /* owned, or NULL */
    size_t last_write;
    int failed; /* of a file_type with `once`: what that text got, or 0 */

    int log_fd;
    struct listed *names; /* of a directory, as it was at opendir */
    size_t name_count;
    struct handle *prev, *next; /* in the list of all */
};

struct listed {
    char name[256];
    ino_t ino;
    mode_t mode;
};

/* NULL without memory. */
struct handle *handle_create(int flags);
void handle_destroy(struct handle *handle);
/* It is of that place from now on, counted, and in the list. */
void handle_register(struct handle *handle, const struct place *place);
void handle_unregister(struct handle *handle);

/* Adds one name to a listing: that entry of the object, of which kind and serial count. -ENOMEM. */
int handle_list(struct handle *handle, const char *name, const struct object *object,
                const struct entry *entry, const struct mailbox_file *mailbox);
/* Its content is made anew, or is that text, which it takes, and stays until something is written.
 * Without memory it does not. */
void handle_keep(struct handle *handle, char *text);
/* The outcome of the command that was written to it. */
void handle_command_ended(struct handle *handle, int result);
/* A part of its content, as a read's answer. -ENOMEM. */
int handle_answer(const struct handle *handle, size_t at, size_t size, char **ret,
                  size_t *ret_size);
/* The object is removed: what its open files hold is nobody's any more. */
void handles_wipe(const struct object *object);

#endif
