/* SPDX-License-Identifier: MIT */
#include "cli/mount_arguments.h"

#include <getopt.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/process_setup.h"
#include "instance/turns.h"
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
    "  --cloud-hypervisor PATH\n"
    "                       Cloud Hypervisor's program (default: cloud-hypervisor from PATH)\n"
    "  --max-loads N        how many VMMs start or load at the same time; others wait for\n"
    "                       their turn (default: twice the number of processors)\n"
    "  --max-vms N          how many VMs there may be; what would make one more is refused\n"
    "                       (default: any number)\n"
    "  --min-free-memory SIZE\n"
    "                       no VM is started while the host has less memory available: bytes,\n"
    "                       or with K, M, G or T (default: 5 % of the host's, 256M at least;\n"
    "                       0: it is not looked at)\n"
    "  --confine MODE       whether VMMs are shut in: auto (default) where this host can do that,\n"
    "                       strict refuses to mount where it cannot, off\n"
    "  --vmm-read PATH      a file or directory that VMMs may read, besides what they need\n"
    "                       anyway: what a script that is given as --qemu needs, say\n"
    "  --vmm-uids FIRST-LAST\n"
    "                       as root: each VMM gets a user of its own, from this range\n"
    "  --vmm-user NAME      as root: VMMs are this user\n"
    "  --user NAME          as root: the daemon and VMMs are this user, and have no rights of "
    "root\n"
    "  --require-token      every mailbox request must carry its mailbox's token\n"
    "  --insecure-store     as root, also use a store that others can change\n"
    "  -o OPTIONS           FUSE mount options, such as allow_other\n"
    "  -h, --help           print this\n";

const struct cli_command cli_mount_command = {"hypefs mount", help};
#define COMMAND (&cli_mount_command)

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

/* The readers of options: `value` is read into a struct mount_arguments. */

static int read_store(void *arguments, const char *value)
{
    struct mount_arguments *ret = arguments;
    free(ret->store);
    ret->store = absolute(value);
    if (!value[0])
        return cli_misuse(COMMAND, "--store needs a directory");
    return ret->store ? CLI_GO_ON : cli_fail(COMMAND, no_directory);
}

static int take_program(struct mount_arguments *arguments, size_t index)
{
    struct vmm_binary *binary = &arguments->binaries[index];
    char **program = &arguments->programs[index], text[64];
    binary->hypervisor = hypervisor_names[index];
    if (!binary->path)
        return CLI_GO_ON;
    snprintf(text, sizeof text, "--%s needs a program", binary->hypervisor);
    if (!binary->path[0])
        return cli_misuse(COMMAND, text);
    binary->path = *program =
        strchr(binary->path, '/') ? absolute(binary->path) : strdup(binary->path);
    return *program ? CLI_GO_ON : cli_fail(COMMAND, no_directory);
}

static int read_count(const char *option, const char *value, unsigned max, unsigned *ret)
{
    char text[64];
    size_t digits = strspn(value, "0123456789");
    unsigned long number = strtoul(value, NULL, 10);
    snprintf(text, sizeof text, "--%s must be a number from 1 to %u", option, max);
    if (digits == 0 || value[digits] || number < 1 || number > max)
        return cli_misuse(COMMAND, text);
    *ret = (unsigned)number;
    return CLI_GO_ON;
}

static int read_max_loads(void *arguments, const char *value)
{
    return read_count("max-loads", value, TURNS_MAX,
                      &((struct mount_arguments *)arguments)->max_loads);
}

static int read_max_vms(void *arguments, const char *value)
{
    return read_count("max-vms", value, LIMITS_VMS_MAX,
                      &((struct mount_arguments *)arguments)->limits.max_vms);
}

static int read_min_free_memory(void *arguments, const char *value)
{
    struct mount_arguments *ret = arguments;
    return limits_read_size(value, &ret->limits.min_free_memory)
               ? CLI_GO_ON
               : cli_misuse(COMMAND, "--min-free-memory is a number of bytes, or of K, M, G or T, "
                                     "as 512M; 0 turns it off");
}

static int read_ack(void *arguments, const char *value)
{
    for (int i = 0; fork_ack_words[i]; i++)
        if (strcmp(value, fork_ack_words[i]) == 0) {
            ((struct mount_arguments *)arguments)->rules.ack = (enum fork_ack)i;
            return CLI_GO_ON;
        }
    return cli_misuse(COMMAND, "--ack is one of memory, udp and keyed");
}

