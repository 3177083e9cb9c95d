/* SPDX-License-Identifier: MIT */
/* hypefs import: into the store of a daemon that runs, or without one; what it leaves when it is
 * interrupted. To look at what happens meanwhile, reading waits while there is a gate
 * (slow_disk.c). */
#include "fixture.h"

#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tiny_guest.h"
#include "util/cleanup.h"

#if defined(__aarch64__)
#define MAGIC "\\x00\\x00\\xaa\\xaa\\x84\\x19\\x10\\x07"
#else
#define MAGIC "\\x00\\x00\\x64\\x86\\x84\\x19\\x10\\x07"
#endif

/* What other tools left in $T/in: a memory with the mailbox "m", three states, and configurations
 * of a machine with two drives. */
static void fill(struct harness *h)
{
    static const struct harness_frame frames[] = {{.offset = 4096, .name = "m", .token = "t"}};
    char *store = h->store;
    h->store = harness_format(h, "%s/made", h->directory);
    harness_craft(h, &(struct harness_snapshot){.id = "in", .frames = frames, .count = 1});
    h->store = store;
    assert_shell("bash",
                 "mv $T/made/snapshots/in $T/in && cd $T/in && mv snapshot.json qemu.json && "
                 "printf 'QEVM\\0\\0\\0\\3\\4\\0\\0\\0\\0\\5timer' > qemu && "
                 "printf '" MAGIC "\\x05\\0\\0\\0\\0\\0\\0\\0007.0.0' > firecracker && "
                 "echo '{\"snapshots\":{}}' > cloud && "
                 "echo root > root.ext4 && truncate -s 1M data.img && echo data >> data.img && "
                 "sed \"s,@,$PWD,\" > firecracker.json <<END\n"
                 "{\"drives\":[{\"drive_id\":\"rootfs\",\"path_on_host\":\"@/root.ext4\","
                 "\"is_root_device\":true,\"is_read_only\":true},\n"
                 "{\"drive_id\":\"data\",\"path_on_host\":\"@/data.img\","
                 "\"is_root_device\":false,\"is_read_only\":false}],\n"
                 "\"machine-config\":{\"vcpu_count\":2,\"mem_size_mib\":16}}\n"
                 "END",
                 0);
}

static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    fill(*state);
    return 0;
}

static int setup_mounted(void **state)
{
    if (setup(state) < 0)
        return -1;
    harness_mount(*state, NULL);
    return 0;
}

static char *gate(struct harness *h)
{
    return harness_format(h, "%s/gate", h->directory);
}

static int teardown(void **state)
{
    struct harness *h = *state;
    unlink(gate(h));
    return harness_teardown(state);
}

#define IMPORT "$HYPEFS import --store $S --memory $T/in/memory "
#define CLOUD IMPORT "--hypervisor cloud-hypervisor --state $T/in/cloud --id "
#define FIRECRACKER IMPORT "--hypervisor firecracker --state $T/in/firecracker --id "
#define QEMU IMPORT "--hypervisor qemu --state $T/in/qemu --config $T/in/qemu.json --id "

static void assert_silent(struct harness *h, const char *script)
{
    struct harness_result result = assert_shell("bash", script, 0);
    assert_string_equal(result.out, "");
    assert_string_equal(result.err, "");
}

/* Of a state without a configuration, which no VMM here loads. */
static void assert_untold(struct harness *h, const char *script)
{
    struct harness_result result = assert_shell("bash", script, 0);
    assert_string_equal(result.out, "");
    assert_contains(result.err, "warning: nobody says what the VM has");
}

static void import_beside_a_daemon_is_shown_at_once(void **state)
{
    struct harness *h = *state;
    assert_string_equal(assert_shell("bash", "ls snapshots", 0).out, "");
    assert_untold(h, FIRECRACKER "fc");
    assert_string_equal(assert_shell("bash", "ls snapshots snapshots/fc/mailboxes", 0).out,
                        "snapshots:\nfc\n\nsnapshots/fc/mailboxes:\nm\n");
    const char *info = harness_get(h, harness_path(h, "snapshots/fc/info"));
    assert_string_equal(harness_json(h, info, "kind"), "standby");
    assert_string_equal(harness_json(h, info, "hypervisor"), "firecracker");
    assert_string_equal(harness_json(h, info, "memory_bytes"), "16777216");
    assert_string_equal(harness_json(h, info, "mailboxes"), "[\"m\"]");
    assert_string_equal(harness_json(h, info, "source_instance"), "null");
    /* And what was looked for in vain before. */
    assert_errno(harness_read_errno(harness_path(h, "snapshots/later/info")), ENOENT);
    assert_silent(h, CLOUD "later");
    assert_errno(harness_read_errno(harness_path(h, "snapshots/later/info")), 0);
    assert_works(rmdir(harness_path(h, "snapshots/later")));
    assert_silent(h, CLOUD "later");
    assert_errno(harness_read_errno(harness_path(h, "snapshots/later/info")), 0);
}

