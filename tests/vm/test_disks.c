/* SPDX-License-Identifier: MIT */
/*
 * Writable disks: a guest with a mounted ext4, half of which is in its memory still, is saved and
 * forked. What the guests have written is looked at from outside, on flattened copies.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "vm/vm.h"

enum { HALF_BYTES = 1 << 20 }; /* as in guest/vm_guest.c */

static const char box[] = "first.v1";
static const char parameters[] = "hypefs.mailboxes=first.v1 hypefs.disk";

/* ---- disks ---- */

static char *run(struct harness *h, const char *const *arguments)
{
    struct harness_result result = harness_run(h, arguments);
    if (result.status != 0)
        fail_msg("%s %s: %s%s", arguments[0], arguments[1], result.out, result.err);
    return result.out;
}

/* An empty ext4 for the guest that is booted next. Returns its path. */
static char *make_disk(struct harness *h, const char *name, const char *format)
{
    char *path = harness_format(h, "%s/%s", h->directory, name);
    char *empty = harness_format(h, "%s/empty", h->directory);
    run(h, (const char *const[]){"truncate", "-s", "16M", empty, NULL});
    run(h, (const char *const[]){"mke2fs", "-q", "-t", "ext4", empty, NULL});
    run(h,
        (const char *const[]){"qemu-img", "convert", "-f", "raw", "-O", format, empty, path, NULL});
    vm_use_disks(harness_format(h, "[{\"path\":\"%s\",\"format\":\"%s\",\"readonly\":false}]", path,
                                format));
    return path;
}

static char *checksum(struct harness *h, const char *path)
{
    return run(h, (const char *const[]){"sha256sum", path, NULL});
}

/* The disk of an instance that has one overlay after the other up to `layer`, or, of other VMMs
 * than QEMU, a copy: the one that was saved last, if it is at rest. */
static char *disk_of(struct harness *h, const char *id, int layer)
{
    if (strcmp(vm_vmm(), "qemu") == 0)
        return harness_store_path(h, "instances/%s/run/disk0.%d.qcow2", id, layer);
    char *frozen = harness_store_path(h, "instances/%s/run/frozen-disk0", id);
    return access(frozen, F_OK) == 0 ? frozen
                                     : harness_store_path(h, "instances/%s/run/drive-disk0", id);
}

/* Other VMMs than QEMU have raw copies, or overlays over a file beside them: where a VMM runs, it
 * lets nobody else open its overlay in place. */
static void flatten(struct harness *h, const char *from, const char *flat)
{
    static const char
        chain[] = "qemu-img convert -U -f qcow2 -O raw \"$0\" \"$1\"",
        copy[] = "set -e; below=${0%/*}/lower-disk0; cp \"$0\" \"$1\"; [ -e \"$below\" ] || "
                 "exit 0; mkdir \"$1.d\"; mv \"$1\" \"$1.d/top\"; cp \"$below\" \"$1.d\"; "
                 "qemu-img check -q \"$1.d/top\"; qemu-img convert -f qcow2 -O raw "
                 "\"$1.d/top\" \"$1\"; rm -r \"$1.d\"";
    const char *script = strcmp(vm_vmm(), "qemu") == 0 ? chain : copy;
    run(h, (const char *const[]){"bash", "-c", script, from, flat, NULL});
}

/* What is on that disk: a sound file system, with the half that was in memory, and `own` in the
 * file of that name. */
static void assert_disk(struct harness *h, const char *id, int layer, const char *own)
{
    char *flat = harness_format(h, "%s/flat", h->directory);
    flatten(h, disk_of(h, id, layer), flat);
    run(h, (const char *const[]){"e2fsck", "-fn", flat, NULL});
    char *half = run(h, (const char *const[]){"debugfs", "-R", "cat /half", flat, NULL});
    assert_int_equal(strspn(half, "h"), HALF_BYTES);
    assert_string_equal(run(h, (const char *const[]){"debugfs", "-R", "cat /own", flat, NULL}),
                        own);
}

