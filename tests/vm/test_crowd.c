/* SPDX-License-Identifier: MIT */
/* More forks at once than the host has processors for, with all that users need not say as it is by
 * itself: the agent as the guest, the default ack and its deadline, the default of --max-loads. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "vm/vm.h"

enum { FORKS = 48 };

static const char box[] = "kernel.identity.v1";

static int make_template(void **state)
{
    return vm_make_template(state, "microvm", "");
}

static void stage(struct harness *h, const char *id)
{
    assert_int_equal(mkdir(harness_path(h, "snapshots/base/forks/%s", id), 0755), 0);
    vm_stage(
        h, id, box,
        harness_format(h, "{\"payload\":{\"instance_name\":\"%s\"},\"wait_for_ack\":true}", id));
}

/* What the slowest took, for who reads the log. */
static void note_times(struct harness *h, const char *id, double *longest_ack_ms)
{
    char *result = harness_get(h, vm_draft(h, id, "result"));
    double ack_ms = atof(harness_json(h, result, "mailboxes.0.ack_ms"));
    assert_string_equal(harness_json(h, result, "mailboxes.0.acked"), "true");
    *longest_ack_ms = ack_ms > *longest_ack_ms ? ack_ms : *longest_ack_ms;
}

static void forks_when_48_are_made_at_once_all_ack_in_the_default_time(void **state)
{
    struct harness *h = *state;
    struct vm_pending *commits[FORKS];
    const char *ids[FORKS + 1] = {NULL};
    double longest_ack_ms = 0;
    for (int i = 0; i < FORKS; i++) {
        ids[i] = harness_format(h, "web-%d", i);
        stage(h, ids[i]);
    }
    for (int i = 0; i < FORKS; i++)
        commits[i] = vm_start_commit(h, ids[i], "1");
    for (int i = 0; i < FORKS; i++)
        if (vm_finish_commit(commits[i]) != 0)
            fail_msg("%s: %s", ids[i], harness_get(h, vm_draft(h, ids[i], "error")));
    for (int i = 0; i < FORKS; i++)
        note_times(h, ids[i], &longest_ack_ms);
    print_message("the slowest ack took %.0f ms\n", longest_ack_ms);
    vm_assert_running(h, ids);
}

/* Of one request, of which each guest is told who it is. */
static void forks_when_made_by_one_write_are_each_told_who_they_are(void **state)
{
    enum { MEMBERS = 8 };
    struct harness *h = *state;
    const char *ids[MEMBERS + 1] = {NULL}, *list = "";
    for (int i = 0; i < MEMBERS; i++) {
        ids[i] = harness_format(h, "one-%d", i);
        list = harness_format(h, "%s %s", list, ids[i]);
    }
    vm_stage(h, "new", box, "{\"payload\":{\"instance_name\":\"worker\"},\"wait_for_ack\":true}");
    harness_put(vm_draft(h, "new", "options"), "{\"identity\":true}");
    harness_put(vm_draft(h, "new", "commit"), list);
    char *result = harness_get(h, vm_draft(h, "new", "result"));
    assert_string_equal(harness_json(h, result, "status"), "committed");
    for (int i = 0; i < MEMBERS; i++) {
        double ack_ms = 0;
        note_times(h, ids[i], &ack_ms);
        assert_string_equal(harness_json(h, result, harness_format(h, "forks.%d.id", i)), ids[i]);
    }
    vm_assert_running(h, ids);
}

#define test(name) cmocka_unit_test_setup_teardown(name, vm_setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(forks_when_48_are_made_at_once_all_ack_in_the_default_time),
        test(forks_when_made_by_one_write_are_each_told_who_they_are),
    };
    vm_enter_with_agent();
    return cmocka_run_group_tests_name("crowd", tests, make_template, harness_teardown);
}
