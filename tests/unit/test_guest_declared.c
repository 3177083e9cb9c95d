/* SPDX-License-Identifier: MIT */
/* What the guest library says of itself in its frames: the host is the test, of either kind. */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "frames.h"
#include "guest/internal.h"
#include "test.h"

enum { S = 0x12345678, OTHER_S = 0x7FFFFFFF, DEADLINE_MS = 10000 };

static struct hypefs_mailbox *arm(void)
{
    struct hypefs_mailbox *box = NULL;
    assert_int_equal(hypefs_mailbox_arm("a", NULL, 0, &box), 0);
    return box;
}

static uint8_t *frame_of(const struct hypefs_mailbox *box)
{
    return (uint8_t *)box->frame;
}

static void deliver_sized(struct hypefs_mailbox *box, const char *payload, size_t size,
                          uint32_t length, uint32_t sequence)
{
    memcpy(frame_of(box) + 264, payload, size);
    frame_store_u32(frame_of(box) + 260, length);
    __atomic_store_n((uint32_t *)(void *)(frame_of(box) + 256), htole32(sequence),
                     __ATOMIC_RELEASE);
}

static void deliver(struct hypefs_mailbox *box, const char *payload, uint32_t sequence)
{
    deliver_sized(box, payload, strlen(payload), (uint32_t)strlen(payload), sequence);
}

static bool takes(struct hypefs_mailbox *box)
{
    struct hypefs_mailbox *full = NULL;
    int r = hypefs_mailbox_wait(&box, 1, 0, &full);
    assert_true(r == 0 || r == -ETIMEDOUT);
    return r == 0;
}

static uint32_t taken(const struct hypefs_mailbox *box)
{
    return frame_load_u32(frame_of(box) + 4092);
}

static void sequence_is_told_as_soon_as_the_payload_is_in_hand(void **state)
{
    (void)state;
    struct hypefs_mailbox *box = arm();
    deliver(box, "{\"n\":1}", S);
    assert_int_equal(taken(box), 0);
    assert_true(takes(box));
    assert_int_equal(taken(box), S);
    assert_int_equal(frame_load_u32(frame_of(box) + 256), S);
    hypefs_mailbox_rearm(box);
    assert_true(frames_is_empty(frame_of(box), FRAME_FORK, S));
    hypefs_mailbox_close(box);
}

static void reply_is_in_the_armed_frame_until_the_next_payload(void **state)
{
    static const char reply[] = "{ \"n\":\t1.50 }\n";
    (void)state;
    struct hypefs_mailbox *box = arm();
    deliver(box, "{\"much\":\"longer than the reply, so that it would show\"}", S);
    assert_true(takes(box));
    assert_int_equal(hypefs_mailbox_reply(box, reply, strlen(reply), NULL), 0);
    assert_null(hypefs_mailbox_payload(box, NULL));
    assert_string_equal(frames_reply(frame_of(box), FRAME_FORK), reply);
    assert_int_equal(taken(box), S);
    deliver(box, "{}", OTHER_S);
    assert_true(takes(box));
    hypefs_mailbox_rearm(box);
    assert_true(frames_is_empty(frame_of(box), FRAME_FORK, OTHER_S));
    hypefs_mailbox_close(box);
}

static void reply_that_is_none_leaves_the_payload_in_hand(void **state)
{
    static const char *const wrong[] = {"", "1", "[]", "{", "{}{}", "{\"a\":\"\xff\"}", "{\"a\":}"};
    char longest[HYPEFS_MAILBOX_REPLY_MAX + 2];
    (void)state;
    struct hypefs_mailbox *box = arm();
    assert_int_equal(hypefs_mailbox_reply(box, "{}", 2, NULL), -EINVAL);
    deliver(box, "{}", S);
    assert_true(takes(box));
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(hypefs_mailbox_reply(box, wrong[i], strlen(wrong[i]), NULL), -EBADMSG);
    memset(longest, ' ', sizeof longest);
    memcpy(longest, "{}", 2);
    assert_int_equal(hypefs_mailbox_reply(box, longest, 3825, NULL), -EMSGSIZE);
    assert_non_null(hypefs_mailbox_payload(box, NULL));
    assert_int_equal(hypefs_mailbox_reply(box, longest, 3824, NULL), 0);
    assert_int_equal(frame_load_u32(frame_of(box) + 260), 0x80000000 | 3824);
    assert_memory_equal(frame_of(box) + 264, longest, 3824);
    assert_int_equal(taken(box), S); /* it ends where the tail begins */
    hypefs_mailbox_close(box);
}

