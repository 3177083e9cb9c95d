/* SPDX-License-Identifier: MIT */
/*
 * import: publishes files that another tool saved as a snapshot. They are all looked at first; what
 * is copied lies hidden in the store until it is whole. A daemon may have the store open meanwhile.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/import_ask.h"
#include "cli/progress.h"
#include "hypervisor/import.h"
#include "store/snapshot_entry.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/sparse.h"
#include "util/text_file.h"

static const char help[] =
    "Usage: hypefs import --id ID --hypervisor NAME --memory FILE --state FILE [OPTION]…\n"
    "Publish files that another tool saved as a snapshot. A daemon shows it at once.\n"
    "\n"
    "  --id ID            the id of the new snapshot\n"
    "  --hypervisor NAME  what saved the files: qemu, firecracker or cloud-hypervisor\n"
    "  --memory FILE      the guest's memory, raw: Firecracker's mem_file, Cloud Hypervisor's\n"
    "                     memory-ranges\n"
    "  --state FILE       the devices' state: Firecracker's snapshot file, state.json, or the "
    "output\n"
    "                     of QEMU's xen-save-devices-state\n"
    "  --config FILE      the machine: Firecracker's configuration, which names its drives and\n"
    "                     interfaces (without, a Firecracker that is shut in loads the state and "
    "is\n"
    "                     asked); config.json; or a snapshot.json, which qemu needs\n"
    "  --allow-disk DIR   allow disks below DIR, besides those in the folder of the "
    "configuration;\n"
    "                     may be given several times\n"
    "  --path OLD=NEW     Firecracker: a drive or a pmem device that the configuration names by "
    "the\n"
    "                     path OLD is the file NEW here; may be given several times\n"
    "  --firecracker PROGRAM   the Firecracker that is asked what a state has, without --config;\n"
    "                     default: firecracker from PATH\n"
    "  --copy             copy the memory (the default): by a reflink if the file system can make\n"
    "                     one, else only its data\n"
    "  --link             make a hard link to the memory; it must never change again then\n"
    "  --store DIR        where snapshots are kept (default: as for hypefs mount)\n"
    "  --insecure-store   as root, also use a store that others can change\n"
    "  -h, --help         print this\n"
    "\n"
    "The hypervisor trusts a state that it loads: a state from a stranger may be code that runs "
    "as\n"
    "you. hypefs import prints the files of this host that the machine names.\n";

enum { ALLOWED_MAX = 64, PATHS_MAX = MACHINE_DISKS_MAX };

struct arguments {
    const char *id, *hypervisor, *memory, *state, *config, *store, *firecracker;
    bool link, copy, insecure_store;
    const char *allowed[ALLOWED_MAX]; /* folders, with what lies below them */
    size_t allowed_count;
    const char *paths[PATHS_MAX]; /* OLD=NEW */
    size_t path_count;
};

struct work {
    const struct arguments *arguments;
    struct import_files files;
    struct import_path paths[PATHS_MAX];
    struct import import;
    bool asks;              /* a VMM, what the machine has */
    cJSON *told;            /* owned; by it */
    struct error told_less; /* why the VMM could not be asked; code 0: it was, or was not to be */
    struct progress progress;
    size_t frames; /* that were found in the memory */
};

static const struct cli_command command = {"hypefs import", help};

/* What was given is complete and can be meant. CLI_GO_ON, or the exit status. */
static int check_arguments(const struct arguments *arguments)
{
    const struct {
        const char *value, *why;
    } needed[] = {
        {arguments->id, "no --id given"},
        {arguments->hypervisor, "no --hypervisor given"},
        {arguments->memory, "no --memory given"},
        {arguments->state, "no --state given"},
    };
    struct error err;
    for (size_t i = 0; i < array_length(needed); i++)
        if (!needed[i].value)
            return cli_misuse(&command, needed[i].why);
    if (arguments->link && arguments->copy)
        return cli_misuse(&command, "--link and --copy exclude each other");
    if (arguments->store && !arguments->store[0])
        return cli_misuse(&command, "--store needs a directory");
    if (store_check_id(arguments->id, &err) < 0)
        return cli_misuse(&command, err.text);
    if (import_is_known(arguments->hypervisor))
        return CLI_GO_ON;
    error_set(&err, EINVAL, "--hypervisor \"%.40s\" is not one of %s", arguments->hypervisor,
              import_names);
    return cli_misuse(&command, err.text);
}

static int allow_disk(void *arguments, const char *value)
{
    struct arguments *ret = arguments;
    if (ret->allowed_count == ALLOWED_MAX)
        return cli_misuse(&command, "--allow-disk is given too often");
    ret->allowed[ret->allowed_count++] = value;
    return CLI_GO_ON;
}

