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
int cli_import(int argc, char **argv);
int cli_accept(int argc, char **argv);
int cli_scan(int argc, char **argv);

/*
 * Begins to read a subcommand's options: from here on, getopt_long's own messages begin with
 * `name`, which lives as long as the program.
 */
void cli_begin_options(char **argv, const char *name);

/* Has all that was printed on standard output arrived? CLI_DONE; CLI_FAILED: says why not. */
int cli_flush(const char *who);

/* What --help and --version do. */
int cli_print(const char *who, const char *text);

/* A line, with '?' for what a terminal would act on. */
void cli_say(FILE *out, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Where the store is if nobody says. Returns owned; NULL when there is no home for it. */
char *cli_default_store(void);

#endif
