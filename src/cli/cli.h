/* SPDX-License-Identifier: MIT */
/*
 * cli: the program's subcommands, and how each reads its options and says what is wrong. A
 * subcommand gets its own arguments, its name first, and returns the exit status: 0 done, 1 failed
 * (one line on stderr says why), 2 usage.
 */
#ifndef HYPEFS_CLI_CLI_H
#define HYPEFS_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum { CLI_GO_ON = -1, CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

int cli_mount(int argc, char **argv);
int cli_import(int argc, char **argv);
int cli_accept(int argc, char **argv);
int cli_scan(int argc, char **argv);
int cli_send(int argc, char **argv);
int cli_exec(int argc, char **argv);
int cli_doctor(int argc, char **argv);

struct cli_command {
    const char *name; /* "hypefs import"; lives as long as the program, as the help does */
    const char *help;
    bool has_command; /* what follows the first argument is a command's: no options of ours */
};

/* An option, with a value unless it is a flag. What it is told goes to one of the last three. */
struct cli_option {
    const char *name; /* NULL: it has only a letter */
    char letter;      /* or 0 */
    bool *flag;
    const char **text;
    /* CLI_GO_ON, or the exit status. */
    int (*read)(void *arguments, const char *value);
};

/* Reads the options, --help too; argv[optind] is the first argument that is none then. CLI_GO_ON, or
 * the exit status. */
int cli_read_options(const struct cli_command *command, int argc, char **argv,
                     const struct cli_option *options, size_t count, void *arguments);

/* A line on stderr. What it returns is the exit status: CLI_FAILED; CLI_USAGE, with a hint at
 * --help. */
int cli_fail(const struct cli_command *command, const char *text);
int cli_misuse(const struct cli_command *command, const char *text);

/* Has all that was printed on standard output arrived? CLI_DONE; CLI_FAILED: says why not. */
int cli_flush(const char *who);

/* What --help and --version do. */
int cli_print(const char *who, const char *text);

/* A line, with '?' for what a terminal would act on. */
void cli_say(FILE *out, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Where the store is if nobody says. Returns owned; NULL when there is no home for it. */
char *cli_default_store(void);

/* Opens (O_PATH) the directory, or the nearest one above that is there. -1 and errno: it is none, or
 * we may not enter it. */
int cli_open_above(const char *path);

#endif
