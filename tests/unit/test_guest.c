/* SPDX-License-Identifier: MIT */
/* The guest library on the host: the test plays the host and writes into the frame itself. */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "frames.h"
#include "guest/internal.h"
#include "test.h"

enum {
    SECOND_NS = 1000000000,
    DEADLINE_MS = 10000,
    SCAN_CHUNK = 1 << 20,
    SCAN_MAPPING_MAX = 64 << 20
};

static struct hypefs_mailbox *arm(const char *name)
{
    struct hypefs_mailbox *box = NULL;
    assert_int_equal(hypefs_mailbox_arm(name, NULL, 0, &box), 0);
    assert_non_null(box);
    return box;
}

/* A copy of the frame as the host would see it. */
static void look(const struct hypefs_mailbox *box, uint8_t ret[FRAME_SIZE])
{
    memcpy(ret, (const void *)box->frame, FRAME_SIZE);
}

static void deliver_sized(struct hypefs_mailbox *box, const char *payload, size_t size,
                          uint32_t length)
{
    uint8_t *frame = (uint8_t *)box->frame;
    memcpy(frame + 264, payload, size);
    frame_store_u32(frame + 260, length);
    __atomic_store_n((uint32_t *)(void *)(frame + 256), htole32(1), __ATOMIC_RELEASE);
}

static void deliver(struct hypefs_mailbox *box, const char *payload)
{
    deliver_sized(box, payload, strlen(payload), (uint32_t)strlen(payload));
}

static struct hypefs_mailbox *wait_for(struct hypefs_mailbox *box)
{
    struct hypefs_mailbox *full = NULL;
    assert_int_equal(hypefs_mailbox_wait(&box, 1, DEADLINE_MS, &full), 0);
    assert_ptr_equal(full, box);
    return full;
}

static bool all_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

static void arm_without_token_lays_out_an_armed_frame(void **state)
{
    (void)state;
    struct hypefs_mailbox *box = arm("kernel.identity.v1");
    struct frame_marker marker;
    uint8_t frame[FRAME_SIZE];

    look(box, frame);
    assert_int_equal((uintptr_t)box->frame % 4096, 0);
    assert_true(frame_decode_marker(FRAME_FORK, frame, sizeof frame, &marker));
    assert_string_equal(marker.name, "kernel.identity.v1");
    assert_string_equal(hypefs_mailbox_name(box), "kernel.identity.v1");
    assert_int_equal(marker.token_size, 32);
    for (size_t i = 0; i < marker.token_size; i++)
        assert_non_null(strchr("0123456789abcdef", marker.token[i]));
    assert_true(frames_is_empty(frame, FRAME_FORK, 0));
    assert_null(hypefs_mailbox_payload(box, NULL));
    hypefs_mailbox_close(box);
}

static void arm_twice_gives_different_tokens(void **state)
{
    (void)state;
    struct hypefs_mailbox *a = arm("a"), *b = arm("a");
    uint8_t frame_a[FRAME_SIZE], frame_b[FRAME_SIZE];

    look(a, frame_a);
    look(b, frame_b);
    assert_memory_not_equal(frame_a, frame_b, 256);
    hypefs_mailbox_close(a);
    hypefs_mailbox_close(b);
}

static void arm_with_token_writes_exactly_these_bytes(void **state)
{
    (void)state;
    static const char expected[256] = "HYPEMAN_FORK_MAILBOX_V1\0db:1\0template-token";
    struct hypefs_mailbox *box;
    uint8_t frame[FRAME_SIZE];

    assert_int_equal(hypefs_mailbox_arm("db:1", "template-token", 14, &box), 0);
    look(box, frame);
    assert_memory_equal(frame, expected, sizeof expected);
    hypefs_mailbox_close(box);
}

