/* SPDX-License-Identifier: MIT */
#include <poll.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "store/strays.h"
#include "world.h"

/* A new directory beside the store, opened. */
static int make_directory(const struct world *world, const char *name)
{
    assert_int_equal(mkdir(world_path(world, "%s", name), 0700), 0);
    int fd = open(world_path(world, "%s", name), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static size_t spawn_in(struct world *world, const char *name)
{
    return world_spawn_vmm(world, world_path(world, "%s", name));
}

static void strays_when_in_the_directory_are_ended_and_all_others_kept(void **state)
{
    struct world *world = *state;
    struct strays strays;
    auto_close int entry = make_directory(world, "entry");
    auto_close int below = make_directory(world, "entry/below");
    close(make_directory(world, "entry-2"));
    size_t first = spawn_in(world, "entry"), second = spawn_in(world, "entry");
    size_t lower = spawn_in(world, "entry/below"), other = spawn_in(world, "entry-2");
    size_t ours = spawn_in(world, "entry");

    assert_int_equal(strays_find(&strays, &world->err), 0);
    assert_int_equal(strays_end(&strays, entry, world->children[ours].pid, &world->err), 0);
    assert_true(world_child_ended(world, first, 0));
    assert_true(world_child_ended(world, second, 0));
    assert_false(world_child_ended(world, ours, 0));
    assert_false(world_child_ended(world, lower, 0));
    assert_false(world_child_ended(world, other, 0));

    /* Those that have ended meanwhile are no hindrance. */
    assert_int_equal(strays_end(&strays, entry, 0, &world->err), 0);
    assert_true(world_child_ended(world, ours, 0));
    assert_false(world_child_ended(world, lower, 0));
    strays_finish(&strays);
    assert_int_equal(strays.count, 0);
    assert_int_equal(strays_end(&strays, below, 0, &world->err), 0);
    assert_false(world_child_ended(world, lower, 0));
}

static void stray_when_its_directory_was_renamed_is_ended(void **state)
{
    struct world *world = *state;
    struct strays strays;
    char from[PATH_MAX];
    auto_close int entry = make_directory(world, ".new-1");
    size_t child = spawn_in(world, ".new-1");
    snprintf(from, sizeof from, "%s", world_path(world, ".new-1"));

    assert_int_equal(strays_find(&strays, &world->err), 0);
    assert_int_equal(rename(from, world_path(world, ".old-1")), 0);
    assert_int_equal(strays_end(&strays, entry, 0, &world->err), 0);
    assert_true(world_child_ended(world, child, 0));
    strays_finish(&strays);
}

/* Who waits is the search: then the process goes on to its exec. */
static int gate = -1;
static pid_t waiting;

int __real_poll(struct pollfd *fds, nfds_t count, int timeout_ms);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout_ms);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
    double deadline_ms = process_now_ms() + 10000;
    if (!fds && gate >= 0) {
        close(steal_fd(&gate));
        while (process_has_mark(waiting) != 1 && process_now_ms() < deadline_ms)
            __real_poll(NULL, 0, 1);
    }
    return __real_poll(fds, count, timeout_ms);
}

/* As a process that is in the middle of its exec: it has no environment at first, and then the mark
 * of one of ours. */
