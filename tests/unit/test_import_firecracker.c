/* SPDX-License-Identifier: MIT */
#include "import_fixture.h"

static void firecracker_without_a_configuration_has_no_devices(void **state)
{
    struct bench *bench = *state;
    put_memory(bench, 16 * MIB);
    put(bench, "state", FIRECRACKER_STATE, sizeof FIRECRACKER_STATE);
    assert_checked(bench, "firecracker", false);
    assert_described(bench, "{\"memory_bytes\":16777216,\"vcpus\":0,\"machine\":\"microvm\","
                            "\"accel\":\"kvm\",\"network\":{\"mode\":\"none\",\"restrict\":false,"
                            "\"interfaces\":[]},\"disks\":[]");
}

/* As GET /vm/config gives it, shortened. */
static const char firecracker_config[] =
    "{\"balloon\":null,\"drives\":[{\"drive_id\":\"rootfs\",\"partuuid\":null,"
    "\"is_root_device\":true,\"cache_type\":\"Unsafe\",\"is_read_only\":true,"
    "\"path_on_host\":\"@/root.ext4\",\"rate_limiter\":null,\"io_engine\":\"Sync\","
    "\"socket\":null},{\"drive_id\":\"data_1\",\"is_root_device\":false,"
    "\"path_on_host\":\"@/data.img\"}],"
    "\"boot-source\":{\"kernel_image_path\":\"\",\"initrd_path\":null,\"boot_args\":null},"
    "\"logger\":null,\"machine-config\":{\"vcpu_count\":2,\"mem_size_mib\":16,\"smt\":false,"
    "\"track_dirty_pages\":false,\"huge_pages\":\"None\"},\"mmds-config\":null,"
    "\"network-interfaces\":[{\"iface_id\":\"eth0\",\"host_dev_name\":\"tap0\","
    "\"guest_mac\":\"06:00:ac:10:00:02\",\"rx_rate_limiter\":null}],"
    "\"vsock\":{\"guest_cid\":3,\"uds_path\":\"./v.sock\"},\"entropy\":null}";

static void prepare_firecracker(const struct bench *bench)
{
    put_memory(bench, 16 * MIB);
    put(bench, "state", FIRECRACKER_STATE, sizeof FIRECRACKER_STATE);
    put(bench, "root.ext4", "root", 4);
    put(bench, "data.img", "data", 4);
}

static void firecracker_when_its_devices_are_named_becomes_a_machine(void **state)
{
    struct bench *bench = *state;
    char wanted[3 * PATH_SIZE], path[PATH_SIZE], key[FILE_KEY_SIZE];
    struct stat file;
    prepare_firecracker(bench);
    put_config(bench, firecracker_config);
    assert_checked(bench, "firecracker", true);
    assert_described(bench, "{\"memory_bytes\":16777216,\"vcpus\":2,\"machine\":\"microvm\","
                            "\"accel\":\"kvm\",\"network\":{\"mode\":\"tap\",\"restrict\":false,"
                            "\"interfaces\":[{\"id\":\"eth0\",\"tap\":\"tap0\","
                            "\"mac\":\"06:00:ac:10:00:02\"}]}");
    assert_int_equal(stat(path_of(bench, "root.ext4", path), &file), 0);
    file_key(&file, key);
    snprintf(wanted, sizeof wanted,
             "\"disks\":[{\"id\":\"rootfs\",\"path\":\"%s/root.ext4\",\"format\":\"raw\","
             "\"readonly\":true,\"frozen\":null,\"key\":\"%s\",\"layers\":0},"
             "{\"id\":\"data_1\",\"path\":\"%s/data.img\","
             "\"format\":\"raw\",\"readonly\":false,\"frozen\":\"frozen-data_1\","
             "\"saved_path\":\"%s/data.img\"}]",
             bench->directory, key, bench->directory, bench->directory);
    assert_described(bench, wanted);
    assert_described(bench, "\"vsock\":\"./v.sock\"");
    assert_null(bench->import.frozen_from[0]);
    assert_string_equal(bench->import.frozen_from[1], path_of(bench, "data.img", path));
}

static void firecracker_when_its_memory_was_on_hugetlbfs_says_so(void **state)
{
    static const char config[] =
        "{\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":16,\"huge_pages\":\"%s\"}}";
    struct bench *bench = *state;
    char text[sizeof config + 16];
    prepare_firecracker(bench);
    snprintf(text, sizeof text, config, "2M");
    put_config(bench, text);
    assert_checked(bench, "firecracker", true);
    assert_described(bench, "\"huge_pages\":true");
    snprintf(text, sizeof text, config, "Transparent");
    put_config(bench, text);
    assert_checked(bench, "firecracker", true);
    assert_false(bench->import.machine.huge_pages);
}