static int add_path(void *arguments, const char *value)
{
    struct arguments *ret = arguments;
    const char *equals = strchr(value, '=');
    if (!equals || equals == value || !equals[1])
        return cli_misuse(&command, "--path needs OLD=NEW; OLD has no \"=\" in it");
    for (size_t i = 0; i < ret->path_count; i++)
        if (strncmp(ret->paths[i], value, (size_t)(equals - value) + 1) == 0)
            return cli_misuse(&command, "two --path have the same OLD");
    if (ret->path_count == PATHS_MAX)
        return cli_misuse(&command, "--path is given too often");
    ret->paths[ret->path_count++] = value;
    return CLI_GO_ON;
}

static int read_arguments(int argc, char **argv, struct arguments *ret)
{
    const struct cli_option options[] = {
        {"id", .text = &ret->id},           {"hypervisor", .text = &ret->hypervisor},
        {"memory", .text = &ret->memory},   {"state", .text = &ret->state},
        {"config", .text = &ret->config},   {"store", .text = &ret->store},
        {"allow-disk", .read = allow_disk}, {"link", .flag = &ret->link},
        {"copy", .flag = &ret->copy},       {"insecure-store", .flag = &ret->insecure_store},
        {"path", .read = add_path},         {"firecracker", .text = &ret->firecracker},
    };
    int status = cli_read_options(&command, argc, argv, options, array_length(options), ret);
    if (status != CLI_GO_ON)
        return status;
    return optind < argc ? cli_misuse(&command, "every file is given with an option")
                         : check_arguments(ret);
}

/* ---- the files of the host that the machine names: what names them came with the snapshot,
 * perhaps from a stranger ---- */

static bool is_below(const char *path, const char *folder)
{
    size_t length = strlen(folder);
    while (length > 1 && folder[length - 1] == '/')
        length--;
    return strncmp(path, folder, length) == 0 && (path[length] == '/' || strcmp(folder, "/") == 0);
}

/* `folder` as the user gave it. */
static bool is_in(const char *path, const char *folder)
{
    auto_free char *real = realpath(folder, NULL);
    return real && is_below(path, real);
}

static int check_path(const char *path, const char *own_folder, const struct arguments *arguments,
                      struct error *err)
{
    auto_free char *real = realpath(path, NULL);
    if (!real)
        return error_errno(err, errno, "the disk %s cannot be found", path);
    bool found = is_in(real, own_folder);
    for (size_t i = 0; i < arguments->allowed_count && !found; i++)
        found = is_in(real, arguments->allowed[i]);
    if (found)
        return 0;
    auto_free char *folder = strdup(real);
    return error_set(err, EPERM,
                     "the machine would open %s%s%s, which lies outside the folder of its "
                     "configuration (without one, of its state): allow it with --allow-disk %s if "
                     "you trust where the snapshot "
                     "comes from",
                     path, strcmp(path, real) ? ", that is " : "", strcmp(path, real) ? real : "",
                     folder ? dirname(folder) : "DIR");
}

static int check_folders(const struct arguments *arguments, struct error *err)
{
    struct stat st;
    for (size_t i = 0; i < arguments->allowed_count; i++) {
        if (stat(arguments->allowed[i], &st) < 0)
            return error_errno(err, errno, "--allow-disk %s", arguments->allowed[i]);
        if (!S_ISDIR(st.st_mode))
            return error_set(err, ENOTDIR, "--allow-disk %s: it is not a folder",
                             arguments->allowed[i]);
    }
    return 0;
}

/* EPERM unless each disk lies, wherever links lead, below the folder of the configuration, or else
 * of the state, or one that is allowed. */
static int check_paths(const struct import *import, const struct arguments *arguments,
                       struct error *err)
{
    auto_free char *copy = strdup(arguments->config ? arguments->config : arguments->state);
    int r = copy ? check_folders(arguments, err) : error_set(err, ENOMEM, "out of memory");
    const char *own_folder = copy ? dirname(copy) : NULL;
    for (size_t i = 0; i < import->machine.disk_count && r == 0; i++) {
        const char *from = import->frozen_from[i];
        r = check_path(from ? from : import->machine.disks[i].path, own_folder, arguments, err);
    }
    return r;
}

