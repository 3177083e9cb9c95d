/* SPDX-License-Identifier: MIT */
/* mount: wires the store, the instances, the tree and libfuse together, and runs as a daemon. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/mountpoint.h"
#include "cli/process_setup.h"
#include "fork/memory_watch.h"
#include "fork/warm.h"
#include "fs/ops.h"
#include "fs/tell.h"
#include "mailbox/ack.h"
#include "util/cleanup.h"
#include "util/text.h"

static const char help[] =
    "Usage: hypefs mount [OPTION]… MOUNTPOINT\n"
    "Serve the tree of snapshots and instances at the empty directory MOUNTPOINT. Returns when\n"
    "the mount answers. To end it: fusermount3 -u MOUNTPOINT, or SIGTERM; VMs keep running.\n"
    "\n"
    "  --store DIR          where snapshots and instances lie (default: /var/lib/hypefs,\n"
    "                       or $XDG_DATA_HOME/hypefs when not root)\n"
    "  -f, --foreground     do not go into the background; the log goes to stderr\n"
    "  --ack MODE           how guests ack where a request does not say: memory (default), udp\n"
    "                       or keyed\n"
    "  --ack-address ADDR   where acks by udp and keyed ones are received (default: 127.0.0.1)\n"
    "  --qemu PATH          QEMU's program (default: qemu-system-x86_64 from PATH)\n"
    "  --firecracker PATH   Firecracker's program (default: firecracker from PATH)\n"
    "  --max-loads N        how many VMMs start or load at the same time; others wait for\n"
    "                       their turn (default: twice the processors)\n"
    "  --require-token      every mailbox request must carry its mailbox's token\n"
    "  -o OPTIONS           FUSE mount options, such as allow_other\n"
    "  -h, --help           print this\n";

struct arguments {
    char *store, *mountpoint; /* owned, absolute */
    char *qemu, *firecracker; /* owned, absolute or without a slash; NULL: the backend's own */
    const char *ack_address;
    unsigned max_loads;
    bool foreground;
    struct fork_rules rules;
    struct fuse_args fuse;
};

struct daemon {
    struct arguments arguments;
    int ready_fd; /* the parent waits here for a byte; -1 in the foreground */
    struct store store;
    struct vmm_programs *programs;
    struct vmm_binary binaries[2];
    struct ack_ports *ack_ports;
    struct memory_watch *watch;
    struct loads *loads;
    struct events *events;
    struct snapshots snapshots;
    struct instances instances;
    struct warm_pool warm;
    struct ops_context ops;
    struct fuse_session *session;
    pthread_t main_thread, signal_thread;
    pthread_mutex_t lock; /* of `loop_ended` */
    bool loop_ended;
    pthread_rwlock_t tree_lock; /* of ops.fs: read by the layers' callbacks; before fs.lock */
};

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
    OPTION_REQUIRE_TOKEN
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
static int take_option(int option, const char *value, struct arguments *ret)
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

static int read_arguments(int argc, char **argv, struct arguments *ret)
{
    int option, status = -1;
    ret->ack_address = "127.0.0.1";
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

/* In the background the log goes to syslog: a daemon's stderr leads nowhere. */
static void complain(void *context, const char *text)
{
    const struct daemon *daemon = context;
    if (daemon->arguments.foreground)
        fprintf(stderr, "hypefs: %s\n", text);
    else
        syslog(LOG_WARNING, "%s", text);
}

/* Scans and VMs may end when the tree is closed already. */
static void on_scanned(void *context)
{
    struct daemon *daemon = context;
    pthread_rwlock_rdlock(&daemon->tree_lock);
    fs_image_scanned(daemon->ops.fs);
    pthread_rwlock_unlock(&daemon->tree_lock);
}

static void on_changed(void *context, const char *id)
{
    struct daemon *daemon = context;
    pthread_rwlock_rdlock(&daemon->tree_lock);
    fs_instance_changed(daemon->ops.fs, id);
    pthread_rwlock_unlock(&daemon->tree_lock);
}

static void on_warm(void *context, const char *id)
{
    struct daemon *daemon = context;
    pthread_rwlock_rdlock(&daemon->tree_lock);
    fs_snapshot_changed(daemon->ops.fs, id);
    pthread_rwlock_unlock(&daemon->tree_lock);
}

static void close_tree(struct daemon *daemon)
{
    pthread_rwlock_wrlock(&daemon->tree_lock);
    struct fs *fs = steal_pointer(daemon->ops.fs);
    pthread_rwlock_unlock(&daemon->tree_lock);
    fs_close(fs);
}

/* The kernel has greeted us: the parent may return to the shell. */
static void on_ready(void *argument)
{
    struct daemon *daemon = argument;
    if (daemon->ready_fd < 0)
        return;
    auto_close int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd <= 2 && null >= 0; fd++)
        dup2(null, fd);
    if (write(daemon->ready_fd, "1", 1) == 1)
        close(steal_fd(&daemon->ready_fd));
}

