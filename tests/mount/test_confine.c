/* SPDX-License-Identifier: MIT */
/* hypefs-vmm, which shuts itself in and becomes a VMM: here it becomes programs that try what a VMM
 * that was taken over would try. */
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "tiny_guest.h"
#include "util/cleanup.h"
#include "util/unix_socket.h"

/* In $T/at, with the files a and b, which say so; $B is the program. $T/secret is a file of the
 * daemon's user beside it. */
static const struct shut_in {
    const char *script;
    int status;
    const char *out, *err; /* the whole; a part */
} own_cases[] = {
    /* what it is told */
    {"$B -- sh -c 'pwd; cat a; echo c > c; exit 7'; echo $? && cat c", 0, NULL, ""},
    {"$B --ro-at /hypefs-none a -- cat /hypefs-none; [ ! -e /hypefs-none ]", 0, "a\n", ""},
    {"$B --ro-at $T/new/deep/x a --rw-at $T/new/y b -- cat $T/new/deep/x $T/new/y; [ ! -e $T/new ]",
     0, "a\nb\n", ""},
    {"$B --rw-at $T/at/a b --rw-at $T/at/b a -- cat a b && cat a b", 0, "b\na\na\nb\n", ""},
    {"$B --ro ../secret -- cat $T/secret ../secret", 0, "secret\nsecret\n", ""},
    {"$B --ro $T/l -- cat $T/l", 0, "a\n", ""},
    {"$B --rw ../secret -- sh -c 'echo more >> ../secret' && cat $T/secret", 0, "secret\nmore\n",
     ""},
    {"exec 7>pid; $B --pid-fd 7 -- sh -c 'echo x > seen' && until [ -s seen ]; do :; done && "
     "grep -cx '[1-9][0-9]*' pid",
     0, "1\n", ""},
    {"exec 7<a 8<a 9<b; $B --keep-fd 9 --keep-fd 7 -- sh -c 'cat <&9; cat <&7; "
     "for n in 0 1 2 3 4 5 6 7 8 9; do [ ! -e /proc/self/fd/$n ] || echo $n; done'",
     0, "b\na\n0\n1\n2\n7\n9\n", ""},
    {"exec 7<a; $B -- sh -c 'cat <&7'", 0, "a\n", ""},
    {"$B --keep-fd 2 -- true", 126, "", "usage: "},
    /* what it cannot do, and says */
    {"$B --ro none -- true", 126, "", "hypefs-vmm: none: No such file or directory"},
    {"$B --ro-at /usr/none/x a -- true", 126, "",
     "cannot make /usr/none: Invalid cross-device link"},
    {"$B --ro-at $T/at/a/x a -- true", 126, "", "cannot make "},
    {"$B -- /none", 127, "", "hypefs-vmm: /none: No such file or directory"},
    {"$B --user 0:0 -- true", 126, "", "usage: "},
    {"$B --ro a", 126, "", "usage: "},
    {"$B --", 126, "", "usage: "},
    {"$B --unknown -- true", 126, "", "usage: "},
    {"$B --own-tap t7 --net -- true", 126, "", "usage: "},
    /* what the program cannot do: the file system */
    {"$B -- cat $T/secret", 1, "", "No such file or directory"},
    {"$B -- cat /etc/passwd", 1, "", "No such file or directory"},
    {"ls $T | wc -l; $B -- ls $T", 0, "4\nat\n", ""},
    {"$B -- touch /x", 1, "", "Read-only file system"},
    {"$B -- touch /usr/x", 1, "", "Read-only file system"},
    {"$B --ro a -- sh -c 'echo x > a'", 2, "", "Read-only file system"},
    {"$B --ro a -- chmod 777 a", 1, "", "Read-only file system"},
    {"$B --ro a -- rm -f a", 1, "", "Device or resource busy"},
    {"$B --ro a -- mv b a", 1, "", "Device or resource busy"},
    {"cp /bin/true t; $B -- ./t", 127, "", "Permission denied"},
    {"$B -- sh -c 'cp /bin/true t; ./t'", 126, "", "Permission denied"},
    {"$B -- sh -c 'cat < /dev/mem'", 2, "", "cannot open /dev/mem"},
    {"$B -- mknod x c 1 3", 1, "", "Operation not permitted"},
    {"$B -- sh -c 'echo x > /proc/sys/kernel/core_pattern'", 2, "", "Read-only file system"},
    /* processes, and what the kernel does for whoever may ask */
    {"$B -- sh -c 'kill -0 $1' - $$", 1, "", "No such process"},
    {"$B -- sh -c '[ $(ls -d /proc/[0-9]* | wc -l) -le 4 ]'", 0, "", ""}, /* sh and its pipe */
    {"$B -- unshare --user true", 1, "", "Operation not permitted"},
    {"$B -- unshare --mount true", 1, "", "Operation not permitted"},
    {"$B -- nsenter --target 1 --net true", 1, "", "Operation not permitted"},
    {"$B -- mount -t tmpfs none /usr", 32, "", ""},
    {"$B -- chroot /usr true", 125, "", "Operation not permitted"},
    {"$B -- sh -c 'grep -c . /proc/net/dev'", 0, "3\n", ""}, /* two lines above, and lo */
    {"[ ! -w /dev/net/tun ] || $B --own-tap t7 -- grep -q t7: /proc/net/dev; "
     "! grep t7: /proc/net/dev",
     0, "", ""},
    {"$B -- grep -E '^(CapPrm|CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status", 0,
     "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n"
     "NoNewPrivs:\t1\nSeccomp:\t2\n",
     ""},
    {"$B -- chmod 600 /dev/null", 1, "", "Read-only file system"},
    {"$B -- chmod 600 /proc/self/fd/0 < /dev/null", 1, "", "Read-only file system"},
    {"$B -- sh -c 'cd /usr'", 2, "", "can't cd to /usr"},
    {"ln -s $T/secret planted && $B --ro planted -- true", 126, "", "planted: Too many levels"},
    {"$B --check && cd / && $B --check && [ ! -e /.hypefs-vmm ]", 0, NULL, ""},
    {"cd / && $B -- true", 126, "", "in the working directory \"/\""},
};

