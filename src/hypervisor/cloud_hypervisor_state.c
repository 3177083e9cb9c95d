/* SPDX-License-Identifier: MIT */
#include "hypervisor/cloud_hypervisor_state.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/json.h"
#include "util/plain_file.h"
#include "util/text_file.h"

enum {
    STATE_TEXT_MAX = 64 * 1024 * 1024, /* bytes; 64 KiB with one processor and no device */
    NET_F_MAC = 5,                     /* virtio 1.2, 5.1.3: bits of the features */
    NET_F_GUEST_ANNOUNCE = 21,
    NUMBER_SIZE = 24,
};

static const char no_room[] = "no memory for a device state";

void cloud_hypervisor_state_finish(struct cloud_hypervisor_state *state)
{
    cJSON_Delete(state->config);
    cJSON_Delete(state->state);
    *state = (struct cloud_hypervisor_state){0};
}

/* ---- reading and writing ---- */

char *cloud_hypervisor_state_print(const struct cloud_hypervisor_state *state)
{
    char *text = NULL;
    auto_free char *config = json_print_line(state->config);
    auto_free char *tree = json_print_line(state->state);
    if (!config || !tree || asprintf(&text, "{\"config\":%s,\"state\":%s}\n", config, tree) < 0)
        return NULL;
    return text;
}

static int read_text(int directory_fd, const char *path, char **ret, size_t *ret_size,
                     struct error *err)
{
    auto_close int fd = -1;
    int r = plain_file_open(directory_fd, path, O_RDONLY, path, &fd, err);
    if (r < 0)
        return r;
    r = text_file_read(fd, STATE_TEXT_MAX, ret, ret_size);
    return r < 0 ? error_io(err, -r, "%s cannot be read", path) : 0;
}

/* It writes as much of a file as there is room for on the disk, and says nothing. */
static int take(int directory_fd, const char *path, cJSON **ret, struct error *err)
{
    auto_free char *text = NULL;
    struct error why;
    size_t size = 0;
    int r = read_text(directory_fd, path, &text, &size, err);
    if (r == 0 && json_parse(text, size, ret, &why) < 0)
        r = error_set(err, EIO, "%s, which Cloud Hypervisor has just written, is not whole: %s",
                      path, why.text);
    return r;
}

int cloud_hypervisor_state_take(int directory_fd, const char *config_path, const char *state_path,
                                struct cloud_hypervisor_state *ret, struct error *err)
{
    struct cloud_hypervisor_state taken = {0};
    int r = take(directory_fd, config_path, &taken.config, err);
    if (r == 0)
        r = take(directory_fd, state_path, &taken.state, err);
    if (r < 0)
        cloud_hypervisor_state_finish(&taken);
    else
        *ret = taken;
    return r;
}

int cloud_hypervisor_state_read(int directory_fd, const char *path,
                                struct cloud_hypervisor_state *ret, struct error *err)
{
    auto_free char *text = NULL;
    auto_json cJSON *json = NULL;
    struct error why;
    size_t size = 0;
    int r = read_text(directory_fd, path, &text, &size, err);
    if (r < 0)
        return r;
    if (json_parse(text, size, &json, &why) < 0)
        return error_set(err, EIO, "%s is no state of Cloud Hypervisor's: %s", path, why.text);
    if (!cJSON_IsObject(json_get(json, "config")) || !cJSON_IsObject(json_get(json, "state")))
        return error_set(err, EOPNOTSUPP,
                         "the snapshot has no configuration of its VM, which Cloud Hypervisor "
                         "needs: import it again with --config");
    ret->config = cJSON_DetachItemFromObjectCaseSensitive(json, "config");
    ret->state = cJSON_DetachItemFromObjectCaseSensitive(json, "state");
    return 0;
}

/* ---- the data of a component ---- */

