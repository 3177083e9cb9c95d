/* SPDX-License-Identifier: MIT */
/* send: delivers a payload to a VM that runs, and prints what its guest answers. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/input.h"
#include "cli/talk.h"
#include "util/cleanup.h"
#include "util/json.h"

static const char help[] =
    "Usage: hypefs send [OPTION]… INSTANCE MAILBOX [FILE]\n"
    "Deliver a payload, a JSON object, to a mailbox of a VM that runs; wait until its guest has "
    "taken\n"
    "it, and print the guest's reply.\n"
    "\n"
    "INSTANCE is the id of an instance, or the path of its directory in the tree.\n"
    "FILE has the payload; without it, or with -, that is read from standard input.\n"
    "\n"
    "  --mount DIR        the tree is mounted there (default: the mounted tree that has INSTANCE)\n"
    "  --timeout-ms N     how long the guest may take (default: 30000; 1 to 86400000)\n"
    "  -h, --help         print this\n"
    "\n"
    "Exit status: 0 it was taken, 1 it was not (one line on stderr says why), 2 wrong usage.\n";

static const struct cli_command command = {"hypefs send", help};

static int send_payload(const char *mount, char **arguments, int64_t timeout_ms, struct error *err)
{
    struct talk talk;
    struct json_check check;
    auto_free char *payload = NULL, *reply = NULL;
    const char *file = arguments[2];
    size_t size = 0;
    int r = input_read(file, INPUT_MAX, &payload, &size, err);
    if (r < 0)
        return r;
    if (json_check(payload, size, &check) != JSON_COMPLETE)
        return error_set(err, EINVAL, "the payload is not a JSON object: line %u, column %u: %s",
                         check.line, check.column, check.why[0] ? check.why : "it ends too early");
    r = talk_open(mount, arguments[0], &talk, err);
    if (r < 0)
        return r;
    r = talk_deliver(&talk, arguments[1], payload, timeout_ms, true, &reply, err);
    talk_close(&talk);
    if (r == 0 && reply)
        puts(reply);
    return r;
}

int cli_send(int argc, char **argv)
{
    const char *mount = NULL, *timeout = NULL;
    const struct cli_option options[] = {{"mount", .text = &mount},
                                         {"timeout-ms", .text = &timeout}};
    int64_t timeout_ms = TALK_TIMEOUT_MS;
    struct error err;
    int status = cli_read_options(&command, argc, argv, options, array_length(options), NULL);
    if (status != CLI_GO_ON)
        return status;
    if (timeout && !talk_parse_timeout(timeout, &timeout_ms))
        return cli_misuse(&command, "--timeout-ms must be a number from 1 to 86400000");
    if (argc - optind < 2 || argc - optind > 3)
        return cli_misuse(&command, "it takes INSTANCE, MAILBOX and perhaps FILE");
    if (send_payload(mount, argv + optind, timeout_ms, &err) < 0)
        return cli_fail(&command, err.text);
    return cli_flush(command.name);
}
