/* SPDX-License-Identifier: MIT */
/* `events`: the lines that are kept for readers, the file that they are read from, and what they
 * say. */
#include <inttypes.h>
#include <poll.h>

#include "tree_fixture.h"

enum { LARGE = 1024 * 1024, TIME_LENGTH = sizeof "{\"time\":\"2026-01-02T03:04:05.678Z\"," - 1 };

static void add_number(struct event_ring *events, double number)
{
    cJSON *members = cJSON_CreateObject();
    cJSON_AddNumberToObject(members, "n", number);
    event_ring_add(events, members);
}

/* Without the times; owned. */
static char *without_times(const char *lines)
{
    char *ret = strdup(""), *longer = NULL;
    while (*lines) {
        size_t size = strcspn(lines, "\n");
        assert_int_equal(lines[size], '\n');
        assert_true(size > TIME_LENGTH);
        assert_memory_equal(lines, "{\"time\":\"20", 11);
        assert_memory_equal(lines + TIME_LENGTH - 3, "Z\",", 3);
        assert_true(asprintf(&longer, "%s{%.*s\n", ret, (int)(size - TIME_LENGTH),
                             lines + TIME_LENGTH) > 0);
        free(ret);
        ret = longer;
        lines += size + 1;
    }
    return ret;
}

static void assert_lines(const char *lines, const char *wanted)
{
    auto_free char *got = without_times(lines);
    assert_string_equal(got, wanted);
}

/* What one event_ring_take gives, with a NUL; owned. */
static char *take(struct event_ring *events, struct event_ring_reader *reader, size_t max)
{
    char *text = NULL;
    size_t size = 0;
    assert_int_equal(event_ring_take(events, reader, max, &text, &size), 0);
    text = realloc(text, size + 1);
    assert_non_null(text);
    text[size] = 0;
    return text;
}

static void assert_taken(struct event_ring *events, struct event_ring_reader *reader, size_t max,
                         const char *wanted)
{
    auto_free char *text = take(events, reader, max);
    assert_lines(text, wanted);
}

static int setup(void **state)
{
    return event_ring_create((struct event_ring **)state, NULL);
}

static int teardown(void **state)
{
    event_ring_destroy(*state);
    return 0;
}

static void lines_when_taken_are_whole_and_from_the_joining_on(void **state)
{
    struct event_ring *events = *state;
    struct event_ring_reader first, second;
    assert_false(event_ring_wanted(events));
    add_number(events, 0); /* nobody reads */
    event_ring_join(events, &first);
    assert_true(event_ring_wanted(events));
    assert_false(event_ring_pending(events, &first));
    assert_taken(events, &first, LARGE, "");
    add_number(events, 1);
    event_ring_join(events, &second);
    add_number(events, 2);
    add_number(events, 3);
    assert_taken(events, &first, 1, "{\"n\":1}\n");
    assert_true(event_ring_pending(events, &first));
    assert_taken(events, &second, LARGE, "{\"n\":2}\n{\"n\":3}\n");
    assert_taken(events, &first, 2 * (TIME_LENGTH + sizeof "\"n\":2}\n" - 1),
                 "{\"n\":2}\n{\"n\":3}\n");
    assert_false(event_ring_pending(events, &first));
    event_ring_leave(events);
    event_ring_leave(events);
    add_number(events, 4);
    event_ring_join(events, &first);
    assert_taken(events, &first, LARGE, "");
    event_ring_leave(events);
}

static void lines_when_too_many_for_a_slow_reader_are_counted(void **state)
{
    struct event_ring *events = *state;
    struct event_ring_reader slow, fast;
    event_ring_join(events, &slow);
    event_ring_join(events, &fast);
    for (int i = 0; i < EVENT_RING_LINES_MAX + 5; i++) {
        add_number(events, i);
        free(take(events, &fast, LARGE));
    }
    assert_taken(events, &fast, LARGE, "");
    assert_taken(events, &slow, LARGE, "{\"event\":\"lost\",\"count\":5}\n");
    assert_taken(events, &slow, 1, "{\"n\":5}\n");
    auto_free char *rest = take(events, &slow, (size_t)EVENT_RING_LINES_MAX * 100);
    assert_non_null(strstr(rest, "\"n\":8196}\n"));
    assert_false(event_ring_pending(events, &slow));
}

