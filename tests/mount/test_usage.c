/* SPDX-License-Identifier: MIT */
/* The command line: what is done, what is refused, exit statuses and the one line on stderr. */
#include "fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"

/* In the test's directory, with $H for the program, $S and $M. `err` is in stderr's one line; ""
 * if there is none. */
static const struct usage {
    const char *script;
    int status;
    const char *out, *err;
} usages[] = {
    {"$H --version", 0, "hypefs ", ""},
    {"$H --help", 0, "mount MOUNTPOINT", ""},
    {"$H --help", 0, "import ", ""},
    {"$H mount --help", 0, "--store DIR", ""},
    {"$H import --help", 0, "--memory FILE", ""},
    {"$H scan --help", 0, "Usage: hypefs scan [OPTION]…", ""},
    {"$H", 2, "", "no command given"},
    {"$H frobnicate", 2, "", "\"frobnicate\" is no command"},
    {"$H --frobnicate", 2, "", "\"--frobnicate\" is no command"},
    {"$H mount", 2, "", "no MOUNTPOINT given"},
    {"$H import", 2, "", "no --id given"},
    {"$H mount a b", 2, "", "more than one MOUNTPOINT"},
    {"$H mount --store $S --frobnicate $M", 2, "", "frobnicate"},
    {"$H mount --store", 2, "", "--store"},
    {"$H mount --store '' $M", 2, "", "--store needs a directory"},
    {"$H mount --qemu '' $M", 2, "", "--qemu needs a program"},
    {"$H mount --store $S --qemu ./gone $M", 1, "", "/gone is not a program that can be executed"},
    {"$H mount --store $S --qemu no-such $M", 1, "", "--qemu: no-such is not in PATH"},
    {"echo > file; $H mount --store $S --qemu ./file $M", 1, "", "/file is not a program"},
    {"$H mount --store $S --firecracker $T $M", 1, "", "--firecracker: /"},
    {"$H mount -f --store $S --firecracker ./gone $M", 1, "", "/gone is not a program"},
    {"$H mount --ack-address localhost $M", 2, "", "--ack-address must be"},
    {"$H mount --ack-address 1.2.3 $M", 2, "", "--ack-address must be"},
    {"$H mount --ack-address '' $M", 2, "", "--ack-address must be"},
    {"$H mount --ack-address 0.0.0.0 $M", 2, "", "--ack-address must be the one address"},
    {"$H mount --ack-address ff02::1 $M", 2, "", "--ack-address must be the one address"},
    {"$H mount --ack-address 192.0.2.1 --store $S $M", 1, "",
     "--ack-address: cannot receive acks at 192.0.2.1, which is no address of this host"},
    {"$H mount -f --ack-address 2001:db8::1 --store $S $M", 1, "", "is no address of this host"},
    {"$H mount --ack-address 127.255.255.255 --store $S $M", 1, "", "for all hosts of a network"},
    {"$H mount --require-token=yes $M", 2, "", "require-token"},
    {"$H mount --store $S nowhere", 1, "", "nowhere"},
    {"$H mount --store $S ''", 2, "", "no MOUNTPOINT given"},
    {"echo > file; $H mount --store $S file", 1, "", "not a directory"},
    {"echo > file; $H mount --store file $M", 1, "", "file"},
    {"echo > file; $H mount --store file/s $M", 1, "", "file"},
    {"$H mount -f --store file $M", 1, "", "file"},
    {"mkdir full; echo > full/.x; $H mount --store $S full", 1, "", "full: it is not empty"},
    {"$H mount --store $M $M", 1, "", "it is the store"},
    {"$H mount --store $M/../mount/. $M", 1, "", "it is the store"},
    {"$H mount --store $M/a/b $M && ls $M/a", 1, "", "it contains the store"},
    {"mkdir full/m; $H mount --store full/nowhere/.. full/m", 1, "", "it lies in the store"},
    {"ln -s full link; $H mount --store link full/m", 1, "", "it lies in the store"},
    {"cd $M; $H mount --store . .", 1, "", "it is the store"},
    {"cd full/m; $H mount -f --store ../../link .", 1, "", "it lies in the store"},
    {"$H mount --store / $M", 1, "", "it lies in the store /:"},
    {"$H mount --store /proc/store $M", 1, "", "/proc/store"},
    {"$H mount -o allow_other,frobnicate=1,x --store $S $M", 2, "",
     "cannot use something in -o allow_other,frobnicate=1,x; try: hypefs mount --help\n"},
    {"$H mount -o max_read=x --store $S $M", 2, "", "cannot use something in -o max_read=x"},
    /* The kernel and libfuse fall out over these after they have greeted each other. */
    {"$H mount -o max_read=100 --store $S $M", 1, "", "does not answer"},
    {"$H mount -o max_read=8192 --store $S $M", 1, "", "does not answer"},
    {"$H mount -f -o max_read=8192 --store $S $M 2> err; s=$?; tail -n 1 err >&2; exit $s", 1, "",
     "Protocol error"},
    {"$H scan", 2, "", "hypefs scan: no FILE given; try: hypefs scan --help\n"},
    {"$H scan --frobnicate file", 2, "", "frobnicate"},
    {"$H scan nowhere", 1, "", "nowhere"},
    {"$H scan .", 1, "", "."},
    {"$H --version > /dev/full", 1, "", "standard output: No space left on device"},
};

