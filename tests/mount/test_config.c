/* SPDX-License-Identifier: MIT */
/* An instance's config, and which states it may be written in. */
#include "fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"

static char *file(struct harness *h, const char *name)
{
    return harness_path(h, "instances/x/%s", name);
}

static int setup(void **state)
{
    if (harness_setup(state) < 0)
        return -1;
    harness_mount(*state, NULL);
    return mkdir(harness_path(*state, "instances/x"), 0755);
}

static const struct {
    const char *text;
    int write, close;
    const char *error; /* what `error` has in it; "" if it is empty */
} configs[] = {
    {"{}", 0, 0, ""},
    {"{\"kernel\":\"/etc/passwd\",\"initrd\":\"/etc/group\",\"cmdline\":\"a=1 b=\\\"2\\\"\"}", 0, 0,
     ""},
    {"{\"kernel\":\"/nonexistent/k\"}", ENOENT, ENOENT,
     "config: the kernel /nonexistent/k cannot be used"},
    {"{\"kernel\":\"/etc/passwd\",\"initrd\":\"/nonexistent/i\"}", ENOENT, ENOENT,
     "the initrd /nonexistent/i"},
    {"{\"kernel\":\"/etc\"}", EINVAL, EINVAL, "the kernel /etc is not a regular file"},
    {"{\"initrd\":\"/dev/null\"}", EINVAL, EINVAL, "the initrd /dev/null is not a regular file"},
    {"{\"kernel\":\"/etc/passwd/x\"}", ENOTDIR, ENOTDIR, "the kernel /etc/passwd/x"},
    {"{\"memory_mib\":1,\"vcpus\":2,\"machine\":\"q35\",\"accel\":\"tcg\"}", 0, 0, ""},
    {"{\"hypervisor\":\"qemu\",\"accel\":\"auto\",\"kernel\":null}", 0, 0, ""},
    {"{\"network\":{\"mode\":\"user\",\"restrict\":true}}", 0, 0, ""},
    {"{\"disks\":[{\"path\":\"/etc/passwd\",\"format\":\"raw\",\"readonly\":true}]}", 0, 0, ""},
    {"{\"disks\":[{\"path\":\"/nonexistent/d\",\"format\":\"raw\",\"readonly\":true}]}", ENOENT,
     ENOENT, "the disk /nonexistent/d cannot be used"},
    {"{\n \"memory_mib\": 16,\n", 0, EINVAL, "config: unfinished"},
    {"", 0, 0, "config: unfinished"},
    {"[]", EINVAL, EINVAL, "config: line 1, column 1"},
    {"{} x", EINVAL, EINVAL, "config: line 1, column 4"},
    {"{\"colour\":1}", EINVAL, EINVAL, "colour"},
    {"{\"vcpus\":1,\"vcpus\":2}", EINVAL, EINVAL, "vcpus"},
    {"{\"memory_mib\":0}", EINVAL, EINVAL, "memory_mib"},
    {"{\"memory_mib\":-1}", EINVAL, EINVAL, "memory_mib"},
    {"{\"memory_mib\":1.5}", EINVAL, EINVAL, "memory_mib"},
    {"{\"memory_mib\":1e99}", EINVAL, EINVAL, "memory_mib"},
    {"{\"memory_mib\":\"16\"}", EINVAL, EINVAL, "memory_mib"},
    {"{\"vcpus\":0}", EINVAL, EINVAL, "vcpus"},
    {"{\"vcpus\":100000}", EINVAL, EINVAL, "vcpus"},
    {"{\"kernel\":\"k\"}", EINVAL, EINVAL, "\"kernel\" must be an absolute path"},
    {"{\"initrd\":\"./i\"}", EINVAL, EINVAL, "\"initrd\" must be an absolute path"},
    {"{\"cmdline\":7}", EINVAL, EINVAL, "cmdline"},
    {"{\"cmdline\":\"a\\u0000b\"}", EINVAL, EINVAL, ""},
    {"{\"machine\":\"pc\"}", EINVAL, EINVAL, "machine"},
    {"{\"accel\":\"fast\"}", EINVAL, EINVAL, "accel"},
    {"{\"hypervisor\":\"bochs\"}", EINVAL, EINVAL, "hypervisor"},
    {"{\"hypervisor\":\"cloud-hypervisor\"}", 0, 0, ""},
    {"{\"hypervisor\":\"cloud-hypervisor\",\"accel\":\"tcg\"}", EINVAL, EINVAL,
     "with \"kvm\" only"},
    {"{\"hypervisor\":\"firecracker\",\"network\":{\"mode\":\"none\"}}", 0, 0, ""},
    {"{\"hypervisor\":\"firecracker\",\"network\":{\"mode\":\"user\"}}", EINVAL, EINVAL,
     "Firecracker has no network of its own"},
    {"{\"network\":{\"mode\":\"bridge\"}}", EINVAL, EINVAL, "mode"},
    {"{\"network\":{\"mode\":\"none\",\"x\":1}}", EINVAL, EINVAL, "x"},
    {"{\"network\":[]}", EINVAL, EINVAL, "network"},
    {"{\"network\":{\"mode\":\"tap\"}}", EINVAL, EINVAL, "\"tap\" must be the name"},
    {"{\"network\":{\"mode\":\"tap\",\"tap\":\"t/0\"}}", EINVAL, EINVAL,
     "\"tap\" must be the name"},
    {"{\"network\":{\"mode\":\"user\",\"tap\":\"t0\"}}", EINVAL, EINVAL,
     "\"tap\" and \"mac\" are for"},
    {"{\"network\":{\"mode\":\"tap\",\"tap\":\"t0\",\"mac\":\"02:00:00:00:00:01\"}}", 0, 0, ""},
    {"{\"disks\":{}}", EINVAL, EINVAL, "disks"},
    {"{\"disks\":[1]}", EINVAL, EINVAL, "disk 0"},
    {"{\"disks\":[{\"path\":\"/d\",\"readonly\":true}]}", EINVAL, EINVAL, "format"},
    {"{\"disks\":[{\"path\":\"d\",\"format\":\"raw\",\"readonly\":true}]}", EINVAL, EINVAL, "path"},
    {"{\"disks\":[{\"path\":\"/d\",\"format\":\"vmdk\",\"readonly\":true}]}", EINVAL, EINVAL,
     "format"},
};

