/* SPDX-License-Identifier: MIT */
#include "hypervisor/vmm_spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hypervisor/confine.h"
#include "hypervisor/vmm_process.h"
#include "util/cleanup.h"
#include "util/fault.h"
#include "util/limit.h"
#include "util/process.h"
#include "util/timing.h"

enum { LAUNCH_MS = 10000, INHERITED_MAX = 8 };

static int spawn_plainly(const struct vmm_context *context, const struct vmm_spawn *spawn,
                         char *const *arguments, pid_t *ret_pid, int *ret_pidfd, struct error *err)
{
    const struct process_spec spec = {.path = arguments[0],
                                      .argv = arguments,
                                      .directory_fd = context->directory_fd,
                                      .output_fd = spawn->output_fd,
                                      .error_fd = spawn->error_fd,
                                      .environment = spawn->environment,
                                      .closed = context->confine != NULL,
                                      .closes = context->confine != NULL,
                                      .inherit_fds = spawn->inherit_fds,
                                      .inherit_count = spawn->inherit_count};
    struct error why;
    int r = process_spawn(&spec, ret_pid, ret_pidfd, &why);
    return r < 0 ? error_set(err, -limit_or_io(r), "%s", why.text) : 0;
}

/* `uid` 0: the daemon's own user. */
static void confined_arguments(const struct vmm_context *context, const struct vmm_spawn *spawn,
                               int pid_fd, uid_t uid, struct arguments *ret)
{
    arguments_add(ret, context->confine->program);
    arguments_add(ret, "--pid-fd");
    arguments_add_format(ret, "%d", pid_fd);
    arguments_add(ret, "--keep-fd");
    arguments_add_format(ret, "%d", pid_fd);
    for (size_t i = 0; i < spawn->inherit_count; i++) {
        arguments_add(ret, "--keep-fd");
        arguments_add_format(ret, "%d", spawn->inherit_fds[i]);
    }
    if (context->confine->no_namespaces)
        arguments_add(ret, "--no-namespaces");
    if (uid)
        confine_add_user(ret, uid, vmm_users_group(context->confine->users));
    for (size_t i = 0; i < spawn->confine->count; i++)
        arguments_add(ret, spawn->confine->items[i]);
    arguments_add(ret, "--");
    for (size_t i = 0; spawn->arguments[i]; i++)
        arguments_add(ret, spawn->arguments[i]);
}

/* The program that shuts a VMM in tells the VMM's pid, and ends. */
static int read_pid(pid_t launcher, int cancel_fd, int pipe_fd, pid_t *ret, struct error *err)
{
    char line[16] = "";
    const int fds[] = {pipe_fd, cancel_fd};
    const struct process_limits limits = {-1, cancel_fd, process_now_ms() + LAUNCH_MS, launcher};
    const int ready = process_await(fds, array_length(fds), &limits);
    if (ready <= 0 || !(ready & 1))
        return ready > 0 ? error_set(err, ECANCELED, "given up")
                         : error_set(err, EIO, "it does not answer");
    ssize_t size = read(pipe_fd, line, sizeof line - 1);
    *ret = size > 0 ? (pid_t)strtol(line, NULL, 10) : 0;
    return *ret > 0 ? 0 : error_set(err, EIO, "it has ended");
}

/* Its process group is not to be killed: the VMM may be in it still. */
static void reap_launcher(int pidfd)
{
    siginfo_t info;
    if (process_poll(&pidfd, 1, process_now_ms() + LAUNCH_MS) <= 0)
        pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
    waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED);
}

/* Of which there is no descriptor. */
static void end_child(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static int launch(const struct vmm_context *context, const struct vmm_spawn *spawn, int reads,
                  int writes, uid_t uid, pid_t *ret_pid, struct error *err)
{
    int inherited[INHERITED_MAX];
    struct arguments arguments = {0};
    pid_t launcher;
    auto_close int pidfd = -1, pipe_fd = writes;
    struct vmm_spawn with_pipe = *spawn;
    for (size_t i = 0; i < spawn->inherit_count; i++)
        inherited[i] = spawn->inherit_fds[i];
    inherited[with_pipe.inherit_count++] = writes;
    with_pipe.inherit_fds = inherited;
    confined_arguments(context, spawn, writes, uid, &arguments);
    int r = arguments.failed || spawn->confine->failed
                ? error_set(err, ENOMEM, "no memory for a VMM's arguments")
                : spawn_plainly(context, &with_pipe, arguments.items, &launcher, &pidfd, err);
    arguments_finish(&arguments);
    if (r < 0)
        return r;
    close(steal_fd(&pipe_fd));
    r = read_pid(launcher, context->cancel_fd, reads, ret_pid, err);
    if (r == 0) {
        reap_launcher(pidfd);
        return 0;
    }
    process_kill(launcher, pidfd, timing_ms(TIMING_KILL), err);
    if (read_pid(0, -1, reads, ret_pid, NULL) == 0) /* it was told meanwhile */
        end_child(*ret_pid);
    return r;
}

static int spawn_confined(const struct vmm_context *context, const struct vmm_spawn *spawn,
                          uid_t uid, pid_t *ret_pid, int *ret_pidfd, struct error *err)
{
    int ends[2];
    struct error why;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return error_errno(err, errno, "no pipe for a VMM");
    auto_close int reads = ends[0];
    off_t from = vmm_log_size(context);
    int r = launch(context, spawn, reads, ends[1], uid, ret_pid, &why);
    if (r < 0) {
        char words[VMM_WORDS_MAX + 1];
        vmm_last_words(context, from, words);
        return error_set(err, -r, "the VMM cannot be shut in: %s%s%s", why.text,
                         words[0] ? ": " : "", words);
    }
    *ret_pidfd = pidfd_open(*ret_pid, 0); /* it is our child, and not reaped */
    if (*ret_pidfd >= 0)
        return 0;
    r = error_errno(err, errno, "no descriptor for a VMM");
    end_child(*ret_pid);
    return r;
}

static int spawn_as(const struct hypervisor *hypervisor, const struct vmm_context *context,
                    const struct vmm_spawn *spawn, uid_t uid, struct vmm **ret, struct error *err)
{
    pid_t pid;
    auto_close int pidfd = -1;
    fault_point(FAULT_SPAWN);
    int r = context->confine ? spawn_confined(context, spawn, uid, &pid, &pidfd, err)
                             : spawn_plainly(context, spawn, spawn->arguments, &pid, &pidfd, err);
    if (r < 0)
        return r;
    fault_point(FAULT_SPAWNED);
    r = vmm_create(hypervisor, pid, pidfd, ret, err);
    if (r < 0)
        process_kill(pid, pidfd, timing_ms(TIMING_KILL), err);
    else
        pidfd = -1;
    return r;
}

int vmm_spawn(const struct hypervisor *hypervisor, const struct vmm_context *context,
              const struct vmm_spawn *spawn, struct vmm **ret, struct error *err)
{
    struct vmm_users *users = context->confine ? context->confine->users : NULL;
    uid_t uid = 0;
    int r = users ? vmm_users_take(users, &uid, err) : 0;
    if (r < 0)
        return r;
    r = spawn_as(hypervisor, context, spawn, uid, ret, err);
    if (users && r < 0)
        vmm_users_give(users, uid);
    if (r == 0 && context->confine)
        (*ret)->landlock = context->confine->landlock;
    if (users && r == 0) {
        (*ret)->users = users;
        (*ret)->uid = uid;
    }
    return r;
}
