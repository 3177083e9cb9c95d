/* SPDX-License-Identifier: MIT */
/* Stores on file systems with limits of their own, which root alone can mount; on one that is
 * remote; and a host that has no more open files. (Others: test_limits.c, test_full.c.) */
#include "fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tiny_guest.h"
#include "util/cleanup.h"

static const char *const names[] = {"m", NULL};

static char *file(struct harness *h, const char *name)
{
    return harness_path(h, "instances/x/%s", name);
}

/* The script makes T/disk, on which the store will be; without its means the test is skipped. */
static void mount_disk(struct harness *h, const char *script)
{
    struct harness_result result = harness_shell(h, "bash", script);
    if (result.status != 0) {
        print_message("skipped: %s%s", result.out, result.err);
        skip();
    }
    h->store = harness_format(h, "%s/disk/store", h->directory);
    harness_mount(h, NULL);
}

static void make(struct harness *h)
{
    assert_works(mkdir(file(h, ""), 0755));
    harness_put(file(h, "config"), tiny_guest_config(h, names));
}

static void assert_refused(struct harness *h, const char *word, int code, const char *words)
{
    const char *before = harness_get(h, file(h, "state"));
    int got = harness_write(file(h, "state"), word);
    assert_file_contains(file(h, "error"), words);
    assert_errno(got, code);
    assert_string_equal(harness_get(h, file(h, "state")), before);
}

static void assert_becomes(struct harness *h, const char *word)
{
    harness_put(file(h, "state"), word);
    assert_string_equal(harness_get(h, file(h, "error")), "");
}

/* ---- a quota ---- */

