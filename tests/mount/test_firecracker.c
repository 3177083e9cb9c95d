/* SPDX-License-Identifier: MIT */
/* Firecracker through the mount, played by tests/fake_firecracker, which is not Firecracker: what
 * is shown here is how hypefs behaves, not that the real one does as the fake. */
#include "fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "fake.h"
#include "taps.h"
#include "util/cleanup.h"

enum { LONG_MS = 30000, SHORT_MS = 150 };

static char *forks(struct harness *h, const char *file)
{
    return harness_path(h, "snapshots/base/forks/%s", file);
}

static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    fake_mount(*state);
    fake_publish(*state, "mailboxes=m,a network", "");
    return 0;
}

static void stage(struct harness *h, const char *mailbox, const char *payload, const char *ack,
                  int timeout_ms)
{
    harness_put(forks(h, harness_format(h, "new/mailboxes/%s", mailbox)),
                harness_format(h,
                               "{\"payload\":%s,\"wait_for_ack\":true,\"ack\":\"%s\","
                               "\"ack_timeout_ms\":%d}",
                               payload, ack, timeout_ms));
}

static int commit(struct harness *h, const char *id)
{
    return harness_write(forks(h, "new/commit"), id);
}

static void assert_refused(struct harness *h, int code, const char *phase, const char *words)
{
    assert_errno(commit(h, "f"), code);
    const char *result = harness_get(h, forks(h, "new/result"));
    assert_string_equal(harness_json(h, result, "error.phase"), phase);
    assert_file_contains(forks(h, "new/error"), words);
    assert_no_instance(h);
}

/* ---- what works ---- */

static void fork_has_its_payloads_and_acks_them(void **state)
{
    struct harness *h = *state;
    const char *before = assert_shell("bash", "sha256sum < $S/snapshots/base/memory", 0).out;
    stage(h, "m", "{\"n\":1}", "memory", LONG_MS);
    stage(h, "a", "{\"n\":2}", "memory", LONG_MS);
    harness_put(forks(h, "new/network"),
                "{\"interface_name\":\"eth0\",\"mac\":\"02:00:00:00:00:07\","
                "\"ipv4\":\"10.0.0.7\",\"prefix\":24}");
    assert_errno(commit(h, "f1"), 0);
    const char *result = harness_get(h, forks(h, "f1/result"));
    assert_string_equal(harness_json(h, result, "mailboxes.0.acked"), "true");
    assert_string_equal(harness_json(h, result, "mailboxes.1.acked"), "true");
    assert_string_equal(harness_json(h, result, "network.status"), "applied");
    const char *console = harness_get(h, fake_instance(h, "f1", "console"));
    assert_contains(console, "network {\"interface_name\":\"eth0\"");
    assert_contains(console, "m {\"n\":1}\n");
    assert_contains(console, "a {\"n\":2}\n");
    /* Another one has the same image and nothing of the first. */
    assert_errno(commit(h, "f2"), 0);
    assert_string_equal(harness_get(h, fake_instance(h, "f2", "console")), "");
    assert_string_equal(assert_shell("bash", "sha256sum < $S/snapshots/base/memory", 0).out,
                        before);
    assert_fails(rmdir(harness_path(h, "snapshots/base")), EBUSY);
    fake_drop(h, "f1");
    fake_drop(h, "f2");
    assert_no_instance(h);
    assert_works(rmdir(harness_path(h, "snapshots/base")));
}

static void instance_when_the_daemon_starts_again_is_saved_all_the_same(void **state)
{
    struct harness *h = *state;
    fake_make(h, "x", "mailboxes=m",
              ",\"disks\":[{\"path\":\"/etc/passwd\",\"format\":\"raw\","
              "\"readonly\":true}]");
    harness_put(fake_instance(h, "x", "state"), "running");
    assert_int_equal(harness_unmount(h), 0);
    fake_mount(h);
    assert_string_equal(harness_get(h, fake_instance(h, "x", "state")), "running\n");
    harness_put(fake_instance(h, "x", "state"), "standby");
    assert_works(access(fake_instance(h, "x", "mailboxes/m"), F_OK));
    harness_put(fake_instance(h, "x", "snapshot"), "other");
    const char *info = harness_get(h, harness_path(h, "snapshots/other/info"));
    assert_string_equal(harness_json(h, info, "hypervisor"), "firecracker");
    assert_string_equal(harness_json(h, info, "hypervisor_version"), "1.7.0");
    assert_errno(harness_write(harness_path(h, "snapshots/other/forks/new/commit"), "f"), 0);
    fake_drop(h, "f");
    fake_drop(h, "x");
}

