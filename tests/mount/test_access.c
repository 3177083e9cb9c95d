/* SPDX-License-Identifier: MIT */
/* Who may do what with a file, whatever is in it; and descriptors of what is gone. */
#include "fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "util/cleanup.h"

static const char *const read_only[] = {
    "README",
    "snapshots/base/info",
    "snapshots/base/mailboxes/m",
    "snapshots/base/forks/new/status",
    "snapshots/base/forks/new/result",
    "snapshots/base/forks/new/error",
    "instances/x/info",
    "instances/x/error",
    "instances/x/vmm.log",
};

static const char *const writable[] = {
    "snapshots/base/forks/new/mailboxes/m",
    "snapshots/base/forks/new/options",
    "snapshots/base/forks/new/commit",
    "snapshots/base/forks/commit",
    "instances/x/config",
    "instances/x/state",
    "instances/x/snapshot",
    "instances/x/accept",
    "snapshots/base/accept",
};

static void furnish(struct harness *h)
{
    assert_works(mkdir(harness_path(h, "instances/x"), 0700));
    harness_put(harness_path(h, "snapshots/base/forks/new/mailboxes/m"), "{\"n\":1}\n");
}

static void read_only_file_when_opened_for_writing_gives_eacces(void **state)
{
    struct harness *h = *state;
    furnish(h);
    for (size_t i = 0; i < array_length(read_only); i++) {
        const char *path = harness_path(h, "%s", read_only[i]);
        assert_fails(open(path, O_WRONLY | O_CLOEXEC), EACCES);
        assert_fails(open(path, O_RDWR | O_CLOEXEC), EACCES);
        assert_fails(open(path, O_RDONLY | O_TRUNC | O_CLOEXEC), EACCES);
        assert_fails(open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600), EACCES);
        assert_fails(truncate(path, 0), EACCES);
    }
    assert_contains(assert_shell("bash", "echo x > README", 1).err, "Permission denied");
}

static void command_file_when_read_gives_nothing(void **state)
{
    struct harness *h = *state;
    static const char *const commands[] = {"snapshots/base/forks/new/commit",
                                           "snapshots/base/forks/commit", "instances/x/snapshot"};
    furnish(h);
    for (size_t i = 0; i < array_length(commands); i++) {
        const char *path = harness_path(h, "%s", commands[i]);
        if (geteuid() == 0)
            assert_string_equal(harness_get(h, path), "");
        else
            assert_errno(harness_read_errno(path), EACCES); /* its mode is 0200 */
    }
}