static void arm_with_bad_values_is_einval(void **state)
{
    (void)state;
    static char long_name[66], long_token[129];
    static const struct {
        const char *name, *token;
        size_t token_size;
    } cases[] = {
        {"", NULL, 0},          {".", NULL, 0},   {"..", NULL, 0},       {"a b", NULL, 0},
        {"a/b", NULL, 0},       {"a=b", NULL, 0}, {"\xC3\xA9", NULL, 0}, {long_name, NULL, 0},
        {NULL, NULL, 0},        {"a", "", 0},     {"a", "x\0y", 3},      {"a", " \t\n", 3},
        {"a", long_token, 129}, {"a", NULL, 1},
    };
    struct hypefs_mailbox *const untouched = (struct hypefs_mailbox *)&cases;

    memset(long_name, 'n', 65);
    memset(long_token, 't', sizeof long_token);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct hypefs_mailbox *box = untouched;
        assert_int_equal(
            hypefs_mailbox_arm(cases[i].name, cases[i].token, cases[i].token_size, &box), -EINVAL);
        assert_ptr_equal(box, untouched);
    }
}

/* The VmFlags of the mapping that holds `address`, as /proc/self/smaps has them. */
static void vm_flags(const void *address, char *ret, size_t size)
{
    char line[512];
    bool inside = false;
    FILE *file = fopen("/proc/self/smaps", "re");

    assert_non_null(file);
    ret[0] = '\0';
    while (fgets(line, sizeof line, file)) {
        uintptr_t start, end;
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &start, &end) == 2)
            inside = start <= (uintptr_t)address && (uintptr_t)address < end;
        else if (inside && strncmp(line, "VmFlags:", 8) == 0)
            snprintf(ret, size, "%s", line);
    }
    fclose(file);
}

/* The address sanitizer's runtime makes mlock() do nothing: it would "lock" nothing at all, too. */
static bool mlock_is_real(void)
{
    return mlock(NULL, FRAME_SIZE) < 0;
}

static void arm_locks_the_page_and_keeps_it_from_children_and_dumps(void **state)
{
    (void)state;
    struct hypefs_mailbox *box = arm("a");
    char flags[512];

    vm_flags((const void *)box->frame, flags, sizeof flags);
    if (mlock_is_real())
        assert_non_null(strstr(flags, " lo "));
    assert_non_null(strstr(flags, " dc "));
    assert_non_null(strstr(flags, " dd "));
    assert_null(strstr(flags, " mg "));
    hypefs_mailbox_close(box);
}

static void arm_then_fork_leaves_the_page_to_the_parent_alone(void **state)
{
    (void)state;
    struct hypefs_mailbox *box = arm("a");
    int status;

    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        unsigned char resident;
        int r = mincore((void *)box->frame, FRAME_SIZE, &resident);
        _exit(r < 0 && errno == ENOMEM ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    deliver(box, "{\"after\":\"fork\"}");
    assert_string_equal(hypefs_mailbox_payload(wait_for(box), NULL), "{\"after\":\"fork\"}");
    hypefs_mailbox_close(box);
}

/* Markers of that name in [start, end) of our own memory, read through `chunk`. */
static unsigned count_markers(int memory, uintptr_t start, uintptr_t end, const char *name,
                              uint8_t *chunk)
{
    unsigned count = 0;
    for (uintptr_t at = start; at < end; at += SCAN_CHUNK - FRAME_MARKER_MAX) {
        size_t want = end - at < SCAN_CHUNK ? end - at : SCAN_CHUNK;
        ssize_t n = pread(memory, chunk, want, (off_t)at);
        for (ssize_t i = 0; i + FRAME_MARKER_MAX <= n; i++) {
            struct frame_marker marker;
            if (chunk[i] == 'H' &&
                frame_decode_marker(FRAME_FORK, chunk + i, (size_t)(n - i), &marker) &&
                strcmp(marker.name, name) == 0)
                count++;
        }
    }
    return count;
}

static void arm_leaves_no_second_marker_in_memory(void **state)
{
    (void)state;
    struct hypefs_mailbox *box = arm("only.once");
    uint8_t *chunk =
        mmap(NULL, SCAN_CHUNK, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int memory = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512];
    unsigned count = 0;

    assert_true(chunk != MAP_FAILED && memory >= 0 && maps);
    while (fgets(line, sizeof line, maps)) {
        uintptr_t start, end;
        assert_int_equal(sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &start, &end), 2);
        bool own = start <= (uintptr_t)chunk && (uintptr_t)chunk < end;
        if (!own && end - start <= SCAN_MAPPING_MAX)
            count += count_markers(memory, start, end, "only.once", chunk);
    }
    fclose(maps);
    close(memory);
    munmap(chunk, SCAN_CHUNK);
    assert_int_equal(count, 1);
    hypefs_mailbox_close(box);
}

