/* SPDX-License-Identifier: MIT */
#include "fs/waiter.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "fs/handle.h"
#include "util/cleanup.h"

void waiter_begin(struct waiters *waiters, const void *what, struct handle *handle,
                  struct waiter *waiter)
{
    waiter->what = what;
    waiter->handle = handle;
    waiter->interrupted = waiter->interrupted_already(waiter);
    DL_APPEND(waiters->first, waiter);
    if (waiter->interrupted)
        pthread_cond_signal(&waiters->interrupted);
}

static void run_done(struct deferred *deferred)
{
    struct waiter *waiter = (struct waiter *)deferred;
    waiter->done(waiter, waiter->result);
}

void waiter_answer(struct waiters *waiters, struct waiter *waiter, int result)
{
    DL_DELETE(waiters->first, waiter);
    waiter->result = result;
    waiter->deferred.run = run_done;
    objects_defer(waiters->objects, &waiter->deferred);
}

void waiters_answer(struct waiters *waiters, const void *what, int result)
{
    struct waiter *waiter, *next;
    DL_FOREACH_SAFE (waiters->first, waiter, next) {
        if (waiter->what != what)
            continue;
        if (waiter->handle)
            handle_command_ended(waiter->handle, result);
        waiter_answer(waiters, waiter, result);
    }
}

bool waiters_have(const struct waiters *waiters, const void *what)
{
    const struct waiter *waiter;
    DL_SEARCH_SCALAR(waiters->first, waiter, what, what);
    return waiter != NULL;
}

void waiters_interrupt(struct waiters *waiters, const void *key)
{
    struct waiter *waiter;
    DL_FOREACH (waiters->first, waiter)
        if (waiter->key == key) {
            waiter->interrupted = true;
            pthread_cond_signal(&waiters->interrupted);
        }
}

/* ---- the thread ---- */

static bool read_proc(pid_t tid, const char *name, char *ret, size_t room)
{
    char path[48];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)tid, name);
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd >= 0 ? read(fd, ret, room - 1) : -1;
    ret[size > 0 ? size : 0] = 0;
    return size > 0;
}

static uint64_t field(const char *status, const char *name, int base)
{
    const char *at = strstr(status, name);
    return at ? strtoull(at + strlen(name), NULL, base) : 0;
}

pid_t waiter_process(pid_t tid)
{
    char status[1024];
    return read_proc(tid, "status", status, sizeof status) ? (pid_t)field(status, "\nTgid:", 10)
                                                           : 0;
}

bool waiter_was_killed(pid_t tid)
{
    enum { SIGNALED = 0x400 }; /* PF_SIGNALED: of /proc/PID/stat, field 9 */
    char stat[1024];
    unsigned flags = 0;
    const char *name_end = read_proc(tid, "stat", stat, sizeof stat) ? strrchr(stat, ')') : NULL;
    return name_end && sscanf(name_end, ") %*c %*d %*d %*d %*d %*d %u", &flags) == 1 &&
           (flags & SIGNALED);
}

bool waiter_must_return(pid_t tid)
{
    const uint64_t harmless = UINT64_C(1) << (SIGCHLD - 1) | UINT64_C(1) << (SIGCONT - 1) |
                              UINT64_C(1) << (SIGURG - 1) | UINT64_C(1) << (SIGWINCH - 1);
    char status[4096];
    if (!read_proc(tid, "status", status, sizeof status))
        return true;
    uint64_t pending = field(status, "\nSigPnd:", 16) | field(status, "\nShdPnd:", 16);
    return (pending & ~field(status, "\nSigBlk:", 16) & ~harmless) != 0;
}
