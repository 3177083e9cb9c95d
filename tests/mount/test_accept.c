/* SPDX-License-Identifier: MIT */
/* Images and disks that were changed behind hypefs's back: nothing uses them until somebody vouches
 * for what is there now. */
#include "fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tiny_guest.h"
#include "util/cleanup.h"

static void assert_refused(struct harness *h, const char *source, const char *words)
{
    harness_put(harness_path(h, "%s/forks/new/mailboxes/m", source), "{\"n\":1}");
    assert_errno(harness_write(harness_path(h, "%s/forks/new/commit", source), "f1"), EIO);
    const char *error = harness_get(h, harness_path(h, "%s/forks/new/error", source));
    assert_contains(error, words);
    assert_contains(error, "hypefs accept");
    assert_fails(access(harness_path(h, "instances/f1"), F_OK), ENOENT);
}

static void assert_forks(struct harness *h, const char *source)
{
    harness_put(harness_path(h, "%s/forks/new/mailboxes/m", source), "{\"n\":1}");
    harness_put(harness_path(h, "%s/forks/new/commit", source), "f1");
    harness_await(h, harness_path(h, "instances/f1/console"), "m {\"n\":1}\n");
    harness_put(harness_path(h, "instances/f1/state"), "stopped");
    assert_works(rmdir(harness_path(h, "instances/f1")));
}

static char *accept_with_cli(struct harness *h, const char *directory)
{
    return assert_shell("bash", harness_format(h, "$HYPEFS accept %s", directory), 0).out;
}

static void image_that_was_changed_when_forked_is_eio_until_it_is_accepted(void **state)
{
    struct harness *h = *state;
    static const struct {
        const char *script, *words;
    } changes[] = {
        {"touch -d 2024-02-03T04:05:06Z memory", "is 2024-02-03T04:05:06.000000000Z"},
        {"cp -a --sparse=always memory m && mv -f m memory", "inode was "},
        {"chmod u+w memory && printf X | dd of=memory bs=1 conv=notrunc status=none", "mtime was "},
    };
    for (size_t i = 0; i < array_length(changes); i++) {
        assert_shell("bash", harness_format(h, "cd $S/snapshots/base && %s", changes[i].script), 0);
        assert_refused(h, "snapshots/base", changes[i].words);
        const char *info = harness_get(h, harness_path(h, "snapshots/base/info"));
        assert_contains(harness_json(h, info, "changed"), changes[i].words);
        assert_string_equal(harness_json(h, info, "mailboxes"), "null");
        assert_errno(harness_read_errno(harness_path(h, "snapshots/base/mailboxes/m")), EIO);
        const char *out = accept_with_cli(h, "snapshots/base");
        assert_contains(out, "snapshots/base: accepted memory: ");
        assert_contains(out, changes[i].words);
        info = harness_get(h, harness_path(h, "snapshots/base/info"));
        assert_string_equal(harness_json(h, info, "changed"), "null");
        assert_string_equal(
            harness_json(h, info, "accepted"),
            harness_json(h, harness_get(h, harness_path(h, "snapshots/base/accept")), "at"));
        assert_forks(h, "snapshots/base");
    }
    assert_file_contains(h->log, "the snapshot base is accepted");
}

