/* SPDX-License-Identifier: MIT */
/* Snapshots whose files are damaged, and VMMs that are missing, other ones, or die. */
#include "fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tiny_guest.h"
#include "util/cleanup.h"

static char *fork_path(struct harness *h, const char *fork, const char *file)
{
    return harness_path(h, "snapshots/base/forks/%s/%s", fork, file);
}

static void assert_refused(struct harness *h, int code, const char *phase, const char *words)
{
    harness_put(fork_path(h, "new", "mailboxes/m"), "{\"n\":1}");
    assert_errno(harness_write(fork_path(h, "new", "commit"), "f1"), code);
    assert_file_contains(fork_path(h, "new", "error"), words);
    const char *result = harness_get(h, fork_path(h, "new", "result"));
    assert_string_equal(harness_json(h, result, "error.code"), strerrorname_np(code));
    assert_string_equal(harness_json(h, result, "error.phase"), phase);
    assert_no_instance(h);
}

/*
 * Each begins with a sound snapshot; `script` damages it, in its directory in the store.
 *
 * What QEMU says of a state that is cut short depends on where that is: behind the header and
 * within a device's data it is EIO, within a section's name and before its footer EINVAL. The first
 * bytes are the same in all versions; where a device's data end is not.
 */
static const struct damage {
    const char *script, *phase, *words;
    int code;
} damages[] = {
    {"mv memory m", "locate", "memory image of the snapshot base cannot be opened", EIO},
    {"truncate -s -4096 memory", "locate", "bytes, not the 8388608", EIO},
    {"truncate -s +1 memory", "locate", "bytes, not the 8388608", EIO},
    {": > memory", "locate", "0 bytes", EIO},
    {"mv memory m && ln -s m memory", "locate", "memory image", EIO},
    {"mv memory m && mkfifo memory", "locate", "image of the snapshot base is not a regular file",
     EIO},
    {"mv memory m && mkdir memory", "locate", "image of the snapshot base is not a regular file",
     EIO},
    {"mv state s", "locate", "the device state is gone", EIO},
    {"mv state s && ln -s s state", "locate", "the device state is not a regular file", EIO},
    {"mv state s && mkfifo state", "locate", "the device state is not a regular file", EIO},
    {"truncate -s 8 state", "load",
     "qemu-system-x86_64: load of migration failed: Input/output error", EIO},
    {"truncate -s 14 state", "load",
     "Unable to read ID string for section 0 qemu-system-x86_64: load of migration failed: Invalid "
     "argument",
     EIO},
    {"truncate -s 20 state", "load",
     "Failed to read instance/version ID: -5 qemu-system-x86_64: load of migration failed: "
     "Input/output error",
     EIO},
    {"truncate -s $(($(stat -c %s state) / 2)) state", "load", "load of migration failed", EIO},
    {"truncate -s -1 state", "load", "load of migration failed", EIO},
    {": > state", "load", "Not a migration stream", EIO},
    {"head -c 20000 /dev/zero > state", "load", "load of migration failed: Invalid argument", EIO},
    {"sed -i s/serial/cereal/ state", "load", "Unknown savevm section", EIO},
};

static void commit_of_a_damaged_snapshot_fails_and_leaves_nothing(void **state)
{
    struct harness *h = *state;
    assert_shell("bash", "cp -a --sparse=always $S/snapshots/base $T/kept", 0);
    for (size_t i = 0; i < array_length(damages); i++) {
        assert_shell(
            "bash",
            harness_format(h, "cd $S/snapshots/base && chmod u+w memory && %s", damages[i].script),
            0);
        if (strcmp(damages[i].phase, "load") ==
            0) /* somebody vouches for it: QEMU gets to see it */
            assert_errno(harness_write(harness_path(h, "snapshots/base/accept"), "1"), 0);
        assert_refused(h, damages[i].code, damages[i].phase, damages[i].words);
        harness_shell(h, "bash", "ls -lR . && cat snapshots/base/info"); /* they end */
        assert_shell("bash",
                     "cd $S/snapshots/base && rm -rf memory state m s && "
                     "cp -a --sparse=always $T/kept/{memory,state} .",
                     0);
        /* Whole again, but another inode. */
        assert_errno(harness_write(harness_path(h, "snapshots/base/accept"), "1"), 0);
    }
    harness_put(fork_path(h, "new", "mailboxes/m"), "{\"n\":1}");
    harness_put(fork_path(h, "new", "commit"), "f1");
    harness_await(h, harness_path(h, "instances/f1/console"), "m {\"n\":1}\n");
}

