/* SPDX-License-Identifier: MIT */
/* accept: accepts the files of snapshots and instances of a mount, as they are now. The daemon
 * does it, by the file `accept` in their directories. Without one, the layers do it here. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "instance/instance.h"
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

static const struct cli_command command = {"hypefs accept", help};

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

/* What was accepted of that name: `accepted` as an index has it, or NULL. */
static void print_files(const char *name, const cJSON *accepted)
{
    const cJSON *file, *files = json_get(accepted, "files");
    if (cJSON_GetArraySize(files) == 0)
        cli_say(stdout, "%s: accepted", name);
    cJSON_ArrayForEach (file, files)
        cli_say(stdout, "%s: accepted %s", name, cJSON_IsString(file) ? file->valuestring : "");
}

static void print_accepted(const char *path, int directory_fd)
{
    auto_free char *text = read_file(directory_fd, "accept");
    auto_json cJSON *accepted = NULL;
    if (text && json_parse(text, strlen(text), &accepted, NULL) < 0)
        accepted = NULL;
    print_files(path, accepted);
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

/* ---- without a mount: entries of a store that no daemon has open ---- */

/* What a daemon has, but for the tree. */
struct offline {
    struct store store;
    struct snapshots snapshots;
    struct instances instances;
    bool opened; /* what goes wrong from here on is told by who asked for it */
};

static void warn(void *context, const char *text)
{
    const struct offline *offline = context;
    if (!offline->opened)
        cli_say(stderr, "hypefs accept: %s", text);
}

static void on_scan(void *context)
{
    (void)context;
}

static void on_change(void *context, const char *id)
{
    (void)context;
    (void)id;
}

/* The id, if that is the name of an entry of that kind; a slash behind it is a glob's. */
static bool is_entry(const char *name, enum store_kind kind, char ret[static STORE_ID_MAX + 1])
{
    const char *kind_name = store_kind_names[kind];
    size_t size = strlen(kind_name);
    if (strncmp(name, kind_name, size) != 0 || name[size] != '/')
        return false;
    const char *id = name + size + 1;
    snprintf(ret, STORE_ID_MAX + 1, "%.*s", (int)strcspn(id, "/"), id);
    size = strlen(ret);
    return store_id_valid(ret) && id[size + strspn(id + size, "/")] == '\0';
}

static void print_accepted_image(const char *name, struct image *image)
{
    struct image_index *index = NULL;
    bool known = image_index_wait(image, NULL, &index, NULL) == 0;
    print_files(name, known ? index->accepted : NULL);
    image_index_unref(index);
}

static int no_entry(const char *id, const char *kind, struct error *err)
{
    return error_set(err, ENOENT, "there is no %s %s in the store, or it cannot be read", kind, id);
}

static int accept_snapshot(struct offline *offline, const char *name, const char *id,
                           struct error *err)
{
    struct snapshot *snapshot = snapshots_find(&offline->snapshots, id);
    if (!snapshot)
        return no_entry(id, "snapshot", err);
    int r = snapshot_accept(snapshot, err);
    if (r == 0)
        print_accepted_image(name, snapshot->image);
    snapshot_unref(snapshot);
    return r;
}

static int accept_instance(struct offline *offline, const char *name, const char *id,
                           struct error *err)
{
    struct instance *instance = instances_find(&offline->instances, id);
    if (!instance)
        return no_entry(id, "instance", err);
    int r = instance_accept(instance, err);
    if (r == 0)
        print_accepted_image(name, instance->image);
    instance_unref(instance);
    return r;
}

static int accept_entry(struct offline *offline, const char *name)
{
    struct error err = {0};
    char id[STORE_ID_MAX + 1];
    int r;
    if (is_entry(name, STORE_SNAPSHOTS, id))
        r = accept_snapshot(offline, name, id, &err);
    else if (is_entry(name, STORE_INSTANCES, id))
        r = accept_instance(offline, name, id, &err);
    else
        r = error_set(&err, EINVAL, "with --store it must be snapshots/ID or instances/ID");
    if (r < 0)
        cli_say(stderr, "hypefs accept: %s: %s", name, err.text);
    return r < 0 ? CLI_FAILED : CLI_DONE;
}

/* One that is not there is not made. */
static int open_store(struct offline *offline, const char *path, bool insecure, struct error *err)
{
    const struct store_leftovers leftovers = {.describe = instance_describe_unfinished,
                                              .warn = warn,
                                              .warn_user = warn,
                                              .context = offline};
    struct stat st;
    auto_free char *snapshots = NULL;
    if (asprintf(&snapshots, "%s/%s", path, store_kind_names[STORE_SNAPSHOTS]) < 0)
        return error_set(err, ENOMEM, "out of memory");
    if (stat(snapshots, &st) < 0)
        return error_errno(err, errno, "%s is no store", path);
    int r = store_open(path, insecure, &leftovers, &offline->store, err);
    if (r == -EBUSY)
        error_append(err, "; or let it run and accept through its mount: hypefs accept "
                          "MOUNTPOINT/snapshots/ID");
    return r;
}

static int open_layers(struct offline *offline, struct error *err)
{
    const struct instances_setup setup = {.store = &offline->store,
                                          .snapshots = &offline->snapshots,
                                          .on_change = on_change,
                                          .warn = warn,
                                          .context = offline};
    int r = hypervisors_open(err);
    if (r == 0)
        r = snapshots_open(&offline->store, on_scan, warn, offline, &offline->snapshots, err);
    if (r == 0)
        r = instances_open(&setup, &offline->instances, err);
    offline->opened = true;
    return r;
}

static void close_layers(struct offline *offline)
{
    if (offline->instances.setup.store)
        instances_close(&offline->instances);
    if (offline->snapshots.store)
        snapshots_close(&offline->snapshots);
    hypervisors_close();
    store_close(&offline->store);
}

static int accept_in_store(const char *path, bool insecure, char *const *names, int count)
{
    struct offline offline = {.store = {.lock_fd = -1, .kind_fd = {-1, -1}}};
    struct error err = {0};
    umask(077);
    signal(SIGXFSZ, SIG_IGN); /* a file that gets larger than the limit is an error of the write */
    if (open_store(&offline, path, insecure, &err) < 0)
        return cli_fail(&command, err.text);
    int r = open_layers(&offline, &err);
    int status = r < 0 ? cli_fail(&command, err.text) : CLI_DONE;
    for (int i = 0; i < count && r == 0; i++)
        if (accept_entry(&offline, names[i]) != CLI_DONE)
            status = CLI_FAILED;
    close_layers(&offline);
    return status;
}

int cli_accept(int argc, char **argv)
{
    const char *store = NULL;
    bool insecure = false;
    const struct cli_option options[] = {{"store", .text = &store},
                                         {"insecure-store", .flag = &insecure}};
    int status = cli_read_options(&command, argc, argv, options, array_length(options), NULL);
    if (status != CLI_GO_ON)
        return status;
    if (insecure && !store)
        return cli_misuse(&command, "--insecure-store can only be given with --store");
    if (optind == argc)
        return cli_misuse(&command, "no directory given");
    status = store ? accept_in_store(store, insecure, argv + optind, argc - optind) : CLI_DONE;
    for (int i = optind; !store && i < argc; i++)
        if (accept_one(argv[i]) != CLI_DONE)
            status = CLI_FAILED;
    return cli_flush(command.name) == CLI_DONE ? status : CLI_FAILED;
}
