/* SPDX-License-Identifier: MIT */
/* Snapshots of what runs, is paused or stands by, and forks of those, to any depth: what is saved
 * is what was in memory, and nothing of the payloads that were consumed. */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "vm/vm.h"

static const char box[] = "first.v1", asleep[] = "asleep.v1";

/* What does not take its payload is not printed either: nothing else in the guest may hold it. */
static int make_template(void **state)
{
    return vm_make_template(
        state, "microvm",
        "hypefs.mailboxes=first.v1 hypefs.asleep=asleep.v1 hypefs.twin hypefs.ticks");
}

static char *in(struct harness *h, const char *id, const char *file)
{
    return harness_path(h, "instances/%s/%s", id, file);
}

static void put(const char *path, const char *text)
{
    int code = harness_write(path, text);
    if (code != 0)
        fail_msg("%s > %s: %s", text, path, strerrorname_np(code));
}

/* Stages `text` for first.v1 (NULL: nothing) in the `new` of snapshots/… or instances/…, and
 * commits. Returns the errno. */
static int fork_of(struct harness *h, const char *source, const char *id, const char *text,
                   const char *options)
{
    if (text)
        put(harness_path(h, "%s/forks/new/mailboxes/%s", source, box), text);
    if (options)
        put(harness_path(h, "%s/forks/new/options", source), options);
    return harness_write(harness_path(h, "%s/forks/new/commit", source), id);
}

static void must_fork(struct harness *h, const char *source, const char *id, const char *text,
                      const char *options)
{
    int code = fork_of(h, source, id, text, options);
    if (code != 0)
        fail_msg("fork of %s: %s: %s", source, strerrorname_np(code),
                 harness_get(h, harness_path(h, "%s/forks/new/error", source)));
    char *result = harness_get(h, harness_path(h, "%s/forks/%s/result", source, id));
    assert_string_equal(harness_json(h, result, "status"), "committed");
    assert_string_equal(harness_json(h, result, "source"), source);
}

/* web-1, a fork of base that may be saved: a guest acks before it arms its mailbox again. */
static void fork_base(struct harness *h)
{
    vm_fork(h, "web-1", box, VM_REQUEST("ack", ""));
    harness_await(h, vm_console(h, "web-1"), "first.v1 is armed again");
}

static char *of_snapshot(struct harness *h, const char *id, const char *member)
{
    return harness_json(h, harness_get(h, harness_path(h, "snapshots/%s/info", id)), member);
}

static void goes_on(struct harness *h, const char *id)
{
    vm_await_tick_after(h, id, vm_last_tick(h, id));
}

/* Is that text anywhere in the memory of a snapshot? */
static bool holds(struct harness *h, const char *id, const char *text)
{
    struct harness_result result = harness_run(
        h, (const char *const[]){"grep", "-qaF", text,
                                 harness_store_path(h, "snapshots/%s/memory", id), NULL});
    assert_in_range(result.status, 0, 1);
    return result.status == 0;
}

static blkcnt_t blocks(struct harness *h, const char *id, off_t *ret_size)
{
    struct stat st;
    assert_int_equal(stat(harness_store_path(h, "snapshots/%s/memory", id), &st), 0);
    *ret_size = st.st_size;
    return st.st_blocks;
}

/* ---- snapshots ---- */

/* As long as there is this file, the daemon's reads of images wait (mount/slow_disk.c). */
static char *gate(struct harness *h)
{
    return harness_format(h, "%s/gate", h->directory);
}

static int setup_slow(void **state)
{
    if (vm_setup_unmounted(state) != 0)
        return -1;
    struct harness *h = *state;
    setenv("HYPEFS_TEST_GATE", gate(h), 1);
    setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1);
    setenv("LD_PRELOAD", getenv("HYPEFS_SLOW_DISK"), 1);
    harness_mount(h, NULL);
    unsetenv("LD_PRELOAD");
    return 0;
}

