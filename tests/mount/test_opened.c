/* SPDX-License-Identifier: MIT */
/*
 * A path is not a file: what a VM's VMM has open counts, whatever has got its name since. With a
 * real QEMU, and with tests/fake_firecracker, which is not Firecracker; its guest writes the VM's
 * id to each of its disks when it starts.
 */
#include "fixture.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake.h"
#include "util/cleanup.h"
#include "tiny_guest.h"

static char *file(struct harness *h, const char *name)
{
    return harness_path(h, "instances/x/%s", name);
}

static void change(struct harness *h, const char *id, const char *state)
{
    int code = harness_write(fake_instance(h, id, "state"), state);
    if (code != 0)
        fail_msg("%s: %s", id, harness_get(h, fake_instance(h, id, "error")));
}

static void commit(struct harness *h, const char *source, const char *id)
{
    int code = harness_write(harness_path(h, "%s/forks/new/commit", source), id);
    if (code != 0)
        fail_msg("%s: %s", id, harness_get(h, harness_path(h, "%s/forks/new/error", source)));
}

static void start_again(struct harness *h)
{
    harness_kill(h);
    fake_mount(h);
}

/* Two disks, T/a and T/b, of 1 MiB. */
static void make_disks(struct harness *h)
{
    assert_shell("bash", "for i in a b; do truncate -s 1M $T/$i; done", 0);
}

static char *disks(struct harness *h, const char *members)
{
    return harness_format(h,
                          "\"disks\":[{\"path\":\"%s/a\",\"format\":\"raw\"%s},"
                          "{\"path\":\"%s/b\",\"format\":\"raw\"%s}]",
                          h->directory, members, h->directory, members);
}

static void boot_qemu(struct harness *h, const char *members)
{
    static const char *const names[] = {"m", NULL};
    const char *kernel = harness_json(h, tiny_guest_config(h, names), "kernel");
    make_disks(h);
    assert_works(mkdir(file(h, ""), 0755));
    harness_put(
        file(h, "config"),
        harness_format(h,
                       "{\"kernel\":\"%s\",\"memory_mib\":8,\"network\":{\"mode\":\"none\"},"
                       "%s}",
                       kernel, disks(h, members)));
    change(h, "x", "running");
    harness_await(h, file(h, "console"), "ready");
}

static void boot_firecracker(struct harness *h, const char *members)
{
    make_disks(h);
    fake_make(h, "x", "mailboxes=m", harness_format(h, ",%s", disks(h, members)));
    change(h, "x", "running");
    harness_await(h, file(h, "console"), "ready");
}

static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    fake_mount(*state);
    return 0;
}

/* Nothing can be saved, each way to do it has the words, and the VM runs on. */
static void assert_not_saved(struct harness *h, const char *words)
{
    assert_errno(harness_write(file(h, "snapshot"), "s"), EIO);
    assert_file_contains(file(h, "error"), words);
    assert_errno(harness_write(file(h, "state"), "standby"), EIO);
    assert_file_contains(file(h, "error"), words);
    harness_put(file(h, "forks/new/options"), "{\"from_running\":true}");
    assert_errno(harness_write(file(h, "forks/new/commit"), "f"), EIO);
    assert_file_contains(file(h, "forks/new/error"), words);
    assert_string_equal(harness_get(h, file(h, "state")), "running\n");
    assert_shell("bash", "ls -A snapshots $S/snapshots | grep -v : | grep .", 1);
}

/* All of it can be. */
static void assert_saved(struct harness *h)
{
    harness_put(file(h, "snapshot"), "s");
    commit(h, "snapshots/s", "f");
    change(h, "x", "standby");
    commit(h, "instances/x", "g");
    change(h, "x", "running");
}

static void assert_disks_are_compared(struct harness *h)
{
    assert_shell("bash", "mv $T/a $T/kept && cp $T/kept $T/a", 0);
    assert_not_saved(h, "which has another name now (find ");
    /* One of both, as a daemon knows that did not start the VM. */
    assert_shell("bash", "mv $T/b $T/a && mv $T/kept $T/b", 0);
    start_again(h);
    assert_not_saved(
        h, harness_format(h, "disk %s/a is not the file that the VM has open, which has another",
                          h->directory));
    assert_shell("bash", "mv $T/a $T/kept && mv $T/b $T/a && mv $T/kept $T/b", 0);
    assert_saved(h);
}