static void import_without_a_daemon_makes_the_store(void **state)
{
    struct harness *h = *state;
    assert_string_equal(
        assert_shell("bash", FIRECRACKER "fc --config $T/in/firecracker.json", 0).out,
        harness_format(h,
                       "opened by each clone, for reading: %s/in/root.ext4\n"
                       "copied into the snapshot: %s/in/data.img\n",
                       h->directory, h->directory));
    assert_string_equal(
        assert_shell("bash", "cd $S && stat -c '%a %n' . * */* */*/*", 0).out,
        "700 .\n700 instances\n700 snapshots\n700 snapshots/fc\n"
        "600 snapshots/fc/frozen-data\n600 snapshots/fc/mailboxes.json\n400 snapshots/fc/memory\n"
        "600 snapshots/fc/snapshot.json\n600 snapshots/fc/state\n");
    assert_shell("bash",
                 "cd $S/snapshots/fc && cmp memory $T/in/memory && "
                 "cmp state $T/in/firecracker && cmp frozen-data $T/in/data.img",
                 0);
    const char *json = harness_get(h, harness_store_path(h, "snapshots/fc/snapshot.json"));
    assert_string_equal(harness_json(h, json, "machine.disks.0.path"),
                        harness_format(h, "%s/in/root.ext4", h->directory));
    assert_string_equal(harness_json(h, json, "machine.disks.0.frozen"), "null");
    assert_string_equal(harness_json(h, json, "machine.disks.1.frozen"), "frozen-data");
    assert_string_equal(harness_json(h, json, "machine.vcpus"), "2");
    harness_mount(h, NULL);
    assert_string_equal(assert_shell("bash", "ls snapshots/fc/mailboxes", 0).out, "m\n");
    assert_works(rmdir(harness_path(h, "snapshots/fc")));
    harness_await_erased(h);
    assert_string_equal(assert_shell("bash", "ls -A $S/snapshots", 0).out, "");
}

static void cloud_hypervisor_without_its_config_is_shown_and_cannot_be_forked(void **state)
{
    struct harness *h = *state;
    assert_silent(h, CLOUD "ch");
    assert_string_equal(assert_shell("bash", "ls snapshots/ch/mailboxes", 0).out, "m\n");
    harness_put(harness_path(h, "snapshots/ch/forks/new/mailboxes/m"), "{}");
    assert_errno(harness_write(harness_path(h, "snapshots/ch/forks/new/commit"), "f"), EOPNOTSUPP);
    assert_file_contains(harness_path(h, "snapshots/ch/forks/new/error"),
                         "import it again with --config");
    const char *result = harness_get(h, harness_path(h, "snapshots/ch/forks/new/result"));
    assert_string_equal(harness_json(h, result, "error.phase"), "validate");
    assert_no_instance(h);
}

/* The program only says what it is: it does not come to a load. */
static void state_of_another_firecracker_is_refused_with_both_versions(void **state)
{
    struct harness *h = *state;
    char *program = harness_format(h, "%s/firecracker", h->directory);
    assert_shell("bash", "printf '" MAGIC "\\x05\\0\\0\\0\\0\\0\\0\\0008.0.0' > $T/in/firecracker",
                 0);
    assert_string_equal(assert_shell("bash", FIRECRACKER "fc", 0).out,
                        "the state can be loaded by: firecracker 1.13 or 1.14\n");
    harness_put(program, "#!/bin/sh\n"
                         "case $1 in\n"
                         "--version) echo Firecracker v1.16.0 ;;\n"
                         "--snapshot-version) echo v10.0.0 ;;\n"
                         "*) exit 1 ;;\n"
                         "esac\n");
    assert_works(chmod(program, 0755));
    harness_mount(h, (const char *const[]){"--firecracker", program, NULL});
    assert_errno(harness_write(harness_path(h, "snapshots/fc/forks/new/commit"), "f"), EOPNOTSUPP);
    const char *error = harness_get(h, harness_path(h, "snapshots/fc/forks/new/error"));
    assert_contains(error, "format 8.0, which Firecracker 1.13 or 1.14 writes");
    assert_contains(error, "Firecracker 1.16.0, loads v10.0.0");
    assert_no_instance(h);
}