/* The same with another user, whose all files are that the options name; as root. */
static const struct shut_in user_cases[] = {
    {"$B $U -- id -u; $B $U -- id -g; $B $U -- id -G", 0, "300000\n300001\n300001\n", ""},
    {"chmod 600 a; $B $U -- sh -c 'cat a; echo c > c; stat -c %u:%g a c'; stat -c %u:%g a c", 0,
     "a\n300000:300001\n300000:300001\n0:0\n0:0\n", ""},
    {"chmod 600 $T/secret; chown 7:8 $T/secret; $B $U --rw ../secret -- sh -c 'echo more >> "
     "../secret' && cat $T/secret && stat -c %u:%g $T/secret",
     0, "secret\nmore\n7:8\n", ""},
    {"chmod 400 $T/secret; $B $U --ro ../secret -- cat ../secret", 0, "secret\n", ""},
    {"chmod 400 $T/secret; $B $U --ro ../secret -- chmod 600 ../secret", 1, "", "Read-only"},
    {"$B $U -- sh -c 'echo > a; chown 0 a'", 1, "", "chown: changing ownership of 'a'"},
    {"$B $U -- sh -c 'cat < /dev/null > /dev/full'", 0, "", ""},
    {"$B $U --own-tap t7 --own-tap '' -- sh -c 'grep -c t7: /proc/net/dev; : <> /dev/net/tun'", 0,
     "1\n", ""},
    {"$B $U -- chmod 666 /dev/null", 1, "", "Read-only file system"},
    {"$B $U -- grep -E '^(CapPrm|CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status", 0,
     "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n"
     "NoNewPrivs:\t1\nSeccomp:\t2\n",
     ""},
    {"$B $U -- unshare --user true", 1, "", "Operation not permitted"},
    {"$B $U -- unshare --mount true", 1, "", "Operation not permitted"},
    {"$B $U -- sh -c 'kill -0 $1' - $$", 1, "", "No such process"},
    {"$B $U -- mknod x c 1 3", 1, "", "Operation not permitted"},
    {"$B $U --check && cd / && $B $U --check", 0, NULL, ""},
    /* a file system that cannot show files as another's: 9p, proc */
    {"$B $U --rw /proc/sys/kernel/hostname -- true", 126, "",
     "/proc/sys/kernel/hostname: the VMM's user 300000 may not write to it, and it is not shown"},
    {"chmod 400 $T/secret; $B $U --rw ../secret -- true", 126, "",
     "../secret: its owner, as whose it is shown to the VMM's user 300000, may not write to it"},
    {"cd /proc/sys && $B $U --check", 126, "", "the file system of /proc/sys cannot show files as"},
};

