/* SPDX-License-Identifier: MIT */
/* Payloads for VMs that run, with the fakes' guests; with real ones in vm/test_live.c. */
#include "fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake.h"
#include "util/cleanup.h"

#define WAIT(ms) ",\"wait_for_ack\":true,\"ack_timeout_ms\":" ms
#define PATIENT WAIT("30000")

/* instances/x, which was booted and runs; its guest behaves so. */
static void boot(struct harness *h, const char *guest)
{
    fake_tell(h, harness_format(h, "FAKE_VMM_GUEST=%s", guest));
    fake_make(h, "x", "mailboxes=m,a", "");
    harness_put(fake_instance(h, "x", "state"), "running");
    harness_await(h, fake_instance(h, "x", "console"), "ready");
}

static int setup(void **state)
{
    int r = harness_setup(state);
    if (r == 0)
        fake_mount(*state);
    return r;
}

static char *mailbox(struct harness *h, const char *name)
{
    return fake_instance(h, "x", harness_format(h, "mailboxes/%s", name));
}

/* With "n" in its payload and those members. */
static char *request(struct harness *h, int n, const char *members)
{
    return harness_format(h, "{\"payload\":{\"n\":%d}%s}", n, members);
}

static char *last(struct harness *h, const char *name, const char *member)
{
    return harness_json(h, harness_get(h, mailbox(h, name)), harness_format(h, "last.%s", member));
}

static void assert_refused(struct harness *h, int code, int wanted, const char *words)
{
    assert_errno(code, wanted);
    assert_file_contains(fake_instance(h, "x", "error"), words);
}

/* How often is the line on the console? */
static size_t count(struct harness *h, const char *line)
{
    const char *text = harness_get(h, fake_instance(h, "x", "console"));
    size_t times = 0;
    for (const char *at = text; (at = strstr(at, line)); at += strlen(line))
        times += at == text || at[-1] == '\n';
    return times;
}

/* ---- what is there ---- */

static void mailboxes_are_there_with_any_memory_and_tell_of_the_last_delivery(void **state)
{
    struct harness *h = *state;
    struct stat st;
    fake_make(h, "y", "", "");
    assert_fails(access(fake_instance(h, "y", "mailboxes"), F_OK), ENOENT);
    assert_fails(access(fake_instance(h, "y", "rescan"), F_OK), ENOENT);
    boot(h, "ack");
    assert_works(stat(mailbox(h, "m"), &st));
    assert_int_equal(st.st_mode, S_IFREG | 0600);
    assert_int_equal(st.st_size, strlen(harness_get(h, mailbox(h, "m"))));
    assert_string_equal(harness_json(h, harness_get(h, mailbox(h, "m")), "name"), "m");
    assert_string_equal(harness_json(h, harness_get(h, mailbox(h, "m")), "payload_capacity"),
                        "3832");
    assert_string_equal(last(h, "m", "name"), "(none)");
    harness_put(mailbox(h, "m"), request(h, 1, PATIENT));
    assert_string_equal(last(h, "m", "name"), "m");
    assert_string_equal(last(h, "m", "acked"), "true");
    assert_string_equal(last(h, "m", "ack"), "memory");
    assert_string_equal(last(h, "m", "consumed"), "true");
    assert_string_equal(last(h, "m", "copies"), "1");
    assert_string_equal(last(h, "m", "payload_bytes"), "7");
    assert_string_equal(last(h, "a", "name"), "(none)");
    assert_int_equal(count(h, "m {\"n\":1}\n"), 1);
    assert_string_equal(harness_get(h, fake_instance(h, "x", "error")), "");
    assert_shell("bash", "[ \"$(ls instances/x/mailboxes)\" = $'a\\nm' ]", 0);
    assert_shell("bash", "! grep -rq '\"n\"' $S/instances/x/*.json", 0);
    harness_put(fake_instance(h, "x", "state"), "stopped");
    assert_fails(access(fake_instance(h, "x", "mailboxes"), F_OK), ENOENT);
}

static void fork_tells_of_its_commit_first(void **state)
{
    struct harness *h = *state;
    fake_publish(h, "mailboxes=m,a", "");
    harness_put(harness_path(h, "snapshots/base/forks/new/mailboxes/m"), request(h, 1, PATIENT));
    harness_put(harness_path(h, "snapshots/base/forks/new/commit"), "x");
    assert_string_equal(last(h, "m", "payload_bytes"), "7");
    harness_put(mailbox(h, "m"), request(h, 123, PATIENT));
    assert_string_equal(last(h, "m", "payload_bytes"), "9");
    assert_int_equal(count(h, "m {\"n\":1}\n"), 1);
    assert_int_equal(count(h, "m {\"n\":123}\n"), 1);
    harness_put(fake_instance(h, "x", "snapshot"), "s");
    assert_shell("bash", "jq -e '.undelivered == []' snapshots/s/info", 0);
}

