/* SPDX-License-Identifier: MIT */
/*
 * hypefs-guest: mailboxes for guests whose identity is set by a script.
 *
 * Arms mailboxes, waits, and runs a hook for each payload, one at a time: a payload that comes
 * while a hook runs waits in its frame. Can be the first process of an initramfs.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest/hook.h"
#include "guest/hypefs-guest.h"

enum { EXIT_USAGE = 2, SIGNALS_EVERY_MS = 250 };

struct agent {
    const char *hook;
    const char *ack_address;
    char **specs; /* NAME or NAME=TOKEN, as given */
    struct hypefs_mailbox **boxes;
    size_t spec_count, box_count;
    struct signals signals;
};

static const char usage[] =
    "Usage: hypefs-guest --mailbox NAME[=TOKEN]... --hook PROGRAM [--ack-address ADDRESS]\n"
    "\n"
    "Plants mailboxes in memory, and for each payload that a clone of this VM wakes up with, runs\n"
    "PROGRAM: the payload is on its stdin, the mailbox's name in HYPEFS_MAILBOX. Exit status 0 is\n"
    "acknowledged to the host; otherwise the last line that PROGRAM printed tells it why not.\n"
    "\n"
    "  -m, --mailbox NAME[=TOKEN]  a mailbox to arm; may be given several times.\n"
    "                              NAME: 1 to 64 of A-Z a-z 0-9 . _ : -\n"
    "                              TOKEN: 1 to 128 bytes; without it, a random one\n"
    "  -k, --hook PROGRAM          what to run\n"
    "  -a, --ack-address ADDRESS   the host, in numbers (default: the IPv4 default gateway)\n"
    "  -h, --help                  this text\n"
    "  -V, --version               the version\n"
    "\n"
    "Prints \"hypefs-guest: armed NAME\" for each mailbox, then \"hypefs-guest: ready\".\n";

static const struct option options[] = {
    {"mailbox", required_argument, NULL, 'm'},     {"hook", required_argument, NULL, 'k'},
    {"ack-address", required_argument, NULL, 'a'}, {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},           {0},
};

static int wrong_usage(const char *what, const char *value)
{
    fprintf(stderr, "hypefs-guest: %s%s (--help tells more)\n", what, value);
    return EXIT_USAGE;
}

/* The same about NAME=TOKEN: the token is not shown. */
static int wrong_mailbox(const char *what, const char *spec)
{
    fprintf(stderr, "hypefs-guest: %s%.*s (--help tells more)\n", what, (int)strcspn(spec, "="),
            spec);
    return EXIT_USAGE;
}

static bool is_address(const char *text)
{
    struct in6_addr address;
    return inet_pton(AF_INET, text, &address) == 1 || inet_pton(AF_INET6, text, &address) == 1;
}

static size_t name_size(const char *spec)
{
    return strcspn(spec, "=");
}

static bool is_doubled(const struct agent *agent, const char *spec)
{
    for (size_t i = 0; i < agent->spec_count; i++)
        if (name_size(agent->specs[i]) == name_size(spec) &&
            strncmp(agent->specs[i], spec, name_size(spec)) == 0)
            return true;
    return false;
}

/* Returns -1 to go on, otherwise the exit status. */
static int parse(struct agent *agent, int argc, char **argv)
{
    int option;

    while ((option = getopt_long(argc, argv, "m:k:a:hV", options, NULL)) != -1)
        switch (option) {
        case 'm':
            if (is_doubled(agent, optarg))
                return wrong_mailbox("this mailbox is there twice: ", optarg);
            agent->specs[agent->spec_count++] = optarg;
            break;
        case 'k':
            agent->hook = optarg;
            break;
        case 'a':
            if (!is_address(optarg))
                return wrong_usage("not an address in numbers: ", optarg);
            agent->ack_address = optarg;
            break;
        case 'h':
            fputs(usage, stdout);
            return EXIT_SUCCESS;
        case 'V':
            puts("hypefs-guest " HYPEFS_VERSION);
            return EXIT_SUCCESS;
        default:
            return EXIT_USAGE;
        }
    if (optind < argc)
        return wrong_usage("unexpected argument: ", argv[optind]);
    if (agent->spec_count == 0)
        return wrong_usage("--mailbox is missing", "");
    if (!agent->hook)
        return wrong_usage("--hook is missing", "");
    return -1;
}

