/* SPDX-License-Identifier: MIT */
/*
 * What can be a disk: files, and block devices that are only read. With a real QEMU, and with
 * tests/fake_firecracker, which is not Firecracker.
 */
#include "fixture.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake.h"
#include "tiny_guest.h"
#include "util/cleanup.h"

static const char *const hypervisors[] = {"qemu", "firecracker"};

static char *file(struct harness *h, const char *name)
{
    return harness_path(h, "instances/x/%s", name);
}

static char *config(struct harness *h, const char *hypervisor, const char *disk)
{
    static const char *const names[] = {"m", NULL};
    const char *kernel = harness_json(h, tiny_guest_config(h, names), "kernel");
    return harness_format(h,
                          "{\"hypervisor\":\"%s\",\"kernel\":\"%s\",\"memory_mib\":8,"
                          "\"network\":{\"mode\":\"none\"},\"cmdline\":\"mailboxes=m\","
                          "\"disks\":[{\"format\":\"raw\",%s}]}",
                          hypervisor, kernel, disk);
}

static int commit(struct harness *h, const char *id)
{
    return harness_write(harness_path(h, "snapshots/s/forks/new/commit"), id);
}

static void assert_not_forked(struct harness *h, const char *words)
{
    assert_errno(commit(h, "f"), EIO);
    assert_file_contains(harness_path(h, "snapshots/s/forks/new/error"), words);
}

/* A loop device over 1 MiB; NULL if there are none here. It is gone when the descriptor is closed
 * and no VMM has it open. */
static char *attach(struct harness *h, const char *name, int *ret_fd)
{
    struct harness_result result = harness_shell(
        h, "bash",
        harness_format(h, "truncate -s 1M $T/%s && losetup -f --show $T/%s", name, name));
    if (result.status != 0)
        return NULL;
    char *path = harness_format(h, "%.*s", (int)strcspn(result.out, "\n"), result.out);
    *ret_fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_shell("bash", harness_format(h, "losetup -d %s", path), 0);
    assert_works(*ret_fd);
    return path;
}

static void write_to(struct harness *h, const char *device, const char *text)
{
    assert_shell("bash",
                 harness_format(h, "echo %s | dd of=%s conv=notrunc 2> $T/dd", text, device), 0);
}

/* "x" runs on T/disk, a link to the first. */
static void assert_device_is_a_disk(struct harness *h, const char *first, const char *second)
{
    write_to(h, first, "one"); /* which may be in the host's memory only yet */
    harness_put(file(h, "snapshot"), "s");
    assert_errno(commit(h, "a"), 0);
    assert_shell("bash", harness_format(h, "ln -sfn %s $T/disk", second), 0);
    assert_not_forked(h, "or another was attached there");
    assert_errno(harness_write(file(h, "snapshot"), "t"), EIO);
    assert_file_contains(file(h, "error"), "/disk is not the file that the VM has open");
    assert_shell("bash", harness_format(h, "ln -sfn %s $T/disk", first), 0);
    assert_errno(commit(h, "b"), 0);
    harness_put(file(h, "state"), "standby");
    harness_put(file(h, "state"), "running");
    write_to(h, first, "two");
    assert_not_forked(h, "something has written to the block device");
    harness_put(harness_path(h, "snapshots/s/accept"), "1");
    assert_errno(commit(h, "c"), 0);
}

static void block_device_that_is_only_read_is_a_disk(void **state)
{
    struct harness *h = *state;
    auto_close int first_fd = -1, second_fd = -1;
    const char *first = attach(h, "first", &first_fd);
    const char *second = first ? attach(h, "second", &second_fd) : NULL;
    if (!second) {
        print_message("no loop device can be made here\n");
        skip();
    }
    for (size_t i = 0; i < array_length(hypervisors); i++) {
        assert_works(mkdir(file(h, ""), 0755));
        assert_works(symlink(first, harness_format(h, "%s/disk", h->directory)));
        harness_put(
            file(h, "config"),
            config(h, hypervisors[i],
                   harness_format(h, "\"path\":\"%s/disk\",\"readonly\":true", h->directory)));
        harness_put(file(h, "state"), "running");
        harness_await(h, file(h, "console"), "ready");
        assert_device_is_a_disk(h, first, second);
        for (const char *id = "abc"; *id; id++)
            fake_drop(h, harness_format(h, "%c", *id));
        fake_drop(h, "x");
        assert_works(rmdir(harness_path(h, "snapshots/s")));
        assert_works(unlink(harness_format(h, "%s/disk", h->directory)));
    }
    /* One that is written to could not be frozen. */
    assert_works(mkdir(file(h, ""), 0755));
    assert_errno(harness_write(file(h, "config"),
                               config(h, "qemu", harness_format(h, "\"path\":\"%s\"", first))),
                 EINVAL);
    assert_file_contains(file(h, "error"), "is a block device, which can only be \"readonly\"");
}

