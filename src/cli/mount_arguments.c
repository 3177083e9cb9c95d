/* SPDX-License-Identifier: MIT */
#include "cli/mount_arguments.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "instance/loads.h"
#include "mailbox/ack.h"
#include "util/cleanup.h"
#include "util/text.h"

static const char help[] =
    "Usage: hypefs mount [OPTION]… MOUNTPOINT\n"
    "Serve the tree of snapshots and instances at the empty directory MOUNTPOINT. Returns when\n"
    "the mount answers. To end it: fusermount3 -u MOUNTPOINT, or SIGTERM; VMs keep running.\n"
    "\n"
    "  --store DIR          where snapshots and instances are kept (default: /var/lib/hypefs,\n"
    "                       or $XDG_DATA_HOME/hypefs when not root)\n"
    "  -f, --foreground     do not go into the background; the log goes to stderr\n"
    "  --ack MODE           how guests ack if a request does not say so: memory (default), udp\n"
    "                       or keyed\n"
    "  --ack-address ADDR   where udp and keyed acks are received (default: 127.0.0.1)\n"
    "  --qemu PATH          QEMU's program (default: qemu-system-x86_64 from PATH)\n"
    "  --firecracker PATH   Firecracker's program (default: firecracker from PATH)\n"
    "  --max-loads N        how many VMMs start or load at the same time; others wait for\n"
    "                       their turn (default: twice the number of processors)\n"
    "  --require-token      every mailbox request must carry its mailbox's token\n"
    "  --insecure-store     as root, also use a store that others can change\n"
    "  -o OPTIONS           FUSE mount options, such as allow_other\n"
    "  -h, --help           print this\n";

static int fail(const char *text)
{
    fprintf(stderr, "hypefs mount: %s\n", text);
    return CLI_FAILED;
}

static const char hint[] = "try: hypefs mount --help\n";

static int misuse(const char *text)
{
    fprintf(stderr, "hypefs mount: %s; %s", text, hint);
    return CLI_USAGE;
}

static const char no_directory[] = "the current directory is gone: give absolute paths";

/* Relative to where we are now: the daemon leaves that directory. */
static char *absolute(const char *path)
{
    char *ret = NULL;
    auto_free char *here = path[0] == '/' ? NULL : getcwd(NULL, 0);
    if (path[0] == '/')
        return strdup(path);
    return here && asprintf(&ret, "%s/%s", here, path) >= 0 ? ret : NULL;
}

enum {
    OPTION_STORE = 256,
    OPTION_ACK,
    OPTION_ACK_ADDRESS,
    OPTION_QEMU,
    OPTION_FIRECRACKER,
    OPTION_MAX_LOADS,
    OPTION_REQUIRE_TOKEN,
    OPTION_INSECURE_STORE
};

