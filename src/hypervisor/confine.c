/* SPDX-License-Identifier: MIT */
#include "hypervisor/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hypervisor/disks.h"
#include "hypervisor/drives.h"
#include "hypervisor/vmm_process.h"
#include "util/cleanup.h"
#include "util/json.h"
#include "util/libexec.h"
#include "util/process.h"

enum { CHECK_MS = 10000, CHECK_OUTPUT_MAX = 1024 };

void confine_add(struct arguments *arguments, const char *option, const char *path)
{
    arguments_add(arguments, option);
    arguments_add(arguments, path);
}

void confine_add_at(struct arguments *arguments, const char *option, const char *path,
                    const char *file)
{
    confine_add(arguments, option, path);
    arguments_add(arguments, file);
}

void confine_add_user(struct arguments *arguments, uid_t uid, gid_t gid)
{
    arguments_add(arguments, "--user");
    arguments_add_format(arguments, "%u:%u", uid, gid);
}

static void add_readonly(struct arguments *arguments, const char *path)
{
    if (access(path, F_OK) == 0) /* else its VMM says so */
        confine_add(arguments, disk_is_block_device(path) ? "--dev" : "--ro", path);
}

/* The user's file, and the overlays over it in the directory where the VMM works. */
static void add_chain(struct arguments *arguments, const struct machine_disk *disk, size_t index)
{
    char name[DISK_NAME_SIZE];
    const unsigned top = disk_top(disk);
    if (disk->readonly || top > 0)
        add_readonly(arguments, disk->path);
    else if (access(disk->path, F_OK) == 0)
        confine_add(arguments, "--rw", disk->path);
    for (unsigned layer = 1; layer < top; layer++) {
        disk_layer_name(index, layer, name);
        confine_add(arguments, "--ro", name);
    }
}

