/* SPDX-License-Identifier: MIT */
/* fixture: what the files of the mount suite begin with: a mounted store with a snapshot in it. */
#ifndef HYPEFS_TESTS_MOUNT_FIXTURE_H
#define HYPEFS_TESTS_MOUNT_FIXTURE_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "harness/harness.h"

/* snapshots/base, never run by a VM, has the mailboxes "m" (token "token-m"), "a" and "b" at the
 * second page and behind; it is mounted. */
int fixture_setup(void **state);
/* The same in a directory that harness_setup() made. */
int fixture_fill(struct harness *h);

/* An executable script in the test's directory, for a program that behaves badly. */
char *fixture_script(struct harness *h, const char *name, const char *text);

/* instances/ID as version 0.1 had it: one directory for the daemon's files and the VMM's, which may
 * be in it. No daemon runs. */
void fixture_make_old(struct harness *h, const char *id);

#define mounted_test(name) cmocka_unit_test_setup_teardown(name, fixture_setup, harness_teardown)
#define bare_test(name) cmocka_unit_test_setup_teardown(name, harness_setup, harness_teardown)

/* The errno is as wanted, 0 for success; both are named when it is not. */
#define assert_errno(got, wanted) fixture_assert_errno(got, wanted, #got, __FILE__, __LINE__)
/* A system call that fails with that errno. */
#define assert_fails(call, wanted) assert_errno((call) < 0 ? errno : 0, wanted)
#define assert_works(call) assert_errno((call) < 0 ? errno : 0, 0)
void fixture_assert_errno(int got, int wanted, const char *what, const char *file, int line);

#define assert_contains(text, part) fixture_assert_contains(text, part, __FILE__, __LINE__)
void fixture_assert_contains(const char *text, const char *part, const char *file, int line);

/* The file's content has that in it. */
#define assert_file_contains(path, part) assert_contains(harness_get(h, path), part)

/* For harness_enter_with(): HYPEFS_TEST_DISK becomes the path of a small disk, which root mounts for
 * the user that the tests run as. Users that are not root's tests have none. */
const char *fixture_mount_disk(const char *base);
/* Appends zeros until its disk is full. */
void fixture_fill_file(const char *path);

/* No instance, and nothing of one: no directory in the store, no VMM. */
void assert_no_instance(struct harness *h);

/* The word in its `state` is what the instance's VMM, the fake, says of itself, too. */
void assert_vmm_is(struct harness *h, const char *id, const char *state);

/* The script's exit status, with what it said when it is not as wanted. */
#define assert_shell(shell, script, wanted)                                                        \
    fixture_assert_shell(h, shell, script, wanted, __FILE__, __LINE__)
struct harness_result fixture_assert_shell(struct harness *h, const char *shell, const char *script,
                                           int wanted, const char *file, int line);

#endif