static void sequence_that_comes_again_is_not_applied_again(void **state)
{
    (void)state;
    struct hypefs_mailbox *box = arm();
    deliver(box, "{\"n\":1}", S);
    assert_true(takes(box));
    hypefs_mailbox_rearm(box);
    frame_store_u32(frame_of(box) + 4092, 0); /* a page that is not the one it was */
    deliver(box, "{\"n\":1}", S);
    assert_false(takes(box));
    assert_true(frames_is_empty(frame_of(box), FRAME_FORK, S));
    deliver(box, "{\"n\":2}", OTHER_S);
    assert_true(takes(box));
    hypefs_mailbox_rearm(box);
    deliver(box, "{\"n\":3}", S);
    assert_true(takes(box));
    hypefs_mailbox_close(box);
}

/* The host still does not have it. */
static void refused_sequence_that_comes_again_is_tried_again(void **state)
{
    (void)state;
    struct hypefs_mailbox *box = arm();
    for (int i = 0; i < 2; i++) {
        deliver(box, "{}", S);
        assert_true(takes(box));
        assert_int_equal(hypefs_mailbox_fail(box, "no", NULL), 0);
        assert_int_equal(frame_load_u32(frame_of(box) + 260), FRAME_REFUSED);
        assert_string_equal((char *)frame_of(box) + 264, "no");
        assert_int_equal(taken(box), S);
    }
    hypefs_mailbox_close(box);
}

static void host_that_knows_plain_frames_only_is_served_each_time(void **state)
{
    (void)state;
    struct hypefs_mailbox *box = arm();
    deliver(box, "{}", S);
    assert_true(takes(box));
    hypefs_mailbox_rearm(box);
    for (int i = 0; i < 3; i++) {
        deliver(box, "{\"same\":true}", 1);
        assert_true(takes(box));
        assert_string_equal(hypefs_mailbox_payload(box, NULL), "{\"same\":true}");
        hypefs_mailbox_rearm(box);
        assert_true(frames_is_empty(frame_of(box), FRAME_FORK, S));
    }
    hypefs_mailbox_close(box);
}

static void payload_over_the_tail_is_taken_and_the_tail_written_anew(void **state)
{
    char payload[3832];
    size_t size;
    (void)state;
    struct hypefs_mailbox *box = arm();
    for (uint32_t length = 3825; length <= 3832; length++)
        for (int known = 0; known <= 1; known++) {
            memset(payload, 'p', sizeof payload);
            deliver_sized(box, payload, length, length, known ? length : 1);
            assert_true(takes(box));
            assert_memory_equal(hypefs_mailbox_payload(box, &size), payload, length);
            assert_int_equal(size, length);
            hypefs_mailbox_rearm(box);
            assert_true(frames_is_empty(frame_of(box), FRAME_FORK, 0));
            assert_int_equal(frame_of(box)[FRAME_FLAGS], box->pin.pinned);
        }
    hypefs_mailbox_close(box);
}

/* A host that takes every other delivery back, unless it was taken already. */
static struct hypefs_mailbox *contended;
static _Atomic bool stop_it;

static void *deliver_and_take_back(void *nothing)
{
    for (uint32_t i = 2; !stop_it; i++) {
        char payload[32];
        snprintf(payload, sizeof payload, "{\"n\":%u}", (unsigned)i);
        deliver(contended, payload, i);
        if (i % 2 == 0 &&
            taken(contended) != i) /* not frozen: the guest may store it after this look */
            __atomic_store_n((uint32_t *)(void *)(frame_of(contended) + 256), 0, __ATOMIC_SEQ_CST);
        while (!stop_it && frame_load_u32(frame_of(contended) + 256) != 0)
            sched_yield();
    }
    return nothing;
}

