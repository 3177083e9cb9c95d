/* SPDX-License-Identifier: MIT */
/* Limits that the host sets: each is told with its errno, its name and the remedy, ends nothing and
 * leaves nothing behind; without it all goes on. (A full disk: test_full.c.) */
#include "fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tiny_guest.h"
#include "util/cleanup.h"

enum { FILES_MAX = 400 };
static const char *const names[] = {"m", NULL};

static char *file(struct harness *h, const char *name)
{
    return harness_path(h, "instances/x/%s", name);
}

static pid_t vmm_of_x(struct harness *h)
{
    return atoi(harness_json(h, harness_get(h, file(h, "info")), "pid"));
}

static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    struct harness *h = *state;
    /* Limits of another user's process need a capability that root has not everywhere. */
    harness_mount(h, (const char *const[]){"--confine", "auto", NULL});
    if (mkdir(file(h, ""), 0755) < 0)
        return -1;
    harness_put(file(h, "config"), tiny_guest_config(h, names));
    return 0;
}

/* The process gets the limit, and *ret_before is what it had. */
static void limit(pid_t pid, __rlimit_resource_t resource, rlim_t soft, struct rlimit *ret_before)
{
    assert_works(prlimit(pid, resource, NULL, ret_before));
    assert_works(prlimit(pid, resource, &(struct rlimit){soft, ret_before->rlim_max}, NULL));
}

static void lift(pid_t pid, __rlimit_resource_t resource, const struct rlimit *before)
{
    assert_works(prlimit(pid, resource, before, NULL));
}

static void assert_refused(struct harness *h, const char *word, int code, const char *name)
{
    const char *before = harness_get(h, file(h, "state"));
    assert_errno(harness_write(file(h, "state"), word), code);
    assert_file_contains(file(h, "error"), name);
    assert_string_equal(harness_get(h, file(h, "state")), before);
}

static void assert_boots(struct harness *h)
{
    harness_put(file(h, "state"), "running");
    assert_string_equal(harness_get(h, file(h, "error")), "");
    harness_await(h, file(h, "console"), "ready\n");
}

static void file_size_when_limited_is_efbig_and_nothing_is_killed(void **state)
{
    struct harness *h = *state;
    struct rlimit before, vmm_before;
    limit(h->daemon, RLIMIT_FSIZE, 1 << 20, &before);
    assert_refused(h, "running", EFBIG, "1048576 bytes (RLIMIT_FSIZE");
    assert_fails(access(harness_store_path(h, "instances/x/run/memory"), F_OK), ENOENT);
    lift(h->daemon, RLIMIT_FSIZE, &before);
    assert_boots(h);
    /* QEMU writes the state of the devices by itself. */
    pid_t vmm = vmm_of_x(h);
    limit(h->daemon, RLIMIT_FSIZE, 8192, &before);
    limit(vmm, RLIMIT_FSIZE, 512, &vmm_before);
    assert_refused(h, "standby", EFBIG, "RLIMIT_FSIZE");
    assert_int_equal(vmm_of_x(h), vmm);
    assert_works(kill(vmm, 0));
    lift(vmm, RLIMIT_FSIZE, &vmm_before);
    lift(h->daemon, RLIMIT_FSIZE, &before);
    harness_put(file(h, "state"), "standby");
    assert_string_equal(harness_get(h, file(h, "error")), "");
}

static void descriptors_when_used_up_are_emfile(void **state)
{
    struct harness *h = *state;
    struct rlimit before;
    limit(h->daemon, RLIMIT_NOFILE, 5, &before);
    assert_refused(h, "running", EMFILE, "5 files open (RLIMIT_NOFILE)");
    assert_fails(mkdir(harness_path(h, "instances/y"), 0755), EMFILE);
    lift(h->daemon, RLIMIT_NOFILE, &before);
    assert_works(mkdir(harness_path(h, "instances/y"), 0755));
    assert_boots(h);
}

static void processes_when_used_up_are_eagain_with_the_limits_name(void **state)
{
    struct harness *h = *state;
    struct rlimit before;
    if (geteuid() == 0)
        return; /* for whom it does not count */
    limit(h->daemon, RLIMIT_NPROC, 1, &before);
    assert_refused(h, "running", EAGAIN, "may have 1 (RLIMIT_NPROC");
    lift(h->daemon, RLIMIT_NPROC, &before);
    assert_boots(h);
}

static void processes_when_used_up_at_the_start_keep_it_from_mounting(void **state)
{
    struct harness *h = *state;
    if (geteuid() == 0)
        return;
    assert_int_equal(harness_unmount(h), 0);
    struct harness_result result =
        assert_shell("bash", "ulimit -u 1; exec $HYPEFS mount -f --store $S $M", 1);
    assert_contains(result.err, "RLIMIT_NPROC");
    harness_mount(h, NULL);
}