static void lines_when_long_are_kept_up_to_so_many_bytes(void **state)
{
    enum { LONG = 64 * 1024, COUNT = 2 * EVENT_RING_BYTES_MAX / LONG };
    struct event_ring *events = *state;
    struct event_ring_reader reader;
    auto_free char *text = malloc(LONG + 1);
    memset(text, 'x', LONG);
    text[LONG] = 0;
    event_ring_join(events, &reader);
    for (int i = 0; i < COUNT; i++) {
        cJSON *members = cJSON_CreateObject();
        cJSON_AddStringToObject(members, "text", text);
        event_ring_add(events, members);
    }
    auto_free char *lost = take(events, &reader, LARGE);
    assert_non_null(strstr(lost, "\"event\":\"lost\",\"count\":33}"));
    size_t bytes = 0;
    while (event_ring_pending(events, &reader)) {
        auto_free char *line = take(events, &reader, 1);
        bytes += strlen(line);
    }
    assert_in_range(bytes, EVENT_RING_BYTES_MAX - 2 * LONG, EVENT_RING_BYTES_MAX);
}

enum { THREADS = 4, EACH = 1000 };

struct teller {
    struct event_ring *events;
    int number;
};

static void *tell_many(void *argument)
{
    const struct teller *teller = argument;
    for (int i = 0; i < EACH; i++)
        add_number(teller->events, teller->number * EACH + i);
    return NULL;
}

/* Each thread's lines come in their order; at the end nothing is missing. */
static void count_lines(char *text, int *next, size_t *ret_lost)
{
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        const char *number = strstr(line, "\"n\":"), *count = strstr(line, "\"count\":");
        if (count) {
            *ret_lost += strtoul(count + 8, NULL, 10);
            continue;
        }
        assert_non_null(number);
        int n = atoi(number + 4), teller = n / EACH;
        assert_true(n % EACH >= next[teller]);
        next[teller] = n % EACH + 1;
    }
}

static void *read_all(void *argument)
{
    struct event_ring *events = argument;
    struct event_ring_reader reader;
    size_t lost = 0;
    uint64_t seen = 0;
    int next[THREADS] = {0};
    bool more;
    event_ring_join(events, &reader);
    do {
        more = event_ring_wait(events, &seen);
        auto_free char *text = take(events, &reader, LARGE);
        count_lines(text, next, &lost);
    } while (more || event_ring_pending(events, &reader));
    event_ring_leave(events);
    return NULL;
}

