/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "instance/config.h"
#include "test.h"
#include "util/cleanup.h"
#include "util/json.h"

static struct machine parsed(const char *text)
{
    struct machine machine;
    struct error err = {0};
    if (config_parse(text, strlen(text), &machine, &err) < 0)
        fail_msg("%s: %s", text, err.text);
    return machine;
}

static void config_when_empty_has_all_defaults(void **state)
{
    (void)state;
    struct machine machine = parsed("{}");
    assert_int_equal(machine.memory_bytes, UINT64_C(256) << 20);
    assert_ptr_equal(machine.hypervisor, hypervisor_find("qemu"));
    assert_int_equal(machine.vcpus, 1);
    assert_int_equal(machine.board, MACHINE_MICROVM);
    assert_int_equal(machine.accel, ACCEL_AUTO);
    assert_int_equal(machine.network, NETWORK_USER);
    assert_false(machine.network_restrict);
    assert_int_equal(machine.disk_count, 0);
    assert_true(!machine.kernel && !machine.initrd && !machine.cmdline && !machine.type);
    machine_finish(&machine);
}

static const char whole[] =
    "{\"hypervisor\":\"qemu\",\"memory_mib\":512,\"vcpus\":4,\"kernel\":\"/boot/k, e=1\","
    "\"initrd\":\"/boot/i\",\"cmdline\":\"console=ttyS0 a=\\\"b\\\"\",\"disks\":[{\"path\":\"/d/"
    "1\",\"format\":\"raw\",\"readonly\":true},{\"path\":\"/d/2\",\"format\":\"qcow2\","
    "\"readonly\":false}],\"network\":{\"mode\":\"user\",\"restrict\":true},\"machine\":\"q35\","
    "\"accel\":\"tcg\"}";

static void config_when_whole_sets_every_member(void **state)
{
    (void)state;
    struct machine machine = parsed(whole);
    assert_int_equal(machine.memory_bytes, UINT64_C(512) << 20);
    assert_int_equal(machine.vcpus, 4);
    assert_int_equal(machine.board, MACHINE_Q35);
    assert_int_equal(machine.accel, ACCEL_TCG);
    assert_true(machine.network == NETWORK_USER && machine.network_restrict);
    assert_string_equal(machine.kernel, "/boot/k, e=1");
    assert_string_equal(machine.initrd, "/boot/i");
    assert_string_equal(machine.cmdline, "console=ttyS0 a=\"b\"");
    assert_int_equal(machine.disk_count, 2);
    assert_string_equal(machine.disks[1].path, "/d/2");
    assert_string_equal(machine.disks[1].format, "qcow2");
    assert_true(machine.disks[0].readonly && !machine.disks[1].readonly);
    machine_finish(&machine);
}

static void config_when_printed_is_the_same_again(void **state)
{
    static const char *const texts[] = {
        "{}", whole, "{\"network\":{\"mode\":\"none\"}}",
        "{\"network\":{\"mode\":\"tap\",\"tap\":\"t0\"}}",
        "{\"network\":{\"mode\":\"tap\",\"tap\":\"t0\",\"mac\":\"02:00:00:00:00:01\"}}"};
    (void)state;
    for (size_t i = 0; i < array_length(texts); i++) {
        struct machine machine = parsed(texts[i]);
        auto_json cJSON *json = config_to_json(&machine);
        auto_free char *text = json_print(json);
        struct machine again = parsed(text);
        auto_json cJSON *json_again = config_to_json(&again);
        assert_true(cJSON_Compare(json, json_again, true));
        assert_int_equal(cJSON_GetArraySize(json), 11);
        machine_finish(&machine);
        machine_finish(&again);
    }
}

struct case_ {
    const char *text;
    const char *why; /* NULL: accepted */
    int code;
};

