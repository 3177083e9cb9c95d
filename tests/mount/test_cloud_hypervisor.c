/* SPDX-License-Identifier: MIT */
/* Cloud Hypervisor through the mount, played by tests/fake_vmm/fake_cloud_hypervisor.c, which is
 * not Cloud Hypervisor: what is shown here is how hypefs behaves, not that the real one does as the
 * peer. What it has in common with Firecracker is in the tests of vmm_states and others. */
#include "fixture.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake.h"
#include "taps.h"
#include "util/cleanup.h"

static char *forks(struct harness *h, const char *file)
{
    return harness_path(h, "snapshots/base/forks/%s", file);
}

static int setup(void **state)
{
    setenv("HYPEFS_TEST_FAKE", "cloud-hypervisor", 1);
    if (harness_setup(state) < 0)
        return -1;
    fake_mount(*state);
    fake_publish(*state, "mailboxes=m,a network", "");
    return 0;
}

static const char *checksum(struct harness *h)
{
    return assert_shell("bash", "sha256sum < $S/snapshots/base/memory", 0).out;
}

static void stage(struct harness *h, const char *source, const char *payload)
{
    harness_put(harness_path(h, "%s/forks/new/mailboxes/m", source),
                harness_format(h, "{\"payload\":%s,\"wait_for_ack\":true}", payload));
}

static void assert_console(struct harness *h, const char *id, const char *text)
{
    const char *console = harness_get(h, fake_instance(h, id, "console"));
    assert_contains(console, text);
    assert_null(strstr(console, "announces"));
    assert_null(strstr(console, "jumps"));
}

/* ---- what works ---- */

static void forks_of_forks_have_their_payloads_and_no_habits(void **state)
{
    struct harness *h = *state;
    const char *before = checksum(h);
    stage(h, "snapshots/base", "{\"n\":1}");
    assert_errno(harness_write(forks(h, "new/commit"), "f1"), 0);
    assert_console(h, "f1", "m {\"n\":1}\n");
    assert_errno(harness_write(fake_instance(h, "f1", "snapshot"), "next"), 0);
    assert_errno(harness_write(fake_instance(h, "f1", "state"), "standby"), 0);
    assert_errno(harness_write(fake_instance(h, "f1", "state"), "running"), 0);
    stage(h, "snapshots/next", "{\"n\":2}");
    assert_errno(harness_write(harness_path(h, "snapshots/next/forks/new/commit"), "f2"), 0);
    assert_console(h, "f2", "m {\"n\":2}\n");
    assert_string_equal(checksum(h), before);
    assert_shell("bash", "cd $S/instances && ! ls f1/*.tmp f2/*.tmp", 0);
    fake_drop(h, "f1");
    fake_drop(h, "f2");
}

/* Asked to end, it would let the VM go on, and a device of it write into what is the image then. */
static void standby_ends_it_without_asking(void **state)
{
    struct harness *h = *state;
    assert_shell("bash", "! grep -q 'a frame came in' $S/snapshots/base/memory", 0);
    fake_boot(h, "");
    harness_put(fake_instance(h, "x", "state"), "paused");
    harness_put(fake_instance(h, "x", "state"), "standby");
    assert_shell("bash", "! grep -q 'a frame came in' $S/instances/x/run/memory", 0);
    fake_drop(h, "x");
}

/* Its guest's reboot ends the VM, because there is no kernel any more. */
static void kernel_is_there_for_the_boot_only(void **state)
{
    struct harness *h = *state;
    fake_boot(h, "");
    assert_shell("bash", "! ls $S/instances/x/run/*.tmp", 0);
    fake_ask(h, "GET /api/v1/vm.info HTTP/1.1\r\n\r\n", "\"kernel\":\"kernel.tmp\"");
    fake_drop(h, "x");
    stage(h, "snapshots/base", "{}");
    assert_errno(harness_write(forks(h, "new/commit"), "x"), 0);
    fake_ask(h, "GET /api/v1/vm.info HTTP/1.1\r\n\r\n", "\"payload\":{\"kernel\":\"kernel.tmp\"}");
    assert_shell("bash", "! ls $S/instances/x/run/*.tmp", 0);
    fake_drop(h, "x");
}

