/* SPDX-License-Identifier: MIT */
#include "hypervisor/disks.h"
#include "hypervisor/import.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "hypervisor/firecracker_ask.h"
#include "hypervisor/firecracker_format.h"
#include "hypervisor/qemu_record.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/text_file.h"

enum {
    PAGE_BYTES = 4096,
    HEADER_SIZE = 16,                 /* more than any state file is told by */
    JSON_TEXT_MAX = 64 * 1024 * 1024, /* of a state that is JSON */
    CONFIG_TEXT_MAX = 1024 * 1024,
};

const char import_names[] = "qemu, firecracker, cloud-hypervisor";

int import_file_open(const char *path, struct import_file *ret, struct error *err)
{
    struct stat st;
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0)
        return error_errno(err, errno, "%s: cannot open it", path);
    if (!S_ISREG(st.st_mode))
        return error_set(err, EINVAL, "%s is not a regular file", path);
    *ret = (struct import_file){.path = path, .fd = steal_fd(&fd), .st = st};
    return 0;
}

void import_file_close(struct import_file *file)
{
    cleanup_close(&file->fd);
    file->fd = -1;
}

static uint64_t size_of(const struct import_file *file)
{
    return (uint64_t)file->st.st_size;
}

static int read_text(const struct import_file *file, size_t max, char **ret, size_t *ret_size,
                     struct error *err)
{
    int r = text_file_read(file->fd, max, ret, ret_size);
    if (r == -EFBIG)
        return error_set(err, EINVAL, "%s has more than %zu MiB and cannot be JSON of a snapshot",
                         file->path, max >> 20);
    return r < 0 ? error_errno(err, -r, "%s: cannot read it", file->path) : 0;
}

static int read_config(const struct import_file *file, cJSON **ret, struct error *err)
{
    auto_free char *text = NULL;
    size_t size = 0;
    int r = read_text(file, CONFIG_TEXT_MAX, &text, &size, err);
    if (r < 0)
        return r;
    r = json_parse(text, size, ret, err);
    return r < 0 ? error_prefix(err, r, "%s", file->path) : 0;
}

/* ---- state files ---- */

static int read_header(const struct import_file *state, uint8_t ret[HEADER_SIZE], const char *what,
                       struct error *err)
{
    ssize_t n = pread(state->fd, ret, HEADER_SIZE, 0);
    if (n == HEADER_SIZE)
        return 0;
    return n < 0
               ? error_errno(err, errno, "%s: cannot read it", state->path)
               : error_set(err, EINVAL, "%s is no %s: it has only %zd bytes", state->path, what, n);
}

/* Big-endian: magic, version, then the type of the first section. A stream that begins with the
 * configuration has the memory in it, too, and a load here takes neither. */
static int check_qemu_state(const struct import_file *state, struct error *err)
{
    static const uint8_t magic[] = {'Q', 'E', 'V', 'M'}, version[] = {0, 0, 0, 3};
    enum { SECTION = sizeof magic + sizeof version, SECTION_FULL = 4 };
    uint8_t header[HEADER_SIZE];
    int r = read_header(state, header, "device state of QEMU's", err);
    if (r < 0)
        return r;
    if (memcmp(header, magic, sizeof magic) != 0)
        return error_set(err, EINVAL,
                         "%s is no device state of QEMU's: it does not begin with \"QEVM\"",
                         state->path);
    if (memcmp(header + sizeof magic, version, sizeof version) != 0)
        return error_set(err, EINVAL, "%s has another version of QEMU's format than 3",
                         state->path);
    if (header[SECTION] != SECTION_FULL)
        return error_set(err, EINVAL,
                         "%s is a whole migration stream: what is needed is the device state "
                         "alone, as QEMU's command xen-save-devices-state saves it",
                         state->path);
    return 0;
}

static int check_firecracker_state(const struct import_file *state, struct error *err)
{
    uint8_t header[HEADER_SIZE];
    struct firecracker_head head;
    int r = read_header(state, header, "state of Firecracker's", err);
    if (r < 0)
        return r;
    if (!firecracker_head_read(header, sizeof header, &head))
        return error_set(err, EINVAL, "%s is no state of Firecracker's: it lacks the magic",
                         state->path);
    if (!head.native)
        return error_set(err, EINVAL, "%s was saved on %s, and this host is %s", state->path,
                         head.architecture, firecracker_host_architecture);
    return head.old
               ? error_set(err, EINVAL, "%s was saved by a Firecracker older than 1.7", state->path)
               : 0;
}