static bool is_being_copied(void *argument)
{
    struct harness *h = argument;
    glob_t found = {0};
    bool copied =
        glob(harness_store_path(h, "snapshots/.new-*/memory"), GLOB_PERIOD, NULL, &found) == 0;
    globfree(&found);
    return copied;
}

static void snapshot_of_one_that_runs_lets_it_go_on(void **state)
{
    struct harness *h = *state;
    fork_base(h);
    goes_on(h, "web-1");
    int pid = vm_pid(h, "web-1");
    unsigned before = vm_last_tick(h, "web-1");
    put(in(h, "web-1", "snapshot"), "s");
    assert_string_equal(harness_get(h, in(h, "web-1", "state")), "running\n");
    goes_on(h, "web-1");
    assert_int_equal(vm_pid(h, "web-1"), pid);
    assert_true(strtod(of_snapshot(h, "s", "pause_ms"), NULL) > 0);
    assert_string_equal(of_snapshot(h, "s", "source_instance"), "web-1");
    assert_string_equal(of_snapshot(h, "s", "undelivered"), "[]");
    assert_non_null(strstr(harness_get(h, h->log), "web-1 was paused for "));
    assert_int_equal(access(harness_store_path(h, "instances/web-1/run/memory"), F_OK), -1);
    const char *record = harness_get(h, harness_store_path(h, "instances/web-1/instance.json"));
    assert_null(strstr(record, "\"intent\""));
    /* Its fork goes on from there. */
    must_fork(h, "snapshots/s", "web-2", VM_REQUEST("ack", ",\"n\":2"), NULL);
    goes_on(h, "web-2");
    char *console = harness_get(h, vm_console(h, "web-2"));
    char *first = strstr(console, "vm_guest: tick ");
    assert_non_null(first);
    assert_true(strtoul(first + strlen("vm_guest: tick "), NULL, 10) > before);
    assert_null(strstr(console, "vm_guest: ready"));
    vm_assert_running(h, (const char *const[]){"web-1", "web-2", NULL});
}

/* What takes time is the image that it was loaded from, which nobody writes to. */
static void fork_runs_while_its_image_is_copied_for_a_snapshot(void **state)
{
    struct harness *h = *state;
    fork_base(h);
    harness_put(gate(h), "");
    struct harness_child child = harness_start_shell(h, "sh", "echo s > instances/web-1/snapshot");
    harness_await_blocked(h, child.pid);
    harness_await_that(is_being_copied, h, "a copy that has begun");
    goes_on(h, "web-1");
    goes_on(h, "web-1");
    assert_int_equal(unlink(gate(h)), 0);
    assert_int_equal(harness_finish(h, &child).status, 0);
    goes_on(h, "web-1");
    must_fork(h, "snapshots/s", "web-2", VM_REQUEST("ack", ",\"n\":2"), NULL);
}

static void snapshot_of_one_that_was_booted_and_runs_can_be_forked(void **state)
{
    struct harness *h = *state;
    vm_boot(h, "microvm", "hypefs.mailboxes=first.v1 hypefs.ticks");
    put(in(h, "template", "snapshot"), "s");
    assert_true(strtod(of_snapshot(h, "s", "pause_ms"), NULL) > 0);
    goes_on(h, "template");
    must_fork(h, "snapshots/s", "web-1", VM_REQUEST("ack", ",\"n\":1"), NULL);
    must_fork(h, "snapshots/s", "web-2", VM_REQUEST("ack", ",\"n\":2"), NULL);
    goes_on(h, "web-1");
    goes_on(h, "web-2");
    goes_on(h, "template");
    assert_int_equal(vm_change(h, "template", "standby"), 0);
    assert_int_equal(vm_change(h, "template", "running"), 0);
    goes_on(h, "template");
}

