/* SPDX-License-Identifier: MIT */
/* Commits with a real VMM, and what is there after them. */
#include "fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tiny_guest.h"
#include "util/cleanup.h"

enum { PAGE = 4096 };

static char *fork_path(struct harness *h, const char *fork, const char *file)
{
    return harness_path(h, "snapshots/base/forks/%s/%s", fork, file);
}

static char *result_of(struct harness *h, const char *fork, const char *member)
{
    return harness_json(h, harness_get(h, fork_path(h, fork, "result")), member);
}

static char *info_of(struct harness *h, const char *instance, const char *member)
{
    return harness_json(h, harness_get(h, harness_path(h, "instances/%s/info", instance)), member);
}

static void commit_when_nothing_is_staged_makes_a_plain_fork(void **state)
{
    struct harness *h = *state;
    harness_put(fork_path(h, "new", "commit"), "f1\n");
    assert_string_equal(harness_get(h, fork_path(h, "f1", "status")), "committed\n");
    assert_string_equal(result_of(h, "f1", "status"), "committed");
    assert_string_equal(result_of(h, "f1", "source"), "snapshots/base");
    assert_string_equal(result_of(h, "f1", "instance"), "f1");
    assert_string_equal(result_of(h, "f1", "error"), "null");
    assert_string_equal(result_of(h, "f1", "warm"), "false");
    assert_string_equal(result_of(h, "f1", "network"), "null");
    assert_string_equal(result_of(h, "f1", "mailboxes.0"), "(none)");
    assert_true(atof(result_of(h, "f1", "timings_ms.load")) > 0);
    assert_true(atof(result_of(h, "f1", "timings_ms.total")) >=
                atof(result_of(h, "f1", "timings_ms.load")));
    assert_string_equal(harness_get(h, fork_path(h, "f1", "error")), "");
    assert_string_equal(harness_get(h, fork_path(h, "new", "status")), "empty\n");
    assert_string_equal(result_of(h, "new", "instance"), "f1");
    assert_string_equal(harness_get(h, harness_path(h, "instances/f1/state")), "running\n");
    assert_string_equal(info_of(h, "f1", "source.snapshot"), "base");
    assert_string_equal(info_of(h, "f1", "memory_bytes"), "8388608");
    assert_int_equal(kill(atoi(info_of(h, "f1", "pid")), 0), 0);
}

static void links_of_a_fork_lead_to_each_other(void **state)
{
    struct harness *h = *state;
    struct stat instance, fork, st;
    harness_put(fork_path(h, "new", "commit"), "f1\n");
    assert_works(stat(harness_path(h, "instances/f1"), &instance));
    assert_works(stat(fork_path(h, "f1", "."), &fork));
    assert_works(stat(fork_path(h, "f1", "instance"), &st));
    assert_int_equal(st.st_ino, instance.st_ino);
    assert_works(stat(harness_path(h, "instances/f1/fork"), &st));
    assert_int_equal(st.st_ino, fork.st_ino);
    assert_works(lstat(fork_path(h, "f1", "instance"), &st));
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(st.st_size, strlen("../../../../instances/f1"));
    assert_fails(lstat(fork_path(h, "new", "instance"), &st), ENOENT);
    assert_shell("bash", "cat instances/f1/fork/result snapshots/base/forks/f1/instance/state", 0);
}