static void what_is_no_disk_is_refused(void **state)
{
    static const char *const paths[] = {"/dev/null", "/etc", "fifo", "socket"};
    struct harness *h = *state;
    assert_shell("bash",
                 "mkfifo $T/fifo && python3 -c 'import socket, sys; "
                 "socket.socket(socket.AF_UNIX).bind(sys.argv[1])' $T/socket",
                 0);
    assert_works(mkdir(file(h, ""), 0755));
    for (size_t i = 0; i < array_length(hypervisors); i++)
        for (size_t j = 0; j < 2 * array_length(paths); j++) {
            const char *path = paths[j / 2];
            if (path[0] != '/')
                path = harness_format(h, "%s/%s", h->directory, path);
            const char *disk = harness_format(h, "\"path\":\"%s\",\"readonly\":%s", path,
                                              j % 2 ? "true" : "false");
            assert_errno(harness_write(file(h, "config"), config(h, hypervisors[i], disk)), EINVAL);
            assert_file_contains(file(h, "error"),
                                 harness_format(h, "the disk %s is not a regular file", path));
        }
    assert_string_equal(harness_get(h, file(h, "state")), "created\n");
}

static void file_that_became_no_disk_is_refused_at_the_boot(void **state)
{
    struct harness *h = *state;
    const char *path = harness_format(h, "%s/disk", h->directory);
    assert_works(mkdir(file(h, ""), 0755));
    for (size_t i = 0; i < array_length(hypervisors); i++) {
        assert_shell("bash", "rm -f $T/disk && truncate -s 1M $T/disk", 0);
        harness_put(file(h, "config"),
                    config(h, hypervisors[i], harness_format(h, "\"path\":\"%s\"", path)));
        assert_shell("bash", "rm $T/disk && mkfifo $T/disk", 0);
        assert_errno(harness_write(file(h, "state"), "running"), EINVAL);
        assert_file_contains(file(h, "error"),
                             harness_format(h, "the disk %s is not a regular file", path));
    }
}

/* Whatever path leads there, and however it is opened. */
static void disk_that_is_hypefs_s_own_is_refused(void **state)
{
    static const struct {
        char where; /* 'S': the store, 'T': the test's directory, 'M': the mount */
        const char *name;
    } paths[] = {
        {'S', "snapshots/base/memory"},
        {'S', "instances/x/instance.json"},
        {'S', "lock"},
        {'S', "format"},
        {'T', "symbolic/lock"},
        {'T', "hard"},
        {'M', "instances/x/console"},
        {'M', "README"},
    };
    struct harness *h = *state;
    fake_publish(h, "mailboxes=m", "");
    assert_works(mkdir(file(h, ""), 0755));
    assert_shell("bash", "ln -s $S $T/symbolic && ln $S/snapshots/base/memory $T/hard", 0);
    for (size_t i = 0; i < array_length(hypervisors); i++)
        for (size_t j = 0; j < 2 * array_length(paths); j++) {
            const char where = paths[j / 2].where, *name = paths[j / 2].name;
            const char *path = where == 'S'   ? harness_store_path(h, "%s", name)
                               : where == 'M' ? harness_path(h, "%s", name)
                                              : harness_format(h, "%s/%s", h->directory, name);
            const char *disk = harness_format(h, "\"path\":\"%s\",\"readonly\":%s", path,
                                              j % 2 ? "true" : "false");
            assert_errno(harness_write(file(h, "config"), config(h, hypervisors[i], disk)), EINVAL);
            assert_file_contains(
                file(h, "error"),
                harness_format(h, "the disk %s belongs to hypefs's own store", path));
            assert_file_contains(file(h, "error"), "cp --sparse=always");
        }
}

static void disk_that_became_hypefs_s_own_is_refused_at_the_boot(void **state)
{
    struct harness *h = *state;
    const char *path = harness_format(h, "%s/disk", h->directory);
    fake_publish(h, "mailboxes=m", "");
    assert_works(mkdir(file(h, ""), 0755));
    for (size_t i = 0; i < array_length(hypervisors); i++) {
        assert_shell("bash", "rm -f $T/disk && truncate -s 1M $T/disk", 0);
        harness_put(file(h, "config"),
                    config(h, hypervisors[i], harness_format(h, "\"path\":\"%s\"", path)));
        assert_shell("bash", "ln -f $S/snapshots/base/memory $T/disk", 0);
        assert_errno(harness_write(file(h, "state"), "running"), EINVAL);
        assert_file_contains(file(h, "error"),
                             harness_format(h, "the disk %s belongs to hypefs's own store", path));
    }
}