static const struct option options[] = {
    {"store", required_argument, NULL, OPTION_STORE},
    {"foreground", no_argument, NULL, 'f'},
    {"ack", required_argument, NULL, OPTION_ACK},
    {"ack-address", required_argument, NULL, OPTION_ACK_ADDRESS},
    {"qemu", required_argument, NULL, OPTION_QEMU},
    {"firecracker", required_argument, NULL, OPTION_FIRECRACKER},
    {"max-loads", required_argument, NULL, OPTION_MAX_LOADS},
    {"require-token", no_argument, NULL, OPTION_REQUIRE_TOKEN},
    {"insecure-store", no_argument, NULL, OPTION_INSECURE_STORE},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

/* -1: go on; else the exit status. */
static int take_program(const char *value, const char *if_empty, char **ret)
{
    if (!value[0])
        return misuse(if_empty);
    free(*ret);
    *ret = strchr(value, '/') ? absolute(value) : strdup(value);
    return *ret ? -1 : fail(no_directory);
}

static int take_max_loads(const char *value, unsigned *ret)
{
    char text[64];
    size_t digits = strspn(value, "0123456789");
    unsigned long number = strtoul(value, NULL, 10);
    snprintf(text, sizeof text, "--max-loads must be a number from 1 to %d", LOADS_MAX);
    if (digits == 0 || value[digits] || number < 1 || number > LOADS_MAX)
        return misuse(text);
    *ret = (unsigned)number;
    return -1;
}

/* The same. */
static int take_ack(const char *value, enum fork_ack *ret)
{
    for (int i = 0; fork_ack_words[i]; i++)
        if (strcmp(value, fork_ack_words[i]) == 0) {
            *ret = (enum fork_ack)i;
            return -1;
        }
    return misuse("--ack is one of memory, udp and keyed");
}

/* The same. */
static int take_option(int option, const char *value, struct mount_arguments *ret)
{
    struct error err = {0};
    switch (option) {
    case OPTION_STORE:
        free(ret->store);
        ret->store = absolute(value);
        return !value[0]    ? misuse("--store needs a directory")
               : ret->store ? -1
                            : fail(no_directory);
    case OPTION_ACK:
        return take_ack(value, &ret->rules.ack);
    case OPTION_ACK_ADDRESS:
        ret->ack_address = value;
        return ack_address_check("--ack-address", value, &err) < 0 ? misuse(err.text) : -1;
    case OPTION_QEMU:
        return take_program(value, "--qemu needs a program", &ret->qemu);
    case OPTION_FIRECRACKER:
        return take_program(value, "--firecracker needs a program", &ret->firecracker);
    case OPTION_MAX_LOADS:
        return take_max_loads(value, &ret->max_loads);
    case OPTION_REQUIRE_TOKEN:
        ret->rules.require_token = true;
        return -1;
    case OPTION_INSECURE_STORE:
        ret->insecure_store = true;
        return -1;
    case 'f':
        ret->foreground = true;
        return -1;
    case 'o':
        fuse_opt_add_arg(&ret->fuse, "-o");
        fuse_opt_add_arg(&ret->fuse, value);
        return -1;
    case 'h':
        return cli_print("hypefs mount", help);
    default:
        fputs(hint, stderr);
        return CLI_USAGE;
    }
}

int mount_arguments_read(int argc, char **argv, struct mount_arguments *ret)
{
    int option, status = -1;
    ret->max_loads = loads_default();
    fuse_opt_add_arg(&ret->fuse, "hypefs");
    fuse_opt_add_arg(&ret->fuse, "-odefault_permissions,fsname=hypefs,subtype=hypefs");
    cli_begin_options(argv, "hypefs mount");
    while (status < 0 && (option = getopt_long(argc, argv, "fho:", options, NULL)) >= 0)
        status = take_option(option, optarg, ret);
    if (status >= 0)
        return status;
    if (optind + 1 < argc)
        return misuse("more than one MOUNTPOINT given");
    if (optind == argc || !argv[optind][0])
        return misuse("no MOUNTPOINT given");
    if (!ret->store)
        ret->store = cli_default_store();
    if (!ret->store)
        return misuse("no HOME to keep the store in: give --store DIR");
    ret->mountpoint = absolute(argv[optind]);
    return ret->mountpoint ? -1 : fail(no_directory);
}

__attribute__((format(printf, 2, 0))) static void say_nothing(enum fuse_log_level level,
                                                              const char *format, va_list arguments)
{
    (void)level;
    (void)format;
    (void)arguments;
}

/* What libfuse says of options is a line beside ours; of what it got it leaves nothing. */
int mount_arguments_open_session(struct mount_arguments *arguments, struct ops_context *ops,
                                 struct fuse_session **ret)
{
    struct fuse_args *args = &arguments->fuse;
    char text[ERROR_TEXT_SIZE] = "";
    size_t used = 0;
    for (int i = 0; i < args->argc && used < sizeof text; i++)
        if (i > 0 && strcmp(args->argv[i - 1], "-o") == 0)
            used += (size_t)snprintf(text + used, sizeof text - used, " -o %s", args->argv[i]);
    text_make_utf8(text);
    text_make_printable(text, strlen(text), '?');
    fuse_set_log_func(say_nothing);
    *ret = fuse_session_new(args, &ops_callbacks, sizeof ops_callbacks, ops);
    fuse_set_log_func(NULL);
    if (*ret)
        return -1;
    fprintf(stderr, "hypefs mount: libfuse does not know or cannot use something in%s; %s", text,
            hint);
    return CLI_USAGE;
}

void mount_arguments_finish(struct mount_arguments *arguments)
{
    fuse_opt_free_args(&arguments->fuse);
    free(arguments->store);
    free(arguments->qemu);
    free(arguments->firecracker);
    free(arguments->mountpoint);
}
