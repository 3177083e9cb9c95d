/* SPDX-License-Identifier: MIT */
/* Network identities: staging, delivery before the mailboxes', acks, degrading; keyed acks. */
#include "fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tiny_guest.h"
#include "util/cleanup.h"

#define IDENTITY                                                                                   \
    "{\"interface_name\":\"eth0\",\"mac\":\"02:00:00:00:00:0a\",\"ipv4\":\"10.0.0.7\","            \
    "\"prefix\":24,\"gateway\":\"10.0.0.1\"}"
/* Acked by datagram, which the test sends. */
#define UDP_IDENTITY                                                                               \
    "{\"interface_name\":\"eth0\",\"mac\":\"02:00:00:00:00:0a\",\"ipv4\":\"10.0.0.7\","            \
    "\"prefix\":24,\"gateway\":\"10.0.0.1\",\"ack\":\"udp\"}"
#define APPLIED "stage=applied mac=02:00:00:00:00:0A ip=10.0.0.7"

static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    harness_mount(*state, NULL);
    tiny_guest_snapshot(*state, "base", (const char *const[]){"m", TINY_GUEST_NETWORK, NULL});
    return 0;
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

static char *in(struct harness *h, const char *draft, const char *file)
{
    return harness_path(h, "snapshots/base/forks/%s/%s", draft, file);
}

static const char *result_of(struct harness *h, const char *draft, const char *member)
{
    return harness_json(h, harness_get(h, in(h, draft, "result")), member);
}

static void make_draft(struct harness *h, const char *draft)
{
    assert_works(mkdir(harness_path(h, "snapshots/base/forks/%s", draft), 0755));
}

static void snapshot_without_the_frame_has_no_network(void **state)
{
    struct harness *h = *state;
    assert_fails(access(harness_path(h, "snapshots/base/network"), F_OK), ENOENT);
    assert_errno(harness_write(in(h, "new", "network"), IDENTITY), 0);
    assert_errno(harness_write(in(h, "new", "commit"), "f"), ENOENT);
    assert_string_equal(result_of(h, "new", "error.phase"), "locate");
    assert_file_contains(in(h, "new", "error"), "resume-network mailbox");
    assert_no_instance(h);
}

static void file_when_created_and_removed_is_staged_and_not(void **state)
{
    struct harness *h = *state;
    struct stat st;
    assert_fails(access(in(h, "new", "network"), F_OK), ENOENT);
    harness_put(in(h, "new", "network"), IDENTITY "\n");
    assert_string_equal(harness_get(h, in(h, "new", "network")), IDENTITY "\n");
    assert_works(stat(in(h, "new", "network"), &st));
    assert_int_equal(st.st_mode, S_IFREG | 0600);
    assert_string_equal(harness_get(h, in(h, "new", "status")), "staged\n");
    assert_fails(rename(in(h, "new", "network"), in(h, "new", "mailboxes/m")), EPERM);
    assert_works(unlink(in(h, "new", "network")));
    assert_fails(unlink(in(h, "new", "network")), ENOENT);
    assert_string_equal(harness_get(h, in(h, "new", "status")), "empty\n");
    assert_fails(unlink(in(h, "new", "options")), EPERM);
}

