/* SPDX-License-Identifier: MIT */
/* A store whose disk is full: what fails says so and leaves nothing, and all works with space. */
#include "fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tiny_guest.h"
#include "mailbox/frame.h"
#include "util/cleanup.h"

enum { CHUNK = 65536 };
static const char no_space[] = "No space left on device";
static const char *const names[] = {"m", "a", NULL};

static char *file(struct harness *h, const char *name)
{
    return harness_path(h, "instances/x/%s", name);
}

static char *info(struct harness *h, const char *member)
{
    return harness_json(h, harness_get(h, file(h, "info")), member);
}

static const char *fill_path(void)
{
    static char path[512];
    snprintf(path, sizeof path, "%.400s/fill", getenv("HYPEFS_TEST_DISK"));
    return path;
}

static void fill_once(void)
{
    fixture_fill_file(fill_path());
}

/* What was removed takes room until the daemon has erased it, and what a VMM had for some moments
 * after both are gone: as long as the kernel takes to forget the VMM's file systems. */
static bool is_full_for_good(void *argument)
{
    static const char script[] =
        "cd \"$HYPEFS_TEST_DISK\" && [ -z \"$(find . -name '.gone-*')\" ] && "
        "[ $(stat -f -c %f .) = 0 ] && [ $(du -s -B4096 . | cut -f1) = $(stat -f -c %b .) ]";
    (void)argument;
    fill_once();
    return system(script) == 0;
}

static void fill(void)
{
    harness_await_that(is_full_for_good, NULL, "the disk to be full");
}

static void make_room(void)
{
    assert_works(unlink(fill_path()));
}

static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    struct harness *h = *state;
    h->store = harness_format(h, "%s/store", getenv("HYPEFS_TEST_DISK"));
    harness_mount(h, NULL);
    return 0;
}

static int teardown(void **state)
{
    int r = harness_teardown(state);
    unlink(fill_path());
    return r;
}

static void make(struct harness *h)
{
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
    harness_put(file(h, "config"), tiny_guest_config(h, names));
}

static void boot(struct harness *h)
{
    make(h);
    harness_put(file(h, "state"), "running");
    harness_await(h, file(h, "console"), "ready\n");
}

/* What lies in the instance's directory in the store. */
static char *files_of_instance(struct harness *h)
{
    return assert_shell("bash", "ls -AR $S/instances/x | tr '\\n' ' '", 0).out;
}

/* Gives the running guest a payload by its memory's file; `length` is what its frame says. */
static void plant(struct harness *h, const char *payload, uint32_t length)
{
    const struct frame_layout *layout = &frame_layouts[FRAME_FORK];
    const off_t frame = TINY_GUEST_LOAD + FRAME_SIZE;
    uint8_t bytes[4], sequence[4];
    auto_close int fd = open(harness_store_path(h, "instances/x/run/memory"), O_WRONLY | O_CLOEXEC);
    frame_store_u32(bytes, length);
    frame_store_u32(sequence, 1);
    assert_int_equal(pwrite(fd, payload, strlen(payload), frame + (off_t)layout->payload),
                     (int)strlen(payload));
    assert_int_equal(pwrite(fd, bytes, sizeof bytes, frame + (off_t)layout->length), 4);
    assert_int_equal(pwrite(fd, sequence, sizeof sequence, frame + (off_t)layout->sequence), 4);
}

static void instance_on_a_full_disk_is_not_made(void **state)
{
    struct harness *h = *state;
    fill();
    assert_fails(mkdir(harness_path(h, "instances/x"), 0755), ENOSPC);
    assert_contains(assert_shell("bash", "mkdir instances/x", 1).err, no_space);
    assert_no_instance(h);
    make_room();
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
}

static void config_on_a_full_disk_is_refused_and_the_old_one_counts(void **state)
{
    struct harness *h = *state;
    static const char text[] = "{\"memory_mib\":32}";
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
    harness_put(file(h, "config"), "{\"memory_mib\":16}\n");
    const char *before = files_of_instance(h);
    fill();
    struct harness_steps steps =
        harness_write_steps(file(h, "config"), O_WRONLY | O_TRUNC, text, strlen(text));
    assert_errno(steps.write, 0);
    assert_errno(steps.close, ENOSPC);
    assert_file_contains(file(h, "error"), "config: ");
    assert_file_contains(file(h, "error"), no_space);
    assert_string_equal(info(h, "config.memory_mib"), "16");
    assert_errno(harness_write(file(h, "state"), "running"), EINVAL); /* not with the old one */
    assert_string_equal(files_of_instance(h), before);
    assert_int_equal(harness_unmount(h), 0);
    harness_mount(h, NULL);
    assert_string_equal(harness_get(h, file(h, "config")), "{\"memory_mib\":16}\n");
    make_room();
    harness_put(file(h, "config"), text);
    assert_string_equal(harness_get(h, file(h, "error")), "");
    assert_string_equal(info(h, "config.memory_mib"), "32");
}