static void disk_of_qemu_that_is_only_read_is_the_one_that_it_has_open(void **state)
{
    boot_qemu(*state, ",\"readonly\":true");
    assert_disks_are_compared(*state);
}

static void disk_of_qemu_that_is_written_to_is_the_one_that_it_has_open(void **state)
{
    boot_qemu(*state, "");
    assert_disks_are_compared(*state);
}

static void disk_of_firecracker_that_is_only_read_is_the_one_that_it_has_open(void **state)
{
    boot_firecracker(*state, ",\"readonly\":true");
    assert_disks_are_compared(*state);
}

/* As one before leaves it, which did not remember what its VMs had open. */
static void disk_that_an_older_daemon_has_put_on_record_is_compared_too(void **state)
{
    struct harness *h = *state;
    boot_qemu(h, ",\"readonly\":true");
    assert_int_equal(harness_unmount(h), 0);
    assert_shell("bash",
                 "cd $S/instances/x && jq 'del(.vmm.disks, .vmm.taps)' instance.json > j && "
                 "mv j instance.json && mv $T/a $T/kept && cp $T/kept $T/a",
                 0);
    fake_mount(h);
    assert_not_saved(
        h, harness_format(h, "disk %s/a is not the file that the VM has open", h->directory));
    assert_shell("bash", "mv $T/kept $T/a", 0);
    assert_saved(h);
}

/* Whatever its name is by now, and whichever daemon booted that VM. */
static void disk_that_a_vm_writes_to_is_no_other_vms(void **state)
{
    struct harness *h = *state;
    boot_firecracker(h, "");
    assert_shell("bash", "mv $T/a $T/kept && touch $T/a", 0);
    start_again(h);
    fake_make(
        h, "y", "mailboxes=m",
        harness_format(h, ",\"disks\":[{\"path\":\"%s/kept\",\"format\":\"raw\"}]", h->directory));
    assert_errno(harness_write(fake_instance(h, "y", "state"), "running"), EBUSY);
    assert_file_contains(fake_instance(h, "y", "error"), "is in use by the instance x");
    change(h, "x", "stopped");
    change(h, "y", "running");
}

/* The VMM is a script that changes a disk before it is one. */
static void disk_that_is_replaced_while_its_vm_is_loaded_fails_the_load(void **state)
{
    struct harness *h = *state;
    boot_firecracker(h, ",\"readonly\":true");
    harness_put(file(h, "snapshot"), "s");
    assert_int_equal(harness_unmount(h), 0);
    fake_mount_with(h, "--confine", "off");
    harness_put(harness_format(h, "%s/how", h->programs),
                "cd ${0%/*}/.. && cp a new && mv new a && cd - > /dev/null\n");
    assert_errno(harness_write(harness_path(h, "snapshots/s/forks/new/commit"), "f"), EIO);
    assert_file_contains(harness_path(h, "snapshots/s/forks/new/error"),
                         "/a is not as it was when the VM was saved");
    assert_shell("bash", "[ $(ls $S/instances) = x ]", 0);
}

static void disk_that_was_removed_is_told_with_where_its_content_is(void **state)
{
    struct harness *h = *state;
    boot_qemu(h, ",\"readonly\":true");
    assert_shell("bash", "echo what was there 1<> $T/b && rm $T/b", 0);
    assert_not_saved(h, "which was removed or replaced");
    /* The words' last one is where to copy it from. */
    assert_shell("bash",
                 "words=$(cat instances/x/error) && cp \"${words##* }\" $T/copied && "
                 "grep -q 'what was there' $T/copied",
                 0);
}