static void record_of_a_fork_is_read_only_and_goes_with_its_instance(void **state)
{
    struct harness *h = *state;
    harness_put(fork_path(h, "new", "mailboxes/m"), "{}");
    harness_put(fork_path(h, "new", "commit"), "f1\n");
    assert_errno(harness_write(fork_path(h, "f1", "mailboxes/m"), "{}"), EPERM);
    assert_file_contains(fork_path(h, "f1", "error"), "is the record of a fork and cannot be");
    assert_errno(harness_write(fork_path(h, "f1", "mailboxes/a"), "{}"), EPERM);
    assert_errno(harness_write(fork_path(h, "f1", "options"), "{}"), EPERM);
    assert_errno(harness_write(fork_path(h, "f1", "network"), "{}"), EPERM);
    assert_fails(truncate(fork_path(h, "f1", "mailboxes/m"), 0), EPERM);
    assert_fails(unlink(fork_path(h, "f1", "mailboxes/m")), EPERM);
    assert_fails(rename(fork_path(h, "f1", "mailboxes/m"), fork_path(h, "f1", "mailboxes/a")),
                 EPERM);
    assert_fails(rmdir(fork_path(h, "f1", "")), EBUSY);
    assert_fails(mkdir(fork_path(h, "f1", ""), 0755), EEXIST);
    assert_errno(harness_write(fork_path(h, "new", "commit"), "f1"), EEXIST);
    assert_fails(rmdir(harness_path(h, "instances/f1")), EBUSY);
    assert_file_contains(harness_path(h, "instances/f1/error"), "stopped");
    assert_fails(rmdir(harness_path(h, "snapshots/base")), EBUSY);
    harness_put(harness_path(h, "instances/f1/state"), "stopped");
    assert_works(rmdir(harness_path(h, "instances/f1")));
    assert_fails(access(fork_path(h, "f1", ""), F_OK), ENOENT);
    assert_no_instance(h);
    assert_works(rmdir(harness_path(h, "snapshots/base")));
}

static void payload_when_delivered_is_the_text_byte_for_byte(void **state)
{
    struct harness *h = *state;
    static const char payload[] =
        "{\"n\" :12345678901234567890,\"m\":1e400 ,\n \"u\":\"\xc3\xa4\\u00e4"
        "\\/\",\"n\":-0.0}";
    harness_put(fork_path(h, "new", "mailboxes/m"), harness_format(h, " \n%s\n\n", payload));
    harness_put(fork_path(h, "new", "mailboxes/b"),
                harness_format(h, "{\"token\":\"token-b\", \"payload\" : %s\n}", payload));
    harness_put(fork_path(h, "new", "commit"), "f1\n");
    const char *console = harness_path(h, "instances/f1/console");
    harness_await(h, console, harness_format(h, "m %s\n", payload));
    harness_await(h, console, harness_format(h, "b %s\n", payload));
    assert_string_equal(result_of(h, "f1", "mailboxes.0.name"), "m");
    assert_string_equal(result_of(h, "f1", "mailboxes.0.payload_bytes"),
                        harness_format(h, "%zu", strlen(payload)));
    assert_string_equal(result_of(h, "f1", "mailboxes.0.copies"), "1");
    assert_string_equal(result_of(h, "f1", "mailboxes.0.acked"), "null");
    assert_string_equal(result_of(h, "f1", "mailboxes.0.offset"),
                        harness_json(h,
                                     harness_get(h, harness_path(h, "snapshots/base/mailboxes/m")),
                                     "markers.0.offset"));
    /* The payload is forgotten; its file holds the mailbox's entry of the result. */
    const char *entry = harness_get(h, fork_path(h, "f1", "mailboxes/m"));
    assert_string_equal(harness_json(h, entry, "name"), "m");
    assert_null(strstr(entry, "1234567890"));
    assert_shell("bash", "! grep -r 1234567890 $S/instances/f1/*.json $S/instances/f1/vmm.log", 0);
}

static void payload_of_3832_bytes_is_delivered(void **state)
{
    struct harness *h = *state;
    static char filler[3825];
    memset(filler, 'x', sizeof filler - 1);
    harness_put(fork_path(h, "new", "mailboxes/m"), harness_format(h, "{\"p\":\"%s\"}", filler));
    harness_put(fork_path(h, "new", "commit"), "f1\n");
    harness_await(h, harness_path(h, "instances/f1/console"),
                  harness_format(h, "m {\"p\":\"%s\"}\n", filler));
    assert_string_equal(result_of(h, "f1", "mailboxes.0.payload_bytes"), "3832");
}