/* It is read by each load, as the image is. */
static void state_that_was_changed_when_forked_is_eio_until_it_is_accepted(void **state)
{
    struct harness *h = *state;
    static const struct {
        const char *script, *words;
    } changes[] = {
        {"touch -d 2024-02-03T04:05:06Z state", "mtime was "},
        {"cp -a state s && mv -f s state", "inode was "},
        {"cp -a state s && printf X >> s && mv -f s state", "size was "},
    };
    for (size_t i = 0; i < array_length(changes); i++) {
        assert_shell("bash", harness_format(h, "cd $S/snapshots/base && %s", changes[i].script), 0);
        assert_refused(h, "snapshots/base", "the device state is not what it was");
        assert_refused(h, "snapshots/base", changes[i].words);
        assert_int_equal(harness_unmount(h), 0);
        harness_mount(h, NULL);
        assert_refused(h, "snapshots/base", changes[i].words);
        const char *info = harness_get(h, harness_path(h, "snapshots/base/info"));
        assert_contains(harness_json(h, info, "changed"), changes[i].words);
        const char *out = accept_with_cli(h, "snapshots/base");
        assert_contains(out, "snapshots/base: accepted state: ");
        assert_contains(out, changes[i].words);
        assert_null(strstr(out, "memory"));
        assert_forks(h, "snapshots/base");
    }
    harness_put(harness_path(h, "snapshots/base/forks/new/commit"), "x");
    harness_put(harness_path(h, "instances/x/state"), "standby");
    assert_shell("bash", "touch -d 2024-02-03T04:05:06Z $S/instances/x/run/state", 0);
    assert_errno(harness_write(harness_path(h, "instances/x/state"), "running"), EIO);
    assert_file_contains(harness_path(h, "instances/x/error"), "the device state is not what");
    harness_put(harness_path(h, "instances/x/accept"), "1");
    harness_put(harness_path(h, "instances/x/state"), "running");
}

/* Nobody can vouch for what is not there: what was recorded of it stays. */
static void state_that_is_gone_is_not_accepted(void **state)
{
    struct harness *h = *state;
    static const char gone[] = "the device state is gone";
    assert_shell("bash",
                 "cp -a $S/snapshots/base/state $T/copy && mv $S/snapshots/base/state $T/kept", 0);
    const char *info = harness_get(h, harness_path(h, "snapshots/base/info"));
    assert_string_equal(harness_json(h, info, "changed"), gone);
    assert_errno(harness_write(harness_path(h, "snapshots/base/accept"), "1"), EIO);
    assert_contains(assert_shell("bash", "$HYPEFS accept snapshots/base", 1).err, gone);
    assert_errno(harness_write(harness_path(h, "snapshots/base/forks/new/commit"), "1"), EIO);
    assert_shell("bash", "mv $T/copy $S/snapshots/base/state", 0);
    assert_refused(h, "snapshots/base", "the device state is not what it was");
    assert_shell("bash", "mv $T/kept $S/snapshots/base/state", 0);
    assert_forks(h, "snapshots/base");
    harness_put(harness_path(h, "snapshots/base/forks/new/commit"), "x");
    harness_put(harness_path(h, "instances/x/state"), "standby");
    assert_shell("bash", "mkfifo $S/instances/x/f && mv $S/instances/x/f $S/instances/x/run/state",
                 0);
    assert_errno(harness_write(harness_path(h, "instances/x/accept"), "1"), EIO);
    assert_errno(harness_write(harness_path(h, "instances/x/state"), "running"), EIO);
    assert_file_contains(harness_path(h, "instances/x/error"), "state is not a regular file");
}

/* Without a payload too, for nothing of the image is looked at then; and after a restart. */
static void image_that_is_gone_is_told_in_as_many_words(void **state)
{
    struct harness *h = *state;
    assert_shell("bash", "mv $S/snapshots/base/memory $T/kept", 0);
    const char *info = harness_get(h, harness_path(h, "snapshots/base/info"));
    assert_string_equal(harness_json(h, info, "changed"), "the memory image is gone");
}

static void commit_without_a_payload_of_a_changed_image_is_eio(void **state)
{
    struct harness *h = *state;
    assert_shell("bash", "touch -d 2024-02-03T04:05:06Z $S/snapshots/base/memory", 0);
    assert_errno(harness_write(harness_path(h, "snapshots/base/forks/new/commit"), "f1"), EIO);
    assert_int_equal(harness_unmount(h), 0);
    harness_mount(h, NULL);
    assert_errno(harness_write(harness_path(h, "snapshots/base/forks/new/commit"), "f1"), EIO);
    harness_put(harness_path(h, "snapshots/base/accept"), "1\n");
    assert_int_equal(harness_unmount(h), 0);
    harness_mount(h, NULL);
    assert_forks(h, "snapshots/base");
}