static void standby_that_fails_after_the_save_keeps_none_of_it(void **state)
{
    struct harness *h = *state;
    fake_make(h, "x", "mailboxes=m", "");
    harness_put(fake_instance(h, "x", "state"), "running");
    assert_works(mkdir(harness_store_path(h, "instances/x/run/mailboxes.json"), 0700));
    assert_errno(harness_write(fake_instance(h, "x", "state"), "standby"), EISDIR);
    assert_string_equal(harness_get(h, fake_instance(h, "x", "state")), "running\n");
    assert_shell("bash", "[ ! -e $S/instances/x/run/state ] && [ ! -e $S/instances/x/run/memory ]",
                 0);
    assert_works(rmdir(harness_store_path(h, "instances/x/run/mailboxes.json")));
    harness_put(fake_instance(h, "x", "state"), "standby");
    assert_works(access(fake_instance(h, "x", "mailboxes/m"), F_OK));
}

/* A version that writes all of the memory, of which there is more than the store has room. */
static void save_that_has_no_room_is_refused_before_it_begins(void **state)
{
    struct harness *h = *state;
    struct statvfs store;
    assert_works(statvfs(h->store, &store));
    const unsigned long long mib = ((store.f_bavail * store.f_frsize) >> 20) + 1024;
    fake_tell(h, "FAKE_VMM_VERSION=1.7.0");
    assert_works(mkdir(fake_instance(h, "x", ""), 0755));
    harness_put(fake_instance(h, "x", "config"),
                harness_format(h,
                               "{\"hypervisor\":\"firecracker\",\"kernel\":\"/etc/passwd\","
                               "\"memory_mib\":%llu,\"cmdline\":\"mailboxes=m\"}",
                               mib));
    harness_put(fake_instance(h, "x", "state"), "running");
    assert_errno(harness_write(fake_instance(h, "x", "state"), "standby"), ENOSPC);
    assert_file_contains(fake_instance(h, "x", "error"),
                         harness_format(h, "Firecracker needs up to %llu MiB of room", mib));
    assert_string_equal(harness_get(h, fake_instance(h, "x", "state")), "running\n");
    assert_shell("bash", "[ ! -e $S/instances/x/run/state ] && [ ! -e $S/instances/x/run/memory ]",
                 0);
    fake_drop(h, "x");
}

/* Puts snapshots/base on the tap t0. */
static void publish_on_tap(struct harness *h)
{
    if (geteuid() != 0 && !getenv("HYPEFS_TEST_UID")) {
        print_message("skipped: only root can make taps\n");
        skip();
    }
    assert_works(rmdir(harness_path(h, "snapshots/base")));
    fake_publish(h, "mailboxes=m,a",
                 ",\"network\":{\"mode\":\"tap\",\"tap\":\"t0\",\"mac\":\"02:00:00:00:00:01\"}");
}

static void fork_with_a_network_can_ack_by_datagram(void **state)
{
    struct harness *h = *state;
    publish_on_tap(h);
    stage(h, "m", "{\"n\":1}", "udp", LONG_MS);
    stage(h, "a", "{\"n\":2}", "keyed", LONG_MS);
    assert_errno(commit(h, "f1"), 0);
    const char *result = harness_get(h, forks(h, "f1/result"));
    assert_string_equal(harness_json(h, result, "mailboxes.0.acked"), "true");
    assert_string_equal(harness_json(h, result, "mailboxes.1.acked"), "true");
    const char *console = harness_get(h, fake_instance(h, "f1", "console"));
    assert_contains(console, "m {\"n\":1,\"ack_port\":");
    assert_contains(console, "\"ack_key\":\"");
    fake_drop(h, "f1");
}