static void fork_on_another_tap_has_that(void **state)
{
    struct harness *h = *state;
    if (geteuid() != 0 && !getenv("HYPEFS_TEST_UID")) {
        print_message("skipped: only root can make taps\n");
        skip();
    }
    assert_works(rmdir(harness_path(h, "snapshots/base")));
    fake_publish(h, "mailboxes=m",
                 ",\"network\":{\"mode\":\"tap\",\"tap\":\"t0\",\"mac\":\"02:00:00:00:00:01\"}");
    stage(h, "snapshots/base", "{\"n\":1}");
    assert_errno(harness_write(forks(h, "new/commit"), "f1"), 0);
    taps_assert(h, "t0", true);
    harness_put(forks(h, "new/options"), "{\"tap\":\"t1\"}");
    stage(h, "snapshots/base", "{\"n\":2}");
    assert_errno(harness_write(forks(h, "new/commit"), "f2"), 0);
    taps_assert(h, "t1", true);
    assert_console(h, "f1", "m {\"n\":1}\n");
    assert_console(h, "f2", "m {\"n\":2}\n");
    fake_drop(h, "f1");
    fake_drop(h, "f2");
}

/* ---- overlays ---- */

/* VMs that are started from now on are of a version that knows them, and write `id` to their disks.
 */
static void tell(struct harness *h, const char *id)
{
    fake_tell(h, harness_format(h, "FAKE_VMM_VERSION=v54.0 FAKE_VMM_ID=%s", id));
}

/* The user's disk begins with t's id; all of it is too much to read. */
static bool is_written(void *argument)
{
    struct harness *h = argument;
    char bytes[6] = "";
    auto_close int fd = open(harness_format(h, "%s/disk", h->directory), O_RDONLY | O_CLOEXEC);
    return fd >= 0 && read(fd, bytes, 5) == 5 && strcmp(bytes, "t1234") == 0;
}

/* "t", which runs and has written its id to the user's disk. */
static void boot_t(struct harness *h)
{
    assert_shell("bash", "printf 0123456789 > $T/disk && truncate -s 1G $T/disk", 0);
    fake_mount(h);
    tell(h, "t");
    fake_make(
        h, "t", "mailboxes=m",
        harness_format(h, ",\"disks\":[{\"path\":\"%s/disk\",\"format\":\"raw\"}]", h->directory));
    harness_put(fake_instance(h, "t", "state"), "running");
    harness_await_that(is_written, h, "t writes to its disk");
    harness_await(h, fake_instance(h, "t", "console"), "ready");
}

static int setup_overlays(void **state)
{
    setenv("HYPEFS_TEST_FAKE", "cloud-hypervisor", 1);
    if (harness_setup(state) < 0)
        return -1;
    boot_t(*state);
    return 0;
}

/* Where there are reflinks, forks have those. */
static bool has_reflinks(const char *directory)
{
    auto_close int from = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    auto_close int to = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    return from >= 0 && to >= 0 && write(from, "x", 1) == 1 && ioctl(to, FICLONE, from) == 0;
}

/* Its guest has written to the disk when it acks. */
static void make_fork(struct harness *h, const char *source, const char *id)
{
    tell(h, id);
    stage(h, source, "{}");
    int code = harness_write(harness_path(h, "%s/forks/new/commit", source), id);
    if (code != 0)
        fail_msg("%s: %s", id, harness_get(h, harness_path(h, "%s/forks/new/error", source)));
}

static void change(struct harness *h, const char *id, const char *to)
{
    tell(h, id);
    int code = harness_write(fake_instance(h, id, "state"), to);
    if (code != 0)
        fail_msg("%s: %s", id, harness_get(h, fake_instance(h, id, "error")));
}

