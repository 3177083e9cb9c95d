/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/machine.h"
#include "test.h"
#include "util/cleanup.h"
#include "util/json.h"

static const char whole[] =
    "{\"memory_bytes\":268435456,\"vcpus\":2,\"machine\":\"q35\",\"accel\":\"kvm\","
    "\"network\":{\"mode\":\"tap\",\"restrict\":false,\"interfaces\":["
    "{\"id\":\"eth0\",\"tap\":\"tap-0.1_x\",\"mac\":\"02:00:aB:00:00:01\"},"
    "{\"id\":null,\"tap\":\"t\",\"mac\":null}]},"
    "\"disks\":[{\"id\":null,\"path\":\"/a,b\",\"format\":\"qcow2\",\"readonly\":true,"
    "\"frozen\":null},{\"id\":\"root_fs\",\"path\":\"/d\",\"format\":\"raw\","
    "\"readonly\":false,\"frozen\":\"disk-0\"},{\"id\":null,\"path\":\"/e\","
    "\"format\":\"raw\",\"readonly\":false,\"frozen\":null,"
    "\"key\":\"size=1 inode=2 mtime=3.4\",\"layers\":7}],"
    "\"type\":\"pc-q35-7.2\",\"cpu\":\"host\",\"host_cpu\":\"0123456789abcdef\","
    "\"version\":\"7.2.22\",\"vsock\":\"/run/v.sock\"}";

/* As the first version wrote it. */
static const char older[] =
    "{\"memory_bytes\":268435456,\"vcpus\":2,\"machine\":\"q35\",\"accel\":\"kvm\","
    "\"network\":{\"mode\":\"user\",\"restrict\":true},"
    "\"disks\":[{\"path\":\"/a,b\",\"format\":\"qcow2\",\"readonly\":true}],"
    "\"type\":\"pc-q35-7.2\",\"cpu\":\"host\",\"host_cpu\":\"0123456789abcdef\","
    "\"version\":\"7.2.22\"}";

static const char cpuinfo[] = "processor\t: 0\n"
                              "vendor_id\t: AuthenticAMD\n"
                              "model\t\t: 1\n"
                              "model name\t: Some CPU: fast\n"
                              "microcode\t: 0x1\n"
                              "cpu MHz\t\t: 2600.000\n"
                              "flags\t\t: fpu svm_lock constant_tsc sse\n"
                              "\n"
                              "processor\t: 1\n"
                              "flags\t\t: svm vmx\n";

static int from_text(const char *text, struct machine *ret, struct error *err)
{
    auto_json cJSON *json = NULL;
    assert_int_equal(json_parse(text, strlen(text), &json, err), 0);
    return machine_from_json(json, ret, err);
}

/* `text` with `old` replaced by `new`, which must be in it. */
static char *changed(const char *text, const char *old, const char *new)
{
    const char *found = strstr(text, old);
    assert_non_null(found);
    char *copy = NULL;
    assert_true(asprintf(&copy, "%.*s%s%s", (int)(found - text), text, new, found + strlen(old)) >=
                0);
    return copy;
}

static void from_json_when_all_is_there_reads_it_back_as_written(void **state)
{
    struct machine machine = {0};
    struct error err = {0};

    (void)state;
    assert_int_equal(from_text(whole, &machine, &err), 0);
    assert_true(machine.memory_bytes == 268435456);
    assert_int_equal(machine.vcpus, 2);
    assert_int_equal(machine.board, MACHINE_Q35);
    assert_int_equal(machine.accel, ACCEL_KVM);
    assert_int_equal(machine.network, NETWORK_TAP);
    assert_false(machine.network_restrict);
    assert_int_equal(machine.interface_count, 2);
    assert_string_equal(machine.interfaces[0].id, "eth0");
    assert_string_equal(machine.interfaces[0].tap, "tap-0.1_x");
    assert_string_equal(machine.interfaces[0].mac, "02:00:aB:00:00:01");
    assert_true(!machine.interfaces[1].id && !machine.interfaces[1].mac);
    assert_int_equal(machine.disk_count, 3);
    assert_string_equal(machine.disks[0].path, "/a,b");
    assert_true(machine.disks[0].readonly && !machine.disks[0].id && !machine.disks[0].frozen);
    assert_string_equal(machine.disks[1].id, "root_fs");
    assert_string_equal(machine.disks[1].frozen, "disk-0");
    assert_false(machine.disks[1].readonly);
    assert_string_equal(machine.disks[1].key, "");
    assert_string_equal(machine.disks[2].key, "size=1 inode=2 mtime=3.4");
    assert_int_equal(machine.disks[2].layers, 7);
    auto_json cJSON *json = machine_to_json(&machine);
    auto_free char *text = cJSON_PrintUnformatted(json);
    assert_string_equal(text, whole);
    machine_finish(&machine);
}