static void kernel_is_told_how_to_reboot_unless_the_user_does(void **state)
{
    struct harness *h = *state;
    fake_boot(h, "");
    fake_ask(h, "GET /vm/config HTTP/1.1\r\n\r\n", "\"boot_args\":\"mailboxes=m,a reboot=k\"");
    fake_drop(h, "x");
    fake_make(h, "x", "reboot=t", "");
    harness_put(fake_instance(h, "x", "state"), "running");
    fake_ask(h, "GET /vm/config HTTP/1.1\r\n\r\n", "\"boot_args\":\"reboot=t\"");
    fake_drop(h, "x");
}

/* Before any VM is loaded. */
static void fork_without_a_network_cannot_ack_by_datagram(void **state)
{
    struct harness *h = *state;
    static const char *const hows[] = {"udp", "keyed"};
    for (size_t i = 0; i < array_length(hows); i++) {
        stage(h, "m", "{}", hows[i], LONG_MS);
        assert_refused(h, EINVAL, "validate", "it has no network");
        assert_file_contains(forks(h, "new/error"), "Use \"ack\": \"memory\"");
    }
    stage(h, "m", "{}", "memory", LONG_MS);
    assert_errno(commit(h, "f"), 0);
}

/* Of root's VMMs each is a user of its own, which opens the tap by its name. */
static void assert_owner(struct harness *h, const char *tap, bool is_vmms)
{
    if (geteuid() != 0)
        return;
    const char *script = harness_format(h, "ip -d link show %s | grep -o 'user [^ ]*'", tap);
    const char *owner = harness_shell(h, "sh", script).out;
    assert_string_equal(harness_format(h, "%.7s", owner), is_vmms ? "user 30" : "user ro");
}

static void fork_on_another_tap_needs_a_version_that_can(void **state)
{
    struct harness *h = *state;
    fake_tell(h, "FAKE_VMM_VERSION=1.12.1");
    publish_on_tap(h);
    assert_errno(commit(h, "f1"), 0);
    taps_assert(h, "t0", true);
    assert_owner(h, "t0", true);
    assert_errno(commit(h, "f2"), EBUSY);
    harness_put(forks(h, "new/options"), "{\"tap\":\"t1\"}");
    taps_assert(h, "t1", false);
    assert_errno(commit(h, "f2"), 0);
    taps_assert(h, "t1", true);
    fake_drop(h, "f2");
    /* By the interface's id the same. */
    harness_put(forks(h, "new/options"), "{\"taps\":{\"net0\":\"t1\"}}");
    assert_errno(commit(h, "f2"), 0);
    taps_assert(h, "t1", true);
    fake_drop(h, "f1");
    fake_drop(h, "f2");
    assert_owner(h, "t0", false);
    harness_put(forks(h, "new/options"), "{\"taps\":{\"eth9\":\"t1\"}}");
    assert_refused(h, EINVAL, "validate", "has no interface with the id \"eth9\"");
    fake_tell(h, "FAKE_VMM_VERSION=1.11.0");
    harness_put(forks(h, "new/options"), "{\"tap\":\"t1\"}");
    assert_refused(h, EOPNOTSUPP, "load", "needs Firecracker 1.12, and this one is 1.11.0");
}

/* ---- guests that do not ---- */

