/* SPDX-License-Identifier: MIT */
#include "guest/exec_worker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/exec.h"
#include "util/hex.h"

enum { SIGNALS_EVERY_MS = 250 };

void exec_worker_name(unsigned index, char ret[EXEC_NAME_SIZE])
{
    snprintf(ret, EXEC_NAME_SIZE, index == 0 ? "hypefs.exec" : "hypefs.exec.%u", index + 1);
}

/* ---- in the process ---- */

static void answer(const struct exec_workers *workers, struct hypefs_mailbox *box,
                   struct signals *signals)
{
    char reason[EXEC_REASON_SIZE];
    char *reply = NULL;
    size_t size;
    const char *payload = hypefs_mailbox_payload(box, &size);
    int r = generation_become(workers->generation, box);
    if (r < 0)
        snprintf(reason, sizeof reason, "cannot apply the seed and the time (is this root?): %s",
                 strerror(-r));
    else
        reply = exec_run(payload, size, HYPEFS_MAILBOX_REPLY_MAX, signals, reason);
    if (reply)
        r = hypefs_mailbox_reply(box, reply, strlen(reply), workers->ack_address);
    else
        r = hypefs_mailbox_fail(box, reason, workers->ack_address);
    if (r < 0)
        fprintf(stderr, "hypefs-guest: cannot tell the host about %s: %s\n",
                hypefs_mailbox_name(box), strerror(-r));
    hypefs_mailbox_rearm(box); /* if it is not armed yet */
    if (reply)
        explicit_bzero(reply, strlen(reply));
    free(reply);
}

static void work(const struct exec_workers *workers, unsigned index, int ready_fd)
{
    char name[EXEC_NAME_SIZE];
    struct hypefs_mailbox *box, *full;
    struct signals signals;
    int r = signals_open(&signals);
    exec_worker_name(index, name);
    if (r == 0)
        r = hypefs_mailbox_arm(name, workers->tokens[index], EXEC_TOKEN_SIZE - 1, &box);
    (void)!write(ready_fd, &r, sizeof r);
    close(ready_fd);
    if (r < 0)
        return;
    while (!signals.stop) {
        if (hypefs_mailbox_wait(&box, 1, SIGNALS_EVERY_MS, &full) == 0)
            answer(workers, full, &signals);
        signals_handle(&signals);
    }
    hypefs_mailbox_close(box);
}

/* ---- in the agent ---- */

static int start_one(struct exec_workers *workers, unsigned index)
{
    char name[EXEC_NAME_SIZE];
    const pid_t agent = getpid();
    int ends[2], r = -ECHILD;
    exec_worker_name(index, name);
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    fflush(stdout);
    const pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (getppid() == agent)
            work(workers, index, ends[1]);
        _exit(EXIT_SUCCESS);
    }
    if (pid < 0)
        r = -errno;
    close(ends[1]);
    while (pid > 0 && read(ends[0], &r, sizeof r) < 0 && errno == EINTR)
        ;
    close(ends[0]);
    workers->pids[index] = r == 0 ? pid : 0;
    if (r == 0)
        printf("hypefs-guest: armed %s\n", name);
    else if (!workers->failed)
        fprintf(stderr, "hypefs-guest: cannot arm %s: %s\n", name, strerror(-r));
    return r;
}

/* Its agent reaps it like all children that end. */
static bool runs(pid_t pid)
{
    return pid > 0 && kill(pid, 0) == 0;
}

static int make_token(char ret[EXEC_TOKEN_SIZE])
{
    uint8_t bytes[(EXEC_TOKEN_SIZE - 1) / 2];
    if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes)
        return -errno;
    hex_encode(bytes, sizeof bytes, ret);
    return 0;
}

int exec_workers_start(struct exec_workers *workers)
{
    int ret = 0;
    for (unsigned i = 0; i < EXEC_WORKERS; i++) {
        if (!workers->tokens[i][0] && (ret = make_token(workers->tokens[i])) < 0)
            return ret;
        int r = runs(workers->pids[i]) ? 0 : start_one(workers, i);
        ret = ret < 0 ? ret : r;
    }
    workers->failed = ret < 0;
    return ret;
}

void exec_workers_stop(struct exec_workers *workers)
{
    for (unsigned i = 0; i < EXEC_WORKERS; i++)
        if (runs(workers->pids[i]))
            kill(workers->pids[i], SIGTERM);
    for (unsigned i = 0; i < EXEC_WORKERS; i++)
        if (workers->pids[i] > 0)
            waitpid(workers->pids[i], NULL, 0);
}