static void wait_when_delivered_returns_the_payload(void **state)
{
    (void)state;
    struct hypefs_mailbox *box = arm("a");
    size_t size = 0;

    deliver(box, "{\"n\":12345678901234567890}");
    struct hypefs_mailbox *full = wait_for(box);
    assert_string_equal(hypefs_mailbox_payload(full, &size), "{\"n\":12345678901234567890}");
    assert_int_equal(size, strlen("{\"n\":12345678901234567890}"));
    /* What is in hand is a copy: nothing that happens to the page changes it. */
    memset((void *)(box->frame + 264), 'x', 16);
    assert_string_equal(hypefs_mailbox_payload(full, NULL), "{\"n\":12345678901234567890}");
    hypefs_mailbox_close(box);
}

static void wait_when_the_payload_fills_the_frame_returns_all_of_it(void **state)
{
    (void)state;
    struct hypefs_mailbox *box = arm("a");
    char payload[FRAME_CAPACITY];
    size_t size;

    memset(payload, 'p', sizeof payload);
    deliver_sized(box, payload, sizeof payload, sizeof payload);
    const char *got = hypefs_mailbox_payload(wait_for(box), &size);
    assert_int_equal(size, 3832);
    assert_memory_equal(got, payload, size);
    assert_int_equal(got[size], '\0');
    hypefs_mailbox_close(box);
}

static void wait_when_nothing_comes_times_out(void **state)
{
    (void)state;
    struct hypefs_mailbox *box = arm("a"), *full = NULL;

    assert_int_equal(hypefs_mailbox_wait(&box, 1, 0, &full), -ETIMEDOUT);
    assert_int_equal(hypefs_mailbox_wait(&box, 1, 5, &full), -ETIMEDOUT);
    assert_null(full);
    hypefs_mailbox_close(box);
}

static void wait_without_anything_to_wait_for_is_einval(void **state)
{
    (void)state;
    struct hypefs_mailbox *box = arm("a"), *full = NULL;

    assert_int_equal(hypefs_mailbox_wait(&box, 0, -1, &full), -EINVAL);
    deliver(box, "{}");
    wait_for(box);
    assert_int_equal(hypefs_mailbox_wait(&box, 1, -1, &full), -EINVAL);
    assert_null(full);
    hypefs_mailbox_close(box);
}

static void *deliver_from_outside(void *box)
{
    deliver(box, "{\"from\":\"outside\"}");
    return NULL;
}

static void wait_when_delivered_meanwhile_wakes_up(void **state)
{
    (void)state;
    struct hypefs_mailbox *box = arm("a"), *full = NULL;
    pthread_t host;

    assert_int_equal(hypefs_mailbox_wait(&box, 1, 0, &full), -ETIMEDOUT);
    assert_int_equal(pthread_create(&host, NULL, deliver_from_outside, box), 0);
    assert_string_equal(hypefs_mailbox_payload(wait_for(box), NULL), "{\"from\":\"outside\"}");
    pthread_join(host, NULL);
    hypefs_mailbox_close(box);
}

/* Instead of sleeping: what was asked for last, and the time goes on by as much. */
static struct {
    long last_ns, passed_ns, left; /* naps until a payload is delivered to `box` */
    struct hypefs_mailbox *box;
} naps;

