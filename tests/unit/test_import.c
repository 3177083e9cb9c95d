/* SPDX-License-Identifier: MIT */
#include <sys/mman.h>

#include "import_fixture.h"

static void state_file_when_it_is_no_such_state_is_refused(void **state)
{
#define BYTES(text) text, sizeof(text) - 1
    static const struct {
        const char *hypervisor, *bytes;
        size_t size;
        const char *why; /* NULL: it is taken */
    } cases[] = {
        {"firecracker", BYTES(OWN "\5\0\0\0\0\0\0\0007.0.0"), NULL},
        {"firecracker",
         BYTES("\0" OWN "\6"
               "12.0.0 and so on"),
         NULL},
        {"firecracker", BYTES(FOREIGN "\5\0\0\0\0\0\0\0007.0.0"), FOREIGN_NAME},
        {"firecracker",
         BYTES("\0" FOREIGN "\6"
               "12.0.0 and so on"),
         FOREIGN_NAME},
        {"firecracker",
         BYTES("\1" OWN "\6"
               "12.0.0 and so on"),
         "lacks the magic"},
        {"firecracker",
         BYTES("\x01\x00\x64\x86\x84\x19\x10\x07"
               "\0\0\0\0\0\0\0\0"),
         "older than"},
        {"firecracker", BYTES("QEVM\0\0\0\3\4\0\0\0\0\5timer"), "lacks the magic"},
        {"firecracker", BYTES(OWN), "only 8 bytes"},
        {"firecracker", BYTES(""), "only 0 bytes"},
        {"firecracker", BYTES("{\"id\":\"a JSON object\"}"), "lacks the magic"},
        {"qemu", BYTES(FIRECRACKER_STATE), "does not begin with \"QEVM\""},
        {"qemu", BYTES("QEVM\0\0\0\2\4\0\0\0\0\5timer"), "another version"},
        {"qemu", BYTES("QEVM\3\0\0\0\4\0\0\0\0\5timer"), "another version"},
        {"qemu", BYTES("QEVM\0\0\0\3\7\0\0\0\0\7microvm"), "whole migration stream"},
        {"qemu", BYTES("QEVM\0\0\0\3\1\0\0\0\0\3ram..."), "whole migration stream"},
        {"qemu", BYTES("QEVM"), "only 4 bytes"},
        {"cloud-hypervisor", BYTES(CLOUD_STATE), NULL},
        {"cloud-hypervisor", BYTES("[1,2]"), "not a JSON object"},
        {"cloud-hypervisor", BYTES("{\"id\":"), "not a JSON object"},
        {"cloud-hypervisor", BYTES(""), "not a JSON object"},
        {"cloud-hypervisor", BYTES(FIRECRACKER_STATE), "not a JSON object"},
    };
    struct bench *bench = *state;
    put_memory(bench, MIB);
    put_config(bench, "{}");
    for (size_t i = 0; i < array_length(cases); i++) {
        bool with_config = strcmp(cases[i].hypervisor, "qemu") == 0;
        put(bench, "state", cases[i].bytes, cases[i].size);
        if (!cases[i].why) {
            assert_checked(bench, cases[i].hypervisor, with_config);
            continue;
        }
        assert_refused(bench, cases[i].hypervisor, with_config, EINVAL, cases[i].why);
        assert_non_null(strstr(bench->err.text, "/state "));
    }
}

static void memory_when_it_is_no_image_is_refused(void **state)
{
    static const off_t sizes[] = {0, 1, 4095, 4097, MIB + 512};
    struct bench *bench = *state;
    put(bench, "state", FIRECRACKER_STATE, sizeof FIRECRACKER_STATE);
    for (size_t i = 0; i < array_length(sizes); i++) {
        put_memory(bench, sizes[i]);
        assert_refused(bench, "firecracker", false, EINVAL, "/memory is no memory image");
    }
    put_memory(bench, 4096);
    assert_checked(bench, "firecracker", false);
}