static void tellers_and_readers_when_many_get_along(void **state)
{
    struct event_ring *events = *state;
    struct event_ring_reader reader;
    struct teller tellers[THREADS];
    pthread_t telling[THREADS], reading[2];
    int next[THREADS] = {0};
    size_t lost = 0;
    event_ring_join(events, &reader);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&reading[i], NULL, read_all, events), 0);
    for (int i = 0; i < THREADS; i++) {
        tellers[i] = (struct teller){events, i};
        assert_int_equal(pthread_create(&telling[i], NULL, tell_many, &tellers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(telling[i], NULL);
    event_ring_end(events);
    for (int i = 0; i < 2; i++)
        pthread_join(reading[i], NULL);
    auto_free char *text = take(events, &reader, LARGE);
    count_lines(text, next, &lost);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(next[i], EACH);
    assert_int_equal(lost, 0);
    event_ring_leave(events);
}

/* ---- the file ---- */

static int start_read(struct tree *tree, struct handle *handle, off_t offset, size_t size,
                      struct caller *caller, char **ret, size_t *ret_size)
{
    caller_init(caller);
    return fs_read(tree->fs, handle, size, offset, &caller->waiter, ret, ret_size);
}

/* A read without waiting: the text, with a NUL; "" at the end. Owned. */
static char *read_now(struct tree *tree, struct handle *handle, off_t offset, size_t size)
{
    struct caller caller;
    char *text = NULL;
    size_t n = 0;
    int r = start_read(tree, handle, offset, size, &caller, &text, &n);
    if (r != 0)
        fail_msg("at %jd: %d", (intmax_t)offset, r);
    caller_wait(&caller, 0);
    text = realloc(text, n + 1);
    text[n] = 0;
    return text;
}

static int read_error(struct tree *tree, struct handle *handle, off_t offset, bool nonblocking)
{
    struct caller caller;
    char *text = NULL;
    size_t n = 0;
    caller_init(&caller);
    caller.waiter.nonblocking = nonblocking;
    int r = fs_read(tree->fs, handle, 100, offset, &caller.waiter, &text, &n);
    assert_null(text);
    return caller_wait(&caller, r);
}

static void read_when_nothing_happens_waits(void **state)
{
    struct tree *tree = *state;
    struct caller caller;
    char *text = NULL;
    size_t size = 0;
    struct handle *handle = tree_open(tree, "events", O_RDONLY);
    assert_int_equal(read_error(tree, handle, 0, true), -EAGAIN);
    assert_int_equal(start_read(tree, handle, 0, 100, &caller, &text, &size), FS_LATER);
    add_number(tree->events, 1);
    assert_int_equal(caller_wait(&caller, FS_LATER), 0); /* look again */
    text = read_now(tree, handle, 0, 100);
    assert_lines(text, "{\"n\":1}\n");
    size = strlen(text);
    assert_int_equal(read_error(tree, handle, (off_t)size, true), -EAGAIN);
    free(text);
    fs_release(tree->fs, handle);
    assert_false(event_ring_wanted(tree->events));
}

static void read_when_signalled_is_interrupted(void **state)
{
    struct tree *tree = *state;
    struct caller caller;
    char *text = NULL;
    size_t size = 0;
    struct handle *handle = tree_open(tree, "events", O_RDONLY);
    int r;
    do { /* what happened before may wake it up, late */
        assert_int_equal(start_read(tree, handle, 0, 100, &caller, &text, &size), FS_LATER);
        caller.waiter.tid = INT32_MAX; /* of no thread: it does not wait any more */
        fs_interrupt(tree->fs, &caller);
        r = caller_wait(&caller, FS_LATER);
    } while (r == 0);
    assert_int_equal(r, -EINTR);
    add_number(tree->events, 1); /* which is still there for the next */
    text = read_now(tree, handle, 0, 100);
    assert_lines(text, "{\"n\":1}\n");
    free(text);
    fs_release(tree->fs, handle);
}

/* As bash's `read` and head(1) do. */
static void read_when_sought_back_gives_the_same_lines(void **state)
{
    struct tree *tree = *state;
    struct handle *handle = tree_open(tree, "events", O_RDONLY);
    add_number(tree->events, 1);
    add_number(tree->events, 2);
    auto_free char *both = read_now(tree, handle, 0, LARGE);
    assert_lines(both, "{\"n\":1}\n{\"n\":2}\n");
    off_t line = (off_t)strcspn(both, "\n") + 1, end = (off_t)strlen(both);
    add_number(tree->events, 3);
    auto_free char *second = read_now(tree, handle, line, LARGE);
    assert_lines(second, "{\"n\":2}\n");
    auto_free char *third = read_now(tree, handle, end, 1);
    assert_string_equal(third, "{");
    auto_free char *rest = read_now(tree, handle, end + 1, LARGE);
    assert_string_equal(rest + TIME_LENGTH - 1, "\"n\":3}\n");
    assert_int_equal(read_error(tree, handle, 0, true), -ESPIPE);
    assert_int_equal(read_error(tree, handle, end + LARGE, true), -ESPIPE);
    fs_release(tree->fs, handle);
}

static void poll_when_something_happens_is_woken(void **state)
{
    struct tree *tree = *state;
    struct handle *handle = tree_open(tree, "events", O_RDONLY);
    assert_int_equal(fs_poll(tree->fs, handle, tree), 0);
    struct stat before = tree_stat(tree, "events");
    add_number(tree->events, 1);
    assert_true(gate_wait(&tree->woke, FIXTURE_FAR_MS));
    assert_int_equal(fs_poll(tree->fs, handle, NULL), POLLIN | POLLRDNORM);
    free(read_now(tree, handle, 0, 1)); /* the rest of the line is still to be read */
    assert_int_equal(fs_poll(tree->fs, handle, NULL), POLLIN | POLLRDNORM);
    free(read_now(tree, handle, 1, LARGE));
    assert_int_equal(fs_poll(tree->fs, handle, NULL), 0);
    struct stat after = tree_stat(tree, "events");
    assert_true(after.st_mtim.tv_sec > before.st_mtim.tv_sec ||
                (after.st_mtim.tv_sec == before.st_mtim.tv_sec &&
                 after.st_mtim.tv_nsec >= before.st_mtim.tv_nsec));
    fs_release(tree->fs, handle);
}

static void reader_when_the_daemon_stops_gets_the_rest_and_the_end(void **state)
{
    struct tree *tree = *state;
    struct handle *waits = tree_open(tree, "events", O_RDONLY);
    add_number(tree->events, 1);
    struct handle *late = tree_open(tree, "events", O_RDONLY);
    free(read_now(tree, waits, 0, 1));
    free(read_now(tree, waits, 1, LARGE));
    add_number(tree->events, 2);
    fs_stop(tree->fs);
    auto_free char *rest = read_now(tree, late, 0, LARGE);
    assert_lines(rest, "{\"n\":2}\n");
    auto_free char *end = read_now(tree, late, (off_t)strlen(rest), LARGE);
    assert_string_equal(end, "");
    fs_release(tree->fs, late);
}

static void read_that_waits_when_the_daemon_stops_gets_the_end(void **state)
{
    struct tree *tree = *state;
    struct caller caller;
    char *text = NULL;
    size_t size = 0;
    struct handle *waits = tree_open(tree, "events", O_RDONLY);
    assert_int_equal(start_read(tree, waits, 0, 100, &caller, &text, &size), FS_LATER);
    fs_stop(tree->fs);
    assert_int_equal(caller_wait(&caller, FS_LATER), 0);
    auto_free char *end = read_now(tree, waits, 0, 100);
    assert_string_equal(end, "");
    assert_int_equal(fs_poll(tree->fs, waits, NULL), POLLIN | POLLRDNORM | POLLHUP);
    fs_release(tree->fs, waits);
}

static void lines_when_instances_and_snapshots_come_and_go_say_so(void **state)
{
    struct tree *tree = *state;
    struct handle *handle = tree_open(tree, "events", O_RDONLY);
    assert_int_equal(tree_mkdir(tree, "instances/web-1"), 0);
    assert_int_equal(tree_put(tree, "instances/web-1/state", "running"), -EINVAL);
    assert_int_equal(tree_put(tree, "instances/web-1/snapshot", "base"), -EINVAL);
    assert_int_equal(tree_put(tree, "instances/web-1/state", "stopped"), 0);
    assert_int_equal(tree_rmdir(tree, "instances/web-1"), 0);
    world_publish_box(tree->world, "base");
    assert_int_equal(tree_rmdir(tree, "snapshots/base"), 0);
    auto_free char *text = read_now(tree, handle, 0, LARGE);
    assert_lines(text,
                 "{\"event\":\"instance-made\",\"instance\":\"web-1\",\"source\":null,"
                 "\"state\":\"created\"}\n"
                 "{\"event\":\"state-failed\",\"instance\":\"web-1\",\"state\":\"running\","
                 "\"error\":{\"code\":\"EINVAL\",\"message\":\"nothing to boot: write "
                 "{\\\"kernel\\\":\\\"/path\\\", …} to config first\"}}\n"
                 "{\"event\":\"snapshot-failed\",\"instance\":\"web-1\",\"snapshot\":\"base\","
                 "\"error\":{\"code\":\"EINVAL\",\"message\":\"snapshot base: an instance that is "
                 "created has no memory to snapshot: write running to its state first\"}}\n"
                 "{\"event\":\"state\",\"instance\":\"web-1\",\"from\":\"created\","
                 "\"state\":\"stopped\"}\n"
                 "{\"event\":\"instance-removed\",\"instance\":\"web-1\"}\n"
                 "{\"event\":\"snapshot-published\",\"snapshot\":\"base\"}\n"
                 "{\"event\":\"snapshot-removed\",\"snapshot\":\"base\"}\n");
    fs_release(tree->fs, handle);
}

/* There is no VMM to be found. */
static void lines_when_a_commit_fails_tell_each_step_and_no_secret(void **state)
{
    struct tree *tree = *state;
    tree_must_put(tree, BOX, "{\"payload\":{\"k\":\"s3cr3t\"},\"token\":\"t\"}");
    struct handle *handle = tree_open(tree, "events", O_RDONLY);
    assert_int_equal(tree_put(tree, NEW "commit", "web-1\n"), -EKEYREJECTED);
    assert_int_equal(tree_put(tree, NEW "commit", "No id\n"), -EINVAL);
    auto_free char *text = read_now(tree, handle, 0, LARGE);
    assert_null(strstr(text, "s3cr3t"));
    auto_free char *lines = without_times(text);
    static const char *const wanted[] = {
        "{\"event\":\"commit-begun\",\"instance\":\"web-1\",\"source\":\"snapshots/base\"}\n"
        "{\"event\":\"commit-step\",\"instance\":\"web-1\",\"source\":\"snapshots/base\","
        "\"phase\":\"validate\"}\n"
        "{\"event\":\"commit-step\",\"instance\":\"web-1\",\"source\":\"snapshots/base\","
        "\"phase\":\"locate\"}\n"
        "{\"event\":\"commit-failed\",\"instance\":\"web-1\",\"source\":\"snapshots/base\","
        "\"error\":{\"code\":\"EKEYREJECTED\",\"phase\":\"locate\",\"mailbox\":\"box\",",
        "{\"event\":\"commit-begun\",\"instance\":null,\"source\":\"snapshots/base\"}\n",
        ("{\"event\":\"commit-failed\",\"instance\":null,\"source\":\"snapshots/base\","
         "\"error\":{\"code\":\"EINVAL\",\"phase\":\"validate\",\"mailbox\":null,")};
    for (size_t i = 0; i < array_length(wanted); i++)
        if (!strstr(lines, wanted[i]))
            fail_msg("\"%s\" is not in \"%s\"", wanted[i], lines);
    fs_release(tree->fs, handle);
}

#define WITH_EVENTS(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_EVENTS(lines_when_taken_are_whole_and_from_the_joining_on),
        WITH_EVENTS(lines_when_too_many_for_a_slow_reader_are_counted),
        WITH_EVENTS(lines_when_long_are_kept_up_to_so_many_bytes),
        WITH_EVENTS(tellers_and_readers_when_many_get_along),
        IN_TREE(read_when_nothing_happens_waits),
        IN_TREE(read_when_signalled_is_interrupted),
        IN_TREE(read_when_sought_back_gives_the_same_lines),
        IN_TREE(poll_when_something_happens_is_woken),
        IN_TREE(reader_when_the_daemon_stops_gets_the_rest_and_the_end),
        IN_TREE(read_that_waits_when_the_daemon_stops_gets_the_end),
        IN_TREE(lines_when_instances_and_snapshots_come_and_go_say_so),
        WITH_BASE(lines_when_a_commit_fails_tell_each_step_and_no_secret),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