/* `edit` is jq's; the daemon is started anew. */
static const struct {
    const char *edit, *phase, *words;
    int code;
} edits[] = {
    {".machine.version = \"1.2.3\"", "load", "saved by qemu 1.2.3", EOPNOTSUPP},
    {".machine.memory_bytes = 4194304", "load", "8388608 bytes, and the machine has 4194304", EIO},
    {".machine.type = null", "load", "type", EIO},
    {".machine.type = \"a,b=c\"", "validate", "type", EIO},
    {".machine.cpu = \"max,x=y\"", "validate", "cpu", EIO},
    {".machine.accel = \"auto\"", "load", "does not say", EIO},
    {".machine.disks = [{\"path\":\"/nonexistent/disk\",\"format\":\"raw\",\"readonly\":true}]",
     "load", "/nonexistent/disk", EIO},
    {"del(.machine)", "validate", "import it again with --config", EOPNOTSUPP},
    {".kind = \"live\"", "validate", "\"live\"", EOPNOTSUPP},
    {".hypervisor = \"bhyve\"", "validate", "bhyve", EOPNOTSUPP},
};

static void commit_of_a_snapshot_that_says_something_else_is_refused(void **state)
{
    struct harness *h = *state;
    assert_shell("bash", "cp $S/snapshots/base/snapshot.json $T/kept", 0);
    for (size_t i = 0; i < array_length(edits); i++) {
        assert_int_equal(harness_unmount(h), 0);
        assert_shell(
            "bash",
            harness_format(h, "jq '%s' $T/kept > $S/snapshots/base/snapshot.json", edits[i].edit),
            0);
        harness_mount(h, NULL);
        assert_refused(h, edits[i].code, edits[i].phase, edits[i].words);
    }
}

static void snapshot_that_cannot_be_read_is_left_out_and_named_in_the_log(void **state)
{
    struct harness *h = *state;
    static const char *const scripts[] = {
        "jq 'del(.uuid)' $T/kept > snapshot.json",
        "jq '.version=3' $T/kept > snapshot.json",
        "jq 'del(.memory_bytes)' $T/kept > snapshot.json",
        "head -c 50 $T/kept > snapshot.json",
        "echo '[]' > snapshot.json",
        "rm snapshot.json",
        "rm snapshot.json && mkfifo snapshot.json",
    };
    assert_shell("bash", "cp $S/snapshots/base/snapshot.json $T/kept", 0);
    for (size_t i = 0; i < array_length(scripts); i++) {
        assert_int_equal(harness_unmount(h), 0);
        assert_shell("bash",
                     harness_format(h,
                                    "cd $S/snapshots/base && rm -f snapshot.json && cp $T/kept "
                                    "snapshot.json && : > $T/daemon.log && %s",
                                    scripts[i]),
                     0);
        harness_mount(h, NULL);
        assert_string_equal(assert_shell("bash", "ls snapshots", 0).out, "");
        assert_file_contains(h->log, "snapshot base");
    }
}

/* Started anew with another program for QEMU. */
static void remount(struct harness *h, const char *qemu)
{
    assert_int_equal(harness_unmount(h), 0);
    harness_mount(h, (const char *const[]){"--qemu", qemu, "--confine", "off", NULL});
}

static void qemu_that_is_missing_is_named(void **state)
{
    struct harness *h = *state;
    char *qemu = fixture_script(h, "gone", "#!/bin/false\n");
    remount(h, qemu);
    assert_works(unlink(qemu));
    assert_refused(h, EIO, "load", qemu);
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
    harness_put(harness_path(h, "instances/x/config"),
                tiny_guest_config(h, (const char *const[]){"m", NULL}));
    assert_errno(harness_write(harness_path(h, "instances/x/state"), "running"), EIO);
    assert_file_contains(harness_path(h, "instances/x/error"), qemu);
    assert_works(rmdir(harness_path(h, "instances/x")));
    assert_works(mkdir(qemu, 0700));
    assert_refused(h, EIO, "load", "not a program");
}

static void qemu_that_dies_while_loading_has_its_last_words_told(void **state)
{
    struct harness *h = *state;
    remount(h, fixture_script(h, "dying-qemu",
                              "#!/bin/sh\ncase \"$*\" in *-incoming*) echo 'no room for it' >&2; "
                              "exit 3;; esac\nexec qemu-system-x86_64 \"$@\"\n"));
    assert_refused(h, EIO, "load", "no room for it");
    assert_file_contains(fork_path(h, "new", "error"), "status 3");
    remount(h, fixture_script(h, "killed-qemu",
                              "#!/bin/sh\ncase \"$*\" in *-incoming*) kill -9 $$;; esac\n"
                              "exec qemu-system-x86_64 \"$@\"\n"));
    assert_refused(h, EIO, "load", "signal 9");
}

/* QEMU itself, ended by a process beside it while it stays at a known place (slow_qemu.c). That one
 * does not stay in the directory of the VMM, for it may end a moment later. */