/* The text of the component below `ids` (ends with NULL), or NULL. */
static cJSON *find_data(const struct cloud_hypervisor_state *state, const char *const *ids)
{
    const cJSON *node = state->state;
    for (; *ids; ids++)
        node = json_get(json_get(node, "snapshots"), *ids);
    const cJSON *text = json_get(json_get(node, "snapshot_data"), "state");
    return cJSON_IsString(text) ? (cJSON *)(uintptr_t)text : NULL;
}

/* A member of an object, or of one inside it, by its names (ends with NULL), as it is written. */
static bool find_member(const char *text, const char *const *names, struct json_span *ret)
{
    struct json_check check;
    if (json_check(text, strlen(text), &check) != JSON_COMPLETE)
        return false;
    struct json_span at = check.object;
    for (; *names; names++) {
        struct json_member member;
        size_t position = at.start;
        bool found = false;
        while (text[at.start] == '{' && !found && json_next_member(text, at, &position, &member))
            found = json_name_is(text, member.name, *names);
        if (!found)
            return false;
        at = member.value;
    }
    *ret = at;
    return true;
}

static int replace(cJSON *data, struct json_span span, const char *with, struct error *err)
{
    auto_free char *text = NULL;
    const char *old = data->valuestring;
    if (asprintf(&text, "%.*s%s%s", (int)span.start, old, with, old + span.end) < 0 ||
        !cJSON_SetValuestring(data, text))
        return error_set(err, ENOMEM, no_room);
    return 0;
}

static int replace_member(cJSON *data, const char *const *names, const char *with,
                          struct error *err)
{
    struct json_span span;
    return find_member(data->valuestring, names, &span) ? replace(data, span, with, err) : 0;
}

/* ---- memory ---- */

/* Where in a file of the ranges, one after another, the range is that begins at that address. */
static int find_range(const cJSON *ranges, uint64_t address, uint64_t size, uint64_t *ret,
                      struct error *err)
{
    const cJSON *range;
    uint64_t offset = 0;
    cJSON_ArrayForEach (range, ranges) {
        if (json_get_count(range, "gpa") == address && json_get_count(range, "length") == size) {
            *ret = offset;
            return 0;
        }
        offset += json_get_count(range, "length");
    }
    return error_set(err, EIO, "the state has a memory at %#" PRIx64 " that is not in its file",
                     address);
}

static bool overlaps(const cJSON *mappings, uint64_t at, uint64_t size)
{
    const cJSON *other;
    cJSON_ArrayForEach (other, mappings) {
        uint64_t its = json_get_count(other, "file_offset");
        if (at < its + json_get_count(other, "size") && its < at + size)
            return true;
    }
    return false;
}

/* The mappings of `memory`, what the component's data says, as they are of one file that has all.
 * Those of a memory that was no file are all at 0 in it. */
static int place_mappings(const cJSON *memory, uint64_t memory_bytes, cJSON **ret,
                          struct error *err)
{
    const cJSON *ranges = json_get(json_get(memory, "memory_ranges"), "data");
    const cJSON *mapping, *mappings = json_get(memory, "guest_ram_mappings");
    const char *zone = json_get_text(mappings ? mappings->child : NULL, "zone_id");
    auto_json cJSON *placed = cJSON_CreateArray();
    uint64_t total = 0;
    if (!zone)
        return error_set(err, EIO, "the state does not say where its memory is");
    cJSON_ArrayForEach (mapping, mappings) {
        const char *its = json_get_text(mapping, "zone_id");
        uint64_t size = json_get_count(mapping, "size"),
                 at = json_get_count(mapping, "file_offset");
        if (!its || strcmp(its, zone) != 0)
            return error_set(err, EOPNOTSUPP, "a VM with several memory zones cannot be forked");
        if (cJSON_IsTrue(json_get(mapping, "virtio_mem")))
            return error_set(err, EOPNOTSUPP, "a VM with hotplugged memory cannot be forked");
        int r = cJSON_GetArraySize(ranges) > 0
                    ? find_range(ranges, json_get_count(mapping, "gpa"), size, &at, err)
                    : 0;
        if (r < 0)
            return r;
        if (size > memory_bytes || at > memory_bytes - size || overlaps(placed, at, size))
            return error_set(err, EIO,
                             "the state has a memory of %" PRIu64 " bytes at %" PRIu64
                             " of its file, and the memory image has %" PRIu64
                             ", or that place is another's",
                             size, at, memory_bytes);
        cJSON *copy = cJSON_Duplicate(mapping, true);
        cJSON_DeleteItemFromObjectCaseSensitive(copy, "file_offset");
        json_add_number(copy, "file_offset", (double)at);
        json_append(placed, copy);
        total += size;
    }
    if (total != memory_bytes)
        return error_set(err, EIO,
                         "the state is one of a memory of %" PRIu64
                         " bytes, and the memory image has %" PRIu64,
                         total, memory_bytes);
    *ret = steal_pointer(placed);
    return 0;
}

