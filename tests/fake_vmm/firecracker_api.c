/* SPDX-License-Identifier: MIT */
/* firecracker_api: which calls there are, which members they take, and when. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "firecracker.h"
#include "util/cleanup.h"
#include "util/json.h"

enum { MEMBERS_MAX = 12, LIST_SIZE = 512 };

/* ---- members, as the real one's deserializer takes them ---- */

struct member {
    const char *name;
    int type; /* cJSON_String, …; cJSON_True: a boolean */
    bool required;
    unsigned since; /* minor version of 1.x that knows it */
};

static bool known(const struct fake *fake, const struct member *member)
{
    return fake->major > 1 || fake->minor >= member->since;
}

static bool fits(const cJSON *item, const struct member *member)
{
    return member->type == cJSON_True ? cJSON_IsBool(item) : (item->type & 0xFF) == member->type;
}

static int deserializing(char *fault, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static int deserializing(char *fault, const char *format, ...)
{
    char what[FAKE_TEXT_SIZE / 2];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    snprintf(fault, FAKE_TEXT_SIZE,
             "An error occurred when deserializing the json body of a request: %s at line 1 column "
             "2.",
             what);
    return -1;
}

static int check_members(const struct fake *fake, const cJSON *body, const struct member *members,
                         char *fault)
{
    char list[LIST_SIZE] = "";
    const cJSON *item;
    for (const struct member *m = members; m->name; m++)
        if (known(fake, m))
            snprintf(list + strlen(list), sizeof list - strlen(list), "%s`%s`", list[0] ? ", " : "",
                     m->name);
    cJSON_ArrayForEach (item, body) {
        const struct member *m = members;
        while (m->name && (strcmp(m->name, item->string) != 0 || !known(fake, m)))
            m++;
        if (!m->name)
            return deserializing(fault, "unknown field `%s`, expected one of %s", item->string,
                                 list);
        if (!fits(item, m))
            return deserializing(fault, "invalid type for `%s`", item->string);
    }
    for (const struct member *m = members; m->name; m++)
        if (m->required && !cJSON_HasObjectItem(body, m->name))
            return deserializing(fault, "missing field `%s`", m->name);
    return 0;
}

static bool true_of(const cJSON *body, const char *name)
{
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(body, name));
}

static int refuse(char *fault, const char *text)
{
    snprintf(fault, FAKE_TEXT_SIZE, "%s", text);
    return -1;
}

/* ---- what the calls do ---- */

/* A call's subject: `id` is what stands behind the second '/' of its path. */
typedef int act(struct fake *fake, const char *id, const cJSON *body, cJSON **ret, char *fault);

static int get_info(struct fake *fake, const char *id, const cJSON *body, cJSON **ret, char *fault)
{
    static const char *const states[] = {"Not started", "Running", "Paused"};
    (void)id;
    (void)body;
    (void)fault;
    *ret = cJSON_CreateObject();
    cJSON_AddStringToObject(*ret, "id", fake->id);
    cJSON_AddStringToObject(*ret, "state", states[fake->state]);
    cJSON_AddStringToObject(*ret, "vmm_version", fake->version);
    cJSON_AddStringToObject(*ret, "app_name", "Firecracker");
    return 0;
}

static int get_version(struct fake *fake, const char *id, const cJSON *body, cJSON **ret,
                       char *fault)
{
    (void)id;
    (void)body;
    (void)fault;
    *ret = cJSON_CreateObject();
    cJSON_AddStringToObject(*ret, "firecracker_version", fake->version);
    return 0;
}