static char *qemu_that_is_killed(struct harness *h, const char *place)
{
    assert_works(mkfifo(harness_format(h, "%s/%s.mark", h->directory, place), 0600));
    return fixture_script(
        h, harness_format(h, "qemu-%s", place),
        harness_format(
            h,
            "#!/bin/bash\n"
            "case \"$*\" in *-incoming*) ;; *) exec qemu-system-x86_64 \"$@\";; esac\n"
            "mark=%s/%s.mark qemu=$$\n"
            "{ cd ${0%%/*}; read < $mark; : > $mark.read; kill -9 $qemu; } &\n"
            "export HYPEFS_TEST_MARK=$mark HYPEFS_TEST_STAY=%s LD_PRELOAD=%s:$LD_PRELOAD\n"
            "exec qemu-system-x86_64 \"$@\"\n",
            h->directory, place, place, getenv("HYPEFS_SLOW_QEMU")));
}

static void qemu_that_is_killed_while_it_works_leaves_nothing(void **state)
{
    struct harness *h = *state;
    static const char *const places[] = {"accept", "state"};
    for (size_t i = 0; i < array_length(places); i++) {
        remount(h, qemu_that_is_killed(h, places[i]));
        assert_refused(h, EIO, "load", "QEMU has ended (signal 9)");
        assert_works(access(harness_format(h, "%s/%s.mark.read", h->directory, places[i]), F_OK));
    }
    assert_file_contains(fork_path(h, "new", "error"), "query-migrate");
    remount(h, "qemu-system-x86_64");
    harness_put(fork_path(h, "new", "mailboxes/m"), "{\"n\":1}");
    harness_put(fork_path(h, "new", "commit"), "f1");
    harness_await(h, harness_path(h, "instances/f1/console"), "m {\"n\":1}\n");
}

static void qemu_of_another_version_is_refused_before_it_is_started(void **state)
{
    struct harness *h = *state;
    remount(h, fixture_script(h, "other-qemu",
                              "#!/bin/sh\necho \"$*\" >> ${0%/*}/calls\n"
                              "echo 'QEMU emulator version 99.1.2 (test)'\n"));
    assert_refused(h, EOPNOTSUPP, "load", "99.1.2");
    assert_shell("bash", "! grep -v -e --version $T/calls", 0);
}

static void qemu_that_is_no_qemu_is_named(void **state)
{
    struct harness *h = *state;
    remount(h, "/bin/true");
    assert_refused(h, EIO, "load", "/bin/true");
    remount(h, "/bin/false");
    assert_refused(h, EIO, "load", "/bin/false");
}

/* A script between us and QEMU is a process more, which is replaced by QEMU. */
static void qemu_behind_a_script_works(void **state)
{
    struct harness *h = *state;
    remount(h, fixture_script(h, "my-qemu", "#!/bin/sh\nexec qemu-system-x86_64 \"$@\"\n"));
    harness_put(fork_path(h, "new", "mailboxes/m"), "{\"n\":1}");
    harness_put(fork_path(h, "new", "commit"), "f1");
    harness_await(h, harness_path(h, "instances/f1/console"), "m {\"n\":1}\n");
}

static bool vmm_is_there(void *argument)
{
    struct harness *h = argument;
    return harness_shell(h, "bash",
                         "readlink /proc/[0-9]*/cwd 2> /dev/null | grep -qxF $S/instances/x/run")
               .status == 0;
}

static void stop_while_a_boot_hangs_ends_it(void **state)
{
    struct harness *h = *state;
    remount(h, fixture_script(h, "hanging-qemu",
                              "#!/bin/sh\ncase \"$*\" in *--version*) exec qemu-system-x86_64 "
                              "\"$@\";; esac\nexec tail -f /dev/null\n"));
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
    harness_put(harness_path(h, "instances/x/config"),
                tiny_guest_config(h, (const char *const[]){"m", NULL}));
    struct harness_child boot = harness_start_shell(h, "bash", "echo running > instances/x/state");
    harness_await_that(vmm_is_there, h, "QEMU is started");
    assert_errno(harness_write(harness_path(h, "instances/x/state"), "standby"), EBUSY);
    harness_put(harness_path(h, "instances/x/state"), "stopped");
    struct harness_result result = harness_finish(h, &boot);
    assert_int_equal(result.status, 1);
    assert_contains(result.err, "Operation canceled");
    assert_string_equal(harness_get(h, harness_path(h, "instances/x/state")), "stopped\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        guest_test(commit_of_a_damaged_snapshot_fails_and_leaves_nothing),
        guest_test(commit_of_a_snapshot_that_says_something_else_is_refused),
        guest_test(snapshot_that_cannot_be_read_is_left_out_and_named_in_the_log),
        guest_test(qemu_that_is_missing_is_named),
        guest_test(qemu_that_dies_while_loading_has_its_last_words_told),
        guest_test(qemu_that_is_killed_while_it_works_leaves_nothing),
        guest_test(qemu_of_another_version_is_refused_before_it_is_started),
        guest_test(qemu_that_is_no_qemu_is_named),
        guest_test(qemu_behind_a_script_works),
        guest_test(stop_while_a_boot_hangs_ends_it),
    };
    harness_enter();
    if (!tiny_guest_possible())
        return HARNESS_SKIPPED;
    return cmocka_run_group_tests_name("load", tests, NULL, NULL);
}
