/* SPDX-License-Identifier: MIT */
/* mount: wires the store, the instances, the tree and libfuse together, and runs as a daemon. */
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/mount_arguments.h"
#include "cli/mount_confine.h"
#include "cli/mountpoint.h"
#include "cli/process_setup.h"
#include "fork/memory_watch.h"
#include "fork/warm.h"
#include "fs/ops.h"
#include "fs/event.h"
#include "mailbox/ack.h"
#include "store/notes.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"
#include "util/thread.h"

struct daemon {
    struct mount_arguments arguments;
    int place_fd; /* the mountpoint's lock; -1: the mount is there */
    int ready_fd; /* of process_setup_background(); -1 in the foreground, and when it was told */
    sigset_t ending_signals;
    struct store store;
    struct vmm_programs *programs;
    struct mount_confine confine;
    struct ack_ports *ack_ports;
    struct memory_watch *watch;
    struct turns *turns;
    struct event_ring *events;
    struct snapshots snapshots;
    struct instances instances;
    struct warm_pool warm;
    struct ops_context ops;
    struct fuse_session *session;
    pthread_t main_thread, signal_thread;
    pthread_mutex_t lock; /* of `loop_ended` */
    bool loop_ended;
    pthread_rwlock_t telling; /* held by who tells the tree something */
    bool is_deaf; /* with that lock: the kernel's connection is closed, or about to be */
    bool greeted; /* by the kernel; known when the loop has ended */
};

static const char no_memory[] = "out of memory";

/* In the background the log goes to syslog: a daemon's stderr leads nowhere. */
static void warn(void *context, const char *text)
{
    const struct daemon *daemon = context;
    auto_free char *line = text_escaped(text, strlen(text), "");
    if (daemon->arguments.foreground)
        fprintf(stderr, "hypefs: %s\n", line ? line : no_memory);
    else
        syslog(LOG_WARNING, "%s", line ? line : no_memory);
}

/* What the user is to know at once. */
static void warn_user(void *context, const char *text)
{
    const struct daemon *daemon = context;
    if (!daemon->arguments.foreground)
        fprintf(stderr, "hypefs mount: %s\n", text);
    warn(context, text);
}

/* The log has it. */
static void print(void *context, const char *text)
{
    (void)context;
    fprintf(stderr, "hypefs mount: %s\n", text);
}

/* The layers below call these while the tree is there: it is opened before them, and closed when
 * none of their threads runs any more. */
static struct fs *begin_telling(struct daemon *daemon)
{
    pthread_rwlock_rdlock(&daemon->telling);
    return daemon->is_deaf ? NULL : daemon->ops.fs;
}

static void end_telling(struct daemon *daemon)
{
    pthread_rwlock_unlock(&daemon->telling);
}

static void on_scan(void *context)
{
    struct fs *fs = begin_telling(context);
    if (fs)
        fs_image_scanned(fs);
    end_telling(context);
}

static void on_vanished(void *context, const char *id, uint64_t serial)
{
    struct fs *fs = begin_telling(context);
    if (fs)
        fs_instance_vanished(fs, id, serial);
    end_telling(context);
}

static void on_change(void *context, const char *id)
{
    struct fs *fs = begin_telling(context);
    if (fs)
        fs_changed(fs, OBJECT_INSTANCE, id);
    end_telling(context);
}

static void on_snapshots(void *context)
{
    struct fs *fs = begin_telling(context);
    if (fs)
        fs_refresh(fs);
    end_telling(context);
}

static void on_warm_change(void *context, const char *id)
{
    struct fs *fs = begin_telling(context);
    if (fs)
        fs_changed(fs, OBJECT_SNAPSHOT, id);
    end_telling(context);
}

/* What the tree would tell the kernel might go into whatever has the descriptor's number next. */
static void stop_telling(struct daemon *daemon)
{
    pthread_rwlock_wrlock(&daemon->telling);
    daemon->is_deaf = true;
    pthread_rwlock_unlock(&daemon->telling);
}

/* The kernel has greeted us: who waits for the mount may look at it. */
static void on_ready(void *argument)
{
    struct daemon *daemon = argument;
    daemon->greeted = true;
    if (daemon->ready_fd >= 0)
        process_setup_ready(steal_fd(&daemon->ready_fd));
}

/* In the process that was started: whatever the options, the tree is there. */
static bool answers(void *argument)
{
    enum { FUSE_MAGIC = 0x65735546 };
    const struct daemon *daemon = argument;
    const char *mountpoint = daemon->arguments.mountpoint;
    struct statfs st;
    auto_close int fd = open(mountpoint, O_PATH | O_DIRECTORY | O_CLOEXEC);
    bool good = fd >= 0 && fstatfs(fd, &st) == 0 && st.f_type == FUSE_MAGIC &&
                faccessat(fd, "README", F_OK, 0) == 0;
    if (!good)
        fprintf(stderr,
                "hypefs mount: the mount at %s does not answer (%s): leave out the options given "
                "with -o, one by one\n",
                mountpoint,
                fd >= 0 && st.f_type != FUSE_MAGIC ? "nothing is mounted" : strerrordesc_np(errno));
    return good;
}