static int get_config(struct fake *fake, const char *id, const cJSON *body, cJSON **ret,
                      char *fault)
{
    (void)id;
    (void)body;
    (void)fault;
    *ret = cJSON_CreateObject();
    cJSON *drives = cJSON_AddArrayToObject(*ret, "drives");
    for (size_t i = 0; i < fake->drive_count; i++) {
        cJSON *drive = cJSON_CreateObject();
        cJSON_AddStringToObject(drive, "drive_id", fake->drives[i].id);
        cJSON_AddNullToObject(drive, "partuuid");
        cJSON_AddBoolToObject(drive, "is_root_device", false);
        cJSON_AddStringToObject(drive, "cache_type", "Unsafe");
        cJSON_AddBoolToObject(drive, "is_read_only", fake->drives[i].readonly);
        cJSON_AddStringToObject(drive, "path_on_host", fake->drives[i].path);
        cJSON_AddItemToArray(drives, drive);
    }
    if (fake->pmem)
        cJSON_AddItemToObject(*ret, "pmem", cJSON_Duplicate(fake->pmem, true));
    cJSON *boot = cJSON_AddObjectToObject(*ret, "boot-source");
    cJSON_AddStringToObject(boot, "kernel_image_path", fake->kernel);
    cJSON_AddStringToObject(boot, "boot_args", fake->boot_args);
    cJSON *machine = cJSON_AddObjectToObject(*ret, "machine-config");
    cJSON_AddNumberToObject(machine, "vcpu_count", fake->vcpus);
    cJSON_AddNumberToObject(machine, "mem_size_mib", (double)(fake->memory_bytes >> 20));
    if (fake->minor >= 7)
        cJSON_AddStringToObject(machine, "huge_pages",
                                fake->huge_pages[0] ? fake->huge_pages : "None");
    cJSON *interfaces = cJSON_AddArrayToObject(*ret, "network-interfaces");
    for (size_t i = 0; i < fake->interface_count; i++) {
        cJSON *interface = cJSON_CreateObject();
        cJSON_AddStringToObject(interface, "iface_id", fake->interfaces[i].id);
        cJSON_AddStringToObject(interface, "host_dev_name", fake->interfaces[i].tap);
        if (fake->interfaces[i].mac[0])
            cJSON_AddStringToObject(interface, "guest_mac", fake->interfaces[i].mac);
        cJSON_AddItemToArray(interfaces, interface);
    }
    if (!fake->vsock[0])
        cJSON_AddNullToObject(*ret, "vsock");
    else
        cJSON_AddStringToObject(cJSON_AddObjectToObject(*ret, "vsock"), "uds_path", fake->vsock);
    return 0;
}

static int put_machine(struct fake *fake, const char *id, const cJSON *body, cJSON **ret,
                       char *fault)
{
    (void)id;
    (void)ret;
    double vcpus = cJSON_GetObjectItem(body, "vcpu_count")->valuedouble;
    double mib = cJSON_GetObjectItem(body, "mem_size_mib")->valuedouble;
    if (vcpus < 1 || vcpus > 32)
        return refuse(fault, "Machine config error: The vCPU number is invalid! The vCPU number "
                             "can only be 1 or an even number when SMT is enabled.");
    if (mib < 1)
        return refuse(fault, "Machine config error: The memory size (MiB) is invalid.");
    fake->boot_path = true;
    fake->vcpus = (unsigned)vcpus;
    fake->memory_bytes = (uint64_t)mib << 20;
    return 0;
}

static int put_boot(struct fake *fake, const char *id, const cJSON *body, cJSON **ret, char *fault)
{
    (void)id;
    (void)ret;
    static const char *const names[] = {"kernel_image_path", "initrd_path"};
    static const char *const kinds[] = {"kernel", "initrd"};
    fake->boot_path = true;
    for (size_t i = 0; i < array_length(names); i++) {
        FILE *file =
            cJSON_HasObjectItem(body, names[i]) ? fopen(fake_text(body, names[i]), "re") : NULL;
        if (!file && cJSON_HasObjectItem(body, names[i])) {
            snprintf(fault, FAKE_TEXT_SIZE,
                     "Boot source error: The %s file cannot be opened: %s (os error %d)", kinds[i],
                     strerror(errno), errno);
            return -1;
        }
        if (file)
            fclose(file);
    }
    snprintf(fake->kernel, sizeof fake->kernel, "%s", fake_text(body, names[0]));
    snprintf(fake->boot_args, sizeof fake->boot_args, "%s", fake_text(body, "boot_args"));
    return 0;
}

