/* SPDX-License-Identifier: MIT */
/* hypefs import of a Firecracker state without its configuration: by tests/fake_vmm, which is not
 * Firecracker. */
#include "fixture.h"

#include <stdlib.h>
#include <unistd.h>

#include "fake.h"
#include "util/cleanup.h"

static const struct harness_snapshot small = {
    .id = "base",
    .hypervisor = "firecracker",
    .frames = (const struct harness_frame[]){{.offset = 4096, .name = "m", .token = "t"}},
    .count = 1};

/* $T/in, with a memory and a state of that version that has those members more; and a Firecracker
 * of that version, for which a VMM that is shut in finds the program that it really is. */
static void save_elsewhere(struct harness *h, const char *version, const char *members)
{
    assert_shell("bash", "rm -rf $S/snapshots/*", 0);
    fake_craft(h, &small, version, members, ".");
    assert_shell(
        "bash",
        harness_format(h,
                       "rm -rf $T/in && mkdir -p $T/in $T/fc/bin $T/fc/lib && "
                       "mv $S/snapshots/base/{memory,state} $T/in && rm -r $S/snapshots/base "
                       "&& ln -f %s $T/fc/lib/fake 2> /dev/null || cp %s $T/fc/lib/fake; "
                       "printf '#!/bin/sh\nexport FAKE_VMM_VERSION=%s\n"
                       "exec %%s/fc/lib/fake \"$@\"\n' $T > $T/fc/bin/firecracker && "
                       "chmod 755 $T/fc/bin/firecracker",
                       fake_program(), fake_program(), version),
        0);
}

#define ASK_WITH(program)                                                                          \
    "cd $T && " program " import --store $S --hypervisor firecracker --memory in/memory "          \
    "--state in/state --firecracker $T/fc/bin/firecracker --id "
#define ASK ASK_WITH("$HYPEFS")

static char *machine_of(struct harness *h, const char *id)
{
    return harness_get(h, harness_store_path(h, "snapshots/%s/snapshot.json", id));
}

static void state_that_is_asked_tells_its_devices(void **state)
{
    struct harness *h = *state;
    const char *T = h->directory;
    save_elsewhere(
        h, "1.17.0",
        harness_format(h,
                       "\"huge_pages\":\"2M\",\"vsock\":\"/jail/v.sock\",\"vcpus\":2,"
                       "\"drives\":[{\"drive_id\":\"rw\",\"path_on_host\":\"/jail/rw.img\","
                       "\"is_read_only\":false},{\"drive_id\":\"ro\",\"path_on_host\":"
                       "\"%s/in/ro.img\",\"is_read_only\":true}]",
                       T));
    assert_shell("bash", "echo ro > $T/in/ro.img && echo written > $T/in/rw.img", 0);
    assert_contains(assert_shell("bash", ASK "base", 1).err,
                    "the disk /jail/rw.img cannot be opened: No such file or directory (if it is "
                    "at another path on this host, --path OLD=NEW says so)");
    const char *out = assert_shell("bash", ASK "base --path /jail/rw.img=in/rw.img", 0).out;
    assert_contains(out, harness_format(h, "copied into the snapshot: %s/in/rw.img", T));
    const char *json = machine_of(h, "base");
    static const char *const members[][2] = {{"machine.vcpus", "2"},
                                             {"machine.huge_pages", "true"},
                                             {"machine.vsock", "vsock.sock"},
                                             {"machine.disks.0.id", "rw"},
                                             {"machine.disks.0.saved_path", "/jail/rw.img"},
                                             {"machine.disks.0.frozen", "frozen-rw"},
                                             {"machine.disks.1.id", "ro"},
                                             {"machine.disks.1.readonly", "true"}};
    for (size_t i = 0; i < array_length(members); i++)
        assert_string_equal(harness_json(h, json, members[i][0]), members[i][1]);
    /* Nothing of it is left, and nothing was written to. */
    assert_shell("bash",
                 "[ -z \"$(ls -A $S/instances)\" ] && [ \"$(cat $T/in/rw.img)\" = written ] && "
                 "[ ! -e /jail ]",
                 0);
}

/* This host has none of these. */
static void state_that_is_asked_tells_its_interfaces(void **state)
{
    struct harness *h = *state;
    save_elsewhere(h, "1.12.0",
                   "\"interfaces\":[{\"iface_id\":\"eth0\",\"host_dev_name\":\"hypefs-none0\","
                   "\"guest_mac\":\"02:00:00:00:00:01\"},"
                   "{\"iface_id\":\"eth1\",\"host_dev_name\":\"hypefs-none1\"}]");
    struct harness_result result = harness_shell(h, "bash", ASK "base");
    assert_string_equal(result.err, "");
    assert_contains(result.out,
                    "the tap of each clone whose options name no other: hypefs-none0\n"
                    "the tap of each clone whose options name no other: hypefs-none1\n");
    const char *json = machine_of(h, "base");
    assert_string_equal(harness_json(h, json, "machine.network.interfaces.0.id"), "eth0");
    assert_string_equal(harness_json(h, json, "machine.network.interfaces.0.tap"), "hypefs-none0");
    assert_string_equal(harness_json(h, json, "machine.network.interfaces.0.mac"),
                        "02:00:00:00:00:01");
    assert_string_equal(harness_json(h, json, "machine.network.interfaces.1.tap"), "hypefs-none1");
    assert_shell("bash", "! ls /sys/class/net | grep hypefs-none", 0);
}