static void stray_that_is_about_to_run_is_ended(void **state)
{
    struct world *world = *state;
    struct strays strays;
    int ends[2];
    char *argv[] = {(char[]){"sh"}, (char[]){"-c"},
                    (char[]){"read x; HYPEFS_CHILD=1 exec tail -f /dev/null"}, NULL};
    auto_close int entry = make_directory(world, "entry");
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid_t parent = getpid(), pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent && dup2(ends[0], STDIN_FILENO) >= 0 && fchdir(entry) == 0)
            execve("/bin/sh", argv, (char *[]){NULL});
        _exit(1);
    }
    close(ends[0]);
    size_t child = world_adopt(world, pid, pidfd_open(pid, 0));
    double deadline_ms = process_now_ms() + 10000;
    while (process_has_mark(pid) != -ENODATA && process_now_ms() < deadline_ms)
        process_poll(&world->children[child].pidfd, 1, process_now_ms() + 1);
    assert_int_equal(process_has_mark(pid), -ENODATA);
    gate = ends[1];
    waiting = pid;
    assert_int_equal(strays_find(&strays, &world->err), 0);
    assert_int_equal(gate, -1);
    assert_int_equal(strays_end(&strays, entry, 0, &world->err), 0);
    assert_true(world_child_ended(world, child, 0));
    strays_finish(&strays);
}

/* Somebody looks around there: with a shell, or with tail -f vmm.log. */
static void process_when_we_did_not_start_it_is_kept(void **state)
{
    struct world *world = *state;
    struct strays strays;
    auto_close int entry = make_directory(world, "entry");
    size_t guest = world_spawn(world, world_path(world, "entry"));
    size_t stray = spawn_in(world, "entry");

    assert_int_equal(strays_find(&strays, &world->err), 0);
    assert_int_equal(strays_end(&strays, entry, 0, &world->err), 0);
    assert_true(world_child_ended(world, stray, 0));
    assert_false(world_child_ended(world, guest, 0));
    strays_finish(&strays);
}

/* A process of ours in a directory that goes to another one, "aside", when it is told to. */
struct mover {
    size_t child;
    int told, went;
};

static void await_mover(const struct mover *mover)
{
    char byte;
    assert_int_equal(read(mover->went, &byte, 1), 1);
}

static void tell_mover(const struct mover *mover)
{
    assert_int_equal(write(mover->told, "\n", 1), 1);
}

static struct mover start_mover(struct world *world, const char *from)
{
    int told[2], went[2], fds[2];
    char aside[PATH_MAX], in[32], out[32];
    snprintf(aside, sizeof aside, "%s", world_path(world, "aside"));
    assert_int_equal(pipe2(told, O_CLOEXEC) | pipe2(went, O_CLOEXEC), 0);
    snprintf(in, sizeof in, "/proc/self/fd/%d", fds[0] = told[0]);
    snprintf(out, sizeof out, "/proc/self/fd/%d", fds[1] = went[1]);
    char *argv[] = {(char[]){"sh"},
                    (char[]){"-c"},
                    (char[]){"echo > $1; read x < $0; cd \"$2\" && echo > $1; read x < $0"},
                    in,
                    out,
                    aside,
                    NULL};
    auto_close int directory = open(world_path(world, "%s", from), O_RDONLY | O_CLOEXEC);
    struct process_spec spec = {.path = argv[0],
                                .argv = argv,
                                .directory_fd = directory,
                                .output_fd = -1,
                                .error_fd = -1,
                                .inherit_fds = fds,
                                .inherit_count = array_length(fds)};
    pid_t pid;
    int pidfd;
    assert_int_equal(process_spawn(&spec, &pid, &pidfd, &world->err), 0);
    close(told[0]);
    close(went[1]);
    struct mover mover = {world_adopt(world, pid, pidfd), told[1], went[0]};
    await_mover(&mover);
    return mover;
}

static void stray_when_it_has_left_the_directory_since_is_kept(void **state)
{
    struct world *world = *state;
    struct strays strays;
    auto_close int entry = make_directory(world, "entry");
    auto_close int aside = make_directory(world, "aside");
    struct mover mover = start_mover(world, "entry");

    assert_int_equal(strays_find(&strays, &world->err), 0);
    tell_mover(&mover);
    await_mover(&mover);
    assert_int_equal(strays_end(&strays, entry, 0, &world->err), 0);
    assert_int_equal(strays_end(&strays, aside, 0, &world->err),
                     0); /* nor was it there when they were found */
    assert_false(world_child_ended(world, mover.child, 0));
    strays_finish(&strays);

    assert_int_equal(strays_find(&strays, &world->err), 0);
    assert_int_equal(strays_end(&strays, aside, 0, &world->err), 0);
    assert_true(world_child_ended(world, mover.child, 0));
    strays_finish(&strays);
    close(mover.told);
    close(mover.went);
}

