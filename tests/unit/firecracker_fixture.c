/* SPDX-License-Identifier: MIT */
#include "firecracker_fixture.h"

const char *fake(void)
{
    const char *path = getenv("FAKE_FIRECRACKER");
    assert_non_null(path);
    return path;
}

struct vmm_context context_in(struct fixture *fixture, const char *name)
{
    struct vmm_context context = fixture_context(fixture, name, fake());
    context.id = name;
    return context;
}

struct machine plain_machine(void)
{
    static char kernel[] = "/etc/passwd", cmdline[] = "mailboxes=m,a";
    return (struct machine){.hypervisor = hypervisor_find("firecracker"),
                            .memory_bytes = MEMORY_BYTES,
                            .vcpus = 1,
                            .kernel = kernel,
                            .cmdline = cmdline};
}

void finish_booted(struct machine *machine)
{
    machine->kernel = machine->cmdline = NULL;
    machine_finish(machine);
}

void make_base(const struct vmm_context *context, off_t memory_bytes, const char *version,
               const char *members)
{
    static const char magic[] = {0, 0, 0x64, (char)0x86, (char)0x84, 0x19, 0x10, 0x07};
    char state[TEXT_SIZE];
    memcpy(state, magic, sizeof magic);
    int size = snprintf(state + sizeof magic, sizeof state - sizeof magic,
                        "{\"version\":\"%s\"%s%s}", version, members[0] ? "," : "", members);
    mkdirat(context->directory_fd, "../base", 0700);
    auto_close int base = openat(context->directory_fd, "../base", O_RDONLY | O_CLOEXEC);
    fixture_write(base, "state", 0600, state, sizeof magic + (size_t)size);
    fixture_write(base, "memory", 0600, "", 0);
    auto_close int fd = openat(base, "memory", O_RDWR | O_CLOEXEC);
    assert_int_equal(ftruncate(fd, memory_bytes), 0);
}

void assert_nothing_left(const struct vmm_context *context)
{
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
    assert_false(fixture_has(context->directory_fd, "vmm.sock"));
}

struct vmm *load(const struct vmm_context *context, const struct machine *machine)
{
    struct vmm *vmm = NULL;
    struct error err = {0};
    if (vmm_load(context, machine, "../base", &vmm, &err) < 0)
        fail_msg("%s", err.text);
    return vmm;
}

void try_to_load(const struct vmm_context *context, const struct machine *machine, int code,
                 const char *words)
{
    struct vmm *vmm = NULL;
    struct error err = {0};
    int r = vmm_load(context, machine, "../base", &vmm, &err);
    if (r != -code || err.code != code || !strstr(err.text, words))
        fail_msg("%d: %s, not %s", r, err.text, words);
    assert_null(vmm);
}

void assert_load_fails(const struct vmm_context *context, const struct machine *machine, int code,
                       const char *words)
{
    try_to_load(context, machine, code, words);
    assert_nothing_left(context);
}

void stop(struct vmm *vmm)
{
    struct error err = {0};
    if (vmm_stop(vmm, &err) < 0)
        fail_msg("%s", err.text);
    vmm_close(vmm);
}

void await_file(const struct vmm_context *context, const char *name, const char *text)
{
    double deadline_ms = process_now_ms() + FAR_MS;
    for (;;) {
        auto_free char *content = fixture_read(context->directory_fd, name, NULL);
        if (content && strstr(content, text))
            return;
        if (process_now_ms() > deadline_ms)
            fail_msg("\"%s\" is not in %s: %s", text, name, content);
        process_poll(NULL, 0, process_now_ms() + 5);
    }
}

void make_base_with_drives(const struct vmm_context *context)
{
    static const char drives[] =
        "\"drives\":[{\"drive_id\":\"rootfs\",\"path_on_host\":\"../base/origin\","
        "\"is_read_only\":false},{\"drive_id\":\"data\",\"path_on_host\":\"../base/shared\","
        "\"is_read_only\":true}]";

    make_base(context, MEMORY_BYTES, "1.7.0", drives);
    auto_close int base = openat(context->directory_fd, "../base", O_RDONLY | O_CLOEXEC);
    fixture_write(base, "origin", 0600, "later content", 13);
    fixture_write(base, "shared", 0400, "shared", 6);
    fixture_write(base, "disk-0", 0400, "frozen content", 14);
}

struct machine_disk frozen_disk(void)
{
    static char id[] = "rootfs", path[] = "/origin", format[] = "raw", frozen[] = "disk-0";
    return (struct machine_disk){.id = id, .path = path, .format = format, .frozen = frozen};
}