static void run_cases(struct harness *h, const struct shut_in *cases, size_t count)
{
    bool passed = true;
    for (size_t i = 0; i < count; i++) {
        struct harness_result result = harness_shell(
            h, "bash",
            harness_format(h,
                           "H=${HYPEFS%%/*}; B=$H/../confine/hypefs-vmm; "
                           "[ -x $B ] || B=$H/../libexec/hypefs/hypefs-vmm; export T; "
                           "U='--user 300000:300001'; "
                           "rm -rf $T/at && mkdir $T/at && cd $T/at && echo a > a && "
                           "echo b > b && ln -sf at/a $T/l && echo secret > $T/secret && { %s; }",
                           cases[i].script));
        if (result.status == cases[i].status && strstr(result.err, cases[i].err) &&
            (!cases[i].out || strcmp(result.out, cases[i].out) == 0))
            continue;
        print_error("%s: %d, %s%s\n", cases[i].script, result.status, result.out, result.err);
        passed = false;
    }
    assert_true(passed);
}

static void program_that_is_shut_in_has_what_is_named_and_no_more(void **state)
{
    run_cases(*state, own_cases, array_length(own_cases));
}

static void program_that_is_shut_in_as_another_user_has_its_files(void **state)
{
    run_cases(*state, user_cases, array_length(user_cases));
}

/* The same without namespaces, where Linux has Landlock. */
static const struct shut_in alone_cases[] = {
    {"$B --no-namespaces -- sh -c 'echo x > new; exec cat a new'", 0, "a\nx\n", ""},
    {"$B --no-namespaces -- mv a c && $B --no-namespaces -- ln -s c l && cat l", 0, "a\n", ""},
    {"$B --no-namespaces -- cat a", 0, "a\n", ""},
    {"$B --no-namespaces --ro ../secret -- cat ../secret $T/secret", 0, "secret\nsecret\n", ""},
    {"$B --no-namespaces -- cat $T/secret", 1, "", "Permission denied"},
    {"$B --no-namespaces -- cat /etc/passwd", 1, "", "Permission denied"},
    {"$B --no-namespaces -- ls $T", 2, "", "Permission denied"},
    {"$B --no-namespaces --ro $T/secret -- tee $T/secret </dev/null", 1, "", "Permission denied"},
    {"$B --no-namespaces --ro $T/secret -- truncate -s 0 $T/secret", 1, "", "Permission denied"},
    {"$B --no-namespaces --ro $T/secret -- chmod 777 $T/secret", 1, "", "Operation not permitted"},
    {"$B --no-namespaces --rw $T/secret -- cp a $T/secret && cat $T/secret", 0, "a\n", ""},
    {"$B --no-namespaces -- kill -0 $$", 1, "", "Operation not permitted"},
    {"$B --no-namespaces -- sh -c '(:)'", 2, "", "Cannot fork"},
    {"cp /bin/true t; $B --no-namespaces -- ./t", 127, "", "Permission denied"},
    {"$B --no-namespaces --ro-at /x a -- true", 126, "", "a cannot be shown as /x without"},
    {"$B --no-namespaces --ro none -- true", 126, "", "none: No such file"},
    {"$B --no-namespaces --user 3:3 -- true", 126, "", "usage: "},
    {"$B --no-namespaces --check", 0, NULL, ""},
};