static void memory_when_on_hugetlbfs_is_refused(void **state)
{
    struct bench *bench = *state;
    char path[PATH_SIZE];
    struct import_files files = {.config = {.fd = -1}};
    auto_close int huge = memfd_create("memory", MFD_CLOEXEC | MFD_HUGETLB);
    if (huge < 0)
        return; /* a kernel without huge pages */
    assert_int_equal(ftruncate(huge, 4 * MIB), 0);
    put(bench, "state", FIRECRACKER_STATE, sizeof FIRECRACKER_STATE);
    snprintf(path, sizeof path, "/proc/self/fd/%d", huge);
    assert_int_equal(import_file_open(path, &files.memory, &bench->err), 0);
    char name[PATH_SIZE];
    assert_int_equal(import_file_open(path_of(bench, "state", name), &files.state, &bench->err), 0);
    assert_int_equal(import_check("firecracker", &files, &bench->import, &bench->err), -EOPNOTSUPP);
    assert_non_null(strstr(bench->err.text, "is on hugetlbfs"));
    import_file_close(&files.memory);
    import_file_close(&files.state);
}

static void file_when_it_is_none_is_refused(void **state)
{
    struct bench *bench = *state;
    struct import_file file;
    char path[PATH_SIZE];
    assert_int_equal(mkfifo(path_of(bench, "fifo", path), 0600), 0);
    assert_int_equal(import_file_open(path, &file, &bench->err), -EINVAL);
    assert_non_null(strstr(bench->err.text, "/fifo is not a regular file"));
    assert_int_equal(import_file_open(bench->directory, &file, &bench->err), -EINVAL);
    assert_int_equal(import_file_open("/dev/null", &file, &bench->err), -EINVAL);
    assert_int_equal(import_file_open(path_of(bench, "none", path), &file, &bench->err), -ENOENT);
    assert_non_null(strstr(bench->err.text, "/none: cannot open it"));
}

static void hypervisor_when_not_known_is_refused_with_those_that_are(void **state)
{
    struct bench *bench = *state;
    put_memory(bench, MIB);
    put(bench, "state", FIRECRACKER_STATE, sizeof FIRECRACKER_STATE);
    assert_refused(bench, "xen", false, EINVAL, "qemu, firecracker, cloud-hypervisor");
    assert_refused(bench, "", false, EINVAL, "is not a known hypervisor");
    assert_false(import_is_known("Firecracker"));
    assert_true(import_is_known("firecracker"));
    assert_true(import_is_known("cloud-hypervisor"));
}

/* ---- QEMU's ---- */

#define QEMU_MACHINE(disks, version)                                                               \
    "{\"memory_bytes\":16777216,\"vcpus\":1,\"machine\":\"microvm\",\"accel\":\"tcg\","            \
    "\"network\":{\"mode\":\"user\",\"restrict\":false},\"disks\":[" disks "],"                    \
    "\"type\":\"microvm\",\"cpu\":\"max\",\"host_cpu\":null," version "}"
#define OF_7_2 "\"version\":\"7.2.22\""

static void qemu_when_its_machine_is_told_becomes_one(void **state)
{
    static const char *const texts[] = {
        QEMU_MACHINE("", OF_7_2),
        "{\"version\":1,\"kind\":\"standby\",\"hypervisor\":\"qemu\",\"memory_bytes\":16777216,"
        "\"machine\":" QEMU_MACHINE("", OF_7_2) "}",
    };
    struct bench *bench = *state;
    put_memory(bench, 16 * MIB);
    put(bench, "state", QEMU_STATE, sizeof QEMU_STATE);
    for (size_t i = 0; i < array_length(texts); i++) {
        put_config(bench, texts[i]);
        assert_checked(bench, "qemu", true);
        assert_described(bench, "\"type\":\"microvm\",\"cpu\":\"max\",\"host_cpu\":null,"
                                "\"version\":\"7.2.22\"}");
    }
}