static const char *const memory_path[] = {"memory-manager", NULL};

static int normalize_memory(struct cloud_hypervisor_state *state, uint64_t memory_bytes,
                            char **ret_zone, struct error *err)
{
    static const char *const mappings_path[] = {"guest_ram_mappings", NULL};
    static const char *const ranges_path[] = {"memory_ranges", "data", NULL};
    cJSON *data = find_data(state, memory_path);
    auto_json cJSON *memory = NULL, *placed = NULL;
    struct error why;
    if (!data || json_parse(data->valuestring, strlen(data->valuestring), &memory, &why) < 0)
        return error_set(err, EIO, "the state says nothing about the VM's memory");
    int r = place_mappings(memory, memory_bytes, &placed, err);
    if (r < 0)
        return r;
    auto_free char *text = json_print_line(placed);
    *ret_zone = text ? strdup(json_get_text(placed->child, "zone_id")) : NULL;
    if (!*ret_zone)
        return error_set(err, ENOMEM, no_room);
    r = replace_member(data, mappings_path, text, err);
    return r == 0 ? replace_member(data, ranges_path, "[]", err) : r;
}

/* ---- the configuration ---- */

/* Each a member that a VM which can be forked does not have, or has empty, or as 0 or false. */
struct refusal {
    const char *name, *what;
};

static bool is_there(const cJSON *item)
{
    return cJSON_IsTrue(item) || cJSON_IsObject(item) || cJSON_IsString(item) ||
           (cJSON_IsNumber(item) && item->valuedouble != 0) ||
           (cJSON_IsArray(item) && cJSON_GetArraySize(item) > 0);
}

static int refuse_members(const cJSON *object, const struct refusal *refusals, struct error *err)
{
    for (; refusals->name; refusals++)
        if (is_there(json_get(object, refusals->name)))
            return error_set(err, EOPNOTSUPP, "a VM with %s (\"%s\") cannot be forked",
                             refusals->what, refusals->name);
    return 0;
}

static int refuse_items(const cJSON *items, const struct refusal *refusals, struct error *err)
{
    const cJSON *item;
    int r = 0;
    cJSON_ArrayForEach (item, items)
        if (r == 0)
            r = refuse_members(item, refusals, err);
    return r;
}

/* Others can name more files of the host. NULL: not told. */
static bool is_format(const char *type)
{
    return !type || strcmp(type, "Raw") == 0 || strcmp(type, "Qcow2") == 0 ||
           strcmp(type, "Unknown") == 0;
}