/* Its state is that of the source, with the source's tap, until it has run. */
static void fork_into_standby_on_another_tap_runs_on_that(void **state)
{
    struct harness *h = *state;
    if (geteuid() != 0 && !getenv("HYPEFS_TEST_UID")) {
        print_message("skipped: only root can make taps\n");
        skip();
    }
    fake_tell(h, "FAKE_VMM_VERSION=1.12.1");
    assert_works(rmdir(harness_path(h, "snapshots/base")));
    fake_publish(h, "mailboxes=m",
                 ",\"network\":{\"mode\":\"tap\",\"tap\":\"t0\",\"mac\":\"02:00:00:00:00:01\"}");
    harness_put(forks(h, "new/options"), "{\"tap\":\"t1\",\"target_state\":\"standby\"}");
    assert_errno(commit(h, "f1"), 0);
    assert_int_equal(harness_unmount(h), 0);
    fake_mount(h);
    fake_tell(h, "FAKE_VMM_VERSION=1.12.1");
    harness_put(fake_instance(h, "f1", "snapshot"), "s");
    harness_put(harness_path(h, "snapshots/s/forks/new/commit"), "f2");
    taps_assert(h, "t0", false);
    taps_assert(h, "t1", true);
    fake_drop(h, "f2");
    harness_put(fake_instance(h, "f1", "state"), "running");
    taps_assert(h, "t0", false);
    taps_assert(h, "t1", true);
    /* What it saves itself is on its own tap, which any version can restore. */
    harness_put(fake_instance(h, "f1", "snapshot"), "own");
    assert_shell("bash", "! grep -q replaced $S/snapshots/own/snapshot.json", 0);
    assert_shell("bash", "! grep -q replaced $S/instances/f1/instance.json", 0);
}

static void guest_that_refuses_has_its_reason_told(void **state)
{
    struct harness *h = *state;
    fake_tell(h, "FAKE_VMM_GUEST=refuse");
    stage(h, "m", "{}", "memory", LONG_MS);
    assert_refused(h, EREMOTEIO, "ack", "the disk is full");
    /* A network that does not come up is no lost fork. */
    harness_put(forks(h, "new/network"),
                "{\"interface_name\":\"eth0\",\"mac\":\"02:00:00:00:00:07\","
                "\"ipv4\":\"10.0.0.7\",\"prefix\":24}");
    assert_errno(commit(h, "f"), 0);
    const char *result = harness_get(h, forks(h, "f/result"));
    assert_string_equal(harness_json(h, result, "network.status"), "degraded");
    assert_contains(harness_json(h, result, "network.message"), "no such interface");
}

static void guest_that_is_silent_or_lies_is_destroyed(void **state)
{
    struct harness *h = *state;
    static const char *const guests[] = {"silent", "lie"}, *const hows[] = {"udp", "keyed"};
    publish_on_tap(h);
    for (size_t i = 0; i < array_length(guests); i++) {
        fake_tell(h, harness_format(h, "FAKE_VMM_GUEST=%s", guests[i]));
        for (size_t j = 0; j < array_length(hows); j++) {
            stage(h, "m", "{}", hows[j], SHORT_MS);
            assert_refused(h, ETIMEDOUT, "ack", "no ack for mailbox m within 150 ms");
        }
    }
    fake_tell(h, "FAKE_VMM_GUEST=ack");
    assert_errno(commit(h, "f"), 0);
}

/* ---- snapshots that others made ---- */

static const struct harness_snapshot small = {
    .id = "base",
    .hypervisor = "firecracker",
    .frames = (const struct harness_frame[]){{.offset = 4096, .name = "m", .token = "t"}},
    .count = 1};

static void image_over_3_gib_is_reached_in_both_regions(void **state)
{
    struct harness *h = *state;
    static const uint64_t gib3 = UINT64_C(3) << 30, all = (UINT64_C(3) << 30) + (64 << 20);
    const struct harness_frame frames[] = {
        {.offset = 4096, .name = "low", .token = "t"},
        {.offset = gib3 - 4096, .name = "below", .token = "t"},
        {.offset = gib3, .name = "above", .token = "t"},
        {.offset = all - 4096, .name = "unplugged", .token = "t"},
    };
    fake_craft(h,
               &(struct harness_snapshot){.id = "base",
                                          .hypervisor = "firecracker",
                                          .memory_bytes = all,
                                          .frames = frames,
                                          .count = array_length(frames)},
               "1.7.0", "", ".");
    fake_mount(h);
    for (size_t i = 0; i < 3; i++)
        stage(h, frames[i].name, harness_format(h, "{\"i\":%zu}", i), "memory", LONG_MS);
    assert_errno(commit(h, "f1"), 0);
    assert_file_contains(fake_instance(h, "f1", "console"), "above {\"i\":2}");
    fake_drop(h, "f1");
    harness_put(forks(h, "new/mailboxes/unplugged"), "{}");
    assert_refused(h, EIO, "patch", "not private and writable");
}