static void memory_without_a_mailbox_is_imported_with_a_warning(void **state)
{
    struct harness *h = *state;
    assert_shell("bash", "rm $T/in/memory && truncate -s 16M $T/in/memory", 0);
    struct harness_result result = assert_shell("bash", FIRECRACKER "fc", 0);
    assert_string_equal(result.out, "");
    assert_contains(result.err, "hypefs import: warning: no mailbox was found in ");
    assert_contains(result.err, "/in/memory: nothing can be delivered");
}

static void memory_is_copied_without_its_zeros(void **state)
{
    struct harness *h = *state;
    assert_shell("bash",
                 "cd $T/in && dd if=/dev/zero of=memory bs=1M seek=4 count=4 conv=notrunc "
                 "status=none && sync memory",
                 0);
    assert_untold(h, FIRECRACKER "fc && " FIRECRACKER "copy --copy");
    assert_shell("bash", "cmp $T/in/memory $S/snapshots/fc/memory", 0);
    assert_shell("bash", "cmp $T/in/memory $S/snapshots/copy/memory", 0);
    assert_shell("bash",
                 "cd $S/snapshots && in=$(stat -c %b $T/in/memory) && "
                 "for m in fc copy; do b=$(stat -c %b $m/memory); "
                 /* Where it is a reflink the blocks are shared. */
                 "if [ $in -gt 8000 ]; then [ $b -lt 1000 ] || [ $b = $in ]; fi || exit 1; done",
                 0);
    assert_shell("bash", "[ $(stat -c %h $T/in/memory) = 1 ]", 0);
}

static void linked_memory_that_changes_fails_the_commit(void **state)
{
    struct harness *h = *state;
    assert_silent(h, QEMU "base --link");
    assert_shell("bash", "[ $T/in/memory -ef $S/snapshots/base/memory ]", 0);
    assert_shell("bash", "! [ $T/in/qemu -ef $S/snapshots/base/state ]", 0);
    const char *commit = harness_path(h, "snapshots/base/forks/new/commit");
    /* Of that version there is no QEMU. */
    assert_errno(harness_write(commit, "f"), EOPNOTSUPP);
    assert_shell("bash", "touch $T/in/memory", 0);
    assert_errno(harness_write(commit, "f"), EIO);
    assert_file_contains(harness_path(h, "snapshots/base/forks/new/error"), "mtime was ");
    const char *result = harness_get(h, harness_path(h, "snapshots/base/forks/new/result"));
    assert_string_equal(harness_json(h, result, "error.phase"), "locate");
    assert_no_instance(h);
    /* Removing the snapshot takes only the link away. */
    assert_works(rmdir(harness_path(h, "snapshots/base")));
    harness_await_erased(h);
    assert_shell("bash", "[ $(stat -c %h $T/in/memory) = 1 ]", 0);
}

static void link_to_another_file_system_is_refused_with_the_remedy(void **state)
{
    struct harness *h = *state;
    struct harness_result result = harness_shell(
        h, "bash",
        "m=$(mktemp -p /dev/shm) && trap 'rm $m' EXIT && cp --sparse=always $T/in/memory $m && "
        "[ $(stat -c %d $m) != $(stat -c %d $T) ] || exit 77; $HYPEFS import --link --store $S "
        "--hypervisor cloud-hypervisor --memory $m --state $T/in/cloud --id ch");
    if (result.status == 77)
        return; /* there is only one here */
    assert_int_equal(result.status, 1);
    assert_contains(result.err, "another file system");
    assert_contains(result.err, "--copy");
    assert_string_equal(assert_shell("bash", "ls -A $S/snapshots", 0).out, "");
}