/* 0: none. */
static int version_of_landlock(void)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, (size_t)0, 1U);
    return version > 0 ? (int)version : 0;
}

static bool has_landlock(void)
{
    return version_of_landlock() > 0;
}

static void program_without_namespaces_is_shut_in_by_landlock(void **state)
{
    run_cases(*state, alone_cases, array_length(alone_cases));
}

/* ---- what a VMM that was taken over tries (attack.c) ---- */

/* Somebody of the host's who takes connections at a port of 127.0.0.1 and at an abstract socket. */
struct listeners {
    int port_fd, abstract_fd, sibling_fd, port;
    char name[32];
};

static struct listeners listen_here(struct harness *h)
{
    struct listeners ret = {.port_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0),
                            .abstract_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    struct sockaddr_in port = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_un abstract = {.sun_family = AF_UNIX};
    socklen_t size = sizeof port;
    snprintf(ret.name, sizeof ret.name, "hypefs-test-%d", (int)getpid());
    memcpy(abstract.sun_path + 1, ret.name, strlen(ret.name));
    assert_works(bind(ret.port_fd, (struct sockaddr *)&port, sizeof port));
    assert_works(getsockname(ret.port_fd, (struct sockaddr *)&port, &size));
    assert_works(bind(ret.abstract_fd, (struct sockaddr *)&abstract,
                      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(ret.name))));
    assert_works(listen(ret.port_fd, 1));
    assert_works(listen(ret.abstract_fd, 1));
    ret.port = ntohs(port.sin_port);
    assert_int_equal(harness_shell(h, "sh", "mkdir -p $T/y/run").status, 0);
    auto_close int run = open(harness_format(h, "%s/y/run", h->directory), O_PATH | O_CLOEXEC);
    struct error err;
    if (unix_socket_listen(run, "vmm.sock", &ret.sibling_fd, &err) < 0)
        fail_msg("%s", err.text);
    return ret;
}

/* In a / of its own nothing is to be there of where it lies on the host. */
#define IN_ROOT "--ro-at /attack $HYPEFS_ATTACK -- /attack"
#define ON_HOST "--ro $HYPEFS_ATTACK -- $HYPEFS_ATTACK"

static void assert_attack(struct harness *h, const struct listeners *listeners, const char *option,
                          const char *succeeds)
{
    struct harness_result result = harness_shell(
        h, "bash",
        harness_format(h,
                       "H=${HYPEFS%%/*}; B=$H/../confine/hypefs-vmm; "
                       "[ -x $B ] || B=$H/../libexec/hypefs/hypefs-vmm; ulimit -c 0; "
                       "rm -rf $T/x && mkdir -p $T/x/run && cd $T/x/run && "
                       "echo {} > ../instance.json && echo s > $T/secret && echo i > $T/image && "
                       "echo m > $T/y/run/memory && "
                       "$B --ro $T/image %s $$ %d %s "
                       "$T/secret $T/y/run $T/image && "
                       "[ \"$(cat $T/image)\" = i ] && [ $(stat -c %%h $T/image) = 1 ]",
                       option, listeners->port, listeners->name));
    if (result.status != 0 || strcmp(result.out, succeeds) != 0)
        fail_msg("%s: %d, %s%s", option, result.status, result.out, result.err);
}

/* Those that succeed where the network is the host's are the ones that docs/confinement.md names.
 */
static void attack_when_shut_in_fails(void **state)
{
    struct harness *h = *state;
    struct listeners listeners = listen_here(h);
    assert_attack(h, &listeners, IN_ROOT, "146 attempts\n");
    if (geteuid() == 0)
        assert_attack(h, &listeners, "--user 300000:300001 " IN_ROOT, "146 attempts\n");
    if (has_landlock())
        assert_attack(h, &listeners, "--no-namespaces " ON_HOST, "146 attempts\n");
    auto_close int tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    assert_attack(
        h, &listeners, "--net " IN_ROOT,
        harness_format(
            h,
            "%smultipath: succeeded\nconnect_to_host: succeeded\nabstract_socket: succeeded\n"
            "146 attempts\n",
            tun >= 0 ? "/dev/net/tun: opened (02)\n" : ""));
    close(listeners.port_fd);
    close(listeners.abstract_fd);
    close(listeners.sibling_fd);
}