static bool loop_ended(struct daemon *daemon)
{
    auto_lock(&daemon->lock);
    return daemon->loop_ended;
}

/* Ends the loop in an orderly way: who waits for a commit is answered first. */
static void *take_signals(void *argument)
{
    struct daemon *daemon = argument;
    int number;
    sigwait(&daemon->ending_signals, &number);
    if (loop_ended(daemon))
        return NULL;
    if (number == SIGXCPU)
        warn(daemon, "the limit of processor time (RLIMIT_CPU) is nearly used up: the daemon ends");
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
    int r = thread_start(take_signals, daemon, &daemon->signal_thread, err);
    if (r < 0)
        return r;
    r = fuse_session_loop_mt(daemon->session, &config);
    fs_stop(daemon->ops.fs);
    pthread_mutex_lock(&daemon->lock);
    daemon->loop_ended = true;
    pthread_mutex_unlock(&daemon->lock);
    pthread_kill(daemon->signal_thread, SIGTERM);
    pthread_join(daemon->signal_thread, NULL);
    if (r < 0)
        return error_errno(err, -r, "the kernel's connection broke");
    return daemon->greeted ? 0 : error_set(err, EIO, "the mount has ended before it answered");
}

/* Somebody may have put a link into the place of what was looked at. */
static int check_place(const char *mountpoint, struct error *err)
{
    int r = mountpoint_has(mountpoint, "fuse", err);
    return r > 0   ? 0
           : r < 0 ? r
                   : error_set(err, EPERM,
                               "the tree is not mounted at %s: that directory was replaced "
                               "meanwhile",
                               mountpoint);
}

static int serve_mounted(struct daemon *daemon, struct error *err)
{
    const char *mountpoint = daemon->arguments.mountpoint;
    if (fuse_session_mount(daemon->session, mountpoint) < 0)
        return error_set(err, EIO, "cannot mount at %s (see above)", mountpoint);
    /* For auto_unmount libfuse keeps a socket that no VMM must inherit. */
    close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
    mountpoint_unlock(steal_fd(&daemon->place_fd)); /* who comes now finds the mount */
    int r = check_place(mountpoint, err);
    if (r == 0)
        r = serve(daemon, err);
    stop_telling(daemon);
    fuse_session_unmount(daemon->session);
    return r;
}

static int open_layers(struct daemon *daemon, struct error *err)
{
    const struct mount_arguments *arguments = &daemon->arguments;
    int r = ack_ports_create(&daemon->ack_ports, err);
    if (r == 0)
        r = memory_watch_create(&daemon->watch, err);
    if (r == 0)
        r = turns_create(arguments->max_loads, &daemon->turns, err);
    if (r == 0)
        r = event_ring_create(&daemon->events, err);
    if (r == 0)
        r = vmm_programs_create(&daemon->programs, err);
    if (r < 0)
        return r;
    const struct fs_setup fs_setup = {.snapshots = &daemon->snapshots,
                                      .instances = &daemon->instances,
                                      .warm = &daemon->warm,
                                      .ack_address = arguments->ack_address ? arguments->ack_address
                                                                            : "127.0.0.1",
                                      .ack_ports = daemon->ack_ports,
                                      .watch = daemon->watch,
                                      .events = daemon->events,
                                      .rules = arguments->rules,
                                      .wake = ops_wake,
                                      .release = ops_release,
                                      .expire = ops_expire,
                                      .kernel = &daemon->session};
    const struct instances_setup instances_setup = {
        .store = &daemon->store,
        .snapshots = &daemon->snapshots,
        .programs = daemon->programs,
        .turns = daemon->turns,
        .limits = arguments->limits,
        .binaries = arguments->binaries,
        .binary_count = array_length(arguments->binaries),
        .confine = daemon->confine.is_on ? &daemon->confine.vmm : NULL,
        .on_change = on_change,
        .on_vanished = on_vanished,
        .on_snapshots = on_snapshots,
        .warn = warn,
        .context = daemon,
        .on_event = event_instance,
        .listener = daemon->events};
    const struct warm_setup warm_setup = {.instances = &daemon->instances,
                                          .meminfo = "/proc/meminfo",
                                          .on_change = on_warm_change,
                                          .context = daemon};
    r = fs_open(&fs_setup, &daemon->ops.fs, err);
    if (r == 0)
        r = snapshots_open(&daemon->store, on_scan, warn, daemon, &daemon->snapshots, err);
    if (r < 0)
        return r;
    daemon->snapshots.happened = event_snapshot;
    daemon->snapshots.listener = daemon->events;
    r = instances_open(&instances_setup, &daemon->instances, err);
    return r < 0 ? r : warm_open(&warm_setup, &daemon->warm, err);
}