static int put_drive(struct fake *fake, const char *id, const cJSON *body, cJSON **ret, char *fault)
{
    (void)ret;
    struct fake_drive *drive = &fake->drives[fake->drive_count];
    if (fake->drive_count == FAKE_DEVICES_MAX || strcmp(id, fake_text(body, "drive_id")) != 0)
        return refuse(fault, "The id from the path does not match the id from the body!");
    fake->boot_path = true;
    *drive = (struct fake_drive){.readonly = true_of(body, "is_read_only"), .fd = -1};
    snprintf(drive->id, sizeof drive->id, "%s", id);
    if (vm_open_drive(drive, fake_text(body, "path_on_host")) < 0) {
        snprintf(fault, FAKE_TEXT_SIZE,
                 "Drive config error: Unable to create the virtio block device: Virtio backend "
                 "error: Error manipulating the backing file: %s (os error %d) %s",
                 strerror(errno), errno, fake_text(body, "path_on_host"));
        return -1;
    }
    fake->drive_count++;
    return 0;
}

static int patch_drive(struct fake *fake, const char *id, const cJSON *body, cJSON **ret,
                       char *fault)
{
    (void)ret;
    if (strcmp(id, fake_text(body, "drive_id")) != 0)
        return refuse(fault, "The id from the path does not match the id from the body!");
    for (size_t i = 0; i < fake->drive_count; i++)
        if (strcmp(fake->drives[i].id, id) == 0 && cJSON_HasObjectItem(body, "path_on_host") &&
            vm_open_drive(&fake->drives[i], fake_text(body, "path_on_host")) == 0)
            return 0;
    return refuse(fault, "Drive config error: Unable to patch the block device: InvalidDeviceID "
                         "Please verify the request arguments.");
}

static int put_interface(struct fake *fake, const char *id, const cJSON *body, cJSON **ret,
                         char *fault)
{
    (void)ret;
    struct fake_interface *interface = &fake->interfaces[fake->interface_count];
    if (fake->interface_count == FAKE_DEVICES_MAX || strcmp(id, fake_text(body, "iface_id")) != 0)
        return refuse(fault, "The id from the path does not match the id from the body!");
    fake->boot_path = true;
    *interface = (struct fake_interface){.fd = -1};
    snprintf(interface->id, sizeof interface->id, "%s", id);
    snprintf(interface->tap, sizeof interface->tap, "%s", fake_text(body, "host_dev_name"));
    snprintf(interface->mac, sizeof interface->mac, "%s", fake_text(body, "guest_mac"));
    if (vm_open_tap(interface) < 0) {
        snprintf(fault, FAKE_TEXT_SIZE,
                 "Network config error: Could not create the network device: Open tap device "
                 "failed: %s (os error %d)",
                 strerror(errno), errno);
        return -1;
    }
    fake->interface_count++;
    return 0;
}

static int put_action(struct fake *fake, const char *id, const cJSON *body, cJSON **ret,
                      char *fault)
{
    (void)id;
    (void)ret;
    if (strcmp(fake_text(body, "action_type"), "InstanceStart") != 0)
        return deserializing(fault, "unknown variant `%s`", fake_text(body, "action_type"));
    if (!fake->kernel[0])
        return refuse(fault, "Start microvm error: Cannot start microvm without kernel "
                             "configuration.");
    return firecracker_boot(fake, fault);
}

/* The objects in a load are as strict as the load itself. */
static int check_overrides(const struct fake *fake, const cJSON *body, char *fault)
{
    static const struct member network[] = {
        {"iface_id", cJSON_String, true, 0}, {"host_dev_name", cJSON_String, true, 0}, {0}};
    static const struct member vsock[] = {{"uds_path", cJSON_String, true, 0}, {0}};
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(body, "vsock_override");
    if (item && check_members(fake, item, vsock, fault) < 0)
        return -1;
    cJSON_ArrayForEach (item, cJSON_GetObjectItemCaseSensitive(body, "network_overrides"))
        if (!cJSON_IsObject(item) || check_members(fake, item, network, fault) < 0)
            return -1;
    return 0;
}

static int put_load(struct fake *fake, const char *id, const cJSON *body, cJSON **ret, char *fault)
{
    (void)id;
    (void)ret;
    if (check_overrides(fake, body, fault) < 0)
        return -1;
    if (fake->boot_path)
        return refuse(fault, "Load snapshot error: Loading a microVM snapshot not allowed after "
                             "configuring boot-specific resources.");
    return firecracker_load(fake, body, fault);
}