/* What an editor leaves beside 16 mailboxes is no mailbox. */
static void scratch_files_beside_16_mailboxes_are_not_delivered(void **state)
{
    enum { COUNT = 16 };
    struct harness *h = *state;
    const char *names[COUNT + 1] = {NULL};
    static const char *const scratch[] = {".box-1.swp", "box-1~", "4913"};
    for (int i = 0; i < COUNT; i++)
        names[i] = harness_format(h, "box-%d", i);
    tiny_guest_snapshot(h, "many", names);
    const char *draft = harness_path(h, "snapshots/many/forks/new");
    for (size_t i = 0; i < array_length(scratch); i++)
        harness_put(harness_format(h, "%s/mailboxes/%s", draft, scratch[i]), "{\"scratch\":1}");
    for (int i = 0; i < COUNT; i++)
        harness_put(harness_format(h, "%s/mailboxes/box-%d", draft, i), "{\"n\":1}");
    harness_put(harness_format(h, "%s/commit", draft), "f1");
    const char *console = harness_path(h, "instances/f1/console");
    for (int i = 0; i < COUNT; i++)
        harness_await(h, console, harness_format(h, "box-%d {\"n\":1}\n", i));
    assert_null(strstr(harness_get(h, console), "scratch"));
    assert_string_equal(
        assert_shell("bash", "ls -A snapshots/many/forks/new/mailboxes | wc -l", 0).out, "0\n");
    assert_string_equal(
        assert_shell("bash", "cd snapshots/many/forks/f1/mailboxes && ls -A | grep -c ^box-", 0)
            .out,
        "16\n");
    assert_string_equal(
        assert_shell("bash", "ls -A snapshots/many/forks/f1/mailboxes | wc -l", 0).out, "16\n");
}

static void mailboxes_with_the_names_of_editors_files_are_delivered(void **state)
{
    struct harness *h = *state;
    tiny_guest_snapshot(h, "odd", (const char *const[]){"4913", ".x.swp", "n", NULL});
    const char *draft = harness_path(h, "snapshots/odd/forks/new");
    assert_string_equal(
        assert_shell("bash", "LC_ALL=C ls -A snapshots/odd/mailboxes | tr '\\n' ' '", 0).out,
        ".x.swp 4913 n ");
    assert_errno(harness_write(harness_format(h, "%s/mailboxes/4913", draft), "not JSON\n"),
                 EINVAL);
    harness_put(harness_format(h, "%s/mailboxes/4913", draft), "{\"n\":1}");
    harness_put(harness_format(h, "%s/mailboxes/m~", draft), "{\"n\":2}");
    assert_works(rename(harness_format(h, "%s/mailboxes/m~", draft),
                        harness_format(h, "%s/mailboxes/.x.swp", draft)));
    harness_put(harness_format(h, "%s/mailboxes/.n.swp", draft), "not JSON\n");
    harness_put(harness_format(h, "%s/commit", draft), "f1");
    const char *console = harness_path(h, "instances/f1/console");
    harness_await(h, console, "4913 {\"n\":1}\n");
    harness_await(h, console, ".x.swp {\"n\":2}\n");
    assert_string_equal(
        assert_shell("bash", "LC_ALL=C ls -A snapshots/odd/forks/f1/mailboxes | tr '\\n' ' '", 0)
            .out,
        ".x.swp 4913 ");
}

/* The same in a draft of its own, which becomes the record. */
static void scratch_files_of_a_draft_are_gone_with_its_commit(void **state)
{
    struct harness *h = *state;
    static const char *const scratch[] = {".m.swp", "m~", "4913"};
    assert_works(mkdir(fork_path(h, "d", ""), 0755));
    for (size_t i = 0; i < array_length(scratch); i++)
        harness_put(harness_format(h, "%s%s", fork_path(h, "d", "mailboxes/"), scratch[i]), "x");
    harness_put(fork_path(h, "d", "mailboxes/m"), "{\"n\":1}");
    harness_put(fork_path(h, "d", "commit"), "1");
    harness_await(h, harness_path(h, "instances/d/console"), "m {\"n\":1}\n");
    assert_string_equal(assert_shell("bash", "ls -A snapshots/base/forks/d/mailboxes", 0).out,
                        "m\n");
    assert_string_equal(result_of(h, "d", "mailboxes.1"), "(none)");
}