static void backup_that_was_restored_when_accepted_by_a_glob_is_whole_again(void **state)
{
    struct harness *h = *state;
    tiny_guest_snapshot(h, "other", (const char *const[]){"m", NULL});
    assert_int_equal(harness_unmount(h), 0);
    assert_shell("bash", "cp -a --sparse=always $S $T/backup && rm -rf $S && mv $T/backup $S", 0);
    harness_mount(h, NULL);
    assert_refused(h, "snapshots/base", "inode was ");
    assert_refused(h, "snapshots/other", "inode was ");
    const char *out = accept_with_cli(h, "snapshots/*");
    assert_contains(out, "snapshots/base: accepted memory: inode");
    assert_contains(out, "snapshots/other: accepted memory: inode");
    assert_forks(h, "snapshots/base");
    assert_forks(h, "snapshots/other");
}

static void instance_in_standby_when_its_image_was_changed_is_eio_until_it_is_accepted(void **state)
{
    struct harness *h = *state;
    harness_put(harness_path(h, "snapshots/base/forks/new/commit"), "x");
    harness_put(harness_path(h, "instances/x/state"), "standby");
    assert_shell("bash", "touch -d 2024-02-03T04:05:06Z $S/instances/x/run/memory", 0);
    assert_errno(harness_write(harness_path(h, "instances/x/state"), "running"), EIO);
    assert_file_contains(harness_path(h, "instances/x/error"), "is 2024-02-03T04:05:06");
    assert_errno(harness_write(harness_path(h, "instances/x/snapshot"), "s"), EIO);
    assert_refused(h, "instances/x", "mtime was ");
    const char *info = harness_get(h, harness_path(h, "instances/x/info"));
    assert_contains(harness_json(h, info, "changed"), "mtime was ");
    assert_contains(accept_with_cli(h, "instances/x"), "instances/x: accepted memory: mtime was ");
    harness_put(harness_path(h, "instances/x/snapshot"), "s");
    assert_forks(h, "instances/x");
    harness_put(harness_path(h, "instances/x/state"), "running");
    assert_errno(harness_write(harness_path(h, "instances/x/accept"), "1"), EINVAL);
    assert_file_contains(harness_path(h, "instances/x/error"), "an instance that is running");
}

static void disk_that_was_touched_when_forked_is_eio_until_it_is_accepted(void **state)
{
    struct harness *h = *state;
    const char *disk = harness_format(h, "%s/disk.img", h->directory);
    const char *config = tiny_guest_config(h, (const char *const[]){"m", NULL});
    assert_shell("bash", "truncate -s 1M $T/disk.img", 0);
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
    harness_put(harness_path(h, "instances/x/config"),
                harness_format(
                    h, "%.*s,\"disks\":[{\"path\":\"%s\",\"format\":\"raw\",\"readonly\":true}]}",
                    (int)(strlen(config) - 2), config, disk));
    harness_put(harness_path(h, "instances/x/state"), "running");
    harness_await(h, harness_path(h, "instances/x/console"), "ready");
    harness_put(harness_path(h, "instances/x/state"), "standby");
    harness_put(harness_path(h, "instances/x/snapshot"), "disked");
    assert_shell("bash", "touch -d 2024-02-03T04:05:06Z $T/disk.img", 0);
    assert_refused(h, "snapshots/disked", disk);
    assert_refused(h, "snapshots/disked", "is 2024-02-03T04:05:06.000000000Z");
    assert_errno(harness_write(harness_path(h, "instances/x/state"), "running"), EIO);
    assert_file_contains(harness_path(h, "instances/x/error"), disk);
    assert_contains(accept_with_cli(h, "snapshots/disked"),
                    harness_format(h, "snapshots/disked: accepted disk %s: mtime was ", disk));
    assert_forks(h, "snapshots/disked");
    assert_contains(accept_with_cli(h, "instances/x"),
                    harness_format(h, "instances/x: accepted disk %s: mtime was ", disk));
    harness_put(harness_path(h, "instances/x/state"), "running");
    /* It is on record. */
    assert_int_equal(harness_unmount(h), 0);
    harness_mount(h, NULL);
    assert_forks(h, "snapshots/disked");
}

