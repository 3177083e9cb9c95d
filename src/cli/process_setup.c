/* SPDX-License-Identifier: MIT */
#include "cli/process_setup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"

int process_setup_background(struct error *err)
{
    int pipe_fds[2];
    char byte;
    if (pipe2(pipe_fds, O_CLOEXEC) < 0)
        return error_errno(err, errno, "cannot make a pipe");
    pid_t child = fork();
    if (child < 0)
        return error_errno(err, errno, "cannot fork");
    if (child > 0) {
        close(pipe_fds[1]);
        _exit(read(pipe_fds[0], &byte, 1) == 1 ? CLI_DONE : CLI_FAILED);
    }
    close(pipe_fds[0]);
    setsid();
    if (chdir("/") < 0)
        return error_errno(err, errno, "cannot leave the directory");
    return pipe_fds[1];
}

/* Each instance takes one, a running one two: as many as we may have. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

void process_setup(void)
{
    sigset_t set;
    for (int fd = 0; fd <= 2; fd++) /* the lowest free number is taken: this one */
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
            abort();
    close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
    umask(077);
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    raise_descriptor_limit();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_DFL);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}
