/* SPDX-License-Identifier: MIT */
#include "world.h"

#include <sched.h>
#include <sys/prctl.h>

#include "place.h"
#include "util/thread.h"

const char world_qemu_that_dies[] =
    "#!/bin/sh\n"
    "case \"$*\" in *--version) echo 'QEMU emulator version 7.2.22 (Debian)'; exit 0;; esac\n"
    "echo 'qemu: no such luck' >&2\n"
    "exit 3\n";

const char world_machine[] =
    "\"machine\":{\"memory_bytes\":268435456,\"vcpus\":2,\"machine\":\"q35\",\"accel\":\"tcg\","
    "\"network\":{\"mode\":\"none\",\"restrict\":false},\"disks\":[],\"type\":\"pc-q35-7.2\","
    "\"cpu\":\"max\",\"host_cpu\":null,\"version\":\"7.2.22\"}";

void world_await_asleep(pid_t tid)
{
    double deadline_ms = process_now_ms() + FIXTURE_FAR_MS;
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)tid);
    for (;;) {
        auto_fclose FILE *stat = fopen(path, "re");
        const char *name_end = stat && fgets(text, sizeof text, stat) ? strrchr(text, ')') : NULL;
        if (name_end && name_end[2] == 'S')
            return;
        assert_true(name_end && process_now_ms() < deadline_ms);
        sched_yield();
    }
}

void world_scanned(void *context)
{
    struct world *world = context;
    if (world->on_scanned)
        world->on_scanned(world);
    gate_post(&world->scanned);
}

void world_changed(void *context, const char *id)
{
    struct world *world = context;
    if (world->on_changed)
        world->on_changed(world, id);
    gate_post(&world->changed);
}

void world_complain(void *context, const char *text)
{
    struct world *world = context;
    pthread_mutex_lock(&world->scanned.lock);
    size_t used = strlen(world->complaints);
    snprintf(world->complaints + used, sizeof world->complaints - used, "%s\n", text);
    pthread_mutex_unlock(&world->scanned.lock);
}

__attribute__((format(printf, 2, 3))) static void note(struct world *world, const char *format, ...)
{
    va_list args;
    pthread_mutex_lock(&world->changed.lock);
    size_t used = strlen(world->happenings);
    va_start(args, format);
    vsnprintf(world->happenings + used, sizeof world->happenings - used, format, args);
    va_end(args);
    pthread_mutex_unlock(&world->changed.lock);
}

static void happened(void *listener, const struct instance *instance, enum instance_event what,
                     enum instance_state from)
{
    static const char *const words[] = {"made", "state", "ended", "removed"};
    const struct world *world = listener;
    if (world->events)
        world->on_happened(world->events, instance, what, from);
    note(listener, "%s %s %s %s\n", words[what], instance->id, instance_state_names[from],
         instance_state_names[instance->state]);
}

static void snapshot_happened(void *listener, const char *id, bool removed)
{
    const struct world *world = listener;
    if (world->events)
        world->on_snapshot(world->events, id, removed);
    note(listener, "%s %s\n", removed ? "gone" : "published", id);
}

int world_setup_empty(void **state)
{
    struct world *world = calloc(1, sizeof *world);
    if (!world)
        return -1;
    gate_init(&world->scanned);
    gate_init(&world->changed);
    image_scans_init(&world->scans, world_scanned, world_complain, world);
    world->store = (struct store){.lock_fd = -1, .kind_fd = {-1, -1}};
    *state = world;
    if (place_make(world->base, sizeof world->base, "hypefs store,x=y") < 0)
        return -1;
    snprintf(world->path, sizeof world->path, "%s/store", world->base);
    snprintf(world->qemu, sizeof world->qemu, "%s/qemu", world->base);
    return 0;
}

void world_close(struct world *world)
{
    if (world->layers_are_open) {
        instances_close(&world->instances);
        snapshots_close(&world->snapshots);
        vmm_programs_destroy(world->programs);
    }
    if (world->store_is_open)
        store_close(&world->store);
    world->layers_are_open = world->store_is_open = false;
}