static void id_that_is_taken_is_refused(void **state)
{
    struct harness *h = *state;
    assert_silent(h, CLOUD "ch");
    const char *place =
        harness_format(h, "taken in the store by %s:", harness_store_path(h, "snapshots/ch"));
    assert_contains(assert_shell("bash", CLOUD "ch", 1).err, place);
    assert_string_equal(assert_shell("bash", "ls -A $S/snapshots", 0).out, "ch\n");
    assert_shell("bash",
                 "cp -a $S/snapshots/ch $T/other && > $T/other/snapshot.json && "
                 "mv $S/snapshots/ch $T/away && mv $T/other $S/snapshots/ch && "
                 "! cat snapshots/ch/info", /* the kernel may keep the name itself for a second */
                 0);
    assert_contains(assert_shell("bash", CLOUD "ch", 1).err, place);
    assert_shell("bash", "mv $S/snapshots/ch $T/away", 0);
    assert_silent(h, CLOUD "ch");
}

static void snapshot_that_is_taken_out_of_the_store_is_gone(void **state)
{
    struct harness *h = *state;
    assert_silent(h, CLOUD "ch");
    assert_works(mkdir(harness_path(h, "snapshots/ch/forks/draft"), 0755));
    auto_close int open_info = open(harness_path(h, "snapshots/ch/info"), O_RDONLY | O_CLOEXEC);
    assert_true(open_info >= 0);
    assert_shell("bash", "mv $S/snapshots/ch $T/away", 0);
    assert_string_equal(assert_shell("bash", "ls snapshots", 0).out, "");
    assert_errno(harness_read_errno(harness_path(h, "snapshots/ch/info")), ENOENT);
    assert_untold(h, FIRECRACKER "ch");
    const char *info = harness_get(h, harness_path(h, "snapshots/ch/info"));
    assert_string_equal(harness_json(h, info, "hypervisor"), "firecracker");
    assert_string_equal(assert_shell("bash", "ls snapshots/ch/forks", 0).out, "commit\nnew\n");
    assert_shell("bash", "rm -r $S/snapshots/ch && ls -lR . && grep -r ch . ; true", 0);
    assert_string_equal(assert_shell("bash", "ls snapshots", 0).out, "");
}

/* ---- interrupted ---- */

static struct harness_child start_slow(struct harness *h, const char *script)
{
    harness_put(gate(h), "");
    setenv("HYPEFS_TEST_GATE", gate(h), 1);
    return harness_start_shell(
        h, "bash",
        /* An ASan that is not linked statically wants to be the first. */
        harness_format(h,
                       "export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}"
                       "verify_asan_link_order=0; LD_PRELOAD=$HYPEFS_SLOW_DISK exec %s",
                       script));
}

static bool copies(void *argument)
{
    struct harness *h = argument;
    glob_t paths = {0};
    bool found =
        glob(harness_store_path(h, "snapshots/.new-*/memory"), GLOB_PERIOD, NULL, &paths) == 0;
    globfree(&paths);
    return found;
}

static void import_when_interrupted_leaves_nothing(void **state)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(numbers); i++) {
        struct harness_child child = start_slow(h, CLOUD "ch");
        harness_await_that(copies, h, "the import copies");
        assert_works(kill(child.pid, numbers[i]));
        assert_works(unlink(gate(h)));
        struct harness_result result = harness_finish(h, &child);
        assert_int_equal(result.status, 1);
        assert_string_equal(result.err, "hypefs import: interrupted, nothing was imported\n");
        assert_string_equal(assert_shell("bash", "ls -A $S/snapshots", 0).out, "");
    }
}

static void import_when_killed_leaves_what_the_next_start_removes(void **state)
{
    struct harness *h = *state;
    struct harness_child child = start_slow(h, CLOUD "ch");
    harness_await_that(copies, h, "the import copies");
    assert_works(kill(child.pid, SIGKILL));
    assert_int_equal(harness_finish(h, &child).status, 128 + SIGKILL);
    assert_works(unlink(gate(h)));
    harness_mount(h, NULL);
    assert_string_equal(assert_shell("bash", "ls snapshots; ls -A $S/snapshots", 0).out, "");
    assert_silent(h, CLOUD "ch");
    assert_string_equal(assert_shell("bash", "ls snapshots", 0).out, "ch\n");
}

static void daemon_that_starts_during_an_import_leaves_it_alone(void **state)
{
    struct harness *h = *state;
    struct harness_child child = start_slow(h, CLOUD "ch");
    harness_await_that(copies, h, "the import copies");
    harness_mount(h, NULL);
    assert_true(copies(h));
    assert_string_equal(assert_shell("bash", "ls snapshots", 0).out, "");
    assert_works(unlink(gate(h)));
    assert_int_equal(harness_finish(h, &child).status, 0);
    assert_string_equal(assert_shell("bash", "ls snapshots snapshots/ch/mailboxes", 0).out,
                        "snapshots:\nch\n\nsnapshots/ch/mailboxes:\nm\n");
}