/* Each writes to the disk of the other, or reads while the other writes. */
static void disk_that_another_vm_writes_to_or_reads_is_busy(void **state)
{
    static const struct {
        bool first, second; /* is the disk read-only? */
        const char *words;  /* NULL: they share it */
    } cases[] = {
        {false, false, "is in use by the instance w, which writes to it"},
        {false, true, "is in use by the instance w, which writes to it"},
        {true, false, "is in use by the instance w, which reads it"},
        {true, true, NULL},
    };
    struct harness *h = *state;
    assert_shell("bash", "truncate -s 1M $T/disk", 0);
    assert_works(mkdir(file(h, ""), 0755));
    assert_works(mkdir(fake_instance(h, "w", ""), 0755));
    for (size_t i = 0; i < array_length(hypervisors) * array_length(cases); i++) {
        const char *hypervisor = hypervisors[i / array_length(cases)];
        const size_t which = i % array_length(cases);
        const bool readonly[] = {cases[which].first, cases[which].second};
        const char *ids[] = {"w", "x"};
        for (size_t j = 0; j < array_length(ids); j++)
            harness_put(fake_instance(h, ids[j], "config"),
                        config(h, hypervisor,
                               harness_format(h, "\"path\":\"%s/disk\",\"readonly\":%s",
                                              h->directory, readonly[j] ? "true" : "false")));
        harness_put(fake_instance(h, "w", "state"), "running");
        assert_errno(harness_write(file(h, "state"), "running"), cases[which].words ? EBUSY : 0);
        assert_file_contains(file(h, "error"), cases[which].words ? cases[which].words : "");
        harness_put(fake_instance(h, "w", "state"), "stopped");
        if (cases[which].words) /* now it is free */
            harness_put(file(h, "state"), "running");
        harness_put(file(h, "state"), "stopped");
    }
}

/* By its path twice, and by a hard link. */
static void disk_that_is_named_twice_is_refused_if_it_is_written_to(void **state)
{
    static const char *const others[] = {"disk", "link"};
    struct harness *h = *state;
    assert_shell("bash", "truncate -s 1M $T/disk && ln $T/disk $T/link", 0);
    assert_works(mkdir(file(h, ""), 0755));
    for (size_t i = 0; i < array_length(others); i++)
        for (int readonly = 0; readonly < 4; readonly++) {
            const char *words[] = {readonly & 1 ? "true" : "false",
                                   readonly & 2 ? "true" : "false"};
            harness_put(
                file(h, "config"),
                config(h, "qemu",
                       harness_format(h,
                                      "\"path\":\"%s/disk\",\"readonly\":%s},"
                                      "{\"format\":\"raw\",\"path\":\"%s/%s\","
                                      "\"readonly\":%s",
                                      h->directory, words[0], h->directory, others[i], words[1])));
            assert_errno(harness_write(file(h, "state"), "running"), readonly == 3 ? 0 : EINVAL);
            assert_file_contains(file(h, "error"),
                                 readonly == 3 ? "" : "is two disks of this instance");
            if (readonly == 3)
                harness_put(file(h, "state"), "stopped");
        }
}

/* As a daemon finds them that was started after the boot. */
static void disk_that_a_vm_reads_is_busy_after_a_restart(void **state)
{
    struct harness *h = *state;
    assert_shell("bash", "truncate -s 1M $T/disk", 0);
    const char *disk = harness_format(h, "\"path\":\"%s/disk\",\"readonly\":", h->directory);
    assert_works(mkdir(file(h, ""), 0755));
    assert_works(mkdir(fake_instance(h, "w", ""), 0755));
    harness_put(fake_instance(h, "w", "config"),
                config(h, "firecracker", harness_format(h, "%strue", disk)));
    harness_put(file(h, "config"), config(h, "firecracker", harness_format(h, "%sfalse", disk)));
    harness_put(fake_instance(h, "w", "state"), "running");
    assert_int_equal(harness_unmount(h), 0);
    fake_mount(h);
    assert_errno(harness_write(file(h, "state"), "running"), EBUSY);
    assert_file_contains(file(h, "error"), "is in use by the instance w, which reads it");
    harness_put(fake_instance(h, "w", "state"), "stopped");
}

static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    fake_mount(*state);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_no_disk_is_refused),
        TEST(file_that_became_no_disk_is_refused_at_the_boot),
        TEST(disk_that_is_hypefs_s_own_is_refused),
        TEST(disk_that_became_hypefs_s_own_is_refused_at_the_boot),
        TEST(disk_that_another_vm_writes_to_or_reads_is_busy),
        TEST(disk_that_is_named_twice_is_refused_if_it_is_written_to),
        TEST(disk_that_a_vm_reads_is_busy_after_a_restart),
    };
    const struct CMUnitTest as_root[] = {/* who may make a device */
                                         TEST(block_device_that_is_only_read_is_a_disk)};
    harness_enter();
    if (!tiny_guest_possible())
        return HARNESS_SKIPPED;
    int failed = cmocka_run_group_tests_name("devices", tests, NULL, NULL);
    return geteuid() == 0 ? failed + cmocka_run_group_tests_name("made", as_root, NULL, NULL)
                          : failed;
}