static void standby(struct harness *h, const char *id)
{
    int code = vm_change(h, id, "standby");
    if (code != 0)
        fail_msg("%s: %s", id, harness_get(h, harness_path(h, "instances/%s/error", id)));
}

/* Forks an instance, whose guest then does `deed` with `text`. */
static void fork_instance(struct harness *h, const char *source, const char *id,
                          const char *options, const char *deed, const char *text)
{
    const char *draft = harness_path(h, "instances/%s/forks/new", source);
    harness_put(harness_format(h, "%s/options", draft), options);
    harness_put(harness_format(h, "%s/mailboxes/%s", draft, box),
                harness_format(h,
                               "{\"payload\":{\"do\":\"%s\",\"text\":\"%s\"},"
                               "\"wait_for_ack\":true," VM_PATIENT "}",
                               deed, text));
    int code = harness_write(harness_format(h, "%s/commit", draft), id);
    if (code != 0)
        fail_msg("fork of %s: %s", source, harness_get(h, harness_format(h, "%s/error", draft)));
}

/* A write to that instance's file fails so, and says `words`. */
static void assert_refused(struct harness *h, const char *id, const char *word, int code,
                           const char *words)
{
    int was = vm_change(h, id, word);
    char *error = harness_get(h, harness_path(h, "instances/%s/error", id));
    if (was != code || !strstr(error, words))
        fail_msg("%s: %d, %s", id, was, error);
}

/* ---- tests ---- */

static char *disk; /* of the template */

static int make_template(void **state)
{
    if (harness_setup(state) != 0)
        return -1;
    struct harness *h = *state;
    harness_mount(h, NULL);
    disk = make_disk(h, "disk.raw", "raw");
    vm_make_base(h, "microvm", parameters);
    assert_int_equal(harness_unmount(h), 0);
    return 0;
}

/* Two forks that write. Returns what of them was loaded ahead. */
static const char *fork_two(struct harness *h)
{
    char *before = checksum(h, disk);
    char *one = vm_fork(h, "web-1", box, VM_REQUEST("finish", ",\"text\":\"one\""));
    char *two = vm_fork(h, "web-2", box, VM_REQUEST("finish", ",\"text\":\"two\""));
    standby(h, "web-1");
    standby(h, "web-2");
    assert_disk(h, "web-1", 1, "one\n");
    assert_disk(h, "web-2", 1, "two\n");
    assert_string_equal(checksum(h, disk), before);
    return harness_format(h, "%s %s", harness_json(h, one, "warm"), harness_json(h, two, "warm"));
}

static void forks_when_they_write_have_disks_of_their_own(void **state)
{
    assert_string_equal(fork_two(*state), "false false");
}

static void forks_of_ready_vms_when_they_write_have_disks_of_their_own(void **state)
{
    struct harness *h = *state;
    const char *warm = harness_path(h, "snapshots/base/warm");
    harness_put(warm, "2");
    harness_await(h, harness_path(h, "snapshots/base/info"), "\"ready\": 2");
    assert_string_equal(fork_two(h), "true true");
    harness_put(warm, "0");
}