static void snapshot_of_one_that_is_paused_is_its_memory_byte_for_byte(void **state)
{
    struct harness *h = *state;
    char *seen[2];
    off_t size, same;
    vm_commit(h, "new", "web-1");
    goes_on(h, "web-1");
    assert_int_equal(vm_change(h, "web-1", "paused"), 0);
    size_t sockets = vm_daemon_sockets(h);
    seen[0] = harness_get(h, vm_console(h, "web-1"));
    put(in(h, "web-1", "snapshot"), "s");
    put(in(h, "web-1", "snapshot"), "again");
    assert_string_equal(harness_get(h, in(h, "web-1", "state")), "paused\n");
    assert_string_equal(of_snapshot(h, "s", "pause_ms"), "null");
    vm_assert_image(h, "web-1", harness_store_path(h, "snapshots/s/memory"));
    vm_assert_image(h, "web-1", harness_store_path(h, "snapshots/again/memory"));
    seen[1] = harness_get(h, vm_console(h, "web-1"));
    assert_string_equal(seen[0], seen[1]);
    assert_int_equal(vm_daemon_sockets(h), sockets);
    /* Holes stay holes: not more than the source's and what was written since. */
    blkcnt_t source = blocks(h, "base", &size), copy = blocks(h, "s", &same);
    assert_int_equal(size, same);
    assert_true(copy < size / 512 * 3 / 4);
    assert_true(copy < source + size / 512 / 8);
    assert_int_equal(vm_change(h, "web-1", "running"), 0);
    goes_on(h, "web-1");
}

static void snapshot_of_one_in_standby_shares_its_image(void **state)
{
    struct harness *h = *state;
    struct stat own, its;
    fork_base(h);
    assert_int_equal(vm_change(h, "web-1", "standby"), 0);
    put(in(h, "web-1", "snapshot"), "s");
    assert_string_equal(of_snapshot(h, "s", "pause_ms"), "null");
    assert_int_equal(stat(harness_store_path(h, "instances/web-1/run/memory"), &own), 0);
    assert_int_equal(stat(harness_store_path(h, "snapshots/s/memory"), &its), 0);
    assert_int_equal(own.st_ino, its.st_ino);
    /* Neither is changed by what becomes of the other. */
    const char *path = harness_store_path(h, "snapshots/s/memory");
    char *sum = harness_run(h, (const char *const[]){"sha256sum", path, NULL}).out;
    assert_int_equal(vm_change(h, "web-1", "running"), 0);
    goes_on(h, "web-1");
    assert_int_equal(vm_change(h, "web-1", "standby"), 0);
    assert_string_equal(harness_run(h, (const char *const[]){"sha256sum", path, NULL}).out, sum);
    must_fork(h, "snapshots/s", "web-2", VM_REQUEST("ack", ""), NULL);
}

/* ---- generations ---- */

static char *secret(struct harness *h, int generation)
{
    return harness_format(h, "secret-of-generation-%d-%d", generation, (int)getpid());
}

static void forks_of_forks_have_no_payload_and_no_reply_of_those_before(void **state)
{
    enum { GENERATIONS = 3 };
    struct harness *h = *state;
    const char *source = "snapshots/base";
    unsigned tick = 0;
    for (int i = 1; i <= GENERATIONS; i++) {
        const char *id = harness_format(h, "g%d", i), *snapshot = harness_format(h, "s%d", i);
        char *text = harness_format(h,
                                    "{\"payload\":{\"do\":\"reply\",\"reply\":{\"s\":\"%s\"}},"
                                    "\"wait_for_ack\":true," VM_PATIENT "}",
                                    secret(h, i));
        must_fork(h, source, id, text, NULL);
        char *result = harness_get(h, harness_path(h, "%s/forks/%s/result", source, id));
        assert_string_equal(harness_json(h, result, "mailboxes.0.copies"), "2");
        assert_string_equal(harness_json(h, result, "mailboxes.0.reply.s"), secret(h, i));
        harness_await(h, vm_console(h, id), "is armed again");
        goes_on(h, id);
        assert_true(vm_last_tick(h, id) > tick);
        tick = vm_last_tick(h, id);
        if (i == 2) /* by way of standby, too */
            assert_int_equal(vm_change(h, id, "standby"), 0);
        put(in(h, id, "snapshot"), snapshot);
        for (int j = 1; j <= i; j++)
            assert_false(holds(h, snapshot, secret(h, j)));
        assert_string_equal(of_snapshot(h, snapshot, "undelivered"), "[]");
        source = harness_format(h, "snapshots/%s", snapshot);
    }
    must_fork(h, source, "last", VM_REQUEST("ack", ",\"n\":4"), NULL);
    harness_await(h, vm_console(h, "last"), "payload={\"do\":\"ack\",\"n\":4");
}