/* ---- a mount ---- */

static void make(struct harness *h, const char *id)
{
    static const char *const mailboxes[] = {"m", NULL};
    assert_works(mkdir(harness_path(h, "instances/%s", id), 0755));
    harness_put(harness_path(h, "instances/%s/config", id), tiny_guest_config(h, mailboxes));
}

static void boot(struct harness *h, const char *id)
{
    make(h, id);
    harness_put(harness_path(h, "instances/%s/state", id), "running");
    harness_await(h, harness_path(h, "instances/%s/console", id), "ready");
}

static bool is_shut_in_as_well_as_here(struct harness *h, const char *id)
{
    const char *info = harness_get(h, harness_path(h, "instances/%s/info", id));
    return atoi(harness_json(h, info, "confinement.landlock")) == version_of_landlock();
}

static const char *confinement(struct harness *h, const char *id, const char *member)
{
    const char *info = harness_get(h, harness_path(h, "instances/%s/info", id));
    return harness_json(h, info, harness_format(h, "confinement%s", member));
}

/* The network that its config names is the user network, which is the VMM's own. */
static void vmm_is_shut_in_and_info_says_how(void **state)
{
    struct harness *h = *state;
    const bool is_root = geteuid() == 0;
    harness_mount(h, (const char *const[]){"--confine", is_root ? "auto" : "strict", NULL});
    boot(h, "x");
    assert_string_equal(confinement(h, "x", ".level"), is_root ? "partial" : "full");
    assert_true(is_shut_in_as_well_as_here(h, "x"));
    assert_string_equal(confinement(h, "x", ".seccomp"), "true");
    assert_string_equal(confinement(h, "x", ".capabilities"), "none");
    assert_string_equal(confinement(h, "x", ".uid"), harness_format(h, "%u", (unsigned)geteuid()));
    assert_string_equal(confinement(h, "x", ".namespaces"),
                        "[\"user\",\"mount\",\"pid\",\"ipc\",\"uts\"]");
    harness_put(harness_path(h, "instances/x/state"), "stopped");
    assert_string_equal(confinement(h, "x", ""), "null");
}

/* Whoever else is that user on the host. */
static void assert_shut_to_its_user(struct harness *h, const char *id, unsigned uid)
{
    const char *info = harness_get(h, harness_path(h, "instances/%s/info", id));
    struct harness_result result = harness_shell(
        h, "bash",
        harness_format(h,
                       "for file in root/. cwd/. fd/1; do setpriv --reuid %u --regid "
                       "300000 --clear-groups test -r /proc/%s/$file && echo $file; done; setpriv "
                       "--reuid %u --regid 300000 --clear-groups cat /proc/%s/environ && echo read",
                       uid, harness_json(h, info, "pid"), uid, harness_json(h, info, "pid")));
    assert_string_equal(result.out, "");
}

/* Also after a restart, of whose VMMs the users are taken; and free again when they have ended. */
static void vmms_with_a_range_of_users_have_one_each(void **state)
{
    struct harness *h = *state;
    const char *const options[] = {"--vmm-uids", "300000-300001", NULL};
    harness_mount(h, options);
    boot(h, "x");
    assert_string_equal(confinement(h, "x", ".level"), "full");
    assert_string_equal(confinement(h, "x", ".uid"), "300000");
    assert_string_equal(confinement(h, "x", ".namespaces"),
                        "[\"user\",\"mount\",\"pid\",\"ipc\",\"uts\"]");
    assert_int_equal(harness_unmount(h), 0);
    harness_mount(h, options);
    assert_true(is_shut_in_as_well_as_here(h, "x"));
    boot(h, "y");
    assert_string_equal(confinement(h, "y", ".uid"), "300001");
    make(h, "z");
    assert_int_equal(harness_write(harness_path(h, "instances/z/state"), "running"), EAGAIN);
    assert_contains(harness_get(h, harness_path(h, "instances/z/error")),
                    "all 2 users of --vmm-uids have a VMM (");
    assert_shut_to_its_user(h, "x", 300000);
    harness_put(harness_path(h, "instances/x/state"), "standby");
    harness_put(harness_path(h, "instances/z/state"), "running");
    assert_string_equal(confinement(h, "z", ".uid"), "300000");
    harness_put(harness_path(h, "instances/z/state"), "stopped");
    harness_put(harness_path(h, "instances/x/state"), "running");
    assert_string_equal(confinement(h, "x", ".uid"), "300000");
}

