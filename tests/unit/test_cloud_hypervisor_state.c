/* SPDX-License-Identifier: MIT */
/* What is made of Cloud Hypervisor's two files. The texts are like those that v53 writes, without
 * the components that hypefs does not look at. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/cloud_hypervisor_control.h"
#include "hypervisor/cloud_hypervisor_state.h"
#include "test.h"
#include "util/cleanup.h"
#include "util/json.h"

enum { MIB = 1 << 20 };

/* No double holds the clock. */
#define CLOCK(flags)                                                                               \
    "{\"clock\":{\"Kvm\":[1,2,3,4,5,6,7,8," flags ",0,0,0,0]},\"exact\":9007199254740993}"
#define VM CLOCK("14,1,2,3")
#define NET "{\"avail_features\":5702156195,\"acked_features\":4297064547,\"queue_size\":[256,256]}"
#define MAPPING(gpa, size, zone, more, offset)                                                     \
    "{\"slot\":0,\"gpa\":" gpa ",\"size\":" size ",\"zone_id\":\"" zone "\"," more                 \
    "\"file_offset\":" offset "}"
#define PLAIN "\"virtio_mem\":false,"
#define MEMORY(ranges, mappings)                                                                   \
    "{\"memory_ranges\":{\"data\":[" ranges "]},\"guest_ram_mappings\":[" mappings                 \
    "],\"start_of_device_area\":18446744073709551615,\"boot_ram\":1}"
#define ONE MAPPING("0", "1048576", "mem0", PLAIN, "0")
#define ONE_RANGE "{\"gpa\":0,\"length\":1048576}"

/* More than 3 GiB: below the devices, and above them. */
#define TWO                                                                                        \
    MAPPING("0", "3221225472", "mem0", PLAIN, "0")                                                 \
    "," MAPPING("4294967296", "1048576", "mem0", PLAIN, "0")
#define TWO_RANGES "{\"gpa\":0,\"length\":3221225472},{\"gpa\":4294967296,\"length\":1048576}"

static cJSON *component(const char *data)
{
    cJSON *node = cJSON_CreateObject();
    json_add_object(node, "snapshots");
    json_add_string(json_add_object(node, "snapshot_data"), "state", data);
    return node;
}

/* `memory` and `net` (NULL: none) are components' data. */
static struct cloud_hypervisor_state make(const char *config, const char *memory, const char *net)
{
    struct cloud_hypervisor_state state = {.config = cJSON_Parse(config), .state = component(VM)};
    cJSON *parts = cJSON_GetObjectItem(state.state, "snapshots");
    cJSON *devices = json_add_object(parts, "device-manager");
    cJSON *nodes = json_add_object(devices, "snapshots");
    if (memory)
        json_add(parts, "memory-manager", component(memory));
    if (net)
        json_add(nodes, "net0", component(net));
    assert_true(json_is_whole(state.state) && state.config);
    return state;
}

static const char *data_of(const struct cloud_hypervisor_state *state, const char *id)
{
    const cJSON *parts = json_get(state->state, "snapshots");
    const cJSON *node = !id ? state->state
                        : strcmp(id, "net0") == 0
                            ? json_get(json_get(json_get(parts, "device-manager"), "snapshots"), id)
                            : json_get(parts, id);
    return json_get_text(json_get(node, "snapshot_data"), "state");
}

static void normalize(struct cloud_hypervisor_state *state, uint64_t size)
{
    struct error err;
    if (cloud_hypervisor_state_normalize(state, size, &err) < 0)
        fail_msg("%s", err.text);
}

static void assert_config(const struct cloud_hypervisor_state *state, const char *wanted)
{
    auto_free char *text = json_print_line(state->config);
    if (!strstr(text, wanted))
        fail_msg("\"%s\" is not in \"%s\"", wanted, text);
}