static void vm_that_cannot_be_saved_goes_on(void **state)
{
    struct harness *h = *state;
    boot(h);
    pid_t pid = atoi(info(h, "pid"));
    const char *before = files_of_instance(h);
    fill();
    assert_errno(harness_write(file(h, "state"), "standby"), ENOSPC);
    assert_file_contains(file(h, "error"), no_space);
    assert_file_contains(file(h, "error"), "df -i"); /* what to look at */
    assert_string_equal(harness_get(h, file(h, "state")), "running\n");
    assert_int_equal(atoi(info(h, "pid")), pid);
    assert_works(kill(pid, 0));
    assert_string_equal(files_of_instance(h), before);
    make_room();
    plant(h, "{\"n\":1}", 7);
    harness_await(h, file(h, "console"), "ready\nm {\"n\":1}\n");
    harness_put(file(h, "state"), "standby");
    assert_string_equal(harness_get(h, file(h, "error")), "");
    assert_works(access(file(h, "mailboxes/m"), F_OK));
}

static void vm_on_a_full_disk_can_be_stopped_and_removed(void **state)
{
    struct harness *h = *state;
    boot(h);
    fill();
    harness_put(file(h, "state"), "stopped");
    assert_string_equal(harness_get(h, file(h, "state")), "stopped\n");
    assert_works(rmdir(harness_path(h, "instances/x")));
    assert_no_instance(h);
}

static void snapshot_on_a_full_disk_is_not_made(void **state)
{
    struct harness *h = *state;
    boot(h);
    harness_put(file(h, "state"), "standby");
    fill();
    assert_errno(harness_write(file(h, "snapshot"), "s"), ENOSPC);
    assert_file_contains(file(h, "error"), no_space);
    assert_string_equal(assert_shell("bash", "ls -A snapshots $S/snapshots | grep -v :", 0).out,
                        "\n");
    assert_string_equal(harness_get(h, file(h, "state")), "standby\n");
    assert_works(access(file(h, "mailboxes/m"), F_OK));
    make_room();
    harness_put(file(h, "snapshot"), "s");
    assert_string_equal(harness_get(h, file(h, "error")), "");
    harness_put(harness_path(h, "snapshots/s/forks/new/commit"), "f1");
}

/* Nothing is left of the fork, and the draft is as it was staged. */
static void check_commit(struct harness *h, const char *id)
{
    const char *draft = harness_path(h, "snapshots/base/forks/%s", id);
    harness_put(harness_format(h, "%s/mailboxes/m", draft), "{\"n\":1}\n");
    harness_put(harness_format(h, "%s/options", draft), "{\"on_ack_failure\":\"keep\"}\n");
    fill();
    assert_errno(harness_write(harness_format(h, "%s/commit", draft), "1"), ENOSPC);
    assert_file_contains(harness_format(h, "%s/error", draft), no_space);
    assert_string_equal(harness_get(h, harness_format(h, "%s/status", draft)), "failed\n");
    assert_string_equal(
        harness_json(h, harness_get(h, harness_format(h, "%s/result", draft)), "error.code"),
        "ENOSPC");
    assert_string_equal(harness_get(h, harness_format(h, "%s/mailboxes/m", draft)), "{\"n\":1}\n");
    assert_string_equal(harness_get(h, harness_format(h, "%s/options", draft)),
                        "{\"on_ack_failure\":\"keep\"}\n");
    assert_no_instance(h);
    make_room();
}

static void boot_with_a_disk(struct harness *h)
{
    char *disk = harness_format(h, "%s/own.img", h->directory);
    harness_put(disk, "");
    assert_works(truncate(disk, CHUNK));
    make(h);
    char *config = harness_get(h, file(h, "config"));
    *strrchr(config, '}') = 0;
    harness_put(file(h, "config"),
                harness_format(
                    h, "%s,\"disks\":[{\"path\":\"%s\",\"format\":\"raw\",\"readonly\":false}]}\n",
                    config, disk));
    harness_put(file(h, "state"), "running");
    harness_await(h, file(h, "console"), "ready\n");
}

/* Of a VM that is paused nothing is put on record first: an overlay is made, by qemu-img. */
static void snapshot_of_a_vm_with_a_disk_on_a_full_disk_is_not_made(void **state)
{
    struct harness *h = *state;
    boot_with_a_disk(h);
    harness_put(file(h, "state"), "paused");
    fill();
    assert_errno(harness_write(file(h, "snapshot"), "s"), ENOSPC);
    char *error = harness_get(h, file(h, "error"));
    assert_contains(error, "qemu-img");
    assert_contains(error, no_space);
    assert_contains(error, "df and df -i of the store");
    assert_null(strchr(error, '\\'));
    assert_string_equal(harness_get(h, file(h, "state")), "paused\n");
    assert_fails(access(harness_store_path(h, "instances/x/run/disk0.1.qcow2"), F_OK), ENOENT);
    make_room();
    harness_put(file(h, "snapshot"), "s");
}