static void check(const struct case_ *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct machine machine, untouched;
        struct error err = {0};
        memset(&machine, 0x5A, sizeof machine);
        untouched = machine;
        int r = config_parse(cases[i].text, strlen(cases[i].text), &machine, &err);
        if (r != -cases[i].code)
            fail_msg("%s: %d, %s", cases[i].text, r, err.text);
        if (cases[i].why && !strstr(err.text, cases[i].why))
            fail_msg("%s: \"%s\" is not in: %s", cases[i].text, cases[i].why, err.text);
        if (r == 0)
            machine_finish(&machine);
        else
            assert_memory_equal(&machine, &untouched, sizeof machine);
        assert_int_equal(err.code, cases[i].code);
        assert_int_equal(config_parse(cases[i].text, strlen(cases[i].text), &machine, NULL), r);
        if (r == 0)
            machine_finish(&machine);
    }
}

static void config_when_a_value_is_wrong_names_the_member(void **state)
{
    static const struct case_ cases[] = {
        {"", "ends too early", EINVAL},
        {"[]", "line 1", EINVAL},
        {"null", "line 1", EINVAL},
        {"{\"memory_mib\":256}\n{}", "line 2", EINVAL},
        {"{\"memory\":256}", "unknown member \"memory\"", EINVAL},
        {"{\"vcpus\":1,\"vcpus\":2}", "\"vcpus\" is given twice", EINVAL},
        {"{\"vcpus\":0}", "\"vcpus\" must be a whole number from 1 to 255", EINVAL},
        {"{\"vcpus\":256}", "\"vcpus\"", EINVAL},
        {"{\"vcpus\":1.5}", "\"vcpus\"", EINVAL},
        {"{\"vcpus\":\"1\"}", "\"vcpus\"", EINVAL},
        {"{\"vcpus\":null}", "\"vcpus\"", EINVAL},
        {"{\"memory_mib\":0}", "\"memory_mib\"", EINVAL},
        {"{\"memory_mib\":-1}", "\"memory_mib\"", EINVAL},
        {"{\"memory_mib\":16777217}", "\"memory_mib\"", EINVAL},
        {"{\"memory_mib\":1e400}", "\"memory_mib\"", EINVAL},
        {"{\"hypervisor\":\"xen\"}", "\"hypervisor\" must be one of \"qemu\"", EINVAL},
        {"{\"machine\":\"pc\"}", "\"machine\" must be one of \"microvm\", \"q35\"", EINVAL},
        {"{\"accel\":\"hvf\"}", "\"accel\" must be one of \"auto\", \"kvm\", \"tcg\"", EINVAL},
        {"{\"accel\":true}", "\"accel\"", EINVAL},
        {"{\"kernel\":\"vmlinuz\"}", "\"kernel\" must be an absolute path", EINVAL},
        {"{\"kernel\":\"\"}", "\"kernel\"", EINVAL},
        {"{\"kernel\":1}", "\"kernel\" must be a string, or null", EINVAL},
        {"{\"kernel\":\"/a\\u0000b\"}", "u0000", EINVAL},
        {"{\"initrd\":\"./i\"}", "\"initrd\" must be an absolute path", EINVAL},
        {"{\"cmdline\":[]}", "\"cmdline\" must be a string", EINVAL},
        {"{\"disks\":{}}", "\"disks\" must be an array", EINVAL},
        {"{\"network\":[]}", "\"network\" must be an object", EINVAL},
        {"{\"network\":null}", "\"network\" must be an object", EINVAL},
    };
    (void)state;
    check(cases, array_length(cases));
}

static void config_when_values_are_at_their_limits_is_accepted(void **state)
{
    static const struct case_ cases[] = {
        {"{\"vcpus\":255}", NULL, 0},
        {"{\"memory_mib\":1}", NULL, 0},
        {"{\"memory_mib\":16777216}", NULL, 0},
        {"{\"memory_mib\":1e3}", NULL, 0},
        {"{\"kernel\":null,\"initrd\":null,\"cmdline\":null}", NULL, 0},
        {"{\"cmdline\":\"\"}", NULL, 0},
        {"{\"disks\":[]}", NULL, 0},
        {"{\"network\":{}}", NULL, 0},
        {"{\"network\":{\"tap\":null,\"mac\":null}}", NULL, 0},
        {" \t\r\n{ }\n", NULL, 0},
    };
    (void)state;
    check(cases, array_length(cases));
}