static void memory_that_was_no_file_becomes_one(void **state)
{
    (void)state;
    struct cloud_hypervisor_state own =
        make("{\"memory\":{\"size\":3222274048,\"thp\":true,\"zones\":null},\"serial\":{\"mode\":"
             "\"File\",\"file\":\"/x\"},\"console\":{\"mode\":\"Pty\"},\"rng\":{\"src\":\"/etc/"
             "shadow\"},\"debug_console\":{\"mode\":\"File\",\"file\":\"/"
             "x\"},\"payload\":{\"kernel\":\"/k\"}}",
             MEMORY(TWO_RANGES, TWO), NULL);
    normalize(&own, 3072ULL * MIB + MIB);
    assert_string_equal(
        data_of(&own, "memory-manager"),
        MEMORY(
            "",
            "{\"slot\":0,\"gpa\":0,\"size\":3221225472,\"zone_id\":\"mem0\",\"virtio_mem\":false,"
            "\"file_offset\":0},{\"slot\":0,\"gpa\":4294967296,\"size\":1048576,\"zone_id\":"
            "\"mem0\",\"virtio_mem\":false,\"file_offset\":3221225472}"));
    assert_config(&own, "\"memory\":{\"thp\":true,\"size\":0,\"shared\":false,\"prefault\":false,"
                        "\"zones\":[{\"id\":\"mem0\",\"size\":3222274048,\"shared\":false,"
                        "\"prefault\":false}]}");
    assert_config(&own, "\"payload\":{\"kernel\":\"kernel.tmp\"}");
    assert_config(&own, "\"serial\":{\"mode\":\"Tty\"}");
    assert_config(&own, "\"console\":{\"mode\":\"Null\"}");
    assert_config(&own, "\"rng\":{\"src\":\"/dev/urandom\"}");
    assert_config(&own, "\"debug_console\":{\"file\":\"/x\",\"mode\":\"Off\"}");
    cloud_hypervisor_state_finish(&own);
}

/* What was a shared file has its offsets already. */
static void memory_that_was_a_file_stays_where_it_was(void **state)
{
    (void)state;
    struct cloud_hypervisor_state own =
        make("{\"memory\":{\"size\":0,\"zones\":[{\"id\":\"ram\",\"size\":1048576,\"file\":\"m\","
             "\"shared\":true,\"reserve\":true}]},\"serial\":{\"mode\":\"Off\"}}",
             MEMORY("", MAPPING("0", "1048576", "ram", PLAIN, "0")), NULL);
    normalize(&own, MIB);
    assert_config(&own,
                  "\"zones\":[{\"file\":\"m\",\"reserve\":true,\"id\":\"ram\",\"size\":1048576,"
                  "\"shared\":false,\"prefault\":false}]");
    assert_config(&own, "\"serial\":{\"mode\":\"Off\"}");
    assert_string_equal(data_of(&own, NULL), CLOCK("0,0,0,0"));
    cloud_hypervisor_state_finish(&own);
}

static void network_is_silenced(void **state)
{
    (void)state;
    struct cloud_hypervisor_state own =
        make("{\"memory\":{\"size\":1048576},\"net\":[{\"id\":\"net0\",\"tap\":\"t0\"}]}",
             MEMORY(ONE_RANGE, ONE), NET);
    normalize(&own, MIB);
    /* Without the bits 5 and 21. */
    assert_string_equal(data_of(&own, "net0"), "{\"avail_features\":5702156195,\"acked_features\":"
                                               "4294967363,\"queue_size\":[256,256]}");
    cloud_hypervisor_state_finish(&own);
}