static int read_confine(void *arguments, const char *value)
{
    static const char *const words[] = {"auto", "strict", "off"};
    for (size_t i = 0; i < array_length(words); i++)
        if (strcmp(value, words[i]) == 0) {
            ((struct mount_arguments *)arguments)->confine = (enum confine_mode)i;
            return CLI_GO_ON;
        }
    return cli_misuse(COMMAND, "--confine is one of auto, strict and off");
}

static int set_range(void *arguments, struct vmm_user_range range)
{
    struct mount_arguments *ret = arguments;
    if (ret->vmm_users.first)
        return cli_misuse(COMMAND, "--vmm-uids and --vmm-user are given once, and not both");
    ret->vmm_users = range;
    return CLI_GO_ON;
}

/* Processes of a VMM's user may end that. */
static int check_nobody_has(unsigned long first, unsigned long last)
{
    char text[200] = "";
    const struct passwd *user;
    setpwent();
    while ((user = getpwent()))
        if (user->pw_uid >= first && user->pw_uid <= last)
            snprintf(text, sizeof text,
                     "--vmm-uids has the user %.64s (%u) in it: give a range that "
                     "is nobody's",
                     user->pw_name, user->pw_uid);
    endpwent();
    return text[0] ? cli_misuse(COMMAND, text) : CLI_GO_ON;
}

/* Ids that are nobody's in particular begin at 1; the last is "no change" to the kernel. */
static int read_vmm_uids(void *arguments, const char *value)
{
    enum { USERS_MAX = 1000000 };
    unsigned long first, last;
    int end = 0;
    if (value[strspn(value, "0123456789-")] || strlen(value) > 21 ||
        sscanf(value, "%lu-%lu%n", &first, &last, &end) != 2 || value[end] || first < 1 ||
        last <= first || last - first >= USERS_MAX || last >= (uid_t)-1)
        return cli_misuse(COMMAND, "--vmm-uids is a range of 2 to 1000000 user ids, as "
                                   "3000000-3065535, which are nobody else's");
    int status = check_nobody_has(first, last);
    return status == CLI_GO_ON
               ? set_range(arguments,
                           (struct vmm_user_range){(uid_t)first, (uid_t)last, (gid_t)first})
               : status;
}

static int read_vmm_user(void *arguments, const char *value)
{
    const struct passwd *user = getpwnam(value);
    if (!user || user->pw_uid == 0 || user->pw_gid == 0)
        return cli_misuse(COMMAND, user ? "--vmm-user names root, or somebody of its group"
                                        : "--vmm-user names nobody whom this host knows");
    return set_range(arguments, (struct vmm_user_range){user->pw_uid, user->pw_uid, user->pw_gid});
}

/* What the options say together. */
static int check_users(const struct mount_arguments *arguments)
{
    if ((arguments->vmm_users.first || arguments->user) && geteuid() != 0)
        return cli_misuse(COMMAND, "only root can use --user, --vmm-uids and --vmm-user");
    if (arguments->vmm_users.first && arguments->user)
        return cli_misuse(COMMAND, "--user does not go with --vmm-uids and --vmm-user: only root "
                                   "can give VMMs another user");
    if (arguments->vmm_users.first && arguments->confine == CONFINE_OFF)
        return cli_misuse(COMMAND, "--confine off does not go with --vmm-uids and --vmm-user");
    return CLI_GO_ON;
}

static int add_readable(void *arguments, const char *value)
{
    struct mount_arguments *ret = arguments;
    if (!value[0])
        return cli_misuse(COMMAND, "--vmm-read needs a file or a directory");
    if (ret->readable_count == MOUNT_READABLE_MAX)
        return cli_misuse(COMMAND, "--vmm-read is given too often");
    char *path = absolute(value);
    if (!path)
        return cli_fail(COMMAND, no_directory);
    ret->readable[ret->readable_count++] = path;
    return CLI_GO_ON;
}

static int read_ack_address(void *arguments, const char *value)
{
    struct error err;
    ((struct mount_arguments *)arguments)->ack_address = value;
    return ack_address_check("--ack-address", value, &err) < 0 ? cli_misuse(COMMAND, err.text)
                                                               : CLI_GO_ON;
}