static int arm(struct agent *agent, const char *spec)
{
    char name[HYPEFS_MAILBOX_NAME_MAX + 2];
    const char *token = spec[name_size(spec)] ? spec + name_size(spec) + 1 : NULL;

    snprintf(name, sizeof name, "%.*s", (int)name_size(spec), spec);
    int r =
        hypefs_mailbox_arm(name, token, token ? strlen(token) : 0, &agent->boxes[agent->box_count]);
    if (r == -EINVAL)
        return wrong_mailbox("not a mailbox's name, or not a good token: ", spec);
    if (r < 0) {
        fprintf(stderr, "hypefs-guest: cannot arm %s: %s%s\n", name, strerror(-r),
                r == -EPERM || r == -ENOMEM || r == -EAGAIN
                    ? " (each mailbox locks a page: raise RLIMIT_MEMLOCK)"
                    : "");
        return EXIT_FAILURE;
    }
    agent->box_count++;
    printf("hypefs-guest: armed %s\n", name);
    return EXIT_SUCCESS;
}

static void deliver(struct agent *agent, struct hypefs_mailbox *box)
{
    const char *name = hypefs_mailbox_name(box);
    struct hook_result result;
    size_t size;
    const char *payload = hypefs_mailbox_payload(box, &size);
    int r;

    hook_run(agent->hook, name, payload, size, &agent->signals, &result);
    if (result.applied) {
        r = hypefs_mailbox_ack(box, agent->ack_address);
        hypefs_mailbox_rearm(box);
        printf("hypefs-guest: applied %s\n", name);
    } else {
        r = hypefs_mailbox_fail(box, result.reason, agent->ack_address);
        printf("hypefs-guest: failed %s: %s\n", name, result.reason);
    }
    if (r < 0)
        fprintf(stderr, "hypefs-guest: cannot tell the host about %s: %s\n", name, strerror(-r));
}

static int run(struct agent *agent)
{
    struct hypefs_mailbox *box;

    for (size_t i = 0; i < agent->spec_count; i++) {
        int status = arm(agent, agent->specs[i]);
        if (status != EXIT_SUCCESS)
            return status;
    }
    puts("hypefs-guest: ready");
    while (!agent->signals.stop) {
        int r = hypefs_mailbox_wait(agent->boxes, agent->box_count, SIGNALS_EVERY_MS, &box);
        if (r == 0)
            deliver(agent, box);
        signals_handle(&agent->signals);
    }
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    struct agent agent = {.specs = calloc((size_t)argc, sizeof(char *)),
                          .boxes = calloc((size_t)argc, sizeof(struct hypefs_mailbox *)),
                          .signals.fd = -1};
    int status = EXIT_FAILURE;

    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    signal(SIGPIPE, SIG_IGN);
    if (!agent.specs || !agent.boxes) {
        fputs("hypefs-guest: no memory\n", stderr);
    } else if ((status = parse(&agent, argc, argv)) == -1) {
        int r = signals_open(&agent.signals);
        if (r == 0)
            status = run(&agent);
        else
            fprintf(stderr, "hypefs-guest: cannot take signals: %s\n", strerror(-r));
    }
    for (size_t i = 0; i < agent.box_count; i++)
        hypefs_mailbox_close(agent.boxes[i]);
    if (agent.signals.fd >= 0)
        close(agent.signals.fd);
    free(agent.boxes);
    free(agent.specs);
    return status;
}
