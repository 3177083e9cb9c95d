/* SPDX-License-Identifier: MIT */
/* QEMUs and snapshots that are not as they should be. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/vm.h"

enum { MIB = 1 << 20 };

static const char box[] = "first.v1";

static int make_template(void **state)
{
    return vm_make_template(state, "microvm", "hypefs.mailboxes=first.v1");
}

static void mount_with_qemu(struct harness *h, const char *qemu)
{
    const bool is_script = strchr(qemu, '/'); /* it says elsewhere what it has done */
    harness_mount(
        h, (const char *const[]){"--qemu", qemu, "--confine", is_script ? "off" : "strict", NULL});
    vm_stage(h, "new", box, VM_REQUEST("ack", ""));
}

/* It was there when the mount was made. */
static char *mount_with_qemu_that_goes(struct harness *h)
{
    char *qemu = vm_script(h, "gone", "#!/bin/false\n");
    mount_with_qemu(h, qemu);
    assert_int_equal(unlink(qemu), 0);
    return qemu;
}

static void assert_nothing_ran(struct harness *h)
{
    vm_assert_running(h, (const char *const[]){NULL});
    assert_string_equal(harness_get(h, vm_draft(h, "new", "status")), "failed\n");
    assert_int_equal(access(vm_draft(h, "new", "mailboxes/first.v1"), F_OK), -1);
}

static void commit_when_qemu_is_missing_names_it(void **state)
{
    struct harness *h = *state;
    const char *qemu = mount_with_qemu_that_goes(h);
    char *result = vm_commit_fails(h, "new", "web-1", EIO, (const char *const[]){qemu, NULL});
    assert_string_equal(harness_json(h, result, "error.phase"), "load");
    assert_nothing_ran(h);
}

static void boot_when_qemu_is_missing_names_it_and_stays_created(void **state)
{
    struct harness *h = *state;
    const char *qemu = mount_with_qemu_that_goes(h);
    assert_int_equal(mkdir(harness_path(h, "instances/vm"), 0755), 0);
    harness_put(harness_path(h, "instances/vm/config"), "{\"kernel\":\"/etc/passwd\"}");
    assert_int_equal(vm_change(h, "vm", "running"), EIO);
    assert_non_null(strstr(harness_get(h, harness_path(h, "instances/vm/error")), qemu));
    assert_string_equal(harness_get(h, harness_path(h, "instances/vm/state")), "created\n");
}

static void commit_when_qemu_dies_while_loading_tells_its_words(void **state)
{
    struct harness *h = *state;
    mount_with_qemu(h,
                    vm_script(h, "dying",
                              "#!/bin/sh\n"
                              "case \"$*\" in *--version) exec qemu-system-x86_64 \"$@\" ;; esac\n"
                              "echo 'no luck today' >&2\n"
                              "exit 3\n"));
    vm_commit_fails(h, "new", "web-1", EIO,
                    (const char *const[]){"no luck today", "status 3", NULL});
    assert_nothing_ran(h);
}

enum { PIPE_PAGE = 4096 };

/* A real one. Its reports of what it loads go to a pipe of one page, so that it stops in the middle
 * until all of that is read; who reads the first of them kills it. Who kills it does not work in
 * the instance's directory, as a VMM would. */
static void commit_when_qemu_is_killed_while_loading_fails(void **state)
{
    struct harness *h = *state;
    char *trace = harness_format(h, "%s/trace", h->directory);
    assert_int_equal(mkfifo(trace, 0600), 0);
    int pipe = open(trace, O_RDWR | O_CLOEXEC);
    assert_true(pipe >= 0 && fcntl(pipe, F_SETPIPE_SZ, PIPE_PAGE) == PIPE_PAGE);
    const char *script =
        harness_format(h,
                       "#!/bin/sh\n"
                       "case \"$*\" in *--version) exec qemu-system-x86_64 \"$@\" ;; esac\n"
                       "exec 3<> '%s'\n"
                       "cd / && while read -r line; do\n"
                       "    case $line in *vmstate_load*) kill -9 $$; exit ;; esac\n"
                       "done <&3 3>&- &\n"
                       "exec qemu-system-x86_64 \"$@\" -trace 'vmstate_load*' 2>&3 3>&-\n",
                       trace);
    mount_with_qemu(h, vm_script(h, "killed", script));
    char *result = vm_commit_fails(h, "new", "web-1", EIO,
                                   (const char *const[]){"QEMU has ended", "signal 9", NULL});
    assert_string_equal(harness_json(h, result, "error.phase"), "load");
    assert_nothing_ran(h);
    close(pipe);
}

/* With QEMU's own words at an option that it does not know. */
static void commit_when_qemu_refuses_to_start_tells_its_words(void **state)
{
    struct harness *h = *state;
    mount_with_qemu(h,
                    vm_script(h, "refusing",
                              "#!/bin/sh\n"
                              "case \"$*\" in *--version) exec qemu-system-x86_64 \"$@\" ;; esac\n"
                              "exec qemu-system-x86_64 -no-such-option \"$@\"\n"));
    vm_commit_fails(h, "new", "web-1", EIO, (const char *const[]){"-no-such-option", NULL});
    assert_nothing_ran(h);
}