static void memory_that_changes_while_it_is_copied_is_refused(void **state)
{
    struct harness *h = *state;
    static const char *const changes[] = {"touch $T/in/memory", "truncate -s 32M $T/in/memory",
                                          "truncate -s 4096 $T/in/memory"};
    for (size_t i = 0; i < array_length(changes); i++) {
        struct harness_child child = start_slow(h, CLOUD "ch");
        harness_await_that(copies, h, "the import copies");
        assert_shell("bash", changes[i], 0);
        assert_works(unlink(gate(h)));
        struct harness_result result = harness_finish(h, &child);
        if (result.status == 0) { /* a reflink takes no time */
            assert_shell("bash", "rm -r $S/snapshots/ch", 0);
            continue;
        }
        assert_int_equal(result.status, 1);
        assert_contains(result.err, "while it was copied");
        assert_string_equal(assert_shell("bash", "ls -A $S/snapshots", 0).out, "");
    }
}

/* ---- files that the machine names ---- */

/* What is to be imported names files of the host, and its user is not asked by their names. */
static const struct {
    const char *script; /* after cd $T; leaves the configuration in foreign/vm.json */
    const char *options;
    bool allowed;
} foreign_disks[] = {
    {"cp in/firecracker.json foreign/vm.json", "", false},
    {"cp in/firecracker.json foreign/vm.json", "--allow-disk $T/other", false},
    {"cp in/firecracker.json foreign/vm.json", "--allow-disk $T/i", false},
    {"cp in/firecracker.json foreign/vm.json", "--allow-disk $T/other --allow-disk $T/in/", true},
    {"cp in/firecracker.json foreign/vm.json", "--allow-disk /", true},
    {"ln -s ../in/root.ext4 ../in/data.img foreign && sed s:/in/:/foreign/: in/firecracker.json > "
     "foreign/vm.json",
     "", false},
    {"cp in/root.ext4 in/data.img foreign && sed s:/in/:/foreign/: in/firecracker.json > "
     "foreign/vm.json",
     "", true},
    {"sed s:/in/root:/foreign/../in/root: in/firecracker.json > foreign/vm.json", "", false},
};

static void disk_outside_the_configurations_folder_is_refused_unless_it_is_allowed(void **state)
{
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(foreign_disks); i++) {
        struct harness_result result = harness_shell(
            h, "bash",
            harness_format(
                h,
                "cd $T && rm -rf foreign $S && mkdir -p foreign other i && { %s; } && " FIRECRACKER
                "fc --config foreign/vm.json %s",
                foreign_disks[i].script, foreign_disks[i].options));
        if (result.status != (foreign_disks[i].allowed ? 0 : 1))
            fail_msg("%zu: %d, %s", i, result.status, result.err);
        if (foreign_disks[i].allowed)
            continue;
        assert_contains(result.err, "/in/root.ext4");
        assert_contains(result.err, harness_format(h, "--allow-disk %s/in ", h->directory));
        assert_fails(access(harness_store_path(h, "snapshots/fc"), F_OK), ENOENT);
    }
}