static int put_create(struct fake *fake, const char *id, const cJSON *body, cJSON **ret,
                      char *fault)
{
    (void)id;
    (void)ret;
    if (fake->state != FAKE_PAUSED)
        return refuse(fault, "Create snapshot error: Cannot save the microVM state: Operation not "
                             "allowed: save/restore unavailable while running");
    if (strcmp(fake_text(body, "snapshot_type"), "Diff") == 0 && fake->minor < 13)
        return refuse(fault, "Create snapshot error: Diff snapshots are not allowed on uVMs with "
                             "dirty page tracking disabled.");
    return firecracker_create(fake, fake_text(body, "snapshot_path"),
                              fake_text(body, "mem_file_path"), fault);
}

static int patch_vm(struct fake *fake, const char *id, const cJSON *body, cJSON **ret, char *fault)
{
    (void)id;
    (void)ret;
    const char *state = fake_text(body, "state");
    if (strcmp(state, "Paused") == 0 && fake->state == FAKE_RUNNING) {
        pthread_mutex_lock(&fake->running);
        fake->state = FAKE_PAUSED;
    } else if (strcmp(state, "Resumed") == 0 && fake->state == FAKE_PAUSED) {
        vm_resume(fake);
    } else if (strcmp(state, "Paused") != 0 && strcmp(state, "Resumed") != 0) {
        return deserializing(fault, "unknown variant `%s`, expected `Paused` or `Resumed`", state);
    }
    return 0;
}

/* ---- the table ---- */

enum phase { ANY, PRE_BOOT, POST_BOOT };

static const struct call {
    const char *method, *path; /* a path that ends with '/': an id follows */
    const char *name;          /* in FAKE_VMM_FAULT */
    enum phase phase;
    act *act;
    struct member members[MEMBERS_MAX];
} calls[] = {
    {"GET", "/", "info", ANY, get_info, {{0}}},
    {"GET", "/version", "version", ANY, get_version, {{0}}},
    {"GET", "/vm/config", "config", ANY, get_config, {{0}}},
    {"PUT",
     "/machine-config",
     "machine-config",
     PRE_BOOT,
     put_machine,
     {{"vcpu_count", cJSON_Number, true, 0},
      {"mem_size_mib", cJSON_Number, true, 0},
      {"smt", cJSON_True, false, 0},
      {"cpu_template", cJSON_String, false, 0},
      {"track_dirty_pages", cJSON_True, false, 0},
      {"huge_pages", cJSON_String, false, 7}}},
    {"PUT",
     "/boot-source",
     "boot-source",
     PRE_BOOT,
     put_boot,
     {{"kernel_image_path", cJSON_String, true, 0},
      {"initrd_path", cJSON_String, false, 0},
      {"boot_args", cJSON_String, false, 0}}},
    {"PUT",
     "/drives/",
     "drive",
     PRE_BOOT,
     put_drive,
     {{"drive_id", cJSON_String, true, 0},
      {"is_root_device", cJSON_True, true, 0},
      {"is_read_only", cJSON_True, false, 0},
      {"path_on_host", cJSON_String, false, 0},
      {"partuuid", cJSON_String, false, 0},
      {"cache_type", cJSON_String, false, 0},
      {"io_engine", cJSON_String, false, 0}}},
    {"PATCH",
     "/drives/",
     "drive",
     POST_BOOT,
     patch_drive,
     {{"drive_id", cJSON_String, true, 0}, {"path_on_host", cJSON_String, false, 0}}},
    {"PUT",
     "/network-interfaces/",
     "interface",
     PRE_BOOT,
     put_interface,
     {{"iface_id", cJSON_String, true, 0},
      {"host_dev_name", cJSON_String, true, 0},
      {"guest_mac", cJSON_String, false, 0}}},
    {"PUT", "/actions", "actions", PRE_BOOT, put_action, {{"action_type", cJSON_String, true, 0}}},
    {"PUT",
     "/snapshot/load",
     "load",
     PRE_BOOT,
     put_load,
     {{"snapshot_path", cJSON_String, true, 0},
      {"mem_backend", cJSON_Object, false, 0},
      {"mem_file_path", cJSON_String, false, 0},
      {"enable_diff_snapshots", cJSON_True, false, 0},
      {"resume_vm", cJSON_True, false, 0},
      {"network_overrides", cJSON_Array, false, 12},
      {"track_dirty_pages", cJSON_True, false, 13},
      {"vsock_override", cJSON_Object, false, 16},
      {"clock_realtime", cJSON_True, false, 16},
      {"huge_pages", cJSON_String, false, 17}}},
    {"PUT",
     "/snapshot/create",
     "create",
     POST_BOOT,
     put_create,
     {{"snapshot_path", cJSON_String, true, 0},
      {"mem_file_path", cJSON_String, true, 0},
      {"snapshot_type", cJSON_String, false, 0}}},
    {"PATCH", "/vm", "vm", POST_BOOT, patch_vm, {{"state", cJSON_String, true, 0}}},
};

