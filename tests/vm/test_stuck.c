/* SPDX-License-Identifier: MIT */
/*
 * A QEMU in uninterruptible sleep: its disk lies on a file system that is frozen, so that not even
 * SIGKILL ends it. The harness thaws what a test has frozen, also when that fails.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "vm/vm.h"

static const char parameters[] = "hypefs.mailboxes=first.v1 hypefs.disk";

/* An ext4 at T/frozen with a disk for the guest, which is one, too. */
static bool mount_loop(struct harness *h)
{
    struct harness_result result = harness_shell(
        h, "bash",
        "mkdir $T/frozen && truncate -s 64M $T/image && mke2fs -q -t ext4 $T/image && "
        "mount -o loop $T/image $T/frozen && "
        "truncate -s 16M $T/frozen/disk && mke2fs -q -t ext4 $T/frozen/disk");
    if (result.status != 0)
        print_message("skipped: no ext4 can be mounted by a loop device: %s", result.err);
    return result.status == 0;
}

static void freeze_or_thaw(struct harness *h, unsigned long what)
{
    auto_close int fd =
        open(harness_format(h, "%s/frozen", h->directory), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(ioctl(fd, what, 0), 0);
}

static bool has_thread_in_d(void *h)
{
    return harness_shell(h, "bash",
                         "grep -q '^[0-9]* (.*) D ' /proc/$(jq .pid instances/template/info)/"
                         "task/*/stat")
               .status == 0;
}

static char *file(struct harness *h, const char *name)
{
    return harness_path(h, "instances/template/%s", name);
}

/* The guest writes to its disk by itself, some seconds after it has booted. */
static void boot_and_freeze(struct harness *h)
{
    vm_use_disks(harness_format(
        h, "[{\"path\":\"%s/frozen/disk\",\"format\":\"raw\",\"readonly\":false}]", h->directory));
    vm_boot(h, "microvm", parameters);
    freeze_or_thaw(h, FIFREEZE);
    harness_await_that(has_thread_in_d, h, "a thread of QEMU's sleeps uninterruptibly");
}

static bool is_held(void *h)
{
    const char *record = harness_store_path(h, "instances/template/instance.json");
    return strstr(harness_get(h, record), "\"intent\": \"copy\"");
}

static void assert_told(struct harness *h, const char *path, const char *words)
{
    const char *text = harness_get(h, path);
    if (!strstr(text, words))
        fail_msg("%s has not \"%s\": %s", path, words, text);
}

/* A commit waits for QEMU until a write of stopped, which fails itself; the mount goes on. */
static void assert_commit_and_stop_fail(struct harness *h)
{
    harness_put(file(h, "forks/new/options"), "{\"from_running\":true}");
    struct harness_child commit =
        harness_start_shell(h, "bash", "echo f > instances/template/forks/new/commit");
    harness_await_that(is_held, h, "the commit has the VM paused");
    assert_int_equal(harness_shell(h, "bash", "ls -lR . > $T/list && cat */*/info").status, 0);
    assert_int_equal(rmdir(file(h, "")), -1);
    assert_int_equal(errno, EBUSY);
    assert_told(h, file(h, "error"), "while it is forked: wait until the commit has ended");
    int code = vm_change(h, "template", "stopped");
    assert_told(h, file(h, "error"), "was killed and does not end: the kernel holds it");
    assert_int_equal(code, EIO);
    assert_int_equal(harness_finish(h, &commit).status, 1);
    assert_told(h, file(h, "forks/new/error"), "ended by a write of stopped");
    assert_int_equal(rmdir(file(h, "")), -1);
    assert_int_equal(errno, EBUSY);
    assert_told(h, file(h, "error"), "becomes stopped when it has ended");
}

/* Whatever ends the daemon, and the start of the next, does not wait for the VMM. */
static void assert_daemon_ends_and_starts(struct harness *h)
{
    assert_int_equal(harness_shell(h, "bash", "cd / && umount $M").status, 0);
    assert_int_equal(harness_await_end(h), 0);
    harness_mount(h, NULL);
    assert_int_equal(harness_unmount(h), 0);
    harness_mount(h, NULL);
    assert_string_equal(harness_get(h, file(h, "state")), "running\n");
    assert_told(h, h->log, "its VMM does not answer yet: hypefs goes on waiting");
}

static void vmm_that_not_even_sigkill_ends_is_told_and_keeps_nobody_waiting(void **state)
{
    struct harness *h = *state;
    if (geteuid() != 0) {
        print_message("skipped: only root can mount and freeze a file system\n");
        skip();
    }
    if (!mount_loop(h))
        skip();
    boot_and_freeze(h);
    assert_commit_and_stop_fail(h);
    assert_daemon_ends_and_starts(h);
    freeze_or_thaw(h, FITHAW);
    harness_await(h, file(h, "state"), "stopped");
    assert_int_equal(vm_change(h, "template", "running"), 0);
    harness_await(h, file(h, "console"), "vm_guest: ready");
    assert_int_equal(vm_change(h, "template", "stopped"), 0);
    assert_int_equal(rmdir(file(h, "")), 0);
    vm_assert_running(h, (const char *const[]){NULL});
}

static int setup(void **state)
{
    if (harness_setup(state) != 0)
        return -1;
    harness_mount(*state, NULL);
    return 0;
}

static const char *find_tools(const char *base)
{
    static const char *const tools[] = {"mke2fs", "mount", "jq"};
    (void)base;
    for (size_t i = 0; i < array_length(tools); i++)
        if (!harness_has(tools[i]))
            return "mke2fs, mount or jq is missing (apt install e2fsprogs mount jq)";
    return NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            vmm_that_not_even_sigkill_ends_is_told_and_keeps_nobody_waiting, setup,
            harness_teardown),
    };
    setenv("HYPEFS_TEST_TIMING", "stop:500,kill:1000,recover:500", 1);
    vm_enter_with_network("{\"mode\":\"user\"}", find_tools);
    return cmocka_run_group_tests_name("stuck", tests, NULL, NULL);
}