static void command_line_when_wrong_says_why_in_one_line(void **state)
{
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(usages); i++) {
        struct harness_result result =
            harness_shell(h, "bash", harness_format(h, "H=$HYPEFS; %s", usages[i].script));
        if (result.status != usages[i].status)
            fail_msg("%s: status %d, not %d: %s%s", usages[i].script, result.status,
                     usages[i].status, result.out, result.err);
        assert_contains(result.out, usages[i].out);
        assert_contains(result.err, usages[i].err);
        size_t size = strlen(result.err);
        if (usages[i].status == 0)
            assert_string_equal(result.err, "");
        else if (size == 0 || result.err[size - 1] != '\n' || size > 400 ||
                 ((result.status == 1 || strstr(usages[i].script, " -o ")) &&
                  strchr(result.err, '\n') != result.err + size - 1))
            fail_msg("%s says \"%s\"", usages[i].script, result.err);
        assert_shell("bash", "! findmnt -n $M && rmdir $M && mkdir $M", 0);
    }
}

/* What the daemon in the background, of that store, has written into its lock. */
static pid_t daemon_of(struct harness *h, const char *store)
{
    return atoi(harness_get(h, harness_format(h, "%s/lock", store)));
}

static void end_in_background(struct harness *h, const char *store, const char *script)
{
    pid_t pid = daemon_of(h, store);
    assert_works(kill(pid, 0));
    assert_shell("bash", script, 0);
    harness_await_gone(pid);
    assert_shell("bash", "! findmnt -n $M", 0);
}

static void mount_in_the_background_answers_when_the_command_returns(void **state)
{
    struct harness *h = *state;
    static const char *const ends[] = {"fusermount3 -u $M", "kill $(cat $S/lock)",
                                       "kill -INT $(cat $S/lock)", "kill -HUP $(cat $S/lock)"};
    for (size_t i = 0; i < array_length(ends); i++) {
        assert_string_equal(
            assert_shell("bash", "$HYPEFS mount --store $S $M && ls $M | tr '\\n' ' '", 0).out,
            "README error events instances snapshots ");
        end_in_background(h, h->store, ends[i]);
    }
    if (geteuid() == 0) {
        assert_shell("bash", "$HYPEFS mount --store $S $M", 0);
        end_in_background(h, h->store, "umount $M");
    }
}

static void mount_with_relative_paths_works(void **state)
{
    struct harness *h = *state;
    assert_shell("bash", "cd $T && $HYPEFS mount --store ./store mount/ && ls mount/README", 0);
    assert_works(access(h->store, F_OK));
    end_in_background(h, h->store, "fusermount3 -u $M");
    assert_shell("bash", "cd $M && $HYPEFS mount --store ../store . && ls $M/README", 0);
    end_in_background(h, h->store, "cd /; fusermount3 -u $M");
}

/* One path begins like the other, and is none within it. */
static void mount_beside_the_store_works(void **state)
{
    struct harness *h = *state;
    h->store = harness_format(h, "%s-store/new/", h->mount);
    assert_shell("bash", "$HYPEFS mount --store $M-store/new/ $M && ls $M/README", 0);
    end_in_background(h, h->store, "fusermount3 -u $M");
    assert_shell("bash", "$HYPEFS mount --store $M-store/new $M && ls $M/README", 0);
    end_in_background(h, h->store, "fusermount3 -u $M");
}

static void store_by_default_lies_in_the_home_of_a_user(void **state)
{
    struct harness *h = *state;
    if (geteuid() == 0)
        return; /* /var/lib/hypefs is not the test's to use */
    assert_shell("bash", "XDG_DATA_HOME=$T/data $HYPEFS mount $M && cat $T/data/hypefs/lock", 0);
    end_in_background(h, harness_format(h, "%s/data/hypefs", h->directory), "fusermount3 -u $M");
    assert_shell("bash", "unset XDG_DATA_HOME; $HYPEFS mount $M && ls $T/.local/share/hypefs", 0);
    end_in_background(h, harness_format(h, "%s/.local/share/hypefs", h->directory),
                      "fusermount3 -u $M");
    assert_contains(assert_shell("bash", "unset HOME XDG_DATA_HOME; $HYPEFS mount $M", 2).err,
                    "--store");
}