/* What QEMU reads of that overlay, which lies in a folder of the store with what is below it. */
static void assert_disk(struct harness *h, const char *folder, const char *name, const char *text)
{
    assert_shell(
        "bash",
        harness_format(h,
                       "set -e; rm -rf $T/flat; mkdir $T/flat; cd $T/flat; cp "
                       "--sparse=always $S/%s/{%s,lower-disk0} . && qemu-img check -q %s && "
                       "qemu-img convert -f qcow2 -O raw %s flat && [ $(stat -c %%s flat) = "
                       "1073741824 ] && [ \"$(head -c 10 flat)\" = %s ]",
                       folder, name, name, name, text),
        0);
}

static void forks_when_their_vmm_knows_overlays_copy_nothing(void **state)
{
    struct harness *h = *state;
    assert_shell("bash",
                 "dd if=/dev/urandom of=$T/disk bs=1M count=8 seek=1 conv=notrunc status=none", 0);
    harness_put(fake_instance(h, "t", "snapshot"), "live");
    make_fork(h, "snapshots/live", "one");
    assert_shell(
        "bash",
        "set -e; cd $S && [ instances/one/run/lower-disk0 -ef snapshots/live/lower-disk0 ] && "
        "[ $(du -k instances/one/run/drive-disk0 | cut -f1) -le 200 ] && "
        "[ $(du -k snapshots/live/frozen-disk0 | cut -f1) -le 64 ] && "
        "cmp $T/disk snapshots/live/lower-disk0",
        0);
    make_fork(h, "snapshots/live", "two");
    change(h, "one", "standby");
    assert_disk(h, "instances/one/run", "frozen-disk0", "one3456789");
    assert_disk(h, "instances/two/run", "drive-disk0", "two3456789");
    assert_disk(h, "snapshots/live", "frozen-disk0", "t123456789");
    assert_shell("bash", "[ \"$(head -c 10 $T/disk)\" = t123456789 ]", 0);
}

/* Of an instance in standby, of one that runs, and of one that was booted and goes on. */
static void forks_of_forks_have_what_was_written_before(void **state)
{
    struct harness *h = *state;
    harness_put(fake_instance(h, "t", "snapshot"), "live");
    make_fork(h, "snapshots/live", "one");
    change(h, "one", "standby");
    make_fork(h, "instances/one", "x");
    assert_disk(h, "instances/x/run", "drive-disk0", "xne3456789");
    change(h, "one", "running");
    assert_int_equal(harness_unmount(h), 0);
    fake_mount(h);
    harness_put(fake_instance(h, "one", "snapshot"), "mid");
    make_fork(h, "snapshots/mid", "y");
    assert_disk(h, "instances/y/run", "drive-disk0", "yne3456789");
    harness_put(fake_instance(h, "y", "snapshot"), "deep");
    make_fork(h, "snapshots/deep", "w");
    assert_disk(h, "instances/w/run", "drive-disk0", "wne3456789");
    change(h, "t", "standby");
    change(h, "t", "running");
    harness_put(fake_instance(h, "t", "snapshot"), "again");
    make_fork(h, "snapshots/again", "z");
    assert_disk(h, "instances/z/run", "drive-disk0", "z123456789");
    assert_shell("bash", "cd $S && ! ls -d */*/*.tmp */*/run/*.tmp", 0);
}

/* It ended with its overlay open. */
static void boot_when_a_fork_has_ended_goes_on_with_its_overlay(void **state)
{
    struct harness *h = *state;
    const char *config = harness_get(h, fake_instance(h, "t", "config"));
    harness_put(fake_instance(h, "t", "snapshot"), "live");
    change(h, "t", "stopped");
    make_fork(h, "snapshots/live", "one");
    for (int i = 0; i < 2; i++) {
        change(h, "one", "stopped");
        harness_put(fake_instance(h, "one", "config"), config);
        change(h, "one", "running");
        assert_disk(h, "instances/one/run", "drive-disk0", "one3456789");
    }
    harness_put(fake_instance(h, "one", "snapshot"), "booted");
    make_fork(h, "snapshots/booted", "x");
    assert_disk(h, "instances/x/run", "drive-disk0", "xne3456789");
}