static void text_when_wrong_or_unfinished_keeps_the_draft_from_committing(void **state)
{
    struct harness *h = *state;
    assert_works(mkdir(in(h, "d", ""), 0755));
    static const struct {
        const char *text, *why;
        int write, close;
    } texts[] = {
        {"{}", "\"interface_name\"", EINVAL, EINVAL},
        {"{\"interface_name\":\"eth0\"", "unfinished", 0, EINVAL},
        {"{\"mac\":\"eth0\",}", "line 1, column 15", EINVAL, EINVAL},
        {"{\"interface_name\":\"eth0\",\"mac\":\"01:00:00:00:00:01\",\"ipv4\":\"10.0.0.7\","
         "\"prefix\":24}",
         "\"mac\"", EINVAL, EINVAL},
        {"{\"interface_name\":\"eth0\",\"mac\":\"02:00:00:00:00:01\",\"ipv4\":\"10.0.0.7\","
         "\"prefix\":24,\"token\":\"1234567890123456789012345678901\"}",
         "1 to 30 bytes", EINVAL, EINVAL},
    };
    for (size_t i = 0; i < array_length(texts); i++) {
        struct harness_steps steps =
            harness_write_steps(in(h, "d", "network"), O_WRONLY | O_CREAT | O_TRUNC, texts[i].text,
                                strlen(texts[i].text));
        assert_errno(steps.write, texts[i].write);
        assert_errno(steps.close, texts[i].close);
        assert_file_contains(in(h, "d", "error"), "network: ");
        assert_file_contains(in(h, "d", "error"), texts[i].why);
        assert_errno(harness_write(in(h, "d", "commit"), "d"), EINVAL);
        assert_file_contains(in(h, "d", "error"), "or remove it");
    }
    assert_works(unlink(in(h, "d", "network")));
    assert_string_equal(harness_get(h, in(h, "d", "error")), "");
    assert_no_instance(h);
}

static void snapshot_with_the_frame_shows_it(void **state)
{
    struct harness *h = *state;
    char *text = harness_get(h, harness_path(h, "snapshots/base/network"));
    struct stat st;
    assert_string_equal(harness_json(h, text, "name"), "(none)");
    assert_string_equal(harness_json(h, text, "payload_capacity"), "4024");
    assert_string_equal(harness_json(h, text, "markers.0.token"), "token-");
    assert_string_equal(harness_json(h, text, "markers.0.state"), "armed");
    assert_works(stat(harness_path(h, "snapshots/base/network"), &st));
    assert_int_equal(st.st_mode, S_IFREG | 0400);
    assert_string_equal(assert_shell("bash", "ls snapshots/base snapshots/base/mailboxes", 0).out,
                        "snapshots/base:\naccept\nforks\ninfo\nmailboxes\nnetwork\nwarm\n\n"
                        "snapshots/base/mailboxes:\nm\n");
}

/* Both at the same port; the network's ack is waited for first. */
static void network_and_mailbox_when_acked_are_both_in_the_result(void **state)
{
    struct harness *h = *state;
    make_draft(h, "f");
    harness_put(in(h, "f", "network"), UDP_IDENTITY);
    tiny_guest_stage(h, "f", "m", "{\"a\":1}", 30000);
    struct harness_child commit = tiny_guest_commit(h, "f", "1");
    int port = tiny_guest_port(h, TINY_GUEST_NETWORK);
    assert_int_equal(tiny_guest_port(h, "m"), port);
    tiny_guest_send(port, "stage=applied mailbox=m");
    tiny_guest_send(port, APPLIED);
    assert_int_equal(harness_finish(h, &commit).status, 0);
    assert_string_equal(result_of(h, "f", "network.status"), "applied");
    assert_string_equal(result_of(h, "f", "network.ack_text"), APPLIED);
    assert_string_equal(result_of(h, "f", "network.copies"), "1");
    assert_string_equal(result_of(h, "f", "mailboxes.0.acked"), "true");
    assert_string_equal(harness_json(h, harness_get(h, in(h, "f", "network")), "status"),
                        "applied");
    assert_errno(harness_write(in(h, "f", "network"), IDENTITY), EPERM);
    assert_fails(unlink(in(h, "f", "network")), EPERM);
    char *console = harness_get(h, harness_path(h, "instances/f/console"));
    assert_contains(console,
                    TINY_GUEST_NETWORK " {\"interface_name\":\"eth0\","
                                       "\"mac\":\"02:00:00:00:00:0a\",\"ipv4\":\"10.0.0.7\","
                                       "\"prefix\":24,\"gateway\":\"10.0.0.1\",\"ack_port\":");
    assert_null(strstr(console, "token"));
}

