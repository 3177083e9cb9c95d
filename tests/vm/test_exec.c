/* SPDX-License-Identifier: MIT */
/* Commands in a real guest, and payloads with replies: the agent with --exec, hypefs exec and
 * hypefs send, for a fork and for a VM that was booted. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "util/cleanup.h"
#include "vm/vm.h"

static const char box[] = "kernel.identity.v1";

static int make_template(void **state)
{
    return vm_make_template(state, "microvm", "hypefs.exec");
}

static int set_up(void **state)
{
    int r = vm_setup(state);
    if (r == 0)
        vm_fork(*state, "web-1", box,
                "{\"payload\":{\"instance_name\":\"web-1\"},\"wait_for_ack\":true," VM_PATIENT "}");
    return r;
}

#define EXEC "$HYPEFS exec --mount $M --timeout-ms 120000 "

static void command_has_input_output_and_status(void **state)
{
    static const struct {
        const char *script;
        int status;
        const char *out, *err;
    } cases[] = {
        {EXEC "-n web-1 -- uname -n", 0, "web-1\n", ""},
        {EXEC "-n $M/instances/web-1 -- uname -n", 0, "web-1\n", ""},
        {EXEC "-n web-1 sh -c 'echo no >&2; exit 3'", 3, "", "no\n"},
        {"echo input | " EXEC "web-1 -- sh -c 'cat; pwd; echo $A; id -u' ", 0, "input\n/\n\n0\n",
         ""},
        {EXEC "-n --env 'A=b c' --user 65534 web-1 -- sh -c 'echo $A; id -u'", 0, "b c\n65534\n",
         ""},
        {EXEC "-n --cwd /etc web-1 -- pwd", 0, "/etc\n", ""},
        {"printf '\\0\\377' | " EXEC "web-1 -- cat | od -An -tx1", 0, " 00 ff\n", ""},
        {EXEC "-n web-1 -- none", 127, "",
         "hypefs-guest: cannot run none: No such file or directory\n"},
        {EXEC "-n web-1 -- /etc", 126, "", "hypefs-guest: cannot run /etc: Permission denied\n"},
        {EXEC "-n web-1 -- sh -c 'kill -9 $$'", 137, "", ""},
        {"$HYPEFS exec --mount $M -n --timeout-ms 100 web-1 -- sleep 1000", 124, "",
         "it was ended, because --timeout-ms were over"},
        {EXEC "-n web-1 -- seq 100000 | tail -n 1", 0, "100000\n",
         "of what it printed had no room, and are left out\n"},
        {EXEC "-n none -- true", 125, "", "none is not the directory of an instance\n"},
        {"head -c 4000 /dev/zero | " EXEC "web-1 -- true", 125, "", "bytes"},
        {EXEC "web-1", 2, "", "it takes INSTANCE and COMMAND"},
        {"$HYPEFS send --mount $M web-1 none </dev/null", 1, "",
         "the payload is not a JSON object"},
        {"echo '{}' | $HYPEFS send --mount $M web-1 none", 1, "", "has no mailbox none; it has: "},
        {"echo '{}' | $HYPEFS send --mount $M web-1 kernel.identity.v1", 1, "",
         "the payload has no good instance_name (hook exit status 1)"},
        {"echo '{\"instance_name\":\"web-9\"}' | $HYPEFS send --mount $M web-1 kernel.identity.v1",
         0, "{\"output\":\"hook: this clone is now web-9\\n\"}\n", ""},
    };
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(cases); i++) {
        struct harness_result result = harness_shell(h, "bash", cases[i].script);
        if (result.status != cases[i].status || strcmp(result.out, cases[i].out) != 0 ||
            !strstr(result.err, cases[i].err) || (!cases[i].err[0] && result.err[0]))
            fail_msg("%s: %d, %s%s", cases[i].script, result.status, result.out, result.err);
    }
}

/* Three wait until the fourth, which comes last, lets them go on. */
static void four_commands_run_side_by_side(void **state)
{
    struct harness *h = *state;
    struct harness_child waiting[3];
    for (size_t i = 0; i < array_length(waiting); i++) {
        waiting[i] = harness_start_shell(
            h, "bash",
            harness_format(h,
                           EXEC "-n web-1 -- sh -c 'touch /tmp/%zu; "
                                "until [ -e /tmp/go ]; do sleep 0.1; done; echo %zu'",
                           i, i));
    }
    struct harness_result last = harness_shell(
        h, "bash",
        EXEC
        "-n web-1 -- sh -c 'until [ -e /tmp/0 -a -e /tmp/1 -a -e /tmp/2 ]; do sleep 0.1; done; "
        "touch /tmp/go; echo went'");
    assert_string_equal(last.out, "went\n");
    for (size_t i = 0; i < array_length(waiting); i++) {
        struct harness_result result = harness_finish(h, &waiting[i]);
        assert_string_equal(result.err, "");
        assert_string_equal(result.out, harness_format(h, "%zu\n", i));
    }
}

/* Staged, it is part of the commit: one job for each clone. */
static void command_that_is_staged_is_run_by_the_clone(void **state)
{
    struct harness *h = *state;
    char *result = vm_fork(
        h, "web-2", "hypefs.exec",
        "{\"payload\":{\"argv\":[\"cat\",\"/proc/uptime\"]},\"wait_for_ack\":true," VM_PATIENT "}");
    assert_string_equal(harness_json(h, result, "mailboxes.0.reply.exit"), "0");
    assert_non_null(strchr(harness_json(h, result, "mailboxes.0.reply.stdout"), '.'));
}

static void vm_that_was_booted_runs_commands_too(void **state)
{
    struct harness *h = *state;
    vm_boot(h, "microvm", "hypefs.exec");
    struct harness_result result = harness_shell(h, "bash", EXEC "-n template -- hostname");
    assert_string_equal(result.err, "");
    assert_string_equal(result.out, "template\n");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, harness_teardown)
    vm_enter_with_agent();
    const struct CMUnitTest tests[] = {
        TEST(command_has_input_output_and_status),
        TEST(four_commands_run_side_by_side),
        TEST(command_that_is_staged_is_run_by_the_clone),
        TEST(vm_that_was_booted_runs_commands_too),
    };
    return cmocka_run_group_tests_name("exec", tests, make_template, harness_teardown);
}
