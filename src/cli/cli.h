/* SPDX-License-Identifier: MIT */
/*
 * cli: the program's subcommands. Each gets its own arguments, its name first, and returns the exit
 * status: 0 done, 1 failed (one line on stderr says why), 2 usage.
 */
#ifndef HYPEFS_CLI_CLI_H
#define HYPEFS_CLI_CLI_H

enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

int cli_mount(int argc, char **argv);

#endif