static void fork_of_a_fork_writes_over_what_that_wrote(void **state)
{
    struct harness *h = *state;
    char *before = checksum(h, disk);
    vm_fork(h, "web-1", box, VM_REQUEST("write", ",\"text\":\"one\""));
    harness_await(h, vm_console(h, "web-1"), "vm_guest: first.v1 is armed again");
    standby(h, "web-1");
    char *frozen = checksum(h, disk_of(h, "web-1", 1));
    fork_instance(h, "web-1", "web-2", "{}", "finish", "two");
    fork_instance(h, "web-1", "web-3", "{}", "finish", "three");
    harness_put(harness_path(h, "instances/web-1/forks/new/options"),
                "{\"target_state\":\"standby\"}");
    assert_int_equal(harness_write(harness_path(h, "instances/web-1/forks/new/commit"), "web-4"),
                     0);
    fork_instance(h, "web-4", "web-5", "{}", "finish", "five");
    assert_int_equal(vm_change(h, "web-1", "running"), 0);
    standby(h, "web-1");
    standby(h, "web-2");
    standby(h, "web-3");
    standby(h, "web-5");
    assert_disk(h, "web-2", 2, "one\ntwo\n");
    assert_disk(h, "web-3", 2, "one\nthree\n");
    assert_disk(h, "web-5", 2, "one\nfive\n");
    if (strcmp(vm_vmm(), "qemu") == 0) /* a copy is replaced by the next save */
        assert_string_equal(checksum(h, disk_of(h, "web-1", 1)), frozen);
    assert_string_equal(checksum(h, disk), before);
}

static void source_that_goes_on_writes_elsewhere_than_its_snapshots(void **state)
{
    vm_needs_qemu(); /* which has overlays */
    struct harness *h = *state;
    char *own = make_disk(h, "own.raw", "raw");
    vm_boot(h, "microvm", parameters);
    harness_put(harness_path(h, "instances/template/snapshot"), "live");
    char *frozen = checksum(h, own);
    fork_instance(h, "template", "web-1", "{\"from_running\":true}", "write", "one");
    harness_await(h, vm_console(h, "web-1"), "vm_guest: first.v1 is armed again");
    assert_int_equal(vm_change(h, "web-1", "paused"), 0);
    harness_put(harness_path(h, "instances/web-1/snapshot"), "paused");
    harness_put(harness_path(h, "instances/web-1/snapshot"), "again");
    harness_kill(h);
    harness_mount(h, NULL);
    assert_int_equal(vm_change(h, "web-1", "running"), 0);
    fork_instance(h, "template", "web-2", "{\"from_running\":true}", "finish", "two");
    fork_instance(h, "web-1", "web-3", "{\"from_running\":true}", "finish", "three");
    standby(h, "web-2");
    standby(h, "web-3");
    assert_disk(h, "web-2", 3, "two\n");
    assert_disk(h, "web-3", 5, "one\nthree\n");
    assert_string_equal(checksum(h, own), frozen);
    standby(h, "template");
    standby(h, "web-1");
}

/* As a full store leaves it, which had no room for the records of two saves, and a daemon that was
 * killed in a third. */
static void record_when_it_lacks_saves_is_mended_by_a_start(void **state)
{
    vm_needs_qemu(); /* which has overlays */
    struct harness *h = *state;
    char *own = make_disk(h, "own.raw", "raw");
    char *record = harness_store_path(h, "instances/template/instance.json");
    char *left = harness_store_path(h, "instances/template/run/disk0.3.qcow2");
    vm_boot(h, "microvm", parameters);
    char *before = harness_get(h, record);
    harness_put(harness_path(h, "instances/template/snapshot"), "one");
    harness_put(harness_path(h, "instances/template/snapshot"), "two");
    char *frozen = checksum(h, own);
    harness_kill(h);
    harness_put(record, before);
    harness_put(left, "cut short");
    harness_mount(h, NULL);
    assert_int_equal(access(left, F_OK), -1);
    const char *mended = harness_get(h, record);
    assert_string_equal(harness_json(h, mended, "state"), "running");
    assert_string_equal(harness_json(h, mended, "machine.disks.0.layers"), "1");
    fork_instance(h, "template", "web-1", "{\"from_running\":true}", "finish", "one");
    standby(h, "web-1");
    assert_disk(h, "web-1", 3, "one\n");
    assert_string_equal(checksum(h, own), frozen);
    assert_int_equal(vm_change(h, "template", "stopped"), 0);
}

