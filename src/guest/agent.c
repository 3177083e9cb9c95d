/* SPDX-License-Identifier: MIT */
/* hypefs-guest: mailboxes for guests whose identity is set by a script. Arms mailboxes, waits, and
 * runs a hook for each payload, one at a time: the next one waits in its frame. Applies the
 * network's payloads itself, before others. Can be the first process of an initramfs. */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest/clock.h"
#include "guest/exec_worker.h"
#include "guest/hook.h"
#include "guest/hypefs-guest.h"
#include "guest/network.h"

enum { EXIT_USAGE = 2, SIGNALS_EVERY_MS = 250, CLOCK_EVERY = 4 };

struct agent {
    const char *hook;
    const char *ack_address;
    bool wants_network, wants_clock;
    unsigned quiet;            /* waits since the clock was looked at */
    const char *network_token; /* NULL: a random one */
    char **specs;              /* NAME or NAME=TOKEN, as given */
    struct hypefs_mailbox **boxes;
    size_t spec_count, box_count;
    struct hypefs_mailbox *network; /* one of the boxes, the first; NULL: not wanted */
    struct generation generation;
    bool wants_exec;
    struct exec_workers workers;
    struct signals signals;
};

static const char usage[] =
    "Usage: hypefs-guest [--network[=TOKEN]] [--mailbox NAME[=TOKEN]... --hook PROGRAM]\n"
    "                    [--exec] [--ack-address ADDRESS] [--clock]\n"
    "\n"
    "Makes mailboxes in memory. For each payload that a clone of this VM finds in one, it runs\n"
    "PROGRAM, with the payload on stdin and the mailbox's name in HYPEFS_MAILBOX. If PROGRAM\n"
    "exits with 0, the payload is acknowledged, and what PROGRAM printed on stdout\n"
    "is the reply: a JSON object as it is, other text as {\"output\":\"...\"}. Otherwise\n"
    "the payload is refused, and the host gets the last line that PROGRAM printed,\n"
    "and its exit status. Network payloads are applied without PROGRAM, before all\n"
    "others.\n"
    "\n"
    "  -n, --network[=TOKEN]       arm the resume-network mailbox, which gives an interface its\n"
    "                              MAC address, IPv4 address and default gateway (needs\n"
    "                              CAP_NET_ADMIN). TOKEN: 1 to 30 bytes; without it, a random one\n"
    "  -m, --mailbox NAME[=TOKEN]  a mailbox to arm; may be given several times.\n"
    "                              NAME: 1 to 64 of A-Z a-z 0-9 . _ : -\n"
    "                              TOKEN: 1 to 128 bytes; without it, a random one\n"
    "  -k, --hook PROGRAM          what to run\n"
    "  -e, --exec                  arm hypefs.exec and three more, and run the commands that come\n"
    "                              there. Who may write to them may do anything that this user "
    "may\n"
    "  -a, --ack-address ADDRESS   the host, in numbers (default: the IPv4 default gateway; for\n"
    "                              the network's ack the new one)\n"
    "  -c, --clock                 set the wall clock when it is wrong, as after a pause, from "
    "the\n"
    "                              VM's real-time clock or KVM's PTP clock (needs CAP_SYS_TIME)\n"
    "  -h, --help                  print this\n"
    "  -V, --version               print the version\n"
    "\n"
    "Prints \"hypefs-guest: armed NAME\" for each mailbox (the network's is \"(network)\"), then\n"
    "\"hypefs-guest: ready\".\n";

