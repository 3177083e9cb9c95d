/* SPDX-License-Identifier: MIT */
/*
 * ops: libfuse's low-level callbacks: unpack, call fs.h, reply. Nothing of the tree is known here.
 * Answers that come later are waiters that hold the kernel's request.
 */
#ifndef HYPEFS_FS_OPS_H
#define HYPEFS_FS_OPS_H

#define FUSE_USE_VERSION 35
#include <fuse_lowlevel.h>

#include "fs/fs.h"

/* For fuse_session_new(); its userdata is a struct ops_context. */
extern const struct fuse_lowlevel_ops ops_callbacks;

struct ops_context {
    struct fs *fs;
    void (*ready)(void *argument); /* the kernel's first request has come */
    void *argument;
    int store_fd; /* a directory of the store: its file system is what df tells of */
};

/* For struct fs_setup. */
void ops_wake(void *poll);
void ops_release(void *poll);
/* `kernel` is a struct fuse_session **. */
void ops_expire(void *kernel, uint64_t node);

#endif
