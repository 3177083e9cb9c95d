/* SPDX-License-Identifier: MIT */
#include "bench/bare_common.h"

#include <spawn.h>
#include <stddef.h>
#include <sys/wait.h>
#include <time.h>

double bare_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

bool bare_copy_file(const char *from, const char *to)
{
    extern char **environ;
    const char *const arguments[] = {"cp", "--sparse=always", from, to, NULL};
    pid_t pid;
    int status = -1;
    return posix_spawnp(&pid, arguments[0], NULL, NULL, (char *const *)(unsigned long)arguments,
                        environ) == 0 &&
           waitpid(pid, &status, 0) == pid && status == 0;
}