static int refuse(const cJSON *config, struct error *err)
{
    static const struct refusal devices[] = {
        {"devices", "a device of the host's"},
        {"user_devices", "a device of another process's"},
        {"vdpa", "a device of the host's"},
        {"fs", "a file system of another process's"},
        {"generic_vhost_user", "a device of another process's"},
        {"pmem", "a pmem device"},
        {"ivshmem", "memory that it shares"},
        {"tpm", "a TPM"},
        {"balloon", "a balloon, which takes memory from it"},
        {"pvmemcontrol", "a device that takes memory from it"},
        {NULL, NULL}};
    static const struct refusal memory[] = {{"hugepages", "huge pages"},
                                            {"hotplug_size", "memory that can be hotplugged"},
                                            {"hotplugged_size", "hotplugged memory"},
                                            {NULL, NULL}};
    static const struct refusal disk[] = {{"vhost_user", "a disk of another process's"},
                                          {"backing_files", "a disk with backing files"},
                                          {NULL, NULL}};
    static const struct refusal net[] = {{"vhost_user", "a network of another process's"},
                                         {NULL, NULL}};
    const cJSON *zones = json_get(json_get(config, "memory"), "zones"), *item;
    cJSON_ArrayForEach (item, json_get(config, "disks"))
        if (!is_format(json_get_text(item, "image_type")))
            return error_set(
                err, EOPNOTSUPP,
                "a VM with a disk of the \"image_type\" %.40s cannot be forked: make a "
                "raw one of it with qemu-img convert",
                json_get_text(item, "image_type"));
    if (cJSON_GetArraySize(zones) > 1)
        return error_set(err, EOPNOTSUPP, "a VM with several memory zones cannot be forked");
    int r = refuse_members(config, devices, err);
    if (r == 0)
        r = refuse_members(json_get(config, "memory"), memory, err);
    if (r == 0)
        r = refuse_items(zones, memory, err);
    if (r == 0)
        r = refuse_items(json_get(config, "disks"), disk, err);
    return r == 0 ? refuse_items(json_get(config, "net"), net, err) : r;
}

/* Of a device of the guest's, unless it is off: it is there, and opens no file of the host's. */
static void set_mode(cJSON *config, const char *name, const char *mode)
{
    cJSON *device = (cJSON *)(uintptr_t)json_get(config, name);
    const char *old = json_get_text(device, "mode");
    if (old && strcmp(old, "Off") != 0)
        json_set(device, "mode", cJSON_CreateString(mode));
}

/* What is not told would be guessed from what the guest has written to the disk. And a fork's tap
 * would get what was the source's. */
static void normalize_devices(cJSON *config)
{
    static const char *const of_tap[] = {"host_mac", "ip", "mask", "mtu"};
    cJSON *item;
    cJSON_ArrayForEach (item, json_get(config, "disks")) {
        const char *type = json_get_text(item, "image_type");
        if (!type || strcmp(type, "Unknown") == 0)
            json_set(item, "image_type", cJSON_CreateString("Raw"));
    }
    cJSON_ArrayForEach (item, json_get(config, "net"))
        for (size_t i = 0; i < array_length(of_tap); i++)
            cJSON_DeleteItemFromObjectCaseSensitive(item, of_tap[i]);
    cJSON_DeleteItemFromObjectCaseSensitive(config, "landlock_rules");
    json_set(config, "landlock_enable", cJSON_CreateFalse());
}

static void normalize_config(cJSON *config, uint64_t memory_bytes, const char *zone_id)
{
    cJSON *memory = cJSON_Duplicate(json_get(config, "memory"), true);
    if (!memory)
        memory = cJSON_CreateObject();
    const cJSON *old = json_get(memory, "zones");
    cJSON *zone = old && old->child ? cJSON_Duplicate(old->child, true) : cJSON_CreateObject();
    cJSON *zones = cJSON_CreateArray(), *serial = cJSON_CreateObject();
    cJSON *payload = cJSON_CreateObject();
    json_set(zone, "id", cJSON_CreateString(zone_id));
    json_set(zone, "size", cJSON_CreateNumber((double)memory_bytes));
    json_set(zone, "shared", cJSON_CreateFalse());
    json_set(zone, "prefault", cJSON_CreateFalse());
    json_append(zones, zone);
    json_set(memory, "size", cJSON_CreateNumber(0));
    json_set(memory, "shared", cJSON_CreateFalse());
    json_set(memory, "prefault", cJSON_CreateFalse());
    json_set(memory, "zones", zones);
    json_set(config, "memory", memory);
    json_add_string(payload, "kernel", CLOUD_HYPERVISOR_KERNEL_NAME);
    json_set(config, "payload", payload);
    json_add_string(serial, "mode", "Tty");
    const char *mode = json_get_text(json_get(config, "serial"), "mode");
    if (!mode || strcmp(mode, "Off") != 0)
        json_set(config, "serial", serial);
    else
        cJSON_Delete(serial);
    normalize_devices(config);
    set_mode(config, "console", "Null");
    set_mode(config, "debug_console", "Off");
    cJSON *rng = (cJSON *)(uintptr_t)json_get(config, "rng");
    if (cJSON_IsObject(rng))
        json_set(rng, "src", cJSON_CreateString("/dev/urandom"));
}

