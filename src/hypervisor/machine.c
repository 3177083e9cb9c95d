/* SPDX-License-Identifier: MIT */
#include "hypervisor/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "util/cleanup.h"
#include "util/json.h"

enum {
    CPUINFO_MAX = 16384, /* the first processor's part is enough */
    HASH_SIZE = 17,      /* 64 bits in hex with the NUL */
    WORD_MAX = 64,       /* of a recorded type, CPU model, version */
    VCPUS_MAX = 1024,
    DISKS_MAX = 64,
    TICK_TRIES = 16,
    TICK_NS = 20000000,
    NS_PER_S = 1000000000,
    NS_PER_MS = 1000000,
};
static const int64_t MEMORY_MIN = 4096, MEMORY_MAX = (int64_t)1 << 46;

const char *const machine_board_names[MACHINE_BOARDS + 1] = {"microvm", "q35", NULL};
const char *const machine_accel_names[ACCELS + 1] = {"auto", "kvm", "tcg", NULL};
const char *const machine_network_names[NETWORK_MODES + 1] = {"none", "user", NULL};
static const char *const format_names[] = {"raw", "qcow2", NULL};

static void finish_disks(struct machine *machine)
{
    for (size_t i = 0; i < machine->disk_count; i++) {
        free(machine->disks[i].path);
        free(machine->disks[i].format);
    }
    free(machine->disks);
}

void machine_finish(struct machine *machine)
{
    if (!machine)
        return;
    finish_disks(machine);
    free(machine->kernel);
    free(machine->initrd);
    free(machine->cmdline);
    free(machine->type);
    free(machine->cpu);
    free(machine->host_cpu);
    free(machine->version);
    *machine = (struct machine){0};
}

static bool copy_string(const char *from, char **ret)
{
    *ret = from ? strdup(from) : NULL;
    return *ret || !from;
}

static bool copy_disks(const struct machine *from, struct machine *to)
{
    if (from->disk_count == 0)
        return true;
    to->disks = calloc(from->disk_count, sizeof *to->disks);
    if (!to->disks)
        return false;
    to->disk_count = from->disk_count;
    for (size_t i = 0; i < from->disk_count; i++) {
        to->disks[i].readonly = from->disks[i].readonly;
        if (!copy_string(from->disks[i].path, &to->disks[i].path) ||
            !copy_string(from->disks[i].format, &to->disks[i].format))
            return false;
    }
    return true;
}

int machine_copy(const struct machine *machine, struct machine *ret, struct error *err)
{
    struct machine copy = *machine;
    copy.disks = NULL;
    copy.disk_count = 0;
    copy.kernel = copy.initrd = copy.cmdline = NULL;
    copy.type = copy.cpu = copy.host_cpu = copy.version = NULL;
    if (!copy_disks(machine, &copy) || !copy_string(machine->kernel, &copy.kernel) ||
        !copy_string(machine->initrd, &copy.initrd) ||
        !copy_string(machine->cmdline, &copy.cmdline) || !copy_string(machine->type, &copy.type) ||
        !copy_string(machine->cpu, &copy.cpu) || !copy_string(machine->host_cpu, &copy.host_cpu) ||
        !copy_string(machine->version, &copy.version)) {
        machine_finish(&copy);
        return error_set(err, ENOMEM, "no memory for a machine's description");
    }
    *ret = copy;
    return 0;
}

static bool add_string(cJSON *object, const char *name, const char *value)
{
    return value ? cJSON_AddStringToObject(object, name, value)
                 : cJSON_AddNullToObject(object, name);
}

static bool add_disk(cJSON *disks, const struct machine_disk *disk)
{
    auto_json cJSON *object = cJSON_CreateObject();
    if (!add_string(object, "path", disk->path) || !add_string(object, "format", disk->format) ||
        !cJSON_AddBoolToObject(object, "readonly", disk->readonly) ||
        !cJSON_AddItemToArray(disks, object))
        return false;
    object = NULL;
    return true;
}

cJSON *machine_to_json(const struct machine *machine)
{
    auto_json cJSON *json = cJSON_CreateObject();
    bool good = cJSON_AddNumberToObject(json, "memory_bytes", (double)machine->memory_bytes) &&
                cJSON_AddNumberToObject(json, "vcpus", machine->vcpus) &&
                add_string(json, "machine", machine_board_names[machine->board]) &&
                add_string(json, "accel", machine_accel_names[machine->accel]);
    cJSON *network = cJSON_AddObjectToObject(json, "network");
    good = good && add_string(network, "mode", machine_network_names[machine->network]) &&
           cJSON_AddBoolToObject(network, "restrict", machine->network_restrict);
    cJSON *disks = cJSON_AddArrayToObject(json, "disks");
    for (size_t i = 0; good && i < machine->disk_count; i++)
        good = disks && add_disk(disks, &machine->disks[i]);
    good = good && disks && add_string(json, "type", machine->type) &&
           add_string(json, "cpu", machine->cpu) &&
           add_string(json, "host_cpu", machine->host_cpu) &&
           add_string(json, "version", machine->version);
    return good ? steal_pointer(json) : NULL;
}