int world_teardown(void **state)
{
    struct world *world = *state;
    world_close(world);
    image_scans_finish(&world->scans);
    for (size_t i = 0; i < world->child_count; i++) {
        pidfd_send_signal(world->children[i].pidfd, SIGKILL, NULL, 0);
        waitid(P_PIDFD, (id_t)world->children[i].pidfd, &(siginfo_t){0}, WEXITED);
        close(world->children[i].pidfd);
    }
    place_remove(world->base);
    gate_finish(&world->scanned);
    gate_finish(&world->changed);
    free(world);
    return 0;
}

void world_open_store(struct world *world)
{
    int r = store_open(world->path, false, NULL, &world->store, &world->err);
    if (r < 0)
        fail_msg("store_open: %s", world->err.text);
    world->store_is_open = true;
}

void world_open_layers(struct world *world)
{
    const struct instances_setup setup = {.store = &world->store,
                                          .snapshots = &world->snapshots,
                                          .binaries = &world->binary,
                                          .binary_count = 1,
                                          .on_change = world_changed,
                                          .warn = world_complain,
                                          .context = world,
                                          .on_event = happened,
                                          .listener = world};
    struct instances_setup complete = setup;
    world->binary = (struct vmm_binary){"qemu", world->qemu};
    assert_int_equal(vmm_programs_create(&world->programs, &world->err), 0);
    complete.programs = world->programs;
    assert_int_equal(snapshots_open(&world->store, world_scanned, world_complain, world,
                                    &world->snapshots, &world->err),
                     0);
    world->snapshots.listener = world;
    world->snapshots.happened = snapshot_happened;
    assert_int_equal(instances_open(&complete, &world->instances, &world->err), 0);
    world->layers_are_open = true;
}

int world_setup(void **state)
{
    int r = world_setup_empty(state);
    if (r == 0) {
        world_open_store(*state);
        world_open_layers(*state);
    }
    return r;
}

void world_restart(struct world *world)
{
    world_close(world);
    world_open_store(world);
    world_open_layers(world);
}

const char *world_path(const struct world *world, const char *format, ...)
{
    static char path[PATH_MAX];
    va_list args;
    int used = snprintf(path, sizeof path, "%s/", world->base);
    va_start(args, format);
    vsnprintf(path + used, sizeof path - (size_t)used, format, args);
    va_end(args);
    return path;
}

void world_write(const char *path, mode_t mode, const void *bytes, size_t size)
{
    auto_close int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, size), (ssize_t)size);
}

void world_write_text(const char *path, const char *text)
{
    world_write(path, 0600, text, strlen(text));
}

char *world_read(const char *path)
{
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat file;
    if (fd < 0)
        return NULL;
    assert_int_equal(fstat(fd, &file), 0);
    char *text = malloc((size_t)file.st_size + 1);
    assert_non_null(text);
    assert_int_equal(read(fd, text, (size_t)file.st_size), file.st_size);
    text[file.st_size] = 0;
    return text;
}

bool world_has(const char *path)
{
    struct stat file;
    return lstat(path, &file) == 0;
}

mode_t world_mode(const char *path)
{
    struct stat st;
    assert_int_equal(lstat(path, &st), 0);
    return st.st_mode;
}

int world_count(const char *path)
{
    auto_closedir DIR *dir = opendir(path);
    int count = 0;
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    return count;
}

static bool is_looking(struct image_scans *scans)
{
    auto_lock(&scans->lock);
    return scans->running > 0;
}

void world_await_idle(struct world *world)
{
    double deadline_ms = process_now_ms() + FIXTURE_FAR_MS;
    store_await_erased(&world->store);
    while (world->layers_are_open && is_looking(&world->snapshots.scans)) {
        if (process_now_ms() > deadline_ms)
            fail_msg("an image is still looked at");
        sched_yield();
    }
}

int world_descriptors(void)
{
    return world_count("/proc/self/fd");
}

cJSON *world_snapshot_json(size_t memory_bytes)
{
    char text[512];
    cJSON *json = NULL;
    int size = snprintf(text, sizeof text,
                        "{\"kind\":\"standby\",\"hypervisor\":\"qemu\","
                        "\"hypervisor_version\":\"7.2.22\",\"memory_bytes\":%zu,"
                        "\"source_instance\":\"base\",\"machine\":{\"memory_bytes\":%zu,"
                        "\"vcpus\":1,\"machine\":\"microvm\",\"accel\":\"tcg\","
                        "\"network\":{\"mode\":\"user\",\"restrict\":false},\"disks\":[],"
                        "\"type\":\"microvm\",\"cpu\":\"max\",\"host_cpu\":null,"
                        "\"version\":\"7.2.22\"}}",
                        memory_bytes, memory_bytes);
    assert_int_equal(json_parse(text, (size_t)size, &json, NULL), 0);
    return json;
}

