/* SPDX-License-Identifier: MIT */
/* Any bytes in the place of a file of ours in a store: snapshot.json, instance.json, fork.json and
 * mailboxes.json, and warm.json. What is read must be whole, and the same after it was written
 * again. */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fork/warm_internal.h"
#include "fuzz.h"
#include "instance/internal.h"
#include "store/notes.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/utf8.h"

enum { MEMORY_SIZE = 2 * FRAME_SIZE, PATH_SIZE = 512 };

static const char forked[] =
    "{\"version\":1,\"state\":\"stopped\",\"config\":\"{}\",\"source\":{\"snapshot\":\"s\","
    "\"uuid\":\"0123456789abcdef0123456789abcdef\"},\"machine\":{\"memory_bytes\":8192,\"vcpus\":1,"
    "\"machine\":\"microvm\",\"accel\":\"tcg\",\"network\":{\"mode\":\"none\",\"restrict\":false},"
    "\"disks\":[]}}";

/* Made by the first input, removed at the exit. */
static struct {
    char path[PATH_SIZE];
    struct store store;
    int snapshot_fd, instance_fd;
    char complaint[ERROR_TEXT_SIZE];
    atomic_uint scans;
} world;

static void scanned(void *context)
{
    (void)context;
    world.scans++;
}

static void warn(void *context, const char *text)
{
    (void)context;
    snprintf(world.complaint, sizeof world.complaint, "%s", text);
}

static void remove_files(int parent_fd, const char *name)
{
    DIR *dir = fdopendir(openat(parent_fd, name, O_DIRECTORY | O_RDONLY | O_CLOEXEC));
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (unlinkat(dirfd(dir), entry->d_name, 0) < 0 && entry->d_name[0] != '.')
            remove_files(dirfd(dir), entry->d_name);
    if (dir)
        closedir(dir);
    unlinkat(parent_fd, name, AT_REMOVEDIR);
}

static void remove_world(void)
{
    char name[PATH_SIZE + 16];
    remove_files(world.store.kind_fd[STORE_SNAPSHOTS], "s");
    remove_files(world.store.kind_fd[STORE_INSTANCES], "i");
    close(world.snapshot_fd);
    close(world.instance_fd);
    store_close(&world.store);
    snprintf(name, sizeof name, "%s/snapshots", world.path);
    rmdir(name);
    snprintf(name, sizeof name, "%s/instances", world.path);
    rmdir(name);
    remove_files(AT_FDCWD, world.path);
}

static void put(int directory_fd, const char *name, const void *bytes, size_t size)
{
    auto_close int fd = openat(directory_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    MUST(fd >= 0 && write(fd, bytes, size) == (ssize_t)size);
}

static int make_entry(enum store_kind kind, const char *id)
{
    MUST(mkdirat(world.store.kind_fd[kind], id, 0700) == 0);
    int fd = store_open_entry(&world.store, kind, id, NULL);
    MUST(fd >= 0);
    return fd;
}

static void make_world(void)
{
    static const char memory[MEMORY_SIZE];
    const char *tmp = getenv("TMPDIR");
    snprintf(world.path, sizeof world.path, "%.400s/hypefs-fuzz-XXXXXX", tmp ? tmp : "/tmp");
    MUST(mkdtemp(world.path) && store_open(world.path, false, NULL, &world.store, NULL) == 0);
    world.snapshot_fd = make_entry(STORE_SNAPSHOTS, "s");
    world.instance_fd = make_entry(STORE_INSTANCES, "i");
    put(world.snapshot_fd, "memory", memory, sizeof memory);
    put(world.snapshot_fd, "state", "", 0);
    atexit(remove_world);
}

static void check_machine(const cJSON *json)
{
    struct machine machine, again;
    struct error err = {0};
    int r = machine_from_json(json, &machine, &err);
    if (r < 0) {
        MUST(err.code == -r && *err.text);
        return;
    }
    auto_json cJSON *printed = machine_to_json(&machine);
    MUST(printed && machine_from_json(printed, &again, &err) == 0);
    auto_json cJSON *printed_again = machine_to_json(&again);
    MUST(cJSON_Compare(printed, printed_again, true));
    machine_finish(&machine);
    machine_finish(&again);
}

static void check_id(const cJSON *info, const char *id)
{
    MUST(strcmp(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(info, "id")), id) == 0);
}

static cJSON *parsed_info(char *text, const char *id)
{
    cJSON *json = NULL;
    MUST(text && json_parse(text, strlen(text), &json, NULL) == 0);
    check_id(json, id);
    free(text);
    return json;
}

static bool check_snapshots(struct snapshots *snapshots)
{
    world.complaint[0] = 0;
    store_notes_remove(world.store.notes, STORE_SNAPSHOTS, "s"); /* it is told once */
    MUST(snapshots_open(&world.store, scanned, warn, NULL, snapshots, NULL) == 0);
    struct snapshot *snapshot = snapshots_find(snapshots, "s");
    if (!snapshot) {
        MUST(strncmp(world.complaint, "snapshot s: ", 12) == 0);
        MUST(utf8_valid(world.complaint, strlen(world.complaint)));
        return false;
    }
    MUST(strlen(snapshot->uuid) == sizeof snapshot->uuid - 1 && snapshot->memory_bytes > 0);
    cJSON *info = snapshot_info(snapshot);
    check_id(info, "s");
    static const char *const texts[] = {"kind", "hypervisor", "created_at"};
    for (size_t i = 0; i < array_length(texts); i++)
        MUST(cJSON_IsString(cJSON_GetObjectItemCaseSensitive(info, texts[i])));
    cJSON_Delete(info);
    check_machine(snapshot_machine(snapshot));
    snapshot_unref(snapshot);
    return true;
}

