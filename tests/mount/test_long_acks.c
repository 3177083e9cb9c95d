/* SPDX-License-Identifier: MIT */
/* Commits that may wait for an ack for longer than 30 s: their instance is seen meanwhile. The
 * guest is the fake Firecracker's. */
#include "fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake.h"
#include "util/cleanup.h"

#define ONE_DAY "86400000"

static char *draft(struct harness *h, const char *fork, const char *file)
{
    return harness_path(h, "snapshots/base/forks/%s/%s", fork, file);
}

static char *result(struct harness *h, const char *fork, const char *member)
{
    return harness_json(h, harness_get(h, draft(h, fork, "result")), member);
}

static void stage(struct harness *h, const char *mailbox, const char *timeout_ms)
{
    harness_put(draft(h, "new", harness_format(h, "mailboxes/%s", mailbox)),
                harness_format(h,
                               "{\"payload\":{\"n\":1},\"wait_for_ack\":true,\"ack\":\"memory\","
                               "\"ack_timeout_ms\":%s}",
                               timeout_ms));
}

static char *gate(struct harness *h)
{
    return harness_format(h, "%s/gate", h->programs);
}

static int setup(void **state)
{
    int r = harness_setup(state);
    struct harness *h = *state;
    if (r == 0) {
        fake_mount(h);
        fake_publish(h, "mailboxes=m,a", "");
        assert_works(mkfifo(gate(h), 0600));
        assert_works(chmod(gate(h), 0644)); /* the umask */
        fake_tell(h, harness_format(h, "FAKE_VMM_GUEST=late FAKE_VMM_GATE='%s'", gate(h)));
    }
    return r;
}

/* The write's errno is its exit status. */
static struct harness_child start_commit(struct harness *h)
{
    return harness_start(h, (const char *const[]){"python3", "-c",
                                                  "import os, sys\n"
                                                  "fd = os.open('snapshots/base/forks/new/commit',"
                                                  " os.O_WRONLY)\n"
                                                  "try: os.write(fd, b'f1')\n"
                                                  "except OSError as e: sys.exit(e.errno)\n",
                                                  NULL});
}

/* It is there, and its guest runs. */
static struct harness_child commit_and_await(struct harness *h)
{
    stage(h, "m", ONE_DAY);
    struct harness_child commit = start_commit(h);
    harness_await(h, draft(h, "new", "status"), "waiting");
    harness_await(h, fake_instance(h, "f1", "console"), "waits\n");
    return commit;
}

static void let_the_guest_ack(struct harness *h)
{
    harness_put(gate(h), "g");
}

static void assert_refused(struct harness *h, int code, int wanted)
{
    assert_errno(code, wanted);
    if (wanted == EBUSY)
        assert_file_contains(fake_instance(h, "f1", "error"), "the fork waits for its ack: wait");
}

static void instance_is_seen_until_its_ack_comes_and_then_runs(void **state)
{
    struct harness *h = *state;
    struct harness_child commit = commit_and_await(h);
    const char *info = harness_get(h, fake_instance(h, "f1", "info"));
    assert_string_equal(harness_get(h, fake_instance(h, "f1", "state")), "waiting\n");
    assert_string_equal(harness_json(h, info, "state"), "waiting");
    assert_string_equal(harness_json(h, info, "source.snapshot"), "base");
    assert_works(kill(atoi(harness_json(h, info, "pid")), 0));
    assert_shell("bash", "[ \"$(ls instances)\" = f1 ] && [ ! -e $S/instances/f1 ]", 0);
    let_the_guest_ack(h);
    assert_int_equal(harness_finish(h, &commit).status, 0);
    assert_string_equal(harness_get(h, fake_instance(h, "f1", "state")), "running\n");
    assert_string_equal(harness_get(h, draft(h, "f1", "status")), "committed\n");
    assert_string_equal(result(h, "f1", "mailboxes.0.acked"), "true");
    assert_file_contains(fake_instance(h, "f1", "console"), "waits\nm {\"n\":1}\n");
    assert_shell("bash", "[ -d $S/instances/f1 ] && [ -e instances/f1/fork/result ]", 0);
    fake_drop(h, "f1");
}