/* The VMM could have another file read by the clones of its VM. */
static void overlay_when_its_vmm_has_changed_what_is_below_is_refused(void **state)
{
    struct harness *h = *state;
    harness_put(fake_instance(h, "t", "snapshot"), "live");
    make_fork(h, "snapshots/live", "one");
    assert_shell("bash",
                 "cd $S/instances/one/run && cp --sparse=always drive-disk0 $T/kept && printf "
                 "/etc/passwd | dd of=drive-disk0 bs=1 seek=128 conv=notrunc status=none",
                 0);
    assert_errno(harness_write(fake_instance(h, "one", "state"), "standby"), EIO);
    assert_file_contains(fake_instance(h, "one", "error"),
                         "disk0: the overlay is not as hypefs made");
    assert_errno(harness_write(fake_instance(h, "one", "snapshot"), "s"), EIO);
    assert_string_equal(harness_get(h, fake_instance(h, "one", "state")), "running\n");
    assert_shell("bash",
                 "cd $S/instances/one/run && [ -e lower-disk0 ] && [ ! -e frozen-disk0 ] && "
                 "dd if=$T/kept of=drive-disk0 bs=512 count=1 conv=notrunc status=none",
                 0);
    change(h, "one", "standby");
    assert_shell("bash",
                 "printf x | dd of=$S/snapshots/live/frozen-disk0 bs=1 seek=128 conv=notrunc "
                 "status=none",
                 0);
    assert_errno(harness_write(harness_path(h, "snapshots/live/forks/new/commit"), "two"), EIO);
    assert_file_contains(harness_path(h, "snapshots/live/forks/new/error"),
                         "disk0: the overlay is not as hypefs made");
}

static int setup_alone(void **state)
{
    setenv("HYPEFS_TEST_FAKE", "cloud-hypervisor", 1);
    return harness_setup(state);
}

static void forks_where_there_are_reflinks_have_those(void **state)
{
    struct harness *h = *state;
    assert_shell("bash",
                 "mkdir $T/fs && truncate -s 256M $T/image && mkfs.btrfs -q $T/image && "
                 "mount -o loop $T/image $T/fs",
                 0);
    h->store = harness_format(h, "%s/fs/store", h->directory);
    boot_t(h);
    harness_put(fake_instance(h, "t", "snapshot"), "live");
    make_fork(h, "snapshots/live", "one");
    harness_put(fake_instance(h, "one", "snapshot"), "next");
    make_fork(h, "snapshots/next", "x");
    assert_shell("bash",
                 harness_format(h,
                                "set -e; cd %s; [ \"$(head -c 10 snapshots/live/frozen-disk0)\" = "
                                "t123456789 ]; [ \"$(head -c 10 instances/x/run/drive-disk0)\" = "
                                "xne3456789 ]; ! ls */*/lower-disk0 */*/run/lower-disk0",
                                h->store),
                 0);
}

/* ---- what goes wrong ---- */

static void assert_refused(struct harness *h, int code, const char *words)
{
    harness_put(harness_path(h, "snapshots/base/accept"), "1");
    stage(h, "snapshots/base", "{}");
    assert_errno(harness_write(forks(h, "new/commit"), "f"), code);
    assert_file_contains(forks(h, "new/error"), words);
    assert_no_instance(h);
}

static void fork_by_another_version_is_refused(void **state)
{
    struct harness *h = *state;
    assert_int_equal(harness_unmount(h), 0);
    fake_mount(h);
    fake_tell(h, "FAKE_VMM_VERSION=v54.0");
    assert_refused(h, EOPNOTSUPP, "saved by Cloud Hypervisor v53.0, and the program here is v54.0");
    fake_tell(h, "FAKE_VMM_VERSION=v52.0");
    assert_int_equal(harness_unmount(h), 0);
    fake_mount(h);
    fake_tell(h, "FAKE_VMM_VERSION=v52.0");
    assert_refused(h, EOPNOTSUPP, "v53 or later is needed");
}

