/* SPDX-License-Identifier: MIT */
/*
 * fake_firecracker: a test peer for hypefs' Firecracker backend. It is not Firecracker, has no code
 * of it, and runs no VM.
 *
 * It speaks the part of Firecracker's API that hypefs uses, as firecracker.yaml and the sources of
 * Firecracker have it: members that the version does not know, calls at the wrong time and devices
 * that do not exist are refused with a fault_message; a load that fails ends the process; the
 * sockets are bound to, and one that is there already is refused, whoever has left it; the
 * memory file is mapped region by region, privately, at file offsets, and a slot that is not
 * plugged in is mapped PROT_NONE; a memory file that is there is written over in place; the log is
 * written from its beginning, the guest's console is stdout. "On resume" it behaves as a guest:
 * guest.c looks into the mailboxes in its own mapping with the guest library.
 *
 * What it does not prove: that the real Firecracker takes these requests and answers so, in any
 * version; that a saved state of the real one loads; that its guests run on, see what was written
 * into their memory, or do not notice another file behind a drive; how long anything takes. Where
 * texts of the real one were not known, they are made up.
 *
 * The state file begins with Firecracker's magic for x86-64, 8 bytes, little-endian. The rest is
 * this program's own, JSON: {"version": "1.7.0", "memory_bytes": N, "vcpus": N, "drives":
 * [{"drive_id","path_on_host","is_read_only"}], "interfaces": [{"iface_id","host_dev_name",
 * "guest_mac"}], "vsock": "path" or null, "pmem": [{"id","path_on_host","read_only"}], "regions":
 * [{"offset","size","plugged"}], "huge_pages": "2M"} (all but the version may be missing).
 *
 * Environment:
 *   FAKE_VMM_VERSION  what it says it is; default 1.7.0
 *   FAKE_VMM_GUEST    ack, refuse, silent, lie: what the guest does with a payload; reply: it
 *                             leaves FAKE_VMM_REPLY, which need not be a reply; move: the same, but
 *                             that of a fork has its mailboxes each a page further when it
 *                             begins, and leaves the pages as they are in which they were; carry:
 *                             the same, with what is in them; absent:
 *                             it never looks; reuse: its mailboxes' pages are zeros all at once;
 *                             late: it says "waits", and looks when somebody has written to the
 *                             pipe FAKE_VMM_GATE; busy: that of a fork never looks, and
 *                             has one processor for four threads that compute
 *   FAKE_VMM_FAULT    CALL:WHEN:WHAT, or CALL#N:WHEN:WHAT for the Nth such call of the
 *                             process alone, CALL#N-M:WHEN:WHAT from the Nth to the Mth. CALL:
 * start, version, load, config, drive, vm, create, machine-config, boot-source, interface, actions.
 * WHEN: before (it is carried out), during (the answer), after (the answer). WHAT: die, hang,
 * garbage, half, 400, 500, of which the last four take the answer's place; late: it comes after
 * LATE_MS, as from a VMM that the host has no processor for
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fake.h"
#include "util/cleanup.h"

enum { EXIT_ARGUMENTS = 153, LOG_LINE_SIZE = 1200 };

const char api_server[] = "Firecracker API";
const char api_end[] = "Firecracker exiting with error. exit_code=1";
const int api_end_status = 1;

void fake_log(const struct fake *fake, const char *format, ...)
{
    char line[LOG_LINE_SIZE];
    int size = snprintf(line, sizeof line, "2026-01-01T00:00:00.000000000 [%s:main] ", fake->id);
    va_list args;
    va_start(args, format);
    size += vsnprintf(line + size, sizeof line - (size_t)size - 1, format, args);
    va_end(args);
    size = size < LOG_LINE_SIZE - 2 ? size : LOG_LINE_SIZE - 2;
    line[size++] = '\n';
    if (write(fake->log_fd, line, (size_t)size) < 0)
        exit(1);
}

static int misuse(const char *what, const char *value)
{
    dprintf(STDERR_FILENO, "Arguments parsing error: %s %s\n", what, value ? value : "");
    return EXIT_ARGUMENTS;
}

static bool is_id(const char *id)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-";
    size_t size = strlen(id);
    return size >= 1 && size <= 64 && strspn(id, allowed) == size;
}

static bool is_level(const char *level)
{
    static const char *const levels[] = {"Error", "Warning", "Info", "Debug", "Trace", "Off"};
    for (size_t i = 0; i < array_length(levels); i++)
        if (strcasecmp(level, levels[i]) == 0)
            return true;
    return false;
}

int main(int argc, char **argv)
{
    enum { API_SOCK = 1, ID, LOG_PATH, LEVEL, VERSION };
    static const struct option options[] = {
        {"api-sock", required_argument, NULL, API_SOCK}, {"id", required_argument, NULL, ID},
        {"log-path", required_argument, NULL, LOG_PATH}, {"level", required_argument, NULL, LEVEL},
        {"version", no_argument, NULL, VERSION},         {NULL, 0, NULL, 0},
    };
    const char *version = getenv("FAKE_VMM_VERSION");
    struct fake fake = {.id = "anonymous-instance",
                        .socket = "/run/firecracker.socket",
                        .version = version ? version : "1.7.0",
                        .log_fd = STDOUT_FILENO,
                        .memory_fd = -1,
                        .memory_bytes = 128 << 20,
                        .vcpus = 1,
                        .running = PTHREAD_MUTEX_INITIALIZER,
                        .resumed = PTHREAD_COND_INITIALIZER};
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) >= 0;) {
        if (option == API_SOCK)
            fake.socket = optarg;
        else if (option == ID && is_id(optarg))
            fake.id = optarg;
        else if (option == LOG_PATH)
            fake.log_fd = open(optarg, O_RDWR | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0666);
        else if (option == VERSION)
            return printf("Firecracker v%s\n\n", fake.version) < 0;
        else if (option != LEVEL || !is_level(optarg))
            return misuse("option", optarg);
    }
    if (optind < argc)
        return misuse("argument", argv[optind]);
    if (fake.log_fd < 0)
        return misuse("log-path", strerror(errno));
    sscanf(fake.version, "%u.%u", &fake.major, &fake.minor);
    return server_run(&fake);
}