static void firecracker_when_its_configuration_is_wrong_is_refused(void **state)
{
#define DRIVE(more) "{\"drives\":[{\"drive_id\":\"a\",\"is_root_device\":true," more "}]}"
#define PMEM(path)                                                                                 \
    "{\"drives\":[],\"pmem\":[{\"id\":\"p\",\"path_on_host\":\"" path "\",\"read_only\":true}]}"
#define INTERFACE(more) "{\"drives\":[],\"network-interfaces\":[{" more "}]}"
#define MACHINE(more) "{\"machine-config\":{\"vcpu_count\":1," more "}}"
#define HOTPLUG(machine, more)                                                                     \
    "{\"machine-config\":{\"vcpu_count\":1," machine "},\"memory-hotplug\":{" more "}}"
    static const struct {
        const char *text;
        int code; /* 0: it is taken */
        const char *why;
    } cases[] = {
        {"{\"drives\":[]}", 0, ""},
        {"{\"drives\":null,\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":16}}", 0, ""},
        {"", EINVAL, "config: line 1"},
        {"{\"drives\":[}", EINVAL, "config: line 1, column 12"},
        {"[]", EINVAL, "config: line 1"},
        {"{}", EINVAL, "no configuration of Firecracker's"},
        {"{\"name\":\"package\",\"version\":\"1.0\"}", EINVAL, "no configuration of Firecracker's"},
        {"{\"drives\":{}}", EINVAL, "\"drives\" must be an array"},
        {"{\"drives\":[7]}", EINVAL, "drives[0]: a JSON object"},
        {"{\"drives\":[{}]}", EINVAL, "drives[0]: member \"drive_id\" is missing"},
        {DRIVE("\"socket\":\"/v.sock\""), EOPNOTSUPP, "vhost-user"},
        {DRIVE("\"path_on_host\":\"root.ext4\""), EINVAL,
         "the path root.ext4 of the drive a is relative, and "},
        {DRIVE("\"path_on_host\":\"@/none\""), ENOENT, "/none cannot be opened"},
        {DRIVE("\"path_on_host\":\"@/none\",\"is_read_only\":true"), ENOENT, "/none"},
        {DRIVE("\"path_on_host\":\"@\""), EINVAL, "is not a regular file"},
        {DRIVE("\"path_on_host\":\"/dev/null\",\"is_read_only\":true"), EINVAL, "regular file"},
        {DRIVE("\"path_on_host\":\"@/root.ext4\",\"is_read_only\":1"), EINVAL, "is_read_only"},
        {"{\"drives\":[{\"drive_id\":\"../a\",\"path_on_host\":\"@/root.ext4\"}]}", EINVAL,
         "disks[0]: id is not a word"},
        {"{\"drives\":[{\"drive_id\":\"a\",\"path_on_host\":\"@/root.ext4\"},"
         "{\"drive_id\":\"a\",\"path_on_host\":\"@/data.img\"}]}",
         EINVAL, "two disks are called a"},
        {INTERFACE("\"iface_id\":\"e\",\"host_dev_name\":\"t0\""), 0, ""},
        {INTERFACE("\"iface_id\":\"e\""), EINVAL,
         "network-interfaces[0]: member \"host_dev_name\""},
        {INTERFACE("\"iface_id\":\"e\",\"host_dev_name\":\"t/0\""), EINVAL, "tap is not"},
        {INTERFACE("\"iface_id\":\"e\",\"host_dev_name\":\"t0\",\"guest_mac\":\"1\""), EINVAL,
         "mac is not"},
        {MACHINE("\"mem_size_mib\":16"), 0, ""},
        {MACHINE("\"mem_size_mib\":16,\"huge_pages\":\"Transparent\""), 0, ""},
        {MACHINE("\"mem_size_mib\":17"), EINVAL, "it describes a memory of 17825792 bytes, and "},
        {MACHINE("\"mem_size_mib\":0"), EINVAL, "machine-config: \"mem_size_mib\""},
        {MACHINE("\"mem_size_mib\":1.5"), EINVAL, "machine-config: \"mem_size_mib\""},
        {HOTPLUG("\"mem_size_mib\":12", "\"total_size_mib\":4,\"slot_size_mib\":1"), 0, ""},
        {HOTPLUG("\"mem_size_mib\":16", "\"total_size_mib\":4"), 0, ""}, /* the sum */
        {HOTPLUG("\"mem_size_mib\":12", "\"total_size_mib\":5"), EINVAL,
         "it describes a memory of 17825792 bytes, and "},
        {HOTPLUG("\"mem_size_mib\":12", "\"total_size_mib\":-4"), EINVAL,
         "memory-hotplug: \"total_size_mib\""},
        {HOTPLUG("\"mem_size_mib\":12", "\"slot_size_mib\":4"), EINVAL,
         "\"total_size_mib\" is missing"},
        {MACHINE("\"smt\":true"), EINVAL, "\"mem_size_mib\" is missing"},
        {MACHINE("\"mem_size_mib\":16,\"huge_pages\":\"2M\""), 0, ""},
        {MACHINE("\"mem_size_mib\":16,\"huge_pages\":\"1G\""), EOPNOTSUPP, "huge_pages \"1G\""},
        {"{\"drives\":[],\"vsock\":{}}", EINVAL, "vsock: member \"uds_path\""},
        {"{\"drives\":[],\"pmem\":[{\"id\":\"p\",\"path_on_host\":\"/p\"}]}", EOPNOTSUPP, "pmem"},
        {PMEM("/p"), ENOENT, "the disk /p cannot be opened"},
        {PMEM("./p"), EINVAL, "the path ./p of the pmem device p is relative, and "},
        {PMEM("@/data.img"), 0, ""},
    };
    struct bench *bench = *state;
    prepare_firecracker(bench);
    for (size_t i = 0; i < array_length(cases); i++) {
        put_config(bench, cases[i].text);
        if (cases[i].code == 0)
            assert_checked(bench, "firecracker", true);
        else
            assert_refused(bench, "firecracker", true, cases[i].code, cases[i].why);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(firecracker_without_a_configuration_has_no_devices),
        TEST(firecracker_when_its_devices_are_named_becomes_a_machine),
        TEST(firecracker_when_its_memory_was_on_hugetlbfs_says_so),
        TEST(firecracker_when_its_configuration_is_wrong_is_refused),
    };
    return cmocka_run_group_tests_name("import_firecracker", tests, NULL, NULL);
}