/* Who polls its state is woken. */
static void state_when_the_ack_comes_wakes_those_who_poll_it(void **state)
{
    struct harness *h = *state;
    struct harness_child commit = commit_and_await(h);
    struct harness_child waiter =
        harness_start(h, (const char *const[]){"python3", "-c",
                                               "import select, sys\n"
                                               "f = open('instances/f1/state')\n"
                                               "assert f.read() == 'waiting\\n'\n"
                                               "p = select.poll()\n"
                                               "p.register(f, select.POLLPRI)\n"
                                               "open(sys.argv[1], 'w').write('polls')\n"
                                               "assert p.poll(60000)\n"
                                               "f.seek(0)\n"
                                               "assert f.read() == 'running\\n'\n",
                                               harness_format(h, "%s/polls", h->directory), NULL});
    harness_await(h, harness_format(h, "%s/polls", h->directory), "polls");
    let_the_guest_ack(h);
    assert_int_equal(harness_finish(h, &commit).status, 0);
    assert_int_equal(harness_finish(h, &waiter).status, 0);
    fake_drop(h, "f1");
}

static void other_changes_while_it_waits_are_refused(void **state)
{
    static const char *const states[] = {"running", "paused", "standby"};
    struct harness *h = *state;
    struct harness_child commit = commit_and_await(h);
    for (size_t i = 0; i < array_length(states); i++)
        assert_refused(h, harness_write(fake_instance(h, "f1", "state"), states[i]), EBUSY);
    assert_refused(h, harness_write(fake_instance(h, "f1", "snapshot"), "s"), EBUSY);
    assert_refused(h, harness_write(fake_instance(h, "f1", "accept"), "1"), EBUSY);
    assert_refused(h, harness_write(fake_instance(h, "f1", "config"), "{}"), EBUSY);
    assert_refused(h, rmdir(fake_instance(h, "f1", "")) < 0 ? errno : 0, EBUSY);
    assert_refused(h, harness_write(fake_instance(h, "f1", "state"), "waiting"), EINVAL);
    assert_errno(harness_write(fake_instance(h, "f1", "forks/new/commit"), "f2"), EBUSY);
    assert_file_contains(fake_instance(h, "f1", "forks/new/error"), "that waits for its ack");
    assert_fails(mkdir(fake_instance(h, "f1", ""), 0755), EEXIST);
    harness_put(fake_instance(h, "f1", "console"), "0");
    assert_string_equal(harness_get(h, fake_instance(h, "f1", "console")), "");
    let_the_guest_ack(h);
    assert_int_equal(harness_finish(h, &commit).status, 0);
    fake_drop(h, "f1");
}

static void stopped_while_it_waits_fails_the_commit_and_destroys_it(void **state)
{
    struct harness *h = *state;
    struct harness_child commit = commit_and_await(h);
    auto_close int console = open(fake_instance(h, "f1", "console"), O_RDONLY | O_CLOEXEC);
    char byte;
    assert_works(console);
    harness_put(fake_instance(h, "f1", "state"), "stopped");
    assert_fails(access(fake_instance(h, "f1", ""), F_OK), ENOENT);
    assert_int_equal(harness_finish(h, &commit).status, ECANCELED);
    assert_fails(pread(console, &byte, 1, 0), ENODEV);
    assert_file_contains(draft(h, "new", "error"), "stopped was written to the fork's state");
    assert_string_equal(result(h, "new", "error.code"), "ECANCELED");
    assert_string_equal(result(h, "new", "error.phase"), "ack");
    assert_string_equal(result(h, "new", "mailboxes.0.acked"), "false");
    assert_no_instance(h);
    assert_works(mkdir(fake_instance(h, "f1", ""), 0755)); /* the id is free again */
}