static void config_when_written_is_taken_or_refused_with_a_reason(void **state)
{
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(configs); i++) {
        struct harness_steps steps = harness_write_steps(file(h, "config"), O_WRONLY | O_TRUNC,
                                                         configs[i].text, strlen(configs[i].text));
        if (steps.open != 0 || steps.write != configs[i].write || steps.close != configs[i].close)
            fail_msg("%s: open %d, write %d, close %d: %s", configs[i].text, steps.open,
                     steps.write, steps.close, harness_get(h, file(h, "error")));
        const char *error = harness_get(h, file(h, "error"));
        assert_contains(error, configs[i].error);
        if (configs[i].write == 0 && configs[i].error[0] == 0)
            assert_string_equal(error, "");
        else
            assert_true(error[0] != 0);
    }
}

static void config_when_read_is_what_was_written(void **state)
{
    struct harness *h = *state;
    const char *defaults = harness_get(h, file(h, "config"));
    assert_string_equal(harness_json(h, defaults, "hypervisor"), "qemu");
    assert_string_equal(harness_json(h, defaults, "memory_mib"), "256");
    assert_string_equal(harness_json(h, defaults, "vcpus"), "1");
    assert_string_equal(harness_json(h, defaults, "kernel"), "null");
    assert_string_equal(harness_json(h, defaults, "machine"), "microvm");
    assert_string_equal(harness_json(h, defaults, "accel"), "auto");
    assert_string_equal(harness_json(h, defaults, "network.mode"), "user");
    assert_errno(harness_write(file(h, "config"), defaults), 0);
    static const char text[] = " {\"memory_mib\" : 16 }\n\n";
    harness_put(file(h, "config"), text);
    assert_string_equal(harness_get(h, file(h, "config")), text);
    const char *info = harness_get(h, file(h, "info"));
    assert_string_equal(harness_json(h, info, "memory_bytes"), "16777216");
    assert_string_equal(harness_json(h, info, "config.memory_mib"), "16");
    assert_string_equal(harness_json(h, info, "config.vcpus"), "1");
}

