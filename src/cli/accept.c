/* SPDX-License-Identifier: MIT */
/* accept: vouches for the files of snapshots and instances of a mount, as they are now. The daemon
 * does it, by the file `accept` in their directories. Without one: accept_store.c. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/accept_store.h"
#include "cli/cli.h"
#include "store/probe.h"
#include "util/cleanup.h"
#include "util/json.h"

static const char help[] =
    "Usage: hypefs accept DIRECTORY…\n"
    "       hypefs accept --store DIR {snapshots|instances}/ID…\n"
    "Accept the files of a snapshot, or of an instance in standby or stopped, as they are now.\n"
    "\n"
    "DIRECTORY is a snapshot or an instance in a mount, such as ~/vms/snapshots/base. hypefs "
    "checks\n"
    "its memory image and its disks, scans the image again, and prints what had changed. From "
    "then\n"
    "on these files must stay as they are now. Accept them only if you know why they have "
    "changed,\n"
    "for example because a backup was restored: the guests get the memory and disks of now.\n"
    "\n"
    "  --store DIR        accept in this store, without a mount; no daemon may have it open\n"
    "  --insecure-store   as root, also use a store that others can change\n"
    "  -h, --help         print this\n";

enum { INFO_MAX = 1024 * 1024 };

/* Is what is open of a mounted hypefs (else ENOENT)? The device's number tells the mount, whatever
 * its path is.
 */
static int check_mounted_hypefs(const struct stat *st)
{
    char type[PROBE_TYPE_SIZE];
    int r = probe_type(st->st_dev, type, NULL);
    return r < 0 || strcmp(type, "fuse.hypefs") == 0 ? r : -ENOENT;
}

/* Of a snapshot or an instance (else ENOENT): other directories of the mount have no `forks` in
 * them, but may have a payload of any name. */
static int check_source(int directory_fd)
{
    struct stat st, forks;
    int r = fstat(directory_fd, &st) == 0 ? check_mounted_hypefs(&st) : -errno;
    if (r == 0 && fstatat(directory_fd, "forks", &forks, AT_SYMLINK_NOFOLLOW) < 0)
        r = -errno;
    return r < 0 || (S_ISDIR(forks.st_mode) && forks.st_dev == st.st_dev) ? r : -ENOENT;
}

/* A file of the same mount as the directory; -errno, ENOENT for what is none. */
static int open_file(int directory_fd, const char *name, int flags)
{
    struct stat directory, st;
    auto_close int fd =
        openat(directory_fd, name, flags | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0 || fstat(directory_fd, &directory) < 0)
        return -errno;
    return S_ISREG(st.st_mode) && st.st_dev == directory.st_dev ? steal_fd(&fd) : -ENOENT;
}

/* A file of the mount, which is small, or NULL. */
static char *read_file(int directory_fd, const char *name)
{
    auto_close int fd = open_file(directory_fd, name, O_RDONLY);
    auto_free char *text = calloc(1, INFO_MAX + 1);
    size_t size = 0;
    for (ssize_t got = 1; fd >= 0 && text && got > 0 && size < INFO_MAX; size += (size_t)got)
        if ((got = read(fd, text + size, INFO_MAX - size)) < 0)
            return NULL;
    return fd >= 0 ? steal_pointer(text) : NULL;
}

/* The reason in the last line of the mount's `error` that is about this directory's `accept`: "TIME
 * PID write snapshots/ID/accept: ERRNO: REASON". Owned; NULL if there is none. */
static char *refusal_of(int directory_fd)
{
    char link[48], path[PATH_MAX], wanted[PATH_MAX + 16];
    auto_free char *lines = read_file(directory_fd, "../../error");
    snprintf(link, sizeof link, "/proc/self/fd/%d", directory_fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    const char *reason = NULL, *slash;
    if (!lines || size <= 0)
        return NULL;
    path[size] = 0;
    slash = memrchr(path, '/', (size_t)size);
    slash = slash ? memrchr(path, '/', (size_t)(slash - path)) : NULL;
    snprintf(wanted, sizeof wanted, " write %s/accept: ", slash ? slash + 1 : path);
    for (const char *at = lines; (at = strstr(at, wanted)); reason = at)
        at += strlen(wanted);
    reason = reason ? strstr(reason, ": ") : NULL;
    return reason ? strndup(reason + 2, strcspn(reason + 2, "\n")) : NULL;
}

/* Why a write was refused: an instance has an `error` of its own. */
static void explain(const char *path, int directory_fd, int code)
{
    auto_free char *own = read_file(directory_fd, "error");
    auto_free char *why = own ? strndup(own, strcspn(own, "\n")) : refusal_of(directory_fd);
    if (why && why[0])
        cli_say(stderr, "hypefs accept: %s: %s", path, why);
    else
        cli_say(stderr, "hypefs accept: %s: %s: the file error at the root of the mount says why",
                path, strerrordesc_np(code));
}

static void print_accepted(const char *path, int directory_fd)
{
    auto_free char *text = read_file(directory_fd, "accept");
    auto_json cJSON *accepted = NULL;
    if (text && json_parse(text, strlen(text), &accepted, NULL) < 0)
        accepted = NULL;
    accept_print(path, accepted);
}

static int accept_one(const char *path)
{
    auto_close int directory_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (directory_fd < 0) {
        cli_say(stderr, "hypefs accept: %s: %s", path, strerrordesc_np(errno));
        return CLI_FAILED;
    }
    int r = check_source(directory_fd);
    auto_close int fd = r == 0 ? open_file(directory_fd, "accept", O_WRONLY) : r;
    if (fd == -ENOENT)
        cli_say(stderr, "hypefs accept: %s is no snapshot or instance of a hypefs mount", path);
    else if (fd < 0)
        cli_say(stderr, "hypefs accept: %s: %s", path, strerrordesc_np(-fd));
    else if (write(fd, "1\n", 2) < 0)
        explain(path, directory_fd, errno);
    else {
        print_accepted(path, directory_fd);
        return CLI_DONE;
    }
    return CLI_FAILED;
}

int cli_accept(int argc, char **argv)
{
    static const struct option options[] = {{"store", required_argument, NULL, 's'},
                                            {"insecure-store", no_argument, NULL, 'i'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    int status = CLI_DONE;
    const char *store = NULL;
    bool insecure = false;
    cli_begin_options(argv, "hypefs accept");
    for (int option; (option = getopt_long(argc, argv, "h", options, NULL)) >= 0;) {
        if (option == 'h')
            return cli_print("hypefs accept", help);
        if (option == '?') {
            fputs("try: hypefs accept --help\n", stderr);
            return CLI_USAGE;
        }
        insecure |= option == 'i';
        store = option == 's' ? optarg : store;
    }
    if (insecure && !store) {
        fputs("hypefs accept: --insecure-store can only be given with --store; try: hypefs accept "
              "--help\n",
              stderr);
        return CLI_USAGE;
    }
    if (optind == argc) {
        fputs("hypefs accept: no directory given; try: hypefs accept --help\n", stderr);
        return CLI_USAGE;
    }
    if (store)
        status = accept_store(store, insecure, argv + optind, argc - optind);
    for (int i = optind; !store && i < argc; i++)
        if (accept_one(argv[i]) != CLI_DONE)
            status = CLI_FAILED;
    return cli_flush("hypefs accept") == CLI_DONE ? status : CLI_FAILED;
}