static void what_cannot_be_forked_is_refused_by_name(void **state)
{
    static const char plain[] = "{\"memory\":{\"size\":1048576}}";
    static const struct {
        const char *config, *memory, *why;
        int code;
    } cases[] = {
        {plain, NULL, "nothing about the VM's memory", EIO},
        {plain, "[]", "nothing about the VM's memory", EIO},
        {plain, "{}", "does not say where its memory is", EIO},
        {plain, MEMORY(ONE_RANGE, ""), "does not say where its memory is", EIO},
        {plain, MEMORY("{\"gpa\":4096,\"length\":1048576}", ONE), "is not in its file", EIO},
        {plain, MEMORY("", MAPPING("0", "2097152", "mem0", PLAIN, "0")),
         "a memory of 2097152 bytes at 0", EIO},
        {plain, MEMORY("", MAPPING("0", "1048576", "mem0", PLAIN, "4096")), "1048576 bytes at 4096",
         EIO},
        {plain, MEMORY("", MAPPING("0", "524288", "mem0", PLAIN, "0")), "one of a memory of 524288",
         EIO},
        {plain,
         MEMORY("", MAPPING("0", "524288", "a", PLAIN, "0") "," MAPPING("9", "524288", "a", PLAIN,
                                                                        "0")),
         "that place is another's", EIO},
        {"{\"disks\":[{\"image_type\":\"FlatVmdk\"}]}", MEMORY("", ONE), "FlatVmdk", EOPNOTSUPP},
        {"{\"pvmemcontrol\":{}}", MEMORY("", ONE), "takes memory from it", EOPNOTSUPP},
        {plain, MEMORY("", ONE "," MAPPING("9", "4096", "b", PLAIN, "0")), "several memory zones",
         EOPNOTSUPP},
        {plain, MEMORY("", MAPPING("0", "1048576", "a", "\"virtio_mem\":true,", "0")),
         "hotplugged memory", EOPNOTSUPP},
        {"{\"memory\":{\"zones\":[{\"id\":\"a\"},{\"id\":\"b\"}]}}", MEMORY("", ONE),
         "several memory zones", EOPNOTSUPP},
        {"{\"memory\":{\"hugepages\":true}}", MEMORY("", ONE), "huge pages (\"hugepages\")",
         EOPNOTSUPP},
        {"{\"memory\":{\"zones\":[{\"hotplug_size\":7}]}}", MEMORY("", ONE), "hotplug_size",
         EOPNOTSUPP},
        {"{\"balloon\":{\"size\":0}}", MEMORY("", ONE), "balloon", EOPNOTSUPP},
        {"{\"devices\":[{\"path\":\"/sys/x\"}]}", MEMORY("", ONE), "device of the host's",
         EOPNOTSUPP},
        {"{\"fs\":[{\"tag\":\"t\"}]}", MEMORY("", ONE), "\"fs\"", EOPNOTSUPP},
        {"{\"pmem\":[{}]}", MEMORY("", ONE), "pmem", EOPNOTSUPP},
        {"{\"tpm\":{\"socket\":\"x\"}}", MEMORY("", ONE), "TPM", EOPNOTSUPP},
        {"{\"disks\":[{\"vhost_user\":true}]}", MEMORY("", ONE), "disk of another process's",
         EOPNOTSUPP},
        {"{\"disks\":[{\"backing_files\":true}]}", MEMORY("", ONE), "backing files", EOPNOTSUPP},
        {"{\"net\":[{\"vhost_user\":true}]}", MEMORY("", ONE), "network of another process's",
         EOPNOTSUPP},
        {"{\"net\":[{\"id\":\"other\"}]}", MEMORY("", ONE),
         "nothing about the network device other", EIO},
    };
    (void)state;
    for (size_t i = 0; i < array_length(cases); i++) {
        struct error err = {0};
        struct cloud_hypervisor_state own = make(cases[i].config, cases[i].memory, NET);
        int r = cloud_hypervisor_state_normalize(&own, MIB, &err);
        if (r != -cases[i].code || !strstr(err.text, cases[i].why))
            fail_msg("%zu: %d, not %d for \"%s\": %s", i, -r, cases[i].code, cases[i].why,
                     err.text);
        cloud_hypervisor_state_finish(&own);
    }
    /* What is there and empty is not there. */
    struct cloud_hypervisor_state empty = make(
        "{\"memory\":{\"size\":1048576,\"hugepages\":false,\"hotplug_size\":null},\"devices\":[],"
        "\"fs\":null,\"balloon\":null,\"disks\":[{\"vhost_user\":false}]}",
        MEMORY(ONE_RANGE, ONE), NULL);
    normalize(&empty, MIB);
    cloud_hypervisor_state_finish(&empty);
}