static void config_when_refused_leaves_the_one_before_in_force(void **state)
{
    struct harness *h = *state;
    harness_put(file(h, "config"), "{\"memory_mib\":16}");
    assert_errno(harness_write(file(h, "config"), "{\"memory_mib\":0}"), EINVAL);
    assert_string_equal(harness_json(h, harness_get(h, file(h, "info")), "config.memory_mib"),
                        "16");
    harness_put(file(h, "config"), "{\"memory_mib\":32}");
    assert_string_equal(harness_get(h, file(h, "error")), "");
}

static void config_when_unfinished_keeps_the_vm_from_booting(void **state)
{
    struct harness *h = *state;
    harness_put(file(h, "config"), "{\"kernel\":\"/etc/passwd\"}");
    assert_shell("bash", ": > instances/x/config", 0);
    assert_errno(harness_write(file(h, "state"), "running"), EINVAL);
    assert_file_contains(file(h, "error"), "config");
    assert_string_equal(harness_get(h, file(h, "state")), "created\n");
}

/* Not root, who may read and write everything. */
static void config_with_a_file_of_others_is_refused(void **state)
{
    struct harness *h = *state;
    if (geteuid() == 0)
        return;
    static const struct {
        mode_t mode;
        const char *text, *error;
        int code;
    } cases[] = {
        {0, "{\"kernel\":\"%s\"}", "may not be read", EACCES},
        {0400, "{\"kernel\":\"%s\"}", "", 0},
        {0400, "{\"disks\":[{\"path\":\"%s\",\"format\":\"raw\"}]}", "may not be read and written",
         EACCES},
        {0400, "{\"disks\":[{\"path\":\"%s\",\"format\":\"raw\",\"readonly\":true}]}", "", 0},
    };
    const char *path = harness_format(h, "%s/file", h->directory);
    harness_put(path, "x");
    for (size_t i = 0; i < array_length(cases); i++) {
        char *text = strdup(cases[i].text), *at = strstr(text, "%s");
        *at = 0;
        assert_works(chmod(path, cases[i].mode));
        assert_errno(
            harness_write(file(h, "config"), harness_format(h, "%s%s%s", text, path, at + 2)),
            cases[i].code);
        assert_file_contains(file(h, "error"), cases[i].error);
        free(text);
    }
}

/* The kernel asks the daemon itself then; and a pipe that nobody writes to is not opened. */
static void config_that_names_a_file_of_the_mount_or_a_pipe_is_answered(void **state)
{
    struct harness *h = *state;
    assert_errno(harness_write(file(h, "config"),
                               harness_format(h, "{\"kernel\":\"%s\"}", harness_path(h, "README"))),
                 0);
    const char *pipe = harness_format(h, "%s/pipe", h->directory);
    assert_works(mkfifo(pipe, 0600));
    assert_errno(harness_write(file(h, "config"), harness_format(h, "{\"kernel\":\"%s\"}", pipe)),
                 EINVAL);
    assert_file_contains(file(h, "error"), "is not a regular file");
}

/* Shells do not look at the errors of closes. */
static void config_when_a_write_stops_short_is_refused(void **state)
{
    struct harness *h = *state;
    static const char *const shells[] = {"bash", "dash"};
    for (size_t i = 0; i < array_length(shells); i++) {
        assert_shell(shells[i], "printf '{\"kernel\":' > instances/x/config", 1);
        assert_file_contains(file(h, "error"), "is not complete at the end of this write");
        assert_shell(shells[i], "echo running > instances/x/state", 1);
        assert_shell(shells[i], "printf '{\"vcpus\":' | cp /dev/stdin instances/x/config", 1);
        assert_shell(shells[i], "printf '{\n\"vcpus\":2\n}\n' > instances/x/config", 0);
        assert_string_equal(harness_get(h, file(h, "error")), "");
    }
}

