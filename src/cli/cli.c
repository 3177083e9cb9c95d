/* SPDX-License-Identifier: MIT */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/text.h"

enum { OPTIONS_MAX = 32, UNLETTERED = 256 };

static int value_of(const struct cli_option *options, size_t index)
{
    return options[index].letter ? options[index].letter : UNLETTERED + (int)index;
}

static int take(const struct cli_option *option, void *arguments)
{
    if (option->flag)
        *option->flag = true;
    if (option->text)
        *option->text = optarg;
    return option->read ? option->read(arguments, optarg) : CLI_GO_ON;
}

int cli_read_options(const struct cli_command *command, int argc, char **argv,
                     const struct cli_option *options, size_t count, void *arguments)
{
    struct option list[OPTIONS_MAX + 2] = {{"help", no_argument, NULL, 'h'}}, *next = &list[1];
    char letters[2 * OPTIONS_MAX + 3] = "+h", *letter = &letters[2];
    int status = CLI_GO_ON;
    for (size_t i = 0; i < count && i < OPTIONS_MAX; i++) {
        const struct cli_option *option = &options[i];
        if (option->letter)
            *letter++ = option->letter;
        if (option->letter && !option->flag)
            *letter++ = ':';
        if (option->name)
            *next++ = (struct option){option->name, option->flag ? no_argument : required_argument,
                                      NULL, value_of(options, i)};
    }
    const char *const all = command->has_command ? letters : &letters[1];
    optind = 0;                                 /* glibc: begin anew, whatever was parsed before */
    argv[0] = (char *)(uintptr_t)command->name; /* getopt_long only prints it */
    for (int found;
         status == CLI_GO_ON && (found = getopt_long(argc, argv, all, list, NULL)) >= 0;) {
        if (found == 'h')
            return cli_print(command->name, command->help);
        if (found == '?') {
            fprintf(stderr, "try: %s --help\n", command->name);
            return CLI_USAGE;
        }
        for (size_t i = 0; i < count; i++)
            if (value_of(options, i) == found)
                status = take(&options[i], arguments);
    }
    return status;
}

static void print_line(const struct cli_command *command, const char *text, const char *hint)
{
    auto_free char *line = text_escaped(text, strlen(text), "");
    fprintf(stderr, "%s: %s", command->name, line ? line : "out of memory");
    fprintf(stderr, hint ? "; try: %s --help\n" : "\n", hint);
}

int cli_fail(const struct cli_command *command, const char *text)
{
    print_line(command, text, NULL);
    return CLI_FAILED;
}

int cli_misuse(const struct cli_command *command, const char *text)
{
    print_line(command, text, command->name);
    return CLI_USAGE;
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

int cli_open_above(const char *path)
{
    char above[PATH_MAX];
    int fd;
    snprintf(above, sizeof above, "%s", path);
    while ((fd = open(above, O_DIRECTORY | O_PATH | O_CLOEXEC)) < 0 && errno == ENOENT) {
        char *slash = strrchr(above, '/');
        if (!slash || !slash[1])
            break;
        slash[slash == above] = 0;
    }
    if (fd >= 0 && faccessat(fd, ".", X_OK, AT_EACCESS) < 0) { /* nothing can be run in there */
        close(fd);
        fd = -1;
    }
    return fd;
}