#define DISK(more) "{\"path\":\"@/data.img\",\"format\":\"raw\",\"readonly\":false" more "}"
static void qemu_when_its_configuration_is_wrong_is_refused(void **state)
{
    static const struct {
        const char *text;
        int code;
        const char *why;
    } cases[] = {
        {"{}", EINVAL, "config: member \"memory_bytes\" is missing"},
        {"{\"machine\":{}}", EINVAL, "config: snapshot.json: \"version\" is not a number"},
        {"{\"version\":99,\"hypervisor\":\"new\",\"machine\":{}}", EOPNOTSUPP,
         "config: snapshot.json: \"version\" is 99, of a newer hypefs"},
        {"{\"version\":1,\"machine\":{}}", EINVAL, "config: member \"memory_bytes\" is missing"},
        {"{\"version\":1,\"hypervisor\":\"firecracker\",\"machine\":{}}", EINVAL,
         "a snapshot of firecracker"},
        {QEMU_MACHINE("", "\"version\":null"), EIO, "does not say what the machine's version is"},
        {QEMU_MACHINE("", "\"more\":1"), EINVAL, "unknown member \"more\""},
        {QEMU_MACHINE("", OF_7_2 ",\"boot\":{\"kernel\":\"@/kernel\"}"), EOPNOTSUPP,
         "saved before its firmware had read its kernel"},
        {QEMU_MACHINE("", OF_7_2 ",\"boot\":{}"), EINVAL, "boot: member \"kernel\" is missing"},
        {QEMU_MACHINE("{\"path\":\"/none\",\"format\":\"raw\",\"readonly\":true}", OF_7_2), ENOENT,
         "/none"},
        {QEMU_MACHINE(DISK(""), OF_7_2), EOPNOTSUPP, "/data.img can be written to, and with QEMU"},
        {QEMU_MACHINE(DISK(",\"frozen\":\"disk-0\""), OF_7_2), EOPNOTSUPP, "can be written to"},
        {QEMU_MACHINE(DISK(",\"key\":\"1\",\"layers\":1"), OF_7_2), EOPNOTSUPP,
         "can be written to"},
    };
    struct bench *bench = *state;
    put_memory(bench, 16 * MIB);
    put(bench, "state", QEMU_STATE, sizeof QEMU_STATE);
    assert_refused(bench, "qemu", false, EINVAL, "a configuration must be given: a snapshot.json");
    for (size_t i = 0; i < array_length(cases); i++) {
        put_config(bench, cases[i].text);
        assert_refused(bench, "qemu", true, cases[i].code, cases[i].why);
    }
    put_memory(bench, 8 * MIB);
    put_config(bench, QEMU_MACHINE("", OF_7_2));
    assert_refused(bench, "qemu", true, EINVAL, "it describes a memory of 16777216 bytes");
}

/* ---- Cloud Hypervisor's ---- */

#define CLOUD_STATE_OF_16_MIB                                                                      \
    "{\"snapshots\":{\"memory-manager\":{\"snapshots\":{},\"snapshot_data\":{\"state\":"           \
    "\"{\\\"memory_ranges\\\":{\\\"data\\\":[{\\\"gpa\\\":0,\\\"length\\\":16777216}]},"           \
    "\\\"guest_ram_mappings\\\":[{\\\"gpa\\\":0,\\\"size\\\":16777216,\\\"zone_id\\\":"            \
    "\\\"mem0\\\"}]}\"}}},"                                                                        \
    "\"snapshot_data\":{\"state\":\"{}\"}}"
#define CLOUD_CONFIG(memory) "{\"cpus\":{\"boot_vcpus\":1},\"memory\":" memory "}"

