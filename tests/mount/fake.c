/* SPDX-License-Identifier: MIT */
#include "fake.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fixture.h"
#include "util/cleanup.h"
#include "util/process.h"
#include "util/unix_socket.h"

enum { STATE_SIZE = 1024 };

char *fake_instance(struct harness *h, const char *id, const char *file)
{
    return harness_path(h, "instances/%s/%s", id, file);
}

void fake_tell(struct harness *h, const char *variables)
{
    fixture_script(h, "how", harness_format(h, "export %s\n", variables));
}

bool fake_is_firecracker(void)
{
    const char *told = getenv("HYPEFS_TEST_FAKE");
    return !told || strcmp(told, "firecracker") == 0;
}

const char *fake_hypervisor(void)
{
    return fake_is_firecracker() ? "firecracker" : "cloud-hypervisor";
}

const char *fake_title(void)
{
    return fake_is_firecracker() ? "Firecracker" : "Cloud Hypervisor";
}

const char *fake_program(void)
{
    const char *fake = getenv(fake_is_firecracker() ? "FAKE_FIRECRACKER" : "FAKE_CLOUD_HYPERVISOR");
    assert_non_null(fake);
    return fake;
}

const char *fake_state_path(void)
{
    return fake_is_firecracker() ? "/" : "/api/v1/vm.info";
}

static char *make_script(struct harness *h)
{
    fake_tell(h, "FAKE_VMM_GUEST=ack");
    return fixture_script(
        h, fake_hypervisor(),
        harness_format(h, "#!/bin/sh\n. \"${0%%/*}/how\"\nexec '%s' \"$@\"\n", fake_program()));
}

void fake_mount_with(struct harness *h, const char *option, const char *value)
{
    harness_mount(h, (const char *const[]){harness_format(h, "--%s", fake_hypervisor()),
                                           make_script(h), option, value, NULL});
}

void fake_mount(struct harness *h)
{
    fake_mount_with(h, NULL, NULL);
}

void fake_make(struct harness *h, const char *id, const char *cmdline, const char *members)
{
    assert_works(mkdir(fake_instance(h, id, ""), 0755));
    harness_put(fake_instance(h, id, "config"),
                harness_format(h,
                               "{\"hypervisor\":\"%s\",\"kernel\":\"/etc/passwd\","
                               "\"memory_mib\":8,\"cmdline\":\"%s\"%s}",
                               fake_hypervisor(), cmdline, members));
}

void fake_boot(struct harness *h, const char *fault)
{
    fake_tell(h, harness_format(h, "FAKE_VMM_FAULT=%s", fault));
    fake_make(h, "x", "mailboxes=m,a", "");
    harness_put(fake_instance(h, "x", "state"), "running");
    fake_tell(h, "FAKE_VMM_FAULT=");
}

void fake_ask(struct harness *h, const char *request, const char *word)
{
    char answer[4096] = "";
    struct error err = {0};
    auto_close int fd = -1, directory = open(harness_store_path(h, "instances/x/run"),
                                             O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_works(directory);
    if (unix_socket_connect(directory, "vmm.sock", &fd, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), strlen(request));
    assert_int_equal(process_poll(&fd, 1, process_now_ms() + HARNESS_DEADLINE_MS), 1);
    assert_true(recv(fd, answer, sizeof answer - 1, 0) > 0);
    assert_contains(answer, word);
}

void fake_assert_vm(struct harness *h, const char *word)
{
    fake_ask(h, harness_format(h, "GET %s HTTP/1.1\r\n\r\n", fake_state_path()),
             harness_format(h, "\"%s\"", word));
}

bool fake_has_intent(void *harness)
{
    struct harness *h = harness;
    const char *record = harness_get(h, harness_store_path(h, "instances/x/instance.json"));
    return strstr(record, "\"intent\"");
}

void fake_publish(struct harness *h, const char *cmdline, const char *members)
{
    fake_make(h, "base", cmdline, members);
    harness_put(fake_instance(h, "base", "state"), "running");
    harness_await(h, fake_instance(h, "base", "console"), "ready");
    harness_put(fake_instance(h, "base", "state"), "standby");
    harness_put(fake_instance(h, "base", "snapshot"), "base");
    assert_works(rmdir(fake_instance(h, "base", "")));
}

void fake_craft(struct harness *h, const struct harness_snapshot *snapshot, const char *version,
                const char *members, const char *edit)
{
    static const char magic[] = {0, 0, 0x64, (char)0x86, (char)0x84, 0x19, 0x10, 0x07};
    char state[STATE_SIZE];
    memcpy(state, magic, sizeof magic);
    int size = snprintf(state + sizeof magic, sizeof state - sizeof magic,
                        "{\"version\":\"%s\"%s%s}", version, members[0] ? "," : "", members);
    harness_craft(h, snapshot);
    struct harness_steps steps =
        harness_write_steps(harness_store_path(h, "snapshots/base/state"), O_WRONLY | O_TRUNC,
                            state, sizeof magic + (size_t)size);
    assert_int_equal(steps.open | steps.write | steps.close, 0);
    assert_shell("bash",
                 harness_format(h,
                                "cd $S/snapshots/base && jq '.machine.accel=\"kvm\"|%s' "
                                "snapshot.json > j && mv j snapshot.json",
                                edit),
                 0);
}

void fake_drop(struct harness *h, const char *id)
{
    harness_put(fake_instance(h, id, "state"), "stopped");
    assert_works(rmdir(fake_instance(h, id, "")));
}