int __real_nanosleep(const struct timespec *interval, struct timespec *left);
int __wrap_nanosleep(const struct timespec *interval, struct timespec *left);
int __wrap_nanosleep(const struct timespec *interval, struct timespec *left)
{
    if (!naps.box)
        return __real_nanosleep(interval, left);
    naps.last_ns = interval->tv_nsec;
    naps.passed_ns += interval->tv_nsec;
    if (--naps.left == 0)
        deliver(naps.box, "{}");
    return 0;
}

int __real_clock_gettime(clockid_t clock, struct timespec *ret);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ret);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ret)
{
    if (!naps.box)
        return __real_clock_gettime(clock, ret);
    *ret = (struct timespec){.tv_sec = 1 + naps.passed_ns / SECOND_NS,
                             .tv_nsec = naps.passed_ns % SECOND_NS};
    return 0;
}

/* A payload comes to `box` after so many looks at all of them, the last after that rest. */
static void wait_and_rest(struct hypefs_mailbox *const boxes[2], struct hypefs_mailbox *box,
                          int looks, long last_ns)
{
    struct hypefs_mailbox *full = NULL;
    naps.box = box;
    naps.left = looks;
    assert_int_equal(hypefs_mailbox_wait(boxes, 2, -1, &full), 0);
    assert_ptr_equal(full, box);
    hypefs_mailbox_rearm(full);
    naps.box = NULL;
    assert_int_equal(naps.last_ns, last_ns);
}

/* A template is looked at often, a clone that has had its payload more often for 10 ms, and then
 * less and less. */
static void wait_after_a_payload_looks_often_and_then_less(void **state)
{
    struct hypefs_mailbox *const boxes[2] = {arm("box"), arm("fox")};
    (void)state;
    wait_and_rest(boxes, boxes[0], 100, 2000000);
    wait_and_rest(boxes, boxes[0], 200, 50000);
    wait_and_rest(boxes, boxes[0], 201, 2000000);
    wait_and_rest(boxes, boxes[1], 245, 200000000);
    hypefs_mailbox_close(boxes[0]);
    hypefs_mailbox_close(boxes[1]);
}

static void wait_with_two_pending_loses_neither(void **state)
{
    (void)state;
    struct hypefs_mailbox *boxes[] = {arm("a"), arm("b"), arm("c")}, *full = NULL;

    deliver(boxes[2], "{\"to\":\"c\"}");
    deliver(boxes[1], "{\"to\":\"b\"}");
    assert_int_equal(hypefs_mailbox_wait(boxes, 3, DEADLINE_MS, &full), 0);
    assert_ptr_equal(full, boxes[1]);
    assert_int_equal(hypefs_mailbox_wait(boxes, 3, DEADLINE_MS, &full), 0);
    assert_ptr_equal(full, boxes[2]);
    assert_string_equal(hypefs_mailbox_payload(boxes[1], NULL), "{\"to\":\"b\"}");
    assert_string_equal(hypefs_mailbox_payload(boxes[2], NULL), "{\"to\":\"c\"}");
    assert_int_equal(hypefs_mailbox_wait(boxes, 3, 0, &full), -ETIMEDOUT);
    for (size_t i = 0; i < 3; i++)
        hypefs_mailbox_close(boxes[i]);
}

static void wait_when_the_length_is_not_valid_refuses(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {0, 3833, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF};

    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct hypefs_mailbox *box = arm("a"), *full = NULL;
        uint8_t frame[FRAME_SIZE];
        deliver_sized(box, "{}", 2, lengths[i]);
        assert_int_equal(hypefs_mailbox_wait(&box, 1, 0, &full), -ETIMEDOUT);
        assert_null(hypefs_mailbox_payload(box, NULL));
        look(box, frame);
        assert_int_equal(frame_load_u32(frame + 256), 0);
        assert_int_equal(frame_load_u32(frame + 260), FRAME_REFUSED);
        assert_string_equal((char *)frame + 264, "the payload's length is not valid");
        hypefs_mailbox_close(box);
    }
}