static void mailbox_with_two_copies_gets_its_payload_in_both(void **state)
{
    struct harness *h = *state;
    tiny_guest_snapshot(h, "twins", (const char *const[]){"m", "twin", "twin", NULL});
    const char *draft = harness_path(h, "snapshots/twins/forks/new");
    harness_put(harness_format(h, "%s/mailboxes/twin", draft), "{\"n\":1}");
    harness_put(harness_format(h, "%s/commit", draft), "f1");
    harness_await(h, harness_path(h, "instances/f1/console"), "twin {\"n\":1}\ntwin {\"n\":1}\n");
    const char *result = harness_get(h, harness_format(h, "%s/result", draft));
    assert_string_equal(harness_json(h, result, "mailboxes.0.copies"), "2");
    assert_string_equal(harness_json(h, result, "mailboxes.0.payload_bytes"), "7");
}

/* {"p":"xxx…"} of that many bytes. */
static char *payload_of(struct harness *h, size_t size)
{
    char *filler = harness_alloc(h, size);
    memset(filler, 'x', size - 8);
    return harness_format(h, "{\"p\":\"%s\"}", filler);
}

static void mailbox_that_begins_within_a_page_takes_what_fits_there(void **state)
{
    enum { ROOM = PAGE - 1000 - 264 };
    struct harness *h = *state;
    tiny_guest_snapshot(h, "late", (const char *const[]){"late@1000", "m", NULL});
    const char *draft = harness_path(h, "snapshots/late/forks/new");
    const char *mailbox = harness_get(h, harness_path(h, "snapshots/late/mailboxes/late"));
    assert_string_equal(harness_json(h, mailbox, "markers.0.page_aligned"), "false");
    assert_string_equal(harness_json(h, mailbox, "payload_capacity"),
                        harness_format(h, "%d", ROOM));
    harness_put(harness_format(h, "%s/mailboxes/late", draft), payload_of(h, ROOM + 1));
    assert_errno(harness_write(harness_format(h, "%s/commit", draft), "f1"), EFBIG);
    assert_file_contains(harness_format(h, "%s/error", draft), harness_format(h, "%d", ROOM));
    assert_no_instance(h);
    harness_put(harness_format(h, "%s/mailboxes/late", draft), payload_of(h, ROOM));
    harness_put(harness_format(h, "%s/mailboxes/m", draft), "{\"n\":1}");
    harness_put(harness_format(h, "%s/commit", draft), "f1");
    harness_await(h, harness_path(h, "instances/f1/console"),
                  harness_format(h, "late %s\nm {\"n\":1}\n", payload_of(h, ROOM)));
}

static void snapshot_when_forked_twice_keeps_its_bytes(void **state)
{
    struct harness *h = *state;
    const char *sum = "sha256sum $S/snapshots/base/{memory,state,snapshot.json}";
    const char *before = assert_shell("bash", sum, 0).out;
    for (int i = 0; i < 2; i++) {
        const char *id = harness_format(h, "f%d", i);
        harness_put(fork_path(h, "new", "mailboxes/m"), harness_format(h, "{\"i\":%d}", i));
        harness_put(fork_path(h, "new", "commit"), id);
        harness_await(h, harness_path(h, "instances/%s/console", id),
                      harness_format(h, "m {\"i\":%d}\n", i));
        harness_put(harness_path(h, "instances/%s/state", id), "stopped");
    }
    assert_string_equal(assert_shell("bash", sum, 0).out, before);
}

static void commit_of_1_or_nothing_in_new_makes_an_id(void **state)
{
    struct harness *h = *state;
    harness_put(fork_path(h, "new", "commit"), "1");
    const char *first = result_of(h, "new", "instance");
    harness_put(fork_path(h, "new", "commit"), "\n");
    const char *second = result_of(h, "new", "instance");
    assert_string_not_equal(first, second);
    assert_works(access(harness_path(h, "instances/%s/info", first), F_OK));
    assert_works(access(fork_path(h, second, "instance/info"), F_OK));
}

