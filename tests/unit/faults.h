/* SPDX-License-Identifier: MIT */
/*
 * faults: calls of the C library that fail when a test wants it. A test that is linked with
 * faults.c and with --wrap of each function there (see the build file) arms the thread that works;
 * the call with the number `fail_at` then fails, once. Of what comes from one place in the code
 * only the first two calls count: the later turns of a loop are as its first. But of what changes
 * the store's directories, and of the writing of a record, each counts: one place writes all
 * records. With `memory` each call that takes memory counts, and nothing else.
 */
#ifndef HYPEFS_TESTS_UNIT_FAULTS_H
#define HYPEFS_TESTS_UNIT_FAULTS_H

#include <stdbool.h>

struct faults {
    unsigned fail_at;   /* counted from 1; 0: none fails */
    unsigned calls;     /* so far */
    char name[256];     /* of the file, if it was unlinkat(); else "" */
    const char *failed; /* which one it was; NULL: none yet */
    const char *only;   /* the call that may fail; NULL: each */
    bool memory;
    bool threads; /* those that start from now on are armed, too */
    void (*unlinking)(int directory_fd, const char *name); /* before it is done; NULL: no such */
};

extern struct faults faults;
extern _Thread_local bool faults_armed; /* calls of this thread count */

/* Counts anew, and nothing has failed. */
void faults_begin(unsigned fail_at);
/* What was written did not get to the disk. */
bool faults_lost_data(void);

#endif