/* A full disk cuts what it writes, and it says nothing. */
static void state_that_is_cut_off_is_no_save(void **state)
{
    static const char *const files[] = {"config.json", "state.json"};
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(files); i++) {
        fake_tell(h, harness_format(h, "FAKE_VMM_CUT=%s", files[i]));
        fake_make(h, "x", "mailboxes=m", "");
        harness_put(fake_instance(h, "x", "state"), "running");
        assert_errno(harness_write(fake_instance(h, "x", "snapshot"), "s"), EIO);
        assert_file_contains(fake_instance(h, "x", "error"), files[i]);
        assert_file_contains(fake_instance(h, "x", "error"), "is not whole");
        assert_errno(harness_write(fake_instance(h, "x", "state"), "standby"), EIO);
        assert_string_equal(harness_get(h, fake_instance(h, "x", "state")), "running\n");
        fake_assert_vm(h, "Running");
        assert_shell("bash", "cd $S/instances/x/run && [ ! -e state ] && ! ls *.tmp", 0);
        fake_drop(h, "x");
    }
}

/* Whatever the format is called, Cloud Hypervisor looks for one, and refuses another at the
 * restore. */
static void guest_that_writes_another_formats_header_is_not_saved(void **state)
{
    struct harness *h = *state;
    assert_shell("bash", "truncate -s 1M $T/disk", 0);
    fake_make(
        h, "x", "mailboxes=m",
        harness_format(h, ",\"disks\":[{\"path\":\"%s/disk\",\"format\":\"raw\"}]", h->directory));
    harness_put(fake_instance(h, "x", "state"), "running");
    harness_await(h, fake_instance(h, "x", "console"), "ready");
    assert_shell("bash", "printf 'QFI\\xfb' | dd of=$T/disk conv=notrunc status=none", 0);
    assert_errno(harness_write(fake_instance(h, "x", "state"), "standby"), EIO);
    assert_file_contains(fake_instance(h, "x", "error"), "the signature of a qcow2 file");
    fake_assert_vm(h, "Running");
    assert_shell("bash",
                 "dd if=/dev/zero of=$T/disk bs=4 count=1 conv=notrunc status=none && "
                 "printf conectix | dd of=$T/disk bs=512 seek=2047 conv=notrunc status=none",
                 0);
    assert_errno(harness_write(fake_instance(h, "x", "snapshot"), "s"), EIO);
    assert_file_contains(fake_instance(h, "x", "error"), "the signature of a VHD file");
    assert_shell("bash", "dd if=/dev/zero of=$T/disk bs=512 seek=2047 count=1 status=none", 0);
    harness_put(fake_instance(h, "x", "state"), "standby");
    fake_drop(h, "x");
}

/* It takes each of them, runs something, and some end with status 0. */
static void state_of_another_machine_is_refused(void **state)
{
    static const struct {
        const char *edit, *words;
        int code;
    } cases[] = {
        {".config.cpus.boot_vcpus=2", "2 processors, and the snapshot has 1", EIO},
        {".config.memory.zones[0].size=4096", "a memory of 4096 bytes", EIO},
        {".config.disks=[{\"id\":\"d\",\"path\":\"/etc/passwd\"}]", "another number of disks", EIO},
        {".config.net=[{\"id\":\"n\",\"tap\":\"t0\"}]", "another number of interfaces", EIO},
        {"del(.config)", "import it again with --config", EOPNOTSUPP},
        {".config.memory.zones=[]", "a memory of 0 bytes", EIO},
    };
    struct harness *h = *state;
    assert_shell("bash", "cp $S/snapshots/base/state $T/kept", 0);
    for (size_t i = 0; i < array_length(cases); i++) {
        assert_shell(
            "bash",
            harness_format(h, "jq -c '%s' $T/kept > $S/snapshots/base/state", cases[i].edit), 0);
        assert_refused(h, cases[i].code, cases[i].words);
    }
    assert_shell("bash", "echo '{' > $S/snapshots/base/state", 0);
    assert_refused(h, EIO, "no state of Cloud Hypervisor's");
    assert_shell("bash", "cp $T/kept $S/snapshots/base/state", 0);
    harness_put(harness_path(h, "snapshots/base/accept"), "1");
    assert_errno(harness_write(forks(h, "new/commit"), "f"), 0);
    fake_drop(h, "f");
}