static const struct option options[] = {
    {"network", optional_argument, NULL, 'n'},
    {"mailbox", required_argument, NULL, 'm'},
    {"hook", required_argument, NULL, 'k'},
    {"ack-address", required_argument, NULL, 'a'},
    {"exec", no_argument, NULL, 'e'},
    {"clock", no_argument, NULL, 'c'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {0},
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

static int print(const char *text)
{
    if (fputs(text, stdout) >= 0 && fflush(stdout) == 0)
        return EXIT_SUCCESS;
    fputs("hypefs-guest: standard output cannot be written\n", stderr);
    return EXIT_FAILURE;
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
static int check(const struct agent *agent)
{
    const bool has_others = agent->wants_network || agent->wants_exec;
    if (agent->spec_count == 0 && (agent->hook || !has_others))
        return wrong_usage("--mailbox is missing", "");
    if (agent->spec_count > 0 && !agent->hook)
        return wrong_usage("--hook is missing", "");
    int r = agent->hook ? hook_check(agent->hook) : 0;
    if (r < 0)
        fprintf(stderr, "hypefs-guest: the hook %s cannot be run: %s\n", agent->hook, strerror(-r));
    return r < 0 ? EXIT_FAILURE : -1;
}

/* As check(). */
static int parse(struct agent *agent, int argc, char **argv)
{
    int option;

    while ((option = getopt_long(argc, argv, "n::m:k:a:echV", options, NULL)) != -1)
        switch (option) {
        case 'n':
            if (agent->wants_network)
                return wrong_usage("--network is given twice", "");
            agent->wants_network = true;
            agent->network_token = optarg;
            break;
        case 'm':
            if (is_doubled(agent, optarg))
                return wrong_mailbox("this mailbox is given twice: ", optarg);
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
        case 'e':
            agent->wants_exec = true;
            break;
        case 'c':
            agent->wants_clock = true;
            break;
        case 'h':
            return print(usage);
        case 'V':
            return print("hypefs-guest " HYPEFS_VERSION "\n");
        default:
            return EXIT_USAGE;
        }
    if (optind < argc)
        return wrong_usage("unexpected argument: ", argv[optind]);
    return check(agent);
}

static int arm_network(struct agent *agent)
{
    const char *token = agent->network_token;

    int r = hypefs_network_arm(token, token ? strlen(token) : 0, &agent->network);
    if (r == -EINVAL)
        return wrong_usage("not a good token for --network", "");
    if (r < 0) {
        fprintf(stderr, "hypefs-guest: cannot arm the network's mailbox: %s\n", strerror(-r));
        return EXIT_FAILURE;
    }
    agent->boxes[agent->box_count++] = agent->network;
    puts("hypefs-guest: armed (network)");
    return EXIT_SUCCESS;
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

static void complain(const char *name, int told)
{
    if (told < 0)
        fprintf(stderr, "hypefs-guest: cannot tell the host about %s: %s\n", name, strerror(-told));
}

/* Called before the mailbox is armed again, which may be the ack that the host waits for. */
static void report(const char *name, const char *reason, int told)
{
    if (reason)
        printf("hypefs-guest: failed %s: %s\n", name, reason);
    else
        printf("hypefs-guest: applied %s\n", name);
    complain(name, told);
}

static void deliver_network(struct agent *agent)
{
    struct hypefs_mailbox *box = agent->network;
    struct network_result result;
    size_t size;
    const char *payload = hypefs_mailbox_payload(box, &size);

    network_apply(payload, size, &result);
    const char *address = agent->ack_address;
    if (!address && result.gateway[0])
        address = result.gateway;
    if (result.applied) {
        report("(network)", NULL, network_ack(box, address));
        hypefs_mailbox_rearm(box);
    } else {
        int r = hypefs_mailbox_fail(box, result.reason, address);
        report("(network)", result.reason, r);
    }
}

static void deliver(struct agent *agent, struct hypefs_mailbox *box)
{
    const char *name = hypefs_mailbox_name(box);
    struct hook_result result = {.applied = false};
    size_t size;
    const char *payload = hypefs_mailbox_payload(box, &size);
    int r = generation_become(&agent->generation, box);

    if (r < 0)
        snprintf(result.reason, sizeof result.reason,
                 "cannot apply the seed and the time (is this root?): %s", strerror(-r));
    else
        hook_run(agent->hook, name, payload, size, &agent->signals, &result);
    if (result.applied && result.reply_size > 0) {
        report(name, NULL, 0);
        complain(name,
                 hypefs_mailbox_reply(box, result.reply, result.reply_size, agent->ack_address));
    } else if (result.applied) {
        report(name, NULL, hypefs_mailbox_ack(box, agent->ack_address));
    } else {
        r = hypefs_mailbox_fail(box, result.reason, agent->ack_address);
        report(name, result.reason, r);
    }
    hypefs_mailbox_rearm(box); /* if it is not armed yet */
    explicit_bzero(&result, sizeof result);
}

/* Each second in which nothing came: what came may have told the time. */
static void look_at_clock(struct agent *agent)
{
    int64_t late_ms = 0;
    if (!agent->wants_clock || ++agent->quiet < CLOCK_EVERY)
        return;
    agent->quiet = 0;
    int r = clock_mend("", &late_ms);
    if (late_ms != 0)
        printf("hypefs-guest: the clock was %lld ms %s, and is set\n",
               late_ms < 0 ? (long long)-late_ms : (long long)late_ms,
               late_ms < 0 ? "early" : "late");
    if (r >= 0)
        return;
    fprintf(stderr, "hypefs-guest: --clock: %s: the clock is left as it is\n",
            r == -ENODEV ? "there is neither a real-time clock nor KVM's PTP clock" : strerror(-r));
    agent->wants_clock = false;
}

static int arm_all(struct agent *agent)
{
    int status = EXIT_SUCCESS;
    if (agent->wants_exec && exec_workers_start(&agent->workers) < 0)
        status = EXIT_FAILURE;
    if (status == EXIT_SUCCESS && agent->wants_network)
        status = arm_network(agent);
    for (size_t i = 0; i < agent->spec_count && status == EXIT_SUCCESS; i++)
        status = arm(agent, agent->specs[i]);
    return status;
}

/* Waits for a payload for a moment; without a mailbox of its own, just as long. */
static int wait_for_payload(struct agent *agent, struct hypefs_mailbox **ret)
{
    struct pollfd signals = {.fd = agent->signals.fd, .events = POLLIN};
    if (agent->box_count > 0)
        return hypefs_mailbox_wait(agent->boxes, agent->box_count, SIGNALS_EVERY_MS, ret);
    poll(&signals, 1, SIGNALS_EVERY_MS);
    return -ETIMEDOUT;
}

static int run(struct agent *agent)
{
    struct hypefs_mailbox *box;

    int status = arm_all(agent);
    if (status != EXIT_SUCCESS)
        return status;
    puts("hypefs-guest: ready");
    while (!agent->signals.stop) {
        int r = wait_for_payload(agent, &box);
        if (r == 0 && box == agent->network)
            deliver_network(agent);
        else if (r == 0)
            deliver(agent, box);
        else
            look_at_clock(agent);
        signals_handle(&agent->signals);
        if (agent->wants_exec && !agent->signals.stop)
            exec_workers_start(&agent->workers); /* one that somebody has killed */
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
            r = generation_open(&agent.generation);
        agent.workers.generation = &agent.generation;
        agent.workers.ack_address = agent.ack_address;
        status = r == 0 ? run(&agent) : EXIT_FAILURE;
        if (r < 0)
            fprintf(stderr, "hypefs-guest: cannot begin: %s\n", strerror(-r));
    }
    exec_workers_stop(&agent.workers);
    for (size_t i = 0; i < agent.box_count; i++)
        hypefs_mailbox_close(agent.boxes[i]);
    if (agent.signals.fd >= 0)
        close(agent.signals.fd);
    free(agent.boxes);
    free(agent.specs);
    return status;
}
