/* SPDX-License-Identifier: MIT */
#include "fs/ops.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "util/cleanup.h"
#include "util/fault.h"

static struct fs *fs_of(fuse_req_t req)
{
    return ((struct ops_context *)fuse_req_userdata(req))->fs;
}

static pid_t tid_of(fuse_req_t req)
{
    return fuse_req_ctx(req)->pid;
}

static struct handle *handle_of(const struct fuse_file_info *fi)
{
    return fi ? (struct handle *)(uintptr_t)fi->fh : NULL;
}

void ops_wake(void *poll)
{
    fuse_lowlevel_notify_poll(poll);
    fuse_pollhandle_destroy(poll);
}

void ops_release(void *poll)
{
    fuse_pollhandle_destroy(poll);
}

/* For as long as nothing changes: what does, is told (node.h). */
static const double KEPT_SECONDS = 1e6, NEW_SECONDS = 1;

void ops_expire(void *kernel, uint64_t node)
{
    struct fuse_session *const *session = kernel;
    fuse_lowlevel_notify_inval_inode(*session, node, -1, 0); /* it may have forgotten it */
}

/* A request that may be answered later. */
struct pending {
    struct waiter waiter;
    fuse_req_t req;
    void (*call)(struct pending *pending); /* again, when a scan has ended */
    fuse_ino_t node;
    char *name;               /* lookup */
    struct fuse_file_info fi; /* open, opendir, read */
    size_t size;              /* read: at most; write: what is returned on success */
    off_t offset;             /* read */
};

static void pending_free(struct pending *pending)
{
    free(pending->name);
    free(pending);
}

static bool interrupted_already(const struct waiter *waiter)
{
    return fuse_req_interrupted(((const struct pending *)waiter)->req);
}

static void on_interrupt(fuse_req_t req, void *data)
{
    fs_interrupt(data, req);
}

/* NULL without memory, which is answered. */
static struct pending *pending_create(fuse_req_t req, fuse_ino_t node,
                                      const struct fuse_file_info *fi,
                                      void (*done)(struct waiter *, int))
{
    struct pending *pending = calloc(1, sizeof *pending);
    if (!pending) {
        fuse_reply_err(req, ENOMEM);
        return NULL;
    }
    pending->req = req;
    pending->node = node;
    if (fi)
        pending->fi = *fi;
    pending->waiter = (struct waiter){.done = done,
                                      .key = req,
                                      .tid = tid_of(req),
                                      .uid = fuse_req_ctx(req)->uid,
                                      .interrupted_already = interrupted_already};
    /* Before the waiter is known to anyone: it may be answered, and `req` be gone, right after. */
    fuse_req_interrupt_func(req, on_interrupt, fs_of(req));
    return pending;
}

/* What was waited for is there: call again. Or the waiting has ended. */
static void call_again(struct waiter *waiter, int result)
{
    struct pending *pending = (struct pending *)waiter;
    if (result == 0) {
        pending->call(pending);
        return;
    }
    fuse_reply_err(pending->req, -result);
    pending_free(pending);
}

/* Answers what has failed. */
static bool failed(fuse_req_t req, int r)
{
    if (r < 0)
        fuse_reply_err(req, -r);
    return r < 0;
}

/* Attributes that come with a name are not kept: such an answer may be late. */
static void reply_entry(fuse_req_t req, int r, uint64_t node, const struct stat *st, double seconds)
{
    struct fs *fs = fs_of(req);
    struct fuse_entry_param entry = {.ino = node, .entry_timeout = seconds};
    if (failed(req, r))
        return;
    entry.attr = *st;
    if (fuse_reply_entry(req, &entry) < 0)
        fs_forget(fs, node, 1);
}

static void call_lookup(struct pending *pending)
{
    uint64_t node = 0;
    struct stat st = {0};
    double seconds = 0;
    int r = pending->name ? fs_lookup(fs_of(pending->req), pending->node, pending->name,
                                      &pending->waiter, &node, &st, &seconds)
                          : -ENOMEM;
    if (r == FS_LATER)
        return;
    reply_entry(pending->req, r, node, &st, seconds);
    pending_free(pending);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct pending *pending = pending_create(req, parent, NULL, call_again);
    if (!pending)
        return;
    pending->name = strdup(name);
    pending->call = call_lookup;
    call_lookup(pending);
}

static void op_forget(fuse_req_t req, fuse_ino_t node, uint64_t count)
{
    fs_forget(fs_of(req), node, count);
    fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    for (size_t i = 0; i < count; i++)
        fs_forget(fs_of(req), forgets[i].ino, forgets[i].nlookup);
    fuse_reply_none(req);
}