static void boot_again_finds_the_newest_disk(void **state)
{
    vm_needs_qemu(); /* which has overlays */
    struct harness *h = *state;
    make_disk(h, "own.raw", "raw");
    vm_boot(h, "microvm", parameters);
    char *config = harness_get(h, harness_path(h, "instances/template/config"));
    standby(h, "template");
    fork_instance(h, "template", "web-1", "{}", "finish", "one");
    assert_int_equal(vm_change(h, "web-1", "stopped"), 0);
    harness_put(harness_path(h, "instances/web-1/config"), config);
    harness_kill(h);
    harness_mount(h, NULL);
    assert_int_equal(vm_change(h, "web-1", "running"), 0);
    harness_await(h, vm_console(h, "web-1"), "vm_guest: ready");
    fork_instance(h, "web-1", "web-2", "{\"from_running\":true}", "finish", "two");
    standby(h, "web-2");
    assert_disk(h, "web-2", 2, "one\ntwo\n");
    /* Another disk: its overlays are not that one's. */
    assert_int_equal(vm_change(h, "web-2", "stopped"), 0);
    harness_put(harness_path(h, "instances/web-2/config"), "{\"kernel\":\"/etc/passwd\"}");
    assert_int_equal(access(harness_store_path(h, "instances/web-2/run/disk0.1.qcow2"), F_OK), -1);
    assert_int_equal(vm_change(h, "web-1", "stopped"), 0);
}

/* As a daemon leaves it that is killed in a write to config, before it dropped the overlays. */
static void overlay_of_another_disk_when_left_behind_is_not_booted_from(void **state)
{
    vm_needs_qemu(); /* which has overlays */
    struct harness *h = *state;
    make_disk(h, "own.raw", "raw");
    vm_boot(h, "microvm", parameters);
    harness_put(harness_store_path(h, "instances/template/run/disk0.1.qcow2"), "of another disk");
    standby(h, "template");
    assert_int_equal(vm_change(h, "template", "stopped"), 0);
    int code = vm_change(h, "template", "running");
    if (code != 0)
        fail_msg("%s", harness_get(h, harness_path(h, "instances/template/error")));
}

static void qcow2_of_a_user_is_frozen_as_a_raw_one_is(void **state)
{
    vm_needs_qemu(); /* which has overlays */
    struct harness *h = *state;
    char *own = make_disk(h, "own.qcow2", "qcow2");
    vm_boot(h, "q35", parameters);
    fork_instance(h, "template", "web-1", "{\"from_running\":true}", "finish", "one");
    char *frozen = checksum(h, own);
    assert_int_equal(vm_change(h, "template", "stopped"), 0);
    standby(h, "web-1");
    assert_disk(h, "web-1", 1, "one\n");
    assert_string_equal(checksum(h, own), frozen);

    assert_int_equal(vm_change(h, "web-1", "stopped"), 0);
    assert_int_equal(rmdir(harness_path(h, "instances/web-1")), 0);
    assert_int_equal(rmdir(harness_path(h, "instances/template")), 0);
    make_disk(h, "own.qcow2", "qcow2");
    vm_boot(h, "q35", parameters);
    standby(h, "template");
    frozen = checksum(h, own);
    fork_instance(h, "template", "web-1", "{}", "finish", "two");
    assert_int_equal(vm_change(h, "template", "running"), 0);
    standby(h, "web-1");
    assert_disk(h, "web-1", 1, "two\n");
    assert_string_equal(checksum(h, own), frozen);
    /* One that names another file is not booted. */
    run(h, (const char *const[]){"qemu-img", "create", "-q", "-f", "qcow2", "-b", own, "-F",
                                 "qcow2", harness_format(h, "%s/backed", h->directory), NULL});
    assert_int_equal(mkdir(harness_path(h, "instances/other"), 0755), 0);
    harness_put(harness_path(h, "instances/other/config"),
                harness_format(h,
                               "{\"kernel\":\"/bin/true\",\"disks\":[{\"path\":"
                               "\"%s/backed\",\"format\":\"qcow2\"}]}",
                               h->directory));
    assert_refused(h, "other", "running", EINVAL, "has a backing file");
}

