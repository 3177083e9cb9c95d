/* SPDX-License-Identifier: MIT */
#include "hypervisor/freeze.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>

#include "util/cleanup.h"
#include "util/directory.h"
#include "util/process.h"
#include "util/thread.h"

/* Most threads stop at once; one that waits for a disk does not. */
enum { QUICK_LOOKS = 64, LOOK_NS = 20 * 1000 };

enum stop { STOP_NONE, STOP_SEIZED, STOP_ASKED, STOP_DONE, STOP_ENDED };

struct frozen_thread {
    pid_t tid;
    enum stop stop;
    int signal; /* that it was about to get when it stopped: it gets it when it goes on */
};

struct freeze {
    pid_t pid;
    double deadline_ms, began_ms;
    int (*work)(void *context, struct error *err);
    void *context;
    struct frozen_thread *threads;
    size_t count;
    double ms;
    int result;
    struct error error;
};

static int cannot(int code, const char *why, struct error *err)
{
    return error_set(err, code, "the VMM cannot be stopped for a moment: %s", why);
}

static int ended(const struct freeze *freeze, struct error *err)
{
    return error_set(err, ESRCH, "process %d has ended", (int)freeze->pid);
}

static struct frozen_thread *find(struct freeze *freeze, pid_t tid)
{
    for (size_t i = 0; i < freeze->count; i++)
        if (freeze->threads[i].tid == tid)
            return &freeze->threads[i];
    return NULL;
}

/* Of a thread that has ended, or is just about to be no more, ptrace says EPERM, too. */
static bool is_over(pid_t tid)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/%d", (int)tid);
    return process_has_ended(tid) || access(path, F_OK) < 0;
}

/* A directory_visit of the process's threads, for those that are not known yet. One may have ended
 * since it was listed. */
static int seize(void *context, int task_fd, const char *name, struct error *err)
{
    struct freeze *freeze = context;
    const pid_t tid = (pid_t)strtol(name, NULL, 10);
    (void)task_fd;
    if (tid <= 0 || find(freeze, tid))
        return 0;
    if (freeze->count == FREEZE_THREADS_MAX)
        return cannot(EACCES, "it has too many threads", err);
    if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) < 0) {
        const int code = errno;
        return code == ESRCH || is_over(tid) ? 0 : cannot(EACCES, strerrordesc_np(code), err);
    }
    freeze->threads[freeze->count++] = (struct frozen_thread){.tid = tid, .stop = STOP_SEIZED};
    return 0;
}

/* Returns how many there are that were not known. */
static int seize_new(struct freeze *freeze, struct error *err)
{
    char path[32];
    const size_t before = freeze->count;
    snprintf(path, sizeof path, "/proc/%d/task", (int)freeze->pid);
    int r = directory_walk(AT_FDCWD, path, seize, freeze, err);
    if (r == -ENOENT || r == -ESRCH)
        return ended(freeze, err);
    return r < 0 ? r : (int)(freeze->count - before);
}

static void ask_all(struct freeze *freeze)
{
    for (size_t i = 0; i < freeze->count; i++) {
        struct frozen_thread *thread = &freeze->threads[i];
        if (thread->stop != STOP_SEIZED)
            continue;
        thread->stop =
            ptrace(PTRACE_INTERRUPT, thread->tid, NULL, NULL) == 0 ? STOP_ASKED : STOP_ENDED;
    }
}

/* Has it stopped by now? The end of the process is left for whoever waits for that; a thread's is
 * the tracer's to take. */
static void check(const struct freeze *freeze, struct frozen_thread *thread)
{
    siginfo_t info = {0};
    if (waitid(P_PID, (id_t)thread->tid, &info, WSTOPPED | WEXITED | WNOHANG | WNOWAIT | __WALL) <
        0) {
        thread->stop = errno == EINTR ? thread->stop : STOP_ENDED;
        return;
    }
    if (info.si_pid == 0)
        return;
    if (info.si_code != CLD_TRAPPED && info.si_code != CLD_STOPPED) {
        thread->stop = STOP_ENDED;
        if (thread->tid != freeze->pid)
            waitid(P_PID, (id_t)thread->tid, &info, WEXITED | WNOHANG | __WALL);
        return;
    }
    thread->stop = STOP_DONE;
    thread->signal = info.si_status >> 8 ? 0 : info.si_status;
}

static bool all_have_stopped(struct freeze *freeze)
{
    bool all = true;
    for (size_t i = 0; i < freeze->count; i++) {
        if (freeze->threads[i].stop == STOP_ASKED)
            check(freeze, &freeze->threads[i]);
        all = all && freeze->threads[i].stop != STOP_ASKED;
    }
    return all;
}

static int await_all(struct freeze *freeze, struct error *err)
{
    static const struct timespec rest = {.tv_nsec = LOOK_NS};
    for (unsigned looks = 0; !all_have_stopped(freeze); looks++) {
        if (process_now_ms() >= freeze->deadline_ms)
            return cannot(EAGAIN, "one of its threads waits for the kernel", err);
        if (looks < QUICK_LOOKS)
            sched_yield();
        else
            nanosleep(&rest, NULL);
    }
    return 0;
}

/* Who has stopped begins no other thread: so they are all when none is new. */
static int stop_all(struct freeze *freeze, struct error *err)
{
    int r = seize_new(freeze, err);
    freeze->began_ms = process_now_ms();
    for (; r > 0; r = r < 0 ? r : seize_new(freeze, err)) {
        ask_all(freeze);
        r = await_all(freeze, err);
    }
    const struct frozen_thread *first = find(freeze, freeze->pid);
    return r < 0 ? r : first && first->stop == STOP_DONE ? 0 : ended(freeze, err);
}

static void let_go(struct freeze *freeze)
{
    for (size_t i = 0; i < freeze->count; i++)
        if (freeze->threads[i].stop == STOP_DONE)
            ptrace(PTRACE_DETACH, freeze->threads[i].tid, NULL,
                   (void *)(uintptr_t)freeze->threads[i].signal);
    freeze->ms = process_now_ms() - freeze->began_ms;
}

static void *run(void *argument)
{
    struct freeze *freeze = argument;
    freeze->result = stop_all(freeze, &freeze->error);
    if (freeze->result == 0)
        freeze->result = freeze->work(freeze->context, &freeze->error);
    let_go(freeze);
    thread_wipe_stack(); /* threads' stacks are kept for the next ones */
    return NULL;
}

int freeze_run(pid_t pid, double deadline_ms, int (*work)(void *context, struct error *err),
               void *context, double *ret_ms, struct error *err)
{
    struct freeze freeze = {
        .pid = pid, .deadline_ms = deadline_ms, .work = work, .context = context};
    pthread_t thread;
    auto_free struct frozen_thread *threads = calloc(FREEZE_THREADS_MAX, sizeof *threads);
    if (!threads)
        return error_set(err, ENOMEM, "out of memory");
    freeze.threads = threads;
    int r = thread_start(run, &freeze, &thread, err);
    if (r < 0)
        return r;
    pthread_join(thread, NULL);
    if (ret_ms)
        *ret_ms = freeze.ms;
    if (freeze.result < 0 && err)
        *err = freeze.error;
    return freeze.result;
}
