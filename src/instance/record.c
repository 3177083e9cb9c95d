/* SPDX-License-Identifier: MIT */
/* record: instance.json, what the store keeps of an instance, written and read. What is read is
 * what stands there: what has become of its VMM since, recover.c finds out. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/pidfd.h>

#include "hypervisor/disks.h"
#include "instance/config.h"
#include "instance/internal.h"
#include "store/format.h"
#include "store/strays.h"
#include "util/json.h"
#include "util/process.h"

enum { HYPERVISOR_NAME_SIZE = 48, FILE_ID_SIZE = 48 };

static const char *const intent_names[INTENTS] = {"none",    "pause", "resume",
                                                  "standby", "copy",  "restore"};

/* A small file of /proc, with a NUL. 0 or -errno. */
static int read_proc(const char *path, char *ret, size_t size)
{
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd >= 0 ? read(fd, ret, size - 1) : -1;
    if (got < 0)
        return -errno;
    ret[got] = 0;
    return 0;
}

/* Tells a process from a later one of the same pid: field 22 of /proc/PID/stat. "" if there is no
 * such process, or none that we may see. */
static int start_time(pid_t pid, char ret[32])
{
    char path[48], text[1024];
    ret[0] = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int r = read_proc(path, text, sizeof text);
    if (r == -ENOENT || r == -ESRCH)
        return 0;
    char *field = r == 0 ? strrchr(text, ')') : NULL; /* the end of field 2, of any bytes */
    for (int i = 2; field && i < 22; i++)
        field = strchr(field + 1, ' ');
    if (field)
        snprintf(ret, 32, "%.*s", (int)strcspn(field + 1, " "), field + 1);
    return r < 0 ? r : ret[0] ? 0 : -EIO;
}

/* What cannot be asked any more: the files of its disks, and the taps, as it has opened them, and
 * what shuts it in. Numbers of 64 bits are texts. */
static void opened_to_json(const struct vmm *vmm, const struct machine *machine, cJSON *json)
{
    char text[FILE_ID_SIZE];
    cJSON *disks = json_add_array(json, "disks");
    cJSON *taps = json_add_array(json, "taps");
    for (size_t i = 0; i < machine->disk_count; i++) {
        snprintf(text, sizeof text, "%ju:%ju", (uintmax_t)vmm->disks[i].device,
                 (uintmax_t)vmm->disks[i].inode);
        json_append(disks, cJSON_CreateString(text));
    }
    for (size_t i = 0; i < machine->interface_count; i++)
        json_append(taps, cJSON_CreateNumber(vmm->taps[i]));
    json_add_number(json, "landlock", vmm->landlock);
}

static void read_opened(const cJSON *json, struct vmm *vmm)
{
    const cJSON *item, *disks = json_get(json, "disks");
    const cJSON *taps = json_get(json, "taps");
    size_t i = 0;
    cJSON_ArrayForEach (item, disks) {
        const char *text = cJSON_GetStringValue(item);
        uintmax_t device, inode;
        if (i < array_length(vmm->disks) && text &&
            sscanf(text, "%20ju:%20ju", &device, &inode) == 2)
            vmm->disks[i] = (struct file_id){.device = (dev_t)device, .inode = (ino_t)inode};
        i++;
    }
    i = 0;
    cJSON_ArrayForEach (item, taps)
        if (i < array_length(vmm->taps))
            vmm->taps[i++] =
                cJSON_IsNumber(item) && item->valueint > 0 ? (unsigned)item->valueint : 0;
}

static int vmm_to_json(const struct vmm *vmm, const struct machine *machine, cJSON **ret,
                       struct error *err)
{
    char started[32], booted[INSTANCE_BOOT_ID_SIZE];
    if (!vmm) {
        *ret = cJSON_CreateNull();
        return 0;
    }
    int r = start_time(vmm->pid, started);
    if (r == 0)
        r = instance_boot_id(booted);
    if (r < 0)
        return error_errno(err, -r, "cannot describe the VMM with the pid %d", (int)vmm->pid);
    cJSON *json = cJSON_CreateObject();
    json_add_number(json, "pid", vmm->pid);
    json_add_string(json, "start_time", started);
    json_add_string(json, "boot_id", booted);
    opened_to_json(vmm, machine, json);
    *ret = json;
    return 0;
}

int instance_record(struct instance *instance, struct error *err)
{
    const struct instance_next same = {instance->state, &instance->machine, instance->vmm,
                                       instance->loaded, instance->intent};
    return instance_record_as(instance, &same, err);
}