struct stored_disk {
    char *path;
    int format;
    bool readonly;
};

static int read_disk(const cJSON *json, struct machine_disk *ret, struct error *err)
{
    static const struct json_field fields[] = {
        {"path", JSON_STRING, offsetof(struct stored_disk, path), .required = true},
        {"format", JSON_WORD, offsetof(struct stored_disk, format), .required = true,
         .words = format_names},
        {"readonly", JSON_BOOL, offsetof(struct stored_disk, readonly), .required = true},
    };
    struct stored_disk disk = {0};
    int r = json_read(json, fields, array_length(fields), &disk, err);
    auto_free char *path = disk.path;
    if (r < 0)
        return r;
    if (path[0] != '/')
        return error_set(err, EINVAL, "path is not absolute");
    char *format = strdup(format_names[disk.format]);
    if (!format)
        return error_set(err, ENOMEM, "no memory for a machine's description");
    *ret = (struct machine_disk){steal_pointer(path), format, disk.readonly};
    return 0;
}

static int read_disks(const cJSON *json, struct machine *machine, struct error *err)
{
    int count = cJSON_GetArraySize(json);
    if (count > DISKS_MAX)
        return error_set(err, EINVAL, "disks: more than %d", DISKS_MAX);
    if (count == 0)
        return 0;
    machine->disks = calloc((size_t)count, sizeof *machine->disks);
    if (!machine->disks)
        return error_set(err, ENOMEM, "no memory for a machine's description");
    const cJSON *item;
    cJSON_ArrayForEach (item, json) {
        int r = read_disk(item, &machine->disks[machine->disk_count], err);
        if (r < 0)
            return error_prefix(err, r, "disks[%zu]", machine->disk_count);
        machine->disk_count++;
    }
    return 0;
}

struct stored_network {
    int mode;
    bool restricted;
};

static int read_network(const cJSON *json, struct machine *machine, struct error *err)
{
    static const struct json_field fields[] = {
        {"mode", JSON_WORD, offsetof(struct stored_network, mode), .required = true,
         .words = machine_network_names},
        {"restrict", JSON_BOOL, offsetof(struct stored_network, restricted), .required = true},
    };
    struct stored_network network = {0};
    int r = json_read(json, fields, array_length(fields), &network, err);
    if (r < 0)
        return error_prefix(err, r, "network");
    machine->network = (enum machine_network)network.mode;
    machine->network_restrict = network.restricted;
    return 0;
}

/* These become part of a VMM's option strings. */
static int check_word(const char *name, const char *word, struct error *err)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    if (!word)
        return 0;
    size_t length = strlen(word);
    if (length == 0 || length > WORD_MAX || strspn(word, allowed) != length)
        return error_set(err, EINVAL, "%s is not a word of letters, digits, '.', '_' and '-'",
                         name);
    return 0;
}

struct stored_machine {
    int64_t memory_bytes, vcpus;
    int board, accel;
    const cJSON *network, *disks;
    struct machine machine;
};

static int read_members(const cJSON *json, struct stored_machine *stored, struct error *err)
{
#define FIELD(member) offsetof(struct stored_machine, member)
    static const struct json_field fields[] = {
        {"memory_bytes", JSON_INTEGER, FIELD(memory_bytes), .required = true, .min = MEMORY_MIN,
         .max = MEMORY_MAX},
        {"vcpus", JSON_INTEGER, FIELD(vcpus), .required = true, .min = 1, .max = VCPUS_MAX},
        {"machine", JSON_WORD, FIELD(board), .required = true, .words = machine_board_names},
        {"accel", JSON_WORD, FIELD(accel), .required = true, .words = machine_accel_names},
        {"network", JSON_OBJECT, FIELD(network), .required = true},
        {"disks", JSON_ARRAY, FIELD(disks), .required = true},
        {"type", JSON_STRING, FIELD(machine.type), .nullable = true},
        {"cpu", JSON_STRING, FIELD(machine.cpu), .nullable = true},
        {"host_cpu", JSON_STRING, FIELD(machine.host_cpu), .nullable = true},
        {"version", JSON_STRING, FIELD(machine.version), .nullable = true},
    };
#undef FIELD
    int r = json_read(json, fields, array_length(fields), stored, err);
    if (r == 0)
        r = check_word("type", stored->machine.type, err);
    if (r == 0)
        r = check_word("cpu", stored->machine.cpu, err);
    return r;
}

int machine_from_json(const cJSON *json, struct machine *ret, struct error *err)
{
    struct stored_machine stored = {0};
    int r = read_members(json, &stored, err);
    struct machine *machine = &stored.machine;
    if (r == 0)
        r = read_network(stored.network, machine, err);
    if (r == 0)
        r = read_disks(stored.disks, machine, err);
    if (r < 0) {
        machine_finish(machine);
        return r;
    }
    machine->memory_bytes = (uint64_t)stored.memory_bytes;
    machine->vcpus = (unsigned)stored.vcpus;
    machine->board = (enum machine_board)stored.board;
    machine->accel = (enum machine_accel)stored.accel;
    *ret = *machine;
    return 0;
}