static void clock_of_another_kind_is_refused(void **state)
{
    static const struct {
        const char *vm;
        int code;
    } cases[] = {{"{}", 0},
                 {"{\"clock\":null}", 0},
                 {"{\"clock\":{\"clock\":1,\"flags\":10}}", EIO},
                 {"{\"clock\":{\"Kvm\":[1,2]}}", EIO},
                 {"{\"clock\":{\"Kvm\":7}}", EIO}};
    (void)state;
    for (size_t i = 0; i < array_length(cases); i++) {
        struct error err = {0};
        struct cloud_hypervisor_state own = make("{}", MEMORY(ONE_RANGE, ONE), NULL);
        cJSON *data = cJSON_GetObjectItem(own.state, "snapshot_data");
        json_set(data, "state", cJSON_CreateString(cases[i].vm));
        assert_int_equal(cloud_hypervisor_state_normalize(&own, MIB, &err), -cases[i].code);
        cloud_hypervisor_state_finish(&own);
    }
}

/* Of the host's tap, which is another one then; and of the host's files. */
static void devices_lose_what_was_of_the_host_then(void **state)
{
    (void)state;
    struct cloud_hypervisor_state own =
        make("{\"net\":[{\"id\":\"net0\",\"tap\":\"t0\",\"host_mac\":\"02:00:00:00:00:01\","
             "\"ip\":\"10.0.0.1\",\"mask\":\"255.0.0.0\",\"mtu\":1500}],\"disks\":[{\"id\":\"a\","
             "\"image_type\":\"Unknown\"},{\"id\":\"b\"},{\"id\":\"c\",\"image_type\":\"Qcow2\"}],"
             "\"landlock_enable\":true,\"landlock_rules\":[{\"path\":\"/x\"}]}",
             MEMORY(ONE_RANGE, ONE), NET);
    normalize(&own, MIB);
    assert_config(&own, "\"net\":[{\"id\":\"net0\",\"tap\":\"t0\"}]");
    assert_config(&own, "\"disks\":[{\"id\":\"a\",\"image_type\":\"Raw\"},{\"id\":\"b\","
                        "\"image_type\":\"Raw\"},{\"id\":\"c\",\"image_type\":\"Qcow2\"}]");
    assert_config(&own, "\"landlock_enable\":false");
    auto_free char *text = json_print_line(own.config);
    assert_null(strstr(text, "landlock_rules"));
    cloud_hypervisor_state_finish(&own);
}

#define DEVICES                                                                                    \
    "{\"cpus\":{\"boot_vcpus\":2,\"max_vcpus\":4},\"memory\":{\"size\":1048576},"                  \
    "\"disks\":[{\"id\":\"_disk0\",\"path\":\"/d/"                                                 \
    "root\",\"readonly\":true,\"image_type\":\"Raw\"},"                                            \
    "{\"id\":\"data\",\"path\":\"/d/data\",\"image_type\":\"Qcow2\"}],"                            \
    "\"net\":[{\"id\":\"net0\",\"tap\":\"t0\",\"mac\":\"02:00:00:00:00:01\"}],"                    \
    "\"vsock\":{\"cid\":3,\"socket\":\"/v/sock\"}}"

