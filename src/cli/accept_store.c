/* SPDX-License-Identifier: MIT */
#include "cli/accept_store.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"
#include "fork/accept.h"
#include "instance/instance.h"
#include "util/cleanup.h"
#include "util/json.h"

/* What a daemon has, but for the tree. */
struct offline {
    struct store store;
    struct snapshots snapshots;
    struct instances instances;
    bool opened; /* what goes wrong from here on is told by who asked for it */
};

static void complain(void *context, const char *text)
{
    const struct offline *offline = context;
    if (!offline->opened)
        cli_say(stderr, "hypefs accept: %s", text);
}

static void scanned(void *context)
{
    (void)context;
}

static void changed(void *context, const char *id)
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

void accept_print(const char *name, const cJSON *accepted)
{
    const cJSON *file, *files = cJSON_GetObjectItemCaseSensitive(accepted, "files");
    if (cJSON_GetArraySize(files) == 0)
        cli_say(stdout, "%s: accepted", name);
    cJSON_ArrayForEach (file, files)
        cli_say(stdout, "%s: accepted %s", name, cJSON_IsString(file) ? file->valuestring : "");
}

static void print_accepted(const char *name, struct image *image)
{
    struct image_index *index = NULL;
    bool known = image_index_wait(image, NULL, &index, NULL) == 0;
    accept_print(name, known ? index->accepted : NULL);
    image_index_unref(index);
}

static int no_entry(const char *id, const char *kind, struct error *err)
{
    return error_set(err, ENOENT, "there is no %s %s in the store, or it cannot be read", kind, id);
}

static int accept_snapshot_of(struct offline *offline, const char *name, const char *id,
                              struct error *err)
{
    struct snapshot *snapshot = snapshots_find(&offline->snapshots, id);
    if (!snapshot)
        return no_entry(id, "snapshot", err);
    int r = accept_snapshot(snapshot, err);
    if (r == 0)
        print_accepted(name, snapshot->image);
    snapshot_unref(snapshot);
    return r;
}

static int accept_instance_of(struct offline *offline, const char *name, const char *id,
                              struct error *err)
{
    struct instance *instance = instances_find(&offline->instances, id);
    if (!instance)
        return no_entry(id, "instance", err);
    int r = instance_accept(instance, err);
    if (r == 0)
        print_accepted(name, instance->image);
    instance_unref(instance);
    return r;
}

static int accept_one(struct offline *offline, const char *name)
{
    struct error err = {0};
    char id[STORE_ID_MAX + 1];
    int r;
    if (is_entry(name, STORE_SNAPSHOTS, id))
        r = accept_snapshot_of(offline, name, id, &err);
    else if (is_entry(name, STORE_INSTANCES, id))
        r = accept_instance_of(offline, name, id, &err);
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
                                              .complain = complain,
                                              .warn = complain,
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
                                          .changed = changed,
                                          .complain = complain,
                                          .context = offline};
    int r = hypervisors_open(err);
    if (r == 0)
        r = snapshots_open(&offline->store, scanned, complain, offline, &offline->snapshots, err);
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

static int fail(const struct error *err)
{
    cli_say(stderr, "hypefs accept: %s", err->text);
    return CLI_FAILED;
}

int accept_store(const char *path, bool insecure, char *const *names, int count)
{
    struct offline offline = {.store = {.lock_fd = -1, .kind_fd = {-1, -1}}};
    struct error err = {0};
    umask(077);
    signal(SIGXFSZ, SIG_IGN); /* a file that gets larger than the limit is an error of the write */
    if (open_store(&offline, path, insecure, &err) < 0)
        return fail(&err);
    int r = open_layers(&offline, &err), status = r < 0 ? fail(&err) : CLI_DONE;
    for (int i = 0; i < count && r == 0; i++)
        if (accept_one(&offline, names[i]) != CLI_DONE)
            status = CLI_FAILED;
    close_layers(&offline);
    return status;
}
