/* SPDX-License-Identifier: MIT */
/* hypefs-vmm, which shuts itself in and becomes a VMM: here it becomes programs that try what a VMM
 * that was taken over would try. */
#include "fixture.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tiny_guest.h"
#include "util/cleanup.h"

/* In $T/at, with the files a and b, which say so; $B is the program. $T/secret is a file of the
 * daemon's user beside it. */
static const struct {
    const char *script;
    int status;
    const char *out, *err; /* the whole; a part */
} cases[] = {
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
    /* what it cannot do, and says */
    {"$B --ro none -- true", 126, "", "hypefs-vmm: none: No such file or directory"},
    {"$B --ro-at /usr/none/x a -- true", 126, "",
     "cannot make /usr/none: Invalid cross-device link"},
    {"$B --ro-at $T/at/a/x a -- true", 126, "", "cannot make "},
    {"$B -- /none", 127, "", "hypefs-vmm: /none: No such file or directory"},
    {"$B --ro a", 126, "", "usage: "},
    {"$B --", 126, "", "usage: "},
    {"$B --unknown -- true", 126, "", "usage: "},
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
    {"$B -- grep -E '^(CapPrm|CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status", 0,
     "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n"
     "NoNewPrivs:\t1\nSeccomp:\t2\n",
     ""},
    {"$B -- chmod 600 /dev/null", 1, "", "Read-only file system"},
    {"$B -- chmod 600 /proc/self/fd/0 < /dev/null", 1, "", "Read-only file system"},
    {"$B -- sh -c 'cd /usr'", 2, "", "can't cd to /usr"},
    {"ln -s $T/secret planted && $B --ro planted -- true", 126, "", "planted: Too many levels"},
    {"$B --check && cd / && $B --check && [ ! -e /.hypefs-vmm ]", 0, "", ""},
    {"cd / && $B -- true", 126, "", "in the working directory \"/\""},
};

static void program_that_is_shut_in_has_what_is_named_and_no_more(void **state)
{
    struct harness *h = *state;
    bool passed = true;
    for (size_t i = 0; i < array_length(cases); i++) {
        struct harness_result result = harness_shell(
            h, "bash",
            harness_format(h,
                           "H=${HYPEFS%%/*}; B=$H/../confine/hypefs-vmm; "
                           "[ -x $B ] || B=$H/../libexec/hypefs/hypefs-vmm; export T; "
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

/* ---- what a VMM that was taken over tries (attack.c) ---- */

/* Somebody of the host's who takes connections at a port of 127.0.0.1 and at an abstract socket. */
struct listeners {
    int port_fd, abstract_fd, port;
    char name[32];
};

static struct listeners listen_here(void)
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
    return ret;
}

static void assert_attack(struct harness *h, const struct listeners *listeners, const char *option,
                          const char *succeeds)
{
    struct harness_result result = harness_shell(
        h, "bash",
        harness_format(h,
                       "H=${HYPEFS%%/*}; B=$H/../confine/hypefs-vmm; "
                       "[ -x $B ] || B=$H/../libexec/hypefs/hypefs-vmm; ulimit -c 0; "
                       "rm -rf $T/x && mkdir -p $T/x/run $T/y/run && cd $T/x/run && "
                       "echo {} > ../instance.json && echo s > $T/secret && echo i > $T/image && "
                       "echo m > $T/y/run/memory && "
                       "$B %s --ro $T/image --ro-at /attack $HYPEFS_ATTACK -- /attack $$ %d %s "
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
    struct listeners listeners = listen_here();
    assert_attack(h, &listeners, "", "133 attempts\n");
    auto_close int tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    assert_attack(h, &listeners, "--net",
                  harness_format(h,
                                 "%sconnect_to_host: succeeded\nabstract_socket: succeeded\n"
                                 "133 attempts\n",
                                 tun >= 0 ? "/dev/net/tun: opened (02)\n" : ""));
    close(listeners.port_fd);
    close(listeners.abstract_fd);
}

/* ---- a mount ---- */

static void boot(struct harness *h)
{
    static const char *const mailboxes[] = {"m", NULL};
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
    harness_put(harness_path(h, "instances/x/config"), tiny_guest_config(h, mailboxes));
    harness_put(harness_path(h, "instances/x/state"), "running");
    harness_await(h, harness_path(h, "instances/x/console"), "ready");
}

static const char *confinement(struct harness *h, const char *member)
{
    const char *info = harness_get(h, harness_path(h, "instances/x/info"));
    return harness_json(h, info, harness_format(h, "confinement%s", member));
}

/* The network that its config names is the user network, which is the VMM's own. */
static void vmm_is_shut_in_and_info_says_how(void **state)
{
    struct harness *h = *state;
    const bool is_root = geteuid() == 0;
    harness_mount(h, (const char *const[]){"--confine", "strict", NULL});
    boot(h);
    assert_string_equal(confinement(h, ".level"), is_root ? "partial" : "full");
    assert_string_equal(confinement(h, ".seccomp"), "true");
    assert_string_equal(confinement(h, ".capabilities"), "none");
    assert_string_equal(confinement(h, ".uid"), harness_format(h, "%u", (unsigned)geteuid()));
    assert_string_equal(confinement(h, ".namespaces"),
                        "[\"user\",\"mount\",\"pid\",\"ipc\",\"uts\"]");
    harness_put(harness_path(h, "instances/x/state"), "stopped");
    assert_string_equal(confinement(h, ""), "null");
}

static void vmm_of_a_script_is_shut_in_only_if_that_is_asked_for(void **state)
{
    static const char *const modes[][2] = {{"auto", "none"}, {"strict", NULL}};
    struct harness *h = *state;
    const char *qemu = fixture_script(h, "my-qemu", "#!/bin/sh\nexec qemu-system-x86_64 \"$@\"\n");
    for (size_t i = 0; i < array_length(modes); i++) {
        harness_mount(h, (const char *const[]){"--qemu", qemu, "--confine", modes[i][0], NULL});
        boot(h);
        const char *level = modes[i][1] ? modes[i][1] : geteuid() == 0 ? "partial" : "full";
        assert_string_equal(confinement(h, ".level"), level);
        harness_put(harness_path(h, "instances/x/state"), "stopped");
        assert_works(rmdir(harness_path(h, "instances/x")));
        assert_int_equal(harness_unmount(h), 0);
    }
    assert_file_contains(h->log, "my-qemu is a script, and its VMMs are not shut in");
}

static void vmm_when_that_is_off_is_not_shut_in(void **state)
{
    struct harness *h = *state;
    harness_mount(h, (const char *const[]){"--confine", "off", NULL});
    boot(h);
    assert_string_equal(confinement(h, ".level"), "none");
    assert_string_equal(confinement(h, ".namespaces"), "[]");
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
    static const struct {
        const char *options, *words;
    } wrong[] = {{"--confine maybe", "--confine is one of auto, strict and off"},
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
    harness_enter();
    return cmocka_run_group_tests_name("confine", tests, NULL, NULL);
}