static const char *find_firecrackers(const struct import_file *state)
{
    uint8_t bytes[FIRECRACKER_HEAD_SIZE];
    struct firecracker_head head;
    ssize_t got = pread(state->fd, bytes, sizeof bytes, 0);
    return got > 0 && firecracker_head_read(bytes, (size_t)got, &head)
               ? firecracker_format_releases(head.format)
               : NULL;
}

static int check_cloud_hypervisor_state(const struct import_file *state, struct error *err)
{
    struct json_check check;
    auto_free char *text = NULL;
    size_t size = 0;
    int r = read_text(state, JSON_TEXT_MAX, &text, &size, err);
    if (r < 0)
        return r;
    return json_check(text, size, &check) == JSON_COMPLETE
               ? 0
               : error_set(err, EINVAL,
                           "%s is no state.json of Cloud Hypervisor's: it is not a JSON object",
                           state->path);
}

/* ---- configurations ---- */

/* hypefs's own, and not what that has as its "machine": there "machine" is a word. */
static bool is_snapshot_json(const cJSON *json)
{
    return cJSON_IsObject(json_get(json, "machine"));
}

/* The overlays of a disk are in the store in which hypefs froze them; and whether any other file is
 * as it was when the memory was saved, nobody knows. */
static int check_qemu_disks(const struct machine *machine, struct error *err)
{
    for (size_t i = 0; i < machine->disk_count; i++)
        if (!machine->disks[i].readonly)
            return error_set(err, EOPNOTSUPP,
                             "the disk %s can be written to, and with QEMU only snapshots whose "
                             "disks are all read-only can be imported: boot a VM from a copy of "
                             "that disk with hypefs, and make the snapshot there",
                             machine->disks[i].path);
    return 0;
}

/* A snapshot.json, or its "machine". */
static int read_qemu(const cJSON *json, struct machine *ret, struct error *err)
{
    const cJSON *machine = json_get(json, "machine");
    const char *hypervisor = json_get_text(json, "hypervisor");
    bool whole = is_snapshot_json(json);
    if (whole && hypervisor && strcmp(hypervisor, "qemu") != 0)
        return error_set(err, EINVAL, "this describes a snapshot of %.40s", hypervisor);
    int r = machine_from_json(whole ? machine : json, ret, err);
    if (r == 0 && ret->in_firmware) /* a load would boot, from files of the host that it names */
        r = error_set(err, EOPNOTSUPP,
                      "the VM was saved before its firmware had read its kernel (\"boot\"), so "
                      "there is no guest in it to fork: save it again when its guest runs");
    if (r == 0)
        r = check_qemu_disks(ret, err);
    return r < 0 ? r : qemu_record_check_complete(ret, err);
}

static const struct importer {
    const char *name;
    bool config_tells; /* without a configuration it cannot be forked */
    bool binds_paths;  /* a load can find other files where the state names some */
    const char *needs; /* a configuration: what it is; NULL: it may be left out */
    enum machine_accel accel;
    int (*check_state)(const struct import_file *state, struct error *err);
    const char *(*find_releases)(const struct import_file *state); /* NULL: it does not tell */
    /* On entry the machine has the size of the memory file; after, what the configuration says. */
    int (*read_config)(const cJSON *json, struct machine *ret, struct error *err);
    /* NULL: an image has the state as it is. Else the text (owned) that it has, of both files. */
    int (*combine)(const cJSON *config, const char *state, struct machine *machine, char **ret,
                   struct error *err);
    /* NULL: only a configuration tells. What a VMM says that has loaded the two files, by their
     * absolute paths. */
    int (*ask)(const struct vmm_context *context, const char *memory, const char *state,
               cJSON **ret, struct error *err);
} importers[] = {
    {"qemu", false, false,
     "a snapshot.json of hypefs's, or an object with the members of its \"machine\"", ACCEL_AUTO,
     check_qemu_state, NULL, read_qemu, NULL, NULL},
    {"firecracker", false, true, NULL, ACCEL_KVM, check_firecracker_state, find_firecrackers,
     import_read_firecracker, NULL, firecracker_ask},
    {"cloud-hypervisor", true, false, NULL, ACCEL_KVM, check_cloud_hypervisor_state, NULL,
     import_read_cloud_hypervisor, import_combine_cloud_hypervisor, NULL},
};

static const struct importer *find_importer(const char *name)
{
    for (size_t i = 0; i < array_length(importers); i++)
        if (strcmp(importers[i].name, name) == 0)
            return &importers[i];
    return NULL;
}