/* As a daemon leaves it that was killed in a snapshot, whose disks could not be put on record. */
static void vm_that_is_held_at_a_start_on_a_full_disk_goes_on(void **state)
{
    struct harness *h = *state;
    boot_with_a_disk(h);
    assert_shell("bash", "cp $S/instances/x/instance.json $T/before", 0);
    harness_put(file(h, "snapshot"), "s");
    harness_put(file(h, "state"), "paused");
    harness_kill(h);
    assert_shell("bash",
                 "jq '.version=2|.intent=\"copy\"' $T/before > $S/instances/x/instance.json", 0);
    fill();
    harness_mount(h, NULL);
    assert_contains(harness_get(h, h->log), "x may write to other disks than its record says");
    assert_contains(harness_get(h, h->log), no_space);
    assert_string_equal(harness_get(h, file(h, "state")), "running\n");
    plant(h, "{\"n\":1}", 7);
    harness_await(h, file(h, "console"), "ready\nm {\"n\":1}\n");
    make_room();
    harness_put(file(h, "snapshot"), "t");
    const char *record = harness_get(h, harness_store_path(h, "instances/x/instance.json"));
    assert_string_equal(harness_json(h, record, "machine.disks.0.layers"), "1");
}

static void commit_on_a_full_disk_leaves_the_draft(void **state)
{
    struct harness *h = *state;
    tiny_guest_snapshot(h, "base", names);
    assert_works(mkdir(harness_path(h, "snapshots/base/forks/d"), 0755));
    check_commit(h, "d");
    harness_put(harness_path(h, "snapshots/base/forks/d/commit"), "d");
    harness_await(h, harness_path(h, "instances/d/console"), "m {\"n\":1}\n");
    assert_string_equal(harness_get(h, harness_path(h, "snapshots/base/forks/d/error")), "");
}

/* The guest reads behind its page: the disk has to give its memory's file another one. */
static void guest_that_needs_memory_which_the_disk_has_not_is_ended(void **state)
{
    struct harness *h = *state;
    boot(h);
    fill();
    plant(h, "{\"n\":1}", 1024 * 1024);
    harness_await(h, file(h, "state"), "stopped");
    assert_string_equal(info(h, "exit.signal"), "SIGBUS");
    assert_string_equal(info(h, "pid"), "null");
    harness_await(h, h->log, "is the disk of the store full?");
    assert_file_contains(file(h, "error"), "was ended by SIGBUS: the store had no room");
    assert_fails(access(harness_store_path(h, "instances/x/run/memory"), F_OK), ENOENT);
    make_room();
    harness_put(file(h, "state"), "running");
    harness_await(h, file(h, "console"), "ready\n");
    assert_string_equal(info(h, "exit"), "null");
    assert_string_equal(harness_get(h, file(h, "error")), "");
}

/* QEMU ends before it has answered, or when the VM cannot be put on record. */
static void boot_on_a_full_disk_leaves_no_vm(void **state)
{
    struct harness *h = *state;
    make(h);
    fill();
    assert_errno(harness_write(file(h, "state"), "running"), ENOSPC);
    assert_file_contains(file(h, "error"), no_space);
    assert_string_equal(harness_get(h, file(h, "state")), "created\n");
    assert_fails(access(harness_store_path(h, "instances/x/run/memory"), F_OK), ENOENT);
    assert_shell("bash", "! readlink /proc/[0-9]*/cwd 2> /dev/null | grep -F $S", 0);
    assert_string_equal(info(h, "pid"), "null");
    make_room();
    harness_put(file(h, "state"), "running");
    harness_await(h, file(h, "console"), "ready\n");
    assert_string_equal(harness_get(h, file(h, "error")), "");
}

#define full_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        full_test(instance_on_a_full_disk_is_not_made),
        full_test(config_on_a_full_disk_is_refused_and_the_old_one_counts),
        full_test(vm_that_cannot_be_saved_goes_on),
        full_test(vm_on_a_full_disk_can_be_stopped_and_removed),
        full_test(snapshot_on_a_full_disk_is_not_made),
        full_test(snapshot_of_a_vm_with_a_disk_on_a_full_disk_is_not_made),
        full_test(vm_that_is_held_at_a_start_on_a_full_disk_goes_on),
        full_test(commit_on_a_full_disk_leaves_the_draft),
        full_test(guest_that_needs_memory_which_the_disk_has_not_is_ended),
        full_test(boot_on_a_full_disk_leaves_no_vm),
    };
    harness_enter_with(fixture_mount_disk);
    if (!tiny_guest_possible())
        return HARNESS_SKIPPED;
    if (!getenv("HYPEFS_TEST_DISK"))
        return 0; /* root alone, or a user that root's tests become, has a small disk */
    return cmocka_run_group_tests_name("full", tests, NULL, NULL);
}