/* The value in the line "key : value" of the first processor, or NULL; `ret_size` bytes. */
static const char *cpuinfo_value(const char *cpuinfo, const char *key, size_t *ret_size)
{
    size_t key_size = strlen(key);
    for (const char *line = cpuinfo; *line && *line != '\n';) {
        size_t size = strcspn(line, "\n");
        const char *colon = memchr(line, ':', size);
        if (colon && strncmp(line, key, key_size) == 0 &&
            strspn(line + key_size, "\t ") == (size_t)(colon - line) - key_size) {
            *ret_size = size - (size_t)(colon + 1 - line);
            return colon + 1;
        }
        line += size + (line[size] == '\n');
    }
    return NULL;
}

bool machine_cpuinfo_has(const char *cpuinfo, const char *flag)
{
    size_t size = 0;
    const char *flags = cpuinfo_value(cpuinfo, "flags", &size);
    for (size_t i = 0; flags && i < size;) {
        size_t length = strcspn(flags + i, " \n");
        if (length == strlen(flag) && memcmp(flags + i, flag, length) == 0)
            return true;
        i += length + 1;
    }
    return false;
}

int machine_cpuinfo_hash(const char *cpuinfo, char **ret, struct error *err)
{
    static const char *const keys[] = {"vendor_id",       "cpu family",       "model",
                                       "model name",      "stepping",         "flags",
                                       "CPU implementer", "CPU architecture", "CPU variant",
                                       "CPU part",        "CPU revision",     "Features"};
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (size_t i = 0; i < array_length(keys); i++) {
        size_t size = 0;
        const char *value = cpuinfo_value(cpuinfo, keys[i], &size);
        for (size_t j = 0; j <= size; j++) {
            hash ^= j < size ? (unsigned char)value[j] : '\n';
            hash *= UINT64_C(0x100000001b3);
        }
    }
    char *text = malloc(HASH_SIZE);
    if (!text)
        return error_set(err, ENOMEM, "no memory for the host's CPU");
    snprintf(text, HASH_SIZE, "%016" PRIx64, hash);
    *ret = text;
    return 0;
}

static int read_cpuinfo(char text[static CPUINFO_MAX + 1], struct error *err)
{
    auto_fclose FILE *file = fopen("/proc/cpuinfo", "re");
    if (!file)
        return error_errno(err, errno, "/proc/cpuinfo cannot be opened");
    size_t size = fread(text, 1, CPUINFO_MAX, file);
    text[size] = '\0';
    return 0;
}

int machine_host_cpu(char **ret, struct error *err)
{
    char cpuinfo[CPUINFO_MAX + 1];
    int r = read_cpuinfo(cpuinfo, err);
    return r < 0 ? r : machine_cpuinfo_hash(cpuinfo, ret, err);
}

static bool host_virtualizes(void)
{
    auto_close int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0)
        return false;
#if defined(__x86_64__)
    /* A device alone is not enough: on some nested hosts a stock kernel hangs in it. */
    char cpuinfo[CPUINFO_MAX + 1];
    return read_cpuinfo(cpuinfo, NULL) == 0 &&
           (machine_cpuinfo_has(cpuinfo, "vmx") || machine_cpuinfo_has(cpuinfo, "svm"));
#else
    return true;
#endif
}

enum machine_accel machine_resolve_accel(enum machine_accel wanted)
{
    if (wanted != ACCEL_AUTO)
        return wanted;
    return host_virtualizes() ? ACCEL_KVM : ACCEL_TCG;
}

#if defined(__x86_64__)
struct tick {
    uint64_t counter;
    int64_t ns;
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_RAW, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

/* Counter and clock at one moment: of several tries the one that was interrupted least. */
static struct tick read_tick(void)
{
    struct tick best = {0};
    int64_t least = INT64_MAX;
    for (int i = 0; i < TICK_TRIES; i++) {
        int64_t before = now_ns();
        uint64_t counter = __builtin_ia32_rdtsc();
        int64_t took = now_ns() - before;
        if (took < least) {
            least = took;
            best = (struct tick){.counter = counter, .ns = before + took / 2};
        }
    }
    return best;
}

unsigned machine_host_tsc_khz(void)
{
    char cpuinfo[CPUINFO_MAX + 1];
    if (read_cpuinfo(cpuinfo, NULL) < 0 || !machine_cpuinfo_has(cpuinfo, "constant_tsc"))
        return 0;
    struct tick first = read_tick();
    nanosleep(&(struct timespec){.tv_nsec = TICK_NS}, NULL);
    struct tick last = read_tick();
    double ms = (double)(last.ns - first.ns) / NS_PER_MS;
    return (unsigned)((double)(last.counter - first.counter) / ms + 0.5);
}
#else
unsigned machine_host_tsc_khz(void)
{
    return 0;
}
#endif