static void commit_when_qemu_is_of_another_version_starts_nothing(void **state)
{
    struct harness *h = *state;
    char *spawned = harness_format(h, "%s/spawned", h->directory);
    mount_with_qemu(h, vm_script(h, "other",
                                 harness_format(h,
                                                "#!/bin/sh\n"
                                                "case \"$*\" in\n"
                                                "*--version) echo QEMU emulator version 99.1.2 ;;\n"
                                                "*) touch '%s' ;;\n"
                                                "esac\n",
                                                spawned)));
    vm_commit_fails(h, "new", "web-1", EOPNOTSUPP,
                    (const char *const[]){"99.1.2", "saved by qemu", NULL});
    assert_nothing_ran(h);
    assert_int_equal(access(spawned, F_OK), -1);
}

static void commit_when_the_state_is_cut_short_fails(void **state)
{
    struct harness *h = *state;
    char *path = vm_own(h, "state");
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size / 2), 0);
    mount_with_qemu(h, "qemu-system-x86_64");
    vm_commit_fails(h, "new", "web-1", EIO, (const char *const[]){"device state", "accept", NULL});
    harness_put(harness_path(h, "snapshots/base/accept"), "1");
    vm_stage(h, "new", box, VM_REQUEST("ack", ""));
    char *result = vm_commit_fails(h, "new", "web-1", EIO,
                                   (const char *const[]){"load of migration failed", NULL});
    assert_string_equal(harness_json(h, result, "error.phase"), "load");
    assert_nothing_ran(h);
}

static void commit_when_the_state_is_missing_fails(void **state)
{
    struct harness *h = *state;
    assert_int_equal(unlink(harness_store_path(h, "snapshots/base/state")), 0);
    mount_with_qemu(h, "qemu-system-x86_64");
    vm_commit_fails(h, "new", "web-1", EIO, (const char *const[]){"device state", "base", NULL});
    assert_nothing_ran(h);
}

static void commit_when_the_memory_goes_missing_fails(void **state)
{
    struct harness *h = *state;
    mount_with_qemu(h, "qemu-system-x86_64");
    assert_int_equal(unlink(harness_store_path(h, "snapshots/base/memory")), 0);
    vm_commit_fails(h, "new", "web-1", EIO, (const char *const[]){"memory image", "base", NULL});
    assert_nothing_ran(h);
    assert_int_equal(access(harness_store_path(h, "snapshots/base/memory"), F_OK), -1);
}

static void commit_when_the_memory_is_missing_from_the_start_fails(void **state)
{
    struct harness *h = *state;
    assert_int_equal(unlink(harness_store_path(h, "snapshots/base/memory")), 0);
    mount_with_qemu(h, "qemu-system-x86_64");
    vm_commit_fails(h, "new", "web-1", EIO, (const char *const[]){"memory image", "base", NULL});
    assert_nothing_ran(h);
}

static void commit_when_the_memory_has_another_size_fails(void **state)
{
    struct harness *h = *state;
    char *path = vm_own(h, "memory");
    assert_int_equal(truncate(path, 127 * MIB), 0);
    mount_with_qemu(h, "qemu-system-x86_64");
    vm_commit_fails(h, "new", "web-1", EIO,
                    (const char *const[]){"memory image", "133169152", "134217728", NULL});
    assert_nothing_ran(h);
}

/* Nothing is in the store yet. */
static int set_up_odd_store(void **state)
{
    if (harness_setup(state) != 0)
        return -1;
    struct harness *h = *state;
    h->store = harness_format(h, "%s/a store,share=on,size=1", h->directory);
    return 0;
}

static void vm_when_the_path_of_the_store_looks_like_options_boots_and_stands_by(void **state)
{
    struct harness *h = *state;
    harness_mount(h, NULL);
    vm_make_base(h, "microvm", "hypefs.mailboxes=first.v1");
    char *before = vm_checksum(h);
    vm_fork(h, "web-1", box, VM_REQUEST("ack", ""));
    vm_assert_running(h, (const char *const[]){"web-1", NULL});
    assert_string_equal(vm_checksum(h), before);
    assert_int_equal(vm_change(h, "web-1", "stopped"), 0);
}

static void fork_when_the_store_was_moved_to_such_a_path_works(void **state)
{
    struct harness *h = *state;
    char *odd = harness_format(h, "%s/a store,share=on,size=1", h->directory);
    assert_int_equal(rename(h->store, odd), 0);
    h->store = odd;
    char *before = vm_checksum(h);
    mount_with_qemu(h, "qemu-system-x86_64");
    vm_commit(h, "new", "web-1");
    vm_assert_running(h, (const char *const[]){"web-1", NULL});
    assert_string_equal(vm_checksum(h), before);
}

#define test(name) cmocka_unit_test_setup_teardown(name, vm_setup_unmounted, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(commit_when_qemu_is_missing_names_it),
        test(boot_when_qemu_is_missing_names_it_and_stays_created),
        test(commit_when_qemu_dies_while_loading_tells_its_words),
        test(commit_when_qemu_is_killed_while_loading_fails),
        test(commit_when_qemu_refuses_to_start_tells_its_words),
        test(commit_when_qemu_is_of_another_version_starts_nothing),
        test(commit_when_the_state_is_cut_short_fails),
        test(commit_when_the_state_is_missing_fails),
        test(commit_when_the_memory_goes_missing_fails),
        test(commit_when_the_memory_is_missing_from_the_start_fails),
        test(commit_when_the_memory_has_another_size_fails),
        cmocka_unit_test_setup_teardown(
            vm_when_the_path_of_the_store_looks_like_options_boots_and_stands_by, set_up_odd_store,
            harness_teardown),
        test(fork_when_the_store_was_moved_to_such_a_path_works),
    };
    vm_enter();
    return cmocka_run_group_tests_name("trouble", tests, make_template, harness_teardown);
}
