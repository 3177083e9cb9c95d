/* SPDX-License-Identifier: MIT */
/*
 * fs: the tree, as functions that know nothing of FUSE: ops.c unpacks the kernel's requests, calls
 * these and replies. fs.c opens, stops and closes; node.c goes through directories, file.c and
 * file_write.c through files, and the tables in *_files.c say what is where.
 *
 * Functions return 0 or -errno, or FS_LATER: the answer will come through the waiter, once, from
 * another thread, without any lock. All but fs_stop() may be called from any thread at any time.
 */
#ifndef HYPEFS_FS_FS_H
#define HYPEFS_FS_FS_H

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "fork/request.h"
#include "fs/waiter.h"
#include "instance/instance.h"
#include "store/snapshot.h"

struct fs;
struct event_ring;
struct memory_watch;
struct handle;

struct fs_setup {
    struct snapshots *snapshots;
    struct instances *instances;
    const char *ack_address;
    struct ack_ports *ack_ports;
    struct memory_watch *watch;
    struct warm_pool *warm; /* VMs that are loaded ahead */
    struct fork_rules rules;
    struct event_ring *events; /* which the layers below tell too (event.h) */
    /* Whoever polls a file through `poll` (fs_poll) should poll again. Takes `poll`. */
    void (*wake)(void *poll);
    void (*release)(void *poll); /* the same, unused */
    /* The kernel is to ask again for the attributes of a node. NULL: it keeps none. */
    void (*expire)(void *kernel, uint64_t node);
    void *kernel;
};

int fs_open(const struct fs_setup *setup, struct fs **ret, struct error *err);
/* Ends all jobs: those that wait are answered (ESHUTDOWN). New ones are refused. `events` ends. */
void fs_stop(struct fs *fs);
void fs_close(struct fs *fs);

/* Others may have put snapshots into the store, or taken some out. */
void fs_refresh(struct fs *fs);

/* For the layers below. A snapshot or an instance
 * changed; NULL: what the store's notes say. */
void fs_changed(struct fs *fs, enum object_kind kind, const char *id);
/* That one of the id is removed, if it can be. */
void fs_instance_vanished(struct fs *fs, const char *id, uint64_t serial);
void fs_image_scanned(struct fs *fs);

/* The kernel says that the waiting thread got a signal. */
void fs_interrupt(struct fs *fs, const void *key);

/* Nodes. Ids are never reused; the root's is 1. What is not there any more is -ESTALE: then the
 * kernel looks the name up anew. *ret_seconds: for how long it may keep the name. */
int fs_lookup(struct fs *fs, uint64_t parent, const char *name, struct waiter *waiter,
              uint64_t *ret_node, struct stat *ret, double *ret_seconds);
void fs_forget(struct fs *fs, uint64_t node, uint64_t count);
/* `handle` may be NULL: then what a new open would read counts. *ret_keep: the kernel may keep the
 * answer until `expire` is called. With a waiter that is NULL also FS_MUST_WAIT. */
int fs_getattr(struct fs *fs, uint64_t node, const struct handle *handle, struct waiter *waiter,
               struct stat *ret, bool *ret_keep);
int fs_truncate(struct fs *fs, uint64_t node, struct handle *handle, off_t size);
int fs_readlink(struct fs *fs, uint64_t node, char ret[256]);
/* `tid` is the calling thread, for the line about a refusal. */
int fs_mkdir(struct fs *fs, uint64_t parent, const char *name, pid_t tid, uint64_t *ret_node,
             struct stat *ret);
/* `operation` is "rmdir", "unlink", or one that is possible nowhere ("link"), which is refused:
 * EPERM. */
int fs_change(struct fs *fs, const char *operation, uint64_t parent, const char *name, pid_t tid);
int fs_rename(struct fs *fs, uint64_t parent, const char *name, uint64_t new_parent,
              const char *new_name, unsigned flags, pid_t tid);

/* Files. */
int fs_create(struct fs *fs, uint64_t parent, const char *name, int flags, pid_t tid,
              uint64_t *ret_node, struct stat *ret, struct handle **ret_handle);
/* FS_MUST_WAIT as of fs_getattr(). */
int fs_open_file(struct fs *fs, uint64_t node, int flags, pid_t tid, struct waiter *waiter,
                 struct handle **ret);
/* *ret is owned by the caller (free). */
int fs_read(struct fs *fs, struct handle *handle, size_t size, off_t offset, struct waiter *waiter,
            char **ret, size_t *ret_size);
int fs_write(struct fs *fs, struct handle *handle, const char *bytes, size_t size, off_t offset,
             bool append, struct waiter *waiter);
int fs_flush(struct fs *fs, struct handle *handle, struct waiter *waiter);
/* The mask of poll(2). Takes `poll`, which may be NULL, and wakes or releases it later. */
unsigned fs_poll(struct fs *fs, struct handle *handle, void *poll);
void fs_release(struct fs *fs, struct handle *handle);

/* Directories: the listing as it was at opendir. */
int fs_opendir(struct fs *fs, uint64_t node, struct waiter *waiter, struct handle **ret);
/* A name, and of its stat what a listing has; NULL behind the last. */
const char *fs_readdir(const struct handle *handle, size_t position, struct stat *ret);

#endif