static void mailbox_that_is_armed_later_is_found_by_a_rescan(void **state)
{
    struct harness *h = *state;
    boot(h, "ack");
    harness_put(mailbox(h, "m"), "{\"payload\":{\"arm\":\"late\"}" PATIENT "}");
    harness_await(h, fake_instance(h, "x", "console"), "m {\"arm\":\"late\"}");
    assert_fails(access(mailbox(h, "late"), F_OK), ENOENT);
    assert_refused(h, harness_write(fake_instance(h, "x", "rescan"), "2"), EINVAL,
                   "rescan takes 1");
    harness_put(fake_instance(h, "x", "rescan"), "1");
    assert_string_equal(harness_get(h, fake_instance(h, "x", "error")), "");
    harness_put(mailbox(h, "late"), request(h, 1, PATIENT));
    assert_int_equal(count(h, "late {\"n\":1}\n"), 1);
}

/* Its old page is there still, and looks like a mailbox. */
static void frame_that_has_moved_gets_a_payload_after_a_rescan(void **state)
{
    struct harness *h = *state;
    boot(h, "ack");
    harness_put(mailbox(h, "m"), "{\"payload\":{\"move\":true}" PATIENT "}");
    assert_refused(h, harness_write(mailbox(h, "m"), request(h, 1, WAIT("300"))), ETIMEDOUT,
                   "whether it was taken is not known");
    harness_put(fake_instance(h, "x", "rescan"), "1");
    for (int i = 2; i < 5; i++) {
        harness_put(mailbox(h, "m"), request(h, i, PATIENT));
        assert_string_equal(last(h, "m", "copies"), "2");
        assert_int_equal(count(h, harness_format(h, "m {\"n\":%d}\n", i)), 1);
    }
    assert_int_equal(count(h, "m {\"n\":1}\n"), 0);
    harness_put(fake_instance(h, "x", "snapshot"), "s");
    assert_shell("bash",
                 "jq -e '.undelivered == []' snapshots/s/info && "
                 "! grep -qaF '{\"n\":4}' $S/snapshots/s/memory",
                 0);
}

/* Between the write and the look, so that what was written to is an old page. */
static void frame_that_moves_with_its_payload_leaves_nothing_that_comes_later(void **state)
{
    struct harness *h = *state;
    boot(h, "mover");
    assert_refused(h, harness_write(mailbox(h, "m"), request(h, 1, WAIT("300"))), ETIMEDOUT,
                   "whether it was taken is not known");
    assert_string_equal(last(h, "m", "consumed"), "null");
    harness_put(fake_instance(h, "x", "snapshot"), "s");
    assert_shell("bash",
                 "jq -e '.undelivered == []' snapshots/s/info && "
                 "! grep -qaF '{\"n\":1}' $S/snapshots/s/memory",
                 0);
    assert_int_equal(count(h, "m {\"n\":1}\n"), 1);
}

/* ---- writing ---- */

static void write_all(int fd, const char *text, int wanted)
{
    ssize_t size = write(fd, text, strlen(text));
    assert_errno(size < 0 ? errno : 0, wanted);
    assert_true(wanted != 0 || size == (ssize_t)strlen(text));
}

