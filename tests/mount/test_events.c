/* SPDX-License-Identifier: MIT */
/* `events`, with the tools that people read it with. */
#include "fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tiny_guest.h"
#include "util/cleanup.h"

enum { LONG_MS = 30000 };

/* A reader that waits: what it is told from here on, it gets. */
static struct harness_child start_reader(struct harness *h, const char *shell, const char *script)
{
    struct harness_child child = harness_start_shell(h, shell, script);
    harness_await_blocked(h, child.pid);
    return child;
}

/* It has read that far. What nobody has read when the daemon ends is gone. */
static void await_read(struct harness *h, const struct harness_child *reader, const char *text)
{
    harness_await(h, harness_format(h, "/proc/self/fd/%d", reader->out), text);
}

static int open_events(struct harness *h, int flags)
{
    int fd = open(harness_path(h, "events"), O_RDONLY | O_CLOEXEC | flags);
    assert_works(fd);
    return fd;
}

static void make(struct harness *h, const char *id)
{
    assert_works(mkdir(harness_path(h, "instances/%s", id), 0755));
}

/* Of lines of JSON, what jq makes of each. */
static const char *filtered(struct harness *h, const char *lines, const char *filter)
{
    harness_put(harness_format(h, "%s/lines", h->directory), lines);
    return assert_shell("bash", harness_format(h, "jq -r '%s' $T/lines", filter), 0).out;
}

static const char told[] = "[.event, .instance // .snapshot, .source // .from, .phase // .state, "
                           ".exit.signal // .error.code] | map(. // \"-\") | join(\" \")";

static void cat_when_an_instance_is_forked_and_killed_tells_its_life(void **state)
{
    struct harness *h = *state;
    struct harness_child reader = start_reader(h, "bash", "exec cat events");
    harness_put(harness_path(h, "snapshots/base/forks/new/mailboxes/m"), "{\"k\":\"s3cr3t\"}");
    harness_put(harness_path(h, "snapshots/base/forks/new/commit"), "f1");
    assert_shell("bash", "echo paused > instances/f1/state", 0);
    assert_shell("bash", "echo running > instances/f1/state", 0);
    assert_shell("bash", "echo s1 > instances/f1/snapshot", 0);
    assert_shell("bash", "kill -KILL $(jq .pid instances/f1/info)", 0);
    harness_await(h, harness_path(h, "instances/f1/state"), "stopped");
    assert_works(rmdir(harness_path(h, "instances/f1")));
    assert_works(rmdir(harness_path(h, "snapshots/s1")));
    await_read(h, &reader, "snapshot-removed");
    harness_await_blocked(h, reader.pid);
    assert_int_equal(harness_unmount(h), 0);
    struct harness_result result = harness_finish(h, &reader);
    assert_int_equal(result.status, 0);
    assert_string_equal(result.err, "");
    assert_null(strstr(result.out, "s3cr3t"));
    assert_string_equal(filtered(h, result.out, told), "commit-begun f1 snapshots/base - -\n"
                                                       "commit-step f1 snapshots/base validate -\n"
                                                       "commit-step f1 snapshots/base locate -\n"
                                                       "commit-step f1 snapshots/base load -\n"
                                                       "commit-step f1 snapshots/base patch -\n"
                                                       "commit-step f1 snapshots/base resume -\n"
                                                       "commit-step f1 snapshots/base network -\n"
                                                       "commit-step f1 snapshots/base ack -\n"
                                                       "commit-step f1 snapshots/base publish -\n"
                                                       "instance-made f1 snapshots/base running -\n"
                                                       "committed f1 snapshots/base - -\n"
                                                       "state f1 running paused -\n"
                                                       "state f1 paused running -\n"
                                                       "snapshot-published s1 - - -\n"
                                                       "vmm-ended f1 - - SIGKILL\n"
                                                       "state f1 running stopped -\n"
                                                       "instance-removed f1 - - -\n"
                                                       "snapshot-removed s1 - - -\n");
    assert_string_equal(filtered(h, result.out,
                                 "select(.time | test(\"^20[0-9-]{8}T[0-9:]{8}[.][0-9]{3}Z$\") | "
                                 "not)"),
                        "");
}