static void its_own_words_are_told(void **state)
{
    struct harness *h = *state;
    fake_make(h, "x", "", "");
    harness_put(fake_instance(h, "x", "config"),
                "{\"hypervisor\":\"cloud-hypervisor\",\"kernel\":\"/etc/passwd\",\"memory_mib\":8,"
                "\"initrd\":\"/etc/passwd\"}");
    fake_tell(h, "FAKE_VMM_FAULT=actions:before:500");
    assert_errno(harness_write(fake_instance(h, "x", "state"), "running"), EIO);
    assert_file_contains(fake_instance(h, "x", "error"),
                         "PUT /api/v1/vm.boot: Error from API: told to refuse actions with 500");
    fake_tell(h, "FAKE_VMM_FAULT=");
    harness_put(fake_instance(h, "x", "config"), "{\"hypervisor\":\"cloud-hypervisor\"}");
    assert_errno(harness_write(fake_instance(h, "x", "state"), "running"), EINVAL);
    assert_file_contains(fake_instance(h, "x", "error"), "\"kernel\"");
    fake_drop(h, "x");
}

/* ---- snapshots of others ---- */

/* What somebody has saved with vm.snapshot: the memory in no file, and at 0 of it for the state. */
static void snapshot_that_another_tool_saved_is_imported_and_forked(void **state)
{
    struct harness *h = *state;
    assert_shell(
        "bash",
        "mkdir $T/in && cd $T/in && cp --sparse=always $S/snapshots/base/memory memory-ranges && "
        "jq .config $S/snapshots/base/state | jq '.memory={size:8388608,zones:null}' > config.json "
        "&& jq .state $S/snapshots/base/state | jq '.snapshots.\"memory-manager\".snapshot_data."
        "state |= (fromjson | .memory_ranges.data=[{gpa:0,length:8388608}] | "
        ".guest_ram_mappings[0].zone_id=\"mem0\" | tojson)' > state.json",
        0);
    assert_shell("bash",
                 "cd $T/in && $HYPEFS import --store $S --hypervisor cloud-hypervisor --id in "
                 "--memory memory-ranges --state state.json --config config.json",
                 0);
    stage(h, "snapshots/in", "{\"n\":7}");
    assert_errno(harness_write(harness_path(h, "snapshots/in/forks/new/commit"), "f"), 0);
    assert_console(h, "f", "m {\"n\":7}\n");
    fake_drop(h, "f");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)
#define OVERLAYS(name) cmocka_unit_test_setup_teardown(name, setup_overlays, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(forks_of_forks_have_their_payloads_and_no_habits),
        TEST(standby_ends_it_without_asking),
        TEST(kernel_is_there_for_the_boot_only),
        TEST(fork_on_another_tap_has_that),
        TEST(fork_by_another_version_is_refused),
        TEST(state_that_is_cut_off_is_no_save),
        TEST(guest_that_writes_another_formats_header_is_not_saved),
        TEST(state_of_another_machine_is_refused),
        TEST(its_own_words_are_told),
        TEST(snapshot_that_another_tool_saved_is_imported_and_forked),
    };
    const struct CMUnitTest overlays[] = {
        OVERLAYS(forks_when_their_vmm_knows_overlays_copy_nothing),
        OVERLAYS(forks_of_forks_have_what_was_written_before),
        OVERLAYS(boot_when_a_fork_has_ended_goes_on_with_its_overlay),
        OVERLAYS(overlay_when_its_vmm_has_changed_what_is_below_is_refused),
    };
    const struct CMUnitTest as_root[] = {
        /* who may mount a file system with reflinks */
        cmocka_unit_test_setup_teardown(forks_where_there_are_reflinks_have_those, setup_alone,
                                        harness_teardown),
    };
    harness_enter_with(taps_make);
    int failed = cmocka_run_group_tests_name("cloud_hypervisor", tests, NULL, NULL);
    if (!has_reflinks(harness_base()))
        failed += cmocka_run_group_tests_name("overlays", overlays, NULL, NULL);
    return geteuid() == 0 ? failed + cmocka_run_group_tests_name("reflinks", as_root, NULL, NULL)
                          : failed;
}