static void from_json_when_an_older_version_wrote_it_has_defaults(void **state)
{
    struct machine machine = {0};
    struct error err = {0};

    (void)state;
    assert_int_equal(from_text(older, &machine, &err), 0);
    assert_int_equal(machine.network, NETWORK_USER);
    assert_true(machine.network_restrict);
    assert_int_equal(machine.interface_count, 0);
    assert_int_equal(machine.disk_count, 1);
    assert_true(!machine.disks[0].id && !machine.disks[0].frozen && !machine.vsock);
    machine_finish(&machine);
}

static void to_json_when_never_booted_has_nulls_and_no_boot_members(void **state)
{
    struct machine machine = {.memory_bytes = (uint64_t)1 << 40,
                              .vcpus = 1,
                              .kernel = (char[]){"/k"},
                              .cmdline = (char[]){"secret"}};
    struct machine again = {0};
    struct error err = {0};

    (void)state;
    auto_json cJSON *json = machine_to_json(&machine);
    auto_free char *text = cJSON_PrintUnformatted(json);
    assert_string_equal(text, "{\"memory_bytes\":1099511627776,\"vcpus\":1,\"machine\":\"microvm\","
                              "\"accel\":\"auto\",\"network\":{\"mode\":\"none\","
                              "\"restrict\":false,\"interfaces\":[]},\"disks\":[],"
                              "\"type\":null,\"cpu\":null,"
                              "\"host_cpu\":null,\"version\":null}");
    assert_int_equal(machine_from_json(json, &again, &err), 0);
    assert_null(again.type);
    machine_finish(&again);
}

static void to_json_when_saved_in_its_firmware_has_what_it_boots_from(void **state)
{
    static const char boot[] = "\"boot\":{\"kernel\":\"/k\",\"initrd\":null,\"cmdline\":\"c\"}}";
    struct machine machine = {.memory_bytes = 4096,
                              .vcpus = 1,
                              .kernel = (char[]){"/k"},
                              .cmdline = (char[]){"c"},
                              .in_firmware = true};
    struct machine again = {0};
    struct error err = {0};

    (void)state;
    auto_json cJSON *json = machine_to_json(&machine);
    auto_free char *text = cJSON_PrintUnformatted(json);
    assert_non_null(strstr(text, boot));
    assert_int_equal(machine_from_json(json, &again, &err), 0);
    assert_true(again.in_firmware && !again.initrd);
    assert_string_equal(again.kernel, "/k");
    assert_string_equal(again.cmdline, "c");
    machine_finish(&again);
    cJSON *kernel =
        cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(json, "boot"), "kernel");
    assert_non_null(cJSON_SetValuestring(kernel, "k"));
    assert_int_equal(machine_from_json(json, &again, &err), -EINVAL);
    assert_non_null(strstr(err.text, "boot: a path is not absolute"));
}

