/* SPDX-License-Identifier: MIT */
/*
 * Writable disks: a guest with a mounted ext4, half of which is in its memory still, is saved and
 * forked. What the guests have written is looked at from outside, on flattened copies.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
static char *make_disk(struct harness *h, const char *name)
{
    char *path = harness_format(h, "%s/%s", h->directory, name);
    run(h, (const char *const[]){"truncate", "-s", "16M", path, NULL});
    run(h, (const char *const[]){"mke2fs", "-q", "-t", "ext4", path, NULL});
    vm_use_disks(
        harness_format(h, "[{\"path\":\"%s\",\"format\":\"raw\",\"readonly\":false}]", path));
    return path;
}

static char *checksum(struct harness *h, const char *path)
{
    return run(h, (const char *const[]){"sha256sum", path, NULL});
}

/* What is on the disk of an instance that has one overlay after the other up to `layer`: a sound
 * file system, with the half that was in memory, and `own` in the file of that name. */
static void assert_disk(struct harness *h, const char *id, int layer, const char *own)
{
    char *flat = harness_format(h, "%s/flat", h->directory);
    char *top = harness_store_path(h, "instances/%s/disk0.%d.qcow2", id, layer);
    run(h, (const char *const[]){"qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", top, flat,
                                 NULL});
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

/* ---- tests ---- */

static char *disk; /* of the template */

static int make_template(void **state)
{
    if (harness_setup(state) != 0)
        return -1;
    struct harness *h = *state;
    harness_mount(h, NULL);
    disk = make_disk(h, "disk.raw");
    vm_make_base(h, "microvm", parameters);
    assert_int_equal(harness_unmount(h), 0);
    return 0;
}

static void forks_when_they_write_have_disks_of_their_own(void **state)
{
    struct harness *h = *state;
    char *before = checksum(h, disk);
    vm_fork(h, "web-1", box, VM_REQUEST("finish", ",\"text\":\"one\""));
    vm_fork(h, "web-2", box, VM_REQUEST("finish", ",\"text\":\"two\""));
    standby(h, "web-1");
    standby(h, "web-2");
    assert_disk(h, "web-1", 1, "one\n");
    assert_disk(h, "web-2", 1, "two\n");
    assert_string_equal(checksum(h, disk), before);
}

#define test(name) cmocka_unit_test_setup_teardown(name, vm_setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(forks_when_they_write_have_disks_of_their_own),
    };
    vm_enter();
    return cmocka_run_group_tests_name("disks", tests, make_template, harness_teardown);
}
