/* SPDX-License-Identifier: MIT */
#include "cli/cli.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/text.h"

void cli_begin_options(char **argv, const char *name)
{
    optind = 0;                        /* glibc: begin anew, whatever was parsed before */
    argv[0] = (char *)(uintptr_t)name; /* getopt_long only prints it */
}

int cli_flush(const char *who)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return CLI_DONE;
    fprintf(stderr, "%s: standard output: %s\n", who,
            errno ? strerrordesc_np(errno) : "cannot be written");
    return CLI_FAILED;
}

int cli_print(const char *who, const char *text)
{
    fputs(text, stdout);
    return cli_flush(who);
}

char *cli_default_store(void)
{
    const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    char *ret = NULL;
    if (geteuid() == 0)
        return strdup("/var/lib/hypefs");
    if (data && data[0] == '/')
        return asprintf(&ret, "%s/hypefs", data) >= 0 ? ret : NULL;
    if (home && home[0] == '/')
        return asprintf(&ret, "%s/.local/share/hypefs", home) >= 0 ? ret : NULL;
    return NULL;
}

void cli_say(FILE *out, const char *format, ...)
{
    va_list args;
    auto_free char *line = NULL;
    va_start(args, format);
    if (vasprintf(&line, format, args) < 0)
        line = NULL;
    va_end(args);
    if (line)
        text_make_printable(line, strlen(line), '?');
    fprintf(out, "%s\n", line ? line : "out of memory");
}