static void on_alarm(int signal)
{
    (void)signal;
}

static void wait_when_a_signal_handler_runs_is_eintr(void **state)
{
    (void)state;
    struct hypefs_mailbox *box = arm("a"), *full = NULL;
    const struct sigaction action = {.sa_handler = on_alarm};
    const struct itimerval every = {.it_value.tv_usec = 3000, .it_interval.tv_usec = 3000};
    const struct itimerval off = {0};
    struct sigaction before;

    sigaction(SIGALRM, &action, &before);
    setitimer(ITIMER_REAL, &every, NULL);
    int r = hypefs_mailbox_wait(&box, 1, DEADLINE_MS, &full);
    setitimer(ITIMER_REAL, &off, NULL);
    sigaction(SIGALRM, &before, NULL);
    assert_int_equal(r, -EINTR);
    hypefs_mailbox_close(box);
}

static void rearm_wipes_the_payload_everywhere(void **state)
{
    (void)state;
    struct hypefs_mailbox *box = arm("a");
    struct frame_marker marker;
    uint8_t frame[FRAME_SIZE];

    deliver(box, "{\"secret\":\"hunter2\"}");
    wait_for(box);
    hypefs_mailbox_rearm(box);
    look(box, frame);
    assert_true(frames_is_empty(frame, FRAME_FORK, 0));
    assert_true(all_zero((uint8_t *)box->payload, sizeof box->payload));
    assert_true(frame_decode_marker(FRAME_FORK, frame, sizeof frame, &marker));
    deliver(box, "{\"n\":2}");
    assert_string_equal(hypefs_mailbox_payload(wait_for(box), NULL), "{\"n\":2}");
    hypefs_mailbox_close(box);
}

static void rearm_with_nothing_in_hand_keeps_what_was_delivered(void **state)
{
    (void)state;
    struct hypefs_mailbox *box = arm("a");

    deliver(box, "{\"n\":1}");
    hypefs_mailbox_rearm(box);
    assert_string_equal(hypefs_mailbox_payload(wait_for(box), NULL), "{\"n\":1}");
    hypefs_mailbox_close(box);
}

static void close_of_nothing_does_nothing(void **state)
{
    (void)state;
    hypefs_mailbox_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arm_without_token_lays_out_an_armed_frame),
        cmocka_unit_test(arm_twice_gives_different_tokens),
        cmocka_unit_test(arm_with_token_writes_exactly_these_bytes),
        cmocka_unit_test(arm_with_bad_values_is_einval),
        cmocka_unit_test(arm_locks_the_page_and_keeps_it_from_children_and_dumps),
        cmocka_unit_test(arm_then_fork_leaves_the_page_to_the_parent_alone),
        cmocka_unit_test(arm_leaves_no_second_marker_in_memory),
        cmocka_unit_test(wait_when_delivered_returns_the_payload),
        cmocka_unit_test(wait_when_the_payload_fills_the_frame_returns_all_of_it),
        cmocka_unit_test(wait_when_nothing_comes_times_out),
        cmocka_unit_test(wait_without_anything_to_wait_for_is_einval),
        cmocka_unit_test(wait_when_delivered_meanwhile_wakes_up),
        cmocka_unit_test(wait_after_a_payload_looks_often_and_then_less),
        cmocka_unit_test(wait_with_two_pending_loses_neither),
        cmocka_unit_test(wait_when_the_length_is_not_valid_refuses),
        cmocka_unit_test(wait_when_a_signal_handler_runs_is_eintr),
        cmocka_unit_test(rearm_wipes_the_payload_everywhere),
        cmocka_unit_test(rearm_with_nothing_in_hand_keeps_what_was_delivered),
        cmocka_unit_test(close_of_nothing_does_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