static void object_may_come_in_pieces_and_each_is_a_delivery(void **state)
{
    struct harness *h = *state;
    boot(h, "ack");
    auto_close int fd = open(mailbox(h, "m"), O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_works(fd);
    write_all(fd, " \n", 0);
    write_all(fd, "{\"payload\":", 0);
    assert_int_equal(count(h, "m "), 0);
    write_all(fd, " {\"n\":1}" PATIENT "}", 0);
    assert_int_equal(count(h, "m {\"n\":1}\n"), 1);
    write_all(fd, "\n \t\n", 0);
    write_all(fd, "\n", 0);
    assert_int_equal(count(h, "m {\"n\":1}\n"), 1);
    write_all(fd, request(h, 1, PATIENT), 0);
    write_all(fd, harness_format(h, "\n%s\n", request(h, 2, PATIENT)), 0);
    assert_int_equal(count(h, "m {\"n\":1}\n"), 2);
    assert_int_equal(count(h, "m {\"n\":2}\n"), 1);
    assert_works(close(steal_fd(&fd)));
    assert_shell("bash", "echo '{\"n\":3}' >> instances/x/mailboxes/m", 0); /* a payload alone */
    harness_await(h, fake_instance(h, "x", "console"), "m {\"n\":3}\n");
}

static void other_texts_are_einval_and_nothing_is_delivered(void **state)
{
    struct harness *h = *state;
    boot(h, "ack");
    assert_refused(h, harness_write(mailbox(h, "m"), "{\"n\":1} x"), EINVAL, "line 1, column 9");
    assert_refused(h, harness_write(mailbox(h, "m"), "{\"n\":1}{\"n\":2}"), EINVAL, "line 1");
    assert_refused(h, harness_write(mailbox(h, "m"), "[]"), EINVAL, "line 1, column 1");
    assert_refused(h, harness_write(mailbox(h, "m"), "{\"wait_for_ack\":true}"), EINVAL,
                   "is given without \"payload\"");
    struct harness_steps steps = harness_write_steps(mailbox(h, "m"), O_WRONLY, "{\"n\":1", 6);
    assert_int_equal(steps.write, 0);
    assert_errno(steps.close, EINVAL);
    assert_file_contains(fake_instance(h, "x", "error"), "unfinished");
    assert_shell("bash", "printf '{\"x\":\"%17000s\"}' '' > instances/x/mailboxes/m", 1);
    assert_file_contains(fake_instance(h, "x", "error"), "16 KiB");
    assert_refused(h, harness_write(mailbox(h, "m"), harness_format(h, "{\"x\":\"%3900s\"}", "")),
                   EFBIG, "3832");
    assert_errno(harness_write(mailbox(h, "m"), ""), 0);
    assert_int_equal(count(h, "m "), 0);
    assert_refused(h, harness_write(mailbox(h, "m"), "{\"payload\":{\"n\":1},\"token\":\"other\"}"),
                   EKEYREJECTED, "not with the token given");
    harness_put(mailbox(h, "m"), "{\"payload\":{\"n\":9},\"token\":\"token-m\"" PATIENT "}");
    assert_int_equal(count(h, "m "), 1);
}

static void failure_stays_until_the_file_is_truncated(void **state)
{
    struct harness *h = *state;
    boot(h, "ack");
    auto_close int fd = open(mailbox(h, "m"), O_WRONLY | O_CLOEXEC);
    assert_works(fd);
    write_all(fd, "{\"payload\":{},\"token\":\"other\"}", EKEYREJECTED);
    write_all(fd, "{\"payload\":{},\"token\":\"other\"}", EKEYREJECTED);
    write_all(fd, request(h, 1, PATIENT), EKEYREJECTED);
    write_all(fd, "\n", EKEYREJECTED);
    assert_works(ftruncate(fd, 0));
    write_all(fd, request(h, 2, PATIENT), 0);
    assert_int_equal(count(h, "m {\"n\":1}\n"), 0);
    assert_int_equal(count(h, "m {\"n\":2}\n"), 1);
    /* Python's close writes again what its flush could not. */
    assert_shell("python3",
                 "import errno\n"
                 "f = open('instances/x/mailboxes/m', 'w')\n"
                 "f.write('{\"payload\":{},\"token\":\"other\"}')\n"
                 "codes = []\n"
                 "for end in f.flush, f.close:\n"
                 "    try:\n"
                 "        end()\n"
                 "    except OSError as e:\n"
                 "        codes.append(e.errno)\n"
                 "assert codes == [errno.EKEYREJECTED] * 2, codes\n",
                 0);
}

static bool is_interrupted(void *argument)
{
    struct harness *h = argument;
    return access(harness_format(h, "%s/interrupted", h->directory), F_OK) == 0;
}

static void who_is_interrupted_joins_the_wait_again(void **state)
{
    struct harness *h = *state;
    boot(h, "absent");
    char lines[4096] = "";
    auto_close int events = open(harness_path(h, "events"), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    assert_works(events);
    /* Python repeats the write by itself, after its handler. */
    struct harness_child child = harness_start_shell(
        h, "python3",
        "import os, signal, time\n"
        "signal.signal(signal.SIGUSR1, lambda *_: open(os.environ['T'] + '/interrupted', 'w'))\n"
        "fd = os.open('instances/x/mailboxes/m', os.O_WRONLY)\n"
        "try:\n"
        "    os.write(fd, b'{\"payload\":{},\"wait_for_ack\":true,\"ack_timeout_ms\":30000}')\n"
        "except OSError as e:\n"
        "    print(e.strerror, flush=True)\n");
    harness_await_blocked(h, child.pid);
    assert_works(kill(child.pid, SIGUSR1));
    harness_await_that(is_interrupted, h, "a handler that ran");
    harness_await_blocked(h, child.pid);
    harness_put(fake_instance(h, "x", "state"), "stopped");
    struct harness_result result = harness_finish(h, &child);
    assert_contains(result.out, "Operation canceled");
    assert_true(read(events, lines, sizeof lines - 1) > 0);
    const char *failed = strstr(lines, "delivery-failed");
    assert_non_null(failed);
    assert_null(strstr(failed + 1, "delivery-failed")); /* it was one */
}

/* ---- guests ---- */

/* A write that waits, by a process of its own. */
static struct harness_child start_waiting(struct harness *h)
{
    struct harness_child child = harness_start_shell(
        h, "bash",
        "echo '{\"payload\":{\"n\":1},\"wait_for_ack\":true,\"ack_timeout_ms\":86400000}' > "
        "instances/x/mailboxes/m");
    harness_await_blocked(h, child.pid);
    return child;
}

static void read_again(int fd, char *ret, size_t size)
{
    ssize_t n = pread(fd, ret, size - 1, 0);
    assert_true(n > 0);
    ret[n] = '\0';
}

static void who_writes_reads_what_became_of_that(void **state)
{
    struct harness *h = *state;
    char text[4096] = "";
    boot(h, "ack");
    auto_close int fd = open(mailbox(h, "m"), O_RDWR | O_CLOEXEC);
    write_all(fd, request(h, 1, PATIENT), 0);
    harness_put(mailbox(h, "m"), request(h, 12345, PATIENT));
    assert_string_equal(last(h, "m", "payload_bytes"), "11");
    for (int i = 0; i < 2; i++) {
        read_again(fd, text, sizeof text);
        assert_string_equal(harness_json(h, text, "last.payload_bytes"), "7");
        assert_string_equal(harness_json(h, text, "busy"), "(none)");
    }
    write_all(fd, request(h, 123, PATIENT), 0);
    read_again(fd, text, sizeof text);
    assert_string_equal(harness_json(h, text, "last.payload_bytes"), "9");
}

static void who_writes_in_vain_reads_why(void **state)
{
    struct harness *h = *state;
    char text[4096] = "";
    boot(h, "refuse");
    auto_close int fd = open(mailbox(h, "m"), O_RDWR | O_CLOEXEC);
    write_all(fd, request(h, 1, PATIENT), EREMOTEIO);
    assert_errno(harness_write(fake_instance(h, "x", "state"), "nonsense"), EINVAL);
    read_again(fd, text, sizeof text);
    assert_contains(harness_json(h, text, "error"), "mailbox m: the disk is full");
}

static bool is_busy(void *argument)
{
    struct harness *h = argument;
    return strcmp(harness_json(h, harness_get(h, mailbox(h, "m")), "busy"), "true") == 0;
}

static void mailbox_is_busy_while_a_payload_is_waited_for(void **state)
{
    struct harness *h = *state;
    boot(h, "absent");
    assert_false(is_busy(h));
    struct harness_child child = start_waiting(h);
    harness_await_that(is_busy, h, "a mailbox that is busy");
    assert_string_equal(harness_json(h, harness_get(h, mailbox(h, "a")), "busy"), "(none)");
    auto_close int fd = open(mailbox(h, "m"), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    write_all(fd, request(h, 2, PATIENT), EAGAIN);
    assert_string_equal(harness_get(h, fake_instance(h, "x", "error")), "");
    /* One behind it is not delivered if nobody waits for it any more. */
    struct harness_child queued =
        harness_start_shell(h, "bash", "echo '{\"payload\":{\"n\":3}}' > instances/x/mailboxes/m");
    harness_await_blocked(h, queued.pid);
    kill(queued.pid, SIGINT);
    harness_finish(h, &queued);
    harness_put(fake_instance(h, "x", "state"), "standby");
    harness_finish(h, &child);
    harness_put(fake_instance(h, "x", "state"), "running");
    write_all(fd, request(h, 2, ""), 0); /* when it is free */
    assert_string_equal(last(h, "m", "payload_bytes"), "7");
    assert_shell("bash", "! grep -qaF '{\"n\":3}' $S/instances/x/run/memory", 0);
}

/* Neither where its VM goes on, nor in standby. */
static void replies_are_in_no_image(void **state)
{
    struct harness *h = *state;
    boot(h, "reply FAKE_VMM_REPLY='{\"answer\":\"r3ply\"}'");
    harness_put(mailbox(h, "m"), request(h, 1, PATIENT));
    assert_string_equal(last(h, "m", "reply.answer"), "r3ply");
    harness_put(fake_instance(h, "x", "snapshot"), "s");
    assert_shell("bash", "! grep -qaF '\"r3ply\"' $S/snapshots/s/memory", 0);
    harness_put(mailbox(h, "m"), request(h, 2, PATIENT));
    assert_string_equal(last(h, "m", "reply.answer"), "r3ply");
    harness_put(fake_instance(h, "x", "state"), "standby");
    assert_shell("bash", "! grep -qaF '\"r3ply\"' $S/instances/x/run/memory", 0);
}

static void refusal_is_eremoteio_and_the_vm_runs_on(void **state)
{
    struct harness *h = *state;
    boot(h, "refuse");
    assert_refused(h, harness_write(mailbox(h, "m"), request(h, 1, PATIENT)), EREMOTEIO,
                   "mailbox m: the disk is full");
    assert_string_equal(last(h, "m", "acked"), "false");
    assert_string_equal(last(h, "m", "consumed"), "true");
    assert_string_equal(harness_get(h, fake_instance(h, "x", "state")), "running\n");
}

static void payload_that_nobody_takes_is_withdrawn_or_in_the_way(void **state)
{
    struct harness *h = *state;
    boot(h, "absent");
    for (int i = 0; i < 2; i++) /* it is not in the way of the next */
        assert_refused(h, harness_write(mailbox(h, "m"), request(h, 1, WAIT("100"))), ETIMEDOUT,
                       "no ack for mailbox m within 100 ms: it was not taken, and is withdrawn");
    assert_string_equal(last(h, "m", "consumed"), "false");
    harness_put(mailbox(h, "m"), request(h, 2, ""));
    assert_refused(h, harness_write(mailbox(h, "m"), request(h, 3, "")), EBUSY, "has not taken");
    harness_put(mailbox(h, "a"), request(h, 4, ""));
    harness_put(fake_instance(h, "x", "snapshot"), "s");
    assert_shell("bash",
                 "jq -e '.undelivered == [\"m\",\"a\"]' snapshots/s/info && "
                 "grep -qaF '{\"n\":2}' $S/snapshots/s/memory && "
                 "! grep -qaE '\\{\"n\":[13]\\}' $S/snapshots/s/memory",
                 0);
}

/* With one that can come: vm/test_live.c. */
static void ack_by_datagram_that_cannot_come_is_einval(void **state)
{
    struct harness *h = *state;
    boot(h, "ack");
    assert_refused(h, harness_write(mailbox(h, "m"), request(h, 1, ",\"ack\":\"udp\"" PATIENT)),
                   EINVAL, "comes by the network");
    assert_int_equal(count(h, "m "), 0);
}

static void network_is_delivered_and_waited_for(void **state)
{
    static const char text[] = "{\"interface_name\":\"eth0\",\"mac\":\"02:00:00:00:00:07\","
                               "\"ipv4\":\"10.0.0.7\",\"prefix\":24}";
    struct harness *h = *state;
    fake_make(h, "x", "network mailboxes=m", "");
    harness_put(fake_instance(h, "x", "state"), "running");
    harness_await(h, fake_instance(h, "x", "console"), "ready");
    char *network = fake_instance(h, "x", "network");
    harness_put(network, text);
    assert_int_equal(count(h, "network {\"interface_name\":\"eth0\""), 1);
    assert_string_equal(harness_json(h, harness_get(h, network), "last.status"), "applied");
    assert_refused(h, harness_write(network, "{\"mac\":1}"), EINVAL, "must be a string");
}

static void network_that_nobody_takes_is_withdrawn(void **state)
{
    static const char text[] = "{\"interface_name\":\"eth0\",\"mac\":\"02:00:00:00:00:07\","
                               "\"ipv4\":\"10.0.0.7\",\"prefix\":24}";
    struct harness *h = *state;
    assert_int_equal(harness_unmount(h), 0);
    setenv("HYPEFS_TEST_TIMING", "network:200", 1);
    fake_mount(h);
    unsetenv("HYPEFS_TEST_TIMING");
    fake_tell(h, "FAKE_VMM_GUEST=absent");
    fake_make(h, "x", "network mailboxes=m", "");
    harness_put(fake_instance(h, "x", "state"), "running");
    harness_await(h, fake_instance(h, "x", "console"), "ready");
    for (int i = 0; i < 2; i++)
        assert_refused(h, harness_write(fake_instance(h, "x", "network"), text), ETIMEDOUT,
                       "may look there only after its VM was loaded anew");
    harness_put(fake_instance(h, "x", "state"), "paused"); /* it is not waited for then */
    harness_put(fake_instance(h, "x", "network"), text);
}

/* ---- states ---- */

static void paused_one_takes_it_when_it_runs_again(void **state)
{
    struct harness *h = *state;
    boot(h, "ack");
    harness_put(fake_instance(h, "x", "state"), "paused");
    assert_refused(h, harness_write(mailbox(h, "m"), request(h, 1, PATIENT)), EINVAL, "is paused");
    harness_put(mailbox(h, "m"), request(h, 2, ""));
    assert_refused(h, harness_write(mailbox(h, "m"), request(h, 3, "")), EBUSY, "has not taken");
    assert_int_equal(count(h, "m "), 0);
    harness_put(fake_instance(h, "x", "state"), "running");
    harness_await(h, fake_instance(h, "x", "console"), "m {\"n\":2}\n");
    assert_int_equal(count(h, "m "), 1);
}

static void one_in_standby_is_eopnotsupp(void **state)
{
    struct harness *h = *state;
    boot(h, "ack");
    harness_put(mailbox(h, "m"), request(h, 1, PATIENT));
    harness_put(fake_instance(h, "x", "state"), "standby");
    assert_refused(h, harness_write(mailbox(h, "m"), request(h, 2, "")), EOPNOTSUPP,
                   "is in standby");
    assert_refused(h, harness_write(fake_instance(h, "x", "rescan"), "1"), EOPNOTSUPP,
                   "is in standby");
    harness_put(fake_instance(h, "x", "state"), "running");
    harness_put(mailbox(h, "m"), request(h, 3, PATIENT));
    assert_int_equal(count(h, "m {\"n\":3}\n"), 1);
}

static bool is_delivered(void *argument)
{
    struct harness *h = argument;
    return access(harness_store_path(h, "instances/x/delivered.json"), F_OK) == 0;
}

static void assert_ends_with(struct harness *h, struct harness_child *child, const char *words)
{
    struct harness_result result = harness_finish(h, child);
    assert_int_equal(result.status, 1);
    if (!strstr(result.err, words))
        fail_msg("%s%s", result.err, harness_get(h, fake_instance(h, "x", "error")));
}

static void stop_standby_and_the_end_of_the_vm_end_the_wait(void **state)
{
    struct harness *h = *state;
    boot(h, "absent");
    struct harness_child child = start_waiting(h);
    harness_await_that(is_delivered, h, "a delivery");
    harness_put(fake_instance(h, "x", "state"), "standby");
    assert_ends_with(h, &child, "Operation canceled");
    harness_put(fake_instance(h, "x", "state"), "running");
    harness_put(mailbox(h, "m"), request(h, 3, "")); /* the other is withdrawn */
    assert_string_equal(last(h, "m", "payload_bytes"), "7");
    harness_put(fake_instance(h, "x", "state"), "stopped");
    fake_drop(h, "x");

    boot(h, "absent");
    child = start_waiting(h);
    harness_await_that(is_delivered, h, "a delivery");
    harness_put(fake_instance(h, "x", "state"), "stopped");
    assert_ends_with(h, &child, "Operation canceled");
    fake_drop(h, "x");

    boot(h, "absent");
    child = start_waiting(h);
    harness_await_that(is_delivered, h, "a delivery");
    assert_works(
        kill(atoi(harness_json(h, harness_get(h, fake_instance(h, "x", "info")), "pid")), SIGKILL));
    assert_ends_with(h, &child, "Input/output error");
    assert_file_contains(fake_instance(h, "x", "error"), "before its guest took the payload");
}

static void wait_goes_on_while_the_vm_is_saved(void **state)
{
    struct harness *h = *state;
    boot(h, "absent");
    struct harness_child child = start_waiting(h);
    harness_await_that(is_delivered, h, "a delivery");
    harness_put(fake_instance(h, "x", "snapshot"), "s");
    harness_put(fake_instance(h, "x", "state"), "paused");
    harness_put(fake_instance(h, "x", "state"), "running");
    harness_await_blocked(h, child.pid);
    harness_put(fake_instance(h, "x", "state"), "stopped");
    assert_ends_with(h, &child, "Operation canceled");
}

static void deliveries_by_many_at_once_lose_none_and_double_none(void **state)
{
    struct harness *h = *state;
    boot(h, "ack");
    assert_shell("bash",
                 "cd instances/x && for w in 1 2 3 4 5 6; do\n"
                 "(for i in 1 2 3 4 5 6 7 8 9 10; do\n"
                 "    box=m; (( w % 2 )) && box=a\n"
                 "    echo "
                 "\"{\\\"payload\\\":{\\\"n\\\":$w$i},\\\"wait_for_ack\\\":true,\\\"ack_timeout_"
                 "ms\\\":30000}\" "
                 "> mailboxes/$box || exit 1\n"
                 "done) & pids+=($!)\n"
                 "done\n"
                 "for s in 1 2 3; do echo s$s > snapshot || exit 1; done\n"
                 "for p in ${pids[@]}; do wait $p || exit 1; done\n"
                 "for w in 1 2 3 4 5 6; do for i in 1 2 3 4 5 6 7 8 9 10; do\n"
                 "    [ $(grep -c \"^[ma] {\\\"n\\\":$w$i}\" console) = 1 ] || exit 1\n"
                 "done; done",
                 0);
}

static void one_that_waits_for_its_ack_is_ebusy(void **state)
{
    struct harness *h = *state;
    fake_publish(h, "mailboxes=m,a", "");
    fake_tell(h, "FAKE_VMM_GUEST=absent");
    harness_put(harness_path(h, "snapshots/base/forks/new/mailboxes/m"),
                request(h, 1, WAIT("86400000")));
    struct harness_child child =
        harness_start_shell(h, "bash", "echo x > snapshots/base/forks/new/commit");
    harness_await(h, harness_path(h, "snapshots/base/forks/new/status"), "waiting");
    assert_refused(h, harness_write(mailbox(h, "a"), request(h, 2, "")), EBUSY,
                   "waits for its ack");
    harness_put(fake_instance(h, "x", "state"), "stopped");
    assert_int_equal(harness_finish(h, &child).status, 1);
}

static void daemon_that_ends_ends_the_wait(void **state)
{
    struct harness *h = *state;
    boot(h, "absent");
    struct harness_child child = start_waiting(h);
    harness_await_that(is_delivered, h, "a delivery");
    assert_int_equal(harness_unmount(h), 0);
    struct harness_result result = harness_finish(h, &child);
    assert_contains(result.err, "shutdown");
    fake_mount(h);
}

static bool is_gone(void *argument)
{
    struct harness *h = argument;
    harness_put(fake_instance(h, "x", "rescan"), "1");
    return access(mailbox(h, "m"), F_OK) < 0;
}

/* Its frame is another program's by now, and there is no other. */
static void mailbox_that_is_no_more_is_enoent(void **state)
{
    struct harness *h = *state;
    fake_publish(h, "mailboxes=m,a", "");
    fake_tell(h, "FAKE_VMM_GUEST=reuse");
    harness_put(harness_path(h, "snapshots/base/forks/new/commit"), "x");
    auto_close int fd =
        open(harness_path(h, "snapshots/base/forks/x/instance/mailboxes/m"), O_WRONLY | O_CLOEXEC);
    assert_works(fd);
    harness_await_that(is_gone, h, "a mailbox that is no more");
    write_all(fd, request(h, 1, ""), ENOENT);
    assert_file_contains(fake_instance(h, "x", "error"), "is not in the memory of x any more");
}

/* Who waited was told nothing, so it must not come later. */
static void payload_whose_daemon_was_killed_is_withdrawn_before_the_next(void **state)
{
    struct harness *h = *state;
    boot(h, "absent");
    struct harness_child child = start_waiting(h);
    harness_await_that(is_delivered, h, "a delivery");
    harness_kill(h);
    assert_int_equal(harness_finish(h, &child).status, 1);
    fake_mount(h);
    fake_tell(h, "FAKE_VMM_GUEST=absent"); /* of one in which it may go on, too */
    harness_put(mailbox(h, "m"), request(h, 2, ""));
    harness_put(fake_instance(h, "x", "snapshot"), "s");
    assert_shell("bash",
                 "grep -qaF '{\"n\":2}' $S/snapshots/s/memory && "
                 "! grep -qaF '{\"n\":1}' $S/snapshots/s/memory",
                 0);
    assert_refused(h, harness_write(mailbox(h, "m"), request(h, 3, "")), EBUSY, "has not taken");
}

static void one_that_is_found_again_after_a_restart_takes_payloads(void **state)
{
    struct harness *h = *state;
    boot(h, "ack");
    harness_put(mailbox(h, "m"), "{\"payload\":{\"move\":true}" PATIENT "}");
    harness_put(fake_instance(h, "x", "rescan"), "1");
    harness_put(mailbox(h, "m"), request(h, 1, PATIENT)); /* its twin has it still */
    harness_kill(h);
    fake_mount(h);
    harness_put(mailbox(h, "m"), request(h, 2, PATIENT));
    assert_string_equal(last(h, "m", "copies"), "2");
    assert_int_equal(count(h, "m {\"n\":1}\n"), 1);
    assert_int_equal(count(h, "m {\"n\":2}\n"), 1);
}

/* A debugger, say, has the VMM: then its VM pauses. */
static void vmm_that_cannot_be_stopped_is_paused(void **state)
{
    struct harness *h = *state;
    boot(h, "ack");
    pid_t pid = atoi(harness_json(h, harness_get(h, fake_instance(h, "x", "info")), "pid"));
    if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) < 0)
        skip(); /* a VMM of another user, or Yama */
    for (int i = 0; i < 3; i++)
        harness_put(mailbox(h, "m"), request(h, i, PATIENT));
    assert_int_equal(count(h, "m "), 3);
    assert_string_equal(harness_get(h, fake_instance(h, "x", "state")), "running\n");
    assert_shell("bash", "! grep -q intent $S/instances/x/instance.json", 0);
    harness_put(fake_instance(h, "x", "state"), "paused");
    harness_put(mailbox(h, "m"), request(h, 7, ""));
    fake_assert_vm(h, "Paused");
    assert_int_equal(count(h, "m {\"n\":7}\n"), 0);
    harness_put(fake_instance(h, "x", "state"), "running");
    harness_await(h, fake_instance(h, "x", "console"), "m {\"n\":7}\n");
}

static void events_tell_of_deliveries(void **state)
{
    struct harness *h = *state;
    boot(h, "refuse");
    char lines[4096] = "";
    auto_close int fd = open(harness_path(h, "events"), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    assert_works(fd);
    harness_put(mailbox(h, "m"), request(h, 1, ""));
    assert_errno(harness_write(mailbox(h, "m"), request(h, 2, PATIENT)), EREMOTEIO);
    assert_true(read(fd, lines, sizeof lines - 1) > 0);
    assert_contains(lines, "\"event\":\"delivered\",\"instance\":\"x\",\"mailbox\":\"m\","
                           "\"frozen_ms\":");
    assert_contains(lines, "\"event\":\"delivery-failed\"");
    assert_contains(lines, "\"phase\":\"ack\"");
    assert_null(strstr(lines, "\"n\""));
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    harness_enter();
    const struct CMUnitTest tests[] = {
        test(mailboxes_are_there_with_any_memory_and_tell_of_the_last_delivery),
        test(fork_tells_of_its_commit_first),
        test(mailbox_that_is_armed_later_is_found_by_a_rescan),
        test(frame_that_has_moved_gets_a_payload_after_a_rescan),
        test(frame_that_moves_with_its_payload_leaves_nothing_that_comes_later),
        test(object_may_come_in_pieces_and_each_is_a_delivery),
        test(other_texts_are_einval_and_nothing_is_delivered),
        test(failure_stays_until_the_file_is_truncated),
        test(who_is_interrupted_joins_the_wait_again),
        test(who_writes_reads_what_became_of_that),
        test(who_writes_in_vain_reads_why),
        test(mailbox_is_busy_while_a_payload_is_waited_for),
        test(replies_are_in_no_image),
        test(refusal_is_eremoteio_and_the_vm_runs_on),
        test(payload_that_nobody_takes_is_withdrawn_or_in_the_way),
        test(ack_by_datagram_that_cannot_come_is_einval),
        test(network_is_delivered_and_waited_for),
        test(network_that_nobody_takes_is_withdrawn),
        test(paused_one_takes_it_when_it_runs_again),
        test(one_in_standby_is_eopnotsupp),
        test(stop_standby_and_the_end_of_the_vm_end_the_wait),
        test(wait_goes_on_while_the_vm_is_saved),
        test(deliveries_by_many_at_once_lose_none_and_double_none),
        test(one_that_waits_for_its_ack_is_ebusy),
        test(daemon_that_ends_ends_the_wait),
        test(mailbox_that_is_no_more_is_enoent),
        test(payload_whose_daemon_was_killed_is_withdrawn_before_the_next),
        test(one_that_is_found_again_after_a_restart_takes_payloads),
        test(vmm_that_cannot_be_stopped_is_paused),
        test(events_tell_of_deliveries),
    };
    return cmocka_run_group_tests_name("live", tests, NULL, NULL);
}