/* Line by line, as shells write them, and in pieces of a buffer, as programs do. */
static void config_in_pieces_is_one_text(void **state)
{
    struct harness *h = *state;
    assert_shell("bash",
                 "{ printf '{\n'; printf '\"vcpus\":2\n'; printf '}'; } > instances/x/config", 0);
    assert_string_equal(harness_get(h, file(h, "config")), "{\n\"vcpus\":2\n}");
    assert_shell("bash", "{ printf '{%*s' 4095 ''; printf '\"vcpus\":3}'; } > instances/x/config",
                 0);
    assert_shell("bash", "jq -e '.vcpus == 3' instances/x/config", 0);
    assert_shell("bash", "echo '{' > instances/x/config", 0);
    assert_file_contains(file(h, "error"), "config: unfinished");
    assert_shell("bash", "echo running > instances/x/state", 1);
}

static void config_after_a_restart_is_what_was_written(void **state)
{
    struct harness *h = *state;
    harness_put(file(h, "config"), "{\"memory_mib\":16 }\n");
    assert_int_equal(harness_unmount(h), 0);
    harness_mount(h, NULL);
    assert_string_equal(harness_get(h, file(h, "config")), "{\"memory_mib\":16 }\n");
    assert_string_equal(harness_get(h, file(h, "state")), "created\n");
}

static void config_with_tools_is_written_and_edited(void **state)
{
    struct harness *h = *state;
    assert_shell("bash",
                 "echo '{\"memory_mib\":16}' > $T/c && cd instances/x && cp $T/c config && "
                 "cat $T/c > config && tee config < $T/c && dd if=$T/c of=config && "
                 "jq '.vcpus=2' $T/c > config && jq -e '.vcpus == 2' config",
                 0);
    assert_shell("bash", "cd instances/x && sed -i s/16/32/ config", 4); /* no file beside it */
    assert_shell("bash",
                 "cd instances/x && vim -N -u NONE -es -c 'set noswapfile nowritebackup' -c "
                 "'%s/16/32/' -c wq config && grep 32 config",
                 0);
}

/* Before a VMM is started; what a VM would need is not there. */
static const struct {
    const char *word;
    int code;
    const char *error;
} created[] = {
    {"running", EINVAL, "kernel"},
    {"standby", EINVAL, "cannot become standby"},
    {"paused", EINVAL, "cannot become paused"},
    {"created", EINVAL, "one of the words"},
    {"on", EINVAL, "one of the words"},
    {"running stopped", EINVAL, "one of the words"},
    {"Running", EINVAL, "one of the words"},
    {"", EINVAL, "one of the words"},
};

static void state_when_there_is_no_such_transition_stays(void **state)
{
    struct harness *h = *state;
    for (size_t i = 0; i < array_length(created); i++) {
        assert_errno(harness_write(file(h, "state"), harness_format(h, "%s\n", created[i].word)),
                     created[i].code);
        assert_file_contains(file(h, "error"), created[i].error);
        assert_string_equal(harness_get(h, file(h, "state")), "created\n");
    }
    assert_errno(harness_write(file(h, "snapshot"), "s"), EINVAL);
    assert_file_contains(file(h, "error"), "no memory to snapshot");
    static const char *const ids[] = {"S", "new", "s-", "s s", ""};
    for (size_t i = 0; i < array_length(ids); i++) {
        assert_errno(harness_write(file(h, "snapshot"), harness_format(h, "%s\n", ids[i])), EINVAL);
        assert_file_contains(file(h, "error"), "takes an id");
    }
    assert_shell("bash", ": > instances/x/state; : > instances/x/snapshot", 0);
}

static void state_of_a_created_instance_can_be_stopped(void **state)
{
    struct harness *h = *state;
    harness_put(file(h, "state"), " stopped \n");
    assert_string_equal(harness_get(h, file(h, "state")), "stopped\n");
    harness_put(file(h, "state"), "stopped");
    harness_put(file(h, "config"), "{\"memory_mib\":16}");
    assert_string_equal(harness_get(h, file(h, "error")), "");
    assert_works(rmdir(harness_path(h, "instances/x")));
}