static void config_when_on_a_tap_has_its_interface(void **state)
{
    (void)state;
    struct machine machine = parsed("{\"network\":{\"mode\":\"tap\",\"restrict\":false,"
                                    "\"tap\":\"a-b.c_d01234567\",\"mac\":\"0E:fF:00:00:00:01\"}}");
    assert_int_equal(machine.network, NETWORK_TAP);
    assert_int_equal(machine.interface_count, 1);
    assert_string_equal(machine.interfaces[0].tap, "a-b.c_d01234567");
    assert_string_equal(machine.interfaces[0].mac, "0E:fF:00:00:00:01");
    assert_null(machine.interfaces[0].id);
    machine_finish(&machine);
}

static void config_when_the_tap_is_wrong_says_so(void **state)
{
    static const struct {
        const char *members, *why;
    } cases[] = {
        {"\"mode\":\"tap\"", "\"network\": with \"mode\": \"tap\", \"tap\" must be"},
        {"\"mode\":\"tap\",\"tap\":null", "\"tap\" must be the name of the host's interface"},
        {"\"mode\":\"tap\",\"tap\":\"\"", "\"tap\" must be"},
        {"\"mode\":\"tap\",\"tap\":\"a-b.c_d012345678\"", "\"tap\" must be"},
        {"\"mode\":\"tap\",\"tap\":\"t,script=x\"", "\"tap\" must be"},
        {"\"mode\":\"tap\",\"tap\":\"t0\",\"mac\":\"01:00:00:00:00:01\"", "\"mac\" must be"},
        {"\"mode\":\"tap\",\"tap\":\"t0\",\"mac\":\"\"", "\"mac\" must be"},
        {"\"mode\":\"tap\",\"tap\":\"t0\",\"restrict\":true", "\"restrict\" is for"},
        {"\"tap\":\"t0\"", "\"tap\" and \"mac\" are for"},
        {"\"mode\":\"none\",\"tap\":\"t0\"", "\"tap\" and \"mac\" are for"},
        {"\"mode\":\"user\",\"mac\":\"02:00:00:00:00:01\"", "\"tap\" and \"mac\" are for"},
    };
    (void)state;
    for (size_t i = 0; i < array_length(cases); i++) {
        char text[256];
        snprintf(text, sizeof text, "{\"network\":{%s}}", cases[i].members);
        const struct case_ one = {text, cases[i].why, EINVAL};
        check(&one, 1);
    }
}

static void config_when_a_disk_is_wrong_says_which(void **state)
{
    static const struct case_ cases[] = {
        {"{\"disks\":[1]}", "disk 0: a disk must be an object", EINVAL},
        {"{\"disks\":[{}]}", "disk 0: member \"path\" is missing", EINVAL},
        {"{\"disks\":[{\"path\":\"/a\"}]}", "disk 0: member \"format\" is missing", EINVAL},
        {"{\"disks\":[{\"path\":\"a\",\"format\":\"raw\"}]}",
         "disk 0: \"path\" must be an absolute path", EINVAL},
        {"{\"disks\":[{\"path\":\"/a\",\"format\":\"vmdk\"}]}",
         "disk 0: \"format\" must be one of \"raw\", \"qcow2\"", EINVAL},
        {"{\"disks\":[{\"path\":\"/a\",\"format\":\"raw\",\"readonly\":1}]}",
         "disk 0: \"readonly\" must be true or false", EINVAL},
        {"{\"disks\":[{\"path\":\"/a\",\"format\":\"raw\",\"cache\":\"none\"}]}",
         "disk 0: unknown member \"cache\"", EINVAL},
        {"{\"disks\":[{\"path\":\"/a\",\"format\":\"raw\",\"readonly\":true},"
         "{\"path\":\"/b\",\"format\":\"raw\",\"readonly\":true,\"readonly\":true}]}",
         "disk 1: member \"readonly\" is given twice", EINVAL},
    };
    (void)state;
    check(cases, array_length(cases));
}