static void chain_is_made_of_what_qemu_has_open(void **state)
{
    struct harness *h = *state;
    boot_qemu(h, "");
    harness_put(file(h, "snapshot"), "first");
    assert_shell("bash", "mv $T/a $T/kept && cp $T/kept $T/a", 0);
    assert_errno(harness_write(file(h, "snapshot"), "s"), EIO);
    assert_file_contains(file(h, "error"), "which has another name now (find ");
    assert_shell("bash",
                 "mv $T/kept $T/a && cd $S/instances/x/run && mv disk0.1.qcow2 kept && "
                 "cp kept disk0.1.qcow2",
                 0);
    assert_errno(harness_write(file(h, "snapshot"), "s"), EIO);
    assert_file_contains(file(h, "error"), "the file disk0.1.qcow2 in the store is not the one");
    assert_shell("bash", "cd $S/instances/x/run && mv kept disk0.1.qcow2", 0);
    assert_saved(h);
}

static void memory_is_what_qemu_has_mapped(void **state)
{
    struct harness *h = *state;
    boot_qemu(h, ",\"readonly\":true");
    assert_shell("bash", "cd $S/instances/x/run && mv memory kept && cp kept memory", 0);
    assert_not_saved(h, "the file memory in the store is not the memory of the VM");
    assert_shell("bash", "cd $S/instances/x/run && mv kept memory", 0);
    assert_saved(h);
    assert_shell("bash", "cd $S/instances/x && mv base kept && cp kept base", 0);
    assert_errno(harness_write(file(h, "state"), "standby"), EIO);
    assert_file_contains(file(h, "error"),
                         "the file base in the store is not the memory of the VM");
    assert_shell("bash", "cd $S/instances/x && mv kept base", 0);
    change(h, "x", "standby");
}

static void drive_is_frozen_as_firecracker_has_it_open(void **state)
{
    struct harness *h = *state;
    boot_firecracker(h, "");
    harness_await(h, harness_format(h, "%s/a", h->directory), "x");
    assert_shell("bash", "mv $T/a $T/kept && echo other > $T/a && rm $T/b", 0);
    start_again(h);
    harness_put(file(h, "snapshot"), "s");
    assert_shell("bash",
                 "cmp $T/kept $S/snapshots/s/frozen-disk0 && "
                 "[ \"$(head -c 1 $S/snapshots/s/frozen-disk1)\" = x ]",
                 0);
    /* Nothing need lie where the disks were once they are frozen. */
    assert_shell("bash", "rm $T/a", 0);
    commit(h, "snapshots/s", "f");
    harness_await(h, harness_store_path(h, "instances/f/run/drive-disk0"), "f");
    change(h, "x", "standby");
    change(h, "x", "running");
    change(h, "x", "standby");
    assert_shell("bash", "[ \"$(head -c 1 $S/instances/x/run/frozen-disk0)\" = x ]", 0);
    assert_shell("bash", "[ \"$(cat $T/kept | tr -d '\\0')\" = x ] && [ ! -e $T/a ]", 0);
}

/* ---- a snapshot of another tool's ---- */

static const struct harness_snapshot foreign = {
    .id = "base",
    .hypervisor = "firecracker",
    .frames = (const struct harness_frame[]){{.offset = 4096, .name = "m", .token = "t"}},
    .count = 1};

static void drive_that_a_saved_state_names_is_told_when_nothing_is_there(void **state)
{
    struct harness *h = *state;
    assert_int_equal(harness_unmount(h), 0);
    fake_craft(h, &foreign, "1.7.0",
               harness_format(h,
                              "\"drives\":[{\"drive_id\":\"rootfs\",\"path_on_host\":"
                              "\"%s/origin\",\"is_read_only\":false}]",
                              h->directory),
               harness_format(h,
                              ".machine.disks=[{\"id\":\"rootfs\",\"path\":\"%s/origin\","
                              "\"format\":\"raw\",\"readonly\":false,\"frozen\":\"disk-0\"}]",
                              h->directory));
    harness_put(harness_store_path(h, "snapshots/base/disk-0"), "frozen");
    fake_mount(h);
    assert_errno(harness_write(harness_path(h, "snapshots/base/forks/new/commit"), "f"), EIO);
    const char *error = harness_path(h, "snapshots/base/forks/new/error");
    assert_file_contains(error,
                         harness_format(h, "any file will do: touch %s/origin", h->directory));
    assert_shell("bash", "touch $T/origin", 0);
    commit(h, "snapshots/base", "f");
    /* What is saved of it needs nothing there. */
    change(h, "f", "standby");
    assert_shell("bash", "rm $T/origin", 0);
    commit(h, "instances/f", "g");
    change(h, "f", "running");
}