/* VMMs that a limit ended, and what they say: the daemon names it. */
static void limit_of_the_vmm_is_named(void **state)
{
    static const struct {
        const char *says;
        int code;
        const char *words;
    } vmms[] = {
        {"memory: Cannot allocate memory", ENOMEM,
         "Cannot allocate memory (a process may have 70368744177664 bytes of address space"},
        {"qemu_thread_create: Resource temporarily unavailable", EAGAIN,
         "no more processes and threads: the user may have"},
        {"no room", EIO,
         "no room (this may be the reason: a process may have 70368744177664 bytes"},
    };
    struct harness *h = *state;
    struct rlimit before;
    for (size_t i = 0; i < array_length(vmms); i++) {
        const char *script = harness_format(h,
                                            "#!/bin/bash\n"
                                            "case \"$*\" in *memory-backend*) echo '%s' >&2; "
                                            "exit 1;; esac\n"
                                            "exec qemu-system-x86_64 \"$@\"\n",
                                            vmms[i].says);
        assert_int_equal(harness_unmount(h), 0);
        harness_mount(h, (const char *const[]){"--qemu", fixture_script(h, "poor-qemu", script),
                                               "--confine", "off", NULL});
        limit(h->daemon, RLIMIT_AS, (rlim_t)1 << 46, &before);
        assert_refused(h, "running", vmms[i].code, vmms[i].words);
        lift(h->daemon, RLIMIT_AS, &before);
    }
    assert_refused(h, "running", EIO, "no room");
    assert_null(strstr(harness_get(h, file(h, "error")), "RLIMIT_AS"));
}

/* A life of an instance, step by step. */
static const struct {
    const char *file, *text, *error;
} steps[] = {
    {"instances/x/state", "running", "instances/x/error"},
    {"instances/x/state", "paused", "instances/x/error"},
    {"instances/x/state", "standby", "instances/x/error"},
    {"instances/x/snapshot", "s", "instances/x/error"},
    {"instances/x/state", "running", "instances/x/error"},
    {"snapshots/s/forks/new/commit", "f1", "snapshots/s/forks/new/error"},
    {"instances/x/state", "stopped", "instances/x/error"},
};

/* Each step is tried with a limit that grows until it is enough: on the way there is one errno, and
 * no other. */
static void sweep(struct harness *h, __rlimit_resource_t resource, const rlim_t *values, int code,
                  const char *name)
{
    for (size_t i = 0; i < array_length(steps); i++) {
        int got = -1;
        for (size_t j = 0; got != 0 && values[j] != RLIM_INFINITY; j++) {
            struct rlimit before;
            limit(h->daemon, resource, values[j], &before);
            got = harness_write(harness_path(h, "%s", steps[i].file), steps[i].text);
            lift(h->daemon, resource, &before);
            const char *error = harness_get(h, harness_path(h, "%s", steps[i].error));
            if (got != 0 && (got != code || !strstr(error, name)))
                fail_msg("%s, %s, with a limit of %ju: %s, %s", steps[i].file, steps[i].text,
                         (uintmax_t)values[j], strerrorname_np(got), error);
        }
        assert_int_equal(got, 0);
    }
    harness_put(harness_path(h, "instances/f1/state"), "stopped");
}

static void every_step_with_any_number_of_descriptors_is_done_or_emfile(void **state)
{
    enum { FROM = 4, COUNT = 60 };
    rlim_t values[COUNT + 1];
    for (int i = 0; i < COUNT; i++)
        values[i] = FROM + (rlim_t)i;
    values[COUNT] = RLIM_INFINITY;
    sweep(*state, RLIMIT_NOFILE, values, EMFILE, "RLIMIT_NOFILE");
}

static void every_step_with_any_size_of_files_is_done_or_efbig(void **state)
{
    static const rlim_t values[] = {0,       100,     512,     1024,    4096,         65536,
                                    1 << 20, 1 << 21, 1 << 23, 1 << 25, RLIM_INFINITY};
    sweep(*state, RLIMIT_FSIZE, values, EFBIG, "RLIMIT_FSIZE");
}

/* Root alone can mount one. */
static bool store_on_a_small_disk(struct harness *h, const char *options)
{
    if (geteuid() != 0)
        return false;
    assert_int_equal(harness_unmount(h), 0);
    h->store = harness_format(h, "%s/disk", h->directory);
    assert_works(mkdir(h->store, 0700));
    assert_works(mount("none", h->store, "tmpfs", 0, options));
    assert_works(chmod(h->store, 0700));
    harness_mount(h, NULL);
    assert_works(mkdir(file(h, ""), 0755));
    harness_put(file(h, "config"), tiny_guest_config(h, names));
    return true;
}

