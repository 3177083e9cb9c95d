/* SPDX-License-Identifier: MIT */
/* import_fixture: what the tests of imports share: a directory with files in it, and the check of
 * them. Header only; it needs cmocka included before. */
#ifndef HYPEFS_TESTS_UNIT_IMPORT_FIXTURE_H
#define HYPEFS_TESTS_UNIT_IMPORT_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/import.h"
#include "store/snapshot_entry.h"
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

static inline int setup(void **state)
{
    struct bench *bench = calloc(1, sizeof *bench);
    if (!bench)
        return -1;
    const char *tmp = getenv("TMPDIR");
    snprintf(bench->directory, sizeof bench->directory, "%.128s/hypefs-import-XXXXXX",
             tmp && tmp[0] == '/' ? tmp : "/tmp");
    *state = bench;
    return mkdtemp(bench->directory) ? 0 : -1;
}

static inline int remove_one(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)st;
    (void)type;
    (void)walk;
    return remove(path);
}

static inline int teardown(void **state)
{
    struct bench *bench = *state;
    import_finish(&bench->import);
    nftw(bench->directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(bench);
    return 0;
}

static inline char *path_of(const struct bench *bench, const char *name, char ret[PATH_SIZE])
{
    snprintf(ret, PATH_SIZE, "%s/%s", bench->directory, name);
    return ret;
}

static inline void put(const struct bench *bench, const char *name, const void *bytes, size_t size)
{
    char path[PATH_SIZE];
    auto_close int fd =
        open(path_of(bench, name, path), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, size), (ssize_t)size);
}

/* "@" in it stands for the directory. */
static inline void put_config(const struct bench *bench, const char *text)
{
    char whole[4096];
    size_t used = 0;
    for (; *text; text++)
        used +=
            (size_t)snprintf(whole + used, sizeof whole - used, "%.*s",
                             *text == '@' ? PATH_SIZE : 1, *text == '@' ? bench->directory : text);
    put(bench, "config", whole, used);
}

static inline void put_memory(const struct bench *bench, off_t size)
{
    char path[PATH_SIZE];
    put(bench, "memory", "", 0);
    assert_int_equal(truncate(path_of(bench, "memory", path), size), 0);
}

/* Of the files that are there. */
static inline int check(struct bench *bench, const char *hypervisor, bool with_config)
{
    char memory[PATH_SIZE], state[PATH_SIZE], config[PATH_SIZE];
    struct import_files files = {.config = {.fd = -1}, .check_version = snapshot_check_version};
    import_finish(&bench->import);
    bench->err = (struct error){0};
    assert_int_equal(import_file_open(path_of(bench, "memory", memory), &files.memory, &bench->err),
                     0);
    assert_int_equal(import_file_open(path_of(bench, "state", state), &files.state, &bench->err),
                     0);
    if (with_config)
        assert_int_equal(
            import_file_open(path_of(bench, "config", config), &files.config, &bench->err), 0);
    int r = import_check(hypervisor, &files, &bench->import, &bench->err);
    import_file_close(&files.memory);
    import_file_close(&files.state);
    import_file_close(&files.config);
    return r;
}

static inline void assert_checked(struct bench *bench, const char *hypervisor, bool with_config)
{
    if (check(bench, hypervisor, with_config) < 0)
        fail_msg("%s: %s", hypervisor, bench->err.text);
}

static inline void assert_refused(struct bench *bench, const char *hypervisor, bool with_config,
                                  int code, const char *why)
{
    int r = check(bench, hypervisor, with_config);
    if (r != -code || !strstr(bench->err.text, why))
        fail_msg("%s: %d, not %d for \"%s\": %s", hypervisor, -r, code, why, bench->err.text);
}

static inline void assert_described(const struct bench *bench, const char *wanted)
{
    auto_json cJSON *json = machine_to_json(&bench->import.machine);
    auto_free char *text = cJSON_PrintUnformatted(json);
    if (!strstr(text, wanted))
        fail_msg("\"%s\" is not in \"%s\"", wanted, text);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

#endif