static void vmms_with_one_user_are_all_that_one(void **state)
{
    struct harness *h = *state;
    harness_mount(h, (const char *const[]){"--vmm-user", "nobody", NULL});
    boot(h, "x");
    boot(h, "y");
    const char *uid = harness_shell(h, "sh", "printf %s $(id -u nobody)").out;
    assert_string_equal(confinement(h, "x", ".uid"), uid);
    assert_string_equal(confinement(h, "y", ".uid"), uid);
    assert_string_equal(confinement(h, "y", ".level"), "full");
}

/* The mount is then that user's, as with its own hands. */
static void daemon_with_a_user_is_that_one_and_closed_to_it(void **state)
{
    static const char script[] =
        "set -e; unset HYPEFS_TEST_DUMPABLE; mknod $T/fuse c 10 229; chmod 666 $T/fuse\n"
        "mount --bind $T/fuse /dev/fuse; mkdir $S; chown nobody $T $T/.. $S $M\n"
        "trap 'umount -l /dev/fuse; chown root $T $T/..' EXIT\n"
        "as=\"setpriv --reuid nobody --regid $(id -g nobody) --clear-groups\"\n"
        "$HYPEFS mount --user nobody --store $S $M; pid=$(cat $S/lock)\n"
        "$as cat $M/README > /dev/null\n"
        "awk '/^(Uid|CapPrm|CapEff):/ {print $2}' /proc/$pid/status\n"
        "for file in mem environ; do ! $as head -c 1 /proc/$pid/$file || echo $file; done\n"
        "$as fusermount3 -u $M";
    struct harness *h = *state;
    struct harness_result result = harness_shell(h, "bash", script);
    const char *uid = harness_shell(h, "sh", "id -u nobody").out;
    if (result.status != 0)
        print_error("%s\n", result.err);
    assert_int_equal(result.status, 0);
    assert_string_equal(result.out,
                        harness_format(h, "%s0000000000000000\n0000000000000000\n", uid));
}

static void memory_of_the_daemon_is_closed_to_its_user(void **state)
{
    static const char script[] = "unset HYPEFS_TEST_DUMPABLE; $HYPEFS mount --store $S $M; "
                                 "pid=$(cat $S/lock); cat /proc/$pid/environ; head -c 1 "
                                 "/proc/$pid/mem; ls /proc/$pid/fd; fusermount3 -u $M";
    struct harness *h = *state;
    struct harness_result result = harness_shell(h, "bash", script);
    assert_int_equal(result.status, 0);
    assert_string_equal(result.out, "");
    assert_contains(result.err, "environ: Permission denied");
    assert_contains(result.err, "/mem' for reading: Permission denied");
    assert_contains(result.err, "/fd': Permission denied");
}

