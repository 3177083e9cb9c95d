/* SPDX-License-Identifier: MIT */
/* A child of this program stands still, as a VMM would. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hypervisor/freeze.h"
#include "test.h"
#include "util/process.h"

enum { THREADS = 8, PATIENT_MS = 30000 };

/* What this program and its children have in common. */
struct shared {
    atomic_ulong counts[THREADS]; /* each by a thread that counts for ever */
    atomic_ulong born;            /* threads that came and went */
    atomic_ulong signals;
    atomic_bool frozen;
};

struct fixture {
    struct shared *shared;
    pid_t child;
};

static struct shared *shared; /* the children's */

static void *count(void *counter)
{
    for (;;)
        atomic_fetch_add((atomic_ulong *)counter, 1);
    return NULL;
}

static void *nothing(void *argument)
{
    atomic_fetch_add(&shared->born, 1);
    return argument;
}

static void on_signal(int number)
{
    (void)number;
    atomic_fetch_add(&shared->signals, 1);
}

static void die_with_parent(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGUSR1, on_signal);
}

static pid_t start(void (*run)(void))
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0)
        return pid;
    die_with_parent();
    run();
    _exit(0);
}

static void count_with_threads(void)
{
    pthread_t thread;
    for (size_t i = 1; i < THREADS; i++)
        if (pthread_create(&thread, NULL, count, &shared->counts[i]) != 0)
            _exit(1);
    count(&shared->counts[0]);
}

static void begin_threads(void)
{
    pthread_t thread;
    for (;;)
        if (pthread_create(&thread, NULL, nothing, NULL) == 0)
            pthread_join(thread, NULL);
}

static void sleep_for_ever(void)
{
    for (;;)
        pause();
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    if (!fixture)
        return -1;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    fixture->shared = shared;
    *state = fixture;
    return shared == MAP_FAILED ? -1 : 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    if (fixture->child > 0) {
        kill(fixture->child, SIGKILL);
        waitpid(fixture->child, NULL, 0);
    }
    munmap(fixture->shared, sizeof *fixture->shared);
    free(fixture);
    return 0;
}

static double later(void)
{
    return process_now_ms() + PATIENT_MS;
}

static unsigned long sum(void)
{
    unsigned long all = atomic_load(&shared->born);
    for (size_t i = 0; i < THREADS; i++)
        all += atomic_load(&shared->counts[i]);
    return all;
}

static void await_more_than(const atomic_ulong *counter, unsigned long before)
{
    const double deadline_ms = later();
    while (atomic_load(counter) <= before) {
        assert_true(process_now_ms() < deadline_ms);
        sched_yield();
    }
}

/* A work: the context is an int, which becomes 1 if nothing of it runs. */
static int look(void *context, struct error *err)
{
    unsigned long before = sum();
    (void)err;
    for (int i = 0; i < 1000; i++)
        sched_yield();
    *(int *)context = sum() == before;
    return 0;
}