static void process_when_it_came_after_they_were_found_is_kept(void **state)
{
    struct world *world = *state;
    struct strays strays;
    auto_close int entry = make_directory(world, "entry");

    assert_int_equal(strays_find(&strays, &world->err), 0);
    size_t child = spawn_in(world, "entry");
    assert_int_equal(strays_end(&strays, entry, 0, &world->err), 0);
    assert_false(world_child_ended(world, child, 0));
    strays_finish(&strays);
}

static void we_ourselves_are_no_stray(void **state)
{
    struct world *world = *state;
    struct strays strays;
    auto_close int before = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    auto_close int entry = make_directory(world, "entry");

    assert_int_equal(fchdir(entry), 0);
    assert_int_equal(strays_find(&strays, &world->err), 0);
    assert_int_equal(strays_end(&strays, entry, 0, &world->err), 0);
    assert_int_equal(fchdir(before), 0);
    strays_finish(&strays);
}

static void *wait_for_ever(void *nothing)
{
    for (;;)
        pause();
    return nothing;
}

/* What this program is with an argument. */
static int end_first_thread(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, wait_for_ever, NULL) == 0)
        syscall(SYS_exit, 0);
    return 1;
}

/* As a VMM that was killed while the kernel holds one of its threads. */
static void stray_when_its_first_thread_has_ended_is_ended(void **state)
{
    struct world *world = *state;
    struct strays strays;
    auto_close int entry = make_directory(world, "entry");
    auto_close int other = make_directory(world, "other");
    char *argv[] = {(char[]){"/proc/self/exe"}, (char[]){"ends"}, NULL};
    struct process_spec spec = {
        .path = argv[0], .argv = argv, .directory_fd = entry, .output_fd = -1, .error_fd = -1};
    pid_t pid;
    int pidfd;
    assert_int_equal(process_spawn(&spec, &pid, &pidfd, &world->err), 0);
    size_t child = world_adopt(world, pid, pidfd);
    double deadline_ms = process_now_ms() + 10000;
    while (!process_has_ended(pid) && process_now_ms() < deadline_ms)
        process_poll(&pidfd, 1, process_now_ms() + 1);
    assert_true(process_has_ended(pid));
    assert_false(world_child_ended(world, child, 0));

    assert_int_equal(strays_is_in(pid, entry), 1);
    assert_int_equal(strays_is_in(pid, other), 0);
    assert_int_equal(strays_find(&strays, &world->err), 0);
    assert_int_equal(strays_end(&strays, other, 0, &world->err), 0);
    assert_false(world_child_ended(world, child, 0));
    assert_int_equal(strays_end(&strays, entry, 0, &world->err), 0);
    assert_true(world_child_ended(world, child, 0));
    strays_finish(&strays);
}

int main(int argc, char **argv)
{
    (void)argv;
    if (argc > 1)
        return end_first_thread();
    const struct CMUnitTest tests[] = {
        IN_EMPTY(strays_when_in_the_directory_are_ended_and_all_others_kept),
        IN_EMPTY(stray_when_its_directory_was_renamed_is_ended),
        IN_EMPTY(stray_that_is_about_to_run_is_ended),
        IN_EMPTY(process_when_we_did_not_start_it_is_kept),
        IN_EMPTY(stray_when_it_has_left_the_directory_since_is_kept),
        IN_EMPTY(stray_when_its_first_thread_has_ended_is_ended),
        IN_EMPTY(process_when_it_came_after_they_were_found_is_kept),
        IN_EMPTY(we_ourselves_are_no_stray),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