#define TWO_DRIVES                                                                                 \
    "\"drives\":[{\"drive_id\":\"rootfs\",\"path_on_host\":\"%s/origin\",\"is_read_only\":false}," \
    "{\"drive_id\":\"data\",\"path_on_host\":\"%s/shared\",\"is_read_only\":true}]"

static void drives_are_each_forks_own_or_shared(void **state)
{
    struct harness *h = *state;
    const char *T = h->directory;
    fake_craft(h, &small, "1.7.0", harness_format(h, TWO_DRIVES, T, T),
               harness_format(h,
                              ".machine.disks=[{\"id\":\"rootfs\",\"path\":\"%s/origin\","
                              "\"format\":\"raw\",\"readonly\":false,\"frozen\":\"disk-0\"},"
                              "{\"id\":\"data\",\"path\":\"%s/shared\",\"format\":\"raw\","
                              "\"readonly\":true}]",
                              T, T));
    assert_shell("bash",
                 "echo later > $T/origin; echo shared > $T/shared; chmod 400 $T/shared; "
                 "echo -n frozen content > $S/snapshots/base/disk-0",
                 0);
    fake_mount(h);
    stage(h, "m", "{}", "memory", LONG_MS);
    assert_errno(commit(h, "fork-1"), 0);
    stage(h, "m", "{}", "memory", LONG_MS);
    assert_errno(commit(h, "fork-2"), 0);
    /* Each guest has written its id to what it takes for its disk. */
    harness_await(h, harness_store_path(h, "instances/fork-1/run/drive-rootfs"), "fork-1 content");
    harness_await(h, harness_store_path(h, "instances/fork-2/run/drive-rootfs"), "fork-2 content");
    assert_shell("bash",
                 "[ \"$(cat $S/snapshots/base/disk-0)\" = 'frozen content' ] && "
                 "[ \"$(cat $T/origin)\" = later ] && [ \"$(cat $T/shared)\" = shared ] && "
                 "[ ! -e $S/instances/fork-1/run/drive-data ]",
                 0);
}

/* As an import from another host leaves it: nothing is where the state names its drives, which are
 * in the folders `none` and `jail`. */
static void craft_moved(struct harness *h, const char *none, const char *jail)
{
    const char *T = h->directory;
    fake_craft(h, &small, "1.7.0",
               harness_format(h,
                              "\"drives\":[{\"drive_id\":\"rootfs\",\"path_on_host\":\"%s/rw.img\","
                              "\"is_read_only\":false},{\"drive_id\":\"data\",\"path_on_host\":"
                              "\"%s/deep/ro.img\",\"is_read_only\":true}],"
                              "\"pmem\":[{\"id\":\"rom\",\"path_on_host\":\"%s/pmem.img\","
                              "\"read_only\":true}]",
                              none, jail, none),
               harness_format(h,
                              ".machine.disks=[{\"id\":\"rootfs\",\"path\":\"%s/origin\","
                              "\"saved_path\":\"%s/rw.img\",\"format\":\"raw\","
                              "\"readonly\":false,\"frozen\":\"disk-0\"},"
                              "{\"id\":\"data\",\"path\":\"%s/shared\","
                              "\"saved_path\":\"%s/deep/ro.img\",\"format\":\"raw\","
                              "\"readonly\":true},"
                              "{\"id\":\"rom\",\"path\":\"%s/rom\",\"saved_path\":"
                              "\"%s/pmem.img\",\"format\":\"raw\",\"readonly\":true,"
                              "\"pmem\":true}]",
                              T, none, T, jail, T, none));
    assert_shell("bash",
                 "echo shared > $T/shared; echo rom > $T/rom; chmod 400 $T/shared $T/rom; "
                 "echo -n frozen content > $S/snapshots/base/disk-0",
                 0);
    fake_mount(h);
    stage(h, "m", "{}", "memory", LONG_MS);
    assert_errno(commit(h, "fork-1"), 0);
    harness_await(h, harness_store_path(h, "instances/fork-1/run/drive-rootfs"), "fork-1 content");
}