/* An ack that is waited for: the reader is told while the commit is under way. */
static void reader_when_a_commit_waits_knows_where(void **state)
{
    struct harness *h = *state;
    struct harness_child reader = start_reader(h, "bash", "exec cat events > $T/told");
    const char *lines = harness_format(h, "%s/told", h->directory);
    tiny_guest_stage(h, "new", "m", "{}", LONG_MS);
    struct harness_child commit = tiny_guest_commit(h, "new", "f1");
    int port = tiny_guest_port(h, "m");
    harness_await(h, lines, "\"phase\":\"ack\"}\n");
    assert_null(strstr(harness_get(h, lines), "commit-failed"));
    tiny_guest_send(port, "stage=failed mailbox=m reason=no");
    assert_int_equal(harness_finish(h, &commit).status, 1);
    harness_await(h, lines,
                  "\"error\":{\"code\":\"EREMOTEIO\",\"phase\":\"ack\",\"mailbox\":\"m\",");
    assert_works(kill(reader.pid, SIGTERM));
    assert_int_equal(harness_finish(h, &reader).status, 128 + SIGTERM);
}

static void read_without_blocking_gives_eagain_or_whole_lines(void **state)
{
    struct harness *h = *state;
    char bytes[4096];
    auto_close int fd = open_events(h, O_NONBLOCK);
    assert_fails(read(fd, bytes, sizeof bytes), EAGAIN);
    make(h, "y");
    make(h, "z");
    ssize_t size = read(fd, bytes, sizeof bytes - 1);
    assert_works(size);
    bytes[size] = 0;
    assert_string_equal(filtered(h, bytes, ".instance"), "y\nz\n");
    assert_fails(read(fd, bytes, sizeof bytes), EAGAIN);
    auto_close int later = open_events(h, 0); /* and as it is set later */
    assert_works(fcntl(later, F_SETFL, O_NONBLOCK));
    assert_fails(read(later, bytes, sizeof bytes), EAGAIN);
}

static void poll_waits_for_the_next_line(void **state)
{
    struct harness *h = *state;
    char bytes[4096];
    auto_close int fd = open_events(h, O_NONBLOCK);
    struct pollfd look = {.fd = fd, .events = POLLIN};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(poll(&look, 1, 0), 0);
        struct harness_child maker =
            harness_start_shell(h, "bash", harness_format(h, "mkdir instances/y%d", i));
        assert_int_equal(poll(&look, 1, HARNESS_DEADLINE_MS), 1);
        assert_int_equal(look.revents, POLLIN);
        assert_true(read(fd, bytes, sizeof bytes) > 0);
        assert_int_equal(harness_finish(h, &maker).status, 0);
    }
}

static void readers_when_two_get_the_same(void **state)
{
    struct harness *h = *state;
    struct harness_child first = start_reader(h, "bash", "exec cat events");
    struct harness_child second = start_reader(h, "dash", "exec cat events");
    make(h, "y");
    await_read(h, &first, "instance-made");
    await_read(h, &second, "instance-made");
    assert_int_equal(harness_unmount(h), 0);
    struct harness_result one = harness_finish(h, &first), two = harness_finish(h, &second);
    assert_string_equal(one.out, two.out);
    assert_string_equal(filtered(h, one.out, ".event"), "instance-made\n");
}

/* Nothing happens at all. */
static void reader_when_the_daemon_stops_sees_the_end(void **state)
{
    struct harness *h = *state;
    struct harness_child reader = start_reader(h, "bash", "exec cat events");
    assert_int_equal(harness_unmount(h), 0);
    struct harness_result result = harness_finish(h, &reader);
    assert_string_equal(result.err, "");
    assert_int_equal(result.status, 0);
    assert_string_equal(result.out, "");
}

static void reader_when_interrupted_ends_at_once(void **state)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGKILL, SIGHUP};
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(signals); i++) {
        struct harness_child reader = start_reader(h, "bash", "exec cat events");
        assert_works(kill(reader.pid, signals[i]));
        assert_int_equal(harness_finish(h, &reader).status, 128 + signals[i]);
    }
}

/* A handler runs; what happens then is not lost. */
static void read_when_interrupted_by_a_handler_can_be_made_again(void **state)
{
    struct harness *h = *state;
    struct harness_child reader =
        harness_start(h, (const char *const[]){"python3", "-c",
                                               "import os, signal, sys\n"
                                               "class Told(Exception): pass\n"
                                               "def tell(number, frame): raise Told\n"
                                               "signal.signal(signal.SIGUSR1, tell)\n"
                                               "fd = os.open('events', os.O_RDONLY)\n"
                                               "try: os.read(fd, 4096)\n"
                                               "except Told: os.mkdir('instances/y')\n"
                                               "sys.stdout.write(os.read(fd, 4096).decode())\n",
                                               NULL});
    harness_await_blocked(h, reader.pid);
    assert_works(kill(reader.pid, SIGUSR1));
    struct harness_result result = harness_finish(h, &reader);
    assert_int_equal(result.status, 0);
    assert_string_equal(filtered(h, result.out, ".instance"), "y\n");
}