/* Nothing is answered with FS_LATER and FS_MUST_WAIT. */
static int try_getattr(fuse_req_t req, fuse_ino_t node, const struct handle *handle,
                       struct waiter *waiter)
{
    struct stat st;
    bool keep;
    int r = fs_getattr(fs_of(req), node, handle, waiter, &st, &keep);
    if (r <= 0 && !failed(req, r))
        fuse_reply_attr(req, &st, keep ? KEPT_SECONDS : 0);
    return r;
}

static void call_getattr(struct pending *pending)
{
    if (try_getattr(pending->req, pending->node, NULL, &pending->waiter) != FS_LATER)
        pending_free(pending);
}

/* Nearly always it is answered at once. */
static void op_getattr(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
    struct pending *pending;
    if (try_getattr(req, node, handle_of(fi), NULL) != FS_MUST_WAIT ||
        !(pending = pending_create(req, node, NULL, call_again)))
        return;
    pending->call = call_getattr;
    call_getattr(pending);
}

/* Mode, owner and times are accepted and have no effect. */
static void op_setattr(fuse_req_t req, fuse_ino_t node, struct stat *attr, int to_set,
                       struct fuse_file_info *fi)
{
    if (!(to_set & FUSE_SET_ATTR_SIZE) ||
        !failed(req, fs_truncate(fs_of(req), node, handle_of(fi), attr->st_size)))
        op_getattr(req, node, fi);
}

static void op_readlink(fuse_req_t req, fuse_ino_t node)
{
    char target[256];
    if (!failed(req, fs_readlink(fs_of(req), node, target)))
        fuse_reply_readlink(req, target);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    uint64_t node;
    struct stat st;
    (void)mode;
    int r = fs_mkdir(fs_of(req), parent, name, tid_of(req), &node, &st);
    fault_point(FAULT_REPLY);
    reply_entry(req, r, node, &st, NEW_SECONDS);
    fault_point(FAULT_REPLIED);
}

static void change(fuse_req_t req, const char *operation, fuse_ino_t parent, const char *name)
{
    int r = fs_change(fs_of(req), operation, parent, name, tid_of(req));
    fault_point(FAULT_REPLY);
    fuse_reply_err(req, -r);
    fault_point(FAULT_REPLIED);
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    change(req, "rmdir", parent, name);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    change(req, "unlink", parent, name);
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                      const char *new_name, unsigned flags)
{
    fuse_reply_err(req,
                   -fs_rename(fs_of(req), parent, name, new_parent, new_name, flags, tid_of(req)));
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t device)
{
    (void)mode;
    (void)device;
    change(req, "mknod", parent, name);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    (void)target;
    change(req, "symlink", parent, name);
}

static void op_link(fuse_req_t req, fuse_ino_t node, fuse_ino_t parent, const char *name)
{
    (void)node;
    change(req, "link", parent, name);
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *fi)
{
    struct fs *fs = fs_of(req);
    struct fuse_entry_param entry = {.entry_timeout = KEPT_SECONDS};
    struct handle *handle;
    uint64_t node;
    (void)mode;
    if (failed(req,
               fs_create(fs, parent, name, fi->flags, tid_of(req), &node, &entry.attr, &handle)))
        return;
    entry.ino = node;
    fi->fh = (uintptr_t)handle;
    fi->direct_io = 1;
    if (fuse_reply_create(req, &entry, fi) < 0) {
        fs_release(fs, handle);
        fs_forget(fs, node, 1);
    }
}

/* Nothing is asked of us when a reader closes: then it does not fail there, where the daemon has
 * ended just after the last read. */
static void spare_flush(struct fuse_file_info *fi)
{
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 11)
    fi->noflush = (fi->flags & O_ACCMODE) == O_RDONLY;
#else
    (void)fi;
#endif
}

/* As try_getattr(). */
static int try_open(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi,
                    struct waiter *waiter)
{
    struct fs *fs = fs_of(req);
    struct handle *handle;
    int r = fs_open_file(fs, node, fi->flags, tid_of(req), waiter, &handle);
    if (r > 0 || failed(req, r))
        return r;
    fi->fh = (uintptr_t)handle;
    fi->direct_io = 1;
    spare_flush(fi);
    if (fuse_reply_open(req, fi) < 0)
        fs_release(fs, handle);
    return 0;
}

static void call_open(struct pending *pending)
{
    if (try_open(pending->req, pending->node, &pending->fi, &pending->waiter) != FS_LATER)
        pending_free(pending);
}

static void op_open(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
    struct pending *pending;
    if (try_open(req, node, fi, NULL) != FS_MUST_WAIT ||
        !(pending = pending_create(req, node, fi, call_again)))
        return;
    pending->call = call_open;
    call_open(pending);
}

static void call_read(struct pending *pending)
{
    char *bytes = NULL;
    size_t count = 0;
    int r = fs_read(fs_of(pending->req), handle_of(&pending->fi), pending->size, pending->offset,
                    &pending->waiter, &bytes, &count);
    if (r == FS_LATER)
        return;
    if (!failed(pending->req, r))
        fuse_reply_buf(pending->req, bytes, count);
    free_wiped(bytes, count);
    pending_free(pending);
}