static void network_when_refused_degrades_and_the_fork_goes_on(void **state)
{
    struct harness *h = *state;
    make_draft(h, "f");
    harness_put(in(h, "f", "network"), UDP_IDENTITY);
    struct harness_child commit = tiny_guest_commit(h, "f", "1");
    tiny_guest_send(tiny_guest_port(h, TINY_GUEST_NETWORK),
                    "stage=failed mac=02:00:00:00:00:0a ip=10.0.0.7 reason=no_such_interface");
    assert_int_equal(harness_finish(h, &commit).status, 0);
    assert_string_equal(harness_get(h, in(h, "f", "status")), "committed\n");
    assert_string_equal(result_of(h, "f", "network.status"), "degraded");
    assert_contains(result_of(h, "f", "network.message"), "no_such_interface");
    assert_string_equal(harness_get(h, harness_path(h, "instances/f/state")), "running\n");
}

static void mailbox_when_refused_is_not_kept_waiting_by_the_network(void **state)
{
    struct harness *h = *state;
    make_draft(h, "f");
    harness_put(in(h, "f", "network"), UDP_IDENTITY);
    tiny_guest_stage(h, "f", "m", "{}", 30000);
    struct harness_child commit = tiny_guest_commit(h, "f", "1");
    tiny_guest_send(tiny_guest_port(h, "m"), "stage=failed mailbox=m reason=disk-full");
    assert_int_equal(harness_finish(h, &commit).status, 1);
    assert_string_equal(result_of(h, "f", "error.code"), "EREMOTEIO");
    assert_string_equal(result_of(h, "f", "error.phase"), "ack");
    assert_contains(result_of(h, "f", "network.message"), "the guest refused a mailbox");
    assert_no_instance(h);
}

static void mailbox_when_nobody_acks_in_time_is_not_kept_waiting_by_the_network(void **state)
{
    struct harness *h = *state;
    make_draft(h, "f");
    harness_put(in(h, "f", "network"), UDP_IDENTITY);
    tiny_guest_stage(h, "f", "m", "{}", 1);
    assert_errno(harness_write(in(h, "f", "commit"), "1"), ETIMEDOUT);
    assert_string_equal(result_of(h, "f", "error.phase"), "ack");
    assert_string_equal(result_of(h, "f", "error.mailbox"), "m");
    assert_contains(result_of(h, "f", "network.message"), "a mailbox was not acked in time");
    assert_no_instance(h);
}

/* The line with that word, of those that are there. Returns owned. */
static char *line_of(int events, const char *word)
{
    char *line = NULL;
    size_t room = 0;
    auto_fclose FILE *file = fdopen(dup(events), "re");
    assert_non_null(file);
    while (getline(&line, &room, file) > 0)
        if (strstr(line, word))
            return line;
    fail_msg("no such line: %s", word);
    return NULL;
}

