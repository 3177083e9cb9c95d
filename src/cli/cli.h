/* SPDX-License-Identifier: MIT */
/*
 * cli: the program's subcommands. Each gets its own arguments, its name first, and returns the exit
 * status: 0 done, 1 failed (one line on stderr says why), 2 usage.
 */
#ifndef HYPEFS_CLI_CLI_H
#define HYPEFS_CLI_CLI_H

#include <stdio.h>

enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

int cli_mount(int argc, char **argv);

/* What --help and --version do. */
static inline int cli_print(const char *who, const char *text)
{
    if (fputs(text, stdout) >= 0 && fflush(stdout) == 0)
        return CLI_DONE;
    fprintf(stderr, "%s: standard output cannot be written\n", who);
    return CLI_FAILED;
}

#endif