static void print_findings(const struct work *work)
{
    const struct import *import = &work->import;
    if (work->frames == 0)
        cli_say(stderr,
                "%s: warning: no mailbox was found in %s: nothing can be delivered to the clones "
                "(its guest must have armed one before it is saved)",
                command.name, work->arguments->memory);
    if (work->told_less.code != 0)
        cli_say(stderr,
                "%s: warning: nobody says what the VM has, so clones can be made only if it has no "
                "drive that it writes to, and nothing else that this host lacks. Import it again "
                "with --config if that fails. Why the state was not asked: %s",
                command.name, work->told_less.text);
    if (import->releases)
        cli_say(stdout, "the state can be loaded by: %s %s", import->hypervisor, import->releases);
    for (size_t i = 0; i < import->machine.disk_count; i++) {
        const char *from = import->frozen_from[i];
        cli_say(stdout, "%s: %s",
                from ? "copied into the snapshot" : "opened by each clone, for reading",
                from ? from : import->machine.disks[i].path);
    }
    for (size_t i = 0; i < import->machine.interface_count; i++)
        cli_say(stdout, "the tap of each clone whose options name no other: %s",
                import->machine.interfaces[i].tap);
    if (import->machine.vsock)
        cli_say(stdout,
                "the vsock's socket, made in each clone's directory, or, where VMMs are not shut "
                "in, maybe at this path: %s",
                import->machine.vsock);
}

/* ---- being interrupted ---- */

static volatile sig_atomic_t interrupted;
static int interrupt_fd = -1; /* readable then */

static void interrupt(int number)
{
    (void)number;
    interrupted = 1;
    (void)!eventfd_write(interrupt_fd, 1);
}

/* What is ignored, in the background say, stays ignored. A file that gets larger than the limit is
 * an error of the write. */