static void from_json_when_a_member_is_wrong_is_einval_and_names_it(void **state)
{
    static const struct {
        const char *old, *new, *word;
    } cases[] = {
        {"268435456", "4095", "memory_bytes"},
        {"268435456", "1e17", "memory_bytes"},
        {"268435456", "4096.5", "memory_bytes"},
        {"\"vcpus\":2", "\"vcpus\":-1", "vcpus"},
        {"\"vcpus\":2,", "", "vcpus"},
        {"q35\",", "pc\",", "machine"},
        {"\"kvm\"", "\"xen\"", "accel"},
        {"\"restrict\":false", "\"restrict\":1", "network"},
        {"\"restrict\":false", "\"hostfwd\":true", "network"},
        {"\"mode\":\"tap\"", "\"mode\":\"user\"", "network: interfaces are for mode tap"},
        {"\"interfaces\"", "\"interface\"", "network: unknown member"},
        {"\"tap\":\"t\"", "\"tap\":null", "network: interfaces[1]"},
        {"\"tap\":\"t\"", "\"tap\":\"\"", "interfaces[1]: tap is not"},
        {"\"tap\":\"t\"", "\"tap\":\"t,script=x\"", "interfaces[1]: tap is not"},
        {"\"tap\":\"t\"", "\"tap\":\"t/0\"", "interfaces[1]: tap is not"},
        {"\"tap\":\"t\"", "\"tap\":\"0123456789abcdef\"", "interfaces[1]: tap is not"},
        {"\"tap\":\"t\",", "", "interfaces[1]: member \"tap\" is missing"},
        {"02:00:aB", "03:00:aB", "interfaces[0]: mac"},
        {"02:00:aB", "2:00:aB", "interfaces[0]: mac"},
        {"02:00:aB", "02-00:aB", "interfaces[0]: mac"},
        {"02:00:aB", "0g:00:aB", "interfaces[0]: mac"},
        {"02:00:aB:00:00:01", "00:00:00:00:00:00", "interfaces[0]: mac"},
        {"\"eth0\"", "\"../x\"", "interfaces[0]: id"},
        {"\"eth0\"", "7", "interfaces[0]: \"id\""},
        {"root_fs", "root/fs", "disks[1]: id"},
        {"disk-0", "../memory", "disks[1]: frozen"},
        {"disk-0", ".hidden", "disks[1]: frozen"},
        {"\"readonly\":false", "\"readonly\":true", "disks[1]: frozen is for writable"},
        {"\"disk-0\"", "\"disk-0\",\"key\":\"k\"", "disks[1]: key is not that of"},
        {"\"disk-0\"", "\"disk-0\",\"layers\":1", "disks[1]: layers need a key"},
        {"\"disk-0\"", "\"disk-0\",\"lower\":\"memory\"", "disks[1]: lower is not"},
        {"\"frozen\":null},", "\"frozen\":null,\"lower\":\"lower-\"},", "disks[0]: lower is not"},
        {"size=1 inode=2 mtime=3.4", "", "disks[2]: key is not that of"},
        {"\"frozen\":null},", "\"frozen\":null,\"key\":\"k\",\"layers\":1},",
         "disks[0]: layers are for"},
        {"\"layers\":7", "\"layers\":101", "disks[2]: \"layers\""},
        {"/a,b", "a", "disks[0]"},
        {"qcow2", "vmdk", "disks[0]"},
        {"\"readonly\":true", "\"readonly\":null", "disks[0]"},
        {"[{", "[1,{", "interfaces[0]"},
        {"\"disks\":[", "\"disks\":[1,", "disks[0]"},
        {"pc-q35-7.2", "q35,accel=kvm", "type"},
        {"pc-q35-7.2", "", "type"},
        {"\"host\"", "\"host,+x\"", "cpu"},
        {"\"version\":", "\"versions\":", "versions"},
        {"\"version\":\"7.2.22\"", "\"version\":7.2", "version"},
        {"\"/run/v.sock\"", "7", "vsock"},
    };

    (void)state;
    for (size_t i = 0; i < array_length(cases); i++) {
        struct machine machine = {.vcpus = 77};
        struct error err = {0};
        auto_free char *text = changed(whole, cases[i].old, cases[i].new);
        if (from_text(text, &machine, &err) != -EINVAL)
            fail_msg("%s was taken", text);
        if (!strstr(err.text, cases[i].word))
            fail_msg("%s: no \"%s\" in: %s", text, cases[i].word, err.text);
        assert_int_equal(machine.vcpus, 77);
    }
}