static void drives_are_found_where_the_state_names_them(void **state)
{
    struct harness *h = *state;
    const char *T = h->directory, *none = harness_format(h, "/hypefs-none-%d", (int)getpid());
    craft_moved(h, none, harness_format(h, "%s/jail", T));
    assert_fails(access(none, F_OK), ENOENT);
    assert_shell("bash",
                 "[ ! -e $T/jail ] && [ \"$(cat $S/snapshots/base/disk-0)\" = 'frozen content' ]",
                 0);
    /* A daemon ends though the VMM lives in a namespace, which has the host's mounts, too. A user's
     * does where the host shares its mounts. */
    if (geteuid() == 0) {
        assert_int_equal(harness_unmount(h), 0);
        fake_mount(h);
    }
    /* What is saved of it names its own copy, and the other drive where it was named before. */
    harness_put(fake_instance(h, "fork-1", "state"), "standby");
    const char *record = harness_get(h, harness_store_path(h, "instances/fork-1/instance.json"));
    assert_string_equal(harness_json(h, record, "machine.disks.1.saved_path"),
                        harness_format(h, "%s/jail/deep/ro.img", T));
    assert_null(strstr(record, "rw.img"));
    harness_put(fake_instance(h, "fork-1", "state"), "running");
    fake_drop(h, "fork-1");
}

/* Of a Firecracker that somebody started in the folder of its drives. */
static void drives_at_relative_paths_are_found_in_the_vmms_directory(void **state)
{
    struct harness *h = *state;
    craft_moved(h, "./none", "jail");
    assert_shell("bash",
                 "cd $S/instances/fork-1/run && [ -f none/rw.img ] && [ ! -s none/rw.img ] && "
                 "[ -f jail/deep/ro.img ] && [ ! -s jail/deep/ro.img ]",
                 0);
    harness_put(fake_instance(h, "fork-1", "state"), "standby");
    const char *record = harness_get(h, harness_store_path(h, "instances/fork-1/instance.json"));
    assert_string_equal(harness_json(h, record, "machine.disks.1.saved_path"), "jail/deep/ro.img");
    harness_put(fake_instance(h, "fork-1", "state"), "running");
    fake_drop(h, "fork-1");
}

/* As an import with --config leaves it. */
static void memory_that_was_on_hugetlbfs_is_forked_by_a_version_that_maps_it(void **state)
{
    struct harness *h = *state;
    fake_craft(h, &small, "1.17.0", "\"huge_pages\":\"2M\"", ".machine.huge_pages=true");
    fake_mount(h);
    fake_tell(h, "FAKE_VMM_VERSION=1.16.2");
    assert_refused(h, EOPNOTSUPP, "load",
                   "needs Firecracker 1.17 to be forked, and this one is 1.16.2");
    fake_tell(h, "FAKE_VMM_VERSION=1.17.0");
    stage(h, "m", "{}", "memory", LONG_MS);
    assert_errno(commit(h, "f1"), 0);
    /* What is saved of it is of a memory like any other's. */
    harness_put(fake_instance(h, "f1", "snapshot"), "own");
    assert_shell("bash", "! grep -q huge_pages $S/snapshots/own/snapshot.json", 0);
    harness_put(harness_path(h, "snapshots/own/forks/new/commit"), "f2");
    fake_drop(h, "f2");
    fake_drop(h, "f1");
}