/* Nothing is written that is there already: each time takes as long as the disk does. */
static int write_changed(struct instance *instance, const cJSON *json, struct error *err)
{
    const int directory_fd = instance->entry_fd;
    auto_free char *text = json_print(json), *before = steal_pointer(instance->recorded);
    if (text && before && strcmp(text, before) == 0) {
        instance->recorded = steal_pointer(text);
        return 0;
    }
    const bool is_shown = instance->published && instance->state != INSTANCE_WAITING;
    const bool lasts = is_shown || !instance->unsynced;
    int r = !text   ? error_set(err, ENOMEM, "out of memory")
            : lasts ? store_stage_json(directory_fd, "instance.json", json, err)
                    : store_cache_json(directory_fd, "instance.json", json, err);
    if (r < 0)
        instance->recorded = steal_pointer(before); /* it is still there */
    else if (instance->unsynced && lasts)
        r = instance_sync(instance, err);
    else if (instance->published)
        r = store_sync_json(directory_fd, "instance.json", err); /* else either may be there */
    if (r < 0)
        return error_prefix(err, r, "instance %s", instance->id);
    instance->recorded = steal_pointer(text);
    return 0;
}

int instance_record_as(struct instance *instance, const struct instance_next *next,
                       struct error *err)
{
    cJSON *vmm = NULL;
    int r = vmm_to_json(next->vmm, next->machine, &vmm, err);
    if (r < 0)
        return error_prefix(err, r, "instance %s", instance->id);
    struct machine machine = *next->machine;
    bool has_image = next->state == INSTANCE_STANDBY || next->intent == INTENT_RESTORE;
    machine.in_firmware = machine.in_firmware && has_image;
    auto_json cJSON *json = cJSON_CreateObject();
    cJSON *machine_json = machine_to_json(&machine);
    /* An intent, and a directory for the VMM, are more than 0.1 knows, too. */
    json_add_number(json, "version",
                    next->intent || instance->has_run ? FORMAT_SECOND_VERSION
                                                      : format_machine_version(machine_json));
    json_add_string(json, "id", instance->id);
    json_add_string(json, "uuid", instance->uuid);
    json_add_string(json, "state", instance_state_names[next->state]);
    if (next->intent)
        json_add_string(json, "intent", intent_names[next->intent]);
    json_add_string(json, "created_at", instance->created_at);
    json_add_string(json, "hypervisor", next->machine->hypervisor->name);
    if (instance->config)
        json_add_string(json, "config", instance->config);
    json_add(json, "machine", machine_json);
    if (instance->source.id[0]) {
        cJSON *source = json_add_object(json, "source");
        json_add_string(source, instance_source_words[instance->source.kind], instance->source.id);
        json_add_string(source, "uuid", instance->source.uuid);
    }
    json_add(json, "vmm", vmm);
    json_add_bool(json, "loaded", next->loaded);
    if (instance->exit.ended && next->state == INSTANCE_STOPPED) {
        cJSON *exit = json_add_object(json, "exit");
        json_add_number(exit, "code", instance->exit.code);
        json_add_number(exit, "signal", instance->exit.signal);
        json_add_string(exit, "at", instance->exit_at);
    }
    return write_changed(instance, json, err);
}

/* "" for what is not there, or too long to be ours: cut, it might end within a character. */
static void copy_text(char *ret, size_t size, const cJSON *json, const char *name)
{
    const char *text = json_get_text(json, name);
    snprintf(ret, size, "%s", text && strlen(text) < size ? text : "");
}

static int number_of(const cJSON *json, const char *name)
{
    const cJSON *item = json_get(json, name);
    return cJSON_IsNumber(item) ? item->valueint : 0;
}

static int read_word(const cJSON *json, const char *name, const char *const *words, int count,
                     const char *what, int *ret, struct error *err)
{
    char text[16];
    copy_text(text, sizeof text, json, name);
    for (*ret = 0; *ret < count; ++*ret)
        if (strcmp(text, words[*ret]) == 0)
            return 0;
    return error_set(err, EINVAL, "instance.json: \"%s\" is not %s", name, what);
}

static int read_state(struct instance *instance, const cJSON *json, struct error *err)
{
    int state, intent = INTENT_NONE;
    int r =
        read_word(json, "state", instance_state_names, INSTANCE_WAITING, "a state", &state, err);
    if (r == 0 && json_get(json, "intent"))
        r = read_word(json, "intent", intent_names, INTENTS, "an intent", &intent, err);
    if (r == 0) {
        instance->state = (enum instance_state)state;
        instance->intent = state == INSTANCE_RUNNING ? (enum instance_intent)intent : INTENT_NONE;
    }
    return r;
}

/* The text that a user wrote once, as the record has it. */
static int parse_config(const char *config, struct machine *ret, struct error *err)
{
    int r = config_parse(config, strlen(config), ret, err);
    return r < 0 ? error_prefix(err, r, "instance.json: \"config\"") : 0;
}

/* What a config asks for tells nothing of what was written of the disks by now. */
static int read_config(struct instance *instance, const cJSON *json, struct error *err)
{
    struct machine recorded = {0};
    int r = parse_config(instance->config, &instance->machine, err);
    if (r == 0)
        r = machine_from_json(json, &recorded, err);
    if (r == 0) {
        recorded.hypervisor = instance->machine.hypervisor;
        r = disks_keep(&instance->machine, &recorded, err);
    }
    machine_finish(&recorded);
    return r;
}