static void use_up_inodes(struct harness *h)
{
    for (int i = 0; i < FILES_MAX; i++) {
        auto_close int fd =
            open(harness_store_path(h, "fill-%d", i), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (fd >= 0)
            continue;
        assert_errno(errno, ENOSPC);
        return;
    }
    fail_msg("there are inodes without end");
}

static void inodes_when_used_up_are_enospc(void **state)
{
    struct harness *h = *state;
    if (!store_on_a_small_disk(h, "nr_inodes=200"))
        return;
    use_up_inodes(h);
    assert_fails(mkdir(harness_path(h, "instances/y"), 0755), ENOSPC);
    assert_refused(h, "running", ENOSPC, "no inodes left");
    assert_shell("bash", "rm $S/fill-*", 0);
    assert_boots(h);
    pid_t vmm = vmm_of_x(h);
    use_up_inodes(h);
    assert_refused(h, "standby", ENOSPC, "no inodes left");
    assert_errno(harness_write(file(h, "snapshot"), "s"), ENOSPC);
    assert_int_equal(vmm_of_x(h), vmm);
    assert_shell("bash", "rm $S/fill-*", 0);
    harness_put(file(h, "state"), "standby");
    use_up_inodes(h);
    assert_refused(h, "running", ENOSPC, "no inodes left");
    assert_errno(harness_write(file(h, "forks/new/commit"), "f1"), ENOSPC);
    assert_shell("bash", "rm $S/fill-*", 0);
    assert_boots(h);
}

static void use_up_all(struct harness *h)
{
    use_up_inodes(h);
    assert_shell("bash", "! cat /dev/zero 2> /dev/null > $S/fill-0", 0);
}

/* A VM runs in it that nobody manages. */
static void store_on_a_full_disk_is_mounted_with_a_warning_and_can_be_cleared(void **state)
{
    static const char warning[] = "what needs room in it fails: make some";
    struct harness *h = *state;
    if (!store_on_a_small_disk(h, "size=24m,nr_inodes=200"))
        return;
    assert_boots(h);
    assert_works(mkdir(harness_path(h, "instances/y"), 0755));
    harness_kill(h);
    use_up_all(h);
    harness_mount(h, NULL);
    assert_file_contains(h->log, warning);
    assert_file_contains(h->log, "no inodes left");
    assert_string_equal(harness_get(h, file(h, "state")), "running\n");
    assert_int_equal(harness_unmount(h), 0);
    assert_shell("bash", "rm $S/format", 0); /* as a store of 0.1 is */
    use_up_all(h);
    struct harness_result result =
        assert_shell("bash",
                     "cd / && $HYPEFS mount --store $S $M; r=$?; ls $M/instances; "
                     "fusermount3 -u $M; flock -w 60 $S/lock true; exit $r",
                     0);
    assert_contains(result.err, warning);
    assert_contains(result.out, "x\ny\n");
    result = assert_shell("bash", "$HYPEFS accept --store $S instances/x instances/none", 1);
    assert_contains(result.err, warning);
    assert_contains(result.err, "instances/x: ");
    assert_contains(result.err, "instances/none: ");
    harness_mount(h, NULL);
    assert_errno(harness_write(file(h, "snapshot"), "s"), ENOSPC);
    harness_put(file(h, "state"), "stopped");
    assert_works(rmdir(harness_path(h, "instances/y")));
    assert_works(rmdir(harness_path(h, "instances/x")));
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
}

static void store_on_a_read_only_file_system_is_refused(void **state)
{
    struct harness *h = *state;
    if (!store_on_a_small_disk(h, "size=10m"))
        return;
    assert_int_equal(harness_unmount(h), 0);
    assert_works(mount(NULL, h->store, NULL, MS_REMOUNT | MS_RDONLY, NULL));
    struct harness_result result = assert_shell("bash", "$HYPEFS mount --store $S $M", 1);
    assert_contains(result.err, "mounted read-only: mount -o remount,rw");
    assert_works(mount(NULL, h->store, NULL, MS_REMOUNT, NULL));
    harness_mount(h, NULL);
    assert_boots(h);
}

#define limit_test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        limit_test(file_size_when_limited_is_efbig_and_nothing_is_killed),
        limit_test(descriptors_when_used_up_are_emfile),
        limit_test(processes_when_used_up_are_eagain_with_the_limits_name),
        limit_test(processes_when_used_up_at_the_start_keep_it_from_mounting),
        limit_test(limit_of_the_vmm_is_named),
        limit_test(every_step_with_any_number_of_descriptors_is_done_or_emfile),
        limit_test(every_step_with_any_size_of_files_is_done_or_efbig),
        limit_test(inodes_when_used_up_are_enospc),
        limit_test(store_on_a_full_disk_is_mounted_with_a_warning_and_can_be_cleared),
        limit_test(store_on_a_read_only_file_system_is_refused),
    };
    harness_enter();
    if (!tiny_guest_possible())
        return HARNESS_SKIPPED;
    return cmocka_run_group_tests_name("limits", tests, NULL, NULL);
}