bool import_is_known(const char *hypervisor)
{
    return find_importer(hypervisor) != NULL;
}

/* NULL: it cannot be asked. */
static const struct importer *find_asked(const char *hypervisor, struct error *err)
{
    const struct importer *importer = find_importer(hypervisor);
    if (importer && importer->ask)
        return importer;
    error_set(err, EOPNOTSUPP, "a VMM of %.40s cannot be asked", hypervisor);
    return NULL;
}

int import_ask_check(const char *hypervisor, const char *program, struct error *err)
{
    const struct importer *importer = find_asked(hypervisor, err);
    return importer ? vmm_program_check(program ? program : importer->name, err) : -EOPNOTSUPP;
}

/* The path without links of a file that was opened, which must be the same there. Returns owned. */
static char *path_of(const struct import_file *file, struct error *err)
{
    struct stat st;
    auto_free char *path = realpath(file->path, NULL);
    if (!path || stat(path, &st) < 0) {
        error_errno(err, errno, "%s", file->path);
        return NULL;
    }
    if (file_id_equal(file_id_of(&st), file_id_of(&file->st)))
        return steal_pointer(path);
    error_set(err, EIO, "%s was replaced meanwhile", file->path);
    return NULL;
}

int import_ask(const char *hypervisor, const struct vmm_context *context,
               const struct import_files *files, cJSON **ret, struct error *err)
{
    const struct importer *importer = find_asked(hypervisor, err);
    auto_free char *memory = importer ? path_of(&files->memory, err) : NULL;
    auto_free char *state = memory ? path_of(&files->state, err) : NULL;
    return state ? importer->ask(context, memory, state, ret, err) : -err->code;
}

/* ---- what holds for all ---- */

static int check_memory(const struct import_file *memory, struct error *err)
{
    struct statfs fs;
    if (fstatfs(memory->fd, &fs) < 0)
        return error_errno(err, errno, "%s: cannot stat its file system", memory->path);
    if (fs.f_type == HUGETLBFS_MAGIC)
        return error_set(err, EOPNOTSUPP,
                         "%s is on hugetlbfs: a guest with huge pages cannot be forked yet",
                         memory->path);
    if (size_of(memory) == 0 || size_of(memory) % PAGE_BYTES != 0)
        return error_set(err, EINVAL,
                         "%s is no memory image: its %" PRIu64
                         " bytes are not a whole number of pages",
                         memory->path, size_of(memory));
    return 0;
}

/* Of a disk that all forks share, or whose copy they get. */
static int check_disk_file(const char *path, bool readonly, struct error *err)
{
    struct stat st;
    if (stat(path, &st) < 0 || access(path, R_OK) < 0)
        return error_errno(err, errno, "the disk %s cannot be opened", path);
    return disk_check_kind(path, readonly, &st, err);
}

/* Gives each writable disk, of a VMM whose disks are copied, the name that its copy will have. */
static int freeze_disk(struct import *import, size_t index, struct error *err)
{
    struct machine_disk *disk = &import->machine.disks[index];
    char name[DISK_COPY_SIZE];
    if (disk->readonly) {
        disk->key[0] = 0; /* of where it was saved */
        return check_disk_file(disk->path, true, err);
    }
    disk_copy_name(disk, name);
    import->frozen_from[index] = strdup(disk->path);
    disk->frozen = strdup(name);
    if (!import->frozen_from[index] || !disk->frozen)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < index; i++)
        if (import->machine.disks[i].frozen && strcmp(import->machine.disks[i].frozen, name) == 0)
            return error_set(err, EINVAL, "two disks are called %s", disk->id);
    return check_disk_file(import->frozen_from[index], false, err);
}

/* What is published has to be readable again, and is checked by that. */
static int check_machine(const struct machine *machine, struct error *err)
{
    struct machine again;
    auto_json cJSON *json = machine_to_json(machine);
    if (!json_is_whole(json))
        return error_set(err, ENOMEM, "out of memory");
    int r = machine_from_json(json, &again, err);
    if (r == 0)
        machine_finish(&again);
    return r;
}

/* `config_path` may be NULL, and then there are no disks. */
static int complete_machine(struct import *import, const char *config_path, struct error *err)
{
    struct machine *machine = &import->machine;
    int r = 0;
    import->frozen_from = calloc(machine->disk_count + 1, sizeof *import->frozen_from);
    if (!import->frozen_from)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < machine->disk_count && r == 0; i++)
        r = freeze_disk(import, i, err);
    disks_note_readonly(machine);
    if (r == 0)
        r = check_machine(machine, err);
    return r < 0 && config_path ? error_prefix(err, r, "%s", config_path) : r;
}

