/* SPDX-License-Identifier: MIT */
/*
 * vmm_fixture: what the tests of VMMs share: a base directory with a comma and a space in its path,
 * folders and files in it, and scripts that stand for QEMU. The teardown ends what a failed test
 * has left running, and fails when processes or descriptors were left. Header only.
 */
#ifndef HYPEFS_TESTS_UNIT_VMM_FIXTURE_H
#define HYPEFS_TESTS_UNIT_VMM_FIXTURE_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hypervisor/hypervisor.h"
#include "util/cleanup.h"
#include "util/process.h"

enum { FAR_MS = 30000, FIXTURE_DIRECTORIES = 8, BASE_SIZE = 64 };

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

static inline size_t fixture_descriptors(void)
{
    auto_closedir DIR *directory = opendir("/proc/self/fd");
    size_t count = 0;
    while (directory && readdir(directory))
        count++;
    return count;
}

static inline int fixture_setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    if (!fixture)
        return -1;
    fixture->descriptors = fixture_descriptors();
    *state = fixture;
    snprintf(fixture->base, sizeof fixture->base, "/tmp/hypefs vmm,share=on-XXXXXX");
    if (!mkdtemp(fixture->base))
        return -1;
    fixture->base_fd = open(fixture->base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fixture->qemu = hypervisor_find("qemu");
    return fixture->base_fd < 0 ? -1 : vmm_programs_create(&fixture->programs, NULL);
}

static inline int fixture_remove(const char *path, const struct stat *file, int type,
                                 struct FTW *walk)
{
    (void)file;
    (void)type;
    (void)walk;
    return remove(path);
}

/* Those of this thread, with what they have started. Returns how many there were. */
static inline size_t fixture_end_children(void)
{
    auto_fclose FILE *file = fopen("/proc/thread-self/children", "re");
    size_t count = 0;
    for (int child; file && fscanf(file, "%d", &child) == 1; count++) {
        kill(-child, SIGKILL);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    return count;
}

static inline int fixture_teardown(void **state)
{
    struct fixture *fixture = *state;
    size_t children = fixture_end_children();
    for (size_t i = 0; i < fixture->directory_count; i++)
        close(fixture->directories[i]);
    close(fixture->base_fd);
    vmm_programs_destroy(fixture->programs);
    nftw(fixture->base, fixture_remove, 16, FTW_DEPTH | FTW_PHYS);
    size_t before = fixture->descriptors, after = fixture_descriptors();
    free(fixture);
    if (before != after)
        print_error("%zu descriptors were open before, and %zu after\n", before, after);
    if (children > 0)
        print_error("%zu processes were left\n", children);
    return before == after && children == 0 ? 0 : -1;
}

/* A new folder, and the context of a VMM in it. */
static inline struct vmm_context fixture_context(struct fixture *fixture, const char *name,
                                                 const char *binary)
{
    assert_true(fixture->directory_count < FIXTURE_DIRECTORIES);
    assert_int_equal(mkdirat(fixture->base_fd, name, 0700), 0);
    int fd = openat(fixture->base_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    fixture->directories[fixture->directory_count++] = fd;
    return (struct vmm_context){
        .binary = binary, .programs = fixture->programs, .directory_fd = fd, .cancel_fd = -1};
}

static inline void fixture_write(int directory_fd, const char *name, mode_t mode, const void *bytes,
                                 size_t size)
{
    auto_close int fd = openat(directory_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, size), (ssize_t)size);
}

/* The whole file with a NUL behind it; NULL if there is none. Owned. */
static inline char *fixture_read(int directory_fd, const char *name, size_t *ret_size)
{
    auto_close int fd = openat(directory_fd, name, O_RDONLY | O_CLOEXEC);
    struct stat file;
    if (fd < 0)
        return NULL;
    assert_int_equal(fstat(fd, &file), 0);
    size_t size = (size_t)file.st_size;
    char *bytes = malloc(size + 1);
    assert_non_null(bytes);
    assert_int_equal(read(fd, bytes, size), (ssize_t)size);
    bytes[size] = '\0';
    if (ret_size)
        *ret_size = size;
    return bytes;
}

static inline bool fixture_has(int directory_fd, const char *name)
{
    return faccessat(directory_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* A script in the base directory. Returns its path, owned. */
static inline char *fixture_script(const struct fixture *fixture, const char *name,
                                   const char *text)
{
    char *path = NULL;
    assert_true(asprintf(&path, "%s/%s", fixture->base, name) > 0);
    fixture_write(fixture->base_fd, name, 0700, text, strlen(text));
    return path;
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

#endif