static void store_when_made_is_closed_to_others(void **state)
{
    struct harness *h = *state;
    harness_mount(h, NULL);
    assert_string_equal(
        assert_shell("bash", "stat -c %a $S $S/snapshots $S/instances $S/lock", 0).out,
        "700\n700\n700\n600\n");
}

static void second_daemon_on_a_store_is_refused(void **state)
{
    struct harness *h = *state;
    harness_mount(h, NULL);
    static const char *const scripts[] = {
        "HYPEFS_TEST_TIMING=lock:300 $HYPEFS mount --store $S $T/m2",
        "HYPEFS_TEST_TIMING=lock:300 $HYPEFS mount -f --store $S $T/m3",
        "HYPEFS_TEST_TIMING=lock:300 $HYPEFS mount --store $T/mount/../store $T/m4"};
    /* All at the same time, for each waits a while for the first to end. */
    struct harness_child children[array_length(scripts)];
    assert_shell("bash", "mkdir $T/m2 $T/m3 $T/m4", 0);
    for (size_t i = 0; i < array_length(scripts); i++)
        children[i] = harness_start_shell(h, "bash", scripts[i]);
    for (size_t i = 0; i < array_length(scripts); i++) {
        struct harness_result result = harness_finish(h, &children[i]);
        assert_int_equal(result.status, 1);
        assert_contains(result.err, "in use by another hypefs");
        assert_contains(result.err, harness_format(h, "pid %d", (int)h->daemon));
    }
    assert_works(access(harness_path(h, "README"), F_OK));
}

static void second_daemon_on_a_store_without_its_lock_is_refused(void **state)
{
    struct harness *h = *state;
    harness_mount(h, NULL);
    struct harness_result result =
        assert_shell("bash", "mkdir $T/m2 && rm $S/lock && $HYPEFS mount --store $S $T/m2", 1);
    assert_contains(result.err,
                    "in use by another hypefs, whose file \"lock\" somebody has removed");
    assert_works(access(harness_path(h, "README"), F_OK));
}

static void second_mount_at_a_mountpoint_is_refused(void **state)
{
    struct harness *h = *state;
    harness_mount(h, NULL);
    struct harness_result result = assert_shell("bash", "$HYPEFS mount --store $T/s2 $M", 1);
    assert_contains(result.err, harness_format(h, "a hypefs is mounted at %s already\n", h->mount));
    assert_works(access(harness_path(h, "README"), F_OK));
}

/* Neither sees a mount when it looks for one. */
static void mounts_when_started_at_once_at_a_mountpoint_are_one(void **state)
{
    struct harness *h = *state;
    struct harness_result result =
        assert_shell("bash",
                     "for s in a b c; do $HYPEFS mount --store $T/$s $M 2> $T/$s.err && echo $s & "
                     "done; wait",
                     0);
    assert_int_equal(strlen(result.out), 2);
    assert_string_equal(assert_shell("bash", "grep -c \" $M \" /proc/self/mounts", 0).out, "1\n");
    result.out[1] = 0;
    for (const char *store = "abc"; *store; store++) {
        const char *why = harness_get(h, harness_format(h, "%s/%c.err", h->directory, *store));
        if (*store != result.out[0])
            assert_contains(why, harness_format(h, "a hypefs is mounted at %s already", h->mount));
    }
    end_in_background(h, harness_format(h, "%s/%s", h->directory, result.out), "fusermount3 -u $M");
}

