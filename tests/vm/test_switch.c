/* SPDX-License-Identifier: MIT */
/*
 * Live snapshots of booted VMs for which nothing is copied: the VM goes on in another VMM. QEMU's
 * guest is on a tap, in a network namespace of the test's own, and notices nothing but the time; a
 * VM of another VMM has no network.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "vm/vm.h"

#define MAC "02:00:00:00:00:01"

static const char box[] = "first.v1";
static const char parameters[] = "hypefs.mailboxes=first.v1 hypefs.ticks";
static const char disk_parameters[] = "hypefs.mailboxes=first.v1 hypefs.ticks hypefs.disk";
static const char free_network[] = "hypefs.mailboxes=first.v1 hypefs.ticks hypefs.network";

static const char *prepare(const char *base)
{
    const char *why = harness_make_taps(base, 2);
    if (why)
        return why;
    return system("ip address add 10.0.2.2 dev t0 && ip route add 10.0.2.15 dev t0") == 0
               ? NULL
               : "ip(8) cannot give addresses to taps here";
}

static bool has_tap(void)
{
    return strcmp(vm_vmm(), "qemu") == 0;
}

static char *of_template(struct harness *h, const char *file)
{
    return harness_path(h, "instances/template/%s", file);
}

static char *info_of(struct harness *h, const char *what, const char *member)
{
    return harness_json(h, harness_get(h, harness_path(h, "%s/info", what)), member);
}

static ino_t inode(struct harness *h, const char *path)
{
    struct stat file;
    const char *in_store = harness_store_path(h, "%s", path);
    if (stat(in_store, &file) < 0)
        fail_msg("%s is not there", in_store);
    return file.st_ino;
}

static void goes_on(struct harness *h, const char *id)
{
    vm_await_tick_after(h, id, vm_last_tick(h, id));
}

static void save(struct harness *h, const char *id)
{
    int code = harness_write(of_template(h, "snapshot"), id);
    if (code != 0)
        fail_msg("snapshot %s: %s", id, harness_get(h, of_template(h, "error")));
}

/* Of another fork each time, on the tap that is free. */
static void fork_of(struct harness *h, const char *source, const char *id, const char *request)
{
    harness_put(harness_path(h, "%s/forks/new/mailboxes/%s", source, box), request);
    harness_put(harness_path(h, "%s/forks/new/options", source),
                has_tap() ? "{\"tap\":\"t1\"}" : "{}");
    if (harness_write(harness_path(h, "%s/forks/new/commit", source), id) != 0)
        fail_msg("fork of %s: %s", source,
                 harness_get(h, harness_path(h, "%s/forks/new/error", source)));
}

static void assert_answers(struct harness *h)
{
    if (!has_tap())
        return;
    struct harness_result ping = harness_run(
        h, (const char *const[]){"busybox", "ping", "-c", "1", "-w", "30", "10.0.2.15", NULL});
    if (ping.status != 0)
        fail_msg("no answer: %s%s", ping.out, ping.err);
}

/* Nothing of the VMM before is left. */
static void assert_clean(struct harness *h)
{
    const char *list = harness_format(h, "ls -A %s", harness_store_path(h, "instances/template"));
    const char *names = harness_shell(h, "sh", list).out;
    if (strstr(names, ".held") || strstr(names, "memory") || strstr(names, "state"))
        fail_msg("left in the store: %s", names);
}

/* The snapshot `id`, which was just made, has the memory that the VM runs on, and no copy of it. */
static void assert_switched(struct harness *h, const char *id, int pid_before)
{
    const char *snapshot = harness_format(h, "snapshots/%s", id);
    assert_string_equal(info_of(h, snapshot, "switched"), "true");
    assert_true(strtod(info_of(h, snapshot, "pause_ms"), NULL) > 0);
    assert_string_equal(info_of(h, "instances/template", "switched"), "true");
    assert_string_equal(info_of(h, "instances/template", "pause_ms"),
                        info_of(h, snapshot, "pause_ms"));
    assert_int_not_equal(vm_pid(h, "template"), pid_before);
    assert_true(inode(h, harness_format(h, "%s/memory", snapshot)) ==
                inode(h, "instances/template/base"));
    struct stat image;
    assert_int_equal(stat(harness_store_path(h, "%s/memory", snapshot), &image), 0);
    assert_int_equal(image.st_mode & 07777, 0400);
    assert_clean(h);
    vm_assert_running(h, (const char *const[]){"template", NULL});
}