/* Root may run it on a glob of a user's: what is no mount is left alone, whatever lies there. */
static void accept_outside_of_a_mount_is_refused_and_writes_nothing(void **state)
{
    struct harness *h = *state;
    static const char *const makes[] = {
        "ln -s $T/victim $T/d/accept",
        "cp victim d/accept",
        "mkfifo d/accept",
        "mkdir d/accept",
        "ln -s $M/snapshots/base/accept d",
        "mkfifo d/error && cp victim d/accept",
    };
    for (size_t i = 0; i < array_length(makes); i++) {
        assert_shell("bash",
                     harness_format(h,
                                    "cd $T && rm -rf d && mkdir -p d/forks && echo mine > victim "
                                    "&& %s",
                                    makes[i]),
                     0);
        struct harness_result result = assert_shell("bash", "cd $T && $HYPEFS accept d", 1);
        assert_string_equal(result.err,
                            "hypefs accept: d is no snapshot or instance of a hypefs mount\n");
        assert_string_equal(result.out, "");
        assert_shell("bash",
                     "cd $T && grep -qx mine victim && { ! [ -f d/accept ] || [ -L "
                     "d/accept ] || cmp victim d/accept; }",
                     0);
    }
    assert_file_contains(harness_path(h, "snapshots/base/info"), "\"accepted\": null");
    /* A payload of that name is none either. */
    harness_put(harness_path(h, "snapshots/base/forks/new/mailboxes/accept"), "{\"n\":1}");
    struct harness_result result =
        assert_shell("bash", "$HYPEFS accept snapshots/base/forks/new/mailboxes", 1);
    assert_contains(result.err, "mailboxes is no snapshot or instance of a hypefs mount");
    assert_file_contains(harness_path(h, "snapshots/base/forks/new/mailboxes/accept"), "{\"n\":1}");
}

static void accept_of_what_cannot_be_accepted_is_refused(void **state)
{
    struct harness *h = *state;
    assert_errno(harness_write(harness_path(h, "snapshots/base/accept"), "yes"), EINVAL);
    assert_shell("bash", "cd $S/snapshots/base && chmod u+w memory && truncate -s 4096 memory", 0);
    assert_errno(harness_write(harness_path(h, "snapshots/base/accept"), "1"), EIO);
    assert_file_contains(h->log, "has 4096 bytes and the machine 8388608");
    struct harness_result result = assert_shell("bash", "$HYPEFS accept snapshots/base", 1);
    assert_contains(result.err,
                    "snapshots/base: the memory image has 4096 bytes and the machine 8388608");
    assert_contains(assert_shell("bash", "cd snapshots/base && $HYPEFS accept .", 1).err,
                    "hypefs accept: .: the memory image has 4096 bytes");
    result = assert_shell("bash", "$HYPEFS accept snapshots none", 1);
    assert_contains(result.err, "snapshots is no snapshot or instance of a hypefs mount");
    assert_contains(result.err, "none: No such file or directory");
    assert_shell("bash", "$HYPEFS accept", 2);
    assert_contains(assert_shell("bash", "$HYPEFS accept --help", 0).out, "Usage: hypefs accept");
    assert_works(mkdir(harness_path(h, "instances/new1"), 0755));
    assert_errno(harness_write(harness_path(h, "instances/new1/accept"), "1"), EINVAL);
}

/* ---- without a mount ---- */

static void store_that_was_restored_is_accepted_without_a_mount(void **state)
{
    struct harness *h = *state;
    harness_put(harness_path(h, "snapshots/base/forks/new/commit"), "x");
    harness_put(harness_path(h, "instances/x/state"), "standby");
    assert_works(mkdir(harness_path(h, "instances/created"), 0755));
    assert_int_equal(harness_unmount(h), 0);
    assert_shell("bash", "cp -a --sparse=always $S $T/backup && rm -rf $S && mv $T/backup $S", 0);
    struct harness_result result = assert_shell(
        "bash", "cd $S && $HYPEFS accept --store . snapshots/* instances/*/ snapshots/none x", 1);
    assert_contains(result.out, "snapshots/base: accepted memory: inode was ");
    assert_contains(result.out, "instances/x/: accepted memory: inode was ");
    assert_contains(result.err, "instances/created/: an instance that is created has nothing to");
    assert_contains(result.err, "snapshots/none: there is no snapshot none in the store");
    assert_contains(result.err, "x: with --store it must be snapshots/ID or instances/ID");
    assert_shell("bash", "[ ! -s $S/lock ]", 0);
    harness_mount(h, NULL);
    harness_put(harness_path(h, "instances/x/state"), "running");
    assert_forks(h, "snapshots/base");
}