static void mount_where_somebody_has_a_lock_for_ever_is_done(void **state)
{
    struct harness *h = *state;
    auto_close int fd = open(h->mount, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_works(flock(fd, LOCK_EX | LOCK_NB));
    setenv("HYPEFS_TEST_TIMING", "lock:200", 1);
    harness_mount(h, NULL);
    unsetenv("HYPEFS_TEST_TIMING");
    assert_works(access(harness_path(h, "README"), F_OK));
}

/* Whatever fails for lack of them, no other reason is told; libfuse has words of its own. */
static void mount_with_any_number_of_descriptors_is_done_or_names_the_limit(void **state)
{
    enum { FROM = 4, ENOUGH = 100 };
    struct harness *h = *state;
    int status = 1, count = FROM;
    for (; status != 0 && count < ENOUGH; count++) {
        struct harness_result result = harness_shell(
            h, "bash", harness_format(h, "ulimit -n %d; $HYPEFS mount --store $S $M", count));
        status = result.status;
        if (status != 0 && !strstr(result.err, "RLIMIT_NOFILE") &&
            !strstr(result.err, strerrordesc_np(EMFILE)))
            fail_msg("%d descriptors: status %d, %s", count, status, result.err);
        assert_shell("bash", status == 0 ? "findmnt -n $M" : "! findmnt -n $M", 0);
    }
    assert_true(count > FROM + 1 && count < ENOUGH);
    end_in_background(h, h->store, "fusermount3 -u $M");
}

/* The daemon is named by the store's lock. */
static void mount_over_one_whose_daemon_is_stopped_is_refused(void **state)
{
    struct harness *h = *state;
    harness_mount(h, NULL);
    struct harness_result result =
        assert_shell("bash",
                     "cd / && pid=$(cat $S/lock) && kill -STOP $pid\n"
                     "while grep -L ') T ' /proc/$pid/task/*/stat | grep -q .; do :; done\n"
                     "HYPEFS_TEST_TIMING=silent:300 $HYPEFS mount --store $T/s2 $M; r=$?\n"
                     "kill -CONT $pid; exit $r",
                     1);
    assert_contains(result.err, "does not answer: if it is stopped, let it go on");
    assert_works(access(harness_path(h, "README"), F_OK));
    assert_fails(access(harness_format(h, "%s/s2", h->directory), F_OK), ENOENT);
}

static void stale_mount_of_a_killed_daemon_is_cleared_first(void **state)
{
    struct harness *h = *state;
    harness_mount(h, NULL);
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
    harness_kill(h);
    assert_errno(harness_read_errno(harness_path(h, "README")), ENOTCONN);
    assert_shell("bash", "cd /; $HYPEFS mount --store $S $M && ls $M/instances/x", 0);
    assert_string_equal(assert_shell("bash", "grep -c \" $M \" /proc/self/mounts", 0).out, "1\n");
    end_in_background(h, h->store, "fusermount3 -u $M");
}

static void store_path_with_a_comma_and_a_space_is_a_path(void **state)
{
    struct harness *h = *state;
    h->store = harness_format(h, "%s/a, store,share=on", h->directory);
    h->mount = harness_format(h, "%s/a, mount,ro", h->directory);
    assert_works(mkdir(h->mount, 0700));
    harness_mount(h, NULL);
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
    assert_works(access(harness_store_path(h, "instances/x/instance.json"), F_OK));
    assert_int_equal(harness_unmount(h), 0);
}

/* What root is to be wary of; others are asked nothing, for it is their own. */
static const struct {
    const char *prepare, *arguments, *err; /* "": root mounts it, too */
} untrusted[] = {
    {"ln -s $M theirs; chown -h 12345 theirs", "--store $S theirs", "link of another user"},
    {"ln -s $M theirs; chown -h 12345 theirs; mkdir $M/in", "--store $S theirs/in",
     "link of another user"},
    {"mkdir elsewhere; ln -s elsewhere theirs; chown -h 12345 theirs", "--store theirs/s $M",
     "link of another user"},
    {"mkdir real; ln -s real link", "--store link $M", "link is a symbolic link"},
    {"mkdir open; chmod 777 open", "--store open $M", "others may write to"},
    {"mkdir -p open/snapshots/s; chmod g+w open/snapshots/s", "--store open $M", "snapshots/s"},
    {"mkdir open; chown 12345 open", "--store open $M", "belongs to another user (uid 12345)"},
    {"ln -s $M ours", "--store $S ours", ""},
};

static void what_others_can_change_is_refused_to_root_with_a_sentence(void **state)
{
    struct harness *h = *state;
    if (geteuid() != 0)
        return; /* nobody else can make what belongs to others */
    for (size_t i = 0; i < array_length(untrusted); i++) {
        bool good = untrusted[i].err[0] == 0;
        struct harness_result result =
            assert_shell("bash",
                         harness_format(h, "%s; umask 022; $HYPEFS mount %s", untrusted[i].prepare,
                                        untrusted[i].arguments),
                         good ? 0 : 1);
        assert_contains(result.err, untrusted[i].err);
        assert_shell("bash", "[ ! -e open/lock ] && [ ! -e open/instances ]", 0);
        if (!good && strstr(untrusted[i].arguments, "$M"))
            assert_shell("bash",
                         harness_format(h, "$HYPEFS mount --insecure-store %s && ls $M/README",
                                        untrusted[i].arguments),
                         0);
        assert_shell("bash",
                     "findmnt -n $M && umount $M; rm -rf $T/theirs $T/elsewhere $T/real $T/link "
                     "$T/open $T/ours $M/*",
                     0);
    }
}

/* In the log too, which is stderr with -f. */
static void mount_without_qemu_says_so_at_once(void **state)
{
    struct harness *h = *state;
    static const char script[] = "mkdir -p bin && ln -sf $(command -v fusermount3) bin/ && "
                                 "PATH=$T/bin $HYPEFS mount --store "
                                 "$S $M";
    struct harness_result result = assert_shell("bash", script, 0);
    assert_contains(result.err, "no qemu-system-x86_64 in PATH");
    assert_contains(result.err, "--qemu");
    assert_int_equal(strchr(result.err, '\n') - result.err, strlen(result.err) - 1);
    end_in_background(h, h->store, "fusermount3 -u $M");
    const char *path = harness_format(h, "%s", getenv("PATH"));
    setenv("PATH", harness_format(h, "%s/bin", h->directory), 1);
    harness_mount(h, NULL);
    setenv("PATH", path, 1);
    assert_file_contains(h->log, "no qemu-system-x86_64 in PATH");
    assert_int_equal(harness_unmount(h), 0);
    assert_shell("bash", "touch qemu && chmod +x qemu && $HYPEFS mount --store $S --qemu ./qemu $M",
                 0);
    end_in_background(h, h->store, "fusermount3 -u $M");
}

/* It has the pid of the daemon that has it, or nothing. */
static void lock_of_a_store_without_a_daemon_is_empty(void **state)
{
    struct harness *h = *state;
    harness_mount(h, NULL);
    assert_int_equal(daemon_of(h, h->store), h->daemon);
    assert_int_equal(harness_unmount(h), 0);
    assert_string_equal(harness_get(h, harness_store_path(h, "lock")), "");
    harness_mount(h, NULL);
    harness_kill(h);
    assert_shell("bash", "cd /; $HYPEFS mount --store $S --qemu /nowhere $M", 1);
    assert_shell("bash", "cd /; $HYPEFS mount --store $S $M", 0);
    end_in_background(h, h->store, "fusermount3 -u $M");
    assert_string_equal(harness_get(h, harness_store_path(h, "lock")), "");
}

static void allow_other_brings_default_permissions(void **state)
{
    struct harness *h = *state;
    if (geteuid() != 0)
        return; /* a user may not, unless /etc/fuse.conf says so */
    assert_works(chmod(harness_base(), 0755));
    assert_works(chmod(h->directory, 0755));
    harness_mount(h, (const char *const[]){"-o", "allow_other", NULL});
    assert_shell("bash", "findmnt -n -o OPTIONS $M | grep default_permissions", 0);
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
    struct harness_result result = assert_shell(
        "bash",
        "setpriv --reuid 65534 --regid 65534 --clear-groups bash -c '"
        "cat README > /dev/null && cat instances/x/state && ! cat instances/x/config && "
        "! echo running > instances/x/state && ! mkdir instances/y && ! rmdir instances/x'",
        0);
    assert_string_equal(result.out, "created\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        bare_test(command_line_when_wrong_says_why_in_one_line),
        bare_test(mount_in_the_background_answers_when_the_command_returns),
        bare_test(mount_with_relative_paths_works),
        bare_test(mount_beside_the_store_works),
        bare_test(store_by_default_lies_in_the_home_of_a_user),
        bare_test(store_when_made_is_closed_to_others),
        bare_test(second_daemon_on_a_store_is_refused),
        bare_test(second_daemon_on_a_store_without_its_lock_is_refused),
        bare_test(second_mount_at_a_mountpoint_is_refused),
        bare_test(mounts_when_started_at_once_at_a_mountpoint_are_one),
        bare_test(mount_where_somebody_has_a_lock_for_ever_is_done),
        bare_test(mount_with_any_number_of_descriptors_is_done_or_names_the_limit),
        bare_test(mount_over_one_whose_daemon_is_stopped_is_refused),
        bare_test(stale_mount_of_a_killed_daemon_is_cleared_first),
        bare_test(store_path_with_a_comma_and_a_space_is_a_path),
        bare_test(what_others_can_change_is_refused_to_root_with_a_sentence),
        bare_test(mount_without_qemu_says_so_at_once),
        bare_test(lock_of_a_store_without_a_daemon_is_empty),
        bare_test(allow_other_brings_default_permissions),
    };
    harness_enter();
    return cmocka_run_group_tests_name("usage", tests, NULL, NULL);
}