static void add_own(struct arguments *arguments, const struct vmm_context *context,
                    const char *name)
{
    if (faccessat(context->directory_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        confine_add(arguments, "--ro", name);
}

/* A state that another tool has saved names the user's path, where the VM is to find its copy. */
static void add_drive(struct arguments *arguments, const struct vmm_context *context,
                      const struct machine_disk *disk, bool loads)
{
    char copy[DISK_COPY_SIZE];
    const char *path = disk->saved_path ? disk->saved_path : disk->path;
    disk_drive_name(disk, copy);
    if (disk->lower)
        add_own(arguments, context, disk->lower);
    if (disk->readonly && disk->saved_path)
        confine_add_at(arguments, "--ro-at", path, disk->path);
    else if (disk->readonly)
        add_readonly(arguments, path);
    else if (!loads && drive_is_users(context, disk) && access(path, F_OK) == 0)
        confine_add(arguments, "--rw", path);
    else if (loads && disk->frozen && (disk->saved_path || access(path, F_OK) == 0))
        confine_add_at(arguments, "--rw-at", path, copy);
}

/* Programs of the system are there; of others also what is installed with them. */
static void add_program(struct arguments *arguments, const char *program)
{
    static const char *const beside[] = {"lib", "lib64", "libexec/qemu", "share/qemu"};
    char real[PATH_MAX], path[PATH_MAX + 16];
    if (!realpath(program, real) || strncmp(real, "/usr/", 5) == 0)
        return;
    confine_add(arguments, "--ro", real);
    if (strcmp(real, program) != 0)
        confine_add_at(arguments, "--ro-at", program, real);
    char *bin = strstr(real, "/bin/");
    if (!bin || strchr(bin + 5, '/'))
        return;
    *bin = 0;
    for (size_t i = 0; i < array_length(beside); i++) {
        snprintf(path, sizeof path, "%s/%s", real, beside[i]);
        if (access(path, F_OK) == 0)
            confine_add(arguments, "--ro", path);
    }
}

static void add_logs(struct arguments *arguments, const struct vmm_context *context)
{
    static const char *const names[] = {VMM_CONSOLE_NAME, VMM_LOG_NAME};
    char path[VMM_LOG_PATH_SIZE];
    for (size_t i = 0; i < array_length(names); i++) {
        vmm_log_path(context, names[i], path);
        if (path[0] == '.')
            confine_add(arguments, "--rw", path);
    }
}

/* The instance's own lies where its VMM can write, and snapshots may have links of it. */
static void add_image(struct arguments *arguments, const struct vmm_context *context,
                      const struct machine *machine, const char *image)
{
    static const char *const names[] = {"memory", "state"};
    char copy[DISK_COPY_SIZE];
    for (size_t i = 0; i < array_length(names); i++) {
        arguments_add(arguments, "--ro");
        arguments_add_format(arguments, "%s/%s", image, names[i]);
    }
    if (strcmp(image, ".") != 0)
        return;
    add_own(arguments, context, "mailboxes.json");
    for (size_t i = 0; i < machine->disk_count; i++)
        if (machine->disks[i].frozen) {
            disk_copy_name(&machine->disks[i], copy);
            add_own(arguments, context, copy);
        }
}

void confine_begin(struct arguments *ret, const struct vmm_context *context,
                   const struct machine *machine, const char *image, const char *program)
{
    *ret = (struct arguments){0};
    add_program(ret, program);
    for (size_t i = 0; i < context->confine->readable_count; i++)
        confine_add(ret, "--ro", context->confine->readable[i]);
    add_logs(ret, context);
    if (image)
        add_image(ret, context, machine, image);
    for (size_t i = 0; i < machine->disk_count; i++)
        if (machine->hypervisor->copies_disks)
            add_drive(ret, context, &machine->disks[i], image != NULL);
        else
            add_chain(ret, &machine->disks[i], i);
    if (machine->kernel)
        add_readonly(ret, machine->kernel);
    if (machine->initrd)
        add_readonly(ret, machine->initrd);
    const bool opens_taps = machine->network == NETWORK_TAP && !machine->hypervisor->takes_taps;
    if (machine->network == NETWORK_USER || opens_taps)
        arguments_add(ret, "--net");
    for (size_t i = 0; i < machine->interface_count && opens_taps; i++)
        confine_add(ret, "--tap", machine->interfaces[i].tap);
}

/* What forbids users namespaces, and what allows them. */
static const struct hurdle {
    const char *name;
    int forbids;
    bool for_root;
    const char *remedy;
} hurdles[] = {
    {"user.max_user_namespaces", 0, true, "sysctl user.max_user_namespaces=10000"},
    {"kernel.unprivileged_userns_clone", 0, false, "sysctl kernel.unprivileged_userns_clone=1"},
    {"kernel.apparmor_restrict_unprivileged_userns", 1, false,
     "give that program an AppArmor profile with \"userns,\", or sysctl "
     "kernel.apparmor_restrict_unprivileged_userns=0"},
};

static bool is_in_the_way(const struct hurdle *hurdle)
{
    char path[96];
    int value;
    snprintf(path, sizeof path, "/proc/sys/%s", hurdle->name);
    *strchr(path + sizeof "/proc/sys", '.') = '/';
    auto_fclose FILE *file = fopen(path, "re");
    return file && fscanf(file, "%d", &value) == 1 && value == hurdle->forbids &&
           (hurdle->for_root || geteuid() != 0);
}

static void explain(struct error *err)
{
    for (size_t i = 0; i < array_length(hurdles); i++)
        if (is_in_the_way(&hurdles[i]))
            error_append(err, " (%s is %d: %s)", hurdles[i].name, hurdles[i].forbids,
                         hurdles[i].remedy);
}

/* It tells the version of Landlock. */
static int check(struct vmm_confine *confine, int directory_fd, struct error *err)
{
    auto_free char *said = NULL;
    struct arguments arguments = {0};
    arguments_add(&arguments, confine->program);
    if (confine->no_namespaces)
        arguments_add(&arguments, "--no-namespaces");
    if (confine->users)
        confine_add_user(&arguments, vmm_users_first(confine->users),
                         vmm_users_group(confine->users));
    arguments_add(&arguments, "--check");
    int r = arguments.failed
                ? error_set(err, ENOMEM, "out of memory")
                : process_output(directory_fd, (const char *const *)(uintptr_t)arguments.items,
                                 CHECK_OUTPUT_MAX, CHECK_MS, -1, &said, err);
    arguments_finish(&arguments);
    if (r == 0 && sscanf(said, "landlock %d", &confine->landlock) != 1)
        r = error_set(err, EIO, "%s --check does not tell what it has done", confine->program);
    return r;
}

int vmm_confine_find(struct vmm_confine *ret, int directory_fd, struct error *err)
{
    int r = libexec_find("confine", "hypefs-vmm", ret->program, err);
    if (r == 0)
        r = check(ret, directory_fd, err);
    if (r == 0 || r == -ENOMEM)
        return r;
    explain(err);
    ret->no_namespaces = true;
    return !ret->users && check(ret, directory_fd, NULL) == 0 ? 0 : r;
}

/* ---- what is in force ---- */

static const char *const namespace_names[] = {"user", "mnt", "pid", "ipc", "uts", "net"};
enum { NS_USER, NS_MOUNT, NS_PID, NAMESPACES = array_length(namespace_names) };

struct status {
    unsigned uid, seccomp;
    unsigned long long capabilities;
};

static bool read_status(pid_t pid, struct status *ret)
{
    char path[48], line[256];
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    auto_fclose FILE *file = fopen(path, "re");
    int found = 0;
    while (file && fgets(line, sizeof line, file))
        found += sscanf(line, "Uid: %u", &ret->uid) == 1 ||
                 sscanf(line, "CapEff: %llx", &ret->capabilities) == 1 ||
                 sscanf(line, "Seccomp: %u", &ret->seccomp) == 1;
    return found == 3;
}

/* Root's own files are root's in every namespace. */
static const char *level_of(const struct vmm *vmm, const struct status *status,
                            const bool *namespaces)
{
    const bool walls = namespaces[NS_USER] && namespaces[NS_MOUNT] && namespaces[NS_PID] &&
                       status->seccomp && !status->capabilities;
    const bool landlock = vmm->landlock > 0 && status->seccomp && !status->capabilities;
    return walls && status->uid != 0 ? "full" : walls || landlock ? "partial" : "none";
}

void vmm_find_user(struct vmm *vmm, struct vmm_users *users)
{
    struct status status;
    if (!users || !read_status(vmm->pid, &status))
        return;
    vmm_users_note(users, status.uid);
    vmm->users = users;
    vmm->uid = status.uid;
}

static cJSON *describe(const struct vmm *vmm)
{
    struct status status = {0};
    bool namespaces[NAMESPACES];
    if (!read_status(vmm->pid, &status))
        return NULL;
    cJSON *json = cJSON_CreateObject();
    json_add_number(json, "uid", status.uid);
    cJSON *names = json_add_array(json, "namespaces");
    for (size_t i = 0; i < NAMESPACES; i++) {
        namespaces[i] = process_has_namespace(vmm->pid, namespace_names[i]);
        if (namespaces[i])
            json_append(names, cJSON_CreateString(i == NS_MOUNT ? "mount" : namespace_names[i]));
    }
    json_add_number(json, "landlock", vmm->landlock);
    json_add_bool(json, "seccomp", status.seccomp != 0);
    json_add_string(json, "capabilities", status.capabilities ? "some" : "none");
    json_add_string(json, "level", level_of(vmm, &status, namespaces));
    return json;
}

/* It is asked once: none of it changes while the process lives. */
cJSON *vmm_describe_confinement(struct vmm *vmm)
{
    if (!vmm->confinement)
        vmm->confinement = describe(vmm);
    return vmm->confinement ? cJSON_Duplicate(vmm->confinement, true) : cJSON_CreateNull();
}