static void snapshot_when_booted_goes_on_in_another_vmm(struct harness *h, const char *machine)
{
    vm_boot(h, machine, free_network);
    assert_string_equal(info_of(h, "instances/template", "switched"), "null");
    int pid = vm_pid(h, "template");
    unsigned before = vm_last_tick(h, "template");
    save(h, "live");
    assert_switched(h, "live", pid);
    goes_on(h, "template");
    assert_answers(h);
    fork_of(h, "snapshots/live", "web-1", VM_REQUEST("ack", ",\"n\":1"));
    goes_on(h, "web-1");
    char *first = strstr(harness_get(h, vm_console(h, "web-1")), "vm_guest: tick ");
    assert_non_null(first);
    assert_true(strtoul(first + strlen("vm_guest: tick "), NULL, 10) > before);
    assert_int_equal(vm_change(h, "web-1", "stopped"), 0);
    /* From here on it is as one that was loaded. */
    pid = vm_pid(h, "template");
    save(h, "again");
    assert_string_equal(info_of(h, "snapshots/again", "switched"), "false");
    assert_int_equal(vm_pid(h, "template"), pid);
    assert_int_equal(vm_change(h, "template", "standby"), 0);
    assert_int_equal(vm_change(h, "template", "running"), 0);
    goes_on(h, "template");
    assert_answers(h);
    fork_of(h, "snapshots/again", "web-2", VM_REQUEST("ack", ",\"n\":2"));
    goes_on(h, "web-2");
}

static void snapshot_of_a_booted_microvm_goes_on_in_another_vmm(void **state)
{
    snapshot_when_booted_goes_on_in_another_vmm(*state, "microvm");
}

static void snapshot_of_a_booted_q35_goes_on_in_another_vmm(void **state)
{
    vm_needs_qemu();
    snapshot_when_booted_goes_on_in_another_vmm(*state, "q35");
}

/* A fork of what runs shares the memory, too, and the source survives a new daemon. */
static void fork_of_a_booted_vm_that_runs_copies_nothing(void **state)
{
    struct harness *h = *state;
    vm_boot(h, "microvm", parameters);
    int pid = vm_pid(h, "template");
    harness_put(of_template(h, "forks/new/options"),
                has_tap() ? "{\"from_running\":true,\"tap\":\"t1\"}" : "{\"from_running\":true}");
    harness_put(of_template(h, "forks/new/mailboxes/first.v1"), VM_REQUEST("ack", ""));
    harness_put(of_template(h, "forks/new/commit"), "web-1");
    assert_int_not_equal(vm_pid(h, "template"), pid);
    assert_true(inode(h, "instances/web-1/base") == inode(h, "instances/template/base"));
    goes_on(h, "web-1");
    goes_on(h, "template");
    harness_kill(h);
    harness_mount(h, NULL);
    goes_on(h, "template");
    save(h, "later");
    goes_on(h, "template");
    vm_assert_running(h, (const char *const[]){"template", "web-1", NULL});
}

/* ---- disks ---- */

static char *run(struct harness *h, const char *const *arguments)
{
    struct harness_result result = harness_run(h, arguments);
    if (result.status != 0)
        fail_msg("%s %s: %s%s", arguments[0], arguments[1], result.out, result.err);
    return result.out;
}

static char *make_disk(struct harness *h)
{
    char *path = harness_format(h, "%s/own.raw", h->directory);
    run(h, (const char *const[]){"truncate", "-s", "16M", path, NULL});
    run(h, (const char *const[]){"mke2fs", "-q", "-t", "ext4", path, NULL});
    vm_use_disks(
        harness_format(h, "[{\"path\":\"%s\",\"format\":\"raw\",\"readonly\":false}]", path));
    return path;
}