static void cloud_hypervisor_when_its_memory_is_told_must_have_it(void **state)
{
    static const struct {
        const char *text;
        const char *why; /* NULL: it is taken */
        int code;
    } cases[] = {
        {CLOUD_CONFIG("{\"size\":16777216,\"hotplugged_size\":null,\"zones\":null}"), NULL, 0},
        {CLOUD_CONFIG("{\"size\":0,\"zones\":[{\"id\":\"a\",\"size\":16777216}]}"), NULL, 0},
        {CLOUD_CONFIG("{}"), NULL, 0},
        {CLOUD_CONFIG("{\"size\":8388608,\"hotplugged_size\":8388608}"), "hotplugged memory",
         EOPNOTSUPP},
        {CLOUD_CONFIG("{\"size\":0,\"zones\":[{\"id\":\"a\",\"size\":8388608},"
                      "{\"id\":\"b\",\"size\":8388608}]}"),
         "several memory zones", EOPNOTSUPP},
        {CLOUD_CONFIG("{\"size\":16777217}"), "a memory of 16777217 bytes, and ", EINVAL},
        {CLOUD_CONFIG("{\"size\":1e300}"), "\"memory\" has no size", EINVAL},
        {CLOUD_CONFIG("{\"size\":-4096}"), "\"memory\" has no size", EINVAL},
        {CLOUD_CONFIG("[]"), "no config.json of Cloud Hypervisor's", EINVAL},
        {"{}", "no config.json of Cloud Hypervisor's", EINVAL},
        {"{\"memory\":{}}", "how many processors", EINVAL},
    };
    struct bench *bench = *state;
    put_memory(bench, 16 * MIB);
    put(bench, "state", CLOUD_STATE_OF_16_MIB, sizeof CLOUD_STATE_OF_16_MIB - 1);
    assert_checked(bench, "cloud-hypervisor", false);
    assert_false(bench->import.has_machine);
    for (size_t i = 0; i < array_length(cases); i++) {
        put_config(bench, cases[i].text);
        if (cases[i].why)
            assert_refused(bench, "cloud-hypervisor", true, cases[i].code, cases[i].why);
        else
            assert_checked(bench, "cloud-hypervisor", true);
    }
    put_config(bench, cases[0].text);
    assert_checked(bench, "cloud-hypervisor", true);
    assert_true(bench->import.has_machine);
    assert_non_null(strstr(bench->import.state, "\"kernel\":\"kernel.tmp\""));
    put(bench, "state", CLOUD_STATE, sizeof CLOUD_STATE - 1);
    assert_refused(bench, "cloud-hypervisor", true, EINVAL, "nothing about the VM's memory");
}

static void description_when_made_has_what_a_snapshot_needs(void **state)
{
    struct bench *bench = *state;
    struct import_files files = {0};
    files.memory.st.st_size = 16 * MIB;
    put_memory(bench, 16 * MIB);
    put(bench, "state", QEMU_STATE, sizeof QEMU_STATE);
    put_config(bench, QEMU_MACHINE("", OF_7_2));
    assert_checked(bench, "qemu", true);
    auto_json cJSON *qemu = import_describe(&bench->import, &files);
    auto_free char *text = cJSON_PrintUnformatted(qemu);
    assert_non_null(strstr(text, "{\"kind\":\"standby\",\"hypervisor\":\"qemu\","
                                 "\"hypervisor_version\":\"7.2.22\",\"memory_bytes\":16777216,"
                                 "\"machine\":{\"memory_bytes\":16777216,"));
    put(bench, "state", CLOUD_STATE, sizeof CLOUD_STATE - 1);
    assert_checked(bench, "cloud-hypervisor", false);
    auto_json cJSON *cloud = import_describe(&bench->import, &files);
    auto_free char *other = cJSON_PrintUnformatted(cloud);
    assert_string_equal(other, "{\"kind\":\"standby\",\"hypervisor\":\"cloud-hypervisor\","
                               "\"memory_bytes\":16777216}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(state_file_when_it_is_no_such_state_is_refused),
        TEST(memory_when_it_is_no_image_is_refused),
        TEST(memory_when_on_hugetlbfs_is_refused),
        TEST(file_when_it_is_none_is_refused),
        TEST(hypervisor_when_not_known_is_refused_with_those_that_are),
        TEST(qemu_when_its_machine_is_told_becomes_one),
        TEST(qemu_when_its_configuration_is_wrong_is_refused),
        TEST(cloud_hypervisor_when_its_memory_is_told_must_have_it),
        TEST(description_when_made_has_what_a_snapshot_needs),
    };
    return cmocka_run_group_tests_name("import", tests, NULL, NULL);
}