static void store_that_a_daemon_has_is_not_accepted_beside_it(void **state)
{
    struct harness *h = *state;
    assert_shell("bash", "touch -d 2024-02-03T04:05:06Z $S/snapshots/base/memory", 0);
    struct harness_result result = assert_shell(
        "bash", "HYPEFS_TEST_TIMING=lock:300 $HYPEFS accept --store $S snapshots/base", 1);
    assert_contains(result.err, harness_format(h, "in use by another hypefs (pid %d)", h->daemon));
    assert_contains(result.err, "through its mount: hypefs accept MOUNTPOINT/snapshots/ID");
    assert_string_equal(result.out, "");
    assert_refused(h, "snapshots/base", "mtime was ");
}

static void vm_that_runs_when_another_is_accepted_without_a_mount_runs_on(void **state)
{
    struct harness *h = *state;
    harness_put(harness_path(h, "snapshots/base/forks/new/commit"), "x");
    const char *pid = harness_json(h, harness_get(h, harness_path(h, "instances/x/info")), "pid");
    assert_int_equal(harness_unmount(h), 0);
    assert_shell("bash", "rm $S/format $S/lock", 0); /* an import alone makes neither */
    struct harness_result result =
        assert_shell("bash", "$HYPEFS accept --store $S snapshots/base instances/x", 1);
    assert_contains(result.out, "snapshots/base: accepted\n");
    assert_contains(result.err, "instances/x: an instance that is running has nothing to accept");
    harness_mount(h, NULL);
    assert_string_equal(harness_get(h, harness_path(h, "instances/x/state")), "running\n");
    assert_string_equal(harness_json(h, harness_get(h, harness_path(h, "instances/x/info")), "pid"),
                        pid);
}

static void store_that_is_not_there_is_not_made_by_accept(void **state)
{
    struct harness *h = *state;
    struct harness_result result =
        assert_shell("bash", "$HYPEFS accept --store $T/none snapshots/base", 1);
    assert_contains(result.err, "none is no store: No such file or directory");
    assert_fails(access(harness_format(h, "%s/none", h->directory), F_OK), ENOENT);
    assert_shell("bash", "$HYPEFS accept --store $T/none", 2);
    assert_shell("bash", "$HYPEFS accept --insecure-store snapshots/base", 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        guest_test(image_that_was_changed_when_forked_is_eio_until_it_is_accepted),
        guest_test(state_that_was_changed_when_forked_is_eio_until_it_is_accepted),
        guest_test(state_that_is_gone_is_not_accepted),
        guest_test(image_that_is_gone_is_told_in_as_many_words),
        guest_test(commit_without_a_payload_of_a_changed_image_is_eio),
        guest_test(backup_that_was_restored_when_accepted_by_a_glob_is_whole_again),
        guest_test(instance_in_standby_when_its_image_was_changed_is_eio_until_it_is_accepted),
        guest_test(disk_that_was_touched_when_forked_is_eio_until_it_is_accepted),
        guest_test(accept_outside_of_a_mount_is_refused_and_writes_nothing),
        guest_test(accept_of_what_cannot_be_accepted_is_refused),
        guest_test(store_that_was_restored_is_accepted_without_a_mount),
        guest_test(store_that_a_daemon_has_is_not_accepted_beside_it),
        guest_test(vm_that_runs_when_another_is_accepted_without_a_mount_runs_on),
        guest_test(store_that_is_not_there_is_not_made_by_accept),
    };
    harness_enter();
    if (!tiny_guest_possible())
        return HARNESS_SKIPPED;
    return cmocka_run_group_tests_name("accept", tests, NULL, NULL);
}