static int run(struct daemon *daemon, struct error *err)
{
    const struct store_leftovers leftovers = {.describe = instance_describe_unfinished,
                                              .warn = warn,
                                              .warn_user = warn_user,
                                              .context = daemon};
    int r = store_open(daemon->arguments.store, daemon->arguments.insecure_store, &leftovers,
                       &daemon->store, err);
    if (r < 0)
        return r;
    store_notes_each(daemon->store.notes, warn, daemon); /* of leftovers, by now */
    daemon->ops.store_fd = daemon->store.kind_fd[STORE_INSTANCES];
    r = hypervisors_open(err);
    if (r == 0)
        r = open_layers(daemon, err);
    if (r == 0 && !daemon->arguments.foreground)
        store_notes_each(daemon->store.notes, print, daemon);
    if (r == 0)
        r = serve_mounted(daemon, err);
    warm_close(&daemon->warm);
    instances_stop(&daemon->instances);
    instances_join(&daemon->instances);
    image_scans_wait(&daemon->snapshots.scans);
    fs_close(daemon->ops.fs);
    if (daemon->instances.setup.store)
        instances_close(&daemon->instances);
    if (daemon->snapshots.store)
        snapshots_close(&daemon->snapshots);
    vmm_programs_destroy(daemon->programs);
    turns_destroy(daemon->turns);
    memory_watch_destroy(daemon->watch);
    ack_ports_destroy(daemon->ack_ports);
    event_ring_destroy(daemon->events);
    store_close(&daemon->store);
    hypervisors_close();
    return r;
}

static int check_mountpoint(struct mount_arguments *arguments, int *place_fd, struct error *err)
{
    char *real = NULL;
    int r = mountpoint_prepare(arguments->mountpoint, arguments->store, &real, place_fd, err);
    if (r < 0)
        return r;
    free(arguments->mountpoint);
    arguments->mountpoint = real;
    return 0;
}

/* Those that were asked for. The backends' own need not be there, as long as none is used. */
static int check_programs(const struct mount_arguments *arguments, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < HYPERVISORS && r == 0; i++)
        if (arguments->programs[i] && (r = vmm_program_check(arguments->programs[i], err)) < 0)
            r = error_prefix(err, r, "--%s", hypervisor_names[i]);
    return r;
}

/* One that was given: acks can be received there now. */
static int check_ack_address(const struct mount_arguments *arguments, struct error *err)
{
    struct ack_socket socket = {.fd = -1};
    if (!arguments->ack_address)
        return 0;
    int r = ack_socket_open(arguments->ack_address, NULL, &socket, err);
    ack_socket_close(&socket);
    return r < 0 ? error_prefix(err, r, "--ack-address") : 0;
}

/* What is wrong with the host and does not keep the tree from being served. */
static void warn_of_host(struct daemon *daemon)
{
    struct error err;
    process_setup_warn_of_limits(warn_user, daemon);
    if (daemon->arguments.programs[0] || vmm_program_check("qemu-system-x86_64", &err) == 0)
        return;
    warn_user(
        daemon,
        "there is no qemu-system-x86_64 in PATH, so no VM of QEMU can be booted, restored or "
        "forked: install it (Debian: qemu-system-x86), or give hypefs mount its path with --qemu");
}

/* Up to where the shell gets its answer; in the background this returns in the daemon. */
static int start(struct daemon *daemon, struct error *err)
{
    int r = check_programs(&daemon->arguments, err);
    if (r == 0)
        r = check_ack_address(&daemon->arguments, err);
    if (r == 0)
        r = mount_confine_prepare(&daemon->arguments, warn_user, daemon, &daemon->confine, err);
    if (r == 0)
        r = check_mountpoint(&daemon->arguments, &daemon->place_fd, err);
    if (r < 0)
        return r;
    if (!daemon->arguments.foreground)
        openlog("hypefs", LOG_PID, LOG_DAEMON);
    warn_of_host(daemon);
    if (!daemon->arguments.foreground)
        r = daemon->ready_fd = process_setup_background(answers, daemon, err);
    if (r >= 0 && chdir("/") < 0)
        r = error_errno(err, errno, "cannot leave the directory");
    return r < 0 ? r : 0;
}

int cli_mount(int argc, char **argv)
{
    struct daemon daemon = {.place_fd = -1,
                            .ready_fd = -1,
                            .store = {.lock_fd = -1, .kind_fd = {-1, -1}},
                            .ops = {.ready = on_ready},
                            .lock = PTHREAD_MUTEX_INITIALIZER,
                            .telling = PTHREAD_RWLOCK_INITIALIZER};
    struct error err = {0};
    daemon.ops.argument = &daemon;
    if (process_setup(&daemon.ending_signals, &err) < 0)
        return cli_fail(&cli_mount_command, err.text);
    json_wipe_freed();
    int status = mount_arguments_read(argc, argv, &daemon.arguments);
    if (status == CLI_GO_ON)
        status = mount_arguments_open_session(&daemon.arguments, &daemon.ops, &daemon.session);
    if (status == CLI_GO_ON) {
        int r = start(&daemon, &err);
        if (r == 0)
            r = run(&daemon, &err);
        status = r < 0 ? cli_fail(&cli_mount_command, err.text) : CLI_DONE;
    }
    if (daemon.session)
        fuse_session_destroy(daemon.session);
    mount_confine_finish(&daemon.confine);
    mount_arguments_finish(&daemon.arguments);
    return status;
}