/* A jail's paths, say, which the state names, and at which this host has nothing. */
static void drive_at_another_path_is_where_path_says(void **state)
{
    struct harness *h = *state;
    assert_string_equal(
        assert_shell("bash",
                     "cd $T/in && sed \"s,$PWD/data.img,/rw.img,; s,$PWD/root,/ro,\" "
                     "firecracker.json | jq '.pmem=[{id:\"p\",path_on_host:\"/p.img\","
                     "read_only:true}]' > jail.json && cp root.ext4 p.img && " FIRECRACKER
                     "fc --config jail.json --path /rw.img=data.img --path /ro.ext4=./root.ext4 "
                     "--path /p.img=p.img",
                     0)
            .out,
        harness_format(h,
                       "opened by each clone, for reading: %s/in/root.ext4\n"
                       "copied into the snapshot: %s/in/data.img\n"
                       "opened by each clone, for reading: %s/in/p.img\n",
                       h->directory, h->directory, h->directory));
    const char *json = harness_get(h, harness_store_path(h, "snapshots/fc/snapshot.json"));
    static const char *const saved[] = {"/ro.ext4", "/rw.img", "/p.img"}, *const here[] = {
                                                                              "root.ext4",
                                                                              "data.img", "p.img"};
    for (int i = 0; i < 3; i++) {
        assert_string_equal(
            harness_json(h, json, harness_format(h, "machine.disks.%d.saved_path", i)), saved[i]);
        assert_string_equal(harness_json(h, json, harness_format(h, "machine.disks.%d.path", i)),
                            harness_format(h, "%s/in/%s", h->directory, here[i]));
    }
    assert_shell("bash", "cmp $S/snapshots/fc/frozen-data $T/in/data.img", 0);
    /* What it leads to is asked for as if the configuration named it. */
    assert_contains(assert_shell("bash",
                                 "cd $T && mkdir else && mv in/data.img else && " FIRECRACKER
                                 "other --config in/jail.json --path /rw.img=else/data.img "
                                 "--path /ro.ext4=in/root.ext4 --path /p.img=in/p.img",
                                 1)
                        .err,
                    harness_format(h, "--allow-disk %s/else", h->directory));
}

/* ---- the command line ---- */