static void network_when_nobody_acks_degrades_after_a_while(void **state)
{
    struct harness *h = *state;
    assert_int_equal(harness_unmount(h), 0);
    setenv("HYPEFS_TEST_TIMING", "network:500", 1);
    harness_mount(h, NULL);
    unsetenv("HYPEFS_TEST_TIMING");
    harness_put(in(h, "new", "network"), UDP_IDENTITY);
    auto_close int events = open(harness_path(h, "events"), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    assert_true(events >= 0);
    assert_errno(harness_write(in(h, "new", "commit"), "f"), 0);
    assert_string_equal(result_of(h, "f", "network.status"), "degraded");
    assert_contains(result_of(h, "f", "network.message"), "no ack for the network within 500 ms");
    char *line = line_of(events, "\"event\":\"committed\"");
    assert_string_equal(harness_json(h, line, "network.status"), "degraded");
    assert_contains(harness_json(h, line, "network.message"), "no ack for the network");
    free(line);
    /* `new` is empty again. */
    assert_fails(access(in(h, "new", "network"), F_OK), ENOENT);
    assert_string_equal(harness_get(h, in(h, "new", "status")), "empty\n");
}

/* The key that the guest got. */
static char *key_in(struct harness *h)
{
    static const char member[] = "\"ack_key\":\"";
    char *text = assert_shell("bash", "cat $S/instances/.new-*/console.log", 0).out;
    char *at = strstr(text, member);
    assert_non_null(at);
    return harness_format(h, "%.32s", at + strlen(member));
}

/* Nothing is sent: it is read off the guest's memory, where nobody else can write it. */
static void network_when_taken_is_acked_by_memory(void **state)
{
    struct harness *h = *state;
    harness_put(in(h, "new", "network"), IDENTITY);
    assert_errno(harness_write(in(h, "new", "commit"), "f"), 0);
    assert_string_equal(result_of(h, "f", "network.status"), "applied");
    assert_string_equal(result_of(h, "f", "network.ack"), "memory");
    assert_string_equal(result_of(h, "f", "network.consumed"), "true");
    assert_file_contains(harness_path(h, "instances/f/console"), "\"gateway\":\"10.0.0.1\"}\n");
}

/* Anyone who reaches the port knows the addresses, and not the key. */
static void network_when_its_ack_is_keyed_is_not_forged(void **state)
{
    struct harness *h = *state;
    make_draft(h, "f");
    harness_put(in(h, "f", "network"), "{\"interface_name\":\"eth0\",\"mac\":\"02:00:00:00:00:0a\","
                                       "\"ipv4\":\"10.0.0.7\",\"prefix\":24,\"ack\":\"keyed\"}");
    struct harness_child commit = tiny_guest_commit(h, "f", "1");
    int port = tiny_guest_port(h, TINY_GUEST_NETWORK);
    tiny_guest_send(port, APPLIED " n=forged");
    tiny_guest_send(port, harness_format(h, APPLIED " n=good key=%s", key_in(h)));
    assert_int_equal(harness_finish(h, &commit).status, 0);
    assert_string_equal(result_of(h, "f", "network.status"), "applied");
    assert_string_equal(result_of(h, "f", "network.ack_text"), APPLIED " n=good");
}

static void both_ways_can_be_waited_for_at_once(void **state)
{
    struct harness *h = *state;
    make_draft(h, "f");
    harness_put(in(h, "f", "options"), "{\"identity\":true}");
    harness_put(in(h, "f", "network"), IDENTITY);
    harness_put(
        in(h, "f", "mailboxes/m"),
        "{\"payload\":{},\"wait_for_ack\":true,\"ack\":\"keyed\",\"ack_timeout_ms\":30000}");
    struct harness_child commit = tiny_guest_commit(h, "f", "1");
    int port = tiny_guest_port(h, "m");
    tiny_guest_send(port, harness_format(h, "stage=applied mailbox=m key=%s", key_in(h)));
    assert_int_equal(harness_finish(h, &commit).status, 0);
    assert_string_equal(result_of(h, "f", "network.ack"), "memory");
    assert_string_equal(result_of(h, "f", "network.status"), "applied");
    assert_string_equal(result_of(h, "f", "mailboxes.0.ack"), "keyed");
    assert_shell("bash", "grep -q '\"ack_key\":\"[0-9a-f]*\",\"fork\":{' instances/f/console", 0);
}

/* What the mount says goes for all requests that say nothing. */
static void requests_are_acked_as_the_mount_says(void **state)
{
    struct harness *h = *state;
    assert_int_equal(harness_unmount(h), 0);
    harness_mount(h, (const char *const[]){"--ack", "udp", NULL});
    make_draft(h, "f");
    harness_put(in(h, "f", "network"), IDENTITY);
    harness_put(in(h, "f", "mailboxes/m"),
                "{\"payload\":{},\"wait_for_ack\":true,\"ack_timeout_ms\":30000}");
    struct harness_child commit = tiny_guest_commit(h, "f", "1");
    tiny_guest_send(tiny_guest_port(h, TINY_GUEST_NETWORK), APPLIED);
    tiny_guest_send(tiny_guest_port(h, "m"), "stage=applied mailbox=m");
    assert_int_equal(harness_finish(h, &commit).status, 0);
    assert_string_equal(result_of(h, "f", "network.ack"), "udp");
    assert_string_equal(result_of(h, "f", "mailboxes.0.ack"), "udp");
}

/* From a VM that datagrams cannot leave. */
static void ack_by_datagram_that_cannot_come_is_refused_before_any_work(void **state)
{
    static const struct {
        const char *network, *words;
    } machines[] = {
        {".mode=\"none\"", "it has no network (\"mode\": \"none\")"},
        {".mode=\"user\"|.machine.network.restrict=true",
         "its network lets nothing out (\"restrict\": true)"},
    };
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(machines); i++) {
        assert_int_equal(harness_unmount(h), 0);
        assert_shell("bash",
                     harness_format(h,
                                    "cd $S/snapshots/base && jq '.machine.network%s' snapshot.json "
                                    "> j && mv j snapshot.json",
                                    machines[i].network),
                     0);
        harness_mount(h, NULL);
        tiny_guest_stage(h, "new", "m", "{}", 30000);
        assert_errno(harness_write(in(h, "new", "commit"), "f"), EINVAL);
        assert_string_equal(result_of(h, "new", "error.phase"), "validate");
        assert_string_equal(result_of(h, "new", "error.mailbox"), "m");
        assert_file_contains(in(h, "new", "error"), machines[i].words);
        harness_put(in(h, "new", "network"), UDP_IDENTITY);
        assert_errno(harness_write(in(h, "new", "commit"), "f"), EINVAL);
        assert_file_contains(in(h, "new", "error"), machines[i].words);
        assert_file_contains(in(h, "new", "error"), "\"wait_for_network\": false");
        assert_no_instance(h);
    }
}

