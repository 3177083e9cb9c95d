/* SPDX-License-Identifier: MIT */
/* accept: vouches for the files of snapshots and instances of a mount, as they are now. The daemon
 * does it, by the file `accept` in their directories. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"

static const char help[] =
    "Usage: hypefs accept DIRECTORY…\n"
    "Vouch for the files of a snapshot, or of an instance in standby or stopped, as they are now.\n"
    "\n"
    "DIRECTORY is that of a snapshot or an instance in a mount: ~/vms/snapshots/base. Its memory\n"
    "image and its disks are looked at, the image is scanned anew, and what is there counts from\n"
    "then on. What had changed is printed. Do it only if you know why it has: after a backup was\n"
    "restored, or a disk file was touched. Guests see another disk or memory than they had.\n"
    "\n"
    "  -h, --help         print this\n";

enum { INFO_MAX = 1024 * 1024 };

__attribute__((format(printf, 2, 3))) static void say(FILE *out, const char *format, ...)
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

/* A file of the mount, which is small, or NULL. */
static char *read_file(int directory_fd, const char *name)
{
    auto_close int fd = openat(directory_fd, name, O_RDONLY | O_CLOEXEC);
    auto_free char *text = calloc(1, INFO_MAX + 1);
    size_t size = 0;
    for (ssize_t got = 1; fd >= 0 && text && got > 0 && size < INFO_MAX; size += (size_t)got)
        if ((got = read(fd, text + size, INFO_MAX - size)) < 0)
            return NULL;
    return fd >= 0 ? steal_pointer(text) : NULL;
}

static int write_accept(int directory_fd)
{
    auto_close int fd = openat(directory_fd, "accept", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    return write(fd, "1\n", 2) < 0 ? -errno : 0;
}

/* Why it was refused, as far as the directory tells. */
static void explain(const char *path, int directory_fd, int code)
{
    auto_free char *why = read_file(directory_fd, "error");
    if (code == ENOENT)
        say(stderr, "hypefs accept: %s is no snapshot or instance of a mount", path);
    else if (why && why[0])
        say(stderr, "hypefs accept: %s: %.*s", path, (int)strcspn(why, "\n"), why);
    else
        say(stderr, "hypefs accept: %s: %s: the daemon's log says why", path,
            strerrordesc_np(code));
}

static void print_accepted(const char *path, int directory_fd)
{
    auto_free char *text = read_file(directory_fd, "accept");
    auto_json cJSON *accepted = NULL;
    const cJSON *file;
    if (text && json_parse(text, strlen(text), &accepted, NULL) < 0)
        accepted = NULL;
    const cJSON *files = cJSON_GetObjectItemCaseSensitive(accepted, "files");
    if (cJSON_GetArraySize(files) == 0)
        say(stdout, "%s: accepted", path);
    cJSON_ArrayForEach (file, files)
        say(stdout, "%s: accepted %s", path, cJSON_IsString(file) ? file->valuestring : "");
}

static int accept_one(const char *path)
{
    auto_close int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        say(stderr, "hypefs accept: %s: %s", path, strerrordesc_np(errno));
        return CLI_FAILED;
    }
    int r = write_accept(fd);
    if (r < 0) {
        explain(path, fd, -r);
        return CLI_FAILED;
    }
    print_accepted(path, fd);
    return CLI_DONE;
}

int cli_accept(int argc, char **argv)
{
    static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    int status = CLI_DONE;
    cli_begin_options(argv, "hypefs accept");
    for (int option; (option = getopt_long(argc, argv, "h", options, NULL)) >= 0;) {
        if (option == 'h')
            return cli_print("hypefs accept", help);
        fputs("try: hypefs accept --help\n", stderr);
        return CLI_USAGE;
    }
    if (optind == argc) {
        fputs("hypefs accept: no directory given; try: hypefs accept --help\n", stderr);
        return CLI_USAGE;
    }
    for (int i = optind; i < argc; i++)
        if (accept_one(argv[i]) != CLI_DONE)
            status = CLI_FAILED;
    return status;
}