static int combine(const struct importer *importer, const struct import_files *files,
                   const cJSON *config, struct import *import, struct error *err)
{
    auto_free char *text = NULL;
    size_t size = 0;
    int r = read_text(&files->state, JSON_TEXT_MAX, &text, &size, err);
    if (r == 0)
        r = importer->combine(config, text, &import->machine, &import->state, err);
    return r < 0 ? error_prefix(err, r, "with the state %s", files->state.path) : 0;
}

/* What tells of the machine: for texts. NULL: nothing does. */
static const char *config_path(const struct import_files *files)
{
    return files->told ? files->state.path : files->config.fd >= 0 ? files->config.path : NULL;
}

static int take_config(const struct importer *importer, const struct import_files *files,
                       struct import *import, struct error *err)
{
    struct machine *machine = &import->machine;
    auto_json cJSON *read = NULL;
    uint64_t size = size_of(&files->memory);
    int r = files->told ? 0 : read_config(&files->config, &read, err);
    if (r < 0)
        return r;
    const cJSON *json = files->told ? files->told : read;
    if (is_snapshot_json(json))
        r = files->check_version(json, err);
    if (r == 0)
        r = importer->read_config(json, machine, err);
    if (r == 0 && machine->memory_bytes != 0 && machine->memory_bytes != size)
        r = error_set(err, EINVAL,
                      "it describes a memory of %" PRIu64 " bytes, and %s has %" PRIu64,
                      machine->memory_bytes, files->memory.path, size);
    machine->memory_bytes = size;
    if (r == 0)
        r = import_take_paths(files, importer->binds_paths, machine, err);
    if (r == 0 && importer->combine)
        r = combine(importer, files, json, import, err);
    return r < 0 ? error_prefix(err, r, "%s", config_path(files)) : 0;
}

static int check_files(const struct importer *importer, const struct import_files *files,
                       struct error *err)
{
    if (files->path_count > 0 && !importer->binds_paths)
        return error_set(err, EOPNOTSUPP, "--path is for snapshots of Firecracker's only");
    if (files->path_count > 0 && !config_path(files))
        return error_set(err, EINVAL,
                         "--path is for disks that a configuration names: give --config");
    if (importer->needs && !config_path(files))
        return error_set(err, EINVAL, "for %s a configuration must be given: %s", importer->name,
                         importer->needs);
    int r = check_memory(&files->memory, err);
    return r < 0 ? r : importer->check_state(&files->state, err);
}

int import_check(const char *hypervisor, const struct import_files *files, struct import *ret,
                 struct error *err)
{
    const struct importer *importer = find_importer(hypervisor);
    if (!importer)
        return error_set(err, EINVAL, "\"%.40s\" is not a known hypervisor: %s", hypervisor,
                         import_names);
    struct import import = {.hypervisor = importer->name,
                            .has_machine = !importer->config_tells || config_path(files),
                            .machine = {.memory_bytes = size_of(&files->memory),
                                        .board = MACHINE_MICROVM,
                                        .accel = importer->accel}};
    int r = check_files(importer, files, err);
    if (r == 0 && config_path(files))
        r = take_config(importer, files, &import, err);
    if (r == 0 && import.has_machine)
        r = complete_machine(&import, config_path(files), err);
    if (r == -ENOENT && importer->binds_paths && import.machine.disk_count > 0)
        error_append(err, " (if it is at another path on this host, --path OLD=NEW says so)");
    if (r == 0 && importer->find_releases)
        import.releases = importer->find_releases(&files->state);
    if (r < 0)
        import_finish(&import);
    else
        *ret = import;
    return r;
}

void import_finish(struct import *import)
{
    for (size_t i = 0; import->frozen_from && i < import->machine.disk_count; i++)
        free(import->frozen_from[i]);
    free(import->frozen_from);
    free(import->state);
    machine_finish(&import->machine);
    *import = (struct import){0};
}

cJSON *import_describe(const struct import *import, const struct import_files *files)
{
    cJSON *json = cJSON_CreateObject();
    const char *version = import->machine.version;
    json_add_string(json, "kind", "standby");
    json_add_string(json, "hypervisor", import->hypervisor);
    if (version)
        json_add_string(json, "hypervisor_version", version);
    json_add_number(json, "memory_bytes", (double)size_of(&files->memory));
    if (import->has_machine)
        json_add(json, "machine", machine_to_json(&import->machine));
    return json;
}