/* What a VM of that config has booted from: its record tells that only if it was saved early. */
static int read_boot(const char *config, struct machine *machine, struct error *err)
{
    struct machine wanted;
    if (!config || machine->in_firmware)
        return 0;
    int r = parse_config(config, &wanted, err);
    if (r < 0)
        return r;
    machine->kernel = steal_pointer(wanted.kernel);
    machine->initrd = steal_pointer(wanted.initrd);
    machine->cmdline = steal_pointer(wanted.cmdline);
    machine_finish(&wanted);
    return 0;
}

static int read_machine(struct instance *instance, const cJSON *json, struct error *err)
{
    const char *config = json_get_text(json, "config");
    const cJSON *machine = json_get(json, "machine");
    char name[HYPERVISOR_NAME_SIZE];
    if (config && !(instance->config = strdup(config)))
        return error_set(err, ENOMEM, "out of memory");
    if (config && (instance->state == INSTANCE_CREATED || instance->state == INSTANCE_STOPPED))
        return read_config(instance, machine, err);
    copy_text(name, sizeof name, json, "hypervisor");
    const struct hypervisor *hypervisor = hypervisor_find(name);
    if (!hypervisor)
        return error_set(err, EOPNOTSUPP,
                         "instance.json: this version does not run the hypervisor \"%s\"", name);
    int r = machine_from_json(machine, &instance->machine, err);
    if (r == 0)
        r = read_boot(instance->config, &instance->machine, err);
    instance->machine.hypervisor = hypervisor;
    return r;
}

static void read_exit(struct instance *instance, const cJSON *json)
{
    const cJSON *exit = json_get(json, "exit");
    if (!cJSON_IsObject(exit))
        return;
    instance->exit = (struct vmm_exit){
        .ended = true, .code = number_of(exit, "code"), .signal = number_of(exit, "signal")};
    copy_text(instance->exit_at, sizeof instance->exit_at, exit, "at");
}

int instance_read(struct instance *instance, const cJSON *json, struct error *err)
{
    const cJSON *source = json_get(json, "source");
    int r = format_check_version(json, "instance.json", FORMAT_SECOND_VERSION, err);
    if (r < 0)
        return r;
    copy_text(instance->created_at, sizeof instance->created_at, json, "created_at");
    if (json_get(source, instance_source_words[STORE_INSTANCES]))
        instance->source.kind = STORE_INSTANCES;
    copy_text(instance->source.id, sizeof instance->source.id, source,
              instance_source_words[instance->source.kind]);
    if (json_get(json, "uuid")) /* else it keeps the new one */
        copy_text(instance->uuid, sizeof instance->uuid, json, "uuid");
    copy_text(instance->source.uuid, sizeof instance->source.uuid, source, "uuid");
    if (source && !store_id_valid(instance->source.id))
        return error_set(err, EINVAL, "instance.json: \"source\" is no id");
    read_exit(instance, json);
    r = read_state(instance, json, err);
    return r == 0 ? read_machine(instance, json, err) : r;
}

/* Is the process with that pid, of which `pidfd` is to be, the very one? 1; 0: that one has ended;
 * -errno: there is no telling. A record may have been copied or forged: whatever it says, a process
 * that no daemon started in the instance's directory is never taken, paused or killed. */
static int identify(const cJSON *json, int directory_fd, int pid, int *ret_pidfd)
{
    char kept[48], now[48];
    copy_text(kept, sizeof kept, json, "boot_id");
    int r = instance_boot_id(now);
    if (r < 0 || strcmp(kept, now) != 0 || pid <= 0)
        return r;
    auto_close int pidfd = pidfd_open(pid, 0);
    if (pidfd < 0) /* with the two others it is a thread by now, or was never a pid */
        return errno == ESRCH || errno == EINVAL || errno == ENOENT ? 0 : -errno;
    if (process_poll(&pidfd, 1, 0) > 0) /* it has ended, and nobody has reaped it */
        return 0;
    copy_text(kept, sizeof kept, json, "start_time");
    r = start_time(pid, now);
    if (r < 0 || !now[0] || strcmp(kept, now) != 0)
        return r;
    r = strays_is_in(pid, directory_fd);
    if (r <= 0)
        return r;
    *ret_pidfd = steal_fd(&pidfd);
    return 1;
}

int instance_read_vmm(const struct instance *instance, const cJSON *record, struct vmm **ret,
                      struct error *err)
{
    const cJSON *json = json_get(record, "vmm");
    auto_close int pidfd = -1;
    int pid = number_of(json, "pid");
    int r = identify(json, instance->image->directory_fd, pid, &pidfd);
    if (r < 0)
        return error_errno(err, -r, "it is not known whether its VMM, with the pid %d, still runs",
                           pid);
    r = r > 0 ? vmm_create(instance->machine.hypervisor, pid, pidfd, ret, err) : 0;
    if (*ret) {
        const struct vmm_confine *confine = instance->table->setup.confine;
        pidfd = -1;
        read_opened(json, *ret);
        (*ret)->landlock = number_of(json, "landlock");
        vmm_find_user(*ret, confine ? confine->users : NULL);
    }
    return r;
}