static void drive_that_nobody_named_is_refused(void **state)
{
    struct harness *h = *state;
    const char *T = h->directory;
    fake_craft(h, &small, "1.7.0", harness_format(h, TWO_DRIVES, T, T), ".");
    assert_shell("bash", "echo later > $T/origin; echo shared > $T/shared", 0);
    fake_mount(h);
    assert_refused(h, EIO, "load", "import it again with a --config that has it");
    assert_int_equal(harness_unmount(h), 0);
    fake_mount_with(h, "--confine", "off");
    assert_refused(h, EOPNOTSUPP, "load", "the drive rootfs");
    assert_file_contains(forks(h, "new/error"), "import the snapshot again with --config");
    assert_shell("bash", "[ \"$(cat $T/origin)\" = later ]", 0);
}

/* ---- what goes wrong ---- */

static void faults_are_eio_with_words_and_leave_nothing(void **state)
{
    static const char *const calls[] = {"version", "load", "config", "vm"};
    static const char *const whens[] = {"before", "during", "after"};
    static const struct {
        const char *what, *words;
    } faults[] = {
        {"die", "status 3"},
        {"garbage", "Firecracker answers with something that is not HTTP"},
        {"half", "Firecracker has closed the connection within its answer"},
        {"400", "told to refuse"},
        {"500", "told to refuse"},
    };
    struct harness *h = *state;
    stage(h, "m", "{}", "memory", LONG_MS);
    for (size_t call = 0; call < array_length(calls); call++)
        for (size_t when = 0; when < array_length(whens); when++)
            for (size_t i = 0; i < array_length(faults); i++) {
                fake_tell(h, harness_format(h, "FAKE_VMM_FAULT=%s:%s:%s", calls[call], whens[when],
                                            faults[i].what));
                /* After its last answer before the patch, or at all: it may get further. */
                if (when == 2 && i == 0 && call >= 2)
                    continue;
                assert_refused(h, EIO, call == 3 ? "resume" : "load", faults[i].words);
            }
    fake_tell(h, "FAKE_VMM_GUEST=ack");
    assert_errno(commit(h, "f"), 0);
}

static void firecrackers_own_words_are_told(void **state)
{
    struct harness *h = *state;
    fake_tell(h, "FAKE_VMM_VERSION=1.8.0");
    assert_refused(
        h, EIO, "load",
        "loading the VM: PUT /snapshot/load: Load snapshot error: Failed to restore from "
        "snapshot: Failed to get snapshot state from file: Failed to load snapshot state "
        "from file: Invalid snapshot version\n");
    fake_tell(h, "FAKE_VMM_FAULT=create:before:400");
    fake_make(h, "x", "mailboxes=m", "");
    harness_put(fake_instance(h, "x", "state"), "running");
    assert_errno(harness_write(fake_instance(h, "x", "state"), "standby"), EIO);
    assert_file_contains(fake_instance(h, "x", "error"), "told to refuse create with 400");
    assert_string_equal(harness_get(h, fake_instance(h, "x", "state")), "running\n");
    assert_shell("bash", "[ ! -e $S/instances/x/run/state ] && [ ! -e $S/instances/x/run/memory ]",
                 0);
    fake_drop(h, "x");
    const char *initrd = harness_format(h, "%s/initrd", h->directory);
    harness_put(initrd, "");
    fake_make(h, "y", "mailboxes=m", harness_format(h, ",\"initrd\":\"%s\"", initrd));
    assert_works(unlink(initrd)); /* config was written while it was there */
    assert_errno(harness_write(fake_instance(h, "y", "state"), "running"), EIO);
    assert_file_contains(fake_instance(h, "y", "error"),
                         "Boot source error: The initrd file cannot be opened: No such file");
    assert_file_contains(fake_instance(h, "y", "error"),
                         harness_format(h, "(initrd is %s)", initrd));
    assert_shell("bash", "[ ! -e $S/instances/y/run/vmm.sock ]", 0);
}

static bool vmm_hangs(void *argument)
{
    struct harness *h = argument;
    return harness_shell(h, "bash",
                         "readlink /proc/[0-9]*/cwd 2> /dev/null | grep -qF $S/instances/.new-")
               .status == 0;
}