/* After cd $T/in, with $I for the program and --store $S; `err` is in stderr's one line. */
static const struct refusal {
    const char *script;
    int status;
    const char *err;
} refusals[] = {
    {"$I", 2, "no --id given"},
    {"$I --id a", 2, "no --hypervisor given"},
    {"$I --id a --hypervisor qemu", 2, "no --memory given"},
    {"$I --id a --hypervisor qemu --memory memory", 2, "no --state given"},
    {"$I --id A --hypervisor qemu --memory memory --state qemu", 2, "\"A\" is not an id"},
    {"$I --id new --hypervisor qemu --memory memory --state qemu", 2, "\"new\" is not an id"},
    {"$I --id ../a --hypervisor qemu --memory memory --state qemu", 2, "is not an id"},
    {"$I --id a --hypervisor xen --memory memory --state qemu", 2,
     "not one of qemu, firecracker, cloud-hypervisor"},
    {"$I --id a --hypervisor qemu --memory memory --state qemu more", 2, "with an option"},
    {"$I --id a --hypervisor qemu --memory memory --state qemu --link --copy", 2, "exclude"},
    {"$I --id a --hypervisor qemu --memory memory --state qemu --store ''", 2, "--store needs"},
    {"$I --frobnicate", 2, "frobnicate"},
    {"$I --id", 2, "id"},
    {"$I --id a --hypervisor qemu --memory memory --state qemu", 1, "a configuration must be"},
    {"$I --id a --hypervisor qemu --memory none --state qemu --config qemu.json", 1,
     "none: cannot"},
    {"$I --id a --hypervisor qemu --memory memory --state none --config qemu.json", 1, "none"},
    {"$I --id a --hypervisor qemu --memory memory --state qemu --config none", 1, "none"},
    {"$I --id a --hypervisor qemu --memory memory --state qemu --config qemu", 1, "qemu: line 1"},
    {"sed 's/\"version\":[ \t]*1,/\"version\":99,/' qemu.json > newer; "
     "$I --id a --hypervisor qemu --memory memory --state qemu --config newer",
     1,
     "newer: snapshot.json: \"version\" is 99, of a newer hypefs, and this one knows 2: use the"},
    {"sed 's%\"machine\": *{%&\"boot\":{\"kernel\":\"/bin/sh\",\"initrd\":\"/etc/passwd\"},%' "
     "qemu.json > early; grep -q passwd early || exit 9; "
     "$I --id a --hypervisor qemu --memory memory --state qemu --config early --allow-disk /",
     1, "early: the VM was saved before its firmware had read its kernel"},
    {"sed 's%\"disks\": *\\[%&{\"path\":\"/data\",\"format\":\"raw\",\"readonly\":false}%' "
     "qemu.json > "
     "disk; grep -q /data disk || exit 9; "
     "$I --id a --hypervisor qemu --memory memory --state qemu --config disk",
     1, "disk: the disk /data can be written to, and with QEMU only snapshots whose disks are all"},
    {"$I --id a --hypervisor qemu --memory memory --state qemu --config qemu.json --allow-disk "
     "/nope",
     1, "--allow-disk /nope: No such file or directory"},
    {"$I --id a --hypervisor qemu --memory memory --state qemu --config qemu.json --allow-disk . "
     "--allow-disk memory",
     1, "--allow-disk memory: it is not a folder"},
    {"$I --id a --hypervisor firecracker --memory memory --state firecracker --config "
     "firecracker.json --path /none=data.img",
     1, "--path /none=…: the configuration names no drive or pmem device by that path"},
    {"jq '.vsock={guest_cid:3,uds_path:\"/v.sock\"}' firecracker.json > v.json; "
     "$I --id a --hypervisor firecracker --memory memory --state firecracker --config v.json "
     "--path /v.sock=data.img",
     1, "that is the vsock's socket, which needs none"},
    {"$I --id a --hypervisor firecracker --memory memory --state firecracker --config "
     "firecracker.json --path /none=none",
     1, "--path /none=none: No such file or directory"},
    {"$I --id a --hypervisor firecracker --memory memory --state firecracker --config "
     "firecracker.json --path /a/../b=data.img",
     1, "nothing can be put there, for it has"},
    {"$I --id a --hypervisor firecracker --memory memory --state firecracker --config "
     "firecracker.json --path /etc/x=data.img",
     1, "nothing can be put there, for it is in a folder of the system"},
    {"$I --id a --hypervisor firecracker --memory memory --state firecracker --config "
     "firecracker.json --path ../x=data.img",
     1, "nothing can be put there, for it leads out of the VMM's directory"},
    {"$I --id a --hypervisor firecracker --memory memory --state firecracker --config "
     "firecracker.json --path ./vmm.sock=data.img",
     1, "nothing can be put there, for it is the name of a file of the VMM's"},
    {"sed \"s,$PWD/data,data,\" firecracker.json > relative.json; "
     "$I --id a --hypervisor firecracker --memory memory --state firecracker --config "
     "relative.json",
     1, "say which file it is, with --path data.img=NEW"},
    {"$I --id a --hypervisor firecracker --memory memory --state firecracker --config "
     "firecracker.json --path /a=data.img --path /a/b=data.img",
     1, "--path /a/b=…: /a is a file"},
    {"$I --id a --hypervisor firecracker --memory memory --state firecracker --config "
     "firecracker.json --path /none=.",
     1, "that is not a regular file"},
    {"$I --id a --hypervisor firecracker --memory memory --state firecracker --config "
     "firecracker.json --path /none=data.img --path /none=root.ext4",
     2, "two --path have the same OLD"},
    {"$I --id a --hypervisor firecracker --memory memory --state firecracker --path /x=data.img", 1,
     "give --config"},
    {"$I --id a --hypervisor qemu --memory memory --state qemu --config qemu.json "
     "--path /x=data.img",
     1, "Firecracker's only"},
    {"$I --id a --hypervisor firecracker --memory memory --state firecracker --path =y", 2,
     "OLD=NEW"},
    {"$I --id a --hypervisor firecracker --memory memory --state firecracker --path /x", 2,
     "OLD=NEW"},
    {"$I --id a --hypervisor qemu --memory . --state qemu --config qemu.json", 1, "regular file"},
    {"mkfifo f; $I --id a --hypervisor firecracker --memory f --state firecracker", 1, "regular"},
    {"$I --id a --hypervisor qemu --memory memory --state cloud --config qemu.json", 1, "QEVM"},
    {"$I --id a --hypervisor firecracker --memory memory --state qemu", 1, "magic"},
    {"$I --id a --hypervisor firecracker --memory qemu --state firecracker", 1, "no memory image"},
    {"$I --id a --hypervisor cloud-hypervisor --memory memory --state memory", 1, "JSON object"},
    {"truncate -s 8M half; $I --id a --hypervisor firecracker --memory half --state firecracker "
     "--config firecracker.json",
     1, "half has 8388608"},
    {"mv data.img d; $I --id a --hypervisor firecracker --memory memory --state firecracker "
     "--config firecracker.json; r=$?; mv d data.img; exit $r",
     1,
     "data.img cannot be opened: No such file or directory (if it is at another path on this "
     "host,"},
    {"touch $'a\\nb'; $I --id a --hypervisor firecracker --memory $'a\\nb' --state firecracker", 1,
     "a\\u000ab is no memory image"},
    {"echo > file; $I --id a --hypervisor firecracker --memory memory --state firecracker "
     "--store file",
     1, "file"},
};