static void network_when_not_waited_for_has_no_port(void **state)
{
    struct harness *h = *state;
    harness_put(in(h, "new", "network"), IDENTITY);
    harness_put(in(h, "new", "options"), "{\"wait_for_network\":false}");
    assert_errno(harness_write(in(h, "new", "commit"), "f"), 0);
    assert_string_equal(result_of(h, "f", "network.status"), "delivered");
    char *console =
        harness_await(h, harness_path(h, "instances/f/console"), "\"gateway\":\"10.0.0.1\"}\n");
    assert_null(strstr(console, "ack_port"));
}

static void token_of_the_network_when_wrong_is_rejected(void **state)
{
    struct harness *h = *state;
    harness_put(in(h, "new", "network"),
                "{\"interface_name\":\"eth0\",\"mac\":\"02:00:00:00:00:0a\",\"ipv4\":\"10.0.0.7\","
                "\"prefix\":24,\"token\":\"t0k3n\"}");
    assert_errno(harness_write(in(h, "new", "commit"), "f"), EKEYREJECTED);
    assert_null(strstr(harness_get(h, in(h, "new", "error")), "t0k3n"));
    assert_null(strstr(harness_get(h, in(h, "new", "result")), "t0k3n"));
    assert_no_instance(h);
}

/* The network's handoff has its socket already when the mailboxes' one fails. */
static void second_handoff_when_it_fails_leaves_nothing_of_the_first(void **state)
{
    struct harness *h = *state;
    char *script = harness_format(h, "readlink /proc/%d/fd/* | sort", (int)h->daemon);
    const char *before = assert_shell("bash", script, 0).out;
    harness_put(in(h, "new", "network"), IDENTITY);
    harness_put(in(h, "new", "mailboxes/missing"), "{\"payload\":{},\"wait_for_ack\":true}");
    assert_errno(harness_write(in(h, "new", "commit"), "f"), ENOENT);
    assert_string_equal(result_of(h, "new", "error.mailbox"), "missing");
    assert_string_equal(assert_shell("bash", script, 0).out, before);
    assert_no_instance(h);
    harness_put(in(h, "new", "network"), IDENTITY);
    harness_put(in(h, "new", "options"), "{\"wait_for_network\":false}");
    assert_errno(harness_write(in(h, "new", "commit"), "f"), 0); /* the id is free again */
}

