/* SPDX-License-Identifier: MIT */
/* The memory image is shared by all forks: nobody has it open for writing, and its mode says so. */
#include "fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tiny_guest.h"

/* Prints the processes below the store that have a file of that device and inode open for writing,
 * and last how many have it open at all or map it. */
static const char find_writers[] =
    "n=0\n"
    "for p in /proc/[0-9]*; do\n"
    "    case $(readlink $p/cwd) in $S/instances/*) ;; *) continue;; esac\n"
    "    for fd in $p/fd/*; do\n"
    "        [ \"$(stat -L -c %d:%i $fd 2> /dev/null)\" = \"$(stat -c %d:%i $FILE)\" ] || "
    "continue\n"
    "        n=$((n + 1))\n"
    "        while read -r key value; do\n"
    "            case $key:$value in flags:*[12]) echo \"$p $fd $value\";; esac\n"
    "        done < $p/fdinfo/${fd##*/}\n"
    "    done\n"
    "done\n"
    "echo $n open\n";

static void assert_only_read(struct harness *h, const char *file)
{
    const char *out =
        harness_shell(h, "bash", harness_format(h, "FILE=%s\n%s", file, find_writers)).out;
    if (strchr(out, '/') || strncmp(out, "0 ", 2) == 0)
        fail_msg("%s: %s", file, out);
}

static void assert_mode(const char *file, unsigned mode)
{
    struct stat st;
    assert_works(stat(file, &st));
    assert_int_equal(st.st_mode & 07777, mode);
}

static void commit_fork(struct harness *h, const char *id, const char *source)
{
    harness_put(harness_path(h, "%s/forks/new/mailboxes/m", source), "{\"n\":1}");
    harness_put(harness_path(h, "%s/forks/new/commit", source), id);
    harness_await(h, harness_path(h, "instances/%s/console", id), "m {\"n\":1}\n");
}

static void vmm_of_a_fork_when_it_runs_has_the_image_open_for_reading_only(void **state)
{
    struct harness *h = *state;
    const char *memory = harness_store_path(h, "snapshots/base/memory");
    assert_mode(memory, 0400);
    commit_fork(h, "f1", "snapshots/base");
    assert_only_read(h, memory);
}

static void vmm_loaded_ahead_when_it_is_ready_has_the_image_open_for_reading_only(void **state)
{
    struct harness *h = *state;
    harness_put(harness_path(h, "snapshots/base/warm"), "1");
    harness_await(h, harness_path(h, "snapshots/base/info"), "\"ready\": 1");
    assert_only_read(h, harness_store_path(h, "snapshots/base/memory"));
    harness_put(harness_path(h, "snapshots/base/warm"), "0");
}

/* Standby and back, snapshots of what runs and what rests, and forks of these. */
static void images_of_later_generations_when_forked_are_sealed_too(void **state)
{
    struct harness *h = *state;
    commit_fork(h, "f1", "snapshots/base");
    harness_put(harness_path(h, "instances/f1/snapshot"), "live");
    assert_mode(harness_store_path(h, "snapshots/live/memory"), 0400);
    harness_put(harness_path(h, "instances/f1/state"), "standby");
    assert_mode(harness_store_path(h, "instances/f1/run/memory"), 0400);
    harness_put(harness_path(h, "instances/f1/snapshot"), "rest");
    commit_fork(h, "f2", "snapshots/live");
    commit_fork(h, "f3", "snapshots/rest");
    commit_fork(h, "f4", "instances/f1");
    harness_put(harness_path(h, "instances/f1/state"), "running");
    assert_only_read(h, harness_store_path(h, "snapshots/live/memory"));
    assert_only_read(h, harness_store_path(h, "instances/f1/base"));
    assert_only_read(h, harness_store_path(h, "instances/f4/base"));
    harness_put(harness_path(h, "instances/f1/state"), "standby");
}