static void import_of_a_wrong_file_says_so_in_one_line_and_writes_nothing(void **state)
{
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(refusals); i++) {
        struct harness_result result = harness_shell(
            h, "bash",
            harness_format(h, /* no Firecracker is asked */
                           "cd $T/in; PATH=/usr/bin:/bin; I=\"$HYPEFS import --store $S\"; %s",
                           refusals[i].script));
        if (result.status != refusals[i].status)
            fail_msg("%s: status %d: %s%s", refusals[i].script, result.status, result.out,
                     result.err);
        assert_contains(result.err, refusals[i].err);
        size_t size = strlen(result.err);
        if (result.out[0] || result.err[size - 1] != '\n' ||
            (result.status == 1 && strchr(result.err, '\n') != result.err + size - 1))
            fail_msg("%s says \"%s%s\"", refusals[i].script, result.out, result.err);
        assert_shell("bash", "! [ -e $S ]", 0);
    }
    assert_contains(assert_shell("bash", "$HYPEFS import --help", 0).out, "--hypervisor NAME");
}

static void memory_on_hugetlbfs_is_refused(void **state)
{
    struct harness *h = *state;
    struct harness_result result = harness_shell(
        h, "bash",
        "mkdir $T/huge && mount -t hugetlbfs none $T/huge && truncate -s 16M $T/huge/memory || "
        "exit 77; $HYPEFS import --store $S --id a --hypervisor firecracker --memory "
        "$T/huge/memory --state $T/in/firecracker");
    if (result.status == 77)
        return; /* only root can mount one; the unit tests have another way to it */
    assert_int_equal(result.status, 1);
    assert_contains(result.err, "is on hugetlbfs");
}

/* ---- a real one ---- */

static void qemu_snapshot_of_another_store_can_be_forked(void **state)
{
    struct harness *h = *state;
    if (!tiny_guest_possible())
        skip();
    tiny_guest_snapshot(h, "base", (const char *const[]){"m", NULL});
    assert_int_equal(harness_unmount(h), 0);
    h->store = harness_format(h, "%s/other", h->directory);
    harness_mount(h, NULL);
    assert_silent(h, "cd $T/store/snapshots/base && $HYPEFS import --store $S --id twin "
                     "--hypervisor qemu --memory memory --state state --config snapshot.json");
    assert_shell("bash", "rm -r $T/store", 0);
    harness_put(harness_path(h, "snapshots/twin/forks/new/mailboxes/m"), "{\"n\":1}");
    assert_errno(harness_write(harness_path(h, "snapshots/twin/forks/new/commit"), "f1"), 0);
    harness_await(h, harness_path(h, "instances/f1/console"), "m {\"n\":1}");
    harness_put(harness_path(h, "instances/f1/state"), "stopped");
    assert_works(rmdir(harness_path(h, "instances/f1")));
}

#define import_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define daemon_test(name) cmocka_unit_test_setup_teardown(name, setup_mounted, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        daemon_test(import_beside_a_daemon_is_shown_at_once),
        import_test(import_without_a_daemon_makes_the_store),
        daemon_test(cloud_hypervisor_without_its_config_is_shown_and_cannot_be_forked),
        import_test(state_of_another_firecracker_is_refused_with_both_versions),
        import_test(memory_without_a_mailbox_is_imported_with_a_warning),
        import_test(memory_is_copied_without_its_zeros),
        daemon_test(linked_memory_that_changes_fails_the_commit),
        import_test(link_to_another_file_system_is_refused_with_the_remedy),
        daemon_test(id_that_is_taken_is_refused),
        daemon_test(snapshot_that_is_taken_out_of_the_store_is_gone),
        import_test(import_when_interrupted_leaves_nothing),
        import_test(import_when_killed_leaves_what_the_next_start_removes),
        import_test(daemon_that_starts_during_an_import_leaves_it_alone),
        import_test(memory_that_changes_while_it_is_copied_is_refused),
        import_test(disk_outside_the_configurations_folder_is_refused_unless_it_is_allowed),
        import_test(drive_at_another_path_is_where_path_says),
        import_test(import_of_a_wrong_file_says_so_in_one_line_and_writes_nothing),
        import_test(memory_on_hugetlbfs_is_refused),
        daemon_test(qemu_snapshot_of_another_store_can_be_forked),
    };
    harness_enter();
    return cmocka_run_group_tests_name("import", tests, NULL, NULL);
}
