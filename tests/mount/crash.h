/* SPDX-License-Identifier: MIT */
/*
 * crash: a daemon that is ended at each point that an operation passes (util/fault.h), started
 * again, and what is there then.
 */
#ifndef HYPEFS_TESTS_MOUNT_CRASH_H
#define HYPEFS_TESTS_MOUNT_CRASH_H

#include "fixture.h"

/* Made anew, and run, for each point: what it was made of is taken away afterwards. snapshots/base
 * is there, with the mailbox m. */
struct crash_operation {
    /* May be NULL. */
    void (*prepare)(struct harness *h);
    /* Comes before each `run`, and ends with the daemon. May be NULL. */
    void (*stage)(struct harness *h);
    /* The errno. */
    int (*run)(struct harness *h);
    /* Was it done? Fails the test if it was half done. */
    bool (*done)(struct harness *h);
    /* Another program is ended, with crash_plan, and the daemon lives on. EINTR: it was. */
    bool elsewhere;
    /* With the daemon all VMMs end, as with the host. */
    bool host_ends;
    /* x may go on in another VMM. */
    bool moves;
    /* What its guest prints goes on. */
    bool talks;
};
void crash_everywhere(struct harness *h, const struct crash_operation *operation);

/* harness_enter(), with the stores in memory where that can be: nothing waits for a disk. */
void crash_enter(void);
/* For cmocka: the daemon runs, with the fake as Firecracker. */
int crash_setup(void **state);
int crash_teardown(void **state);
/* Were daemons ended at each of the points? Tells at which none was. */
bool crash_passed_all(void);
/* What a program said when it was ended at a point. */
void crash_note(const char *text);

/* MOUNT/instances/ID/FILE */
char *crash_instance(struct harness *h, const char *id, const char *file);
/* An instance that can be booted, has a mailbox, and a disk that it can write to. */
void crash_make(struct harness *h, const char *id);
/* The same with the file of that name in the test's directory as its disk. */
char *crash_config(struct harness *h, const char *disk);
/* What HYPEFS_FAULT is to be, for `run` of `elsewhere`; NULL: nothing. */
extern const char *crash_plan;

#endif