/* It is known then which files of this host it names. */
static void state_that_is_asked_names_files_that_must_be_allowed(void **state)
{
    struct harness *h = *state;
    save_elsewhere(h, "1.17.0",
                   "\"drives\":[{\"drive_id\":\"ro\",\"path_on_host\":\"/etc/passwd\","
                   "\"is_read_only\":true}]");
    /* Of the system's files it sees some, but not this one: it could not be made up, either. */
    assert_contains(assert_shell("bash", ASK "base", 0).err, "os error 2) /etc/passwd");
    save_elsewhere(h, "1.17.0",
                   harness_format(h,
                                  "\"drives\":[{\"drive_id\":\"ro\",\"path_on_host\":"
                                  "\"%s/other/ro.img\",\"is_read_only\":true}]",
                                  h->directory));
    assert_shell("bash", "mkdir $T/other && echo ro > $T/other/ro.img", 0);
    assert_contains(assert_shell("bash", ASK "base", 1).err,
                    harness_format(h, "--allow-disk %s/other", h->directory));
    assert_shell("bash", ASK "base --allow-disk other", 0);
}

/* The import is as it was before, and says what to give. */
static void state_that_cannot_be_asked_is_imported_with_firecrackers_words(void **state)
{
    struct harness *h = *state;
    save_elsewhere(h, "1.17.0",
                   "\"pmem\":[{\"id\":\"p\",\"path_on_host\":\"/jail/p\",\"read_only\":true}]");
    const char *err = assert_shell("bash", ASK "base", 0).err;
    assert_contains(err, "warning: nobody says what the VM has");
    assert_contains(err, "Error accessing backing file: No such file or directory");
    assert_contains(err, "--config");
    assert_contains(harness_json(h, machine_of(h, "base"), "machine.vcpus"), "0");
    assert_contains(assert_shell("bash", ASK "next --path /jail/p=in/memory", 1).err,
                    "give --config (why the state was not asked: ");
    save_elsewhere(h, "1.15.0", "\"vsock\":\"/jail/v.sock\"");
    assert_contains(assert_shell("bash", ASK "old", 0).err, "Error binding to the host-side");
    save_elsewhere(h, "1.16.0", "\"huge_pages\":\"2M\"");
    assert_contains(assert_shell("bash", ASK "huge", 0).err, "hugetlbfs");
    assert_shell("bash", "[ -z \"$(ls -A $S/instances)\" ]", 0);
}

static bool vmm_hangs(void *argument)
{
    struct harness *h = argument;
    return harness_shell(h, "bash", "ls $S/instances/.new-*/run/vmm.sock").status == 0;
}

static void import_that_is_interrupted_while_it_asks_leaves_nothing(void **state)
{
    struct harness *h = *state;
    save_elsewhere(h, "1.17.0", "");
    assert_shell("bash",
                 "sed -i 's/^exec/export FAKE_VMM_FAULT=load:during:hang; exec/' "
                 "$T/fc/bin/firecracker",
                 0);
    struct harness_child child =
        harness_start_shell(h, "bash", "echo $$ > $T/pid; " ASK_WITH("exec $HYPEFS") "base");
    harness_await_that(vmm_hangs, h, "Firecracker is started");
    assert_shell("bash", "kill -INT $(cat $T/pid)", 0);
    assert_contains(harness_finish(h, &child).err, "interrupted, nothing was imported");
    assert_shell("bash", "[ -z \"$(ls -A $S/instances $S/snapshots | grep -v :)\" ]", 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        bare_test(state_that_is_asked_tells_its_devices),
        bare_test(state_that_is_asked_names_files_that_must_be_allowed),
        bare_test(state_that_cannot_be_asked_is_imported_with_firecrackers_words),
        bare_test(import_that_is_interrupted_while_it_asks_leaves_nothing),
    };
    /* of who may make a tap in a network of its own */
    const struct CMUnitTest with_taps[] = {bare_test(state_that_is_asked_tells_its_interfaces)};
    harness_enter();
    int failed = cmocka_run_group_tests_name("ask", tests, NULL, NULL);
    return access("/dev/net/tun", R_OK | W_OK) < 0
               ? failed
               : failed + cmocka_run_group_tests_name("taps", with_taps, NULL, NULL);
}