static void attributes_when_set_are_accepted_and_stay(void **state)
{
    struct harness *h = *state;
    const struct timespec times[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    furnish(h);
    for (size_t i = 0; i < array_length(read_only) + array_length(writable); i++) {
        const char *path = harness_path(
            h, "%s",
            i < array_length(read_only) ? read_only[i] : writable[i - array_length(read_only)]);
        struct stat before, after;
        assert_works(stat(path, &before));
        assert_works(chmod(path, 0777));
        assert_works(chown(path, geteuid(), getegid()));
        if (geteuid() == 0)
            assert_works(chown(path, 1, 1));
        assert_works(utimensat(AT_FDCWD, path, times, 0));
        assert_works(stat(path, &after));
        assert_int_equal(before.st_mode, after.st_mode);
        assert_int_equal(before.st_uid, after.st_uid);
        assert_int_not_equal(after.st_mtim.tv_sec, 1);
    }
}

static void touch_and_sync_when_used_on_any_file_succeed(void **state)
{
    struct harness *h = *state;
    furnish(h);
    for (size_t i = 0; i < array_length(writable); i++) {
        const char *path = harness_path(h, "%s", writable[i]);
        auto_close int fd = open(path, O_WRONLY | O_CLOEXEC);
        assert_works(fd);
        assert_works(fsync(fd));
        assert_works(fdatasync(fd));
        assert_works(futimens(fd, NULL));
    }
    auto_close int directory = open(harness_path(h, "instances"), O_RDONLY | O_CLOEXEC);
    assert_works(fsync(directory));
    assert_shell("bash", "touch README instances/x/* snapshots/base/forks/new/*; sync -f README",
                 0);
}

static void mtime_when_a_file_is_staged_moves_on(void **state)
{
    struct harness *h = *state;
    struct stat before, after;
    furnish(h);
    const char *path = harness_path(h, "snapshots/base/forks/new/mailboxes/m");
    assert_works(stat(path, &before));
    harness_put(path, "{\"n\":2}\n");
    assert_works(stat(path, &after));
    assert_true(after.st_mtim.tv_sec > before.st_mtim.tv_sec ||
                (after.st_mtim.tv_sec == before.st_mtim.tv_sec &&
                 after.st_mtim.tv_nsec > before.st_mtim.tv_nsec));
}

static void statfs_of_the_mount_answers(void **state)
{
    struct harness *h = *state;
    struct statfs st;
    assert_works(statfs(h->mount, &st));
    assert_in_range(st.f_namelen, 64, 1024);
    assert_shell("bash", "df . && findmnt -n -o FSTYPE,SOURCE -T . | grep -q fuse.hypefs", 0);
}

struct old {
    int options, staged, status, commit, directory;
};

static void open_old(struct harness *h, const char *draft, struct old *ret)
{
    *ret = (struct old){
        .options = open(harness_format(h, "%s/options", draft), O_RDWR | O_CLOEXEC),
        .staged =
            open(harness_format(h, "%s/mailboxes/m", draft), O_RDWR | O_CREAT | O_CLOEXEC, 0600),
        .status = open(harness_format(h, "%s/status", draft), O_RDONLY | O_CLOEXEC),
        .commit = open(harness_format(h, "%s/commit", draft), O_WRONLY | O_CLOEXEC),
        .directory = open(draft, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
    };
    assert_true(ret->options >= 0 && ret->staged >= 0 && ret->status >= 0 && ret->commit >= 0 &&
                ret->directory >= 0);
}

static void check_old(const struct old *old)
{
    char byte;
    struct stat st;
    assert_fails(write(old->options, "{}", 2), ENODEV);
    assert_fails(write(old->staged, "{}", 2), ENODEV);
    assert_fails(write(old->commit, "1", 1), ENODEV);
    assert_fails(pread(old->options, &byte, 1, 0), ENODEV);
    assert_fails(pread(old->staged, &byte, 1, 0), ENODEV);
    assert_fails(pread(old->status, &byte, 1, 0), ENODEV);
    assert_fails(ftruncate(old->options, 0), ENODEV);
    assert_fails(fstat(old->status, &st), ESTALE);
    assert_fails(fstat(old->directory, &st), ESTALE);
    assert_fails(openat(old->directory, "status", O_RDONLY | O_CLOEXEC), ESTALE);
    struct pollfd fd = {.fd = old->status, .events = POLLPRI};
    assert_int_equal(poll(&fd, 1, 0), 1);
    assert_true(fd.revents & POLLERR);
}

static void close_old(struct old *old)
{
    const int fds[] = {old->options, old->staged, old->status, old->commit, old->directory};
    for (size_t i = 0; i < array_length(fds); i++)
        close(fds[i]);
}

static void descriptors_when_a_draft_was_removed_and_made_again_give_enodev(void **state)
{
    struct harness *h = *state;
    struct old old;
    const char *draft = harness_path(h, "snapshots/base/forks/d");
    assert_works(mkdir(draft, 0755));
    open_old(h, draft, &old);
    assert_works(rmdir(draft));
    check_old(&old);
    assert_works(mkdir(draft, 0755));
    check_old(&old);
    close_old(&old);
    assert_string_equal(harness_get(h, harness_format(h, "%s/status", draft)), "empty\n");
}

static void descriptors_when_the_snapshot_was_removed_give_enodev(void **state)
{
    struct harness *h = *state;
    struct old old;
    const char *draft = harness_path(h, "snapshots/base/forks/new");
    open_old(h, draft, &old);
    assert_works(rmdir(harness_path(h, "snapshots/base")));
    check_old(&old);
    close_old(&old);
}

static void descriptors_when_an_instance_was_removed_give_enodev(void **state)
{
    struct harness *h = *state;
    char byte;
    furnish(h);
    auto_close int config = open(harness_path(h, "instances/x/config"), O_RDWR | O_CLOEXEC);
    auto_close int command = open(harness_path(h, "instances/x/state"), O_RDWR | O_CLOEXEC);
    auto_close int console = open(harness_path(h, "instances/x/console"), O_RDONLY | O_CLOEXEC);
    assert_works(rmdir(harness_path(h, "instances/x")));
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
    assert_fails(write(config, "{}", 2), ENODEV);
    assert_fails(write(command, "running", 7), ENODEV);
    assert_fails(pread(command, &byte, 1, 0), ENODEV);
    assert_fails(pread(console, &byte, 1, 0), ENODEV);
    assert_contains(harness_get(h, harness_path(h, "instances/x/state")), "created");
}

static void file_unlinked_while_open_changes_nothing_any_more(void **state)
{
    struct harness *h = *state;
    const char *path = harness_path(h, "snapshots/base/forks/new/mailboxes/m");
    auto_close int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_works(unlink(path));
    if (write(fd, "{}", 2) < 0)
        assert_int_equal(errno, ENODEV);
    assert_fails(access(path, F_OK), ENOENT);
    assert_string_equal(harness_get(h, harness_path(h, "snapshots/base/forks/new/status")),
                        "empty\n");
}

static void walks_over_the_whole_mount_finish(void **state)
{
    struct harness *h = *state;
    furnish(h);
    assert_shell("bash", "ls -lR . > /dev/null && du -sh . && find . -type f -newer README", 0);
    struct harness_result result =
        assert_shell("bash",
                     "grep -r mailboxes . 2> $T/err; grep -v -e 'Permission denied' "
                     "-e '^grep: ./events: Resource temporarily unavailable$' $T/err",
                     1);
    assert_contains(result.out, "README:");
    if (geteuid() == 0)
        assert_shell("bash",
                     "mkdir $T/copy && cp -r README error instances snapshots $T/copy && diff -r "
                     "-x events . $T/copy && "
                     "tar cf - --exclude=events . | tar df - .",
                     0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        mounted_test(read_only_file_when_opened_for_writing_gives_eacces),
        mounted_test(command_file_when_read_gives_nothing),
        mounted_test(attributes_when_set_are_accepted_and_stay),
        mounted_test(touch_and_sync_when_used_on_any_file_succeed),
        mounted_test(mtime_when_a_file_is_staged_moves_on),
        mounted_test(statfs_of_the_mount_answers),
        mounted_test(descriptors_when_a_draft_was_removed_and_made_again_give_enodev),
        mounted_test(descriptors_when_the_snapshot_was_removed_give_enodev),
        mounted_test(descriptors_when_an_instance_was_removed_give_enodev),
        mounted_test(file_unlinked_while_open_changes_nothing_any_more),
        mounted_test(walks_over_the_whole_mount_finish),
    };
    harness_enter();
    return cmocka_run_group_tests_name("access", tests, NULL, NULL);
}