/* What the configuration of an import told is not what the VM has. */
static void drive_that_the_state_names_by_another_path_is_refused(void **state)
{
    struct harness *h = *state;
    make_disks(h);
    assert_int_equal(harness_unmount(h), 0);
    fake_craft(h, &foreign, "1.7.0",
               harness_format(h,
                              "\"drives\":[{\"drive_id\":\"rootfs\",\"path_on_host\":"
                              "\"%s/a\",\"is_read_only\":true}]",
                              h->directory),
               harness_format(h,
                              ".machine.disks=[{\"id\":\"rootfs\",\"path\":\"%s/b\","
                              "\"format\":\"raw\",\"readonly\":true,\"frozen\":null}]",
                              h->directory));
    fake_mount(h);
    assert_errno(harness_write(harness_path(h, "snapshots/base/forks/new/commit"), "f"), EIO);
    assert_file_contains(harness_path(h, "snapshots/base/forks/new/error"),
                         "import it again with a --config that has it");
    assert_no_instance(h);
}

static void vsock_is_made_anew_by_each_vmm(void **state)
{
    struct harness *h = *state;
    assert_int_equal(harness_unmount(h), 0);
    fake_craft(h, &foreign, "1.16.0", harness_format(h, "\"vsock\":\"%s/v.sock\"", h->directory),
               harness_format(h, ".machine.vsock=\"%s/v.sock\"", h->directory));
    fake_mount(h);
    fake_tell(h, "FAKE_VMM_VERSION=1.16.0");
    commit(h, "snapshots/base", "x");
    const char *vsock = harness_store_path(h, "instances/x/run/vsock.sock");
    for (int i = 0; i < 2; i++) {
        assert_works(access(vsock, F_OK));
        change(h, "x", "standby");
        assert_fails(access(vsock, F_OK), ENOENT);
        change(h, "x", "running");
    }
    /* As a VMM leaves it that ends while no daemon runs, or with its host. */
    assert_int_equal(harness_unmount(h), 0);
    assert_shell("bash", "kill -9 $(jq .vmm.pid $S/instances/x/instance.json)", 0);
    fake_mount(h);
    fake_tell(h, "FAKE_VMM_VERSION=1.16.0");
    harness_await(h, file(h, "state"), "stopped");
    assert_fails(access(vsock, F_OK), ENOENT);
}

/* A Firecracker that cannot be told where else to make it. */
static void vsock_that_the_state_names_elsewhere_is_each_forks_own(void **state)
{
    struct harness *h = *state;
    const char *folder = harness_format(h, "/hypefs-none-%d", (int)getpid());
    const char *const paths[] = {harness_format(h, "%s/in/v.sock", folder), "./v.sock"};
    for (size_t i = 0; i < array_length(paths); i++) {
        assert_int_equal(harness_unmount(h), 0);
        assert_shell("bash", "rm -rf $S/snapshots/base", 0);
        fake_craft(h, &foreign, "1.15.0", harness_format(h, "\"vsock\":\"%s\"", paths[i]),
                   harness_format(h, ".machine.vsock=\"%s\"", paths[i]));
        fake_mount(h);
        fake_tell(h, "FAKE_VMM_VERSION=1.15.0");
        commit(h, "snapshots/base", "x");
        commit(h, "snapshots/base", "f");
        assert_shell("bash", "[ -S $S/instances/x/run/v.sock -a -S $S/instances/f/run/v.sock ]", 0);
        change(h, "x", "standby");
        change(h, "x", "running");
        assert_shell("bash", "[ -S $S/instances/x/run/v.sock ]", 0);
        assert_fails(access(folder, F_OK), ENOENT);
        fake_drop(h, "x");
        fake_drop(h, "f");
    }
}