static void stopped_while_one_that_is_kept_waits_leaves_it_stopped(void **state)
{
    struct harness *h = *state;
    harness_put(draft(h, "new", "options"), "{\"on_ack_failure\":\"keep\"}");
    struct harness_child commit = commit_and_await(h);
    harness_put(fake_instance(h, "f1", "state"), "stopped");
    assert_string_equal(harness_get(h, fake_instance(h, "f1", "state")), "stopped\n");
    assert_int_equal(harness_finish(h, &commit).status, ECANCELED);
    assert_file_contains(fake_instance(h, "f1", "console"), "waits\n");
    assert_string_equal(harness_get(h, draft(h, "f1", "status")), "failed\n");
    assert_string_equal(result(h, "f1", "error.code"), "ECANCELED");
    assert_works(rmdir(fake_instance(h, "f1", "")));
}

/* The other mailbox may wait for a day. */
static void stage_with_a_deadline(struct harness *h)
{
    stage(h, "m", ONE_DAY);
    stage(h, "a", "150");
}

static void deadline_while_it_waits_takes_it_away(void **state)
{
    struct harness *h = *state;
    struct harness_child reader = harness_start_shell(h, "bash", "exec cat events");
    harness_await_blocked(h, reader.pid);
    stage_with_a_deadline(h);
    struct harness_child commit = start_commit(h);
    assert_int_equal(harness_finish(h, &commit).status, ETIMEDOUT);
    assert_string_equal(result(h, "new", "error.mailbox"), "a");
    assert_no_instance(h);
    assert_int_equal(harness_unmount(h), 0);
    harness_put(harness_format(h, "%s/lines", h->directory), harness_finish(h, &reader).out);
    const char *told = "jq -r 'select(.event | test(\"instance|state|failed\")) | "
                       "[.event, .instance, .state // .error.code // \"-\"] | join(\" \")' "
                       "$T/lines";
    assert_string_equal(assert_shell("bash", told, 0).out, "instance-made f1 waiting\n"
                                                           "instance-removed f1 -\n"
                                                           "commit-failed f1 ETIMEDOUT\n");
}

static void deadline_of_one_that_is_kept_leaves_it_running(void **state)
{
    struct harness *h = *state;
    harness_put(draft(h, "new", "options"), "{\"on_ack_failure\":\"keep\"}");
    stage_with_a_deadline(h);
    struct harness_child commit = start_commit(h);
    assert_int_equal(harness_finish(h, &commit).status, ETIMEDOUT);
    assert_string_equal(harness_get(h, fake_instance(h, "f1", "state")), "running\n");
    assert_string_equal(harness_get(h, draft(h, "f1", "status")), "failed\n");
    fake_drop(h, "f1");
}

static void events_when_the_ack_comes_tell_of_waiting_and_running(void **state)
{
    struct harness *h = *state;
    struct harness_child reader = harness_start_shell(h, "bash", "exec cat events");
    harness_await_blocked(h, reader.pid);
    struct harness_child commit = commit_and_await(h);
    let_the_guest_ack(h);
    assert_int_equal(harness_finish(h, &commit).status, 0);
    fake_drop(h, "f1");
    assert_int_equal(harness_unmount(h), 0);
    harness_put(harness_format(h, "%s/lines", h->directory), harness_finish(h, &reader).out);
    assert_string_equal(
        assert_shell("bash",
                     "jq -r '[.event, .phase // .from // \"-\", .state // \"-\"] | join(\" \")' "
                     "$T/lines | sed -n '/resume/,/committed/p'",
                     0)
            .out,
        "commit-step resume -\n"
        "instance-made - waiting\n"
        "commit-step network -\n"
        "commit-step ack -\n"
        "commit-step publish -\n"
        "state waiting running\n"
        "committed - -\n");
}

static void vmm_that_ends_while_it_is_waited_for_takes_the_instance_along(void **state)
{
    struct harness *h = *state;
    struct harness_child commit = commit_and_await(h);
    const char *info = harness_get(h, fake_instance(h, "f1", "info"));
    assert_works(kill(atoi(harness_json(h, info, "pid")), SIGKILL));
    assert_int_equal(harness_finish(h, &commit).status, EIO);
    assert_file_contains(draft(h, "new", "error"), "the VM ended before its guest acked");
    assert_no_instance(h);
}