static const struct call *find(const char *method, const char *path, const char **ret_id)
{
    for (size_t i = 0; i < array_length(calls); i++) {
        size_t size = strlen(calls[i].path);
        bool with_id = size > 1 && calls[i].path[size - 1] == '/';
        *ret_id = path + size;
        if (strcmp(calls[i].method, method) == 0 &&
            (with_id ? strncmp(calls[i].path, path, size) == 0 : strcmp(calls[i].path, path) == 0))
            return &calls[i];
    }
    return NULL;
}

const char *api_name(const char *method, const char *path)
{
    const char *id;
    const struct call *call = find(method, path, &id);
    return call ? call->name : "unknown";
}

static int check_id(const char *id, char *fault)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_";
    if (!id[0])
        return refuse(fault, "The ID cannot be empty.");
    if (id[strspn(id, allowed)])
        return refuse(fault, "API Resource IDs can only contain alphanumeric characters and "
                             "underscores.");
    return 0;
}

static int run(struct fake *fake, const char *method, const char *path, const char *text,
               size_t size, cJSON **ret, char *fault)
{
    const char *id;
    const struct call *call = find(method, path, &id);
    auto_json cJSON *body = NULL;
    bool get = strcmp(method, "GET") == 0;
    if (!call) {
        snprintf(fault, FAKE_TEXT_SIZE, "Invalid request method and/or path: %s %s.", method, path);
        return -1;
    }
    if (get != (size == 0))
        return refuse(fault, get ? "GET request cannot have a body." : "Empty PUT request.");
    if (!get && json_parse(text, size, &body, NULL) < 0)
        return deserializing(fault, "expected value");
    if (call->path[strlen(call->path) - 1] == '/' && call->path[1] && check_id(id, fault) < 0)
        return -1;
    if (check_members(fake, body, call->members, fault) < 0)
        return -1;
    if (call->phase == PRE_BOOT && fake->state != FAKE_NOT_STARTED)
        return refuse(fault, "The requested operation is not supported after starting the "
                             "microVM.");
    if (call->phase == POST_BOOT && fake->state == FAKE_NOT_STARTED)
        return refuse(fault, "The requested operation is not supported before starting the "
                             "microVM.");
    return call->act(fake, id, body, ret, fault);
}

void api_call(struct fake *fake, const char *method, const char *path, const char *body,
              size_t body_size, struct fake_reply *ret)
{
    char fault[FAKE_TEXT_SIZE] = "";
    auto_json cJSON *json = NULL;
    bool fresh = fake->state == FAKE_NOT_STARTED && !fake->boot_path;
    int r = run(fake, method, path, body, body_size, &json, fault);
    *ret = (struct fake_reply){.status = r < 0 ? 400 : json ? 200 : 204};
    if (r < 0) {
        ret->body = api_refusal(fault);
        fake_log(fake, "Received Error. Status code: 400 Bad Request. Message: %s", fault);
        /* What could not be restored may be half restored. */
        ret->end = fresh && strncmp(fault, "Load snapshot error: Failed", 27) == 0;
    }
    if (json)
        ret->body = cJSON_PrintUnformatted(json);
}

char *api_refusal(const char *words)
{
    auto_json cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "fault_message", words);
    return cJSON_PrintUnformatted(json);
}