uint8_t *world_page(struct world_image *image, size_t number)
{
    return image->bytes + number * FRAME_SIZE;
}

int world_fill(void *context, const struct store_entry *entry, struct error *err)
{
    int directory_fd = entry->fd;
    const struct world_image *image = context;
    auto_close int memory =
        openat(directory_fd, "memory", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    auto_close int device =
        openat(directory_fd, "state", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (memory < 0 || device < 0 || write(device, "device", 6) != 6 ||
        write(memory, image->bytes, image->size) != (ssize_t)image->size)
        return error_errno(err, errno, "cannot fill the snapshot");
    return 0;
}

void world_publish(struct world *world, const char *id, const struct world_image *image)
{
    struct world_image copy = *image;
    auto_json cJSON *json = world_snapshot_json(image->size);
    if (snapshots_publish(&world->snapshots, id, &json, world_fill, &copy, &world->err) < 0)
        fail_msg("snapshots_publish: %s", world->err.text);
}

void world_publish_box(struct world *world, const char *id)
{
    struct world_image image = {.size = FIXTURE_MEMORY};
    frames_arm(world_page(&image, 1), "box", "token");
    world_publish(world, id, &image);
}

void world_install_qemu(const struct world *world, const char *script)
{
    world_write(world->qemu, 0700, script, strlen(script));
}

void world_install_qemu_that_hangs(const struct world *world)
{
    auto_free char *script = NULL;
    assert_int_equal(mkfifo(world_path(world, "started"), 0600), 0);
    assert_true(asprintf(&script,
                         "#!/bin/sh\n"
                         "case \"$*\" in *--version) echo 'QEMU emulator version 7.2.22'; exit;; "
                         "esac\n"
                         "echo > '%s'\n"
                         "exec tail -f /dev/null\n",
                         world_path(world, "started")) > 0);
    world_install_qemu(world, script);
}

size_t world_adopt(struct world *world, pid_t pid, int pidfd)
{
    assert_true(world->child_count < FIXTURE_CHILDREN);
    world->children[world->child_count].pid = pid;
    world->children[world->child_count].pidfd = pidfd;
    return world->child_count++;
}

size_t world_spawn(struct world *world, const char *directory)
{
    enum { READY = STDERR_FILENO + 1 };
    int ends[2];
    char byte;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid_t parent = getpid(), pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(ends[1], READY);
        close_range(READY + 1, ~0U, 0);
        if (getppid() != parent || (directory && chdir(directory) < 0) || write(READY, "r", 1) != 1)
            _exit(1);
        close(READY);
        for (;;)
            pause();
    }
    close(ends[1]);
    auto_close int ready = ends[0];
    int pidfd = pidfd_open(pid, 0);
    assert_true(pidfd >= 0);
    assert_int_equal(read(ready, &byte, 1), 1);
    return world_adopt(world, pid, pidfd);
}

size_t world_spawn_vmm(struct world *world, const char *directory)
{
    char *argv[] = {(char[]){"tail"}, (char[]){"-f"}, (char[]){"/dev/null"}, NULL};
    auto_close int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct process_spec spec = {
        .path = argv[0], .argv = argv, .directory_fd = fd, .output_fd = -1, .error_fd = -1};
    pid_t pid;
    int pidfd;
    assert_true(fd >= 0);
    assert_int_equal(process_spawn(&spec, &pid, &pidfd, &world->err), 0);
    /* The kernel lets the parent of a vfork go on some moments before the child's environment can
     * be seen in /proc. */
    double deadline_ms = process_now_ms() + 10000;
    while (process_has_mark(pid) <= 0 && process_now_ms() < deadline_ms)
        process_poll(&pidfd, 1, process_now_ms() + 1);
    assert_int_equal(process_has_mark(pid), 1);
    return world_adopt(world, pid, pidfd);
}

bool world_child_ended(const struct world *world, size_t child, int timeout_ms)
{
    return process_poll(&world->children[child].pidfd, 1, process_now_ms() + timeout_ms) > 0;
}

void world_describe_child(const struct world *world, size_t child, char *ret, size_t size)
{
    char path[64], text[1024], booted[64], *field;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)world->children[child].pid);
    auto_fclose FILE *stat = fopen(path, "re");
    auto_fclose FILE *boot = fopen("/proc/sys/kernel/random/boot_id", "re");
    assert_true(stat && boot && fgets(text, sizeof text, stat) &&
                fgets(booted, sizeof booted, boot));
    booted[strcspn(booted, "\n")] = 0;
    field = strrchr(text, ')');
    for (int i = 2; i < 22; i++)
        field = strchr(field + 1, ' ');
    snprintf(ret, size, "{\"pid\":%d,\"start_time\":\"%.*s\",\"boot_id\":\"%s\"}",
             (int)world->children[child].pid, (int)strcspn(field + 1, " "), field + 1, booted);
}