static void use_up_quota(struct harness *h)
{
    static const char zeros[4096];
    auto_close int fd =
        open(harness_format(h, "%s/disk/fill", h->directory), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_works(fd);
    while (write(fd, zeros, sizeof zeros) > 0)
        ;
    assert_errno(errno, EDQUOT);
}

static void have_quota(struct harness *h)
{
    assert_works(unlink(harness_format(h, "%s/disk/fill", h->directory)));
    assert_shell("bash", "sync -f $T/disk", 0); /* what was freed counts from then on */
}

static void quota_when_used_up_is_edquot_and_nothing_is_lost(void **state)
{
    struct harness *h = *state;
    mount_disk(h, "mkdir $T/btrfs && truncate -s 256M $T/image && mkfs.btrfs -q $T/image && "
                  "mount -o loop $T/image $T/btrfs && btrfs quota enable $T/btrfs && "
                  "btrfs subvolume create $T/btrfs/sub && btrfs qgroup limit 40M $T/btrfs/sub && "
                  "ln -s btrfs/sub $T/disk");
    make(h);
    use_up_quota(h);
    assert_fails(mkdir(harness_path(h, "instances/y"), 0755), EDQUOT);
    assert_refused(h, "running", EDQUOT, "quota -s");
    have_quota(h);
    assert_becomes(h, "running");
    harness_await(h, file(h, "console"), "ready\n");
    assert_becomes(h, "paused"); /* btrfs takes room for each page that is written again */
    pid_t vmm = atoi(harness_json(h, harness_get(h, file(h, "info")), "pid"));
    use_up_quota(h);
    assert_refused(h, "standby", EDQUOT, "quota -s");
    assert_errno(harness_write(file(h, "snapshot"), "s"), EDQUOT);
    assert_works(kill(vmm, 0));
    have_quota(h);
    assert_becomes(h, "standby");
    harness_put(file(h, "snapshot"), "s");
    use_up_quota(h);
    assert_errno(harness_write(harness_path(h, "snapshots/s/forks/new/commit"), "f1"), EDQUOT);
    assert_file_contains(harness_path(h, "snapshots/s/forks/new/error"), "quota -s");
    assert_becomes(h, "stopped"); /* which makes room */
    have_quota(h);
    harness_put(harness_path(h, "snapshots/s/forks/new/commit"), "f1");
}

/* ---- reflinks ---- */

/* The first freezes the user's file, the second an overlay, which the VMM still has open. */
static void snapshot_where_there_are_reflinks_has_disks_of_its_own(void **state)
{
    static const char compare[] =
        "a=$T/disk/store/instances/x/run/disk0.1.qcow2 b=$T/disk/store/snapshots/s2/disk0.1.qcow2\n"
        "cmp $a $b && stat -c %h $a $b && [ $(stat -c %i $a) != $(stat -c %i $b) ]";
    struct harness *h = *state;
    mount_disk(h, "mkdir $T/disk && truncate -s 256M $T/image && mkfs.btrfs -q $T/image && "
                  "mount -o loop $T/image $T/disk && truncate -s 1M $T/disk/d");
    assert_works(mkdir(file(h, ""), 0755));
    harness_put(file(h, "config"),
                harness_format(h,
                               "{\"kernel\":\"%s\",\"memory_mib\":16,\"cmdline\":\"mailboxes=m\","
                               "\"network\":{\"mode\":\"none\"},\"disks\":[{\"path\":\"%s/disk/d\","
                               "\"format\":\"raw\"}]}",
                               harness_json(h, tiny_guest_config(h, names), "kernel"),
                               h->directory));
    assert_becomes(h, "running");
    harness_await(h, file(h, "console"), "ready\n");
    harness_put(file(h, "snapshot"), "s1");
    harness_put(file(h, "snapshot"), "s2");
    struct harness_result result = harness_shell(h, "bash", compare);
    assert_string_equal(result.err, "");
    assert_string_equal(result.out, "1\n1\n");
    assert_int_equal(result.status, 0);
    harness_put(harness_path(h, "snapshots/s2/forks/new/commit"), "f");
    assert_becomes(h, "stopped");
    assert_becomes(h, "running");
}

/* ---- hard links ---- */

/* Returns how many there are. */
static int use_up_links(struct harness *h)
{
    const char *memory = harness_store_path(h, "snapshots/base/memory");
    int count = 0;
    assert_works(mkdir(harness_format(h, "%s/disk/links", h->directory), 0700));
    auto_close int fd =
        open(harness_format(h, "%s/disk/links", h->directory), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (char name[16]; snprintf(name, sizeof name, "%d", count) > 0; count++)
        if (linkat(AT_FDCWD, memory, fd, name, 0) < 0)
            break;
    assert_errno(errno, EMLINK);
    return count;
}

static void links_when_used_up_are_emlink_and_leave_nothing(void **state)
{
    struct harness *h = *state;
    const char *draft = harness_path(h, "snapshots/base/forks/new");
    mount_disk(h, "mkdir $T/disk && truncate -s 64M $T/image && mke2fs -q -t ext4 $T/image && "
                  "mount -o loop $T/image $T/disk");
    tiny_guest_snapshot(h, "base", names);
    int count = use_up_links(h);
    harness_put(harness_format(h, "%s/mailboxes/m", draft), "{\"n\":1}");
    assert_errno(harness_write(harness_format(h, "%s/commit", draft), "f1"), EMLINK);
    assert_file_contains(harness_format(h, "%s/error", draft), "no more hard links: remove forks");
    assert_no_instance(h);
    assert_works(unlink(harness_format(h, "%s/disk/links/%d", h->directory, count - 1)));
    harness_put(harness_format(h, "%s/mailboxes/m", draft), "{\"n\":1}");
    harness_put(harness_format(h, "%s/commit", draft), "f1");
    harness_await(h, harness_path(h, "instances/f1/console"), "m {\"n\":1}\n");
}

/* ---- a power cut ---- */

/* ext4 goes down at once: what it has not written is lost, and what is in its journal is not. */
static void cut_power(struct harness *h)
{
    uint32_t without_flush = 2;
    auto_close int fd =
        open(harness_format(h, "%s/disk", h->directory), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_works(ioctl(fd, _IOR('X', 125, uint32_t), &without_flush));
}

/* What its journal has to this moment lasts: of new files, their names and not what is in them. */
static void write_journal(struct harness *h)
{
    auto_close int fd =
        open(harness_store_path(h, "instances"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_works(fsync(fd));
}

static void commit_fork(struct harness *h, const char *id)
{
    harness_put(harness_path(h, "snapshots/base/forks/new/mailboxes/m"), "{\"n\":1}");
    harness_put(harness_path(h, "snapshots/base/forks/new/commit"), id);
}

static void set_state(struct harness *h, const char *id, const char *word)
{
    harness_put(harness_path(h, "instances/%s/state", id), word);
}

/* The daemon and its VMMs are gone, and the host has another boot id. */
static void start_host_anew(struct harness *h)
{
    static const char *const running[] = {"aged", "whole", "torn", "lost"};
    pid_t vmms[array_length(running)];
    for (size_t i = 0; i < array_length(running); i++)
        vmms[i] = atoi(harness_json(
            h, harness_get(h, harness_path(h, "instances/%s/info", running[i])), "pid"));
    cut_power(h);
    harness_kill(h);
    for (size_t i = 0; i < array_length(running); i++) {
        assert_works(kill(vmms[i], SIGKILL));
        harness_await_gone(vmms[i]);
    }
    assert_shell("bash",
                 "umount $M; umount $T/disk && mount -o loop $T/image $T/disk && "
                 "cat /proc/sys/kernel/random/uuid >$T/boot && "
                 "mount --bind $T/boot /proc/sys/kernel/random/boot_id",
                 0);
    harness_mount(h, NULL);
}

/* It is on the disk some seconds after its commit. */
static bool is_synced(void *argument)
{
    struct harness *h = argument;
    return access(harness_store_path(h, "instances/aged/unsynced"), F_OK) < 0;
}

static void power_when_cut_leaves_forks_whole_or_not_at_all(void **state)
{
    struct harness *h = *state;
    mount_disk(h, "mkdir $T/disk && truncate -s 256M $T/image && mke2fs -q -t ext4 $T/image && "
                  "mount -o loop $T/image $T/disk");
    tiny_guest_snapshot(h, "base", names);
    commit_fork(h, "aged");
    harness_await_that(is_synced, h, "the disk has the fork");
    commit_fork(h, "whole");
    assert_shell("bash", "sync -f $T/disk", 0);
    commit_fork(h, "kept");
    set_state(h, "kept", "standby");
    commit_fork(h, "torn");
    write_journal(h);
    commit_fork(h, "lost");
    start_host_anew(h);
    assert_string_equal(assert_shell("bash", "ls snapshots instances", 0).out,
                        "instances:\naged\nkept\nwhole\n\nsnapshots:\nbase\n");
    assert_string_equal(assert_shell("bash", "ls -A $S/instances", 0).out, "aged\nkept\nwhole\n");
    assert_file_contains(h->log, "the instance torn is discarded");
    assert_string_equal(harness_get(h, harness_path(h, "error")), "");
    assert_string_equal(harness_get(h, harness_path(h, "instances/aged/state")), "stopped\n");
    assert_string_equal(harness_get(h, harness_path(h, "instances/whole/state")), "stopped\n");
    assert_file_contains(harness_path(h, "instances/whole/fork/result"), "committed");
    set_state(h, "kept", "running");
    commit_fork(h, "torn");
    assert_shell("bash", "umount /proc/sys/kernel/random/boot_id", 0);
}

/* ---- a remote one ---- */

static void store_on_sshfs_is_refused_with_what_it_lacks(void **state)
{
    static const char server[] = "/usr/lib/openssh/sftp-server";
    struct harness *h = *state;
    if (!harness_has("sshfs") || access(server, X_OK) < 0) {
        print_message("skipped: sshfs or %s is missing (apt install sshfs openssh-sftp-server)\n",
                      server);
        skip();
    }
    /* No network, and no sshd: what sshfs starts in ssh's place is the server itself. */
    fixture_script(h, "ssh", harness_format(h, "#!/bin/sh\nexec %s\n", server));
    assert_shell(
        "bash",
        "mkdir $T/far $T/disk && sshfs -o ssh_command=$T/programs/ssh nowhere:$T/far $T/disk && "
        "mkdir $T/disk/store",
        0);
    struct harness_result result =
        assert_shell("bash", "$HYPEFS mount --store $T/disk/store $M", 1);
    assert_contains(result.err, "(fuse.sshfs) has no ");
    assert_contains(result.err, "give a --store on another one, on a disk of this host");
    assert_string_equal(assert_shell("bash", "find $T/far/store/*/ -mindepth 1", 0).out, "");
}

/* ---- open files ---- */

static void files_of_the_host_when_used_up_are_enfile(void **state)
{
    struct harness *h = *state;
    const char *gate = harness_format(h, "%s/gate", h->directory);
    setenv("HYPEFS_TEST_GATE", gate, 1);
    setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1);
    setenv("LD_PRELOAD", getenv("HYPEFS_NO_FILES"), 1);
    harness_mount(h, NULL);
    unsetenv("LD_PRELOAD");
    make(h);
    harness_put(gate, "");
    assert_refused(h, "running", ENFILE, "sysctl fs.file-max");
    assert_works(unlink(gate));
    assert_becomes(h, "running");
    harness_await(h, file(h, "console"), "ready\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        bare_test(store_on_sshfs_is_refused_with_what_it_lacks),
        bare_test(files_of_the_host_when_used_up_are_enfile),
    };
    const struct CMUnitTest as_root[] = {
        /* who may mount a disk */
        bare_test(quota_when_used_up_is_edquot_and_nothing_is_lost),
        bare_test(snapshot_where_there_are_reflinks_has_disks_of_its_own),
        bare_test(links_when_used_up_are_emlink_and_leave_nothing),
        bare_test(power_when_cut_leaves_forks_whole_or_not_at_all),
    };
    harness_enter();
    if (!tiny_guest_possible())
        return HARNESS_SKIPPED;
    int failed = cmocka_run_group_tests_name("store_systems", tests, NULL, NULL);
    return geteuid() == 0 ? failed + cmocka_run_group_tests_name("mounted", as_root, NULL, NULL)
                          : failed;
}