__attribute__((unused)) static void payload_that_is_taken_back_meanwhile_is_dropped(void **state)
{
    enum { ROUNDS = 2000 };
    pthread_t host;
    (void)state;
    contended = arm();
    stop_it = false;
    assert_int_equal(pthread_create(&host, NULL, deliver_and_take_back, NULL), 0);
    for (int got = 0; got < ROUNDS;)
        if (takes(contended)) {
            assert_int_equal(taken(contended), contended->sequence);
            hypefs_mailbox_rearm(contended);
            got++;
        }
    stop_it = true;
    pthread_join(host, NULL);
    hypefs_mailbox_close(contended);
}

static void page_says_that_it_is_pinned_only_if_it_is(void **state)
{
    (void)state;
    struct hypefs_mailbox *box = arm();
    assert_int_equal(frame_of(box)[4090], box->pin.pinned);
    if (box->pin.pinned)
        assert_int_equal(fcntl(box->pin.fd, F_GETFD), FD_CLOEXEC);
    int fd = box->pin.fd;
    bool pinned = box->pin.pinned;
    hypefs_mailbox_close(box);
    if (pinned)
        assert_int_equal(fcntl(fd, F_GETFD), -1);
}

/* From now on these two system calls fail, as in a container. */
static void forbid(const int calls[2])
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[0], 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[1], 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {.len = sizeof filter / sizeof *filter, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
        _exit(2);
}

/* Is a mailbox that is armed then pinned as wanted, and does it work? 0: it is. */
static int arm_without(const int calls[2], bool pinned)
{
    char path[64], target[64] = "";
    struct hypefs_mailbox *box = NULL;
    int status;
    pid_t child = fork();
    if (child == 0) {
        forbid(calls);
        int r = hypefs_mailbox_arm("a", NULL, 0, &box);
        if (r < 0 || box->pin.pinned != pinned || frame_of(box)[FRAME_FLAGS] != pinned)
            _exit(1);
        snprintf(path, sizeof path, "/proc/self/fd/%d", box->pin.fd);
        if (pinned && (readlink(path, target, sizeof target - 1) < 0 || memcmp(target, "pipe:", 5)))
            _exit(1);
        if (pinned && fcntl(box->pin.fd, F_GETFD) != FD_CLOEXEC)
            _exit(1);
        deliver(box, "{}", S);
        _exit(takes(box) ? 0 : 1);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status);
}

__attribute__((unused)) static void
page_is_pinned_by_a_pipe_where_io_uring_is_forbidden_or_not_at_all(void **state)
{
    (void)state;
    assert_int_equal(arm_without((const int[]){__NR_io_uring_setup, __NR_io_uring_setup}, true), 0);
    assert_int_equal(arm_without((const int[]){__NR_io_uring_register, __NR_io_uring_enter}, true),
                     0);
    assert_int_equal(arm_without((const int[]){__NR_io_uring_setup, __NR_vmsplice}, false), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sequence_is_told_as_soon_as_the_payload_is_in_hand),
        cmocka_unit_test(reply_is_in_the_armed_frame_until_the_next_payload),
        cmocka_unit_test(reply_that_is_none_leaves_the_payload_in_hand),
        cmocka_unit_test(sequence_that_comes_again_is_not_applied_again),
        cmocka_unit_test(refused_sequence_that_comes_again_is_tried_again),
        cmocka_unit_test(host_that_knows_plain_frames_only_is_served_each_time),
        cmocka_unit_test(payload_over_the_tail_is_taken_and_the_tail_written_anew),
#ifndef __SANITIZE_THREAD__ /* host and guest share the frame without locks, and a child is forked \
                             */
        cmocka_unit_test(payload_that_is_taken_back_meanwhile_is_dropped),
#endif
        cmocka_unit_test(page_says_that_it_is_pinned_only_if_it_is),
#ifndef __SANITIZE_THREAD__
        cmocka_unit_test(page_is_pinned_by_a_pipe_where_io_uring_is_forbidden_or_not_at_all),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