void world_make_instance(const struct world *world, const char *id)
{
    mkdir(world_path(world, "store"), 0700);
    mkdir(world_path(world, "store/instances"), 0700);
    mkdir(world_path(world, "store/instances/%s", id), 0700);
    mkdir(world_path(world, "store/instances/%s/run", id), 0700);
}

size_t world_spawn_in_instance(struct world *world, const char *id, char *ret, size_t size)
{
    world_make_instance(world, id);
    size_t child = world_spawn_vmm(world, world_path(world, "store/instances/%s/run", id));
    world_describe_child(world, child, ret, size);
    return child;
}

void world_leave_instance(const struct world *world, const char *id, const char *json)
{
    auto_free char *text = NULL;
    assert_true(asprintf(&text, "{\"version\":2,\"id\":\"%s\",\"hypervisor\":\"qemu\",%s}\n", id,
                         json) > 0);
    world_make_instance(world, id);
    world_write_text(world_path(world, "store/instances/%s/instance.json", id), text);
    world_write_text(world_path(world, "store/instances/%s/console.log", id), "");
    world_write_text(world_path(world, "store/instances/%s/vmm.log", id), "");
}

void world_remove_instance(const struct world *world, const char *id)
{
    place_remove(world_path(world, "store/instances/%s", id));
}

size_t world_leave_with_vmm(struct world *world, const char *id, const char *json)
{
    char vmm[256];
    auto_free char *more = NULL;
    size_t child = world_spawn_in_instance(world, id, vmm, sizeof vmm);
    assert_true(asprintf(&more, "%s,\"vmm\":%s", json, vmm) > 0);
    world_leave_instance(world, id, more);
    return child;
}

void world_leave_overlay(struct world *world, const char *id)
{
    /* A qcow2 file's header, and the name of the file below. */
    static const char overlay[] = "QFI\xfb\0\0\0\3\0\0\0\0\0\0\0\x68\0\0\0\5";
    char header[0x68] = {0};
    auto_fclose FILE *file =
        fopen(world_path(world, "store/instances/%s/run/disk0.1.qcow2", id), "we");
    assert_non_null(file);
    memcpy(header, overlay, sizeof overlay);
    assert_int_equal(fwrite(header, sizeof header, 1, file), 1);
    assert_true(fputs("/none", file) >= 0);
}

void world_open_whole(struct world *world)
{
    world_open_store(world);
    world_open_layers(world);
    assert_string_equal(world->complaints, "");
}

struct instance *world_found(struct world *world, const char *id)
{
    struct instance *instance = instances_find(&world->instances, id);
    if (!instance)
        fail_msg("%s is not there: %s", id, world->complaints);
    return instance;
}

ino_t world_kept_list(const struct world *world, const char *id)
{
    struct stat st;
    assert_int_equal(stat(world_path(world, "store/snapshots/%s/mailboxes.json", id), &st), 0);
    return st.st_ino;
}

char *world_info_now(struct snapshot *snapshot)
{
    auto_json cJSON *info = snapshot_info(snapshot);
    return json_print(info);
}

char *world_info(struct world *world, struct snapshot *snapshot)
{
    struct image_index *index;
    if (image_index_wait(snapshot->image, NULL, &index, &world->err) < 0)
        fail_msg("image_index_wait: %s", world->err.text);
    image_index_unref(index);
    return world_info_now(snapshot);
}