static bool loop_ended(struct daemon *daemon)
{
    pthread_mutex_lock(&daemon->lock);
    bool ended = daemon->loop_ended;
    pthread_mutex_unlock(&daemon->lock);
    return ended;
}

/* Ends the loop in an orderly way: who waits for a commit is answered first. */
static void *take_signals(void *argument)
{
    struct daemon *daemon = argument;
    sigset_t set;
    int number;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigwait(&set, &number);
    if (loop_ended(daemon))
        return NULL;
    fs_stop(daemon->ops.fs);
    fuse_session_exit(daemon->session);
    while (!loop_ended(daemon)) { /* the loop may just be about to wait */
        pthread_kill(daemon->main_thread, SIGUSR1);
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    return NULL;
}

static void wake_up(int number)
{
    (void)number;
}

static int serve(struct daemon *daemon, struct error *err)
{
    struct sigaction action = {.sa_handler = wake_up};
    struct fuse_loop_config config = {.max_idle_threads = 10};
    daemon->main_thread = pthread_self();
    sigaction(SIGUSR1, &action, NULL);
    int code = pthread_create(&daemon->signal_thread, NULL, take_signals, daemon);
    if (code != 0)
        return error_errno(err, code, "cannot start a thread");
    int r = fuse_session_loop_mt(daemon->session, &config);
    fs_stop(daemon->ops.fs);
    pthread_mutex_lock(&daemon->lock);
    daemon->loop_ended = true;
    pthread_mutex_unlock(&daemon->lock);
    pthread_kill(daemon->signal_thread, SIGTERM);
    pthread_join(daemon->signal_thread, NULL);
    return r < 0 ? error_errno(err, -r, "the kernel's connection broke") : 0;
}

static int serve_mounted(struct daemon *daemon, struct error *err)
{
    const char *mountpoint = daemon->arguments.mountpoint;
    int r = fuse_session_mount(daemon->session, mountpoint) == 0
                ? 0
                : error_set(err, EIO, "cannot mount at %s (see above)", mountpoint);
    if (r == 0) {
        /* For auto_unmount libfuse keeps a socket that no VMM must inherit. */
        close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
        r = serve(daemon, err);
        fuse_session_unmount(daemon->session);
    }
    return r;
}

static int open_layers(struct daemon *daemon, struct error *err)
{
    const struct arguments *arguments = &daemon->arguments;
    struct fs_setup fs_setup = {.snapshots = &daemon->snapshots,
                                .instances = &daemon->instances,
                                .warm = &daemon->warm,
                                .ack_address = arguments->ack_address,
                                .rules = arguments->rules,
                                .wake = ops_wake,
                                .drop = ops_drop};
    const struct instances_setup instances_setup = {.store = &daemon->store,
                                                    .snapshots = &daemon->snapshots,
                                                    .binaries = daemon->binaries,
                                                    .binary_count = array_length(daemon->binaries),
                                                    .changed = on_changed,
                                                    .complain = complain,
                                                    .context = daemon,
                                                    .happened = tell_instance};
    daemon->binaries[0] = (struct vmm_binary){"qemu", arguments->qemu};
    daemon->binaries[1] = (struct vmm_binary){"firecracker", arguments->firecracker};
    int r = ack_ports_create(&daemon->ack_ports, err);
    fs_setup.ack_ports = daemon->ack_ports;
    if (r == 0)
        r = memory_watch_create(&daemon->watch, err);
    fs_setup.watch = daemon->watch;
    if (r == 0)
        r = loads_create(arguments->max_loads, &daemon->loads, err);
    if (r == 0)
        r = events_create(&daemon->events, err);
    fs_setup.events = daemon->events;
    if (r == 0)
        r = fs_open(&fs_setup, &daemon->ops.fs, err);
    if (r == 0)
        r = vmm_programs_create(&daemon->programs, err);
    if (r == 0)
        r = snapshots_open(&daemon->store, on_scanned, complain, daemon, &daemon->snapshots, err);
    if (r < 0)
        return r;
    struct instances_setup setup = instances_setup;
    setup.programs = daemon->programs;
    setup.loads = daemon->loads;
    setup.listener = daemon->snapshots.listener = daemon->events;
    daemon->snapshots.happened = tell_snapshot;
    r = instances_open(&setup, &daemon->instances, err);
    const struct warm_setup warm_setup = {.instances = &daemon->instances,
                                          .meminfo = "/proc/meminfo",
                                          .changed = on_warm,
                                          .context = daemon};
    return r < 0 ? r : warm_open(&warm_setup, &daemon->warm, err);
}

static int run(struct daemon *daemon, struct error *err)
{
    int r = store_open(daemon->arguments.store, &daemon->store, err);
    if (r < 0)
        return r;
    r = open_layers(daemon, err);
    if (r == 0)
        r = serve_mounted(daemon, err);
    close_tree(daemon);
    warm_close(&daemon->warm);
    if (daemon->instances.setup.store)
        instances_close(&daemon->instances);
    if (daemon->snapshots.store)
        snapshots_close(&daemon->snapshots);
    vmm_programs_destroy(daemon->programs);
    loads_destroy(daemon->loads);
    memory_watch_destroy(daemon->watch);
    ack_ports_destroy(daemon->ack_ports);
    events_destroy(daemon->events);
    store_close(&daemon->store);
    return r;
}

static int check_mountpoint(struct arguments *arguments, struct error *err)
{
    char *real = NULL;
    int r = mountpoint_prepare(arguments->mountpoint, arguments->store, &real, err);
    if (r < 0)
        return r;
    free(arguments->mountpoint);
    arguments->mountpoint = real;
    return 0;
}

/* Those that were asked for. The backends' own need not be there, as long as none is used. */
static int check_programs(const struct arguments *arguments, struct error *err)
{
    const struct {
        const char *option, *program;
    } programs[] = {{"--qemu", arguments->qemu}, {"--firecracker", arguments->firecracker}};
    int r = 0;
    for (size_t i = 0; i < array_length(programs) && r == 0; i++)
        if (programs[i].program && (r = vmm_program_check(programs[i].program, err)) < 0)
            r = error_prefix(err, r, "%s", programs[i].option);
    return r;
}

__attribute__((format(printf, 2, 0))) static void say_nothing(enum fuse_log_level level,
                                                              const char *format, va_list arguments)
{
    (void)level;
    (void)format;
    (void)arguments;
}

/* What libfuse says of options is a line beside ours; of what it got it leaves nothing. */
static int open_session(struct daemon *daemon)
{
    struct fuse_args *args = &daemon->arguments.fuse;
    char text[ERROR_TEXT_SIZE] = "";
    size_t used = 0;
    for (int i = 0; i < args->argc && used < sizeof text; i++)
        if (i > 0 && strcmp(args->argv[i - 1], "-o") == 0)
            used += (size_t)snprintf(text + used, sizeof text - used, " -o %s", args->argv[i]);
    text_make_utf8(text);
    text_make_printable(text, strlen(text), '?');
    fuse_set_log_func(say_nothing);
    daemon->session = fuse_session_new(args, &ops_callbacks, sizeof ops_callbacks, &daemon->ops);
    fuse_set_log_func(NULL);
    if (daemon->session)
        return -1;
    fprintf(stderr, "hypefs mount: libfuse does not know or cannot use something in%s; %s", text,
            hint);
    return CLI_USAGE;
}

int cli_mount(int argc, char **argv)
{
    struct daemon daemon = {.ready_fd = -1,
                            .store = {.lock_fd = -1, .kind_fd = {-1, -1}},
                            .ops = {.ready = on_ready},
                            .lock = PTHREAD_MUTEX_INITIALIZER,
                            .tree_lock = PTHREAD_RWLOCK_INITIALIZER};
    struct error err = {0};
    int status = read_arguments(argc, argv, &daemon.arguments);
    if (status < 0)
        status = open_session(&daemon);
    if (status < 0) {
        daemon.ops.argument = &daemon;
        int r = check_programs(&daemon.arguments, &err);
        if (r == 0)
            r = check_mountpoint(&daemon.arguments, &err);
        process_setup();
        if (r == 0 && !daemon.arguments.foreground) {
            openlog("hypefs", LOG_PID, LOG_DAEMON);
            r = daemon.ready_fd = process_setup_background(&err);
        }
        if (r >= 0)
            r = run(&daemon, &err);
        status = r < 0 ? fail(err.text) : CLI_DONE;
    }
    if (daemon.session)
        fuse_session_destroy(daemon.session);
    fuse_opt_free_args(&daemon.arguments.fuse);
    free(daemon.arguments.store);
    free(daemon.arguments.qemu);
    free(daemon.arguments.firecracker);
    free(daemon.arguments.mountpoint);
    return status;
}
