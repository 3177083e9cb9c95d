/* SPDX-License-Identifier: MIT */
/*
 * fake_cloud_hypervisor: a test peer for hypefs' Cloud Hypervisor backend. It is not Cloud
 * Hypervisor, has no code of it, and runs no VM.
 *
 * It speaks the part of Cloud Hypervisor's API that hypefs uses, as cloud-hypervisor.yaml and its
 * sources have it: members that it does not know are accepted in silence; a refusal is a list of
 * texts; pausing twice is refused; config.json, state.json and, of memory that is no shared file,
 * memory-ranges are made with O_EXCL, in this order, by one write each; a memory image that is too
 * short is accepted, and the process ends with status 0; at SIGTERM a paused VM runs on for a
 * moment (here: the first bytes of its memory are written). A restored VM says on its console where
 * the real one would have announced an old address, or let the guest's clock jump. guest.c behaves
 * as a guest, see fake_firecracker.c, which also tells of the environment: FAKE_VMM_GUEST,
 * FAKE_VMM_GATE, and FAKE_VMM_FAULT, in which calls have the names of Firecracker's: start, version
 * (vmm.ping), info, machine-config (vm.create), actions (vm.boot), vm (vm.pause and vm.resume),
 * create (vm.snapshot), load (vm.restore). Besides:
 *   FAKE_VMM_VERSION  what it says it is; default v53.0
 *   FAKE_VMM_ID       what its guest writes to each disk; default vm
 *   FAKE_VMM_CUT      config.json or state.json: half of it is written, and nothing said
 *
 * What it does not prove: that the real one takes these requests and answers so, in any version;
 * that a state of the real one can be edited as hypefs does; that guests run on. Where it would
 * copy memory, or guess the format of a disk, it fails instead, because hypefs never wants that.
 */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cloud_hypervisor.h"
#include "util/cleanup.h"

enum { LOG_LINE_SIZE = 1200 };

const char api_server[] = "Cloud Hypervisor API";
const char api_end[] = "cloud-hypervisor: guest exit";
const int api_end_status = 0;

void fake_log(const struct fake *fake, const char *format, ...)
{
    char line[LOG_LINE_SIZE];
    va_list args;
    va_start(args, format);
    int size = vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    size = size < LOG_LINE_SIZE - 2 ? size : LOG_LINE_SIZE - 2;
    line[size++] = '\n';
    if (write(fake->log_fd, line, (size_t)size) < 0)
        exit(1);
}

/* What a device of the VM writes when it goes on: a frame that came in meanwhile, say. */
static void *await_end(void *argument)
{
    const struct fake *fake = argument;
    static const char frame[] = "a frame came in";
    sigset_t signals;
    int signal;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigwait(&signals, &signal);
    if (fake->region_count > 0)
        memcpy(fake->regions[0].address, frame, sizeof frame);
    _exit(0);
}

int main(int argc, char **argv)
{
    const char *version = getenv("FAKE_VMM_VERSION"), *id = getenv("FAKE_VMM_ID");
    struct fake fake = {.id = id ? id : "vm",
                        .version = version ? version : "v53.0",
                        .log_fd = STDERR_FILENO,
                        .memory_fd = -1,
                        .vcpus = 1,
                        .running = PTHREAD_MUTEX_INITIALIZER,
                        .resumed = PTHREAD_COND_INITIALIZER};
    pthread_t thread;
    sigset_t signals;
    if (argc == 2 && strcmp(argv[1], "--version") == 0)
        return printf("cloud-hypervisor %s\n", fake.version) < 0;
    if (argc != 3 || strcmp(argv[1], "--api-socket") != 0) {
        dprintf(STDERR_FILENO, "error: unexpected argument\n");
        return 1;
    }
    fake.socket = argv[2];
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    if (pthread_create(&thread, NULL, await_end, &fake) != 0)
        return 1;
    return server_run(&fake);
}
