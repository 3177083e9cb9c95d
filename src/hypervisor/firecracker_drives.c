/* SPDX-License-Identifier: MIT */
#include "hypervisor/firecracker_drives.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/firecracker_control.h"
#include "hypervisor/vmm_process.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/process.h"
#include "util/sparse.h"
#include "util/text.h"

enum { PATH_SIZE = 128, NAME_SIZE = 96 };

static const char *text_of(const cJSON *json, const char *name)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, name));
    return text ? text : "";
}

/* Says of what kind it is, too: in texts. */
static int not_supported(const char *kind, const cJSON *drive, const char *id_member,
                         const char *what_to_do, struct error *err)
{
    char id[NAME_SIZE], path[NAME_SIZE * 2];
    snprintf(id, sizeof id, "%s", text_of(drive, id_member));
    snprintf(path, sizeof path, "%s", text_of(drive, "path_on_host"));
    text_make_printable(id, strlen(id), '?');
    text_make_printable(path, strlen(path), '?');
    return error_set(err, EOPNOTSUPP,
                     "the VM has the %s %s (%s), which it can write to and all its forks would "
                     "share: %s",
                     kind, id, path, what_to_do);
}

static const struct machine_disk *find_frozen(const struct machine *machine, const char *id)
{
    for (size_t i = 0; i < machine->disk_count; i++) {
        const struct machine_disk *disk = &machine->disks[i];
        if (disk->frozen && disk->id && strcmp(disk->id, id) == 0)
            return disk;
    }
    return NULL;
}

/* What Firecracker says that the VM has: nothing of it is known for sure before the load. */
static int check_config(const cJSON *config, const struct machine *machine, struct error *err)
{
    const cJSON *drive, *drives = cJSON_GetObjectItemCaseSensitive(config, "drives");
    const cJSON *device, *pmem = cJSON_GetObjectItemCaseSensitive(config, "pmem");
    if (!cJSON_IsArray(drives))
        return error_set(err, EIO, "GET /vm/config: Firecracker tells no drives");
    cJSON_ArrayForEach (drive, drives) {
        if (!cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(drive, "is_read_only")) &&
            !find_frozen(machine, text_of(drive, "drive_id")))
            return not_supported("drive", drive, "drive_id",
                                 "import the snapshot again with --config, which tells of its "
                                 "drives",
                                 err);
    }
    cJSON_ArrayForEach (device, pmem) {
        if (!cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(device, "read_only")))
            return not_supported("pmem device", device, "id",
                                 "this is not supported yet; make it read-only before you save "
                                 "the VM",
                                 err);
    }
    return 0;
}

static int open_frozen(const struct vmm_context *context, const struct machine_disk *disk,
                       const char *image, int *ret, struct error *err)
{
    struct stat file;
    auto_free char *path = NULL;
    if (asprintf(&path, "%s/%s", image, disk->frozen) < 0)
        return error_set(err, ENOMEM, "no memory for a path");
    auto_close int fd =
        openat(context->directory_fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &file) < 0)
        return error_set(err, EIO, "the frozen copy %s cannot be opened: %s", disk->frozen,
                         strerrordesc_np(errno));
    if (!S_ISREG(file.st_mode))
        return error_set(err, EIO, "the frozen copy %s is not a regular file", disk->frozen);
    *ret = steal_fd(&fd);
    return 0;
}

/* A new file `name` in the context's directory. */
static int copy_frozen(const struct vmm_context *context, const struct machine_disk *disk,
                       const char *image, const char *name, struct error *err)
{
    auto_close int from = -1;
    int r = open_frozen(context, disk, image, &from, err);
    if (r < 0)
        return r;
    auto_close int to = -1;
    r = vmm_new_file(context, name, &to, err);
    if (r < 0)
        return r;
    struct stat file;
    if (fstat(from, &file) < 0)
        return error_errno(err, errno, "the frozen copy %s", disk->frozen);
    struct vmm_context copy = *context;
    return sparse_copy(from, to, &file, vmm_copy_goes_on, &copy, err);
}

static int place(const struct vmm_context *context, struct vmm *vmm,
                 const struct machine_disk *disk, const char *image, struct error *err)
{
    char name[NAME_SIZE], path[PATH_SIZE];
    snprintf(name, sizeof name, "drive-%s", disk->id);
    snprintf(path, sizeof path, "/drives/%s", disk->id);
    int r = copy_frozen(context, disk, image, name, err);
    if (r < 0)
        return r;
    cJSON *body = cJSON_CreateObject();
    if (!cJSON_AddStringToObject(body, "drive_id", disk->id) ||
        !cJSON_AddStringToObject(body, "path_on_host", name)) {
        cJSON_Delete(body);
        return error_set(err, ENOMEM, "no memory for a request to Firecracker");
    }
    struct firecracker_call call = {.method = "PATCH", .path = path, .body = body};
    return firecracker_call(context, vmm, &call, NULL, err);
}

int firecracker_place_drives(const struct vmm_context *context, struct vmm *vmm,
                             const struct machine *machine, const char *image, struct error *err)
{
    auto_json cJSON *config = NULL;
    struct firecracker_call call = {.method = "GET", .path = "/vm/config"};
    int r = firecracker_call(context, vmm, &call, &config, err);
    if (r == 0)
        r = check_config(config, machine, err);
    for (size_t i = 0; i < machine->disk_count && r == 0; i++) {
        const struct machine_disk *disk = &machine->disks[i];
        if (!disk->frozen)
            continue;
        r = disk->id ? place(context, vmm, disk, image, err)
                     : error_set(err, EIO, "a disk in snapshot.json is frozen and has no id");
        if (r < 0)
            error_prefix(err, r, "the drive %s", disk->id ? disk->id : disk->path);
    }
    return r;
}