/* As if it were installed on a host where hypefs-vmm can make none. */
static void host_without_namespaces_has_landlock(void **state)
{
    static const char install[] =
        "set -e; from=${HYPEFS%/*}; mkdir -p $T/i/bin $T/i/libexec/hypefs; cp $HYPEFS $T/i/bin\n"
        "cd $T/i/libexec/hypefs; for file in confine/hypefs-vmm preload/hypefs-readonly.so; do\n"
        "cp $from/../$file . || cp $from/../libexec/hypefs/${file#*/} .; done; mv hypefs-vmm real\n"
        "cat > hypefs-vmm <<EOF\n#!/bin/sh\n"
        "case \"\\$*\" in *--no-namespaces*) exec $PWD/real \"\\$@\";; esac\n"
        "echo hypefs-vmm: none here >&2\nexit 126\nEOF\nchmod 755 hypefs-vmm";
    struct harness *h = *state;
    const char *before = harness_format(h, "%s", getenv("HYPEFS"));
    assert_int_equal(harness_shell(h, "bash", install).status, 0);
    setenv("HYPEFS", harness_format(h, "%s/i/bin/hypefs", h->directory), 1);
    struct harness_result strict =
        harness_shell(h, "bash", "$HYPEFS mount --confine strict --store $S $M");
    harness_mount(h, (const char *const[]){"--confine", "auto", NULL});
    setenv("HYPEFS", before, 1);
    boot(h, "x");
    assert_string_equal(confinement(h, "x", ".level"), "partial");
    assert_string_equal(confinement(h, "x", ".namespaces"), "[]");
    harness_put(harness_path(h, "instances/x/state"), "standby");
    harness_put(harness_path(h, "instances/x/snapshot"), "s");
    harness_put(harness_path(h, "snapshots/s/forks/new/commit"), "f");
    assert_string_equal(confinement(h, "f", ".level"), "partial");
    harness_put(harness_path(h, "instances/f/state"), "stopped");
    assert_int_equal(strict.status, 1);
    assert_contains(strict.err, "--confine strict: VMMs cannot be shut in on this host: ");
    assert_contains(strict.err, "hypefs-vmm: none here");
    assert_file_contains(h->log, "VMMs are shut in by Landlock and a filter of system calls alone");
}

static void root_that_is_to_be_strict_needs_users(void **state)
{
    struct harness *h = *state;
    struct harness_result result =
        harness_shell(h, "bash", "$HYPEFS mount --confine strict --store $S $M");
    assert_int_equal(result.status, 1);
    assert_contains(result.err, "give each a user of its own (--vmm-uids FIRST-LAST)");
}

static void vmm_of_a_script_is_shut_in_only_if_that_is_asked_for(void **state)
{
    static const char *const modes[][2] = {{"auto", "none"}, {"strict", "full"}};
    struct harness *h = *state;
    const char *qemu = fixture_script(h, "my-qemu", "#!/bin/sh\nexec qemu-system-x86_64 \"$@\"\n");
    for (size_t i = 0; i < array_length(modes); i++) {
        harness_mount(h, (const char *const[]){"--qemu", qemu, "--confine", modes[i][0], NULL});
        boot(h, "x");
        assert_string_equal(confinement(h, "x", ".level"), modes[i][1]);
        harness_put(harness_path(h, "instances/x/state"), "stopped");
        assert_works(rmdir(harness_path(h, "instances/x")));
        assert_int_equal(harness_unmount(h), 0);
    }
    assert_file_contains(h->log, "my-qemu is a script, and its VMMs are not shut in");
}

static void vmms_with_users_are_shut_in_if_they_are_scripts(void **state)
{
    struct harness *h = *state;
    const char *qemu = fixture_script(h, "my-qemu", "#!/bin/sh\nexec qemu-system-x86_64 \"$@\"\n");
    harness_mount(h, (const char *const[]){"--qemu", qemu, "--confine", "auto", "--vmm-uids",
                                           "300000-300009", NULL});
    boot(h, "x");
    assert_string_equal(confinement(h, "x", ".level"), "full");
    assert_string_equal(confinement(h, "x", ".uid"), "300000");
}

static void vmm_when_that_is_off_is_not_shut_in(void **state)
{
    struct harness *h = *state;
    harness_mount(h, (const char *const[]){"--confine", "off", NULL});
    boot(h, "x");
    assert_string_equal(confinement(h, "x", ".level"), "none");
    assert_string_equal(confinement(h, "x", ".namespaces"), "[]");
}

/* In a user namespace that allows none in it. */
static void host_that_cannot_shut_in_is_told_of(void **state)
{
    struct harness *h = *state;
    struct harness_result result = harness_shell(
        h, "bash",
        "unshare --user --map-root-user sh -c 'echo 0 > /proc/sys/user/max_user_namespaces && "
        "exec $HYPEFS mount --confine strict --insecure-store --store $S $M'");
    assert_int_equal(result.status, 1);
    assert_contains(result.err, "--confine strict: VMMs cannot be shut in on this host: ");
    assert_contains(result.err, "hypefs-vmm: cannot make namespaces: No space left on device");
    assert_contains(result.err, "user.max_user_namespaces is 0: sysctl user.max_user_namespaces=");
}