static void commit_of_a_draft_becomes_its_record(void **state)
{
    struct harness *h = *state;
    assert_works(mkdir(fork_path(h, "d", ""), 0755));
    harness_put(fork_path(h, "d", "options"), "{\"on_ack_failure\":\"keep\"}\n");
    harness_put(fork_path(h, "d", "mailboxes/m"), "{\"n\":1}");
    harness_put(fork_path(h, "d", "commit"), "d");
    harness_await(h, harness_path(h, "instances/d/console"), "m {\"n\":1}\n");
    assert_string_equal(harness_get(h, fork_path(h, "d", "status")), "committed\n");
    assert_string_equal(harness_get(h, fork_path(h, "d", "options")),
                        "{\"on_ack_failure\":\"keep\"}\n");
    harness_put(fork_path(h, "d", "commit"), "1"); /* at once, and nothing is forked */
    harness_put(fork_path(h, "d", "commit"), "d");
    assert_string_equal(assert_shell("bash", "ls instances", 0).out, "d\n");
}

static void commit_of_a_draft_that_failed_can_be_mended_and_repeated(void **state)
{
    struct harness *h = *state;
    assert_works(mkdir(fork_path(h, "f1", ""), 0755));
    harness_put(fork_path(h, "f1", "mailboxes/m"), "{\"n\":1}");
    harness_put(fork_path(h, "f1", "mailboxes/none"), "{\"n\":2}");
    assert_errno(harness_write(fork_path(h, "f1", "commit"), "f1"), ENOENT);
    assert_no_instance(h);
    assert_works(unlink(fork_path(h, "f1", "mailboxes/none")));
    harness_put(fork_path(h, "f1", "commit"), "f1");
    harness_await(h, harness_path(h, "instances/f1/console"), "m {\"n\":1}\n");
}

/* Python writes the same again when it closes: not even then is it forked without its payload. */
static void commit_of_new_that_failed_leaves_nothing_for_the_next(void **state)
{
    struct harness *h = *state;
    harness_put(fork_path(h, "new", "mailboxes/m"), "{\"n\":1}");
    harness_put(fork_path(h, "new", "mailboxes/none"), "{\"n\":2}");
    assert_shell("python3",
                 "import os\n"
                 "f = open('snapshots/base/forks/new/commit', 'w')\n"
                 "f.write('f1')\n"
                 "for go in (f.flush, f.close):\n"
                 "    try:\n"
                 "        go()\n"
                 "        os._exit(1)\n"
                 "    except FileNotFoundError:\n"
                 "        pass\n"
                 "os._exit(0)\n",
                 0);
    assert_no_instance(h);
    assert_string_equal(harness_get(h, fork_path(h, "new", "status")), "failed\n");
    assert_file_contains(fork_path(h, "new", "error"), "\"none\"");
    assert_file_contains(fork_path(h, "new", "error"), "forks/new is empty again");
    assert_string_equal(assert_shell("bash", "ls snapshots/base/forks/new/mailboxes", 0).out, "");
    harness_put(fork_path(h, "new", "commit"), "f2");
    assert_string_equal(result_of(h, "f2", "mailboxes"), "[]");
}

static void record_when_new_was_given_options_keeps_them(void **state)
{
    struct harness *h = *state;
    harness_put(fork_path(h, "new", "options"), "{\"wait_for_network\":false}\n");
    harness_put(fork_path(h, "new", "commit"), "f1");
    assert_string_equal(harness_get(h, fork_path(h, "f1", "options")),
                        "{\"wait_for_network\":false}\n");
    assert_file_contains(fork_path(h, "new", "options"), "\"wait_for_network\": true");
}

static void fork_when_stopped_cannot_boot_and_keeps_its_record(void **state)
{
    struct harness *h = *state;
    harness_put(fork_path(h, "new", "commit"), "f1");
    pid_t pid = atoi(info_of(h, "f1", "pid"));
    harness_put(harness_path(h, "instances/f1/state"), "stopped");
    assert_fails(kill(pid, 0), ESRCH);
    assert_string_equal(info_of(h, "f1", "pid"), "null");
    assert_errno(harness_write(harness_path(h, "instances/f1/state"), "running"), EOPNOTSUPP);
    assert_file_contains(harness_path(h, "instances/f1/error"), "kernel");
    assert_string_equal(harness_get(h, harness_path(h, "instances/f1/state")), "stopped\n");
    assert_string_equal(harness_get(h, fork_path(h, "f1", "status")), "committed\n");
    assert_works(rmdir(harness_path(h, "instances/f1")));
    harness_put(fork_path(h, "new", "commit"), "f1"); /* the id is free again */
}