static void vsock_in_a_folder_that_a_vmm_needs_is_refused(void **state)
{
    static const struct {
        const char *path, *why;
    } cases[] = {{"/v.sock", "is in /"},
                 {"/dev/v.sock", "is in a folder of devices"},
                 {"/usr/v.sock", "is in a folder of the system"},
                 {"in/v.sock", "is relative, and in a folder"}};
    struct harness *h = *state;
    assert_int_equal(harness_unmount(h), 0);
    for (size_t i = 0; i < array_length(cases); i++) {
        assert_shell("bash", "rm -rf $S/snapshots/base", 0);
        fake_craft(h, &foreign, "1.15.0", harness_format(h, "\"vsock\":\"%s\"", cases[i].path),
                   harness_format(h, ".machine.vsock=\"%s\"", cases[i].path));
        fake_mount(h);
        fake_tell(h, "FAKE_VMM_VERSION=1.15.0");
        assert_errno(harness_write(harness_path(h, "snapshots/base/forks/new/commit"), "x"),
                     EOPNOTSUPP);
        assert_file_contains(harness_path(h, "snapshots/base/forks/new/error"), cases[i].why);
        assert_int_equal(harness_unmount(h), 0);
    }
    fake_mount(h);
}

/* The state may be a stranger's, and the socket anybody's. */
static void vsock_that_the_state_names_elsewhere_is_ebusy_and_never_removed(void **state)
{
    struct harness *h = *state;
    const char *vsock = harness_format(h, "%s/v.sock", h->directory);
    assert_int_equal(harness_unmount(h), 0);
    fake_craft(h, &foreign, "1.15.0", harness_format(h, "\"vsock\":\"%s\"", vsock),
               harness_format(h, ".machine.vsock=\"%s\"", vsock));
    fake_mount(h);
    fake_tell(h, "FAKE_VMM_VERSION=1.15.0");
    assert_errno(harness_write(harness_path(h, "snapshots/base/forks/new/commit"), "x"),
                 EOPNOTSUPP);
    assert_file_contains(harness_path(h, "snapshots/base/forks/new/error"),
                         "is in a folder that has the store in it");
    assert_int_equal(harness_unmount(h), 0);
    fake_mount_with(h, "--confine", "off");
    fake_tell(h, "FAKE_VMM_VERSION=1.15.0");
    commit(h, "snapshots/base", "x");
    assert_errno(harness_write(harness_path(h, "snapshots/base/forks/new/commit"), "f"), EBUSY);
    const char *error = harness_path(h, "snapshots/base/forks/new/error");
    assert_file_contains(error, harness_format(h, "the vsock's socket %s is in use", vsock));
    change(h, "x", "stopped");
    assert_errno(harness_write(harness_path(h, "snapshots/base/forks/new/commit"), "f"), EBUSY);
    assert_file_contains(error, harness_format(h, "the vsock's socket %s is in the way", vsock));
    assert_works(unlink(vsock));
    commit(h, "snapshots/base", "f");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(disk_of_qemu_that_is_only_read_is_the_one_that_it_has_open),
        TEST(disk_of_qemu_that_is_written_to_is_the_one_that_it_has_open),
        TEST(disk_of_firecracker_that_is_only_read_is_the_one_that_it_has_open),
        TEST(disk_that_an_older_daemon_has_put_on_record_is_compared_too),
        TEST(disk_that_a_vm_writes_to_is_no_other_vms),
        TEST(disk_that_is_replaced_while_its_vm_is_loaded_fails_the_load),
        TEST(drive_that_the_state_names_by_another_path_is_refused),
        TEST(disk_that_was_removed_is_told_with_where_its_content_is),
        TEST(chain_is_made_of_what_qemu_has_open),
        TEST(memory_is_what_qemu_has_mapped),
        TEST(drive_is_frozen_as_firecracker_has_it_open),
        TEST(drive_that_a_saved_state_names_is_told_when_nothing_is_there),
        TEST(vsock_is_made_anew_by_each_vmm),
        TEST(vsock_that_the_state_names_elsewhere_is_each_forks_own),
        TEST(vsock_in_a_folder_that_a_vmm_needs_is_refused),
        TEST(vsock_that_the_state_names_elsewhere_is_ebusy_and_never_removed),
    };
    harness_enter();
    if (!tiny_guest_possible())
        return HARNESS_SKIPPED;
    return cmocka_run_group_tests_name("opened", tests, NULL, NULL);
}