static void options_that_are_wrong_are_refused(void **state)
{
    const bool is_root = geteuid() == 0;
    const struct {
        const char *options, *words;
    } wrong[] = {{"--confine maybe", "--confine is one of auto, strict and off"},
                 {"--vmm-uids 5", "--vmm-uids is a range of 2 to 1000000 user ids"},
                 {"--vmm-uids 4294967597-4294967600", "--vmm-uids is a range of"},
                 {"--vmm-uids 60000-70000", "--vmm-uids has the user nobody (65534) in it"},
                 {"--vmm-uids 300000-300001 --vmm-user nobody", "are given once, and not both"},
                 {"--vmm-uids 0-5", "--vmm-uids is a range of"},
                 {"--vmm-uids 7-6", "--vmm-uids is a range of"},
                 {"--vmm-uids 1-1000001", "--vmm-uids is a range of"},
                 {"--vmm-uids 4294967290-4294967295", "--vmm-uids is a range of"},
                 {"--vmm-user root", "--vmm-user names root"},
                 {"--vmm-user none-such", "--vmm-user names nobody whom this host knows"},
                 {"--vmm-uids 300000-300009 --user nobody",
                  is_root ? "--user does not go with --vmm-uids" : "only root can use --user"},
                 {"--vmm-uids 300000-300009 --confine off",
                  is_root ? "--confine off does not go with" : "only root can use --user"},
                 {"--user none-such",
                  is_root ? "this host knows no user none-such" : "only root can use --user"},
                 {"--vmm-read ''", "--vmm-read needs a file or a directory"},
                 {"--vmm-read $T/none", "/none: No such file or directory"},
                 {"--vmm-read $T", "the store or the mount lies in "}};
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(wrong); i++) {
        struct harness_result result = harness_shell(
            h, "bash", harness_format(h, "$HYPEFS mount %s --store $S $M", wrong[i].options));
        assert_true(result.status > 0);
        assert_contains(result.err, wrong[i].words);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(program_that_is_shut_in_has_what_is_named_and_no_more,
                                        harness_setup, harness_teardown),
        bare_test(attack_when_shut_in_fails),
        bare_test(vmm_is_shut_in_and_info_says_how),
        bare_test(vmm_of_a_script_is_shut_in_only_if_that_is_asked_for),
        bare_test(vmm_when_that_is_off_is_not_shut_in),
        bare_test(host_that_cannot_shut_in_is_told_of),
        bare_test(options_that_are_wrong_are_refused),
    };
    const struct CMUnitTest with_landlock[] = {
        bare_test(program_without_namespaces_is_shut_in_by_landlock),
        bare_test(host_without_namespaces_has_landlock),
    };
    const struct CMUnitTest as_root[] = {
        bare_test(program_that_is_shut_in_as_another_user_has_its_files),
        bare_test(vmms_with_a_range_of_users_have_one_each),
        bare_test(vmms_with_one_user_are_all_that_one),
        bare_test(vmms_with_users_are_shut_in_if_they_are_scripts),
        bare_test(daemon_with_a_user_is_that_one_and_closed_to_it),
        bare_test(root_that_is_to_be_strict_needs_users),
    };
    const struct CMUnitTest as_user[] = {
        bare_test(memory_of_the_daemon_is_closed_to_its_user),
    };
    harness_enter();
    int failed = cmocka_run_group_tests_name("confine", tests, NULL, NULL);
    if (has_landlock())
        failed += cmocka_run_group_tests_name("Landlock", with_landlock, NULL, NULL);
    return failed + (geteuid() == 0 ? cmocka_run_group_tests_name("root's", as_root, NULL, NULL)
                                    : cmocka_run_group_tests_name("a user's", as_user, NULL, NULL));
}