static void stop_of_the_daemon_ends_a_commit_that_hangs(void **state)
{
    struct harness *h = *state;
    fake_tell(h, "FAKE_VMM_FAULT=load:during:hang");
    struct harness_child child =
        harness_start_shell(h, "bash", "echo f > snapshots/base/forks/new/commit");
    harness_await_that(vmm_hangs, h, "Firecracker is started");
    assert_int_equal(harness_unmount(h), 0);
    assert_contains(harness_finish(h, &child).err, "Cannot send after transport endpoint shutdown");
    fake_tell(h, "FAKE_VMM_GUEST=ack");
    fake_mount(h);
    assert_no_instance(h);
    assert_errno(commit(h, "f"), 0);
}

static void program_that_is_missing_is_named(void **state)
{
    struct harness *h = *state;
    char *program = fixture_script(h, "gone", "#!/bin/false\n");
    assert_int_equal(harness_unmount(h), 0);
    harness_mount(h, (const char *const[]){"--firecracker", program, NULL});
    assert_works(unlink(program));
    assert_refused(h, EIO, "load", program);
}

/* Where taps cannot be made, all but their test can run. */
static const char *prepare(const char *base)
{
    if (geteuid() == 0)
        return taps_make(base);
    return NULL;
}

#define fork_test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

/* As another tool would have left them: two files, and the configuration that Firecracker had. */
static void snapshot_that_another_tool_saved_is_imported_and_forked(void **state)
{
    struct harness *h = *state;
    assert_shell(
        "bash",
        "echo '{\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":8}}' > $T/vm.json && "
        "cp --sparse=always $S/snapshots/base/memory $T/mem && "
        "cp $S/snapshots/base/state $T/vmstate && "
        "$HYPEFS import --id other --hypervisor firecracker --memory $T/mem "
        "--state $T/vmstate --config $T/vm.json --store $S && ls snapshots/other/mailboxes",
        0);
    harness_put(harness_path(h, "snapshots/other/forks/new/mailboxes/m"),
                "{\"payload\":{\"a\":1},\"wait_for_ack\":true}");
    assert_errno(harness_write(harness_path(h, "snapshots/other/forks/new/commit"), "f"), 0);
    assert_file_contains(fake_instance(h, "f", "console"), "m {\"a\":1}\n");
    char *result = harness_get(h, harness_path(h, "snapshots/other/forks/f/result"));
    assert_string_equal(harness_json(h, result, "mailboxes.0.acked"), "true");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fork_test(fork_has_its_payloads_and_acks_them),
        fork_test(kernel_is_told_how_to_reboot_unless_the_user_does),
        fork_test(fork_with_a_network_can_ack_by_datagram),
        fork_test(fork_without_a_network_cannot_ack_by_datagram),
        fork_test(instance_when_the_daemon_starts_again_is_saved_all_the_same),
        fork_test(standby_that_fails_after_the_save_keeps_none_of_it),
        fork_test(save_that_has_no_room_is_refused_before_it_begins),
        fork_test(fork_on_another_tap_needs_a_version_that_can),
        fork_test(fork_into_standby_on_another_tap_runs_on_that),
        fork_test(guest_that_refuses_has_its_reason_told),
        fork_test(guest_that_is_silent_or_lies_is_destroyed),
        bare_test(image_over_3_gib_is_reached_in_both_regions),
        bare_test(drives_are_each_forks_own_or_shared),
        bare_test(drives_are_found_where_the_state_names_them),
        bare_test(drives_at_relative_paths_are_found_in_the_vmms_directory),
        bare_test(memory_that_was_on_hugetlbfs_is_forked_by_a_version_that_maps_it),
        bare_test(drive_that_nobody_named_is_refused),
        fork_test(faults_are_eio_with_words_and_leave_nothing),
        fork_test(firecrackers_own_words_are_told),
        fork_test(stop_of_the_daemon_ends_a_commit_that_hangs),
        fork_test(program_that_is_missing_is_named),
        fork_test(snapshot_that_another_tool_saved_is_imported_and_forked),
    };
    harness_enter_with(prepare);
    return cmocka_run_group_tests_name("firecracker", tests, NULL, NULL);
}