static void frozen_disk_is_nobodys_to_write_to(void **state)
{
    vm_needs_qemu(); /* which has overlays */
    struct harness *h = *state;
    char *own = make_disk(h, "own.raw", "raw");
    vm_boot(h, "microvm", parameters);
    char *config = harness_get(h, harness_path(h, "instances/template/config"));
    assert_int_equal(mkdir(harness_path(h, "instances/other"), 0755), 0);
    harness_put(harness_path(h, "instances/other/config"), config);
    assert_refused(h, "other", "running", EBUSY, "in use by the instance template");
    harness_put(harness_path(h, "instances/template/snapshot"), "live");
    assert_int_equal(vm_change(h, "template", "stopped"), 0);
    assert_refused(h, "other", "running", EBUSY, "is frozen: the snapshot live");
    assert_int_equal(rmdir(harness_path(h, "snapshots/live")), 0);
    assert_refused(h, "other", "running", EBUSY, "is frozen: the instance template");
    assert_int_equal(rmdir(harness_path(h, "instances/template")), 0);
    assert_int_equal(vm_change(h, "other", "running"), 0);
    standby(h, "other");
    run(h, (const char *const[]){"touch", own, NULL});
    assert_refused(h, "other", "running", EIO, "not as it was when the VM was saved");
    assert_string_equal(harness_get(h, harness_path(h, "instances/other/state")), "standby\n");
}

static void snapshot_when_its_fork_has_an_overlay_stays(void **state)
{
    vm_needs_qemu(); /* which has overlays */
    struct harness *h = *state;
    const char *snapshot = harness_path(h, "snapshots/base");
    vm_fork(h, "web-1", box, VM_REQUEST("write", ",\"text\":\"one\""));
    assert_int_equal(vm_change(h, "web-1", "stopped"), 0);
    assert_int_equal(rmdir(snapshot), -1);
    assert_int_equal(errno, EBUSY);
    assert_int_equal(rmdir(harness_path(h, "instances/web-1")), 0);
    assert_int_equal(rmdir(snapshot), 0);
}

/* ---- a full disk ---- */

/* Mounted by root only; others have none. */
static const char *mount_small(const char *base)
{
    char path[512];
    if (geteuid() != 0)
        return NULL;
    snprintf(path, sizeof path, "%.400s/small", base);
    if (mkdir(path, 0700) < 0 || mount("none", path, "tmpfs", 0, "size=24m,mode=0700") < 0)
        return "no small disk can be mounted";
    setenv("HYPEFS_TEST_DISK", path, 1);
    return NULL;
}

/* Delivers to the running template, whose memory is a file. */
static void plant(struct harness *h, const char *payload)
{
    const struct frame_layout *layout = &frame_layouts[FRAME_FORK];
    uint8_t length[4], sequence[4];
    frame_store_u32(length, (uint32_t)strlen(payload));
    frame_store_u32(sequence, 1);
    const struct {
        size_t at;
        const void *bytes;
        size_t size;
    } parts[] = {{layout->payload, payload, strlen(payload)},
                 {layout->length, length, sizeof length},
                 {layout->sequence, sequence, sizeof sequence}};
    auto_close int fd =
        open(harness_store_path(h, "instances/template/run/memory"), O_WRONLY | O_CLOEXEC);
    struct harness_result found = harness_shell(
        h, "bash",
        "$HYPEFS scan --json $S/instances/template/run/memory | jq '.. | .offset? // empty'");
    assert_string_not_equal(found.out, "");
    for (char *next = found.out, *end; *next; next = end + strspn(end, "\n")) {
        off_t frame = (off_t)strtoull(next, &end, 10);
        for (size_t i = 0; i < array_length(parts) && frame % FRAME_SIZE == 0; i++)
            assert_int_equal(pwrite(fd, parts[i].bytes, parts[i].size, frame + (off_t)parts[i].at),
                             (int)parts[i].size);
    }
}