static void file_below_a_frozen_disk_is_read_back(void **state)
{
    struct machine machine = {0};
    struct error err = {0};
    auto_free char *text = changed(whole, "\"disk-0\"", "\"disk-0\",\"lower\":\"lower-root_fs\"");
    (void)state;
    assert_int_equal(from_text(text, &machine, &err), 0);
    assert_string_equal(machine.disks[1].lower, "lower-root_fs");
    auto_json cJSON *json = machine_to_json(&machine);
    auto_free char *again = cJSON_PrintUnformatted(json);
    assert_string_equal(again, text);
    machine_finish(&machine);
}

static void finish_takes_a_finished_one_and_null(void **state)
{
    struct machine machine = {0};
    struct error err = {0};

    (void)state;
    assert_int_equal(from_text(whole, &machine, &err), 0);
    machine.kernel = strdup("/k");
    machine_finish(&machine);
    assert_null(machine.kernel);
    machine_finish(&machine);
    machine_finish(NULL);
}

static void set_tap_marks_the_interface_only_when_the_tap_is_another(void **state)
{
    static const char text[] =
        "{\"memory_bytes\":4096,\"vcpus\":1,\"machine\":\"microvm\",\"accel\":\"kvm\","
        "\"network\":{\"mode\":\"tap\",\"restrict\":false,\"interfaces\":[{\"tap\":\"t0\"}]},"
        "\"disks\":[]}";
    struct machine machine = {0};
    struct error err = {0};

    (void)state;
    assert_int_equal(from_text(text, &machine, &err), 0);
    assert_int_equal(machine_set_tap(&machine, "t0", &err), 0);
    assert_false(machine.interfaces[0].replaced);
    assert_int_equal(machine_set_tap(&machine, "t1", &err), 0);
    assert_true(machine.interfaces[0].replaced);
    machine_finish(&machine);
}

static void set_taps_goes_by_the_ids_of_interfaces(void **state)
{
    static const char text[] =
        "{\"memory_bytes\":4096,\"vcpus\":1,\"machine\":\"microvm\",\"accel\":\"kvm\","
        "\"network\":{\"mode\":\"tap\",\"restrict\":false,\"interfaces\":["
        "{\"id\":\"eth0\",\"tap\":\"t0\"},{\"id\":\"eth1\",\"tap\":\"t1\"}]},\"disks\":[]}";
    static const struct {
        const char *taps, *first, *second;
        int code;
    } cases[] = {
        {"{\"eth1\":\"t9\"}", "t0", "t9", 0},
        {"{\"eth1\":\"t8\",\"eth0\":\"t9\"}", "t9", "t8", 0},
        {"{\"eth1\":\"t0\",\"eth0\":\"t1\"}", "t1", "t0", 0},
        {"{\"eth1\":\"t0\"}", NULL, NULL, -EINVAL},
        {"{\"eth2\":\"t2\"}", NULL, NULL, -EINVAL},
    };
    (void)state;
    for (size_t i = 0; i < array_length(cases); i++) {
        struct machine machine = {0};
        struct error err = {0};
        auto_json cJSON *taps = cJSON_Parse(cases[i].taps);
        assert_int_equal(from_text(text, &machine, &err), 0);
        assert_int_equal(machine_set_tap(&machine, "t7", &err), -EINVAL);
        assert_int_equal(machine_set_taps(&machine, taps, &err), cases[i].code);
        if (cases[i].code == 0) {
            assert_string_equal(machine.interfaces[0].tap, cases[i].first);
            assert_string_equal(machine.interfaces[1].tap, cases[i].second);
            assert_int_equal(machine.interfaces[0].replaced, strcmp(cases[i].first, "t0") != 0);
        }
        machine_finish(&machine);
    }
}