/* The file system on an overlay is sound, and has what that fork wrote. */
static void assert_disk(struct harness *h, const char *id, int layer, const char *own)
{
    char *flat = harness_format(h, "%s/flat", h->directory);
    run(h, (const char *const[]){
               "qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw",
               harness_store_path(h, "instances/%s/run/disk0.%d.qcow2", id, layer), flat, NULL});
    run(h, (const char *const[]){"e2fsck", "-fn", flat, NULL});
    assert_string_equal(run(h, (const char *const[]){"debugfs", "-R", "cat /own", flat, NULL}),
                        own);
}

/* A fork of `source`, which writes to its disk and stands by. */
static void write_in_fork(struct harness *h, const char *source, const char *id)
{
    fork_of(h, source, id,
            harness_format(h,
                           "{\"payload\":{\"do\":\"finish\",\"text\":\"%s\"},"
                           "\"wait_for_ack\":true," VM_PATIENT "}",
                           id));
    assert_int_equal(vm_change(h, id, "standby"), 0);
}

static void snapshot_with_a_disk_leaves_that_to_the_other_vmm(void **state)
{
    vm_needs_qemu(); /* which has overlays */
    struct harness *h = *state;
    char *own = make_disk(h);
    vm_boot(h, "microvm", disk_parameters);
    vm_use_disks("[]");
    int pid = vm_pid(h, "template");
    save(h, "live");
    assert_switched(h, "live", pid);
    char *frozen = run(h, (const char *const[]){"sha256sum", own, NULL});
    goes_on(h, "template");
    write_in_fork(h, "snapshots/live", "one");
    assert_disk(h, "one", 1, "one\n");
    assert_int_equal(vm_change(h, "template", "standby"), 0);
    write_in_fork(h, "instances/template", "two");
    assert_disk(h, "two", 2, "two\n");
    assert_int_equal(vm_change(h, "template", "running"), 0);
    goes_on(h, "template");
    assert_string_equal(run(h, (const char *const[]){"sha256sum", own, NULL}), frozen);
}

/* ---- the other VMM does not load ---- */

static char *flag(struct harness *h)
{
    return harness_format(h, "%s/refuse", h->directory);
}

/* A QEMU that loads nothing as long as there is a certain file. */
static int setup_refusing(void **state)
{
    if (vm_setup_unmounted(state) != 0)
        return -1;
    struct harness *h = *state;
    const char *script = vm_script(
        h, "qemu",
        harness_format(h,
                       "#!/bin/sh\n"
                       "case \"$*\" in *-incoming*)\n"
                       "    [ ! -e %s ] || { echo 'nothing is loaded today' >&2; exit 1; } ;;\n"
                       "esac\n"
                       "exec qemu-system-x86_64 \"$@\"\n",
                       flag(h)));
    harness_mount(h, (const char *const[]){"--qemu", script, "--confine", "off", NULL});
    return 0;
}

static void snapshot_when_the_other_vmm_does_not_load_is_a_copy(void **state)
{
    vm_needs_qemu();
    struct harness *h = *state;
    make_disk(h);
    vm_boot(h, "microvm", disk_parameters);
    vm_use_disks("[]");
    int pid = vm_pid(h, "template");
    harness_put(flag(h), "");
    save(h, "live");
    assert_int_equal(vm_pid(h, "template"), pid);
    assert_string_equal(info_of(h, "snapshots/live", "switched"), "false");
    assert_true(inode(h, "snapshots/live/memory") != inode(h, "instances/template/run/memory"));
    const char *log = harness_get(h, h->log);
    assert_non_null(strstr(log, "template cannot go on in another VMM"));
    assert_non_null(strstr(log, "nothing is loaded today"));
    assert_int_equal(unlink(flag(h)), 0);
    goes_on(h, "template");
    write_in_fork(h, "snapshots/live", "one");
    assert_disk(h, "one", 2, "one\n"); /* the attempt has frozen the file, too */
    assert_int_equal(vm_change(h, "one", "stopped"), 0);
    assert_int_equal(rmdir(harness_path(h, "instances/one")), 0);
    /* What has failed is not tried again. */
    save(h, "next");
    assert_int_equal(vm_pid(h, "template"), pid);
    assert_string_equal(info_of(h, "snapshots/next", "switched"), "false");
    goes_on(h, "template");
    write_in_fork(h, "snapshots/next", "two");
    assert_disk(h, "two", 3, "two\n");
}