static bool stands_still(void *h)
{
    return !vm_is_running(h, "template");
}

/* A guest is about to write to a disk that is full. Returns the file that takes the room. */
static char *halt(struct harness *h)
{
    const char *small = getenv("HYPEFS_TEST_DISK");
    char *fill = harness_format(h, "%s/fill", small), *own = make_disk(h, "own.raw", "raw");
    run(h, (const char *const[]){"mv", own, small, NULL});
    vm_use_disks(harness_format(
        h, "[{\"path\":\"%s/own.raw\",\"format\":\"raw\",\"readonly\":false}]", small));
    vm_boot(h, "microvm", parameters);
    harness_run(h, (const char *const[]){"cp", "/dev/zero", fill, NULL});
    plant(h, "{\"do\":\"finish\",\"text\":\"late\"}");
    harness_await_that(stands_still, h, "the VM halts");
    return fill;
}

static void assert_goes_on(struct harness *h)
{
    assert_int_equal(vm_change(h, "template", "running"), 0);
    harness_await(h, vm_console(h, "template"), "vm_guest: first.v1 is armed again");
    standby(h, "template");
    assert_int_equal(vm_change(h, "template", "running"), 0);
    assert_int_equal(vm_change(h, "template", "running"), 0);
    assert_true(vm_is_running(h, "template"));
    assert_int_equal(vm_change(h, "template", "stopped"), 0);
}

static void vm_when_its_disk_is_full_halts_until_there_is_room(void **state)
{
    vm_needs_qemu(); /* which halts a VM then */
    if (!getenv("HYPEFS_TEST_DISK"))
        skip(); /* not root */
    struct harness *h = *state;
    char *fill = halt(h);
    assert_string_equal(harness_get(h, harness_path(h, "instances/template/state")), "running\n");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(vm_change(h, "template", "running"), 0);
        harness_await_that(stands_still, h, "the VM halts again");
    }
    assert_int_equal(unlink(fill), 0);
    assert_goes_on(h);
    assert_disk(h, "template", 1, "late\n");
}

static void vm_that_has_halted_can_be_saved_and_goes_on(void **state)
{
    vm_needs_qemu(); /* which halts a VM then */
    if (!getenv("HYPEFS_TEST_DISK"))
        skip(); /* not root */
    struct harness *h = *state;
    assert_int_equal(unlink(halt(h)), 0);
    standby(h, "template");
    assert_goes_on(h);
    assert_disk(h, "template", 2, "late\n");
}

static const char *find_tools(const char *base)
{
    static const char *const tools[] = {"qemu-img", "mke2fs", "e2fsck", "debugfs"};
    for (size_t i = 0; i < array_length(tools); i++)
        if (!harness_has(tools[i]))
            return "qemu-img, mke2fs, e2fsck or debugfs is missing (apt install qemu-utils "
                   "e2fsprogs)";
    return mount_small(base);
}

#define test(name) cmocka_unit_test_setup_teardown(name, vm_setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(forks_when_they_write_have_disks_of_their_own),
        test(forks_of_ready_vms_when_they_write_have_disks_of_their_own),
        test(fork_of_a_fork_writes_over_what_that_wrote),
        test(source_that_goes_on_writes_elsewhere_than_its_snapshots),
        test(record_when_it_lacks_saves_is_mended_by_a_start),
        test(boot_again_finds_the_newest_disk),
        test(overlay_of_another_disk_when_left_behind_is_not_booted_from),
        test(qcow2_of_a_user_is_frozen_as_a_raw_one_is),
        test(frozen_disk_is_nobodys_to_write_to),
        test(snapshot_when_its_fork_has_an_overlay_stays),
        test(vm_when_its_disk_is_full_halts_until_there_is_room),
        test(vm_that_has_halted_can_be_saved_and_goes_on),
    };
    vm_enter_with_network(NULL, find_tools);
    return cmocka_run_group_tests_name("disks", tests, make_template, harness_teardown);
}