static void take_signals(void)
{
    interrupt_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    signal(SIGXFSZ, SIG_IGN);
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = interrupt}, before;
    for (size_t i = 0; i < array_length(numbers); i++)
        if (sigaction(numbers[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
}

static bool go_on(void *context, uint64_t done, uint64_t size)
{
    struct work *work = context;
    progress_draw(&work->progress, done, size);
    return !interrupted;
}

/* ---- filling the entry ---- */

static int copy_file(struct work *work, const struct import_file *file, int directory_fd,
                     const char *name, struct error *err)
{
    auto_close int to =
        openat(directory_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (to < 0)
        return error_errno(err, errno, "cannot make %s in the store", name);
    progress_end(&work->progress);
    progress_begin(&work->progress, "copying");
    int r = sparse_copy(file->fd, to, &file->st, go_on, work, err);
    if (r == 0 && fsync(to) < 0)
        r = error_errno(err, errno, "cannot write the copy");
    return r < 0 ? error_prefix(err, r, "copying %s", file->path) : 0;
}

/* The file that was looked at, whatever its name leads to by now. */
static int link_memory(const struct import_file *file, int directory_fd, struct error *err)
{
    char path[48];
    if (fsync(file->fd) < 0) /* whoever wrote it may not have */
        return error_errno(err, errno, "%s: cannot write it to the disk", file->path);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file->fd);
    if (linkat(AT_FDCWD, path, directory_fd, "memory", AT_SYMLINK_FOLLOW) == 0)
        return 0;
    const char *why = errno == EXDEV   ? ": it is on another file system than the store"
                      : errno == EPERM ? ": this user may not link it"
                                       : "";
    return error_errno(err, errno, "%s cannot be linked into the store%s, use --copy", file->path,
                       why);
}

static int copy_disk(struct work *work, const char *path, int directory_fd, const char *name,
                     struct error *err)
{
    struct import_file file;
    int r = import_file_open(path, &file, err);
    if (r < 0)
        return r;
    r = copy_file(work, &file, directory_fd, name, err);
    import_file_close(&file);
    return r;
}

static int write_state(const char *text, int directory_fd, struct error *err)
{
    auto_close int to =
        openat(directory_fd, "state", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (to < 0)
        return error_errno(err, errno, "cannot make state in the store");
    int r = text_file_write(to, text, strlen(text));
    if (r == 0 && fsync(to) < 0)
        r = -errno;
    return r < 0 ? error_errno(err, -r, "cannot write state in the store") : 0;
}

static int fill(void *context, const struct store_entry *entry, struct error *err)
{
    struct work *work = context;
    const struct import *import = &work->import;
    int r = work->arguments->link ? link_memory(&work->files.memory, entry->fd, err)
                                  : copy_file(work, &work->files.memory, entry->fd, "memory", err);
    if (r == 0)
        r = import->state ? write_state(import->state, entry->fd, err)
                          : copy_file(work, &work->files.state, entry->fd, "state", err);
    for (size_t i = 0; i < import->machine.disk_count && r == 0; i++)
        if (import->frozen_from[i])
            r = copy_disk(work, import->frozen_from[i], entry->fd, import->machine.disks[i].frozen,
                          err);
    progress_end(&work->progress);
    progress_begin(&work->progress, "scanning");
    return r;
}

/* ---- the whole ---- */

static int publish(struct work *work, const struct store *store, struct error *err)
{
    auto_json cJSON *json = import_describe(&work->import, &work->files);
    const struct snapshot_import parts = {
        .id = work->arguments->id, .json = json, .fill = fill, .progress = go_on, .context = work};
    if (!json)
        return error_set(err, ENOMEM, "out of memory");
    int r = snapshot_import(store, &parts, &work->frames, err);
    progress_end(&work->progress);
    return r == -ECANCELED ? error_set(err, ECANCELED, "interrupted, nothing was imported") : r;
}

static int find_paths(struct work *work, struct error *err)
{
    const struct arguments *arguments = work->arguments;
    for (size_t i = 0; i < arguments->path_count; i++) {
        const char *equals = strchr(arguments->paths[i], '=');
        struct import_path *path = &work->paths[i];
        path->saved = strndup(arguments->paths[i], (size_t)(equals - arguments->paths[i]));
        path->here = path->saved ? realpath(equals + 1, NULL) : NULL;
        work->files.path_count++;
        if (!path->here)
            return error_errno(err, errno, "--path %s", arguments->paths[i]);
    }
    work->files.paths = work->paths;
    return 0;
}

static void free_paths(struct work *work)
{
    for (size_t i = 0; i < work->files.path_count; i++) {
        free(work->paths[i].saved);
        free(work->paths[i].here);
    }
}

/* Nobody has given a configuration, and a VMM can be asked. */
static bool is_to_ask(struct work *work)
{
    const struct arguments *arguments = work->arguments;
    if (arguments->config)
        return false;
    int r = import_ask_check(arguments->hypervisor, arguments->firecracker, &work->told_less);
    if (r == -EOPNOTSUPP)
        work->told_less = (struct error){0};
    return r == 0;
}

/* All that can be checked before the store is needed: a VMM works there. */
static int open_files(struct work *work, struct error *err)
{
    const struct arguments *arguments = work->arguments;
    int r = import_file_open(arguments->memory, &work->files.memory, err);
    if (r == 0)
        r = import_file_open(arguments->state, &work->files.state, err);
    if (r == 0 && arguments->config)
        r = import_file_open(arguments->config, &work->files.config, err);
    if (r == 0)
        r = find_paths(work, err);
    work->asks = r == 0 && is_to_ask(work);
    if (work->asks) {
        struct import_files some = work->files;
        some.path_count = 0;
        return import_check(arguments->hypervisor, &some, &work->import, err);
    }
    if (r == 0)
        r = import_check(arguments->hypervisor, &work->files, &work->import, err);
    return r < 0 ? r : check_paths(&work->import, arguments, err);
}

static int ask(struct work *work, const struct store *store, struct error *err)
{
    const struct arguments *arguments = work->arguments;
    if (import_ask_in(store, arguments->hypervisor, arguments->firecracker, &work->files,
                      interrupt_fd, &work->told, &work->told_less) == 0)
        work->files.told = work->told;
    if (interrupted)
        return error_set(err, ECANCELED, "interrupted, nothing was imported");
    import_finish(&work->import);
    int r = import_check(arguments->hypervisor, &work->files, &work->import, err);
    if (r < 0 && work->told_less.code != 0)
        error_append(err, " (why the state was not asked: %s)", work->told_less.text);
    return r < 0 ? r : check_paths(&work->import, arguments, err);
}

static int import_into(struct work *work, const char *store_path, struct error *err)
{
    struct store store;
    int r = open_files(work, err);
    if (r < 0)
        return r;
    r = store_attach(store_path, work->arguments->insecure_store, &store, err);
    if (r < 0)
        return r;
    if (snapshot_exists(&store, work->arguments->id))
        r = store_taken(store.kind_fd[STORE_SNAPSHOTS], work->arguments->id, err);
    if (r == 0 && work->asks)
        r = ask(work, &store, err);
    if (r == 0)
        r = publish(work, &store, err);
    store_close(&store);
    return r;
}

int cli_import(int argc, char **argv)
{
    struct arguments arguments = {0};
    struct work work = {
        .arguments = &arguments,
        .files = {.memory = {.fd = -1},
                  .state = {.fd = -1},
                  .config = {.fd = -1},
                  .check_version = snapshot_check_version},
    };
    struct error err = {0};
    int status = read_arguments(argc, argv, &arguments);
    if (status != CLI_GO_ON)
        return status;
    auto_free char *store = arguments.store ? strdup(arguments.store) : cli_default_store();
    if (!store)
        return cli_misuse(&command, "no HOME that the store could be in: give --store DIR");
    umask(077);
    take_signals();
    status = import_into(&work, store, &err) < 0 ? cli_fail(&command, err.text) : CLI_DONE;
    if (status == CLI_DONE)
        print_findings(&work);
    import_finish(&work.import);
    cJSON_Delete(work.told);
    free_paths(&work);
    import_file_close(&work.files.memory);
    import_file_close(&work.files.state);
    import_file_close(&work.files.config);
    return status;
}