static void config_of_firecracker_has_its_own_defaults(void **state)
{
    (void)state;
    struct machine machine = parsed("{\"hypervisor\":\"firecracker\",\"accel\":\"kvm\"}");
    assert_string_equal(machine.hypervisor->name, "firecracker");
    assert_int_equal(machine.network, NETWORK_NONE);
    auto_json cJSON *json = config_to_json(&machine);
    auto_free char *text = json_print(json);
    struct machine again = parsed(text);
    assert_ptr_equal(again.hypervisor, machine.hypervisor);
    machine_finish(&again);
    machine_finish(&machine);
}

static void config_of_firecracker_when_it_asks_for_what_only_qemu_has_is_refused(void **state)
{
    static const struct {
        const char *members, *why;
    } cases[] = {
        {"\"network\":{\"mode\":\"user\"}", "\"network\": Firecracker has no network of its own"},
        {"\"machine\":\"q35\"", "\"machine\": with Firecracker it can only be \"microvm\""},
        {"\"accel\":\"tcg\"", "\"accel\": Firecracker runs VMs with \"kvm\" only"},
        {"\"disks\":[{\"path\":\"/a\",\"format\":\"qcow2\",\"readonly\":true}]",
         "disk 0: with Firecracker the format can only be \"raw\""},
    };
    (void)state;
    for (size_t i = 0; i < array_length(cases); i++) {
        char text[256];
        snprintf(text, sizeof text, "{\"hypervisor\":\"firecracker\",%s}", cases[i].members);
        const struct case_ one = {text, cases[i].why, EINVAL};
        check(&one, 1);
    }
}

static void config_when_there_are_many_disks_takes_sixteen(void **state)
{
    static const char disk[] = "{\"path\":\"/a\",\"format\":\"raw\",\"readonly\":true}";
    char text[2048];
    (void)state;
    for (int count = CONFIG_DISKS_MAX; count <= CONFIG_DISKS_MAX + 1; count++) {
        size_t used = (size_t)snprintf(text, sizeof text, "{\"disks\":[");
        for (int i = 0; i < count; i++)
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", i ? "," : "", disk);
        snprintf(text + used, sizeof text - used, "]}");
        const struct case_ one = {text, count > CONFIG_DISKS_MAX ? "\"disks\": at most 16" : NULL,
                                  count > CONFIG_DISKS_MAX ? EINVAL : 0};
        check(&one, 1);
    }
}

static void config_when_it_asks_for_what_comes_later_is_not_supported(void **state)
{
    static const struct case_ cases[] = {
        {"{\"hypervisor\":\"bhyve\"}",
         "must be one of \"qemu\", \"firecracker\", \"cloud-hypervisor\"", EINVAL},
        {"{\"network\":{\"mode\":\"bridge\"}}", "\"mode\" must be one of", EINVAL},
        {"{\"network\":{\"mode\":\"user\",\"restrict\":\"on\"}}",
         "\"network\": \"restrict\" must be true or false", EINVAL},
        {"{\"network\":{\"hostfwd\":\"tcp::22\"}}", "unknown member \"hostfwd\"", EINVAL},
    };
    (void)state;
    check(cases, array_length(cases));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(config_when_empty_has_all_defaults),
        cmocka_unit_test(config_when_whole_sets_every_member),
        cmocka_unit_test(config_when_printed_is_the_same_again),
        cmocka_unit_test(config_when_a_value_is_wrong_names_the_member),
        cmocka_unit_test(config_when_values_are_at_their_limits_is_accepted),
        cmocka_unit_test(config_when_on_a_tap_has_its_interface),
        cmocka_unit_test(config_when_the_tap_is_wrong_says_so),
        cmocka_unit_test(config_when_a_disk_is_wrong_says_which),
        cmocka_unit_test(config_of_firecracker_has_its_own_defaults),
        cmocka_unit_test(config_of_firecracker_when_it_asks_for_what_only_qemu_has_is_refused),
        cmocka_unit_test(config_when_there_are_many_disks_takes_sixteen),
        cmocka_unit_test(config_when_it_asks_for_what_comes_later_is_not_supported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
