/* SPDX-License-Identifier: MIT */
/* Any bytes as a file that is to be imported: a state, or a configuration beside a good state. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "hypervisor/cloud_hypervisor_state.h"
#include "hypervisor/import.h"
#include "store/snapshot_entry.h"
#include "util/cleanup.h"
#include "util/json.h"

enum { MEMORY_SIZE = 4096 };

#define CLOUD_STATE                                                                                \
    "{\"snapshots\":{\"memory-manager\":{\"snapshots\":{},\"snapshot_data\":{\"state\":"           \
    "\"{\\\"memory_ranges\\\":{\\\"data\\\":[{\\\"gpa\\\":0,\\\"length\\\":4096}]},"               \
    "\\\"guest_ram_mappings\\\":[{\\\"gpa\\\":0,\\\"size\\\":4096,\\\"zone_id\\\":\\\"z\\\"}]}\"}" \
    "},"                                                                                           \
    "\"device-manager\":{\"snapshots\":{\"n\":{\"snapshots\":{},\"snapshot_data\":{\"state\":"     \
    "\"{\\\"acked_features\\\":35}\"}}}}},\"snapshot_data\":{\"state\":\"{\\\"clock\\\":{"         \
    "\\\"Kvm\\\":"                                                                                 \
    "[1,2,3,4,5,6,7,8,9,0,0,0]}}\"}}"

/* How the states of each begin, and a configuration that goes with any of them ("": none). */
static const struct {
    const char *hypervisor;
    const void *state;
    size_t size;
    const char *config;
} known[] = {
    {"qemu", "QEVM\0\0\0\3\4\0\0\0\0\0\0\0", 16,
     "{\"memory_bytes\":4096,\"vcpus\":1,\"machine\":\"microvm\",\"type\":\"microvm\","
     "\"accel\":\"tcg\",\"cpu\":\"max\",\"host_cpu\":null,\"version\":\"7.2.22\","
     "\"network\":{\"mode\":\"user\",\"restrict\":false},\"disks\":[]}"},
    {"firecracker", "\0\0\x64\x86\x84\x19\x10\x07\0\0\0\0\0\0\0\0", 16, ""},
    {"cloud-hypervisor", "{}", 2, ""}, /* which is only shown */
    {"cloud-hypervisor", CLOUD_STATE, sizeof CLOUD_STATE - 1,
     "{\"cpus\":{\"boot_vcpus\":1},\"memory\":{\"size\":4096},\"net\":[{\"id\":\"n\",\"tap\":\"t\"}"
     "]}"},
};

static struct import_file make_file(const char *name, const void *bytes, size_t size)
{
    struct import_file file = {.path = name, .fd = memfd_create(name, MFD_CLOEXEC)};
    MUST(file.fd >= 0 && (size == 0 || write(file.fd, bytes, size) == (ssize_t)size));
    MUST(fstat(file.fd, &file.st) == 0);
    return file;
}

/* What a load makes of the state of an image that was taken. */
static void load(const struct import *import)
{
    struct cloud_hypervisor_state state = {0};
    auto_json cJSON *json = NULL;
    struct error err = {0};
    MUST(json_parse(import->state, strlen(import->state), &json, &err) == 0);
    state.config = cJSON_DetachItemFromObjectCaseSensitive(json, "config");
    state.state = cJSON_DetachItemFromObjectCaseSensitive(json, "state");
    int r = cloud_hypervisor_state_place(&state, &import->machine, "image", &err);
    if (r < 0)
        MUST(err.code == -r && err.text[0]);
    cloud_hypervisor_state_finish(&state);
}

/* Takes the descriptors. */
static bool check(const char *hypervisor, struct import_files *files)
{
    struct import import;
    struct error err = {0};
    files->check_version = snapshot_check_version;
    int r = import_check(hypervisor, files, &import, &err);
    if (r == 0) {
        auto_json cJSON *json = import_describe(&import, files);
        MUST(json && import.machine.disk_count <= MACHINE_DISKS_MAX);
        if (import.state)
            load(&import);
        import_finish(&import);
    } else {
        MUST(err.code == -r && err.text[0]);
    }
    import_file_close(&files->memory);
    import_file_close(&files->state);
    import_file_close(&files->config);
    return r == 0;
}

bool fuzz(const uint8_t *data, size_t size)
{
    static const uint8_t memory[MEMORY_SIZE];
    bool taken = false;
    for (size_t i = 0; i < array_length(known); i++) {
        struct import_files files = {.memory = make_file("memory", memory, sizeof memory),
                                     .state = make_file("state", data, size),
                                     .config = {.fd = -1}};
        if (known[i].config[0])
            files.config = make_file("config", known[i].config, strlen(known[i].config));
        taken = check(known[i].hypervisor, &files) || taken;
        files = (struct import_files){.memory = make_file("memory", memory, sizeof memory),
                                      .state = make_file("state", known[i].state, known[i].size),
                                      .config = make_file("config", data, size)};
        taken = check(known[i].hypervisor, &files) || taken;
    }
    return taken;
}