static void info_of_a_created_instance_has_its_members(void **state)
{
    struct harness *h = *state;
    static const char *const members[][2] = {
        {"id", "x"},        {"state", "created"}, {"hypervisor", "qemu"},        {"pid", "null"},
        {"source", "null"}, {"exit", "null"},     {"memory_bytes", "268435456"},
    };
    const char *info = harness_get(h, file(h, "info"));
    for (size_t i = 0; i < array_length(members); i++)
        assert_string_equal(harness_json(h, info, members[i][0]), members[i][1]);
    int year, length = 0;
    sscanf(harness_json(h, info, "created_at"), "%4d-%*2d-%*2dT%*2d:%*2d:%*2d.%*3dZ%n", &year,
           &length);
    assert_true(length == 24 && year > 2000);
    assert_string_equal(harness_get(h, file(h, "console")), "");
    assert_string_equal(harness_get(h, file(h, "vmm.log")), "");
    assert_fails(access(file(h, "mailboxes"), F_OK), ENOENT);
    assert_fails(access(file(h, "fork"), F_OK), ENOENT);
}

/* What QEMU says of these does not name the file. */
static void boot_with_a_file_that_is_none_of_its_kind_names_it(void **state)
{
    struct harness *h = *state;
    const char *junk = harness_format(h, "%s/junk", h->directory);
    const char *big = harness_format(h, "%s/big", h->directory);
    harness_put(junk, "hello\n");
    harness_put(file(h, "config"), harness_format(h, "{\"kernel\":\"%s\"}", junk));
    assert_errno(harness_write(file(h, "state"), "running"), EINVAL);
    assert_file_contains(file(h, "error"), junk);
    assert_file_contains(file(h, "error"), "QEMU cannot boot the kernel");
    /* Regular files that give nothing to read. */
    const char *const unreadable[] = {"/proc/self/mem", harness_path(h, "events")};
    for (size_t i = 0; i < array_length(unreadable); i++) {
        harness_put(file(h, "config"), harness_format(h, "{\"kernel\":\"%s\"}", unreadable[i]));
        assert_errno(harness_write(file(h, "state"), "running"), EINVAL);
        assert_file_contains(file(h, "error"),
                             harness_format(h, "cannot boot the kernel %s", unreadable[i]));
    }
    /* A header of Linux: its magic, the protocol 2.10, and where an initrd may end. The file of the
     * other one ends before what its header announces. */
    assert_shell(
        "bash",
        "cd $T && truncate -s 300M big && truncate -s 16K linux && "
        "put() { printf \"$3\" | dd of=$1 bs=1 seek=$(($2)) conv=notrunc status=none; } && "
        "put linux 0x1f1 '\\1' && put linux 0x202 'HdrS\\12\\2' && "
        "put linux 0x22c '\\377\\377\\377\\177' && head -c 1K linux > junk && "
        "put junk 0x1f1 '\\377'",
        0);
    const struct {
        const char *config, *words, *path;
    } cases[] = {
        {harness_format(h, "{\"kernel\":\"%s\"}", junk), "invalid kernel header (kernel is ", junk},
        {harness_format(h, "{\"kernel\":\"%s/linux\",\"initrd\":\"%s\",\"memory_mib\":8}",
                        h->directory, big),
         "initrd is too large, cannot support.(max: 8388607, need 314572800) (initrd is ", big},
    };
    for (size_t i = 0; i < array_length(cases); i++) {
        harness_put(file(h, "config"), cases[i].config);
        assert_errno(harness_write(file(h, "state"), "running"), EIO);
        assert_file_contains(file(h, "error"), cases[i].words);
        assert_file_contains(file(h, "error"), cases[i].path);
    }
}

#define config_test(name) cmocka_unit_test_setup_teardown(name, setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        config_test(config_when_written_is_taken_or_refused_with_a_reason),
        config_test(config_when_read_is_what_was_written),
        config_test(config_when_refused_leaves_the_one_before_in_force),
        config_test(config_when_unfinished_keeps_the_vm_from_booting),
        config_test(config_with_a_file_of_others_is_refused),
        config_test(config_that_names_a_file_of_the_mount_or_a_pipe_is_answered),
        config_test(config_when_a_write_stops_short_is_refused),
        config_test(config_in_pieces_is_one_text),
        config_test(config_after_a_restart_is_what_was_written),
        config_test(config_with_tools_is_written_and_edited),
        config_test(state_when_there_is_no_such_transition_stays),
        config_test(state_of_a_created_instance_can_be_stopped),
        config_test(info_of_a_created_instance_has_its_members),
        config_test(boot_with_a_file_that_is_none_of_its_kind_names_it),
    };
    harness_enter();
    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