static int add_fuse_option(void *arguments, const char *value)
{
    struct fuse_args *fuse = &((struct mount_arguments *)arguments)->fuse;
    fuse_opt_add_arg(fuse, "-o");
    fuse_opt_add_arg(fuse, value);
    return CLI_GO_ON;
}

/* Each hypervisor's name is an option that names its program. */
static int read_options(int argc, char **argv, struct mount_arguments *ret)
{
    const struct cli_option own[] = {
        {"store", .read = read_store},
        {"foreground", 'f', .flag = &ret->foreground},
        {"ack", .read = read_ack},
        {"ack-address", .read = read_ack_address},
        {"confine", .read = read_confine},
        {"vmm-read", .read = add_readable},
        {"vmm-uids", .read = read_vmm_uids},
        {"vmm-user", .read = read_vmm_user},
        {"user", .text = &ret->user},
        {"max-loads", .read = read_max_loads},
        {"max-vms", .read = read_max_vms},
        {"min-free-memory", .read = read_min_free_memory},
        {"require-token", .flag = &ret->rules.require_token},
        {"insecure-store", .flag = &ret->insecure_store},
        {.letter = 'o', .read = add_fuse_option},
    };
    struct cli_option options[array_length(own) + HYPERVISORS];
    memcpy(options, own, sizeof own);
    for (size_t i = 0; i < HYPERVISORS; i++)
        options[array_length(own) + i] =
            (struct cli_option){hypervisor_names[i], .text = &ret->binaries[i].path};
    int status = cli_read_options(COMMAND, argc, argv, options, array_length(options), ret);
    for (size_t i = 0; i < HYPERVISORS && status == CLI_GO_ON; i++)
        status = take_program(ret, i);
    return status;
}

int mount_arguments_read(int argc, char **argv, struct mount_arguments *ret)
{
    struct error err;
    ret->max_loads = turns_default();
    ret->limits.min_free_memory = limits_default_free_memory();
    fuse_opt_add_arg(&ret->fuse, "hypefs");
    fuse_opt_add_arg(&ret->fuse, "-odefault_permissions,fsname=hypefs,subtype=hypefs");
    int status = read_options(argc, argv, ret);
    if (status == CLI_GO_ON)
        status = check_users(ret);
    if (status == CLI_GO_ON && ret->user && process_setup_become(ret->user, &err) < 0)
        status = cli_fail(COMMAND, err.text);
    if (status != CLI_GO_ON)
        return status;
    if (optind + 1 < argc)
        return cli_misuse(COMMAND, "more than one MOUNTPOINT given");
    if (optind == argc || !argv[optind][0])
        return cli_misuse(COMMAND, "no MOUNTPOINT given");
    if (!ret->store)
        ret->store = cli_default_store();
    if (!ret->store)
        return cli_misuse(COMMAND, "no HOME to keep the store in: give --store DIR");
    ret->mountpoint = absolute(argv[optind]);
    return ret->mountpoint ? CLI_GO_ON : cli_fail(COMMAND, no_directory);
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
    char text[ERROR_TEXT_SIZE] = "libfuse does not know or cannot use something in";
    size_t used = strlen(text);
    for (int i = 0; i < args->argc && used < sizeof text; i++)
        if (i > 0 && strcmp(args->argv[i - 1], "-o") == 0)
            used += (size_t)snprintf(text + used, sizeof text - used, " -o %s", args->argv[i]);
    text_make_utf8(text);
    text_make_printable(text, strlen(text), '?');
    fuse_set_log_func(say_nothing);
    *ret = fuse_session_new(args, &ops_callbacks, sizeof ops_callbacks, ops);
    fuse_set_log_func(NULL);
    return *ret ? CLI_GO_ON : cli_misuse(COMMAND, text);
}

void mount_arguments_finish(struct mount_arguments *arguments)
{
    fuse_opt_free_args(&arguments->fuse);
    free(arguments->store);
    for (size_t i = 0; i < HYPERVISORS; i++)
        free(arguments->programs[i]);
    for (size_t i = 0; i < arguments->readable_count; i++)
        free(arguments->readable[i]);
    free(arguments->mountpoint);
}
