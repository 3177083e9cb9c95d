/* SPDX-License-Identifier: MIT */
/* import_fixture: what the tests of imports share: a directory with files in it, and the check of
 * them. */
#ifndef HYPEFS_TESTS_UNIT_IMPORT_FIXTURE_H
#define HYPEFS_TESTS_UNIT_IMPORT_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/import.h"
#include "store/snapshot_entry.h"
#include "test.h"
#include "util/cleanup.h"
#include "util/json.h"

enum { PATH_SIZE = 512, MIB = 1 << 20 };

#if defined(__aarch64__)
#define OWN "\x00\x00\xAA\xAA\x84\x19\x10\x07"
#define FOREIGN "\x00\x00\x64\x86\x84\x19\x10\x07"
#define FOREIGN_NAME "saved on x86-64"
#else
#define OWN "\x00\x00\x64\x86\x84\x19\x10\x07"
#define FOREIGN "\x00\x00\xAA\xAA\x84\x19\x10\x07"
#define FOREIGN_NAME "saved on arm64"
#endif

#define QEMU_STATE "QEVM\0\0\0\3\4\0\0\0\0\5timer"
#define FIRECRACKER_STATE OWN "\5\0\0\0\0\0\0\0007.0.0"
#define CLOUD_STATE "{\"id\":\"\",\"snapshots\":{},\"snapshot_data\":{}}"

/* A directory with the files, and what became of them. */
struct bench {
    char directory[PATH_SIZE / 2];
    struct import import;
    struct error err;
};
int setup(void **state);
int teardown(void **state);
char *path_of(const struct bench *bench, const char *name, char ret[PATH_SIZE]);
void put(const struct bench *bench, const char *name, const void *bytes, size_t size);
/* "@" in it stands for the directory. */
void put_config(const struct bench *bench, const char *text);
void put_memory(const struct bench *bench, off_t size);
/* Of the files that are there. */
int check(struct bench *bench, const char *hypervisor, bool with_config);
void assert_checked(struct bench *bench, const char *hypervisor, bool with_config);
void assert_refused(struct bench *bench, const char *hypervisor, bool with_config, int code,
                    const char *why);
void assert_described(const struct bench *bench, const char *wanted);

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

#endif