/* It is a VM like any other then, and has nothing of the snapshot's any more. */
static void fork_when_stopped_and_given_a_kernel_boots(void **state)
{
    struct harness *h = *state;
    harness_put(fork_path(h, "new", "mailboxes/m"), "{\"n\":1}");
    harness_put(fork_path(h, "new", "commit"), "f1");
    const char *console = harness_path(h, "instances/f1/console");
    harness_await(h, console, "m {\"n\":1}\n");
    harness_put(harness_path(h, "instances/f1/state"), "stopped");
    harness_put(harness_path(h, "instances/f1/config"),
                tiny_guest_config(h, (const char *const[]){"m", NULL}));
    harness_put(harness_path(h, "instances/f1/state"), "running");
    harness_await(h, console, "m {\"n\":1}\nready\n");
    assert_string_equal(info_of(h, "f1", "state"), "running");
    assert_string_equal(info_of(h, "f1", "source.snapshot"), "base");
    assert_string_equal(harness_get(h, harness_path(h, "instances/f1/error")), "");
    assert_string_equal(harness_get(h, fork_path(h, "f1", "status")), "committed\n");
    assert_works(rmdir(harness_path(h, "snapshots/base")));
    harness_put(harness_path(h, "instances/f1/state"), "stopped");
    assert_works(rmdir(harness_path(h, "instances/f1")));
}

static void fork_when_its_vmm_is_killed_is_stopped(void **state)
{
    struct harness *h = *state;
    harness_put(fork_path(h, "new", "commit"), "f1");
    assert_works(kill(atoi(info_of(h, "f1", "pid")), SIGKILL));
    harness_await(h, harness_path(h, "instances/f1/state"), "stopped");
    harness_await(h, harness_path(h, "instances/f1/info"), "SIGKILL");
    assert_string_equal(info_of(h, "f1", "exit.signal"), "SIGKILL");
    assert_string_equal(info_of(h, "f1", "pid"), "null");
    assert_works(rmdir(harness_path(h, "instances/f1")));
    assert_works(rmdir(harness_path(h, "snapshots/base")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        guest_test(commit_when_nothing_is_staged_makes_a_plain_fork),
        guest_test(links_of_a_fork_lead_to_each_other),
        guest_test(record_of_a_fork_is_read_only_and_goes_with_its_instance),
        guest_test(payload_when_delivered_is_the_text_byte_for_byte),
        guest_test(payload_of_3832_bytes_is_delivered),
        guest_test(scratch_files_beside_16_mailboxes_are_not_delivered),
        guest_test(mailboxes_with_the_names_of_editors_files_are_delivered),
        guest_test(scratch_files_of_a_draft_are_gone_with_its_commit),
        guest_test(mailbox_with_two_copies_gets_its_payload_in_both),
        guest_test(mailbox_that_begins_within_a_page_takes_what_fits_there),
        guest_test(snapshot_when_forked_twice_keeps_its_bytes),
        guest_test(commit_of_1_or_nothing_in_new_makes_an_id),
        guest_test(commit_of_a_draft_becomes_its_record),
        guest_test(commit_of_a_draft_that_failed_can_be_mended_and_repeated),
        guest_test(commit_of_new_that_failed_leaves_nothing_for_the_next),
        guest_test(record_when_new_was_given_options_keeps_them),
        guest_test(fork_when_stopped_cannot_boot_and_keeps_its_record),
        guest_test(fork_when_stopped_and_given_a_kernel_boots),
        guest_test(fork_when_its_vmm_is_killed_is_stopped),
    };
    harness_enter();
    if (!tiny_guest_possible())
        return HARNESS_SKIPPED;
    return cmocka_run_group_tests_name("commit", tests, NULL, NULL);
}