static void target_when_standby_takes_nothing_to_deliver(void **state)
{
    struct harness *h = *state;
    harness_put(in(h, "new", "options"), "{\"target_state\":\"standby\"}");
    harness_put(in(h, "new", "mailboxes/m"), "{}");
    assert_errno(harness_write(in(h, "new", "commit"), "f"), EINVAL);
    assert_string_equal(result_of(h, "new", "error.phase"), "validate");
    harness_put(in(h, "new", "options"), "{\"target_state\":\"standby\"}");
    harness_put(in(h, "new", "network"), IDENTITY);
    assert_errno(harness_write(in(h, "new", "commit"), "f"), EINVAL);
    assert_file_contains(in(h, "new", "error"), "nothing can be delivered");
    assert_no_instance(h);
}

/* A fork f that waits for a keyed ack of m, at that port. */
static struct harness_child commit_keyed(struct harness *h, int *ret_port)
{
    make_draft(h, "f");
    harness_put(
        in(h, "f", "mailboxes/m"),
        "{\"payload\":{},\"wait_for_ack\":true,\"ack\":\"keyed\",\"ack_timeout_ms\":30000}");
    struct harness_child commit = tiny_guest_commit(h, "f", "1");
    *ret_port = tiny_guest_port(h, "m");
    return commit;
}

static void keyed_ack_when_forged_does_not_count(void **state)
{
    struct harness *h = *state;
    int port;
    struct harness_child commit = commit_keyed(h, &port);
    char *key = key_in(h);
    assert_int_equal(strspn(key, "0123456789abcdef"), 32);
    tiny_guest_send(port, "stage=failed mailbox=m reason=forged");
    tiny_guest_send(port, "stage=applied mailbox=m");
    tiny_guest_send(port, "stage=applied mailbox=m key=00000000000000000000000000000000");
    tiny_guest_send(port, harness_format(h, "stage=applied mailbox=m n=4 key=%s", key));
    assert_int_equal(harness_finish(h, &commit).status, 0);
    assert_string_equal(result_of(h, "f", "mailboxes.0.ack"), "keyed");
    assert_string_equal(result_of(h, "f", "mailboxes.0.ack_text"), "stage=applied mailbox=m n=4");
    assert_null(strstr(harness_get(h, in(h, "f", "result")), key));
}

static void keyed_refusal_counts(void **state)
{
    struct harness *h = *state;
    int port;
    struct harness_child commit = commit_keyed(h, &port);
    tiny_guest_send(port,
                    harness_format(h, "stage=failed mailbox=m reason=full key=%s", key_in(h)));
    assert_int_equal(harness_finish(h, &commit).status, 1);
    assert_string_equal(result_of(h, "f", "error.code"), "EREMOTEIO");
    assert_file_contains(in(h, "f", "error"), "full");
    assert_no_instance(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        mounted_test(snapshot_without_the_frame_has_no_network),
        mounted_test(file_when_created_and_removed_is_staged_and_not),
        mounted_test(text_when_wrong_or_unfinished_keeps_the_draft_from_committing),
        test(snapshot_with_the_frame_shows_it),
        test(network_and_mailbox_when_acked_are_both_in_the_result),
        test(network_when_refused_degrades_and_the_fork_goes_on),
        test(mailbox_when_refused_is_not_kept_waiting_by_the_network),
        test(mailbox_when_nobody_acks_in_time_is_not_kept_waiting_by_the_network),
        test(network_when_nobody_acks_degrades_after_a_while),
        test(network_when_taken_is_acked_by_memory),
        test(network_when_its_ack_is_keyed_is_not_forged),
        test(both_ways_can_be_waited_for_at_once),
        test(requests_are_acked_as_the_mount_says),
        test(ack_by_datagram_that_cannot_come_is_refused_before_any_work),
        test(network_when_not_waited_for_has_no_port),
        test(token_of_the_network_when_wrong_is_rejected),
        test(second_handoff_when_it_fails_leaves_nothing_of_the_first),
        test(target_when_standby_takes_nothing_to_deliver),
        test(keyed_ack_when_forged_does_not_count),
        test(keyed_refusal_counts),
    };
    harness_enter();
    return tiny_guest_possible() ? cmocka_run_group_tests_name("network", tests, NULL, NULL)
                                 : HARNESS_SKIPPED;
}
