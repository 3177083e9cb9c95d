/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "util/cleanup.h"

static const struct subcommand {
    const char *name;
    int (*run)(int argc, char **argv);
} subcommands[] = {
    {"mount", cli_mount},
    {"import", cli_import},
    {"accept", cli_accept},
    {"scan", cli_scan},
    {"send", cli_send},
    {"exec", cli_exec},
    {"doctor", cli_doctor},
};

static const char help[] =
    "Usage: hypefs COMMAND [OPTION]… [ARGUMENT]…\n"
    "Fork microVM snapshots with echo and cat.\n"
    "\n"
    "Commands:\n"
    "  mount MOUNTPOINT   serve the tree of snapshots and instances at a directory\n"
    "  import             publish files that another tool saved as a snapshot\n"
    "  accept DIRECTORY…  accept the files of a snapshot that have changed\n"
    "  scan FILE…         list the mailboxes in memory images\n"
    "  send INSTANCE…     deliver a payload to a VM that runs, and print the reply\n"
    "  exec INSTANCE…     run a command in a VM, whose guest has hypefs-guest --exec\n"
    "  doctor             tell what this host lacks, and how to get it\n"
    "\n"
    "hypefs COMMAND --help shows a command's options.\n"
    "  --help             print this\n"
    "  --version          print the version\n"
    "\n"
    "Exit status: 0 done, 1 failed (one line on stderr says why), 2 wrong usage.\n";

int main(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "";
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
        return cli_print("hypefs", help);
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0)
        return cli_print("hypefs", "hypefs " HYPEFS_VERSION "\n");
    for (size_t i = 0; i < array_length(subcommands); i++)
        if (strcmp(word, subcommands[i].name) == 0)
            return subcommands[i].run(argc - 1, argv + 1);
    if (argc < 2)
        fputs("hypefs: no command given; try: hypefs --help\n", stderr);
    else
        fprintf(stderr, "hypefs: \"%s\" is no command; try: hypefs --help\n", word);
    return CLI_USAGE;
}