/* The same VM is saved twice, with a stay in standby between. */
static void twins_when_the_fork_was_in_standby_before_are_armed_all_the_same(void **state)
{
    struct harness *h = *state;
    char *text = harness_format(h, "{\"do\":\"hush\",\"s\":\"%s\"}", secret(h, 1));
    vm_fork(h, "web-1", box, text);
    harness_await(h, vm_console(h, "web-1"), "is armed again");
    assert_int_equal(vm_change(h, "web-1", "standby"), 0);
    assert_string_equal(
        harness_json(h, harness_get(h, in(h, "web-1", "mailboxes/first.v1")), "markers.1.state"),
        "armed");
    assert_int_equal(vm_change(h, "web-1", "running"), 0);
    put(in(h, "web-1", "snapshot"), "s");
    assert_false(holds(h, "s", secret(h, 1)));
}

static void payload_that_nobody_took_stays_and_is_told(void **state)
{
    struct harness *h = *state;
    vm_stage(h, "new", asleep, harness_format(h, "{\"s\":\"%s\"}", secret(h, 1)));
    vm_commit(h, "new", "web-1");
    put(in(h, "web-1", "snapshot"), "s");
    assert_true(holds(h, "s", secret(h, 1)));
    assert_string_equal(of_snapshot(h, "s", "undelivered"), "[\"asleep.v1\"]");
    assert_non_null(strstr(harness_get(h, h->log), "holds a payload in mailbox asleep.v1"));
    put(harness_path(h, "snapshots/s/forks/new/mailboxes/%s", asleep), "{}");
    assert_int_equal(harness_write(harness_path(h, "snapshots/s/forks/new/commit"), "web-2"),
                     EBUSY);
    must_fork(h, "snapshots/s", "web-2", VM_REQUEST("ack", ",\"n\":1"), NULL);
}

/* ---- forks of instances ---- */

static void fork_of_one_in_standby_runs_beside_it(void **state)
{
    struct harness *h = *state;
    char target[256] = "";
    fork_base(h);
    assert_int_equal(vm_change(h, "web-1", "standby"), 0);
    must_fork(h, "instances/web-1", "web-2", VM_REQUEST("ack", ",\"n\":2"), NULL);
    harness_await(h, vm_console(h, "web-2"), "payload={\"do\":\"ack\",\"n\":2");
    assert_string_equal(vm_info(h, "web-2", "source.instance"), "web-1");
    assert_true(readlink(in(h, "web-2", "fork"), target, sizeof target - 1) > 0);
    assert_string_equal(target, "../../instances/web-1/forks/web-2");
    assert_int_equal(access(in(h, "web-2", "fork/result"), F_OK), 0);
    assert_string_equal(harness_get(h, in(h, "web-1", "state")), "standby\n");

    /* Its memory is mapped: it stays as long. */
    assert_int_equal(rmdir(in(h, "web-1", "")), -1);
    assert_int_equal(errno, EBUSY);
    assert_non_null(strstr(harness_get(h, in(h, "web-1", "error")), "by its fork web-2"));
    assert_int_equal(rmdir(in(h, "web-1", "forks/web-2")), -1);
    assert_int_equal(errno, EBUSY);
    assert_int_equal(vm_change(h, "web-1", "running"), 0);
    goes_on(h, "web-1");
    assert_int_equal(vm_change(h, "web-1", "stopped"), 0);
    assert_int_equal(rmdir(in(h, "web-1", "")), 0);
    goes_on(h, "web-2");
    assert_int_equal(access(in(h, "web-2", "fork"), F_OK), -1);
    assert_string_equal(vm_info(h, "web-2", "source.instance"), "web-1");
}