/* ---- the daemon is killed meanwhile ---- */

#ifdef HYPEFS_FAULT_POINTS
static char *plan_path(struct harness *h)
{
    return harness_format(h, "%s/plan", h->directory);
}

static void mount_planned(struct harness *h)
{
    setenv("HYPEFS_FAULT", harness_format(h, "@%s", plan_path(h)), 1);
    harness_mount(h, NULL);
    unsetenv("HYPEFS_FAULT");
}

static int setup_planned(void **state)
{
    if (vm_setup_unmounted(state) != 0)
        return -1;
    mount_planned(*state);
    return 0;
}

static void snapshot_when_the_daemon_dies_leaves_one_vmm_with_the_vm(void **state)
{
    /* With both VMMs there; all points are gone through with a test peer, in mount/test_crash.c. */
    static const struct {
        const char *point;
        bool switched;
    } points[] = {{"load:after", false}, {"resume:after", true}};
    struct harness *h = *state;
    vm_needs_qemu(); /* with disks */
    for (size_t i = 0; i < array_length(points); i++) {
        make_disk(h);
        vm_boot(h, "microvm", disk_parameters);
        int pid = vm_pid(h, "template");
        harness_put(harness_format(h, "%s/new-plan", h->directory), points[i].point);
        assert_int_equal(rename(harness_format(h, "%s/new-plan", h->directory), plan_path(h)), 0);
        assert_int_not_equal(harness_write(of_template(h, "snapshot"), "live"), 0);
        harness_await_end(h);
        assert_int_equal(unlink(plan_path(h)), 0);
        mount_planned(h);
        vm_assert_running(h, (const char *const[]){"template", NULL});
        assert_int_equal(vm_pid(h, "template") != pid, points[i].switched);
        goes_on(h, "template");
        assert_int_not_equal(access(harness_path(h, "snapshots/live"), F_OK), 0);
        save(h, "live");
        write_in_fork(h, "snapshots/live", "one");
        if (points[i].switched)
            assert_clean(h);
        assert_int_equal(vm_change(h, "template", "stopped"), 0);
        static const char *const left[] = {"instances/one", "snapshots/live", "instances/template"};
        for (size_t k = 0; k < array_length(left); k++)
            assert_int_equal(rmdir(harness_path(h, "%s", left[k])), 0);
    }
    vm_use_disks("[]");
}
#endif

#define test(name) cmocka_unit_test_setup_teardown(name, vm_setup, harness_teardown)

static int make_template(void **state)
{
    return vm_make_template(state, "microvm", parameters);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(snapshot_of_a_booted_microvm_goes_on_in_another_vmm),
        test(snapshot_of_a_booted_q35_goes_on_in_another_vmm),
        test(fork_of_a_booted_vm_that_runs_copies_nothing),
        test(snapshot_with_a_disk_leaves_that_to_the_other_vmm),
        cmocka_unit_test_setup_teardown(snapshot_when_the_other_vmm_does_not_load_is_a_copy,
                                        setup_refusing, harness_teardown),
#ifdef HYPEFS_FAULT_POINTS
        cmocka_unit_test_setup_teardown(snapshot_when_the_daemon_dies_leaves_one_vmm_with_the_vm,
                                        setup_planned, harness_teardown),
#endif
    };
    if (has_tap())
        vm_enter_with_network("{\"mode\":\"tap\",\"tap\":\"t0\",\"mac\":\"" MAC "\"}", prepare);
    else
        vm_enter_with_network("{\"mode\":\"none\"}", NULL);
    return cmocka_run_group_tests_name("switch", tests, make_template, harness_teardown);
}
