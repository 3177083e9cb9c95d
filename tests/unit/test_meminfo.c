/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "place.h"
#include "test.h"
#include "util/cleanup.h"
#include "util/meminfo.h"

/* 0 to 100, or -errno. */
static int available(const char *text)
{
    char path[] = "/tmp/hypefs-meminfo-XXXXXX";
    auto_close int fd = mkstemp(path);
    int percent = -1;
    struct error err = {0};
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    int r = meminfo_available(path, &percent, &err);
    assert_int_equal(unlink(path), 0);
    assert_true(r == 0 || strstr(err.text, path));
    return r < 0 ? r : percent;
}

static void available_of_a_host_is_a_part_of_its_total(void **state)
{
    (void)state;
    assert_int_equal(available("MemTotal: 2000 kB\nMemFree: 9 kB\nMemAvailable: 99 kB\n"), 4);
    assert_int_equal(available("MemTotal: 2000 kB\nMemAvailable: 100 kB\n"), 5);
    assert_int_equal(available("MemTotal: 2000 kB\nMemAvailable: 2000 kB\n"), 100);
    assert_int_equal(available("MemTotal: 2000 kB\nMemAvailable: 0 kB\n"), 0);
}

static void file_that_does_not_tell_is_refused(void **state)
{
    static const char *const texts[] = {"",
                                        "MemTotal: 1 kB\n",
                                        "MemAvailable: 1 kB\n",
                                        "MemTotal: 0 kB\nMemAvailable: 0 kB\n",
                                        "MemTotal: 1 kB\nMemAvailable: 2 kB\n",
                                        "MemTotal: x\nMemAvailable: 2 kB\n"};
    struct error err;
    int percent;
    (void)state;
    for (size_t i = 0; i < array_length(texts); i++)
        assert_int_equal(available(texts[i]), -EINVAL);
    assert_int_equal(meminfo_available("/nowhere", &percent, &err), -EIO);
}

/* A file below the root of a tree of cgroups. */
static void put(const char *root, const char *path, const char *text)
{
    char name[512];
    snprintf(name, sizeof name, "%s/%s", root, path);
    auto_fclose FILE *file = fopen(name, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
}

static void make(const char *root, const char *path)
{
    char name[512];
    snprintf(name, sizeof name, "%s/%s", root, path);
    assert_int_equal(mkdir(name, 0700), 0);
}

static bool cgroup(const char *root, const char *self, uint64_t enough, struct meminfo *ret)
{
    char name[512];
    put(root, "self", self);
    snprintf(name, sizeof name, "%s/self", root);
    return meminfo_cgroup(name, root, enough, ret);
}

static void cgroup_that_leaves_least_counts(void **state)
{
    char root[256];
    struct meminfo memory = {0};
    (void)state;
    assert_int_equal(place_make(root, sizeof root, "cgroup"), 0);
    make(root, "a");
    make(root, "a/b");
    assert_false(cgroup(root, "0::/a/b\n", 0, &memory));
    put(root, "a/b/memory.max", "max\n");
    put(root, "a/b/memory.current", "100\n");
    assert_false(cgroup(root, "0::/a/b\n", 0, &memory));
    put(root, "a/memory.max", "1000\n");
    put(root, "a/memory.current", "900\n");
    assert_true(cgroup(root, "3:cpu:/x\n0::/a/b\n", 0, &memory));
    assert_int_equal(memory.total, 1000);
    assert_int_equal(memory.available, 100);
    put(root, "a/b/memory.max", "150\n");
    assert_true(cgroup(root, "0::/a/b\n", 0, &memory));
    assert_int_equal(memory.available, 50);
    assert_false(cgroup(root, "3:memory:/a\n", 0, &memory)); /* of v1 */
    assert_false(cgroup(root, "0::/\n", 0, &memory));
    place_remove(root);
}

static void cache_of_files_is_available_where_that_counts(void **state)
{
    char root[256];
    struct meminfo memory = {0};
    (void)state;
    assert_int_equal(place_make(root, sizeof root, "cgroup"), 0);
    put(root, "memory.max", "1000\n");
    put(root, "memory.current", "1200\n");
    put(root, "memory.stat", "anon 100\nfile 700\ninactive_file 500\nactive_file 200\n");
    assert_true(cgroup(root, "0::/\n", 0, &memory));
    assert_int_equal(memory.available, 0);
    assert_true(cgroup(root, "0::/\n", 1, &memory));
    assert_int_equal(memory.available, 700);
    place_remove(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(available_of_a_host_is_a_part_of_its_total),
        cmocka_unit_test(file_that_does_not_tell_is_refused),
        cmocka_unit_test(cgroup_that_leaves_least_counts),
        cmocka_unit_test(cache_of_files_is_available_where_that_counts),
    };
    return cmocka_run_group_tests_name("meminfo", tests, NULL, NULL);
}