static void source_when_its_fork_is_removed_has_no_record_of_it(void **state)
{
    struct harness *h = *state;
    vm_commit(h, "new", "web-1");
    assert_int_equal(vm_change(h, "web-1", "standby"), 0);
    must_fork(h, "instances/web-1", "web-2", NULL, NULL);
    assert_int_equal(harness_unmount(h), 0);
    harness_mount(h, NULL);
    assert_string_equal(harness_get(h, in(h, "web-1", "forks/web-2/status")), "committed\n");
    assert_int_equal(rmdir(in(h, "web-1", "")), -1);
    assert_int_equal(errno, EBUSY);
    assert_int_equal(vm_change(h, "web-2", "stopped"), 0);
    assert_int_equal(rmdir(in(h, "web-2", "")), 0);
    assert_int_equal(access(in(h, "web-1", "forks/web-2"), F_OK), -1);
    assert_int_equal(rmdir(in(h, "web-1", "")), 0);
    vm_assert_running(h, (const char *const[]){NULL});
}

/* What runs, or is paused, is copied if that is asked for, and goes on as it was. */
static void check_fork_of_live(struct harness *h, const char *state)
{
    const char *words = harness_format(h, "web-1 is %s: write {\"from_running\": true}", state);
    int pid = vm_pid(h, "web-1");
    assert_int_equal(fork_of(h, "instances/web-1", "live", NULL, "{}"), EOPNOTSUPP);
    assert_non_null(strstr(harness_get(h, in(h, "web-1", "forks/new/error")), words));
    must_fork(h, "instances/web-1", harness_format(h, "of-%s", state),
              VM_REQUEST("ack", ",\"n\":2"), "{\"from_running\":true}");
    assert_string_equal(harness_get(h, in(h, "web-1", "state")), harness_format(h, "%s\n", state));
    /* A fork that fails takes nothing from it. */
    put(in(h, "web-1", "forks/new/mailboxes/no-such.v1"), "{}");
    assert_int_equal(fork_of(h, "instances/web-1", "live", NULL, "{\"from_running\":true}"),
                     ENOENT);
    assert_string_equal(harness_get(h, in(h, "web-1", "state")), harness_format(h, "%s\n", state));
    assert_int_equal(vm_pid(h, "web-1"), pid);
    assert_int_equal(access(harness_store_path(h, "instances/web-1/run/memory"), F_OK), -1);
    struct harness_result left =
        harness_run(h, (const char *const[]){"ls", "-A", harness_store_path(h, "snapshots"), NULL});
    assert_string_equal(left.out, "base\n");
}

static void fork_of_one_that_runs_or_is_paused_takes_a_copy(void **state)
{
    struct harness *h = *state;
    fork_base(h);
    check_fork_of_live(h, "running");
    goes_on(h, "web-1");
    assert_int_equal(vm_change(h, "web-1", "paused"), 0);
    char *console = harness_get(h, vm_console(h, "web-1"));
    check_fork_of_live(h, "paused");
    assert_string_equal(harness_get(h, vm_console(h, "web-1")), console);
    assert_int_equal(vm_change(h, "web-1", "running"), 0);
    goes_on(h, "web-1");
    goes_on(h, "of-running");
    goes_on(h, "of-paused");
    /* Nobody maps what is web-1's own. */
    assert_int_equal(vm_change(h, "web-1", "stopped"), 0);
    assert_int_equal(rmdir(in(h, "web-1", "")), 0);
    vm_assert_running(h, (const char *const[]){"of-running", "of-paused", NULL});
}

/* Of the fork before, only what was not consumed is in it. */
static void fork_of_one_that_runs_has_no_secret_of_it(void **state)
{
    struct harness *h = *state;
    vm_fork(h, "web-1", box, harness_format(h, "{\"do\":\"hush\",\"s\":\"%s\"}", secret(h, 1)));
    harness_await(h, vm_console(h, "web-1"), "is armed again");
    must_fork(h, "instances/web-1", "web-2", VM_REQUEST("ack", ",\"n\":2"),
              "{\"from_running\":true}");
    put(in(h, "web-2", "snapshot"), "s");
    assert_false(holds(h, "s", secret(h, 1)));
}

