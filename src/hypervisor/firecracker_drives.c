/* SPDX-License-Identifier: MIT */
#include "hypervisor/firecracker_drives.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/drives.h"
#include "hypervisor/machine.h"
#include "hypervisor/vmm_api.h"
#include "hypervisor/saved_path.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/text.h"

enum { PATH_SIZE = 128, NAME_SIZE = 96 };

static const char *text_of(const cJSON *json, const char *name)
{
    const char *text = json_get_text(json, name);
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
                     "the VM can write to the %s %s (%s), which all its forks would share: %s",
                     kind, id, path, what_to_do);
}

static bool is_frozen(const struct machine *machine, const char *id)
{
    const struct machine_disk *disk = machine_find_disk(machine, id);
    return disk && disk->frozen;
}

/* What Firecracker says that the VM has: nothing of it is known for sure before the load. */
static int check_config(const cJSON *config, const struct machine *machine, struct error *err)
{
    const cJSON *drive, *drives = json_get(config, "drives");
    const cJSON *device, *pmem = json_get(config, "pmem");
    if (!cJSON_IsArray(drives))
        return error_set(err, EIO, "GET /vm/config: Firecracker answers without drives");
    cJSON_ArrayForEach (drive, drives) {
        if (!cJSON_IsTrue(json_get(drive, "is_read_only")) &&
            !is_frozen(machine, text_of(drive, "drive_id")))
            return not_supported("drive", drive, "drive_id",
                                 "import the snapshot again with --config, which names its drives",
                                 err);
    }
    cJSON_ArrayForEach (device, pmem) {
        if (!cJSON_IsTrue(json_get(device, "read_only")))
            return not_supported("pmem device", device, "id",
                                 "this is not supported yet; make it read-only before you save "
                                 "the VM",
                                 err);
    }
    return 0;
}

static int place(const struct vmm_context *context, struct vmm *vmm,
                 const struct machine_disk *disk, struct error *err)
{
    char name[DISK_COPY_SIZE], path[PATH_SIZE];
    disk_drive_name(disk, name);
    snprintf(path, sizeof path, "/drives/%s", disk->id);
    cJSON *body = cJSON_CreateObject();
    json_add_string(body, "drive_id", disk->id);
    json_add_string(body, "path_on_host", name);
    struct vmm_api_call call = {.method = "PATCH", .path = path, .body = body};
    return vmm_api_call(context, vmm, &call, NULL, err);
}

/* One with a copy gets that: Firecracker opens the path, to write to it, before it is told of the
 * copy. The file that the copy was made of will do, too. */
static bool needs_bind(const struct machine_disk *disk)
{
    struct stat saved, ours;
    if (!disk->saved_path || !(disk->frozen || disk->readonly))
        return false;
    if (saved_path_is_relative(disk->saved_path))
        return true;
    if (disk->frozen)
        return strcmp(disk->saved_path, disk->path) != 0 || access(disk->path, R_OK | W_OK) < 0;
    return stat(disk->saved_path, &saved) < 0 || stat(disk->path, &ours) < 0 ||
           !file_id_equal(file_id_of(&saved), file_id_of(&ours));
}

int firecracker_check_paths(const struct machine *machine, struct error *err)
{
    for (size_t i = 0; i < machine->disk_count; i++)
        if (needs_bind(&machine->disks[i]))
            return error_set(err, EOPNOTSUPP,
                             "the saved state names %s, where this host has another file, or none, "
                             "and only a VMM that is shut in finds the right one there: mount "
                             "without --confine off",
                             machine->disks[i].saved_path);
    return 0;
}

int firecracker_make_paths(const struct vmm_context *context, const struct machine *machine,
                           struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < machine->disk_count && r == 0; i++) {
        const char *path = machine->disks[i].saved_path;
        if (path && saved_path_is_relative(path))
            r = saved_path_make(context->directory_fd, path, err);
    }
    return r;
}

void firecracker_explain_drives(const struct vmm_context *context, const struct machine *machine,
                                struct error *err)
{
    if (context->confine && err && strstr(err->text, "os error 2)"))
        error_append(err, " (a VMM sees no files but those that its snapshot names: if the saved "
                          "state names another, import it again with a --config that has it, or "
                          "mount with --vmm-read PATH)");
    if (!machine->huge_pages && err && strstr(err->text, "hugetlbfs"))
        error_append(err, " (import it again with a --config that says huge_pages \"2M\": then "
                          "Firecracker 1.17 and later can map it)");
    for (size_t i = 0; i < machine->disk_count; i++) {
        const struct machine_disk *disk = &machine->disks[i];
        if (disk->frozen && !disk->saved_path && disk->path[0] == '/' &&
            access(disk->path, F_OK) < 0 && errno == ENOENT)
            error_append(
                err,
                " (there is no file at %s, which the saved state names: Firecracker opens that "
                "path before the VM gets its own copy of the drive %s; any file will do: touch %s)",
                disk->path, disk->id ? disk->id : "", disk->path);
    }
}

int firecracker_place_drives(const struct vmm_context *context, struct vmm *vmm,
                             const struct machine *machine, struct error *err)
{
    auto_json cJSON *config = NULL;
    struct vmm_api_call call = {.method = "GET", .path = "/vm/config", .bare = true};
    int r = vmm_api_call(context, vmm, &call, &config, err);
    if (r == 0)
        r = check_config(config, machine, err);
    for (size_t i = 0; i < machine->disk_count && r == 0; i++)
        if (machine->disks[i].frozen)
            r = drive_prefix(&machine->disks[i], place(context, vmm, &machine->disks[i], err), err);
    return r;
}