static void commit_whose_writer_is_interrupted_waits_on(void **state)
{
    struct harness *h = *state;
    struct harness_child commit = commit_and_await(h);
    assert_works(kill(commit.pid, SIGKILL));
    assert_int_equal(harness_finish(h, &commit).status, 128 + SIGKILL);
    assert_string_equal(harness_get(h, fake_instance(h, "f1", "state")), "waiting\n");
    let_the_guest_ack(h);
    harness_await(h, fake_instance(h, "f1", "state"), "running");
    harness_await(h, draft(h, "new", "result"), "committed");
    fake_drop(h, "f1");
}

/* As any commit under way. */
static void daemon_that_stops_takes_it_back(void **state)
{
    struct harness *h = *state;
    struct harness_child commit = commit_and_await(h);
    assert_int_equal(harness_unmount(h), 0);
    assert_int_equal(harness_finish(h, &commit).status, ESHUTDOWN);
    assert_shell("bash", "[ -z \"$(ls -A $S/instances)\" ]", 0);
}

static void daemon_that_is_killed_leaves_nothing_of_it_and_the_next_says_so(void **state)
{
    struct harness *h = *state;
    struct harness_child commit = commit_and_await(h);
    const char *info = harness_get(h, fake_instance(h, "f1", "info"));
    pid_t pid = atoi(harness_json(h, info, "pid"));
    h->tolerant = true;
    harness_kill(h);
    assert_int_equal(harness_finish(h, &commit).status, ECONNABORTED);
    fake_mount(h);
    assert_no_instance(h);
    harness_await_gone(pid);
    assert_file_contains(
        h->log,
        "the instance f1 waited for its ack when the previous daemon ended: it was destroyed");
    assert_works(mkdir(fake_instance(h, "f1", ""), 0755));
}

static void commit_that_waits_for_30_seconds_at_most_is_not_seen(void **state)
{
    struct harness *h = *state;
    stage(h, "m", "30000");
    struct harness_child reader = harness_start_shell(h, "bash", "exec cat events > $T/told");
    harness_await_blocked(h, reader.pid);
    struct harness_child commit = start_commit(h);
    harness_await(h, harness_format(h, "%s/told", h->directory), "\"phase\":\"ack\"");
    assert_string_equal(harness_get(h, draft(h, "new", "status")), "committing\n");
    assert_fails(access(fake_instance(h, "f1", ""), F_OK), ENOENT);
    let_the_guest_ack(h);
    assert_int_equal(harness_finish(h, &commit).status, 0);
    fake_drop(h, "f1");
    assert_works(kill(reader.pid, SIGTERM));
    harness_finish(h, &reader);
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    harness_enter();
    const struct CMUnitTest tests[] = {
        test(instance_is_seen_until_its_ack_comes_and_then_runs),
        test(state_when_the_ack_comes_wakes_those_who_poll_it),
        test(other_changes_while_it_waits_are_refused),
        test(stopped_while_it_waits_fails_the_commit_and_destroys_it),
        test(stopped_while_one_that_is_kept_waits_leaves_it_stopped),
        test(deadline_while_it_waits_takes_it_away),
        test(deadline_of_one_that_is_kept_leaves_it_running),
        test(events_when_the_ack_comes_tell_of_waiting_and_running),
        test(vmm_that_ends_while_it_is_waited_for_takes_the_instance_along),
        test(commit_whose_writer_is_interrupted_waits_on),
        test(daemon_that_stops_takes_it_back),
        test(daemon_that_is_killed_leaves_nothing_of_it_and_the_next_says_so),
        test(commit_that_waits_for_30_seconds_at_most_is_not_seen),
    };
    return cmocka_run_group_tests_name("long_acks", tests, NULL, NULL);
}
