/* SPDX-License-Identifier: MIT */
/* A store that another version of hypefs has made. HYPEFS_OLD_STORE names what 0.1 wrote. */
#include "fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/process.h"

/* For an ordinary user, who may not be able to go where the sources are. */
static const char *bring_store(const char *base)
{
    static char copy[512];
    auto_free char *output = NULL, *more = NULL;
    char *from = getenv("HYPEFS_OLD_STORE");
    snprintf(copy, sizeof copy, "%.400s/store-0.1", base);
    const char *const argv[] = {"cp", "-r", from, copy, NULL};
    const char *const open_argv[] = {"chmod", "-R", "a+rX", copy, NULL};
    struct error why;
    if (!from || process_output(-1, argv, 512, HARNESS_DEADLINE_MS, -1, &output, &why) < 0 ||
        process_output(-1, open_argv, 512, HARNESS_DEADLINE_MS, -1, &more, &why) < 0)
        return "HYPEFS_OLD_STORE cannot be copied";
    setenv("HYPEFS_OLD_STORE", copy, 1);
    return NULL;
}

#define MOUNT "$HYPEFS mount --store $S $T/mount"

/* Its images were cut behind their last data; and their lists are those of other inodes than where
 * it was made, of which nobody is to vouch here. */
static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    struct harness *h = *state;
    assert_non_null(getenv("HYPEFS_OLD_STORE"));
    assert_shell("bash",
                 "mkdir $S && cp -r $HYPEFS_OLD_STORE/{snapshots,instances,lock} $S && "
                 "chmod -R go= $S && find $S -name memory -exec truncate -s 1M {} + && "
                 "for m in $S/*/*/memory; do sed -i \"s/size=[^\\\"]*/$(stat -c "
                 "'size=%s inode=%i mtime=%.9Y' $m)/\" ${m%memory}mailboxes.json; done",
                 0);
    return 0;
}

static void mount_it(struct harness *h)
{
    const char *fake = getenv("FAKE_FIRECRACKER");
    assert_non_null(fake);
    harness_mount(h, (const char *const[]){"--firecracker", fake, NULL});
}

static void assert_says(struct harness *h, const char *file, const char *text)
{
    assert_string_equal(harness_get(h, harness_path(h, "%s", file)), text);
}

static bool one_is_ready(void *argument)
{
    struct harness *h = argument;
    const char *info = harness_get(h, harness_path(h, "snapshots/base/info"));
    return strcmp(harness_json(h, info, "warm.ready"), "1") == 0;
}

static void assert_all_is_there(struct harness *h)
{
    assert_says(h, "instances/template/state", "standby\n");
    assert_says(h, "instances/web-1/state", "standby\n");
    assert_says(h, "instances/web-2/state", "stopped\n");
    assert_says(h, "instances/fresh/state", "created\n");
    assert_says(h, "instances/fresh/config", "{\"vcpus\":2}\n");
    assert_says(h, "snapshots/base/warm", "1\n");
    assert_says(h, "snapshots/base/forks/web-1/status", "committed\n");
    assert_says(h, "snapshots/base/forks/web-2/options", "{\"target_state\":\"standby\"}\n");
    assert_file_contains(harness_path(h, "snapshots/base/forks/web-1/result"),
                         "\"payload_bytes\": 7");
    assert_shell("bash", "test \"$(ls snapshots/base/mailboxes)\" = m", 0);
    const char *info = harness_get(h, harness_path(h, "snapshots/base/info"));
    assert_string_equal(harness_json(h, info, "created_at"), "2026-11-28T22:42:53.703Z");
    info = harness_get(h, harness_path(h, "instances/web-1/info"));
    assert_string_equal(harness_json(h, info, "source.snapshot"), "base");
    harness_await_that(one_is_ready, h, "a VM is loaded ahead");
}

static void store_when_made_by_0_1_opens_and_works(void **state)
{
    struct harness *h = *state;
    mount_it(h);
    assert_all_is_there(h);
    assert_file_contains(harness_store_path(h, "format"), "\"format\": 1");

    /* Out of standby, and a fork with a payload, of the snapshot and of an instance. */
    harness_put(harness_path(h, "instances/web-1/state"), "running");
    assert_vmm_is(h, "web-1", "running");
    harness_put(harness_path(h, "instances/web-1/state"), "standby");
    harness_put(harness_path(h, "snapshots/base/forks/new/mailboxes/m"), "{\"a\":1}");
    harness_put(harness_path(h, "snapshots/base/forks/new/commit"), "web-3");
    assert_vmm_is(h, "web-3", "running");
    harness_put(harness_path(h, "instances/web-1/forks/new/commit"), "web-4");
    assert_vmm_is(h, "web-4", "running");
    harness_put(harness_path(h, "instances/web-3/state"), "stopped");
    harness_put(harness_path(h, "instances/web-4/state"), "stopped");

    assert_int_equal(harness_unmount(h), 0);
    mount_it(h);
    assert_all_is_there(h);
    assert_string_equal(harness_get(h, h->log), "");
}