static cJSON *loaded_info(struct instances *instances, struct instance **ret)
{
    struct error err = {0};
    int r = instance_load(instances, "i", ret, &err);
    if (r < 0) {
        MUST(err.code == -r && strncmp(err.text, "instance i: ", 12) == 0);
        MUST(utf8_valid(err.text, strlen(err.text)));
        return NULL;
    }
    MUST((*ret)->state < INSTANCE_STATES && (*ret)->published);
    bool running = (*ret)->state == INSTANCE_RUNNING || (*ret)->state == INSTANCE_PAUSED;
    MUST(running == ((*ret)->vmm != NULL));
    return parsed_info(instance_info(*ret), "i");
}

/* Loads the instance and writes it as it is now. *ret_record: is its fork.json one? */
static cJSON *rewrite(struct instances *instances, bool *ret_record)
{
    struct instance *instance;
    cJSON *info = loaded_info(instances, &instance);
    if (!info)
        return NULL;
    *ret_record = cJSON_GetObjectItemCaseSensitive(instance->fork, "result");
    free(instance_config(instance));
    MUST(instance_record(instance, NULL) == 0);
    instance_unref(instance);
    return info;
}

/* What we have written ourselves stays the same from then on. */
static bool check_instance(struct snapshots *snapshots, bool *ret_record)
{
    struct instances instances = {
        .setup = {.store = &world.store, .snapshots = snapshots, .warn = warn},
        .lock = PTHREAD_MUTEX_INITIALIZER};
    *ret_record = false;
    auto_json cJSON *given = rewrite(&instances, ret_record);
    /* NULL: it ran, with a config that cannot be read, and is stopped now. */
    auto_json cJSON *ours = given ? rewrite(&instances, ret_record) : NULL;
    auto_json cJSON *again = ours ? rewrite(&instances, ret_record) : NULL;
    MUST(!ours || cJSON_Compare(ours, again, true));
    return given;
}

/* "KEY" in the input stands for what makes a kept list fit the image. */
static void put_list(const char *text, size_t size)
{
    char key[128];
    struct stat st;
    const char *at = memmem(text, size, "KEY", 3);
    size_t before = at ? (size_t)(at - text) : size;
    auto_close int fd =
        openat(world.snapshot_fd, "mailboxes.json", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    MUST(fstatat(world.snapshot_fd, "memory", &st, 0) == 0);
    snprintf(key, sizeof key, "size=%d inode=%ju mtime=%jd.%09ld", MEMORY_SIZE,
             (uintmax_t)st.st_ino, (intmax_t)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    MUST(write(fd, text, before) == (ssize_t)before);
    if (at) {
        MUST(write(fd, key, strlen(key)) == (ssize_t)strlen(key));
        MUST(write(fd, at + 3, size - before - 3) == (ssize_t)(size - before - 3));
    }
}

/* One that does not fit is refused, and not made anew. */
static bool check_list(void)
{
    struct image_scans scans;
    struct image *image;
    struct image_index *index = NULL;
    world.scans = 0;
    image_scans_init(&scans, scanned, warn, NULL);
    MUST(image_create(dup(world.snapshot_fd), "snapshots", "base", &scans, &image, NULL) == 0);
    int r = image_index_wait(image, NULL, &index, NULL);
    MUST(r == 0 || r == -EIO);
    for (size_t i = 0; r == 0 && i < index->scan.count; i++) {
        const struct candidate *candidate = &index->scan.candidates[i];
        MUST(candidate->offset < MEMORY_SIZE);
        MUST(candidate->offset % FRAME_SIZE + frame_layouts[candidate->marker.kind].payload +
                 candidate->capacity <=
             FRAME_SIZE);
    }
    image_index_unref(index);
    image_unref(image);
    image_scans_finish(&scans);
    return r == 0;
}

/* A snapshot that is there whatever the input, for the files beside its snapshot.json. */
static bool check_warm(const void *data, size_t size)
{
    struct error err = {0};
    struct warm_wish wish;
    struct image image = {.directory_fd = world.snapshot_fd};
    const struct snapshot snapshot = {.id = "s", .image = &image};
    put(world.snapshot_fd, "warm.json", data, size);
    int r = warm_read_wish(&snapshot, &wish, &err);
    MUST(r == 0 || (err.code == -r && err.text[0]));
    MUST(wish.number <= WARM_MAX);
    return r == 0;
}

bool fuzz(const uint8_t *data, size_t size)
{
    struct snapshots snapshots;
    bool record;

    if (!world.path[0])
        make_world();
    put_list((const char *)data, size);
    bool taken = check_list();
    put(world.snapshot_fd, "snapshot.json", data, size);
    taken = check_snapshots(&snapshots) || taken;
    put(world.instance_fd, "instance.json", data, size);
    put(world.instance_fd, "fork.json", "{}", 2);
    taken = check_instance(&snapshots, &record) || taken;
    put(world.instance_fd, "instance.json", forked, sizeof forked - 1);
    put(world.instance_fd, "fork.json", data, size);
    taken = (check_instance(&snapshots, &record) && record) || taken;
    snapshots_close(&snapshots);
    return check_warm(data, size) || taken;
}