static void file_that_was_linked_by_import_when_forked_keeps_its_mode(void **state)
{
    struct harness *h = *state;
    assert_shell("bash",
                 "cp $S/snapshots/base/memory $T/mine && chmod 640 $T/mine &&\n"
                 "$HYPEFS import --store $S --id linked --hypervisor qemu --memory $T/mine --link "
                 "--state $S/snapshots/base/state --config $S/snapshots/base/snapshot.json",
                 0);
    commit_fork(h, "f1", "snapshots/linked");
    assert_only_read(h, harness_format(h, "%s/mine", h->directory));
    assert_mode(harness_format(h, "%s/mine", h->directory), 0640);
    harness_put(harness_path(h, "snapshots/linked/forks/new/options"),
                "{\"target_state\":\"standby\"}");
    harness_put(harness_path(h, "snapshots/linked/forks/new/commit"), "f2");
    harness_put(harness_path(h, "instances/f2/snapshot"), "again");
    assert_mode(harness_format(h, "%s/mine", h->directory), 0640);
}

static void image_that_import_copied_when_published_is_sealed(void **state)
{
    struct harness *h = *state;
    assert_shell("bash",
                 "$HYPEFS import --store $S --id copied --hypervisor qemu "
                 "--memory $S/snapshots/base/memory --state $S/snapshots/base/state "
                 "--config $S/snapshots/base/snapshot.json",
                 0);
    assert_mode(harness_store_path(h, "snapshots/copied/memory"), 0400);
    commit_fork(h, "f1", "snapshots/copied");
}

/* A program that opens files in its own way, as one that is linked statically would: the library
 * does not reach it. */
static void vmm_that_has_the_image_open_for_writing_is_refused(void **state)
{
    struct harness *h = *state;
    assert_int_equal(harness_unmount(h), 0);
    harness_mount(h, (const char *const[]){"--qemu",
                                           fixture_script(h, "writing-qemu",
                                                          "#!/bin/bash\n"
                                                          "case \"$*\" in *-incoming*) exec 77<> "
                                                          "../../../snapshots/base/memory;; esac\n"
                                                          "exec qemu-system-x86_64 \"$@\"\n"),
                                           "--confine", "off", NULL});
    /* The file's mode keeps an ordinary user from that, so it is taken away here. */
    assert_works(chmod(harness_store_path(h, "snapshots/base/memory"), 0600));
    harness_put(harness_path(h, "snapshots/base/forks/new/mailboxes/m"), "{\"n\":1}");
    assert_errno(harness_write(harness_path(h, "snapshots/base/forks/new/commit"), "f1"), EIO);
    assert_file_contains(harness_path(h, "snapshots/base/forks/new/error"), "for writing");
    assert_no_instance(h);
}

static void disk_that_is_only_read_when_its_vm_runs_is_open_for_reading_only(void **state)
{
    struct harness *h = *state;
    const char *disk = harness_format(h, "%s/disk.img", h->directory);
    assert_shell("bash", harness_format(h, "truncate -s 1M %s", disk), 0);
    const char *config = tiny_guest_config(h, (const char *const[]){"m", NULL});
    assert_works(mkdir(harness_path(h, "instances/x"), 0755));
    harness_put(harness_path(h, "instances/x/config"),
                harness_format(
                    h, "%.*s,\"disks\":[{\"path\":\"%s\",\"format\":\"raw\",\"readonly\":true}]}",
                    (int)(strlen(config) - 2), config, disk));
    harness_put(harness_path(h, "instances/x/state"), "running");
    harness_await(h, harness_path(h, "instances/x/console"), "ready");
    assert_only_read(h, disk);
    harness_put(harness_path(h, "instances/x/snapshot"), "disked");
    commit_fork(h, "f1", "snapshots/disked");
    harness_put(harness_path(h, "instances/x/state"), "stopped");
    assert_only_read(h, disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        guest_test(vmm_of_a_fork_when_it_runs_has_the_image_open_for_reading_only),
        guest_test(vmm_loaded_ahead_when_it_is_ready_has_the_image_open_for_reading_only),
        guest_test(images_of_later_generations_when_forked_are_sealed_too),
        guest_test(file_that_was_linked_by_import_when_forked_keeps_its_mode),
        guest_test(image_that_import_copied_when_published_is_sealed),
        guest_test(vmm_that_has_the_image_open_for_writing_is_refused),
        guest_test(disk_that_is_only_read_when_its_vm_runs_is_open_for_reading_only),
    };
    harness_enter();
    if (!tiny_guest_possible())
        return HARNESS_SKIPPED;
    return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