static void assert_refused(struct harness *h, const char *format, const char *why)
{
    harness_put(harness_store_path(h, "format"), format);
    struct harness_result got = assert_shell("bash", MOUNT, 1);
    assert_contains(got.err, harness_format(h, "the store %s ", h->store));
    assert_contains(got.err, why);
    assert_works(access(harness_store_path(h, "instances/web-1/state"), F_OK));
    assert_string_equal(harness_get(h, harness_store_path(h, "format")), format);
}

static void store_when_a_newer_version_has_used_it_is_refused(void **state)
{
    struct harness *h = *state;
    assert_refused(h, "{\"format\":2}\n",
                   "has the format 2, of a newer hypefs, and this one knows the format 1: use the "
                   "newer one for it, or give this one another --store");
    struct harness_result got =
        assert_shell("bash",
                     "cd $S/snapshots/base && $HYPEFS import --store $S --id more --hypervisor "
                     "firecracker --memory memory --state state",
                     1);
    assert_contains(got.err, "has the format 2");
    assert_fails(access(harness_store_path(h, "snapshots/more"), F_OK), ENOENT);
}

static void store_when_its_format_is_damaged_is_refused(void **state)
{
    struct harness *h = *state;
    assert_refused(h, "", "is not known");
    assert_refused(h, "{\"format\":\"1\"}\n", "must be {\"format\": 1}");
    assert_refused(h, "{\"format\":0}\n", "must be {\"format\": 1}");
}

/* Copied in from a newer store: it is left out, and nothing else. */
static void entries_when_a_newer_version_wrote_them_are_left_out_and_named(void **state)
{
    struct harness *h = *state;
    assert_shell(
        "bash",
        "cd $S && sed -i 's/\"version\": 1,/\"version\": 2,/' instances/web-2/fork.json && "
        "sed -i 's/\"version\": 1,/\"version\": 3,/' snapshots/base/snapshot.json "
        "instances/web-1/instance.json",
        0);
    mount_it(h);
    const char *log = harness_get(h, h->log);
    assert_contains(log, "snapshot base: snapshot.json: \"version\" is 3, of a newer hypefs, and "
                         "this one knows 2");
    assert_contains(log, "instance web-1: instance.json: \"version\" is 3");
    assert_contains(log, "the record of the fork web-2: fork.json: \"version\" is 2");
    assert_fails(access(harness_path(h, "snapshots/base"), F_OK), ENOENT);
    assert_fails(access(harness_path(h, "instances/web-1"), F_OK), ENOENT);
    assert_says(h, "instances/web-2/state", "stopped\n");
    assert_says(h, "instances/template/state", "standby\n");
    static const char line[] = " load instances/web-2/fork.json: EOPNOTSUPP: ";
    assert_file_contains(harness_path(h, "error"), line);
    assert_works(rmdir(harness_path(h, "instances/web-2")));
    assert_null(strstr(harness_get(h, harness_path(h, "error")), line));
}

static bool entry_is_told_of_no_more(void *context)
{
    struct harness *h = context;
    return !strstr(harness_get(h, harness_path(h, "error")), "load instances/Upper");
}

/* Whoever looks for what is not told of any more finds the instance, but not that file. */
static void record_of_a_fork_when_missing_is_told_of_for_as_long_as_the_fork_is_there(void **state)
{
    struct harness *h = *state;
    assert_shell("bash", "rm $S/instances/web-2/fork.json && mkdir $S/instances/Upper", 0);
    mount_it(h);
    const char *error = harness_path(h, "error");
    static const char line[] = " load instances/web-2/fork.json: ENOENT: ";
    assert_file_contains(error, line);
    assert_file_contains(error, "load instances/Upper");
    assert_shell("bash", "rmdir $S/instances/Upper", 0);
    harness_await_that(entry_is_told_of_no_more, h, "the line of the entry is gone");
    const char *told = strstr(harness_get(h, error), line);
    assert_non_null(told);
    assert_contains(told, "; the instance is shown, but neither its link fork nor its record");
    assert_null(strstr(told, "move it out"));
    assert_says(h, "instances/web-2/state", "stopped\n");
    assert_works(rmdir(harness_path(h, "instances/web-2")));
    assert_string_equal(harness_get(h, error), "");
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(store_when_made_by_0_1_opens_and_works),
        test(store_when_a_newer_version_has_used_it_is_refused),
        test(store_when_its_format_is_damaged_is_refused),
        test(entries_when_a_newer_version_wrote_them_are_left_out_and_named),
        test(record_of_a_fork_when_missing_is_told_of_for_as_long_as_the_fork_is_there),
    };
    harness_enter_with(bring_store);
    return cmocka_run_group_tests_name("old_store", tests, NULL, NULL);
}