static void machine_is_told_and_gets_its_own_files(void **state)
{
    struct machine machine = {.memory_bytes = MIB};
    struct error err = {0};
    (void)state;
    struct cloud_hypervisor_state own = make(DEVICES, MEMORY(ONE_RANGE, ONE), NET);
    normalize(&own, MIB);
    assert_int_equal(cloud_hypervisor_state_tell(&own, &machine, &err), 0);
    assert_int_equal(machine.vcpus, 2);
    assert_int_equal(machine.disk_count, 2);
    assert_string_equal(machine.disks[1].format, "qcow2");
    assert_int_equal(machine.network, NETWORK_TAP);
    assert_string_equal(machine.vsock, "/v/sock");
    /* Each fork would write to it. */
    assert_int_equal(cloud_hypervisor_state_place(&own, &machine, "../../snapshots/s", &err),
                     -EOPNOTSUPP);
    assert_non_null(strstr(err.text, "/d/data"));
    machine.disks[1].frozen = strdup("frozen-data");
    free(machine.interfaces[0].tap);
    machine.interfaces[0].tap = strdup("t1");
    assert_int_equal(cloud_hypervisor_state_place(&own, &machine, "../../snapshots/s", &err), 0);
    assert_config(&own, "\"file\":\"../../snapshots/s/memory\"");
    assert_config(&own, "\"path\":\"/d/root\"");
    assert_config(&own, "\"path\":\"drive-data\"");
    assert_config(&own, "\"tap\":\"t1\"");
    assert_config(&own, "\"socket\":\"vsock.sock\"");
    machine.vcpus = 1;
    assert_int_equal(cloud_hypervisor_state_place(&own, &machine, "i", &err), -EIO);
    cloud_hypervisor_state_finish(&own);
    machine_finish(&machine);
}

static void machine_with_what_has_no_name_is_refused(void **state)
{
    static const char *const configs[] = {
        "{\"cpus\":{\"boot_vcpus\":1},\"disks\":[{\"path\":\"/d\"}]}",
        "{\"cpus\":{\"boot_vcpus\":1},\"disks\":[{\"id\":\"d\",\"path\":\"d\"}]}",
        "{\"cpus\":{\"boot_vcpus\":1},\"net\":[{\"id\":\"n\",\"fds\":[-1]}]}",
    };
    (void)state;
    for (size_t i = 0; i < array_length(configs); i++) {
        struct machine machine = {0};
        struct error err = {0};
        struct cloud_hypervisor_state own = make(configs[i], MEMORY("", ONE), NULL);
        assert_int_equal(cloud_hypervisor_state_tell(&own, &machine, &err), -EOPNOTSUPP);
        machine_finish(&machine);
        cloud_hypervisor_state_finish(&own);
    }
    struct machine machine = {0};
    struct error err = {0};
    struct cloud_hypervisor_state own = make("{}", MEMORY("", ONE), NULL);
    assert_int_equal(cloud_hypervisor_state_tell(&own, &machine, &err), -EIO);
    cloud_hypervisor_state_finish(&own);
}

static void overlays_are_for_versions_that_do_not_lose_what_was_written(void **state)
{
    static const struct {
        const char *version;
        bool has;
    } cases[] = {{"v53.0", false}, {"v53.0-80-gb68e7f3", false},
                 {"v53.1", false}, {"v53.0-81-ga5e145b", true},
                 {"v54.0", true},  {"v100.0-dirty", true},
                 {"54.0", false},  {"", false},
                 {NULL, false}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(cloud_hypervisor_has_overlays(cases[i].version), cases[i].has);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_that_was_no_file_becomes_one),
        cmocka_unit_test(memory_that_was_a_file_stays_where_it_was),
        cmocka_unit_test(network_is_silenced),
        cmocka_unit_test(what_cannot_be_forked_is_refused_by_name),
        cmocka_unit_test(clock_of_another_kind_is_refused),
        cmocka_unit_test(devices_lose_what_was_of_the_host_then),
        cmocka_unit_test(machine_is_told_and_gets_its_own_files),
        cmocka_unit_test(machine_with_what_has_no_name_is_refused),
        cmocka_unit_test(overlays_are_for_versions_that_do_not_lose_what_was_written),
    };
    return cmocka_run_group_tests_name("cloud_hypervisor_state", tests, NULL, NULL);
}