static void slow_reader_loses_the_oldest_lines_and_is_told(void **state)
{
    enum { COMMITS = 4000, LINES = 3 * COMMITS, ROOM = 8 * 1024 * 1024 };
    struct harness *h = *state;
    auto_close int slow = open_events(h, O_NONBLOCK);
    auto_close int commit =
        open(harness_path(h, "snapshots/base/forks/new/commit"), O_WRONLY | O_CLOEXEC);
    struct harness_child fast = start_reader(h, "bash", "exec cat events > $T/fast");
    for (int i = 0; i < COMMITS; i++)
        assert_fails(write(commit, i % 2 ? "No id" : "Nor this", i % 2 ? 5 : 8), EINVAL);
    char *text = harness_alloc(h, ROOM);
    ssize_t n;
    size_t size = 0;
    while ((n = read(slow, text + size, ROOM - size - 1)) > 0) {
        size += (size_t)n;
        assert_int_equal(text[size - 1], '\n'); /* whole lines */
    }
    assert_errno(errno, EAGAIN);
    text[size] = 0;
    const char *lost = filtered(h, text, "select(.event == \"lost\") | .count");
    assert_true(atoi(lost) > 0 && atoi(lost) < LINES);
    const char *sum = assert_shell("bash", "jq -s \"map(.count // 1) | add\" $T/lines", 0).out;
    assert_int_equal(atoi(sum), LINES);
    assert_contains(harness_format(h, "%.100s", text), "\"event\":\"lost\"");
    harness_await_blocked(h, fast.pid); /* it has read all */
    assert_int_equal(harness_unmount(h), 0);
    assert_int_equal(harness_finish(h, &fast).status, 0);
    assert_shell("bash",
                 harness_format(h, "[ $(jq -s \"map(.count // 1) | add\" $T/fast) = %d ]", LINES),
                 0);
}

/* A pipeline's first program cannot be watched: it is told until it has heard. */
static bool heard(void *argument)
{
    struct harness *h = argument;
    const char *id = harness_path(h, "instances/again");
    return mkdir(id, 0755) == 0 && rmdir(id) == 0 &&
           harness_get(h, harness_format(h, "%s/heard", h->directory))[0];
}

static void tools_that_follow_get_each_line_as_it_comes(void **state)
{
    static const char *const tools[] = {
        "cat events | jq --unbuffered -r .event > $T/heard",
        "jq --unbuffered -r .event events > $T/heard",
        "tail -n +1 -f events > $T/heard",
        "head -n 1 events > $T/heard",
        "while read -r line; do echo \"$line\"; done < events > $T/heard",
        "dd if=events bs=7 count=5 status=none > $T/heard",
        "grep --line-buffered made events > $T/heard",
        "python3 -u -c 'print(open(\"events\").readline())' > $T/heard",
    };
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(tools); i++) {
        harness_put(harness_format(h, "%s/heard", h->directory), "");
        struct harness_child tool = harness_start_shell(h, "bash", tools[i]);
        harness_await_that(heard, h, tools[i]);
        kill(-tool.pid, SIGKILL);
        assert_string_equal(harness_finish(h, &tool).err, "");
    }
}

static void shell_that_reads_line_by_line_misses_none(void **state)
{
    struct harness *h = *state;
    struct harness_child reader = start_reader(
        h, "bash",
        "{ read -r line; /bin/echo \"$line\"; read -r line; echo \"$line\"; head -n 1; cat; } "
        "< events");
    for (int i = 0; i < 20; i++)
        make(h, harness_format(h, "y%d", i));
    await_read(h, &reader, "y19");
    assert_int_equal(harness_unmount(h), 0);
    const char *seen = filtered(h, harness_finish(h, &reader).out, ".instance");
    for (int i = 0; i < 20; i++) {
        const char *id = harness_format(h, "y%d\n", i);
        assert_memory_equal(seen, id, strlen(id));
        seen += strlen(id);
    }
    assert_string_equal(seen, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        mounted_test(read_without_blocking_gives_eagain_or_whole_lines),
        mounted_test(poll_waits_for_the_next_line),
        mounted_test(readers_when_two_get_the_same),
        mounted_test(reader_when_the_daemon_stops_sees_the_end),
        mounted_test(reader_when_interrupted_ends_at_once),
        mounted_test(read_when_interrupted_by_a_handler_can_be_made_again),
        mounted_test(slow_reader_loses_the_oldest_lines_and_is_told),
        mounted_test(tools_that_follow_get_each_line_as_it_comes),
        mounted_test(shell_that_reads_line_by_line_misses_none),
        guest_test(cat_when_an_instance_is_forked_and_killed_tells_its_life),
        guest_test(reader_when_a_commit_waits_knows_where),
    };
    harness_enter();
    if (!tiny_guest_possible())
        return HARNESS_SKIPPED;
    return cmocka_run_group_tests_name("events", tests, NULL, NULL);
}