static void op_read(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
                    struct fuse_file_info *fi)
{
    struct pending *pending = pending_create(req, node, fi, call_again);
    if (!pending)
        return;
    pending->size = size;
    pending->offset = offset;
    pending->waiter.nonblocking = fi->flags & O_NONBLOCK;
    pending->call = call_read;
    call_read(pending);
}

static void write_done(struct waiter *waiter, int result)
{
    struct pending *pending = (struct pending *)waiter;
    fault_point(FAULT_REPLY);
    if (!failed(pending->req, result))
        fuse_reply_write(pending->req, pending->size);
    fault_point(FAULT_REPLIED);
    pending_free(pending);
}

static void op_write(fuse_req_t req, fuse_ino_t node, const char *bytes, size_t size, off_t offset,
                     struct fuse_file_info *fi)
{
    struct pending *pending = pending_create(req, node, fi, write_done);
    if (!pending)
        return;
    pending->size = size;
    pending->waiter.nonblocking = fi->flags & O_NONBLOCK;
    int r = fs_write(fs_of(req), handle_of(fi), bytes, size, offset, fi->flags & O_APPEND,
                     &pending->waiter);
    explicit_bzero((char *)(uintptr_t)bytes,
                   size); /* libfuse keeps its buffer for later requests */
    if (r != FS_LATER)
        write_done(&pending->waiter, r);
}

static void flush_done(struct waiter *waiter, int result)
{
    struct pending *pending = (struct pending *)waiter;
    fuse_reply_err(pending->req, -result);
    pending_free(pending);
}

static void op_flush(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
    struct pending *pending = pending_create(req, node, fi, flush_done);
    if (!pending)
        return;
    int r = fs_flush(fs_of(req), handle_of(fi), &pending->waiter);
    if (r != FS_LATER)
        flush_done(&pending->waiter, r);
}

static void op_release(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
    (void)node;
    fs_release(fs_of(req), handle_of(fi));
    fuse_reply_err(req, 0);
}

static void op_poll(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi,
                    struct fuse_pollhandle *poll)
{
    (void)node;
    fuse_reply_poll(req, fs_poll(fs_of(req), handle_of(fi), poll));
}

static void call_opendir(struct pending *pending)
{
    struct fs *fs = fs_of(pending->req);
    struct handle *handle;
    int r = fs_opendir(fs, pending->node, &pending->waiter, &handle);
    if (r == FS_LATER)
        return;
    if (!failed(pending->req, r)) {
        pending->fi.fh = (uintptr_t)handle;
        if (fuse_reply_open(pending->req, &pending->fi) < 0)
            fs_release(fs, handle);
    }
    pending_free(pending);
}

static void op_opendir(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
    struct pending *pending = pending_create(req, node, fi, call_again);
    if (!pending)
        return;
    pending->call = call_opendir;
    call_opendir(pending);
}

static void op_readdir(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
                       struct fuse_file_info *fi)
{
    auto_free char *buffer = malloc(size);
    const char *name;
    struct stat st;
    size_t used = 0;
    (void)node;
    if (!buffer) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    while ((name = fs_readdir(handle_of(fi), (size_t)offset, &st))) {
        size_t needed = fuse_add_direntry(req, buffer + used, size - used, name, &st, ++offset);
        if (needed > size - used)
            break;
        used += needed;
    }
    fuse_reply_buf(req, buffer, used);
}

static void op_statfs(fuse_req_t req, fuse_ino_t node)
{
    const struct ops_context *context = fuse_req_userdata(req);
    struct statvfs st;
    (void)node;
    if (fstatvfs(context->store_fd, &st) < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_statfs(req, &st);
}

static void op_init(void *userdata, struct fuse_conn_info *connection)
{
    struct ops_context *context = userdata;
    (void)connection;
    context->ready(context->argument);
}

const struct fuse_lowlevel_ops ops_callbacks = {
    .init = op_init,
    .lookup = op_lookup,
    .forget = op_forget,
    .forget_multi = op_forget_multi,
    .getattr = op_getattr,
    .setattr = op_setattr,
    .readlink = op_readlink,
    .mkdir = op_mkdir,
    .rmdir = op_rmdir,
    .unlink = op_unlink,
    .rename = op_rename,
    .mknod = op_mknod,
    .symlink = op_symlink,
    .link = op_link,
    .create = op_create,
    .open = op_open,
    .read = op_read,
    .write = op_write,
    .flush = op_flush,
    .release = op_release,
    .poll = op_poll,
    .opendir = op_opendir,
    .readdir = op_readdir,
    .releasedir = op_release,
    .statfs = op_statfs,
};