/* ---- what a restored VM does by itself ---- */

/* With either of these features the device announces the VM's old address when it is resumed. */
static int silence(struct cloud_hypervisor_state *state, struct error *err)
{
    static const char *const features_path[] = {"acked_features", NULL};
    const uint64_t silent = ~(UINT64_C(1) << NET_F_MAC | UINT64_C(1) << NET_F_GUEST_ANNOUNCE);
    const cJSON *net;
    cJSON_ArrayForEach (net, json_get(state->config, "net")) {
        const char *id = json_get_text(net, "id");
        const char *const ids[] = {"device-manager", id ? id : "", NULL};
        cJSON *data = find_data(state, ids);
        struct json_span span;
        char number[NUMBER_SIZE];
        if (!data || !find_member(data->valuestring, features_path, &span))
            return error_set(err, EIO, "the state says nothing about the network device %.40s",
                             id ? id : "");
        uint64_t features = strtoull(data->valuestring + span.start, NULL, 10) & silent;
        snprintf(number, sizeof number, "%" PRIu64, features);
        int r = replace(data, span, number, err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* KVM's struct kvm_clock_data (linux/kvm.h), byte for byte: its flags, 32 bits, are at 8. */
enum { CLOCK_FLAGS = 8, CLOCK_FLAGS_END = 12 };

/* With flags, of which one says that the time of the host is known, the guest's clocks would jump
 * by the time since the save. */
static int stop_clock(struct cloud_hypervisor_state *state, struct error *err)
{
    static const char *const root[] = {NULL}, *const clock_path[] = {"clock", NULL},
                             *const bytes_path[] = {"clock", "Kvm", NULL};
    cJSON *data = find_data(state, root);
    struct json_span span;
    if (!data)
        return error_set(err, EIO, "the state says nothing about the VM");
    const char *text = data->valuestring;
    if (!find_member(text, clock_path, &span) || strncmp(text + span.start, "null", 4) == 0)
        return 0;
    auto_json cJSON *bytes = find_member(text, bytes_path, &span)
                                 ? cJSON_ParseWithLength(text + span.start, span.end - span.start)
                                 : NULL;
    if (!cJSON_IsArray(bytes) || cJSON_GetArraySize(bytes) < CLOCK_FLAGS_END)
        return error_set(err, EIO, "the state has a clock that this hypefs does not know");
    for (int i = CLOCK_FLAGS; i < CLOCK_FLAGS_END; i++)
        cJSON_SetNumberValue(cJSON_GetArrayItem(bytes, i), 0);
    auto_free char *with = json_print_line(bytes);
    return with ? replace(data, span, with, err) : error_set(err, ENOMEM, no_room);
}

int cloud_hypervisor_state_normalize(struct cloud_hypervisor_state *state, uint64_t memory_bytes,
                                     struct error *err)
{
    auto_free char *zone = NULL;
    int r = refuse(state->config, err);
    if (r == 0)
        r = normalize_memory(state, memory_bytes, &zone, err);
    if (r == 0)
        r = silence(state, err);
    if (r == 0)
        r = stop_clock(state, err);
    if (r == 0)
        normalize_config(state->config, memory_bytes, zone);
    return r;
}