static void assert_freezes(pid_t child)
{
    struct error err = {0};
    double ms = -1;
    int still = 0;
    if (freeze_run(child, later(), look, &still, &ms, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(still, 1);
    assert_true(ms > 0);
}

static void threads_all_stand_still_and_go_on(void **state)
{
    struct fixture *fixture = *state;
    fixture->child = start(count_with_threads);
    for (int round = 0; round < 20; round++) {
        for (size_t i = 0; i < THREADS; i++)
            await_more_than(&shared->counts[i], atomic_load(&shared->counts[i]));
        assert_freezes(fixture->child);
    }
    for (size_t i = 0; i < THREADS; i++)
        await_more_than(&shared->counts[i], atomic_load(&shared->counts[i]));
}

static void threads_that_come_and_go_are_no_trouble(void **state)
{
    struct fixture *fixture = *state;
    fixture->child = start(begin_threads);
    for (int round = 0; round < 100; round++) {
        await_more_than(&shared->born, atomic_load(&shared->born));
        assert_freezes(fixture->child);
    }
    await_more_than(&shared->born, atomic_load(&shared->born));
}

static int send_signal(void *context, struct error *err)
{
    (void)err;
    kill(*(pid_t *)context, SIGUSR1);
    return 0;
}

/* Before, while it stands still, and after. */
static void signals_are_not_lost(void **state)
{
    struct fixture *fixture = *state;
    int still = 0;
    fixture->child = start(count_with_threads);
    await_more_than(&shared->counts[THREADS - 1], 0);
    for (unsigned long round = 0; round < 50; round++) {
        kill(fixture->child, SIGUSR1);
        assert_int_equal(freeze_run(fixture->child, later(), look, &still, NULL, NULL), 0);
        await_more_than(&shared->signals, 2 * round);
        assert_int_equal(
            freeze_run(fixture->child, later(), send_signal, &fixture->child, NULL, NULL), 0);
        await_more_than(&shared->signals, 2 * round + 1);
    }
}

static int fail_with_words(void *context, struct error *err)
{
    (void)context;
    return error_set(err, EBUSY, "busy");
}

static void failure_of_the_work_is_returned_and_all_go_on(void **state)
{
    struct fixture *fixture = *state;
    struct error err = {0};
    fixture->child = start(count_with_threads);
    await_more_than(&shared->counts[THREADS - 1], 0);
    assert_int_equal(freeze_run(fixture->child, later(), fail_with_words, NULL, NULL, &err),
                     -EBUSY);
    assert_string_equal(err.text, "busy");
    await_more_than(&shared->counts[0], atomic_load(&shared->counts[0]));
}

static int kill_it(void *context, struct error *err)
{
    (void)err;
    return kill(*(pid_t *)context, SIGKILL);
}

/* Its end is told to who waits for it, and to nobody else. */
static void end_while_it_stands_still_is_left_to_its_parent(void **state)
{
    struct fixture *fixture = *state;
    siginfo_t info = {0};
    fixture->child = start(count_with_threads);
    await_more_than(&shared->counts[THREADS - 1], 0);
    assert_int_equal(freeze_run(fixture->child, later(), kill_it, &fixture->child, NULL, NULL), 0);
    assert_int_equal(waitid(P_PID, (id_t)fixture->child, &info, WEXITED), 0);
    assert_int_equal(info.si_status, SIGKILL);
    fixture->child = 0;
}

static void process_that_has_ended_is_told(void **state)
{
    struct fixture *fixture = *state;
    struct error err = {0};
    int still = 0;
    siginfo_t info = {0};
    pid_t child = start(sleep_for_ever);
    kill(child, SIGKILL);
    assert_int_equal(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), 0);
    assert_int_equal(freeze_run(child, later(), look, &still, NULL, &err), -ESRCH);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_int_equal(freeze_run(child, later(), look, &still, NULL, &err), -ESRCH);
    (void)fixture;
}

static int wait_to_be_killed(void *context, struct error *err)
{
    (void)context;
    (void)err;
    atomic_store(&shared->frozen, true);
    sleep_for_ever();
    return 0;
}

static void goes_on_when_the_tracer_is_killed(void **state)
{
    struct fixture *fixture = *state;
    fixture->child = start(count_with_threads);
    await_more_than(&shared->counts[THREADS - 1], 0);
    pid_t tracer = fork();
    assert_true(tracer >= 0);
    if (tracer == 0) {
        die_with_parent();
        freeze_run(fixture->child, later(), wait_to_be_killed, NULL, NULL, NULL);
        _exit(1);
    }
    const double deadline_ms = later();
    while (!atomic_load(&shared->frozen) && process_now_ms() < deadline_ms)
        sched_yield();
    assert_true(atomic_load(&shared->frozen));
    kill(tracer, SIGKILL);
    assert_int_equal(waitpid(tracer, NULL, 0), tracer);
    for (size_t i = 0; i < THREADS; i++)
        await_more_than(&shared->counts[i], atomic_load(&shared->counts[i]));
}

/* Somebody debugs it. */
static void process_of_another_tracer_is_left_alone(void **state)
{
    struct fixture *fixture = *state;
    struct error err = {0};
    int still = 0;
    fixture->child = start(count_with_threads);
    await_more_than(&shared->counts[THREADS - 1], 0);
    assert_int_equal(ptrace(PTRACE_SEIZE, fixture->child, NULL, NULL), 0);
    assert_int_equal(freeze_run(fixture->child, later(), look, &still, NULL, &err), -EACCES);
    assert_non_null(strstr(err.text, "cannot be stopped"));
    for (size_t i = 0; i < THREADS; i++)
        await_more_than(&shared->counts[i], atomic_load(&shared->counts[i]));
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(threads_all_stand_still_and_go_on),
        WITH(threads_that_come_and_go_are_no_trouble),
        WITH(signals_are_not_lost),
        WITH(failure_of_the_work_is_returned_and_all_go_on),
        WITH(end_while_it_stands_still_is_left_to_its_parent),
        WITH(process_that_has_ended_is_told),
        WITH(goes_on_when_the_tracer_is_killed),
        WITH(process_of_another_tracer_is_left_alone),
    };
    return cmocka_run_group_tests_name("freeze", tests, NULL, NULL);
}
