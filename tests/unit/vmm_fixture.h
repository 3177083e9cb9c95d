/* SPDX-License-Identifier: MIT */
/*
 * vmm_fixture: what the tests of VMMs share: a base directory with a comma and a space in its path,
 * folders and files in it, and scripts that stand for QEMU. The teardown ends what a failed test
 * has left running, and fails when processes or descriptors were left.
 */
#ifndef HYPEFS_TESTS_UNIT_VMM_FIXTURE_H
#define HYPEFS_TESTS_UNIT_VMM_FIXTURE_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hypervisor/hypervisor.h"
#include "test.h"
#include "util/cleanup.h"
#include "util/process.h"

enum { FAR_MS = 30000, FIXTURE_DIRECTORIES = 8, BASE_SIZE = 256 };

struct fixture {
    size_t descriptors; /* open before the test */
    char base[BASE_SIZE];
    int base_fd, directories[FIXTURE_DIRECTORIES];
    size_t directory_count;
    struct vmm_programs *programs;
    const struct hypervisor *qemu;
};
/* For a VM that ends after it. */
static const struct vmm_save fixture_save __attribute__((unused)) = {.directory = "."};
int fixture_setup(void **state);
int fixture_teardown(void **state);
/* A new folder, and the context of a VMM in it. */
struct vmm_context fixture_context(struct fixture *fixture, const char *name, const char *binary);
void fixture_write(int directory_fd, const char *name, mode_t mode, const void *bytes, size_t size);
/* The whole file with a NUL behind it; NULL if there is none. Owned. */
char *fixture_read(int directory_fd, const char *name, size_t *ret_size);
bool fixture_has(int directory_fd, const char *name);
/* A script in the base directory. Returns its path, owned. */
char *fixture_script(const struct fixture *fixture, const char *name, const char *text);

#define WITH(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

#endif
