/* SPDX-License-Identifier: MIT */
#include "place.h"

#include <errno.h>
#include <ftw.h>
#include <glob.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *parent(void)
{
    const char *tmp = getenv("TMPDIR");
    return tmp && tmp[0] == '/' ? tmp : "/tmp";
}

int place_make(char *ret, size_t size, const char *name)
{
    int length = snprintf(ret, size, "%s/%s-%d-XXXXXX", parent(), name, (int)getpid());
    return length < (int)size && mkdtemp(ret) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *file, int type, struct FTW *walk)
{
    (void)file;
    (void)type;
    (void)walk;
    return remove(path);
}

void place_remove(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void remove_places_of(pid_t pid)
{
    char pattern[PATH_MAX];
    glob_t found = {0};
    snprintf(pattern, sizeof pattern, "%s/*-%d-??????", parent(), (int)pid);
    glob(pattern, 0, NULL, &found);
    for (size_t i = 0; i < found.gl_pathc; i++)
        place_remove(found.gl_pathv[i]);
    globfree(&found);
}

static pid_t first_child(void)
{
    FILE *children = fopen("/proc/thread-self/children", "re");
    int pid = 0;
    if (children && fscanf(children, "%d", &pid) != 1)
        pid = 0;
    if (children)
        fclose(children);
    return pid;
}

/* Those of a test that failed: they are ours when it has ended. */
static void end_children(void)
{
    for (pid_t pid; (pid = first_child()) > 0;) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
}

/* What a test starts again of its own program is not kept. */
__attribute__((constructor)) static void run_in_a_child(void)
{
    static const char mark[] = "HYPEFS_TEST_PLACES_ARE_KEPT";
    siginfo_t info = {0};
    if (getenv(mark))
        return;
    setenv(mark, "1", 1);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    pid_t pid = fork();
    if (pid == 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (pid <= 0)
        return;
    while (waitid(P_PID, (id_t)pid, &info, WEXITED) < 0 && errno == EINTR)
        ;
    end_children();
    remove_places_of(pid);
    if (info.si_code == CLD_EXITED)
        _exit(info.si_status);
    signal(info.si_status, SIG_DFL);
    raise(info.si_status);
    _exit(128 + info.si_status);
}
