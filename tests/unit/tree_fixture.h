/* SPDX-License-Identifier: MIT */
/*
 * tree_fixture: the tree without FUSE. The test is the kernel: it looks names up, opens, writes and
 * waits for answers, as ops.c lets the real one do.
 */
#ifndef HYPEFS_TESTS_UNIT_TREE_FIXTURE_H
#define HYPEFS_TESTS_UNIT_TREE_FIXTURE_H

#include "fork/warm.h"
#include "fs/fs.h"
#include "fs/event.h"
#include "world.h"

struct tree {
    struct world *world;
    struct fs *fs;
    struct event_ring *events;
    struct warm_pool warm;
    atomic_uint woken, dropped; /* polls */
    struct gate woke;
};

/* A request that may be answered later. */
struct caller {
    struct waiter waiter;
    struct gate answered;
    int result;
};

void tree_open_fs(struct tree *tree, bool require_token);
/* The directory alone: the test leaves things in the store, and then calls tree_start(). */
int tree_setup_empty(void **state);
void tree_start(struct tree *tree);
int tree_setup(void **state);
void tree_stop(struct tree *tree);
int tree_teardown(void **state);
void tree_restart(struct tree *tree);
void caller_init(struct caller *caller);
/* What the request gets: `r`, or what came later. */
int caller_wait(struct caller *caller, int r);
/* As the kernel: when a scan has ended, the lookup is made again. */
int tree_lookup(struct tree *tree, uint64_t parent, const char *name, uint64_t *ret_node,
                struct stat *ret);
/* The node at a path, or -errno. The root for "". */
/* Without a waiter. */
int tree_getattr(struct tree *tree, uint64_t node, struct stat *ret);
int64_t tree_try_walk(struct tree *tree, const char *path, struct stat *ret);
uint64_t tree_walk(struct tree *tree, const char *path);
struct stat tree_stat(struct tree *tree, const char *path);
/* open(2), O_CREAT and O_EXCL included. */
int tree_open_flags(struct tree *tree, const char *path, int flags, struct handle **ret);
struct handle *tree_open(struct tree *tree, const char *path, int flags);
int tree_pwrite(struct tree *tree, struct handle *handle, const char *bytes, size_t size,
                off_t offset, bool append);
int tree_write_at(struct tree *tree, struct handle *handle, const char *text, off_t offset);
/* As `printf text > path`: the first error, of the write or of the flush. */
int tree_put(struct tree *tree, const char *path, const char *text);
/* All that an open file gives, in small reads; owned, with a NUL. */
char *tree_read_open(struct tree *tree, struct handle *handle);
char *tree_read(struct tree *tree, const char *path);
void tree_assert_text(struct tree *tree, const char *path, const char *wanted);
void tree_assert_has(struct tree *tree, const char *path, const char *wanted);
int tree_mkdir(struct tree *tree, const char *path);
int tree_rmdir(struct tree *tree, const char *path);
int tree_unlink(struct tree *tree, const char *path);
int tree_rename(struct tree *tree, const char *path, const char *new_path, unsigned flags);
struct handle *tree_opendir(struct tree *tree, uint64_t node);
void tree_assert_names(struct tree *tree, const char *path, const char *wanted);
int tree_flush(struct tree *tree, struct handle *handle);
void tree_must_put(struct tree *tree, const char *path, const char *text);
/* What the tests of drafts use: the snapshot "base" with the mailbox "box". */
#define NEW "snapshots/base/forks/new/"
#define BOX NEW "mailboxes/box"
/* and a draft of one's own, which stays as it was staged when its commit fails. */
#define OWN "snapshots/base/forks/web-1/"
#define OWN_BOX OWN "mailboxes/box"

int tree_setup_base(void **state);
int tree_setup_draft(void **state);
/* A commit of the draft of one's own fails with EINVAL, and its error says why. */
void tree_assert_not_committed(struct tree *tree, const char *why);
/* A commit of that draft (its path) gets as far as to start a VMM, which is not there. */
void tree_assert_committable(struct tree *tree, const char *draft);

#define IN_TREE(test) cmocka_unit_test_setup_teardown(test, tree_setup, tree_teardown)
/* The fork "web-1" of "base" with that record, for the next start. */
void tree_leave_fork(struct tree *tree, const char *record);

extern const char tree_record[];
/* A snapshot "base" with the mailboxes box and fox, its fork "web-1", an instance "one" in standby
 * and a new one "two". */
void tree_furnish(struct tree *tree);

#define WITH_DRAFT(test) cmocka_unit_test_setup_teardown(test, tree_setup_draft, tree_teardown)
#define WITH_BASE(test) cmocka_unit_test_setup_teardown(test, tree_setup_base, tree_teardown)
#define IN_EMPTY_TREE(test) cmocka_unit_test_setup_teardown(test, tree_setup_empty, tree_teardown)

#endif
