/* SPDX-License-Identifier: MIT */
/*
 * mini_fs: the smallest filesystem on libfuse's low-level interface that does what the benchmark
 * does in hypefs' tree, for it to compare with: the same paths, with texts that never change, and
 * a file that takes what is written and forgets it. As in hypefs' the kernel keeps nothing, and
 * looks at the modes. Requests are taken by one thread.
 *
 *     mini_fs NAMES MOUNT    with so many names in MOUNT/snapshots
 */
#define FUSE_USE_VERSION 35
#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct node {
    const char *name;
    fuse_ino_t parent;
    mode_t mode;
    const char *text;
} nodes[] = {
    {"", 0, S_IFDIR | 0755, NULL}, /* the first is node 1 */
    {"snapshots", 1, S_IFDIR | 0755, NULL},
    {"base", 2, S_IFDIR | 0755, NULL},
    {"forks", 3, S_IFDIR | 0755, NULL},
    {"new", 4, S_IFDIR | 0755, NULL},
    {"status", 5, S_IFREG | 0444, "empty\n"},
    {"mailboxes", 5, S_IFDIR | 0755, NULL},
    {"m", 7, S_IFREG | 0600, ""},
};
enum { NODES = sizeof nodes / sizeof nodes[0], LISTED = 2, NAME_SIZE = 32 };

static unsigned long names;

static struct stat describe(fuse_ino_t node)
{
    return (struct stat){.st_ino = node,
                         .st_mode = nodes[node - 1].mode,
                         .st_nlink = 1,
                         .st_uid = geteuid(),
                         .st_gid = getegid()};
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    for (fuse_ino_t node = 1; node <= NODES; node++)
        if (nodes[node - 1].parent == parent && strcmp(nodes[node - 1].name, name) == 0) {
            struct fuse_entry_param entry = {.ino = node, .attr = describe(node)};
            fuse_reply_entry(req, &entry);
            return;
        }
    fuse_reply_err(req, ENOENT);
}

static void op_getattr(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
    struct stat st = describe(node);
    (void)fi;
    fuse_reply_attr(req, &st, 0);
}

static void op_setattr(fuse_req_t req, fuse_ino_t node, struct stat *attr, int to_set,
                       struct fuse_file_info *fi)
{
    (void)attr;
    (void)to_set;
    op_getattr(req, node, fi);
}

static void op_open(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
    (void)node;
    fi->direct_io = 1;
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 11)
    fi->noflush = (fi->flags & O_ACCMODE) == O_RDONLY;
#endif
    fuse_reply_open(req, fi);
}

static void op_read(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
                    struct fuse_file_info *fi)
{
    const char *text = nodes[node - 1].text;
    size_t length = strlen(text), at = (size_t)offset < length ? (size_t)offset : length;
    (void)fi;
    fuse_reply_buf(req, text + at, length - at < size ? length - at : size);
}

static void op_write(fuse_req_t req, fuse_ino_t node, const char *bytes, size_t size, off_t offset,
                     struct fuse_file_info *fi)
{
    (void)node;
    (void)bytes;
    (void)offset;
    (void)fi;
    fuse_reply_write(req, size);
}

static void op_done(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
    (void)node;
    (void)fi;
    fuse_reply_err(req, 0);
}

static void op_readdir(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
                       struct fuse_file_info *fi)
{
    char *buffer = malloc(size), name[NAME_SIZE];
    size_t used = 0;
    unsigned long count = node == LISTED ? names : 0;
    (void)fi;
    for (unsigned long i = (unsigned long)offset; buffer && i < count; i++) {
        struct stat st = {.st_ino = NODES + i + 1, .st_mode = S_IFDIR};
        snprintf(name, sizeof name, "snapshot-%05lu", i);
        size_t needed = fuse_add_direntry(req, buffer + used, size - used, name, &st, (off_t)i + 1);
        if (needed > size - used)
            break;
        used += needed;
    }
    fuse_reply_buf(req, buffer, used);
    free(buffer);
}

static const struct fuse_lowlevel_ops callbacks = {
    .lookup = op_lookup,
    .getattr = op_getattr,
    .setattr = op_setattr,
    .open = op_open,
    .read = op_read,
    .write = op_write,
    .flush = op_done,
    .release = op_done,
    .readdir = op_readdir,
};

int main(int argc, char **argv)
{
    if (argc != 3) {
        fputs("usage: mini_fs NAMES MOUNT\n", stderr);
        return 2;
    }
    names = strtoul(argv[1], NULL, 10);
    char *options[] = {argv[0], (char[]){"-odefault_permissions"}, NULL};
    struct fuse_args args = FUSE_ARGS_INIT(2, options);
    struct fuse_session *session = fuse_session_new(&args, &callbacks, sizeof callbacks, NULL);
    if (!session || fuse_set_signal_handlers(session) < 0 ||
        fuse_session_mount(session, argv[2]) < 0)
        return 1;
    int r = fuse_session_loop(session);
    fuse_session_unmount(session);
    fuse_remove_signal_handlers(session);
    fuse_session_destroy(session);
    return r < 0;
}