static void cpuinfo_flags_are_whole_words_of_the_first_cpu(void **state)
{
    (void)state;
    assert_true(machine_cpuinfo_has(cpuinfo, "fpu"));
    assert_true(machine_cpuinfo_has(cpuinfo, "sse"));
    assert_false(machine_cpuinfo_has(cpuinfo, "svm"));
    assert_false(machine_cpuinfo_has(cpuinfo, "vmx"));
    assert_false(machine_cpuinfo_has(cpuinfo, "ss"));
    assert_false(machine_cpuinfo_has("", "fpu"));
    assert_false(machine_cpuinfo_has("flags", "flags"));
}

static void cpuinfo_hash_tells_models_and_flags_apart_and_nothing_else(void **state)
{
    static const struct {
        const char *old, *new;
        bool same;
    } cases[] = {
        {"microcode\t: 0x1", "microcode\t: 0x2", true}, {"2600.000", "800.000", true},
        {"processor\t: 1", "processor\t: 9", true},     {"flags\t\t: fpu", "flags\t\t:", false},
        {"model\t\t: 1", "model\t\t: 2", false},        {"fast", "slow", false},
    };
    struct error err = {0};
    auto_free char *hash = NULL;

    (void)state;
    assert_int_equal(machine_cpuinfo_hash(cpuinfo, &hash, &err), 0);
    assert_int_equal(strlen(hash), 16);
    for (size_t i = 0; i < array_length(cases); i++) {
        auto_free char *other = changed(cpuinfo, cases[i].old, cases[i].new), *other_hash = NULL;
        assert_int_equal(machine_cpuinfo_hash(other, &other_hash, &err), 0);
        if ((strcmp(hash, other_hash) == 0) != cases[i].same)
            fail_msg("%s instead of %s", cases[i].new, cases[i].old);
    }
}

static void resolve_accel_keeps_what_was_chosen_and_never_leaves_auto(void **state)
{
    (void)state;
    assert_int_equal(machine_resolve_accel(ACCEL_TCG), ACCEL_TCG);
    assert_int_equal(machine_resolve_accel(ACCEL_KVM), ACCEL_KVM);
    assert_int_not_equal(machine_resolve_accel(ACCEL_AUTO), ACCEL_AUTO);
}

static bool has_steady_tsc(void)
{
    char text[16384];
    auto_fclose FILE *file = fopen("/proc/cpuinfo", "re");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    return machine_cpuinfo_has(text, "constant_tsc");
}

/* A host whose counter is not steady has none. */
static void host_tsc_when_measured_twice_is_the_same(void **state)
{
    (void)state;
    unsigned first = machine_host_tsc_khz(), second = machine_host_tsc_khz();
    assert_int_equal(first != 0, has_steady_tsc());
    assert_in_range(second, first - first / 100, first + first / 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(from_json_when_all_is_there_reads_it_back_as_written),
        cmocka_unit_test(from_json_when_an_older_version_wrote_it_has_defaults),
        cmocka_unit_test(to_json_when_never_booted_has_nulls_and_no_boot_members),
        cmocka_unit_test(to_json_when_saved_in_its_firmware_has_what_it_boots_from),
        cmocka_unit_test(from_json_when_a_member_is_wrong_is_einval_and_names_it),
        cmocka_unit_test(file_below_a_frozen_disk_is_read_back),
        cmocka_unit_test(finish_takes_a_finished_one_and_null),
        cmocka_unit_test(set_tap_marks_the_interface_only_when_the_tap_is_another),
        cmocka_unit_test(set_taps_goes_by_the_ids_of_interfaces),
        cmocka_unit_test(cpuinfo_flags_are_whole_words_of_the_first_cpu),
        cmocka_unit_test(cpuinfo_hash_tells_models_and_flags_apart_and_nothing_else),
        cmocka_unit_test(resolve_accel_keeps_what_was_chosen_and_never_leaves_auto),
        cmocka_unit_test(host_tsc_when_measured_twice_is_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