static void forks_of_one_that_runs_by_two_drafts_at_once_both_are_made(void **state)
{
    struct harness *h = *state;
    static const char *const ids[] = {"a", "b"};
    struct harness_child children[2];
    vm_commit(h, "new", "web-1");
    int pid = vm_pid(h, "web-1");
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(mkdir(harness_path(h, "instances/web-1/forks/%s", ids[i]), 0755), 0);
        put(harness_path(h, "instances/web-1/forks/%s/options", ids[i]), "{\"from_running\":true}");
        put(harness_path(h, "instances/web-1/forks/%s/mailboxes/%s", ids[i], box),
            VM_REQUEST("ack", ""));
    }
    for (size_t i = 0; i < 2; i++)
        children[i] = harness_start_shell(
            h, "bash", harness_format(h, "echo 1 > instances/web-1/forks/%s/commit", ids[i]));
    for (size_t i = 0; i < 2; i++)
        assert_string_equal(harness_finish(h, &children[i]).err, "");
    goes_on(h, "web-1");
    assert_int_equal(vm_pid(h, "web-1"), pid);
    vm_assert_running(h, (const char *const[]){"web-1", "a", "b", NULL});
}

/* ---- forks that are not resumed ---- */

static void fork_into_standby_has_no_process_and_runs_when_told(void **state)
{
    struct harness *h = *state;
    must_fork(h, "snapshots/base", "web-1", NULL, "{\"target_state\":\"standby\"}");
    assert_string_equal(harness_get(h, in(h, "web-1", "state")), "standby\n");
    assert_string_equal(vm_info(h, "web-1", "pid"), "null");
    /* What was found in the image is known already. */
    assert_int_equal(access(harness_store_path(h, "instances/web-1/run/mailboxes.json"), F_OK), 0);
    assert_int_equal(access(in(h, "web-1", "mailboxes/first.v1"), F_OK), 0);
    must_fork(h, "instances/web-1", "web-2", VM_REQUEST("ack", ",\"n\":2"), NULL);
    assert_int_equal(vm_change(h, "web-2", "stopped"), 0);
    /* Nothing maps the source, and the fork has what it needs. */
    assert_int_equal(rmdir(harness_path(h, "snapshots/base")), 0);
    assert_int_equal(vm_change(h, "web-1", "running"), 0);
    goes_on(h, "web-1");
    put(in(h, "web-1", "snapshot"), "s");
    must_fork(h, "snapshots/s", "web-3", VM_REQUEST("ack", ",\"n\":3"), NULL);
}

#define test(name) cmocka_unit_test_setup_teardown(name, vm_setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(snapshot_of_one_that_runs_lets_it_go_on),
        cmocka_unit_test_setup_teardown(fork_runs_while_its_image_is_copied_for_a_snapshot,
                                        setup_slow, harness_teardown),
        test(snapshot_of_one_that_was_booted_and_runs_can_be_forked),
        test(snapshot_of_one_that_is_paused_is_its_memory_byte_for_byte),
        test(snapshot_of_one_in_standby_shares_its_image),
        test(forks_of_forks_have_no_payload_and_no_reply_of_those_before),
        test(twins_when_the_fork_was_in_standby_before_are_armed_all_the_same),
        test(payload_that_nobody_took_stays_and_is_told),
        test(fork_of_one_in_standby_runs_beside_it),
        test(source_when_its_fork_is_removed_has_no_record_of_it),
        test(fork_of_one_that_runs_or_is_paused_takes_a_copy),
        test(fork_of_one_that_runs_has_no_secret_of_it),
        test(forks_of_one_that_runs_by_two_drafts_at_once_both_are_made),
        test(fork_into_standby_has_no_process_and_runs_when_told),
    };
    vm_enter();
    return cmocka_run_group_tests_name("generations", tests, make_template, harness_teardown);
}
